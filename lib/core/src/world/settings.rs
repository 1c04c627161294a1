//! Settings of the whole mesh, which no object has. They stand beside the facts, so that another trust domain or
//! root namespace rewrites none of them.

use std::sync::Arc;

use serde::Serialize;

use crate::{TrustDomain, enrol::EnrolledBy, http::PathNormalization};

/// Settings of the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeshSettings {
    /// The name of this cluster, in the uids of its workloads. Default `Kubernetes`.
    pub cluster: Arc<str>,
    /// The namespace of mesh-wide policy. Default `istio-system`.
    pub root_namespace: Arc<str>,
    /// The trust domain of this mesh. Default `cluster.local`.
    pub trust_domain: TrustDomain,
    /// Trust domains whose identities are accepted as the mesh's own, and that policies may name instead.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// The DNS suffix of services. Default `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// `istio-injection` and `sidecar.istio.io/inject` enrol too. Default true.
    pub sidecar_keys: bool,
    /// How far paths are normalised before policies, routes and applications read them. Default `BASE`.
    pub path_normalization: PathNormalization,
    /// What enrols pods. Default the keys of pods and namespaces.
    pub enrolled_by: EnrolledBy,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            cluster: "Kubernetes".into(),
            root_namespace: "istio-system".into(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            cluster_domain: "cluster.local".into(),
            sidecar_keys: true,
            path_normalization: PathNormalization::default(),
            enrolled_by: EnrolledBy::default(),
        }
    }
}

impl MeshSettings {
    /// The trust domain and its aliases.
    pub fn own_trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.trust_domain).chain(&self.trust_domain_aliases)
    }

    /// Identities of this trust domain are of this mesh.
    #[must_use]
    pub fn is_own(&self, trust_domain: &TrustDomain) -> bool {
        self.own_trust_domains().any(|own| own == trust_domain)
    }
}
