//! What went wrong between us and an API server, in one line with all of its causes.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

/// The reason why there is no good answer. `request` is method and path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API server refused.
    #[error("{request}: {status}")]
    Answered {
        /// The request.
        request: Arc<str>,
        /// The answer.
        status: Status,
    },
    /// There was no answer, or not all of it.
    #[error("{request}: {cause}")]
    Unreachable {
        /// The request.
        request: Arc<str>,
        /// The cause.
        cause: Arc<str>,
    },
    /// The answer came too late.
    #[error("{request}: no whole answer within {} s", .patience.as_secs())]
    Late {
        /// The request.
        request: Arc<str>,
        /// The time it had.
        patience: Duration,
    },
    /// The answer is not what was asked for.
    #[error("{request}: the answer cannot be read: {cause}")]
    Unreadable {
        /// The request.
        request: Arc<str>,
        /// The cause.
        cause: Arc<str>,
    },
    /// The answer is larger than it may be.
    #[error("{request}: the answer is larger than {max} bytes")]
    TooLarge {
        /// The request.
        request: Arc<str>,
        /// The limit.
        max: usize,
    },
    /// The name cannot be part of a path: no object has it.
    #[error("{name:?} is no name of an object")]
    Name {
        /// As given.
        name: Arc<str>,
    },
}

impl Error {
    /// The HTTP status, where there was an answer.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(status.code),
            _ => None,
        }
    }
}

/// An answer that is a refusal (`meta/v1 Status`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The HTTP status.
    pub code: u16,
    /// `NotFound`, `AlreadyExists`, `Conflict`, `Expired` ...
    pub reason: String,
    /// For people.
    pub message: String,
    details: Details,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    causes: Vec<Cause>,
    retry_after_seconds: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    field: String,
}

/// The most of an answer's text that a message repeats.
const MAX_CHARS: usize = 300;

impl Status {
    /// A refusal in these words.
    pub(crate) fn new(code: u16, reason: String, message: String) -> Self {
        Self { code, reason, message, details: Details::default() }
    }

    /// What an answer with this status code and text says. Proxies answer with other texts than an API server does.
    pub(crate) fn of(code: u16, text: &[u8]) -> Self {
        let said: Option<Self> = serde_json::from_slice(text).ok();
        match said {
            Some(said) if !said.message.is_empty() || !said.reason.is_empty() => Self { code, ..said },
            _ => {
                let text = String::from_utf8_lossy(text);
                let message = text.trim().chars().take(MAX_CHARS).collect();
                Self { code, message, ..Self::default() }
            }
        }
    }

    /// The time after which it wants to be asked again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        Some(self.details.retry_after_seconds).filter(|s| *s > 0).map(Duration::from_secs)
    }

    /// The header of the same meaning.
    pub(crate) fn set_retry_after(&mut self, seconds: u64) {
        self.details.retry_after_seconds = self.details.retry_after_seconds.max(seconds);
    }

    /// One of its causes is this field.
    pub(crate) fn is_about(&self, field: &str) -> bool {
        self.details.causes.iter().any(|c| c.field == field)
    }

    /// One of its causes has this reason.
    pub(crate) fn has_cause(&self, reason: &str) -> bool {
        self.details.causes.iter().any(|c| c.reason == reason)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message.replace(char::is_control, " "))?;
        }
        Ok(())
    }
}

/// An error and all of its causes in one line, each text once, without control characters.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_one_line() {
        let check = |code, text: &str, expect: &str| {
            assert_eq!(Status::of(code, text.as_bytes()).to_string(), expect, "{text}");
        };
        check(
            404,
            r#"{"kind":"Status","status":"Failure","message":"pods \"a\" not found","reason":"NotFound","details":{"name":"a"},"code":404}"#,
            r#"404 NotFound: pods "a" not found"#,
        );
        check(404, "404 page not found\n", "404: 404 page not found");
        check(502, "<html>\r\n<b>bad</b>", "502: <html>  <b>bad</b>");
        check(503, "", "503");
        check(500, r#"{"a":1}"#, r#"500: {"a":1}"#);
        assert_eq!(Status::of(500, &[b'x'; 2000]).message.len(), MAX_CHARS);
    }

    #[test]
    fn causes_are_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner(#[source] std::io::Error);
        let error = Outer(Inner(std::io::Error::other("refused\nby peer")));
        assert_eq!(one_line(&error), "outer: inner: refused by peer");
    }
}
