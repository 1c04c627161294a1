//! The address of an admin API.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// An address, or the path of a unix socket. Prints as it is written: `127.0.0.1:15000`, `unix:/run/underpass/admin.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// HTTP over TCP.
    Tcp(SocketAddr),
    /// HTTP over a unix socket.
    Unix(PathBuf),
}

impl Target {
    /// The address, where it is one.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

/// The text names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write ADDRESS:PORT, such as 127.0.0.1:15000, or unix:PATH")]
pub struct ParseTargetError;

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err(ParseTargetError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| ParseTargetError),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for text in ["127.0.0.1:15000", "[::1]:15000", "unix:/run/underpass/admin.sock", "unix:relative"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "localhost:15000", "/run/underpass/admin.sock", "http://127.0.0.1:15000"] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
