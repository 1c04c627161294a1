//! One HTTP connection to an endpoint. An HTTP/1 connection has one request at a time, an HTTP/2 one several; a lease is the
//! right to one of them.
//!
//! What must hold: a connection that is given up closes, also where its endpoint reads no more.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    fmt,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use underpass_core::{
    Reason,
    http::{ConnectionRules, ConnectionUse, HttpVersion},
};

use super::{ConnectError, connect};
use crate::{
    called::Client,
    cluster::{CountGuard, Endpoint, Shared, WorkerCluster},
    http::RequestBody,
    io::EndpointStream,
    worker::Worker,
};

/// Windows of HTTP/2 towards endpoints: the tunnel below has windows of its own.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The time in which a connection that nothing uses any more may close in order.
const CLOSING: Duration = Duration::from_secs(1);

/// Runs the tasks of HTTP/2 on the thread of their connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Executor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

enum Sender {
    Http1(RefCell<http1::SendRequest<RequestBody>>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection.
pub(crate) struct Connection {
    sender: Sender,
    /// Leases that are out.
    leased: Cell<u32>,
    used: Cell<ConnectionUse>,
    /// It has had a request.
    served: Cell<bool>,
    /// Dropped, its task closes it.
    _used: oneshot::Sender<Infallible>,
    /// Others may wait for this one.
    shared: Arc<Shared>,
    /// Requests of this worker that do.
    waiting: Rc<Cell<u32>>,
    /// The moment that times count from.
    began: Instant,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("leased", &self.leased).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens one; `slot` is given back when it is closed.
    pub(super) async fn open(
        worker: &Rc<Worker>,
        cluster: &WorkerCluster,
        endpoint: &Endpoint,
        client: &Client,
        version: HttpVersion,
        slot: CountGuard,
    ) -> Result<Self, ConnectError> {
        let connections = &cluster.connections;
        let stream = connect(worker, cluster, endpoint, client, Some(version)).await?;
        let (_used, used) = oneshot::channel();
        let sender = match version {
            HttpVersion::Http1 => Sender::Http1(RefCell::new(http1(worker, stream, slot, used).await?)),
            HttpVersion::Http2 => Sender::Http2(http2(worker, stream, slot, used).await?),
        };
        let began = connections.began;
        Ok(Self {
            sender,
            leased: Cell::new(0),
            used: Cell::new(ConnectionUse::new(version, began.elapsed())),
            served: Cell::new(false),
            _used,
            shared: Arc::clone(&cluster.shared),
            waiting: Rc::clone(&connections.waiting),
            began,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.borrow().is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.leased.get() == 0
    }

    /// It is idle, and had its time.
    pub(super) fn is_over(&self, rules: &ConnectionRules, now: Duration) -> bool {
        rules.is_over(&self.used.get(), now)
    }

    /// It takes no other request, and closes with the last one.
    pub(super) fn is_spent(&self, rules: &ConnectionRules, now: Duration) -> bool {
        rules.is_spent(&self.used.get(), now)
    }

    /// The right to one request; none: there is no room, or it is not ready for another one yet.
    pub(super) fn lease(self: &Rc<Self>, rules: &ConnectionRules, now: Duration) -> Option<Lease> {
        let mut used = self.used.get();
        let has_room = rules.takes_another(&used, now);
        let is_ready = match &self.sender {
            Sender::Http1(sender) => sender.borrow().is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        };
        if !has_room || !is_ready {
            return None;
        }
        let is_reused = self.served.replace(true);
        used.begin();
        self.used.set(used);
        self.leased.set(self.leased.get() + 1);
        Some(Lease { connection: Rc::clone(self), is_reused })
    }
}

/// The right to one request on a connection.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Rc<Connection>,
    /// The connection has had a request before: it may be gone without our knowing yet.
    pub(crate) is_reused: bool,
}

impl Lease {
    /// Sends a request. Where the connection had gone before a byte of it was written, it comes back.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<RequestBody>>)> {
        match &self.connection.sender {
            Sender::Http1(sender) => {
                let sent = sender.borrow_mut().try_send_request(request);
                sent.await.map_err(|mut error| {
                    let back = error.take_message();
                    (error.into_error(), back)
                })
            }
            Sender::Http2(sender) => {
                let sent = sender.clone().try_send_request(request);
                sent.await.map_err(|mut error| {
                    let back = error.take_message();
                    (error.into_error(), back)
                })
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Connection { leased, used, shared, waiting, began, .. } = &*self.connection;
        leased.set(leased.get().saturating_sub(1));
        let mut now_used = used.get();
        now_used.end(began.elapsed());
        used.set(now_used);
        shared.freed.notify_waiters();
        // What waits at another worker cannot use it, but its place.
        if waiting.get() == 0 && shared.waiting() > 0 {
            shared.ask();
        }
    }
}

fn failed(error: &hyper::Error) -> ConnectError {
    tracing::debug!(%error, "HTTP to an endpoint cannot begin");
    ConnectError::Failed(Reason::Protocol)
}

/// Drives a connection until it has ended; one that is used no more, for as long as it may take to close.
async fn drive(
    connection: impl Future<Output = hyper::Result<()>>,
    used: oneshot::Receiver<Infallible>,
    slot: CountGuard,
) {
    let closing = async {
        let _ = used.await; // fails: nothing is ever sent
        sleep(CLOSING).await;
    };
    tokio::select! {
        _ = connection => {} // its error is that of its request
        () = closing => {}
    }
    drop(slot);
}

fn http1_builder(worker: &Worker) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let limits = &worker.settings.limits;
    builder.max_headers(limits.headers).max_header_size(limits.head_bytes).max_buf_size(limits.head_bytes.max(8 << 10));
    builder
}

async fn http1(
    worker: &Worker,
    stream: EndpointStream,
    slot: CountGuard,
    used: oneshot::Receiver<Infallible>,
) -> Result<http1::SendRequest<RequestBody>, ConnectError> {
    let begun = http1_builder(worker).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = begun.map_err(|error| failed(&error))?;
    tokio::task::spawn_local(drive(connection, used, slot));
    sender.ready().await.map_err(|error| failed(&error))?;
    Ok(sender)
}

async fn http2(
    worker: &Worker,
    stream: EndpointStream,
    slot: CountGuard,
    used: oneshot::Receiver<Infallible>,
) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
    let mut builder = http2::Builder::new(Executor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(worker.settings.limits.head_bytes).unwrap_or(u32::MAX));
    let begun = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = begun.map_err(|error| failed(&error))?;
    tokio::task::spawn_local(drive(connection, used, slot));
    Ok(sender)
}

/// What follows a response of 101 on its connection: the stream, what was read of it already, and its place among the
/// connections of the cluster.
type AfterUpgrade = (EndpointStream, bytes::Bytes, CountGuard);

/// A connection of its own for a request that asks for another protocol. Where the response is 101, the receiver gets what
/// follows it.
pub(crate) async fn upgradable(
    worker: &Worker,
    stream: EndpointStream,
    slot: CountGuard,
) -> Result<(http1::SendRequest<RequestBody>, oneshot::Receiver<AfterUpgrade>), ConnectError> {
    let begun = http1_builder(worker).handshake::<_, RequestBody>(TokioIo::new(stream)).await;
    let (sender, connection) = begun.map_err(|error| failed(&error))?;
    let (upgraded, receiver) = oneshot::channel();
    tokio::task::spawn_local(async move {
        if let Ok(parts) = connection.without_shutdown().await {
            // Without a receiver the response was another one, and the stream is closed here.
            let _ = upgraded.send((parts.io.into_inner(), parts.read_buf, slot));
        }
    });
    Ok((sender, receiver))
}
