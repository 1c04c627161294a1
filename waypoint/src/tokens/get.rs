//! One GET to a server of keys: the request, as policies see it and as it is sent, TLS, and the body of the answer.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
    task::{spawn_blocking, spawn_local},
};
use underpass_core::http::{PathNormalization, normalize};
use underpass_identity::Roots;
use underpass_net::tls::{Connector, HandshakeError, ServerName, Settings, Stream};

use super::fetch::{FetchError, Fetcher};
use crate::{
    judging::Head,
    way::{self, Asked, Caller},
    worker::Worker,
};

/// No part of a fetch has a time of its own.
const WHOLE_FETCH: Duration = Duration::MAX;

/// The body of the answer.
pub(super) async fn get(fetcher: &Fetcher, uri: &Uri) -> Result<Bytes, FetchError> {
    let worker = &fetcher.worker;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let head = head(uri, port, fetcher.configuration().world.settings().path_normalization)?;
    let asked = Asked { host: &host, port, head: (!is_tls).then_some(&head) };
    let (stream, _chosen) = way::open(Caller { worker, newest: &|| fetcher.configuration() }, &asked).await?;
    if !is_tls {
        return ask(worker, &head, stream).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::Url(host.into()))?;
    ask(worker, &head, fetcher.believed.connect(stream, &name).await?).await
}

fn head(uri: &Uri, port: u16, paths: PathNormalization) -> Result<Head, FetchError> {
    let bad = || FetchError::Url(uri.to_string().into());
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let path = normalize(path, paths).map(Cow::into_owned).map_err(|_| bad())?;
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| bad())?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    Ok(Head {
        method: Method::GET,
        authority: authority.into(),
        path: path.into(),
        headers,
        port,
        token: None,
        allowed_by: Vec::new(),
    })
}

async fn ask<S>(worker: &Worker, head: &Head, stream: S) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    let request = Request::get(&*head.path).body(Empty::<Bytes>::new());
    let mut request = request.map_err(|_| FetchError::Url((*head.path).into()))?;
    *request.headers_mut() = head.headers.clone();
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), worker.settings.tokens.most_bytes).collect().await;
    Ok(body.map_err(FetchError::Body)?.to_bytes())
}

/// The roots by which servers are believed. They are read when they are needed first, and again after a server that they do not
/// believe: the machine may have others by then.
#[derive(Debug)]
pub(super) struct Believed {
    roots: Option<Roots>,
    settings: Settings,
    connector: Mutex<Option<Arc<Connector>>>,
}

impl Believed {
    /// By these roots; none: by the machine's.
    pub(super) fn new(roots: Option<Roots>, settings: Settings) -> Self {
        Self { roots, settings, connector: Mutex::default() }
    }

    async fn connect<S>(&self, stream: S, name: &ServerName<'static>) -> Result<Stream<S>, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connected = self.connector().await?.connect(stream, name).await;
        if matches!(connected, Err(HandshakeError::Certificate(_))) {
            self.connector.lock().await.take();
        }
        Ok(connected?)
    }

    async fn connector(&self) -> Result<Arc<Connector>, FetchError> {
        let mut known = self.connector.lock().await;
        if let Some(connector) = &*known {
            return Ok(Arc::clone(connector));
        }
        let (roots, settings) = (self.roots.clone(), self.settings.clone());
        // The machine's roots are files, and many: they are not read on a thread that serves.
        let made = spawn_blocking(move || Connector::web(roots.as_ref(), &settings, WHOLE_FETCH));
        let connector = Arc::new(made.await.map_err(|_| FetchError::Broken)??);
        Ok(Arc::clone(known.insert(connector)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use underpass_core::{Identity, TrustDomain};
    use underpass_identity::Authority;
    use underpass_net::tls::{Acceptor, Protocol};

    use super::*;

    #[test]
    fn what_is_asked_is_what_policies_see() {
        let check = |uri: &str, expect: Option<(&str, &str)>| {
            let head = head(&uri.parse().unwrap(), 80, PathNormalization::Base).ok();
            assert_eq!(head.as_ref().map(|head| (&*head.authority, &*head.path)), expect, "{uri}");
        };
        check("http://a:81/keys?x=y", Some(("a:81", "/keys?x=y")));
        check("http://a", Some(("a", "/")));
        check("http://a/b/%2e%2e/keys", Some(("a", "/keys")));
        check("http://a/%00", None);
    }

    #[tokio::test]
    async fn roots_are_read_once_and_again_after_a_server_that_they_do_not_believe() {
        let authority = || {
            let folder = tempfile::tempdir().expect("folder");
            Authority::open(folder.path(), &TrustDomain::default(), SystemTime::now()).expect("CA")
        };
        let (known, other) = (authority(), authority());
        let believed = Believed::new(Some(known.roots(1).expect("roots")), Settings::default());
        let identity = Identity::new(&TrustDomain::default(), "front", "issuer");
        let name = ServerName::try_from("issuer").expect("a name");
        let made = async || Arc::as_ptr(&believed.connector().await.expect("usable"));
        for (server, is_believed) in [(&known, true), (&other, false), (&known, true)] {
            let before = believed.connector().await.expect("usable");
            let certificate = server.serving(&["issuer"], &identity, Duration::from_secs(60), SystemTime::now());
            let certificate = certificate.expect("issued");
            let acceptor = Acceptor::new(&certificate, &Settings::default(), WHOLE_FETCH, Protocol::Http1);
            let acceptor = acceptor.expect("usable");
            let (near, far) = tokio::io::duplex(1 << 16);
            let (connected, _) = tokio::join!(believed.connect(near, &name), acceptor.accept(far));
            assert_eq!(connected.is_ok(), is_believed);
            assert_eq!(made().await == Arc::as_ptr(&before), is_believed);
        }
    }
}
