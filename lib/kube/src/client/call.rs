//! One request, and what becomes of it.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, Method, Request, StatusCode, header};
use serde::Serialize;

use super::{
    Error,
    error::{Status, one_line},
    path::escape,
};

/// A request to an API server.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    query: String,
    accept: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
}

const JSON: &str = "application/json";

impl Call {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, query: String::new(), accept: JSON, content_type: JSON, body: Vec::new() }
    }

    pub(crate) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    /// A parameter of the query.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let start = if self.query.is_empty() { '?' } else { '&' };
        // Writing to a String does not fail.
        let _ = write!(self.query, "{start}{name}={}", escape(value));
        self
    }

    /// The form of the answer.
    pub(crate) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// What is sent, in JSON of this type.
    pub(crate) fn body(self, content_type: &'static str, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(|e| self.unreadable(&e))?;
        Ok(Self { content_type, body, ..self })
    }

    /// What is sent, as JSON.
    pub(crate) fn json(self, body: &impl Serialize) -> Result<Self, Error> {
        self.body(JSON, body)
    }

    pub(super) fn request(&self) -> Result<Request<Vec<u8>>, Error> {
        let request = Request::builder()
            .method(self.method.clone())
            .uri(format!("{}{}", self.path, self.query))
            .header(header::ACCEPT, self.accept)
            .header(header::CONTENT_TYPE, self.content_type);
        request.body(self.body.clone()).map_err(|e| self.unreachable(&e))
    }

    fn named(&self) -> std::sync::Arc<str> {
        format!("{} {}", self.method, self.path).into()
    }

    pub(super) fn answered(&self, code: StatusCode, headers: &HeaderMap, text: &[u8]) -> Error {
        let mut status = Status::of(code.as_u16(), text);
        let seconds = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        status.set_retry_after(seconds.unwrap_or(0));
        Error::Answered { request: self.named(), status }
    }

    pub(crate) fn unreachable(&self, cause: &(dyn std::error::Error + 'static)) -> Error {
        Error::Unreachable { request: self.named(), cause: one_line(cause).into() }
    }

    pub(crate) fn unreadable(&self, cause: &(dyn std::error::Error + 'static)) -> Error {
        Error::Unreadable { request: self.named(), cause: one_line(cause).into() }
    }

    pub(crate) fn late(&self, patience: Duration) -> Error {
        Error::Late { request: self.named(), patience }
    }

    pub(crate) fn too_large(&self, max: usize) -> Error {
        Error::TooLarge { request: self.named(), max }
    }
}
