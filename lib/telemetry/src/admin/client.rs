//! The client of an admin API: one connection per request, everything bounded.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{Target, query};

/// Timeout of a request and its answer. A dump of a large World is megabytes, on a loopback.
const TIME: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The reason why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no listener.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// The API's address.
        target: Arc<str>,
        /// The cause.
        source: std::io::Error,
    },
    /// Something listens, but not this API.
    #[error("{method} {path} on {target}: {source}")]
    Http {
        /// The API's address.
        target: Arc<str>,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The path cannot stand in a request.
    #[error("{path:?} is no path: {source}")]
    Path {
        /// The path.
        path: String,
        /// The cause.
        source: http::Error,
    },
    /// The answer took too long.
    #[error("{method} {path} on {target}: no answer within {TIME:?}")]
    Timeout {
        /// The API's address.
        target: Arc<str>,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
    },
    /// The answer is larger than this client reads, or ended early.
    #[error("{method} {path} on {target}: cannot read the answer: {source}")]
    Answer {
        /// The API's address.
        target: Arc<str>,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API refused the request.
    #[error("{method} {path} on {target}: {status}: {says}")]
    Refused {
        /// The API's address.
        target: Arc<str>,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The answer's status.
        status: StatusCode,
        /// Its `error`, or its first line.
        says: String,
    },
    /// The answer is not what was expected.
    #[error("GET {path} on {target}: unexpected JSON: {source}")]
    Json {
        /// The API's address.
        target: Arc<str>,
        /// The request's path.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// A client of one admin API.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
}

impl Client {
    /// A client of the API at `target`.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self { target }
    }

    /// The answer to `GET path`, whole.
    ///
    /// # Errors
    /// Where there is none, or its status is not a success.
    pub async fn text(&self, path: &str) -> Result<Bytes, ClientError> {
        self.ask(Method::GET, path).await
    }

    /// The answer to `GET path`, read as JSON.
    ///
    /// # Errors
    /// As [`Client::text`], and where the answer is something else.
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.text(path).await?;
        let unexpected =
            |source| ClientError::Json { target: self.target.to_string().into(), path: path.to_owned(), source };
        serde_json::from_slice(&body).map_err(unexpected)
    }

    /// Requests a change: `POST path`.
    ///
    /// # Errors
    /// As [`Client::text`].
    pub async fn post(&self, path: &str) -> Result<(), ClientError> {
        self.ask(Method::POST, path).await.map(drop)
    }

    /// Sets the log level; see [`crate::log::Filter`].
    ///
    /// # Errors
    /// As [`Client::text`].
    pub async fn set_log_level(&self, level: &str) -> Result<(), ClientError> {
        self.ask(Method::PUT, &format!("/logging?level={}", query::encode(level))).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        let name: Arc<str> = self.target.to_string().into();
        let request = Request { name: &name, method: &method, path };
        let failed = |source| ClientError::Connect { target: Arc::clone(&name), source };
        let exchange = async {
            match &self.target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.map_err(failed)?;
                    request.over(stream, &address.to_string()).await
                }
                Target::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(failed)?;
                    request.over(stream, "localhost").await
                }
            }
        };
        timeout(TIME, exchange).await.unwrap_or_else(|_| Err(request.late()))
    }
}

/// The answer to `GET path`, read as JSON, of the API at the other end of a stream, which `name` names in errors.
///
/// # Errors
/// As [`Client::json`].
pub async fn json_over<T: DeserializeOwned>(
    name: &Arc<str>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> Result<T, ClientError> {
    let request = Request { name, method: &Method::GET, path };
    let body = timeout(TIME, request.over(stream, "localhost")).await.unwrap_or_else(|_| Err(request.late()))?;
    let unexpected = |source| ClientError::Json { target: Arc::clone(name), path: path.to_owned(), source };
    serde_json::from_slice(&body).map_err(unexpected)
}

/// One request, and the name of the API in its errors.
struct Request<'a> {
    name: &'a Arc<str>,
    method: &'a Method,
    path: &'a str,
}

impl Request<'_> {
    fn late(&self) -> ClientError {
        let (target, method, path) = self.named();
        ClientError::Timeout { target, method, path }
    }

    fn named(&self) -> (Arc<str>, Method, String) {
        (Arc::clone(self.name), self.method.clone(), self.path.to_owned())
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin, host: &str) -> Result<Bytes, ClientError> {
        let http = |source| {
            let (target, method, path) = self.named();
            ClientError::Http { target, method, path, source }
        };
        let request = hyper::Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(header::HOST, host)
            .body(Empty::<Bytes>::new())
            .map_err(|source| ClientError::Path { path: self.path.to_owned(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let answer = async {
            let (head, body) = sender.send_request(request).await.map_err(http)?.into_parts();
            let source = match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
                Ok(body) => return Ok((head.status, body.to_bytes())),
                Err(e) if e.is::<LengthLimitError>() => format!("more than {MAX_ANSWER_BYTES} bytes").into(),
                Err(e) => e,
            };
            let (target, method, path) = self.named();
            Err(ClientError::Answer { target, method, path, source })
        };
        let (status, body) = beside(connection, answer).await?;
        if status.is_success() {
            return Ok(body);
        }
        let (target, method, path) = self.named();
        Err(ClientError::Refused { target, method, path, status, says: refusal(&body) })
    }
}

/// Drives `connection` while `answer` is awaited, without a task of its own that could outlive this one.
async fn beside<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = answer.as_mut() => return answer,
        _ = connection => {}
    }
    // The connection has ended: the answer is complete now, or an error.
    answer.await
}

fn refusal(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let error = json.as_ref().and_then(|v| v.get("error")).and_then(|e| e.as_str()).map(str::to_owned);
    error.unwrap_or_else(|| String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned())
}
