//! Why there is no admin API.

use std::{io, net::SocketAddr};

use super::Target;

/// Why there is no admin API.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It would be reachable from elsewhere.
    #[error(
        "the admin API is not served on {address}: it answers everybody who can reach it, so it needs a loopback address such as 127.0.0.1"
    )]
    NotLoopback {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {target}: {source}")]
    Listen {
        /// What was asked for.
        target: Target,
        /// Why not.
        source: io::Error,
    },
}
