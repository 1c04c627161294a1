//! Mutual TLS 1.3 between two workloads, without IO. The only module that knows rustls.
//!
//! * [`config`]: configurations, made of credentials, roots and expected peers, and their cache.
//! * [`verify`]: verification of the peer's certificate, and the reasons to refuse it.
//! * [`session`]: one connection as a sans-IO state machine.
//!
//! What must hold: a session is connected only with a peer whose chain leads to our roots, is valid now and names one
//! of the identities that may answer; with ALPN `h2`; never resumed, because resumption would skip all of that.

pub mod config;
pub mod session;
pub mod verify;

#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use config::{Cipher, ClientConfig, ConfigError, Configs, ServerConfig, Settings};
pub use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
pub use session::{Event, Outgoing, Session, SessionError};
pub use verify::{PeerInfo, TrustDomains, VerifyError};
