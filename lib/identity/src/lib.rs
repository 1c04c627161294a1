//! Keys, certificate requests, chains, roots, the CA and the times at which certificates are renewed. A crate
//! of its own so that private keys and the writing of certificates have one small home: nothing here talks to a
//! network, the only IO is the CA's state directory ([`authority`]), and time is an argument.
//!
//! What must hold: a workload's key is never written anywhere and is wiped when dropped; a certificate that leaves
//! [`authority`] names one identity, the one that the caller gave, and nothing from the request.
//!
//! Randomness is an argument where it can be replayed ([`renewal`]); keys and serial numbers, which must be
//! unpredictable, come from the cryptographic library.

pub mod authority;
mod base64;
pub mod certificate;
pub mod chain;
pub mod credential;
pub mod error;
pub mod key;
pub mod renewal;
pub mod request;
pub mod roots;
pub mod rotation;
pub mod serving;
mod signing;
mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use authority::{Authority, CaFault, Cacerts, CacertsFault, CacertsKey};
pub use certificate::{Certificate, SanError, Serial};
pub use credential::Credential;
pub use error::{Error, RotationFault, StateFault};
pub use key::PrivateKey;
pub use renewal::Renewal;
pub use request::{CertificateRequest, RequestFault};
pub use roots::Roots;
pub use rustls_pki_types::CertificateDer;
pub use serving::ServingCertificate;
pub use state::Stamp;
