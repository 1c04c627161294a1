//! The certificate of a port of the control plane: by the mesh's CA, for the names of its Service, renewed at half of its
//! life and when the CA changes. Open connections go on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use underpass_core::{Identity, TrustDomain};
use underpass_identity::{Authority, Error, ServingCertificate};
use underpass_net::tls::{Acceptor, ConfigError, Protocol, Settings};

use super::source::Newest;
use crate::chain;

/// The lifetime of the certificate.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The time of a client for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The pause after a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// Whose certificate it is.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The names by which it is found.
    pub names: Vec<String>,
    /// Its own identity.
    pub identity: Identity,
}

/// A port without a certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The CA gave none.
    #[error("serving certificate")]
    Certificate(#[from] Error),
    /// It cannot be used.
    #[error("serving certificate")]
    Config(#[from] ConfigError),
}

impl Serving {
    /// Of the control plane in this namespace.
    #[must_use]
    pub fn new(names: Vec<String>, trust_domain: &TrustDomain, namespace: &str) -> Self {
        Self { names, identity: Identity::new(trust_domain, namespace, "underpass-control") }
    }

    fn certificate(&self, authority: &Authority) -> Result<ServingCertificate, Error> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        authority.serving(&names, &self.identity, LIFETIME, SystemTime::now())
    }

    /// What accepts connections of this protocol, and the task that renews its certificate.
    ///
    /// # Errors
    /// There is no certificate.
    pub fn start(
        self,
        mut authority: Newest,
        protocol: Protocol,
    ) -> Result<(Arc<Acceptor>, impl Future<Output = ()> + Send), ServingError> {
        let first = self.certificate(&authority.borrow_and_update().clone())?;
        let acceptor = Arc::new(Acceptor::new(&first, &Settings::default(), HANDSHAKE, protocol)?);
        let renewed = Arc::clone(&acceptor);
        let renew = async move {
            let mut pause = half_life(&first);
            loop {
                tokio::select! {
                    changed = authority.changed() => if changed.is_err() { return },
                    () = sleep(pause) => {}
                }
                let newest = Arc::clone(&authority.borrow_and_update());
                let exchanged = self.certificate(&newest).map_err(ServingError::from).and_then(|certificate| {
                    renewed.exchange(&certificate)?;
                    Ok(certificate)
                });
                pause = match exchanged {
                    Ok(certificate) => half_life(&certificate),
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "serving certificate not renewed");
                        AGAIN
                    }
                };
            }
        };
        Ok((acceptor, renew))
    }
}

fn half_life(certificate: &ServingCertificate) -> Duration {
    let left = certificate.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    (left / 2).max(Duration::from_secs(1))
}
