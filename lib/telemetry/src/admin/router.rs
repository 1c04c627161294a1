//! The router: the handler of a path and method. Pure: no socket, so that routes are tested as functions.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::query::Query;

/// The end of the answer to an unknown route, by which clients tell it from an unknown object.
pub const NO_ROUTE: &str = "GET / lists what there is";

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) query: Query,
    pub(super) body: Bytes,
}

impl Request {
    /// A value of the query, decoded: `level` of `/logging?level=debug`.
    #[must_use]
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.find(key)
    }

    /// The body, whole and within the limit.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The content type of almost every answer.
const JSON: &str = "application/json";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    /// The methods that would have been answered, with 405 (RFC 9110, 15.5.6).
    pub(super) allow: Option<String>,
}

impl Response {
    /// 200 with `value` as JSON.
    #[must_use]
    pub fn json(value: &impl Serialize) -> Self {
        Self::json_with(StatusCode::OK, value)
    }

    /// `value` as JSON.
    #[must_use]
    pub fn json_with(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status, content_type: JSON, body: body.into(), allow: None }
            }
            Err(e) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, format_args!("cannot write the answer: {e}")),
        }
    }

    /// `{"error": message}`.
    #[must_use]
    pub fn error(status: StatusCode, message: impl fmt::Display) -> Self {
        let body = serde_json::json!({ "error": message.to_string() });
        Self { status, content_type: JSON, body: format!("{body:#}\n").into(), allow: None }
    }

    /// 200 with another content type than JSON.
    #[must_use]
    pub const fn page(content_type: &'static str, body: Bytes) -> Self {
        Self { status: StatusCode::OK, content_type, body, allow: None }
    }

    /// The status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The body: JSON, unless it is a page.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Box<dyn Fn(Request) -> Answer + Send + Sync>;

/// Routes by exact path and method. `GET /` lists them, HEAD is answered as GET.
#[derive(Default)]
pub struct Router {
    routes: BTreeMap<&'static str, Vec<(Method, Handler)>>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.index()).finish()
    }
}

impl Router {
    /// No routes but `GET /`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `handler` for `method` on `path`. A second handler for the same replaces the first.
    #[must_use]
    pub fn route<F>(
        mut self,
        method: Method,
        path: &'static str,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let handler: Handler = Box::new(move |request| Box::pin(handler(request)));
        let methods = self.routes.entry(path).or_default();
        methods.retain(|(m, _)| *m != method);
        methods.push((method, handler));
        self
    }

    fn index(&self) -> BTreeMap<&'static str, Vec<&str>> {
        self.routes.iter().map(|(path, all)| (*path, all.iter().map(|(m, _)| m.as_str()).collect())).collect()
    }

    /// The handler for a request, or the answer that there is none.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<&Handler, Response> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let Some(methods) = self.routes.get(path) else {
            return Err(match (path, method) {
                ("/", &Method::GET) => Response::json(&self.index()),
                ("/", _) => not_allowed(method, path, &["GET"]),
                _ => Response::error(StatusCode::NOT_FOUND, format_args!("no {path} here; {NO_ROUTE}")),
            });
        };
        let found = methods.iter().find(|(m, _)| m == method).map(|(_, handler)| handler);
        found.ok_or_else(|| not_allowed(method, path, &methods.iter().map(|(m, _)| m.as_str()).collect::<Vec<_>>()))
    }
}

fn not_allowed(method: &Method, path: &str, allowed: &[&str]) -> Response {
    let allow = allowed.join(", ");
    let message = format!("no {method} on {path}: {allow}");
    Response { allow: Some(allow), ..Response::error(StatusCode::METHOD_NOT_ALLOWED, message) }
}
