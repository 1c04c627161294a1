//! The server of an API: connections and their limits. Answers are the router's.
//!
//! ```text
//! Listener::{unix, loopback, any} -> serve -> accept -> connection -> answer
//!   binds before there is a runtime, so that   one task   one task     who, route, query, body, handler
//!   a program can report every taken address              each
//!   at once (listener)
//! ```
//! At the limit of connections the oldest of the address with the most makes room, so that slow peers cannot lock out a quick one,
//! nor those of one address those of another.

use std::{
    convert::Infallible,
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    AdminError, Target,
    listener::{Audience, Listener, Socket, Stream},
    places::{Peer, Places},
    query::Query,
    router::{Request, Response, Router},
};

/// Limits of one peer, and of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open at once. At one more, the oldest of the address with the most is closed. Default 64.
    pub connections: usize,
    /// Request line and headers. Default 16 KiB; hyper takes no less than 8 KiB.
    pub header_bytes: usize,
    /// Fields of the header. Default 64.
    pub headers: usize,
    /// The body of a request. Default 64 KiB.
    pub body_bytes: usize,
    /// Requests at once whose body has, or may have, more than 64 KiB. At one more, the oldest of the address with the most is
    /// answered 503. Default 8.
    pub large_bodies: usize,
    /// From the connection on to the end of the header of its first request. Default 5 s.
    pub first_time: Duration,
    /// From the first byte of a request, or from being idle, to the end of its header. Default 5 s.
    pub header_time: Duration,
    /// Timeout of the body, and of the handler. Default 10 s.
    pub request_time: Duration,
    /// Timeout of a connection with all its requests and answers, after which it has one `request_time` more to finish the
    /// last. Default 60 s.
    pub connection_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            header_bytes: 16 << 10,
            headers: 64,
            body_bytes: 64 << 10,
            large_bodies: 8,
            first_time: Duration::from_secs(5),
            header_time: Duration::from_secs(5),
            request_time: Duration::from_secs(10),
            connection_time: Duration::from_secs(60),
        }
    }
}

/// hyper panics below it.
const MIN_HEADER_BYTES: usize = 8192;
/// The largest body that takes no place among the large ones.
const SMALL_BODY_BYTES: u64 = 64 << 10;
/// Pause of accepting when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Listener {
    /// Serves `router` until the [`Server`] is dropped. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where the runtime cannot take the socket.
    pub fn serve(self, router: Router, limits: Limits) -> Result<Server, AdminError> {
        let (target, audience) = (self.target(), self.audience());
        let socket = self.into_socket().map_err(|source| AdminError::Listen { target: target.clone(), source })?;
        let site = Site::new(router, limits, audience);
        Ok(Server { target, task: tokio::spawn(accept(socket, site)) })
    }
}

/// A served API. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Server {
    target: Target,
    task: JoinHandle<()>,
}

impl Server {
    /// Its address.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort(); // with it goes the set of its connections
    }
}

struct Site {
    router: Router,
    limits: Limits,
    audience: Audience,
    connections: Places,
    large_bodies: Places,
}

impl Site {
    fn new(router: Router, limits: Limits, audience: Audience) -> Arc<Self> {
        let (connections, large_bodies) = (Places::new(limits.connections), Places::new(limits.large_bodies));
        Arc::new(Self { router, limits, audience, connections, large_bodies })
    }
}

/// Serves `router` to every client whose connection comes out of `accepted`, until that ends: for what is not accepted here,
/// as behind TLS. Each comes with the address of its peer. The limits count for all of them together.
pub async fn serve_accepted<S>(mut accepted: mpsc::Receiver<(S, Peer)>, router: Router, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let site = Site::new(router, limits, Audience::Any);
    let mut open = Open::default();
    loop {
        tokio::select! {
            Some(()) = open.ended() => {}
            stream = accepted.recv() => match stream {
                Some((stream, peer)) => open.add(stream, peer, &site),
                None => return,
            }
        }
    }
}

async fn accept(socket: Socket, site: Arc<Site>) {
    let mut open = Open::default();
    loop {
        tokio::select! {
            Some(()) = open.ended() => {}
            accepted = socket.accept() => match accepted {
                Ok(Stream::Tcp(stream, peer)) => open.add(stream, Some(peer.ip().to_canonical()), &site),
                Ok(Stream::Unix(stream)) => open.add(stream, None, &site),
                Err(error) => {
                    tracing::warn!(%error, "admin accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connections of a server. Dropped, they are closed.
#[derive(Default)]
struct Open {
    connections: JoinSet<()>,
}

impl Open {
    /// Serves one more, until its place is another one's.
    fn add(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, site: &Arc<Site>) {
        let (mut place, site) = (site.connections.take(peer), Arc::clone(site));
        self.connections.spawn(async move {
            tokio::select! {
                () = connection(stream, peer, site) => {}
                () = place.given_away() => {}
            }
        });
    }

    /// Waits for the end of one; none: there is none.
    async fn ended(&mut self) -> Option<()> {
        if let Err(error) = self.connections.join_next().await?
            && error.is_panic()
        {
            tracing::error!(%error, "admin handler panicked");
        }
        Some(())
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, site: Arc<Site>) {
    let limits = site.limits;
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(write(answer(&site, peer, request).await)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes.max(MIN_HEADER_BYTES))
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    // hyper answers a peer's errors on its own connection; they are not logged.
    let whole = async {
        if timeout(limits.connection_time, served.as_mut()).await.is_err() {
            served.as_mut().graceful_shutdown();
            let _ = timeout(limits.request_time, served).await;
        }
    };
    let silent = async {
        sleep(limits.first_time).await;
        if has_asked.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = whole => {}
        () = silent => {}
    }
}

async fn answer(site: &Site, peer: Peer, request: hyper::Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    if let Err(message) = site.audience.admits(&head.method, &head.headers) {
        return Response::error(StatusCode::FORBIDDEN, message);
    }
    let handler = match site.router.find(&head.method, head.uri.path()) {
        Ok(handler) => handler,
        Err(response) => return response,
    };
    let query = match Query::parse(head.uri.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(e) => return Response::error(StatusCode::BAD_REQUEST, e),
    };
    let is_large = body.size_hint().upper().is_none_or(|most| most > SMALL_BODY_BYTES);
    let answered = async {
        let body = match read(body, &site.limits).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        let answered = timeout(site.limits.request_time, handler(Request { query, body })).await;
        answered.unwrap_or_else(|_| Response::error(StatusCode::SERVICE_UNAVAILABLE, "no answer in time"))
    };
    if !is_large {
        return answered.await;
    }
    let mut place = site.large_bodies.take(peer);
    tokio::select! {
        answered = answered => answered,
        () = place.given_away() => {
            Response::error(StatusCode::SERVICE_UNAVAILABLE, "too many requests with a large body at once")
        }
    }
}

async fn read(body: Incoming, limits: &Limits) -> Result<Bytes, Response> {
    let too_large = || {
        let message = format!("a body has at most {} bytes", limits.body_bytes);
        Response::error(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    match timeout(limits.request_time, Limited::new(body, limits.body_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(e)) => Err(Response::error(StatusCode::BAD_REQUEST, format_args!("cannot read the body: {e}"))),
        Err(_) => Err(Response::error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

fn write(response: Response) -> hyper::Response<Full<Bytes>> {
    let Response { status, content_type, body, allow } = response;
    let mut written = hyper::Response::new(Full::new(body));
    *written.status_mut() = status;
    let headers = written.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(allow) = allow.and_then(|a| HeaderValue::try_from(a).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    written
}
