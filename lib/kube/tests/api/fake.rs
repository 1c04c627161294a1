//! An API server that says what a test tells it: HTTP/1 on loopback, found by a kubeconfig.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use underpass_kube::{Access, Client};

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `GET /api/v1/pods`.
    pub(crate) what: String,
    /// `limit=500&continue=x`.
    pub(crate) query: String,
    pub(crate) accept: String,
    pub(crate) user_agent: String,
    pub(crate) content_type: String,
    /// `Bearer x`.
    pub(crate) authorization: String,
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }

    /// The value of a parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A part of an answer.
#[derive(Debug)]
pub(crate) enum Part {
    Text(String),
    /// The connection ends here.
    Cut,
}

/// An answer: all of it, or a stream that goes on.
pub(crate) struct Reply {
    status: u16,
    /// It begins once this one is told, or dropped.
    held: Option<oneshot::Receiver<()>>,
    parts: mpsc::UnboundedReceiver<Part>,
}

impl Reply {
    pub(crate) fn of(status: u16, text: impl ToString) -> Self {
        let (sender, reply) = Self::stream();
        sender.send(Part::Text(text.to_string())).unwrap();
        Self { status, ..reply }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::of(200, value)
    }

    /// The same, once the sender is told or dropped.
    pub(crate) fn held(self) -> (oneshot::Sender<()>, Self) {
        let (sender, held) = oneshot::channel();
        (sender, Self { held: Some(held), ..self })
    }

    /// A refusal as an API server words it.
    pub(crate) fn refuse(status: u16, reason: &str, details: Value) -> Self {
        let message = format!("refused: {reason}");
        Self::of(
            status,
            json!({"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message, "details": details}),
        )
    }

    /// One that goes on for as long as the sender is there.
    pub(crate) fn stream() -> (mpsc::UnboundedSender<Part>, Self) {
        let (sender, parts) = mpsc::unbounded_channel();
        (sender, Self { status: 200, held: None, parts })
    }

    /// These lines, and then nothing more, without an end. The sender must be kept.
    pub(crate) fn lines(lines: &[Value]) -> (mpsc::UnboundedSender<Part>, Self) {
        let (sender, reply) = Self::stream();
        send(&sender, lines);
        (sender, reply)
    }
}

/// Sends lines.
pub(crate) fn send(to: &mpsc::UnboundedSender<Part>, lines: &[Value]) {
    let text = lines.iter().map(|line| format!("{line}\n")).collect();
    to.send(Part::Text(text)).expect("a watch that is read");
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.parts.poll_recv(cx).map(|part| match part? {
            Part::Text(text) => Some(Ok(Frame::data(text.into()))),
            Part::Cut => Some(Err(std::io::Error::other("cut"))),
        })
    }
}

/// The server, and what it has been asked.
pub(crate) struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    home: tempfile::TempDir,
}

impl Fake {
    /// Starts it with what it answers.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, seen) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
        let asked = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&asked));
                let serve = service_fn(move |request| {
                    let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                    async move {
                        let request = read(request).await;
                        seen.lock().unwrap().push(request.clone());
                        let mut reply = answer(&request);
                        if let Some(held) = reply.held.take() {
                            let _ = held.await;
                        }
                        let status = reply.status;
                        Ok::<_, Infallible>(Response::builder().status(status).body(reply).unwrap())
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), serve));
            }
        });
        Self { address, seen, home: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_of(self.address).await
    }

    /// A client of the server at another address.
    pub(crate) async fn client_of(&self, address: SocketAddr) -> Client {
        self.client_with(address, json!({"token": "secret-token"})).await
    }

    /// A client whose token is in this file.
    pub(crate) async fn client_with_token(&self, file: &Path) -> Client {
        self.client_with(self.address, json!({"tokenFile": file})).await
    }

    /// A client with these credentials, as a kubeconfig has them.
    pub(crate) async fn client_of_user(&self, user: Value) -> Client {
        self.client_with(self.address, user).await
    }

    async fn client_with(&self, address: SocketAddr, user: Value) -> Client {
        let path = self.home.path().join("config");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "none",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "tester", "user": user}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester"}}],
        });
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        let access = Access::Kubeconfig { path, context: Some("fake".into()) };
        Client::connect(&access, "test").await.unwrap()
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read(request: Request<Incoming>) -> Seen {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (accept, user_agent, content_type) = (header("accept"), header("user-agent"), header("content-type"));
    let authorization = header("authorization");
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let (what, query) = (format!("{method} {}", uri.path()), uri.query().unwrap_or_default().to_owned());
    Seen { what, query, accept, user_agent, content_type, authorization, body }
}
