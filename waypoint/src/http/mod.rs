//! HTTP connections of clients: hyper on their streams, one task each. What happens to a request is [`exchange`]'s.

mod answer;
mod authenticate;
mod authorize;
mod body;
mod copy;
mod exchange;
mod form;
mod forward;
mod head;
mod mirror;
mod outcome;
mod response;
mod upgrade;

use std::{cell::RefCell, convert::Infallible, future::poll_fn, pin::pin, rc::Rc};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use underpass_core::World;

pub use self::head::ClientCert;
use self::upgrade::Upgraded;
pub(crate) use self::{
    authenticate::remove_tokens,
    body::{Recorded, RequestBody},
    head::{pairs, remove_hop_by_hop, written},
    mirror::MirrorEnd,
    response::Streamed,
};
use crate::{
    called::{Called, Client},
    io::{ClientStream, HeadTime},
    policy::Gates,
    upstream::Executor,
    worker::Worker,
};

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// One HTTP connection of a client.
pub(crate) struct ClientConnection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) called: Called,
    pub(crate) client: Client,
    pub(crate) version: Version,
    pub(crate) head: Rc<HeadTime>,
    /// Where its bytes go after a response of 101.
    pub(crate) upgraded: RefCell<Option<Upgraded>>,
}

impl ClientConnection {
    /// Completes when it is to take no further request: its worker drains, or it has been idle for as long as it may be.
    async fn over(&self) {
        tokio::select! {
            () = self.worker.drained() => {}
            () = self.head.idle(self.worker.settings.limits.idle_time) => {}
        }
    }

    /// The gates of its requests, by this World.
    fn gates<'a>(&'a self, world: &'a World) -> Gates<'a> {
        Gates { own: &self.worker.own, world, called: &self.called, client: &self.client }
    }
}

/// Windows of HTTP/2 towards clients: the tunnel below has windows of its own.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Serves one connection until it has ended.
pub(crate) async fn serve(worker: &Rc<Worker>, called: Called, client: Client, stream: ClientStream, version: Version) {
    let head = HeadTime::new(worker.settings.limits.head_time);
    // An idle connection of HTTP/2 has frames of its own, and limits of its own.
    let stream = if version == Version::Http1 { stream.limited(&head) } else { stream };
    let upgraded = RefCell::default();
    let connection = ClientConnection { worker: Rc::clone(worker), called, client, version, head, upgraded };
    let connection = Rc::new(connection);
    match version {
        Version::Http1 => http1(&connection, stream).await,
        Version::Http2 => http2(&connection, stream).await,
    }
}

async fn http1(connection: &Rc<ClientConnection>, stream: ClientStream) {
    let limits = &connection.worker.settings.limits;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None) // the stream has its own, which an idle connection does not meet
        .max_headers(limits.headers)
        .max_header_size(limits.head_bytes) // what the buffer holds may be more, where a head comes in one
        .max_buf_size(limits.head_bytes.max(8 << 10));
    let service = {
        let connection = Rc::clone(connection);
        service_fn(move |request| {
            let connection = Rc::clone(&connection);
            Box::pin(async move { Ok::<_, Infallible>(exchange::answer(&connection, request).await) })
        })
    };
    let mut serving = builder.serve_connection(TokioIo::new(stream), Box::new(service));
    let ended = {
        let mut over = pin!(connection.over());
        let mut is_draining = false;
        poll_fn(|cx| {
            // First, or hyper would not look at the request that is there already.
            let ended = serving.poll_without_shutdown(cx);
            if ended.is_pending() && !is_draining && over.as_mut().poll(cx).is_ready() {
                is_draining = true;
                std::pin::Pin::new(&mut serving).graceful_shutdown();
                return serving.poll_without_shutdown(cx);
            }
            ended
        })
        .await
    };
    if let Err(error) = ended {
        tracing::debug!(from = %connection.client.address, %error, "a client's HTTP connection ended");
        // What was answered to a head that cannot be read is still to be sent. Anything else is reset: an end in order would say
        // that a response which broke off is whole.
        if !error.is_parse() {
            return;
        }
    }
    let parts = serving.into_parts();
    let mut stream = parts.io.into_inner();
    let upgraded = connection.upgraded.take();
    match upgraded {
        Some(upgraded) => upgrade::relay(&connection.worker, stream, parts.read_buf, upgraded).await,
        // Fails where the client has gone.
        None => drop(tokio::io::AsyncWriteExt::shutdown(&mut stream).await),
    }
}

async fn http2(connection: &Rc<ClientConnection>, stream: ClientStream) {
    let limits = &connection.worker.settings.limits;
    let mut builder = http2::Builder::new(Executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
    let service = {
        let connection = Rc::clone(connection);
        service_fn(move |request| {
            let connection = Rc::clone(&connection);
            async move { Ok::<_, Infallible>(exchange::answer(&connection, request).await) }
        })
    };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut over = pin!(connection.over());
    let mut is_draining = false;
    let ended = poll_fn(|cx| {
        if !is_draining && over.as_mut().poll(cx).is_ready() {
            is_draining = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(from = %connection.client.address, %error, "a client's HTTP connection ended");
    }
}
