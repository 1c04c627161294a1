//! External authorizers: one question to one about a request, by HTTP, and what the answer means. Which requests they are asked about is
//! decided in [`underpass_core::authz`].
//!
//! What must hold: nothing but a 200 lets a request pass, and no answer is no 200; the question is a call of the waypoint's own, which
//! policy judges like one of a client.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{task::spawn_local, time::timeout};
use underpass_core::{authz::StringMatch, objects::Authorizer};

use crate::{
    http::remove_hop_by_hop,
    judging::Head,
    way::{self, Asked, Caller, WayError},
    worker::Worker,
};

/// Bytes of the body of an answer that go on to a client.
const MOST_BYTES: usize = 64 << 10;
/// The headers of an answer that a denied client gets with those that are listed, as in Envoy.
const ALWAYS_TO_CLIENT: [HeaderName; 2] = [header::WWW_AUTHENTICATE, header::LOCATION];
/// The header of a request that is sent with those that are listed, as in Envoy.
const ALWAYS_SENT: HeaderName = header::AUTHORIZATION;

/// An answer.
pub(crate) enum Answer {
    /// The request may pass, with these headers, and its response gets those.
    Allowed { to_endpoint: HeaderMap, to_client: HeaderMap },
    /// It may not: its client gets this.
    Denied(Response<Bytes>),
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    Way(#[from] WayError),
    #[error("HTTP failed")]
    Http(#[from] hyper::Error),
    #[error("the question cannot be written")]
    Question(#[from] http::Error),
    #[error("the answer is too large, or broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("not in {0:?}")]
    Late(Duration),
}

/// What came of a question, for its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckResult {
    Allowed,
    Denied,
    /// No answer, and the request was refused.
    Failed,
    /// No answer, and the request passed, as `failOpen` says.
    FailedOpen,
    /// The MeshConfig has no such authorizer, or none that can be used.
    Unknown,
}

impl CheckResult {
    /// The value of a label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::FailedOpen => "failed_open",
            Self::Unknown => "unknown",
        }
    }
}

/// The authorizers of a worker that do not answer, to say so once.
#[derive(Debug, Default)]
pub(crate) struct Failing(RefCell<BTreeSet<Arc<str>>>);

impl Failing {
    /// Says where one begins to fail.
    pub(crate) fn failed(&self, name: &Arc<str>, error: &dyn std::error::Error, effect: &str) {
        if self.0.borrow_mut().insert(Arc::clone(name)) {
            let causes = std::iter::successors(error.source(), |cause| cause.source());
            let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            tracing::warn!(provider = %name, %error, cause, effect, "external authorizer does not answer");
        }
    }

    /// Says where one answers again.
    pub(crate) fn answered(&self, name: &Arc<str>) {
        if !self.0.borrow().is_empty() && self.0.borrow_mut().remove(name) {
            tracing::info!(provider = %name, "external authorizer answers again");
        }
    }
}

/// Asks an authorizer about a request.
///
/// # Errors
/// There is no answer, or one that is none.
pub(crate) async fn ask(worker: &Rc<Worker>, authorizer: &Authorizer, head: &Head) -> Result<Answer, CheckError> {
    let time = authorizer.timeout;
    timeout(time, exchange(worker, authorizer, head)).await.unwrap_or(Err(CheckError::Late(time)))
}

async fn exchange(worker: &Rc<Worker>, authorizer: &Authorizer, head: &Head) -> Result<Answer, CheckError> {
    let question = question(authorizer, head);
    let asked = Asked { host: &authorizer.host, port: authorizer.port, head: Some(&question) };
    let (stream, _chosen) = way::open(Caller { worker, newest: &|| worker.configuration() }, &asked).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    let request = Request::builder().method(question.method.clone()).uri(&*question.path);
    let mut request = request.body(Empty::<Bytes>::new())?;
    *request.headers_mut() = question.headers;
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    match parts.status {
        StatusCode::OK => Ok(allowed(authorizer, &parts.headers)),
        status if status.is_server_error() || status.is_informational() => Err(CheckError::Status(status)),
        status => {
            let body = Limited::new(body, MOST_BYTES).collect().await.map_err(CheckError::Body)?;
            Ok(denied(authorizer, status, parts.headers, body.to_bytes()))
        }
    }
}

/// The question, as it is sent and as policies of the authorizer's pods see it.
fn question(authorizer: &Authorizer, head: &Head) -> Head {
    let is_sent = |name: &HeaderName| *name == ALWAYS_SENT || is_listed(&authorizer.sends, name);
    let sent = head.headers.iter().filter(|(name, _)| is_sent(name));
    let mut headers: HeaderMap = sent.map(|(name, value)| (name.clone(), value.clone())).collect();
    for (name, value) in &authorizer.adds {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    remove_hop_by_hop(&mut headers);
    headers.remove(header::EXPECT);
    // It has no body.
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    if let Ok(host) = HeaderValue::from_str(&head.authority) {
        headers.insert(header::HOST, host);
    }
    Head {
        method: head.method.clone(),
        authority: Rc::clone(&head.authority),
        path: [&authorizer.path_prefix, &*head.path].concat().into(),
        headers,
        port: authorizer.port,
        token: None,
        allowed_by: Vec::new(),
    }
}

fn allowed(authorizer: &Authorizer, headers: &HeaderMap) -> Answer {
    let of = |names: &[StringMatch]| {
        let mut listed: HeaderMap =
            headers.iter().filter(|(name, _)| is_listed(names, name)).map(|(n, v)| (n.clone(), v.clone())).collect();
        remove_hop_by_hop(&mut listed);
        // Of its own message.
        [header::CONTENT_LENGTH, header::HOST].iter().for_each(|own| drop(listed.remove(own)));
        listed
    };
    Answer::Allowed { to_endpoint: of(&authorizer.to_endpoint), to_client: of(&authorizer.to_client_allowed) }
}

fn denied(authorizer: &Authorizer, status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Answer {
    remove_hop_by_hop(&mut headers);
    headers.remove(header::CONTENT_LENGTH); // of the body that is sent
    let names = &authorizer.to_client_denied;
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in &headers {
        if names.is_empty() || ALWAYS_TO_CLIENT.contains(name) || is_listed(names, name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    Answer::Denied(response)
}

fn is_listed(names: &[StringMatch], name: &HeaderName) -> bool {
    names.iter().any(|listed| listed.matches(name.as_str()))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn names(all: &[&str]) -> Vec<StringMatch> {
        all.iter().copied().map(StringMatch::parse).collect()
    }

    fn authorizer() -> Authorizer {
        Authorizer {
            name: "opa".into(),
            host: "opa.front.svc.cluster.local".into(),
            port: 9000,
            timeout: Duration::from_secs(1),
            fails_open: false,
            status_on_error: 403,
            path_prefix: "/check".into(),
            sends: names(&["x-user", "x-team-*", "*-id"]),
            adds: vec![("x-mesh".into(), "a".into()), ("x-user-kind".into(), "b".into())],
            to_endpoint: names(&["x-checked-*"]),
            to_client_denied: names(&["x-why"]),
            to_client_allowed: names(&["x-rest"]),
        }
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn shown(headers: &HeaderMap) -> String {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort();
        all.join(" ")
    }

    #[test]
    fn questions_have_what_is_listed() {
        let head = Head {
            method: Method::POST,
            authority: "reviews:80".into(),
            path: "/a?b=c".into(),
            headers: headers(&[
                ("authorization", "Bearer x"),
                ("x-user", "u"),
                ("x-users", "no"),
                ("x-team-a", "t"),
                ("request-id", "r"),
                ("cookie", "no"),
                ("content-length", "12"),
                ("transfer-encoding", "chunked"),
            ]),
            port: 80,
            token: None,
            allowed_by: Vec::new(),
        };
        let asked = question(&authorizer(), &head);
        assert_eq!((asked.method, &*asked.path, asked.port), (Method::POST, "/check/a?b=c", 9000));
        assert_eq!(
            shown(&asked.headers),
            "authorization=Bearer x content-length=0 host=reviews:80 request-id=r x-mesh=a x-team-a=t x-user-kind=b x-user=u"
        );
        let everything = Authorizer { sends: names(&["t*"]), ..authorizer() };
        assert!(!question(&everything, &head).headers.contains_key(header::TRANSFER_ENCODING));
    }

    #[test]
    fn answers_say_what_is_listed() {
        let said = headers(&[
            ("x-checked-user", "u"),
            ("x-rest", "1"),
            ("x-why", "no"),
            ("www-authenticate", "Basic"),
            ("connection", "x-why"),
            ("content-length", "3"),
            ("host", "other"),
        ]);
        let all = Authorizer { to_endpoint: names(&["h*", "c*"]), ..authorizer() };
        let Answer::Allowed { to_endpoint, .. } = allowed(&all, &said) else { panic!() };
        assert_eq!(shown(&to_endpoint), "", "what the request is, is not its authorizer's to say");
        let Answer::Allowed { to_endpoint, to_client } = allowed(&authorizer(), &said) else { panic!() };
        assert_eq!([shown(&to_endpoint), shown(&to_client)], ["x-checked-user=u", "x-rest=1"]);
        let of = |authorizer: &Authorizer, said: HeaderMap| {
            let Answer::Denied(response) = denied(authorizer, StatusCode::UNAUTHORIZED, said, Bytes::new()) else {
                panic!()
            };
            assert_eq!(response.status(), 401);
            shown(response.headers())
        };
        assert_eq!(of(&authorizer(), said), "www-authenticate=Basic", "connection names x-why");
        let said = headers(&[("x-why", "no"), ("location", "/login"), ("x-other", "o"), ("content-length", "3")]);
        assert_eq!(of(&authorizer(), said.clone()), "location=/login x-why=no");
        let all = Authorizer { to_client_denied: Vec::new(), ..authorizer() };
        assert_eq!(of(&all, said), "location=/login x-other=o x-why=no");
    }
}
