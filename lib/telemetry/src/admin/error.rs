//! The error of an admin API that cannot be served.

use std::{io, net::SocketAddr};

use super::Target;

/// The reason why an admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It would be reachable from other machines.
    #[error(
        "cannot serve the admin API on {address}: it has no authentication, so it needs a loopback address such as 127.0.0.1"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {target}: {source}")]
    Listen {
        /// The address.
        target: Target,
        /// The cause.
        source: io::Error,
    },
}
