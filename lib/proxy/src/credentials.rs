//! The certificates of a worker, and the TLS configurations made of them. A module of its own because of two promises: under a
//! certificate that has expired nothing new begins, and no configuration keeps the key of one that was replaced.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::SystemTime};

use underpass_core::{Identities, Identity, Reason, world::MeshSettings};
use underpass_identity::{Credential, Roots, Serial};
use underpass_net::tls::{ClientConfig, ConfigError, Configs, ServerConfig, TrustDomains};

/// The certificates of the identities of one process, and the roots of the mesh. Replaced as a whole.
#[derive(Debug)]
pub struct Credentials {
    /// The roots of the mesh.
    pub roots: Arc<Roots>,
    /// By identity.
    pub own: BTreeMap<Identity, Arc<Credential>>,
}

/// The current credentials of one worker, with its cache of TLS configurations.
#[derive(Debug)]
pub struct CredentialStore {
    current: RefCell<Arc<Credentials>>,
    configs: RefCell<Configs>,
    /// The trust domains whose identities are accepted: the mesh's.
    accepted: RefCell<TrustDomains>,
}

/// The difference between one set of credentials and the next.
#[must_use = "tunnels of identities that are gone have to end, and peers to be verified again"]
#[derive(Debug)]
pub struct Change {
    /// Identities that have no certificate any more: their tunnels end.
    pub gone: Vec<Identity>,
    /// The bundle of roots where it is another one: peers are verified again.
    pub roots: Option<Arc<Roots>>,
}

impl CredentialStore {
    /// A store of these credentials that accepts workloads of this mesh.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>, configs: Configs, mesh: &MeshSettings) -> Self {
        Self {
            current: RefCell::new(credentials),
            configs: RefCell::new(configs),
            accepted: RefCell::new(trust_domains(mesh)),
        }
    }

    /// The certificate of an identity; none where it has expired.
    #[must_use]
    pub fn credential(&self, identity: &Identity, now: SystemTime) -> Option<Arc<Credential>> {
        self.current.borrow().own.get(identity).filter(|own| now <= own.not_after()).cloned()
    }

    /// The configuration with which the owner of `credential` connects to one of `expected`.
    ///
    /// # Errors
    /// [`Reason::NoCertificate`] where certificate or roots are unusable.
    pub fn client(&self, credential: &Credential, expected: &Identities) -> Result<ClientConfig, Reason> {
        let config = self.configs.borrow_mut().client(credential, expected, &self.current.borrow().roots);
        config.map_err(|error| unusable(credential, &error))
    }

    /// The configuration with which the owner of `credential` accepts workloads of the mesh.
    ///
    /// # Errors
    /// [`Reason::NoCertificate`] where certificate or roots are unusable.
    pub fn server(&self, credential: &Credential) -> Result<ServerConfig, Reason> {
        let (accepted, current) = (self.accepted.borrow(), self.current.borrow());
        let config = self.configs.borrow_mut().server(credential, &accepted, &current.roots);
        config.map_err(|error| unusable(credential, &error))
    }

    /// Accepts workloads of this mesh from now on.
    pub fn accept(&self, mesh: &MeshSettings) {
        self.accepted.replace(trust_domains(mesh));
    }

    /// Replaces the credentials. A configuration keeps its key alive, so it is dropped with its certificate.
    pub fn exchange(&self, credentials: &Arc<Credentials>) -> Change {
        let old = self.current.replace(Arc::clone(credentials));
        let is_current = |serial: &Serial| credentials.own.values().any(|own| own.serial() == serial);
        let replaced = old.own.values().map(|own| own.serial()).filter(|serial| !is_current(serial));
        replaced.for_each(|serial| self.configs.borrow_mut().forget(serial));
        let has_other_roots = old.roots.generation() != credentials.roots.generation();
        Change {
            gone: old.own.keys().filter(|identity| !credentials.own.contains_key(*identity)).cloned().collect(),
            roots: has_other_roots.then(|| Arc::clone(&credentials.roots)),
        }
    }

    /// True if these are the current credentials.
    #[must_use]
    pub fn is(&self, credentials: &Arc<Credentials>) -> bool {
        Arc::ptr_eq(&self.current.borrow(), credentials)
    }
}

fn trust_domains(mesh: &MeshSettings) -> TrustDomains {
    TrustDomains::new(mesh.trust_domain.clone(), mesh.trust_domain_aliases.iter().cloned())
}

fn unusable(credential: &Credential, error: &ConfigError) -> Reason {
    tracing::warn!(%error, identity = %credential.identity(), "TLS configuration failed");
    Reason::NoCertificate
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use underpass_identity::testing::{Leaf, TestCa, now};

    use super::*;

    const A: &str = "spiffe://cluster.local/ns/default/sa/a";
    const B: &str = "spiffe://cluster.local/ns/default/sa/b";

    fn id(uri: &str) -> Identity {
        uri.parse().unwrap()
    }

    fn credentials(ca: &TestCa, generation: u64, own: &[&str]) -> Arc<Credentials> {
        let one = |uri: &&str| (id(uri), Arc::new(ca.credential(&Leaf::of(uri))));
        Arc::new(Credentials { roots: Arc::new(ca.roots(generation)), own: own.iter().map(one).collect() })
    }

    fn store(first: &Arc<Credentials>) -> CredentialStore {
        let configs = Configs::new(underpass_net::tls::Settings::default()).unwrap();
        CredentialStore::new(Arc::clone(first), configs, &MeshSettings::default())
    }

    #[test]
    fn a_change_names_identities_that_are_gone_and_other_roots() {
        let ca = TestCa::new("root");
        let first = credentials(&ca, 1, &[A, B]);
        let store = store(&first);
        for (next, gone, has_roots) in [
            (credentials(&ca, 1, &[A, B]), vec![], false),
            (credentials(&ca, 2, &[A]), vec![id(B)], true),
            (credentials(&ca, 2, &[]), vec![id(A)], false),
            (Arc::clone(&first), vec![], true),
        ] {
            assert!(!store.is(&next));
            let change = store.exchange(&next);
            assert_eq!((change.gone, change.roots.is_some()), (gone, has_roots));
            assert!(store.is(&next));
        }
    }

    #[test]
    fn nothing_begins_under_a_certificate_that_has_expired() {
        let ca = TestCa::new("root");
        let store = store(&credentials(&ca, 1, &[A]));
        let until = store.credential(&id(A), now()).expect("valid").not_after();
        assert!(store.credential(&id(A), until).is_some());
        assert!(store.credential(&id(A), until + Duration::from_secs(1)).is_none());
        assert!(store.credential(&id(B), now()).is_none());
    }

    #[test]
    fn the_key_of_a_replaced_certificate_is_forgotten() {
        let ca = TestCa::new("root");
        let first = credentials(&ca, 1, &[A, B]);
        let store = store(&first);
        let expected = Identities::from(id(B));
        for identity in [A, B] {
            let own = store.credential(&id(identity), now()).expect("valid");
            store.client(&own, &expected).expect("usable");
            store.server(&own).expect("usable");
        }
        assert_eq!(store.configs.borrow().len(), 4);
        let (kept, roots) = (Arc::clone(&first.own[&id(B)]), Arc::clone(&first.roots));
        let renewed = Arc::new(ca.credential(&Leaf::of(A)));
        let own = BTreeMap::from([(id(A), renewed), (id(B), kept)]);
        let change = store.exchange(&Arc::new(Credentials { roots, own }));
        assert!(change.gone.is_empty());
        assert_eq!(store.configs.borrow().len(), 2, "those of b");
    }
}
