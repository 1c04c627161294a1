//! The CA, as a Secret of the control plane's namespace: `cacerts`, where its owner has plugged one in, in Istio's form; else
//! `underpass-ca`, which the first replica makes, and which all replicas have.
//!
//! The root of ours is exchanged in steps ([`rotation`](underpass_identity::rotation)), by an operator's `underpass ca`.
//!
//! What must hold: which of the two it is, is decided once, at the start: one that appears later is another mesh's trust, and
//! needs a restart. A CA that cannot be used is never replaced by another one; the last good one goes on signing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::sleep};
use underpass_core::{ObjectName, TrustDomain};
use underpass_identity::{Authority, Cacerts, rotation::values::Values};
use underpass_kube::{
    Client,
    write::{Made, NewSecret, Secret, WatchedSecret},
};

use crate::chain;

/// The pause before another look where there is no CA.
const AGAIN: Duration = Duration::from_secs(2);

/// The location of the CA.
#[derive(Clone, Debug)]
pub struct Location {
    /// The namespace of the control plane.
    pub namespace: String,
    /// The trust domain of the identities that it certifies.
    pub trust_domain: TrustDomain,
}

/// The CA and its newest version.
pub type Newest = watch::Receiver<Arc<Authority>>;

impl Location {
    fn name(&self, secret: &str) -> ObjectName {
        ObjectName::new(self.namespace.as_str(), secret)
    }

    /// The CA, once there is a usable one. Its Secret is followed for as long as the answered task is polled.
    pub async fn open(self, client: Client) -> (Newest, impl Future<Output = ()> + Send) {
        let (name, authority) = self.first(&client).await;
        let root = authority.certificate().serial().clone();
        tracing::info!(secret = %name, signer = %root, not_after = ?authority.not_after(), "certificate authority opened");
        let (newest, receiver) = watch::channel(Arc::new(authority));
        (receiver, self.follow(client, name, newest))
    }

    async fn first(&self, client: &Client) -> (ObjectName, Authority) {
        let mut told = String::new();
        loop {
            match self.find(client).await {
                Ok(found) => return found,
                Err(error) => {
                    if told != error {
                        tracing::error!(%error, "no certificate authority");
                        told = error;
                    }
                }
            }
            sleep(AGAIN).await;
        }
    }

    async fn find(&self, client: &Client) -> Result<(ObjectName, Authority), String> {
        let plugged_in = self.name(Cacerts::SECRET);
        let secret = client.secret(&plugged_in).await.map_err(|e| chain(&e))?;
        let secret = match secret {
            Some(secret) => secret,
            None => self.own(client).await?,
        };
        let authority = self.read(&secret)?;
        Ok((secret.name, authority))
    }

    /// The one that was made here, by any replica.
    async fn own(&self, client: &Client) -> Result<Secret, String> {
        let name = self.name(Values::SECRET);
        if let Some(secret) = client.secret(&name).await.map_err(|e| chain(&e))? {
            return Ok(secret);
        }
        let text = Authority::make(&self.trust_domain, SystemTime::now()).map_err(|e| chain(&e))?;
        let data = [(Values::CA.to_owned(), text.as_bytes().to_vec().into())].into();
        let new = NewSecret { name, r#type: "Opaque".to_owned(), data };
        match client.create_or_get_secret(&new).await.map_err(|e| chain(&e))? {
            Made::Created(secret) => {
                tracing::info!(secret = %secret.name, "certificate authority made");
                Ok(secret)
            }
            Made::Found(secret) => Ok(secret),
        }
    }

    fn read(&self, secret: &Secret) -> Result<Authority, String> {
        let origin = format!("Secret {}", secret.name);
        let (value, now) = (|key: &str| secret.data.get(key).map(|value| value.as_slice()), SystemTime::now());
        let read = if secret.name.name() == Cacerts::SECRET {
            Cacerts::read(&origin, value)
                .and_then(|texts| Authority::plugged_in(&origin, &texts, &self.trust_domain, now))
        } else {
            Values::read(&origin, value)
                .and_then(|values| Authority::from_values(&origin, &values, &self.trust_domain, now))
        };
        read.map_err(|e| chain(&e))
    }

    async fn follow(self, client: Client, name: ObjectName, newest: watch::Sender<Arc<Authority>>) {
        let mut told = String::new();
        client
            .watch_secret(name.clone(), |seen| {
                let read = match seen {
                    WatchedSecret::Is(Some(secret)) => self.read(&secret),
                    WatchedSecret::Is(None) => Err(format!("Secret {name} is gone")),
                    WatchedSecret::Failing(error) => Err(error.to_string()),
                };
                match read {
                    Ok(authority) => {
                        told.clear();
                        replace(&newest, authority);
                    }
                    Err(error) if told != error => {
                        tracing::error!(%error, "certificate authority unreadable, the last one goes on signing");
                        told = error;
                    }
                    Err(_) => {}
                }
            })
            .await;
    }
}

/// Puts another version in the place of the last one.
fn replace(newest: &watch::Sender<Arc<Authority>>, authority: Authority) {
    let before = Arc::clone(&newest.borrow());
    let is_same = before.certificate().serial() == authority.certificate().serial()
        && before.root_certificates() == authority.root_certificates();
    if is_same {
        return;
    }
    let (old, new) = (before.root_certificates(), authority.root_certificates());
    if old.iter().any(|root| !new.contains(root)) {
        tracing::warn!("a root is no longer trusted: certificates that lead to it are refused from now on");
    }
    if !old.iter().any(|root| new.contains(root)) {
        tracing::warn!(
            "no root is trusted before and after: nodes that have not heard of the new ones refuse its certificates"
        );
    }
    tracing::info!(signer = %authority.certificate().serial(), roots = new.len(), "certificate authority changed");
    newest.send_replace(Arc::new(authority));
}
