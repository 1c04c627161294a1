//! Serves both services, delta streams and certificates, on the connections that it is given.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, Stream, StreamExt, future::Either};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
    time::sleep,
};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;
use tracing::warn;
use underpass_core::Kind;

use super::{
    Catalog, Counters, Limits,
    connection::{Connection, Scissors},
    service::Discovery,
};
use crate::{
    access::{Authenticator, Caller},
    certificates::{Certificates, Issuer},
    contract::{
        envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
        istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer,
    },
    resource::Resources,
};

/// A request for a certificate: a key of any kind and a few names.
const CERTIFICATE_REQUEST_BYTES: usize = 64 << 10;
/// Concurrent calls of one connection: a node has one delta stream, and asks for certificates one by one.
const CALLS_PER_CONNECTION: u32 = 64;
/// The largest header of a call. A token has about a kibibyte.
const HEADER_BYTES: u32 = 16 << 10;

/// What is served.
pub struct Services<A, I> {
    /// The newest resources. They are served as they are from the first moment on, so they have to be whole before.
    pub resources: watch::Receiver<Resources>,
    /// Decides who callers are.
    pub authenticator: Arc<A>,
    /// Issues certificates.
    pub issuer: Arc<I>,
    /// Limits.
    pub limits: Limits,
    /// Numbers.
    pub counters: Arc<Counters>,
    /// Told what clients had applied.
    pub heard: Arc<dyn Heard>,
}

/// What is told that a client had applied changes, from another control plane, which may not be known here.
pub trait Heard: Send + Sync + 'static {
    /// The version of the last change of each kind of objects. Said once for each stream.
    fn heard(&self, caller: &Caller, applied: &BTreeMap<Kind, u64>);
}

/// Takes no notice.
impl Heard for () {
    fn heard(&self, _: &Caller, _: &BTreeMap<Kind, u64>) {}
}

/// Serves until `shutdown`, then drains: every stream ends in order, calls end, and what is left after
/// [`Limits::end`] is cut. Dropped, it cuts all at once. Connections that could not be made are logged and passed over; `incoming` paces itself.
pub async fn serve<S, IO, A, I>(incoming: S, services: Services<A, I>, shutdown: impl Future<Output = ()>)
where
    S: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Authenticator,
    I: Issuer,
{
    let Services { resources, authenticator, issuer, limits, counters, heard } = services;
    let (all, stopping) = (Scissors::new(), Scissors::new());
    let _cut = CutOnDrop(all.clone());
    let first = Catalog::first(resources.borrow().clone());
    let (publish, catalogs) = watch::channel(first);
    let discovery = AggregatedDiscoveryServiceServer::new(Discovery {
        catalogs,
        authenticator: authenticator.clone(),
        limits: limits.clone(),
        counters,
        heard,
        stopping: stopping.clone(),
        streams: Arc::new(Semaphore::new(limits.streams)),
    });
    let certificates = IstioCertificateServiceServer::new(Certificates { authenticator, issuer });
    let dispatch = Dispatch {
        discovery: discovery
            .max_decoding_message_size(limits.request_bytes)
            // A whole state for a client that takes no parts.
            .max_encoding_message_size(usize::MAX),
        certificates: certificates.max_decoding_message_size(CERTIFICATE_REQUEST_BYTES),
    };
    let every = all.clone();
    let incoming = incoming.filter_map(move |io| {
        let connection = io.map(|io| Connection::new(io, every.clone()));
        let connection = connection.inspect_err(|error| warn!(%error, "connection failed")).ok();
        std::future::ready(connection.map(Ok::<_, Infallible>))
    });
    let shutdown = shutdown.map(|()| stopping.cut());
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(limits.ping))
        .http2_keepalive_timeout(Some(limits.pong))
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_BYTES)
        .serve_with_incoming_shutdown(dispatch, incoming, shutdown);
    let cut = async {
        stopping.wait().await;
        sleep(limits.end).await;
        all.cut();
        std::future::pending().await
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            warn!(%error, "serving ended");
        },
        () = cut => (),
        () = follow(resources, publish) => (),
    }
}

/// Connections are tasks of their own, and would outlive the server.
struct CutOnDrop(Scissors);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// Indexes each change of the resources once, for all streams.
async fn follow(mut resources: watch::Receiver<Resources>, publish: watch::Sender<Catalog>) {
    while resources.changed().await.is_ok() {
        let newest = resources.borrow_and_update().clone();
        let next = publish.borrow().next(newest);
        publish.send_replace(next);
    }
    // What was served last stays.
    std::future::pending().await
}

/// Hands a call to the service of its path.
#[derive(Clone)]
struct Dispatch<D, C> {
    discovery: D,
    certificates: C,
}

impl<D, C> Service<http::Request<Body>> for Dispatch<D, C>
where
    D: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + NamedService,
    C: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + NamedService,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<D::Future, Either<C::Future, std::future::Ready<Result<http::Response<Body>, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Generated services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1);
        if service == Some(D::NAME) {
            Either::Left(self.discovery.call(request))
        } else if service == Some(C::NAME) {
            Either::Right(Either::Left(self.certificates.call(request)))
        } else {
            let status = Status::unimplemented(format!("{} is not served", request.uri().path()));
            Either::Right(Either::Right(std::future::ready(Ok(status.into_http()))))
        }
    }
}
