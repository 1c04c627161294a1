//! The application protocol of a Service's port, as its `appProtocol` or its name says. Its own file because a waypoint treats
//! HTTP request by request and everything else as bytes, and must not have to guess where it was told.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The application protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppProtocol {
    /// Nothing that is known is said: a waypoint looks at the first bytes.
    #[default]
    Unknown,
    /// HTTP/1.
    Http11,
    /// HTTP/2.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
    /// TLS of the application's own: bytes.
    Tls,
}

/// Ports of protocols whose servers speak first, as a rule without a name: SMTP, DNS, MySQL, MongoDB. As in Istio.
const WELL_KNOWN_TCP: [u16; 4] = [25, 53, 3306, 27017];

impl AppProtocol {
    /// Of a port: what `appProtocol` says counts alone, else the name up to its first `-`, else the number.
    #[must_use]
    pub fn of_port(app_protocol: Option<&str>, name: &str, number: u16) -> Self {
        match app_protocol.filter(|said| !said.is_empty()) {
            Some(said) => said.parse().unwrap_or_default(),
            None => match of_name(name) {
                Self::Unknown if WELL_KNOWN_TCP.contains(&number) => Self::Tcp,
                said => said,
            },
        }
    }

    /// The word that a port's name would begin with; none: nothing that is known is said.
    #[must_use]
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Http11 => Some("http"),
            Self::Http2 => Some("http2"),
            Self::Grpc => Some("grpc"),
            Self::Tcp => Some("tcp"),
            Self::Tls => Some("tls"),
        }
    }

    /// It is carried request by request.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http11 | Self::Http2 | Self::Grpc)
    }
}

fn of_name(name: &str) -> AppProtocol {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return AppProtocol::Http11;
    }
    name.split('-').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// A word that names no protocol that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no known application protocol")]
pub struct UnknownAppProtocol;

impl FromStr for AppProtocol {
    type Err = UnknownAppProtocol;

    /// A value of `appProtocol`, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            // gRPC-Web is HTTP of either version.
            "http" | "grpc-web" | "kubernetes.io/ws" => Ok(Self::Http11),
            "http2" | "h2c" | "kubernetes.io/h2c" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" | "mongo" | "mysql" | "redis" | "hbone" => Ok(Self::Tcp),
            "https" | "tls" | "kubernetes.io/wss" => Ok(Self::Tls),
            _ => Err(UnknownAppProtocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_of_ports() {
        use AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
        let check = |said: Option<&str>, name: &str, number, expect| {
            assert_eq!(AppProtocol::of_port(said, name, number), expect, "{said:?} {name} {number}");
        };
        check(None, "http", 80, Http11);
        check(None, "http-admin", 80, Http11);
        check(None, "HTTP2-x", 80, Http2);
        check(None, "grpc", 80, Grpc);
        check(None, "grpc-web", 80, Http11);
        check(None, "grpc-web-x", 80, Http11);
        check(None, "grpc-webs", 80, Grpc);
        check(None, "https", 443, Tls);
        check(None, "tls-x", 443, Tls);
        check(None, "redis", 6379, Tcp);
        check(None, "httpx", 80, Unknown);
        check(None, "", 80, Unknown);
        check(None, "", 3306, Tcp);
        check(None, "http", 3306, Http11);
        check(Some("kubernetes.io/h2c"), "http", 80, Http2);
        check(Some("kubernetes.io/wss"), "", 80, Tls);
        check(Some("tcp"), "http", 80, Tcp);
        check(Some("example.com/own"), "http", 80, Unknown);
        check(Some("example.com/own"), "", 3306, Unknown);
        check(Some(""), "http", 80, Http11);
    }
}
