//! Settings of the whole mesh, which are in no manifest: what an agent is told at its start.

use underpass_core::{TrustDomain, http::PathNormalization, world::MeshSettings};

/// Settings of the whole mesh, which are in no manifest.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The mesh, for answers without an agent")]
pub(crate) struct Mesh {
    /// The namespace of mesh-wide policy.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", value_parser = namespace)]
    root_namespace: String,
    /// The trust domain of its identities.
    #[arg(long, value_name = "DOMAIN", default_value_t)]
    trust_domain: TrustDomain,
    /// Trust domains that count as the mesh's own.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    trust_domain_aliases: Vec<TrustDomain>,
    /// The DNS suffix of its services.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    cluster_domain: String,
    /// How far waypoints normalise paths: NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES.
    #[arg(long, value_name = "MODE", default_value_t)]
    path_normalization: PathNormalization,
}

impl Mesh {
    pub(crate) fn settings(&self) -> MeshSettings {
        MeshSettings {
            root_namespace: self.root_namespace.as_str().into(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_aliases.clone(),
            cluster_domain: self.cluster_domain.as_str().into(),
            path_normalization: self.path_normalization,
            ..MeshSettings::default()
        }
    }
}

pub(super) fn namespace(text: &str) -> Result<String, &'static str> {
    if is_label(text) {
        Ok(text.to_owned())
    } else {
        Err("a namespace is 1 to 63 of a-z, 0-9 and `-`, which is not at an end")
    }
}

fn domain(text: &str) -> Result<String, &'static str> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err("a domain is labels of a-z, 0-9 and `-`, joined by `.`, without one at its end")
    }
}

/// RFC 1123, 2.1, in lower case, as Kubernetes names namespaces.
fn is_label(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(byte) && !text.starts_with('-') && !text.ends_with('-')
}
