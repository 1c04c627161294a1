//! The source of a connection that a waypoint carries on, as the waypoint names it in a header of its CONNECT. Its own file
//! because both ends go by it: the waypoint that writes it, and the destination, which believes it from its waypoint alone.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::Serialize;

use crate::{Identity, addr::canonical};

/// The header of a CONNECT in which a waypoint names the source that it calls for.
pub const NAMED_SOURCE_HEADER: &str = "x-underpass-source";

/// The source that a waypoint calls for. As text, in [`NAMED_SOURCE_HEADER`]: the identity's URI, a space, address and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct NamedSource {
    /// From the certificate that it showed to the waypoint.
    pub identity: Identity,
    /// The other end of its connection to the waypoint, canonical.
    pub address: SocketAddr,
}

impl fmt::Display for NamedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.identity, self.address)
    }
}

/// A text that names no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNamedSourceError {
    /// Not an identity, a space and an address.
    #[error("not an identity and an address, with a space between them")]
    Form,
    /// The identity is none.
    #[error("not the URI of a workload's identity")]
    Identity,
    /// The address is none.
    #[error("not an address and a port")]
    Address,
}

impl FromStr for NamedSource {
    type Err = ParseNamedSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (identity, address) = text.split_once(' ').ok_or(ParseNamedSourceError::Form)?;
        let identity = identity.parse().map_err(|_| ParseNamedSourceError::Identity)?;
        let address: SocketAddr = address.parse().map_err(|_| ParseNamedSourceError::Address)?;
        Ok(Self { identity, address: canonical(address) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/front/sa/web";

    #[test]
    fn what_is_written_is_read() {
        for address in ["10.0.0.1:40000", "[fd00::1]:40000"] {
            let source = NamedSource { identity: WEB.parse().unwrap(), address: address.parse().unwrap() };
            assert_eq!(source.to_string(), format!("{WEB} {address}"));
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        let mapped: NamedSource = format!("{WEB} [::ffff:10.0.0.1]:4").parse().unwrap();
        assert_eq!(mapped.address, "10.0.0.1:4".parse().unwrap());
    }

    #[test]
    fn anything_else_names_no_source() {
        use ParseNamedSourceError as E;
        let check = |text: &str, error| assert_eq!(text.parse::<NamedSource>(), Err(error), "{text}");
        check("", E::Form);
        check(WEB, E::Form);
        check(" 10.0.0.1:1", E::Identity);
        check("spiffe://cluster.local/x 10.0.0.1:1", E::Identity);
        check(&format!("{WEB} 10.0.0.1"), E::Address);
        check(&format!("{WEB}  10.0.0.1:1"), E::Address);
        check(&format!("{WEB} 10.0.0.1:1 x"), E::Address);
    }
}
