//! The operators of a format: their names in Envoy, what stands in their parentheses, and the values that they have in an
//! entry. A new operator is a line here and its value.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
};

use http::HeaderName;
use underpass_core::{Identity, http::ClusterKey};

use super::{Entry, Kept, LineFormatProblem, Names};
use crate::access_log::time::{At, TimeFormat};

/// An operator, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'t> {
    pub(super) name: &'t str,
    pub(super) argument: Option<&'t str>,
    /// The most bytes of its value.
    pub(super) most: Option<usize>,
}

/// An operator, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    Header(Header),
    Protocol,
    Code,
    Details {
        keeps_spaces: bool,
    },
    Flags,
    Termination,
    Failure,
    BytesReceived,
    BytesSent,
    Duration(Until),
    Address(Place, Part),
    Cluster,
    Attempts,
    Route,
    Uri(Whose),
    GrpcStatus(GrpcForm),
    /// Nothing before a waypoint has it: a client's tunnel names no server.
    Absent,
    /// Envoy has it; here nothing knows it.
    Unserved,
}

/// Until when a duration lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    End,
    LastByteReceived,
    Response,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Upstream,
    UpstreamLocal,
    Local,
    Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Ip,
    Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Peer,
    Own,
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

/// A header of one of the three heads, or another where that is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    of: Head,
    first: Field,
    other: Option<Field>,
    most: Option<usize>,
    without_query: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Request,
    Response,
    Trailers,
}

/// What has the form of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Method,
    Path,
    Authority,
    Scheme,
    Status,
    /// One that is kept, by its place there.
    Kept(usize),
    /// A pseudo-header that there is not, or none at all.
    Never,
}

/// Operators of Envoy whose values nothing here knows: they are `-`.
const UNSERVED: &str = "
    ACCESS_LOG_TYPE BYTES_RETRANSMITTED CEL CLUSTER_METADATA COALESCE COMMON_DURATION CONNECTION_ID CUSTOM_FLAGS
    DOWNSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID
    DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_LOCAL_PORT
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS_ENDPOINT_ID DOWNSTREAM_HANDSHAKE_DURATION
    DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID
    DOWNSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_REMOTE_ADDRESS_ENDPOINT_ID
    DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN
    DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_PEER_CERT DOWNSTREAM_PEER_CERT_V_END DOWNSTREAM_PEER_CERT_V_START
    DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_SERIALS
    DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1
    DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_IP_SAN DOWNSTREAM_PEER_ISSUER
    DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_TLS_CIPHER
    DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_VERSION DOWNSTREAM_TRANSPORT_FAILURE_REASON
    DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT DYNAMIC_METADATA EMIT_TIME_LOCAL ENVIRONMENT
    FILTER_CHAIN_NAME FILTER_STATE LOCAL_REPLY_BODY METADATA PACKETS_RETRANSMITTED PATH QUERY_PARAM
    QUERY_PARAMS REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES
    RESPONSE_TRAILERS_BYTES RESPONSE_TX_DURATION ROUNDTRIP_DURATION START_TIME_LOCAL STREAM_ID
    TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID UNIQUE_ID UPSTREAM_CONNECTION_ID
    UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_FILTER_STATE
    UPSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOST_NAME
    UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_ADDRESS_ENDPOINT_ID UPSTREAM_LOCAL_CLOSE_REASON
    UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN
    UPSTREAM_LOCAL_SUBJECT UPSTREAM_METADATA UPSTREAM_PEER_CERT UPSTREAM_PEER_CERT_V_END
    UPSTREAM_PEER_CERT_V_START UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER
    UPSTREAM_PEER_SUBJECT UPSTREAM_TLS_CIPHER UPSTREAM_TLS_SESSION_ID UPSTREAM_TLS_VERSION
    UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT VIRTUAL_CLUSTER_NAME
";

impl Operator {
    /// Reads an operator; the headers that it asks for are added to `names`.
    pub(super) fn read(written: Written<'_>, names: &mut Names) -> Result<Self, LineFormatProblem> {
        if let Some(header) = header(written, names)? {
            return Ok(Self::Header(header));
        }
        // Envoy's own business are their parentheses and lengths too.
        if UNSERVED.split_ascii_whitespace().any(|name| name == written.name) {
            return Ok(Self::Unserved);
        }
        if written.most.is_some() {
            return Err(LineFormatProblem::TakesNoLength);
        }
        let argument = written.argument.unwrap_or_default();
        match written.name {
            "START_TIME" => return TimeFormat::parse(argument).map(Self::StartTime).map_err(LineFormatProblem::Time),
            "EMIT_TIME" => return TimeFormat::parse(argument).map(Self::EmitTime).map_err(LineFormatProblem::Time),
            "RESPONSE_CODE_DETAILS" => {
                return match argument {
                    "" => Ok(Self::Details { keeps_spaces: false }),
                    "ALLOW_WHITESPACES" => Ok(Self::Details { keeps_spaces: true }),
                    _ => Err(LineFormatProblem::Takes("ALLOW_WHITESPACES")),
                };
            }
            "GRPC_STATUS" => {
                return match argument {
                    "" | "CAMEL_STRING" => Ok(Self::GrpcStatus(GrpcForm::Camel)),
                    "SNAKE_STRING" => Ok(Self::GrpcStatus(GrpcForm::Snake)),
                    "NUMBER" => Ok(Self::GrpcStatus(GrpcForm::Number)),
                    _ => Err(LineFormatProblem::Takes("CAMEL_STRING, SNAKE_STRING or NUMBER")),
                };
            }
            "REQUESTED_SERVER_NAME" => {
                return match argument {
                    "" | "SNI_ONLY" => Ok(Self::Absent),
                    _ => Ok(Self::Unserved), // it asks for the host where there is none
                };
            }
            _ => {}
        }
        let plain = plain(written.name).ok_or(LineFormatProblem::Unknown)?;
        if written.argument.is_some() { Err(LineFormatProblem::TakesNothing) } else { Ok(plain) }
    }

    /// Its value in this entry.
    pub(super) fn value<'v>(&'v self, entry: &'v Entry<'_>) -> Value<'v> {
        match self {
            Self::StartTime(format) => Value::Time(format.at(entry.began_unix_us)),
            Self::EmitTime(format) => Value::Time(format.at(entry.began_unix_us.saturating_add(entry.duration_us))),
            Self::Header(header) => header.value(entry),
            Self::Protocol => Value::text(entry.request.map(|request| request.protocol)),
            Self::Code => Value::Number(entry.code.into()),
            Self::Details { keeps_spaces: true } => Value::text(entry.details),
            Self::Details { keeps_spaces: false } => entry.details.map_or(Value::Missing, Value::Unspaced),
            Self::Flags => Value::Text(entry.flags),
            Self::Termination => Value::text(entry.termination),
            Self::Failure => Value::text(entry.failure),
            Self::BytesReceived => Value::Number(entry.bytes_received),
            Self::BytesSent => Value::Number(entry.bytes_sent),
            Self::Duration(until) => {
                let us = match until {
                    Until::End => Some(entry.duration_us),
                    Until::LastByteReceived => entry.request_us,
                    Until::Response => entry.response_us,
                };
                us.map_or(Value::Missing, |us| Value::Number(us / 1000))
            }
            Self::Address(place, part) => {
                let address = match place {
                    Place::Upstream => entry.upstream,
                    Place::UpstreamLocal => entry.upstream_local,
                    Place::Local => Some(entry.local),
                    Place::Remote => Some(entry.remote),
                };
                let Some(address) = address else { return Value::Missing };
                match part {
                    Part::Whole => Value::Address(address),
                    Part::Ip => Value::Ip(address.ip()),
                    Part::Port => Value::Number(address.port().into()),
                }
            }
            Self::Cluster => entry.cluster.map_or(Value::Missing, Value::Cluster),
            Self::Attempts => Value::Number(entry.attempts.into()),
            Self::Route => Value::text(entry.route),
            Self::Uri(whose) => {
                let identity = match whose {
                    Whose::Peer => entry.peer,
                    Whose::Own => entry.own,
                    Whose::Upstream => entry.upstream_identity,
                };
                Value::text(identity.map(Identity::uri))
            }
            Self::GrpcStatus(form) => entry.request.and_then(|r| r.grpc_status).map_or(Value::Missing, |s| form.of(s)),
            Self::Absent | Self::Unserved => Value::Missing,
        }
    }
}

/// Operators without parentheses.
fn plain(name: &str) -> Option<Operator> {
    use Operator::{Address, Duration, Uri};
    Some(match name {
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::Code,
        "RESPONSE_FLAGS" => Operator::Flags,
        "CONNECTION_TERMINATION_DETAILS" => Operator::Termination,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::Failure,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Duration(Until::End),
        "REQUEST_DURATION" => Duration(Until::LastByteReceived),
        "RESPONSE_DURATION" => Duration(Until::Response),
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Address(Place::Upstream, Part::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Address(Place::Upstream, Part::Ip),
        "UPSTREAM_REMOTE_PORT" => Address(Place::Upstream, Part::Port),
        "UPSTREAM_LOCAL_ADDRESS" => Address(Place::UpstreamLocal, Part::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Address(Place::UpstreamLocal, Part::Ip),
        "UPSTREAM_LOCAL_PORT" => Address(Place::UpstreamLocal, Part::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => Address(Place::Local, Part::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Address(Place::Local, Part::Ip),
        "DOWNSTREAM_LOCAL_PORT" => Address(Place::Local, Part::Port),
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Address(Place::Remote, Part::Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Address(Place::Remote, Part::Ip)
        }
        "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Address(Place::Remote, Part::Port),
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::Cluster,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Attempts,
        "ROUTE_NAME" => Operator::Route,
        "DOWNSTREAM_PEER_URI_SAN" => Uri(Whose::Peer),
        "DOWNSTREAM_LOCAL_URI_SAN" | "UPSTREAM_LOCAL_URI_SAN" => Uri(Whose::Own),
        "UPSTREAM_PEER_URI_SAN" => Uri(Whose::Upstream),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcForm::Number),
        _ => return None,
    })
}

/// `REQ(X?Y):Z` and its kind; none: it is another operator.
fn header(written: Written<'_>, names: &mut Names) -> Result<Option<Header>, LineFormatProblem> {
    let (of, without_query) = match written.name {
        "REQ" => (Head::Request, false),
        "REQ_WITHOUT_QUERY" => (Head::Request, true),
        "RESP" => (Head::Response, false),
        "TRAILER" => (Head::Trailers, false),
        _ => return Ok(None),
    };
    let argument = written.argument.unwrap_or_default();
    let (first, other) = match argument.split_once('?') {
        Some((first, other)) => (first, Some(other).filter(|other| !other.is_empty())),
        None => (argument, None),
    };
    let first = match first {
        "" if other.is_some() => Field::Never,
        first => field(of, first, names)?,
    };
    let other = other.map(|other| field(of, other, names)).transpose()?;
    Ok(Some(Header { of, first, other, most: written.most, without_query }))
}

fn field(of: Head, text: &str, names: &mut Names) -> Result<Field, LineFormatProblem> {
    let lower = text.to_ascii_lowercase();
    Ok(match (of, lower.as_str()) {
        (Head::Request, ":method") => Field::Method,
        (Head::Request, ":path") => Field::Path,
        (Head::Request, ":authority" | "host") => Field::Authority,
        (Head::Request, ":scheme") => Field::Scheme,
        (Head::Response, ":status") => Field::Status,
        (_, pseudo) if pseudo.starts_with(':') => Field::Never,
        (_, name) => {
            let name: HeaderName = name.parse().map_err(|_| LineFormatProblem::NoHeader)?;
            let list = match of {
                Head::Request => &mut names.request,
                Head::Response => &mut names.response,
                Head::Trailers => &mut names.trailers,
            };
            let known = list.iter().position(|known| *known == name);
            Field::Kept(known.unwrap_or_else(|| {
                list.push(name);
                list.len() - 1
            }))
        }
    })
}

impl Header {
    fn value<'v>(&self, entry: &'v Entry<'_>) -> Value<'v> {
        if self.first == Field::Status && entry.code != 0 {
            return Value::Number(entry.code.into());
        }
        let found = self.find(self.first, entry);
        let found = found.or_else(|| self.other.and_then(|other| self.find(other, entry)));
        let Some(bytes) = found else { return Value::Missing };
        let path = bytes.split(|byte| *byte == b'?').next().unwrap_or(bytes);
        let bytes = if self.without_query { path } else { bytes };
        Value::Bytes(self.most.and_then(|most| bytes.get(..most)).unwrap_or(bytes))
    }

    fn find<'v>(&self, field: Field, entry: &'v Entry<'_>) -> Option<&'v [u8]> {
        let request = entry.request.as_ref();
        let text = match field {
            Field::Method => request?.method,
            Field::Path => request?.path,
            Field::Authority => request?.authority,
            Field::Scheme => request?.scheme,
            Field::Status | Field::Never => return None,
            Field::Kept(index) => {
                let kept: &Kept = match self.of {
                    Head::Request => entry.request_headers,
                    Head::Response => entry.response_headers,
                    Head::Trailers => entry.trailers,
                };
                return kept.value(index).map(http::HeaderValue::as_bytes);
            }
        };
        Some(text.as_bytes()).filter(|text| !text.is_empty())
    }
}

/// The names of the statuses of gRPC (grpc/doc/statuscodes.md), as Envoy writes them.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl GrpcForm {
    fn of(self, status: u8) -> Value<'static> {
        match (self, GRPC.get(usize::from(status))) {
            (Self::Camel, Some((camel, _))) => Value::Text(camel),
            (Self::Snake, Some((_, snake))) => Value::Text(snake),
            (Self::Number, _) | (_, None) => Value::Number(status.into()),
        }
    }
}

/// The value of an operator.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'v> {
    Missing,
    Number(u64),
    Text(&'v str),
    /// With `_` for each space.
    Unspaced(&'v str),
    Bytes(&'v [u8]),
    Address(SocketAddr),
    Ip(IpAddr),
    Cluster(&'v ClusterKey),
    Time(At<'v>),
}

impl<'v> Value<'v> {
    fn text(text: Option<&'v str>) -> Self {
        text.map_or(Self::Missing, Self::Text)
    }
}

impl Display for Value<'_> {
    /// As it is, without escapes; `-` where it is missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("-"),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Unspaced(text) => text.split(' ').enumerate().try_for_each(|(n, word)| {
                f.write_str(if n == 0 { "" } else { "_" })?;
                f.write_str(word)
            }),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Address(address) => address.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Time(at) => at.fmt(f),
        }
    }
}
