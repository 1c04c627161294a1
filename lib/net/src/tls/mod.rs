//! TLS 1.3: mutual between two workloads, without IO; and between a node and the control plane. The only module that knows
//! rustls.
//!
//! * [`config`]: configurations, made of credentials, roots and expected peers, and their cache.
//! * [`verify`]: verification of the peer's certificate, and the reasons to refuse it.
//! * [`session`]: one connection as a sans-IO state machine.
//! * [`hello`]: the server name that a client asks for whose TLS ends elsewhere.
//! * [`origination`]: connections with servers outside the mesh, as a DestinationRule asks for.
//! * [`stream`]: connections with the control plane, whose server is known by a name, over anything that carries bytes.
//!
//! What must hold: a session is connected only with a peer whose chain leads to our roots, is valid now and names one
//! of the identities that may answer; with ALPN `h2`; never resumed, because resumption would skip all of that.

pub mod config;
pub mod hello;
pub mod origination;
pub mod session;
pub mod stream;
pub mod verify;

#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use config::{Cipher, ClientConfig, ConfigError, Configs, ServerConfig, Settings};
pub use hello::{Hello, HelloReader};
pub use origination::{Originator, Rule, RuleError};
pub use rustls::{
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
};
pub use session::{Event, Outgoing, Session, SessionError};
pub use stream::{Acceptor, Connector, HandshakeError, Protocol, Stream};
pub use verify::{PeerInfo, TrustDomains, VerifyError};
