//! The pods behind the waypoint: what their nodes write down, and applications that behave as they are asked to.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    convert::Infallible,
    future::poll_fn,
    rc::Rc,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1 as server1, http2 as server2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
};
use underpass_core::{NamedSource, named_source::NAMED_SOURCE_HEADER};
use underpass_hbone::Headers;
use underpass_net::{
    tls::Acceptor,
    tunnel::{Accepted, ByteStream},
};

use crate::{
    hostile::Raw,
    mesh::{Asked, Local},
};

/// How the endpoints behave.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Refused with this status; 0: accepted.
    pub(crate) refuses: Cell<u16>,
    /// Requests to `/hang` are answered when this is notified.
    pub(crate) release: Notify,
    /// Requests whose clients went away before the answer.
    pub(crate) given_up: Cell<u32>,
    /// Requests with `x-keep` that were read to their end, by pod.
    pub(crate) kept: RefCell<Vec<(&'static str, String)>>,
    /// Connections that are open.
    pub(crate) open: Cell<u32>,
    /// What `/keys` answers, where it is anything.
    pub(crate) keys: RefCell<String>,
    /// What 8080 and 9090 do with the bytes that come, where they are no application.
    pub(crate) raw: RefCell<Option<Rc<Raw>>>,
    /// The TLS of port 8443.
    pub(crate) tls: RefCell<Option<Rc<Acceptor>>>,
    /// Requests that came, by pod.
    pub(crate) requests: RefCell<BTreeMap<&'static str, u32>>,
}

/// One connection to a pod.
pub(crate) async fn connection(pod: &'static str, accepted: Accepted, asked: Rc<RefCell<Vec<Asked>>>, node: Rc<Node>) {
    let Accepted { stream, request, peer } = accepted;
    let authority = String::from_utf8(request.authority.clone()).expect("text");
    let source = request.headers.first(NAMED_SOURCE_HEADER).expect("a source");
    let source: NamedSource = std::str::from_utf8(source).expect("text").parse().expect("a source");
    asked.borrow_mut().push(Asked { pod, by: peer.identity.clone(), authority: authority.clone(), source });
    if node.refuses.get() != 0 {
        return stream.respond(node.refuses.get(), &Headers::new());
    }
    let port = authority.rsplit_once(':').expect("a port").1.to_owned();
    stream.respond(200, &Headers::new());
    node.open.set(node.open.get() + 1);
    let _open = OpenGuard(Rc::clone(&node));
    let mut stream = ByteStream::from(stream);
    let raw = node.raw.borrow().clone().filter(|_| matches!(port.as_str(), "8080" | "9090"));
    if let Some(raw) = raw {
        return raw.serve(stream).await;
    }
    match port.as_str() {
        "8080" | "6060" => {
            let is_new = Cell::new(true);
            let service = service_fn(move |request: Request<Incoming>| {
                // `v1`: a connection of this pod that has had a request is gone for this one.
                let is_stale = request.headers().get("x-stale").is_some_and(|stale| stale == pod);
                let is_gone = !is_new.replace(false) && is_stale;
                let node = Rc::clone(&node);
                Box::pin(async move {
                    if is_gone {
                        return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
                    }
                    application(pod, request, node).await.map_err(|never| match never {})
                })
            });
            let mut serving = server1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let served = poll_fn(|cx| serving.poll_without_shutdown(cx)).await;
            let parts = serving.into_parts();
            let mut stream = parts.io.into_inner();
            if served.is_err() {
                return drop(stream.shutdown().await);
            }
            // After a response of 101: what comes is sent back.
            if stream.write_all(&parts.read_buf).await.is_ok() {
                echo(stream).await;
            }
        }
        "9090" => {
            let service = service_fn(move |request| application(pod, request, Rc::clone(&node)));
            let _ = server2::Builder::new(Local).serve_connection(TokioIo::new(stream), service).await;
        }
        "8443" => secure(pod, stream, node).await,
        "7071" => {
            stream.write_all(b"220 ready\r\n").await.expect("sent");
            echo(stream).await;
        }
        _ => echo(stream).await,
    }
}

/// The application of 8080, behind TLS of its own.
pub(crate) async fn secure<IO>(pod: &'static str, stream: IO, node: Rc<Node>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = node.tls.borrow().clone().expect("TLS");
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| application(pod, request, Rc::clone(&node)));
    let _ = server1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn echo(stream: ByteStream) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut buffer = [0; 4096];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// An application that says what it is asked, and behaves as the path and the headers of the request say.
async fn application(
    pod: &'static str,
    request: Request<Incoming>,
    node: Rc<Node>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    *node.requests.borrow_mut().entry(pod).or_default() += 1;
    let seen = |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    let mut all: Vec<_> =
        request.headers().iter().map(|(name, value)| format!("{name}={}", value.to_str().expect("text"))).collect();
    all.sort();
    let authority = request.uri().authority().map(ToString::to_string).or_else(|| seen("host")).unwrap_or_default();
    let mut response = Response::builder()
        .header("x-pod", pod)
        .header("x-path", request.uri().path_and_query().expect("path").as_str())
        .header("x-authority", &authority)
        .header("x-version", format!("{:?}", request.version()))
        .header("x-headers", all.join(" "));
    // `v1=503`: this pod answers so.
    let fails = seen("x-fail").and_then(|fail| fail.strip_prefix(&format!("{pod}="))?.parse::<u16>().ok());
    if let Some(status) = fails {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        return Ok(response.status(status).body(body).expect("response"));
    }
    if request.headers().contains_key("upgrade") {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        response = response.status(StatusCode::SWITCHING_PROTOCOLS).header("connection", "upgrade");
        return Ok(response.header("upgrade", "websocket").body(body).expect("response"));
    }
    if request.uri().path() == "/hang" {
        let gone = GoneGuard(Rc::clone(&node), false);
        node.release.notified().await;
        gone.answered();
    }
    if request.uri().path() == "/keys" && !node.keys.borrow().is_empty() {
        let body = Full::new(Bytes::from(node.keys.borrow().clone())).map_err(|never| match never {}).boxed();
        return Ok(response.body(body).expect("response"));
    }
    if seen("x-slow").is_some_and(|slow| slow == pod) {
        node.release.notified().await;
    }
    if seen("x-keep").is_some() {
        let line = format!(
            "{} {} {} {}",
            request.method(),
            request.uri().path(),
            authority,
            seen("x-own").unwrap_or_default()
        );
        let bytes = request.into_body().collect().await.map(|body| body.to_bytes());
        let text = bytes.as_ref().map_or("broke off".into(), |bytes| String::from_utf8_lossy(bytes).into_owned());
        node.kept.borrow_mut().push((pod, format!("{line} {text}")));
        let body = Full::new(bytes.unwrap_or_default()).map_err(|never| match never {}).boxed();
        return Ok(response.body(body).expect("response"));
    }
    let body = match seen("x-trailers") {
        Some(status) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().expect("value"));
            request.into_body().with_trailers(async { Some(Ok(trailers)) }).boxed()
        }
        None => request.into_body().boxed(),
    };
    Ok(response.body(body).expect("response"))
}

/// Counts a request whose client went away before its answer.
struct GoneGuard(Rc<Node>, bool);

impl GoneGuard {
    fn answered(mut self) {
        self.1 = true;
    }
}

impl Drop for GoneGuard {
    fn drop(&mut self) {
        if !self.1 {
            self.0.given_up.set(self.0.given_up.get() + 1);
        }
    }
}

/// Counts a connection until it ends.
struct OpenGuard(Rc<Node>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
