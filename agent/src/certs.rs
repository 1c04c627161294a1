//! The certificates of the pods on this node: asked for before a pod is enrolled, renewed at half-life, kept while they
//! are valid if renewal fails, dropped with the last pod of their identity. Keys are made here and never written.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use underpass_core::Identity;
use underpass_identity::{Authority, Credential, Renewal, Roots};
use underpass_ztunnel::Credentials;

/// How long to sleep where nothing is due: something is looked at again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

struct Entry {
    credential: Option<Arc<Credential>>,
    renewal: Renewal,
}

/// Keeps the certificates of this node.
pub struct Certs {
    authority: Authority,
    lifetime: Duration,
    entries: BTreeMap<Identity, Entry>,
    roots: Arc<Roots>,
    published: watch::Sender<Arc<Credentials>>,
    random: RandomState,
}

impl std::fmt::Debug for Certs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certs").field("identities", &self.entries.keys()).finish_non_exhaustive()
    }
}

impl Certs {
    /// With this authority, and no identity yet.
    ///
    /// # Errors
    /// Where the authority has no usable root.
    pub fn new(authority: Authority, lifetime: Duration) -> Result<Self, underpass_identity::Error> {
        let roots = Arc::new(authority.roots(0)?);
        let (published, _) = watch::channel(Arc::new(Credentials { roots: Arc::clone(&roots), own: BTreeMap::new() }));
        Ok(Self { authority, lifetime, entries: BTreeMap::new(), roots, published, random: RandomState::new() })
    }

    /// What the tunnel uses, newest.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.published.subscribe()
    }

    /// Certificates that are asked for from now on are valid for so long.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// From now on exactly these identities have certificates: new ones are asked for, others are dropped.
    pub fn want(&mut self, identities: &BTreeSet<Identity>, now: SystemTime) {
        let before = self.entries.len();
        self.entries.retain(|identity, _| identities.contains(identity));
        let mut changed = before != self.entries.len();
        for identity in identities.iter().filter(|identity| identity.is_issuable()) {
            if !self.entries.contains_key(identity) {
                self.entries.insert(identity.clone(), Entry { credential: None, renewal: Renewal::first(now) });
                changed = true;
            }
        }
        if changed {
            self.renew(now);
            self.publish();
        }
    }

    /// Asks for what is due. Returns when to come again.
    pub fn look(&mut self, now: SystemTime) -> SystemTime {
        if self.renew(now) {
            self.publish();
        }
        let next = self.entries.values().map(|entry| entry.renewal.due()).min();
        next.unwrap_or(now + LOOK_AGAIN).min(now + LOOK_AGAIN)
    }

    fn renew(&mut self, now: SystemTime) -> bool {
        let mut changed = false;
        for (identity, entry) in &mut self.entries {
            if entry.renewal.due() > now {
                continue;
            }
            let random = self.random.hash_one((identity.uri(), now));
            match self.authority.credential(identity, self.lifetime, now) {
                Ok(credential) => {
                    tracing::debug!(%identity, "certificate issued");
                    entry.renewal = Renewal::issued(now, credential.not_after(), random);
                    entry.credential = Some(Arc::new(credential));
                    changed = true;
                }
                Err(error) => {
                    entry.renewal = entry.renewal.failed(now, random);
                    tracing::error!(%identity, %error, failures = entry.renewal.failures(), "no certificate");
                    if entry.renewal.is_expired(now) {
                        changed |= entry.credential.take().is_some();
                    }
                }
            }
        }
        changed
    }

    fn publish(&self) {
        let own = self.entries.iter().filter_map(|(identity, entry)| {
            entry.credential.as_ref().map(|credential| (identity.clone(), Arc::clone(credential)))
        });
        let credentials = Credentials { roots: Arc::clone(&self.roots), own: own.collect() };
        self.published.send_replace(Arc::new(credentials));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap()
    }

    #[test]
    fn certificates_come_renew_and_go() {
        let dir = std::env::temp_dir().join(format!("underpass-certs-{}", std::process::id()));
        let mut now = SystemTime::now();
        let authority = Authority::open(&dir, &"cluster.local".parse().unwrap(), now).unwrap();
        let mut certs = Certs::new(authority, Duration::from_secs(60)).unwrap();
        let seen = certs.subscribe();
        let (a, b) = (identity("a"), identity("b"));

        certs.want(&[a.clone(), b.clone()].into(), now);
        assert_eq!(seen.borrow().own.keys().cloned().collect::<Vec<_>>(), [a.clone(), b.clone()]);
        let first = Arc::clone(&seen.borrow().own[&a]);

        let due = certs.look(now);
        let half = now + Duration::from_secs(30);
        assert!(due > half - Duration::from_secs(5) && due < half + Duration::from_secs(5), "at half-life");
        assert_eq!(seen.borrow().own[&a].serial(), first.serial(), "not before it is due");
        now = half + Duration::from_secs(5);
        certs.look(now);
        assert_ne!(seen.borrow().own[&a].serial(), first.serial(), "renewed");

        certs.want(&[b.clone()].into(), now);
        assert_eq!(seen.borrow().own.keys().cloned().collect::<Vec<_>>(), [b], "dropped with its last pod");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
