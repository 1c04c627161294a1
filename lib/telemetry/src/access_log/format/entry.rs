//! What a line of the access log can tell about a request, or about a connection that is no HTTP; and what of the request's
//! headers is kept until then.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use underpass_core::{Identity, http::ClusterKey};

/// The part of a request and its answer that only HTTP has.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestParts<'e> {
    /// The method.
    pub method: &'e str,
    /// The scheme.
    pub scheme: &'e str,
    /// The host, with a port where it has one.
    pub authority: &'e str,
    /// The path with its query.
    pub path: &'e str,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'e str,
    /// The status of gRPC; none: it is no gRPC, or has none.
    pub grpc_status: Option<u8>,
}

/// One request, or one connection that is no HTTP, at its end.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'e> {
    /// When it began, in microseconds since 1970.
    pub began_unix_us: u64,
    /// Until its end, in microseconds.
    pub duration_us: u64,
    /// Until the request's last byte had come, in microseconds.
    pub request_us: Option<u64>,
    /// Until the endpoint's answer began, in microseconds.
    pub response_us: Option<u64>,
    /// From the client: of the body of a request, of a whole connection else.
    pub bytes_received: u64,
    /// To the client.
    pub bytes_sent: u64,
    /// None: no HTTP.
    pub request: Option<RequestParts<'e>>,
    /// 0: the client went away before there was one, or it is no HTTP.
    pub code: u16,
    /// Why the answer is what it is, in Envoy's words.
    pub details: Option<&'e str>,
    /// Envoy's flags with commas between them, or `-`.
    pub flags: &'e str,
    /// Why the waypoint ended a connection.
    pub termination: Option<&'e str>,
    /// Why there was no connection to the endpoint.
    pub failure: Option<&'e str>,
    /// The endpoint of the last try.
    pub upstream: Option<SocketAddr>,
    /// The address that endpoints are called from.
    pub upstream_local: Option<SocketAddr>,
    /// Who the endpoint has shown to be.
    pub upstream_identity: Option<&'e Identity>,
    /// Where the route led.
    pub cluster: Option<&'e ClusterKey>,
    /// Tries of the request.
    pub attempts: u32,
    /// The called address: a Service's.
    pub local: SocketAddr,
    /// The client's address.
    pub remote: SocketAddr,
    /// Who the client has shown to be.
    pub peer: Option<&'e Identity>,
    /// Who the waypoint is.
    pub own: Option<&'e Identity>,
    /// The name of the route.
    pub route: Option<&'e str>,
    /// Headers of the request that the format asks for.
    pub request_headers: &'e Kept,
    /// Of the answer.
    pub response_headers: &'e Kept,
    /// Trailers of the answer.
    pub trailers: &'e Kept,
}

/// The values of the headers that a format asks for, in its order.
#[derive(Clone, Debug, Default)]
pub struct Kept(Vec<Option<HeaderValue>>);

impl Kept {
    /// The first value of each of these.
    pub(super) fn new(names: &[HeaderName], headers: &HeaderMap) -> Self {
        Self(names.iter().map(|name| headers.get(name).cloned()).collect())
    }

    pub(super) fn value(&self, index: usize) -> Option<&HeaderValue> {
        self.0.get(index)?.as_ref()
    }
}
