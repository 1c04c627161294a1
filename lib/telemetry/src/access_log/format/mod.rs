//! The format of the lines of requests: Envoy's format strings, as text or as JSON, read once when the log is set up. Pure: an
//! [`Entry`] in, a line out.
//!
//! ```text
//! accessLogFormat --LineFormat::new--> pieces, and the headers to keep --write(Entry)--> line
//! ```
//! What must hold: no value of a client ends a line or a quote; and what a text asks for is either written or
//! named when it is read, never left out in silence.

mod entry;
mod error;
mod operator;

#[cfg(test)]
mod tests;

use std::fmt::{self, Display as _, Write as _};

use http::{HeaderMap, HeaderName};
use serde_json::Value as Json;

use self::operator::{Operator, Value, Written};
pub use self::{
    entry::{Entry, Kept, RequestParts},
    error::{LineFormatError, LineFormatProblem},
};
use super::escape;
use crate::Format;

/// Istio's format of text.
const TEXT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% "#,
    r#"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" "#,
    r#"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
    r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% "#,
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% ",
    "%ROUTE_NAME%\n"
);

/// Istio's keys of JSON.
const JSON: &[(&str, &str)] = &[
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The headers that a format asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
    trailers: Vec<HeaderName>,
}

/// A format of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFormat {
    pieces: Vec<Piece>,
    names: Names,
    unserved: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// In a text.
    Shown(Operator),
    /// A whole value of JSON, which keeps its type.
    Typed(Operator),
    /// A string of JSON.
    Quoted(Vec<Piece>),
}

impl LineFormat {
    /// Reads a format. `text` is `MeshConfig.accessLogFormat`; an empty one is Istio's own. As [`Format::Json`] it is a JSON
    /// object, whose strings have operators in them, nested as it likes; a string that is one operator keeps the type of its
    /// value, and is null where there is none. As [`Format::Text`] a line feed is added where none ends it.
    ///
    /// # Errors
    /// The operator that cannot be used, and where it stands.
    pub fn new(format: Format, text: &str, hostname: &str) -> Result<Self, LineFormatError> {
        let mut reader = Reader { names: Names::default(), unserved: Vec::new(), hostname };
        let mut pieces = Vec::new();
        match format {
            Format::Text => {
                let text = if text.is_empty() { TEXT } else { text };
                pieces = reader.pieces(None, text)?;
                if !text.ends_with('\n') {
                    push_literal(&mut pieces, "\n");
                }
            }
            Format::Json => {
                reader.json(&mut pieces, None, &object(text)?)?;
                push_literal(&mut pieces, "\n");
            }
        }
        Ok(Self { pieces, names: reader.names, unserved: reader.unserved })
    }

    /// Its operators whose values nothing here knows, each once: they are `-`, in JSON null.
    #[must_use]
    pub fn unserved(&self) -> &[String] {
        &self.unserved
    }

    /// What its lines need of a request's headers.
    #[must_use]
    pub fn keep_request(&self, headers: &HeaderMap) -> Kept {
        Kept::new(&self.names.request, headers)
    }

    /// What its lines need of an answer's headers.
    #[must_use]
    pub fn keep_response(&self, headers: &HeaderMap) -> Kept {
        Kept::new(&self.names.response, headers)
    }

    /// What its lines need of an answer's trailers.
    #[must_use]
    pub fn keep_trailers(&self, trailers: &HeaderMap) -> Kept {
        Kept::new(&self.names.trailers, trailers)
    }

    /// Appends the line of an entry.
    pub(super) fn write(&self, out: &mut String, entry: &Entry<'_>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Shown(operator) => escape::push_inside(out, operator.value(entry)),
                Piece::Typed(operator) => match operator.value(entry) {
                    Value::Missing => out.push_str("null"),
                    Value::Number(number) => drop(write!(out, "{number}")), // writing to a String cannot fail
                    value => escape::push_json(out, value),
                },
                Piece::Quoted(pieces) => escape::push_json(out, fmt::from_fn(|f| show(pieces, entry, f))),
            }
        }
    }
}

/// Pieces of a string, without escapes.
fn show(pieces: &[Piece], entry: &Entry<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    pieces.iter().try_for_each(|piece| match piece {
        Piece::Literal(text) => f.write_str(text),
        Piece::Shown(operator) | Piece::Typed(operator) => operator.value(entry).fmt(f),
        Piece::Quoted(pieces) => show(pieces, entry, f),
    })
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Literal(before)) => before.push_str(text),
        _ => pieces.push(Piece::Literal(text.to_owned())),
    }
}

/// The object of a format of JSON.
fn object(text: &str) -> Result<Json, LineFormatError> {
    if text.is_empty() {
        return Ok(Json::Object(JSON.iter().map(|(key, text)| ((*key).to_owned(), (*text).into())).collect()));
    }
    let not_json = |why: String| LineFormatError {
        key: None,
        at: 1,
        text: text.lines().next().unwrap_or_default().to_owned(),
        problem: LineFormatProblem::NotJson(why),
    };
    match serde_json::from_str(text) {
        Ok(object @ Json::Object(_)) => Ok(object),
        Ok(_) => Err(not_json("it is another value".into())),
        Err(error) => Err(not_json(error.to_string())),
    }
}

/// Reads formats.
struct Reader<'h> {
    names: Names,
    unserved: Vec<String>,
    hostname: &'h str,
}

impl Reader<'_> {
    /// A value of JSON; `key` is where it stands.
    fn json(&mut self, out: &mut Vec<Piece>, key: Option<&str>, value: &Json) -> Result<(), LineFormatError> {
        match value {
            Json::Object(fields) => {
                for (n, (name, value)) in fields.iter().enumerate() {
                    push_literal(out, if n == 0 { "{" } else { "," });
                    push_literal(out, &Json::from(name.as_str()).to_string());
                    push_literal(out, ":");
                    let path = key.map_or_else(|| name.clone(), |key| format!("{key}.{name}"));
                    self.json(out, Some(&path), value)?;
                }
                push_literal(out, if fields.is_empty() { "{}" } else { "}" });
            }
            Json::Array(values) => {
                for (n, value) in values.iter().enumerate() {
                    push_literal(out, if n == 0 { "[" } else { "," });
                    let path = format!("{}[{n}]", key.unwrap_or_default());
                    self.json(out, Some(&path), value)?;
                }
                push_literal(out, if values.is_empty() { "[]" } else { "]" });
            }
            Json::String(text) => match self.pieces(key, text)?.as_mut_slice() {
                [] => push_literal(out, "\"\""),
                [Piece::Literal(text)] => push_literal(out, &Json::from(text.as_str()).to_string()),
                [Piece::Shown(operator)] => out.push(Piece::Typed(operator.clone())),
                pieces => out.push(Piece::Quoted(pieces.to_vec())),
            },
            other => push_literal(out, &other.to_string()),
        }
        Ok(())
    }

    /// A text with operators in it.
    fn pieces(&mut self, key: Option<&str>, text: &str) -> Result<Vec<Piece>, LineFormatError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, from)) = rest.split_once('%') {
            if !literal.is_empty() {
                push_literal(&mut pieces, literal);
            }
            if let Some(after) = from.strip_prefix('%') {
                push_literal(&mut pieces, "%");
                rest = after;
                continue;
            }
            let at = text.len() - from.len();
            let wrong = |written: &str, problem| LineFormatError {
                key: key.map(str::to_owned),
                at: text.get(..at).unwrap_or_default().chars().count(),
                text: format!("%{written}"),
                problem,
            };
            let first_line = || from.split([' ', '\n']).next().unwrap_or_default();
            let Some((written, length)) = split(from) else {
                return Err(wrong(first_line(), LineFormatProblem::NotClosed));
            };
            let (whole, after) = from.split_at(length);
            rest = after;
            if (written.name, written.argument, written.most) == ("HOSTNAME", None, None) {
                push_literal(&mut pieces, if self.hostname.is_empty() { "-" } else { self.hostname });
                continue;
            }
            let read = Operator::read(written, &mut self.names);
            let operator = read.map_err(|problem| wrong(whole, problem))?;
            let name = format!("%{}%", written.name);
            if operator == Operator::Unserved && !self.unserved.contains(&name) {
                self.unserved.push(name);
            }
            pieces.push(Piece::Shown(operator));
        }
        if !rest.is_empty() {
            push_literal(&mut pieces, rest);
        }
        Ok(pieces)
    }
}

/// The operator that begins here, behind its `%`, and its length with the `%` that ends it.
fn split(text: &str) -> Option<(Written<'_>, usize)> {
    let is_of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name = text.get(..text.find(|c| !is_of_name(c))?).filter(|name| !name.is_empty())?;
    let rest = text.get(name.len()..)?;
    let (argument, (most, after)) = match rest.strip_prefix('(') {
        None => (None, end(rest)?),
        // As in Envoy they may have parentheses in them: what is closed by the first one behind which the operator ends.
        Some(from) => {
            let line = from.split('\n').next().unwrap_or_default();
            let mut closing = line.match_indices(')');
            closing.find_map(|(at, _)| Some((from.get(..at), end(from.get(at + 1..)?)?)))?
        }
    };
    let argument = argument.filter(|argument| !argument.is_empty());
    Some((Written { name, argument, most }, text.len() - after.len()))
}

/// Where an operator ends here: its length, and what follows its `%`.
fn end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(after) = text.strip_prefix('%') {
        return Some((None, after));
    }
    let (digits, after) = text.strip_prefix(':')?.split_once('%')?;
    Some((Some(digits.parse().ok()?), after))
}
