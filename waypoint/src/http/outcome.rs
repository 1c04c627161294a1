//! What the end of a try means: for the request, for another try, and for the endpoint. Beside [`super::forward`], which tries.
//!
//! What must hold: what a client or a policy has ended says nothing about an endpoint, and is never tried again.

use http::{HeaderName, Method, Response};
use hyper::body::Incoming;
use underpass_core::http::{Health, Outcome, RequestEnd};

use super::body::BodyError;
use crate::{
    cluster::Endpoint,
    upstream::{ConnectError, Lease},
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Connections that had gone before a request was written on them, one after the other: then something else is wrong.
pub(super) const MOST_STALE: u32 = 3;

/// What ends a request before its response. A denial comes first: it ends the body as well, by which the try fails in the same turn.
pub(super) async fn unless_denied<T>(
    denied: impl Future<Output = ()>,
    tried: impl Future<Output = Result<T, RequestEnd>>,
    late: impl Future<Output = RequestEnd>,
) -> Result<T, RequestEnd> {
    tokio::select! {
        biased;
        () = denied => Err(RequestEnd::Denied),
        tried = tried => tried,
        end = late => Err(end),
    }
}

/// How one try ended.
pub(super) enum One {
    Response(Response<Incoming>, Lease),
    Failed(Outcome, RequestEnd),
    /// Never tried again.
    Refused(RequestEnd),
}

pub(super) fn not_connected_end(error: &ConnectError) -> RequestEnd {
    match error {
        ConnectError::Denied => RequestEnd::Denied,
        ConnectError::Failed(_)
        | ConnectError::OutsideMesh
        | ConnectError::Tls(_)
        | ConnectError::Timeout
        | ConnectError::Closed => RequestEnd::ConnectFailed,
    }
}

pub(super) fn not_connected(endpoint: &Endpoint, error: &ConnectError) -> One {
    tracing::debug!(endpoint = %endpoint.target, %error, "no connection to an endpoint");
    match not_connected_end(error) {
        RequestEnd::Denied => One::Refused(RequestEnd::Denied),
        end => One::Failed(Outcome::ConnectFailure, end),
    }
}

/// What ends a request whose body broke off: bytes that are no body, or a client that has gone.
pub(super) fn of_body(error: &BodyError) -> RequestEnd {
    let is_malformed = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    };
    match error {
        BodyError::Client(error) if cause(error).is_some_and(is_malformed) => RequestEnd::BadRequest,
        _ => RequestEnd::ClientReset,
    }
}

/// What the end of a connection or stream without a response means.
pub(super) fn failed(error: &hyper::Error, is_sent: bool) -> One {
    // Neither has looked at it: a stream that is refused, and one above the last that a GOAWAY names (RFC 9113, 6.8).
    let is_refused = |error: &h2::Error| match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    };
    let refused = cause::<h2::Error>(error).is_some_and(is_refused);
    if let Some(error) = cause::<BodyError>(error) {
        return One::Refused(of_body(error));
    }
    match () {
        () if refused => One::Failed(Outcome::RefusedStream, RequestEnd::EndpointReset),
        () if error.is_parse() => One::Failed(Outcome::Reset { is_sent }, RequestEnd::Protocol),
        () => One::Failed(Outcome::Reset { is_sent }, RequestEnd::EndpointReset),
    }
}

/// The connection had gone before the request was written, or it is older than the request and has ended without a word to one
/// that changes nothing: that was no try.
pub(super) fn is_stale(error: &hyper::Error, is_unsent: bool, on: &Lease, method: &Method) -> bool {
    let changes_nothing = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    is_unsent || (on.is_reused && changes_nothing && error.is_incomplete_message())
}

/// The first cause of an error that is of this kind.
fn cause<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

pub(super) fn outcome(response: &Response<Incoming>) -> Outcome {
    let grpc_status = response.headers().get(GRPC_STATUS).and_then(|value| value.to_str().ok()?.parse().ok());
    Outcome::Response {
        status: response.status().as_u16(),
        grpc_status,
        is_ratelimited: response.headers().contains_key(RATE_LIMITED),
    }
}

/// What a response says about its endpoint.
pub(super) fn health_of(response: &Response<Incoming>) -> Option<Health> {
    health(outcome(response))
}

/// What an outcome says about its endpoint; none: nothing, it was not asked.
pub(super) const fn health(outcome: Outcome) -> Option<Health> {
    match outcome {
        Outcome::Response { grpc_status: Some(status), .. } => Some(Health::of_grpc_status(status)),
        Outcome::Response { status, .. } => Some(Health::of_status(status)),
        Outcome::Overflow => None,
        _ => Some(Health::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn a_denial_comes_before_what_it_brings_about() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let reset = || ready(Err::<(), _>(RequestEnd::EndpointReset));
        let late = || ready(RequestEnd::Timeout);
        for _ in 0..64 {
            let end = runtime.block_on(unless_denied(ready(()), reset(), late()));
            assert_eq!(end, Err(RequestEnd::Denied));
            let end = runtime.block_on(unless_denied(pending(), reset(), late()));
            assert_eq!(end, Err(RequestEnd::EndpointReset));
            let end = runtime.block_on(unless_denied(pending(), pending::<Result<(), _>>(), late()));
            assert_eq!(end, Err(RequestEnd::Timeout));
        }
    }
}
