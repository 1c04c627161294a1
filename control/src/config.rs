//! The settings of `underpass-control`: flags, or environment variables.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Parser};
use underpass_core::{
    TrustDomain,
    enrol::EnrolledBy,
    world::{Account, MeshSettings},
};
use underpass_telemetry::{Format, log::Filter};

/// The Underpass control plane: facts of the mesh for every node by Istio's workload xDS, and certificates by Istio's
/// certificate API.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-control", version)]
pub struct Config {
    /// The namespace of the control plane: of its Secrets, and in its own name.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "underpass-system")]
    pub namespace: String,

    /// The name of its Service: agents find it as NAME.NAMESPACE.svc.
    #[arg(long, env = "UNDERPASS_SERVICE", value_name = "NAME", default_value = "underpass-control")]
    pub service: String,

    /// Further DNS names in its certificate, such as istiod.istio-system.svc for a ztunnel.
    #[arg(long, env = "UNDERPASS_DNS_NAMES", value_name = "NAME", value_delimiter = ',')]
    pub dns_names: Vec<String>,

    /// A kubeconfig for the API server; by default the service account of its own pod.
    #[arg(long, env = "UNDERPASS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The address of xDS and of the certificate API: gRPC over TLS.
    #[arg(long, env = "UNDERPASS_XDS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15012")]
    pub xds_address: SocketAddr,

    /// The address of admission: an API server asks about policies at `/validate`, by HTTPS.
    #[arg(long, env = "UNDERPASS_ADMISSION_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15017")]
    pub admission_address: SocketAddr,

    /// The ValidatingWebhookConfiguration by which API servers find it: its roots are kept up to date, where it exists.
    #[arg(long, env = "UNDERPASS_ADMISSION_WEBHOOK", value_name = "NAME", default_value = "underpass")]
    pub admission_webhook: String,

    /// The address of readiness, `/healthz/ready`, and of metrics, `/metrics`.
    #[arg(long, env = "UNDERPASS_MONITORING_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15014")]
    pub monitoring_address: SocketAddr,

    /// Service accounts (NAMESPACE/NAME) that may ask for the identities of pods on their own node: agents. By default
    /// underpass-agent in the namespace of the control plane.
    #[arg(long, env = "UNDERPASS_TRUSTED_NODE_ACCOUNTS", value_name = "ACCOUNT", value_delimiter = ',', value_parser = account)]
    pub trusted_node_accounts: Vec<Account>,

    /// The longest lifetime of a workload's certificate, and that of one whose request names none.
    #[arg(long, env = "UNDERPASS_CERTIFICATE_LIFETIME", value_name = "SECONDS", default_value = "86400", value_parser = seconds)]
    pub certificate_lifetime: Duration,

    /// Take the taint underpass.dev/agent-not-ready from a node once its agent is ready. Needs the right to patch nodes.
    #[arg(long, env = "UNDERPASS_REMOVE_STARTUP_TAINT", value_name = "true|false", default_value_t = true, action = ArgAction::Set)]
    pub remove_startup_taint: bool,

    /// The name of the cluster, in the uids of its workloads.
    #[arg(long, env = "UNDERPASS_CLUSTER", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster: String,

    /// The trust domain of the mesh.
    #[arg(long, env = "UNDERPASS_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// Trust domains that count as the same as the mesh's own.
    #[arg(long, env = "UNDERPASS_TRUST_DOMAIN_ALIASES", value_name = "NAME", value_delimiter = ',')]
    pub trust_domain_aliases: Vec<TrustDomain>,

    /// The namespace of policies for the whole mesh.
    #[arg(long, env = "UNDERPASS_ROOT_NAMESPACE", value_name = "NAME", default_value = "istio-system")]
    pub root_namespace: String,

    /// The DNS suffix of services.
    #[arg(long, env = "UNDERPASS_CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// The longest time that open streams may take to end after the process was asked to end, in seconds.
    #[arg(long, env = "UNDERPASS_DRAIN", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain: Duration,

    /// The format of its log, on standard error.
    #[arg(long, env = "UNDERPASS_LOG_FORMAT", value_name = "text|json", default_value_t = Format::Text)]
    pub log_format: Format,

    /// The filter of its log: a level, or levels by target, such as `info,underpass_xds=debug`.
    #[arg(long, env = "UNDERPASS_LOG", value_name = "FILTER", default_value_t = Filter::default())]
    pub log: Filter,
}

impl Config {
    /// The settings of the whole mesh. Pods are enrolled by the word of their nodes.
    #[must_use]
    pub fn mesh(&self) -> MeshSettings {
        MeshSettings {
            cluster: self.cluster.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_aliases.clone(),
            cluster_domain: self.cluster_domain.as_str().into(),
            // Only for the labels that nodes go by.
            sidecar_keys: true,
            enrolled_by: EnrolledBy::Redirection,
            ..MeshSettings::default()
        }
    }

    /// The accounts of agents.
    #[must_use]
    pub fn agents(&self) -> BTreeSet<Account> {
        if self.trusted_node_accounts.is_empty() {
            let own = Account { namespace: self.namespace.as_str().into(), name: "underpass-agent".into() };
            return BTreeSet::from([own]);
        }
        self.trusted_node_accounts.iter().cloned().collect()
    }

    /// The DNS names by which it is found.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let Self { service, namespace, cluster_domain, .. } = self;
        let own = [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{cluster_domain}"),
            format!("{service}.{namespace}"),
        ];
        own.into_iter().chain(self.dns_names.iter().cloned()).collect()
    }
}

fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Account { namespace: namespace.into(), name: name.into() })
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches('s').parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err("write a number of seconds, at least 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("underpass-control").chain(args.iter().copied());
        Config::try_parse_from(args).map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_accounts_follow_the_namespace() {
        let config = parse(&["--namespace=mesh", "--dns-names=istiod.istio-system.svc"]).unwrap();
        let own = ["underpass-control.mesh.svc", "underpass-control.mesh.svc.cluster.local", "underpass-control.mesh"];
        assert_eq!(config.names(), [&own[..], &["istiod.istio-system.svc"]].concat());
        let account = |namespace: &str, name: &str| Account { namespace: namespace.into(), name: name.into() };
        assert_eq!(config.agents(), BTreeSet::from([account("mesh", "underpass-agent")]));
        let config = parse(&["--trusted-node-accounts=a/b,istio-system/ztunnel"]).unwrap();
        assert_eq!(config.agents(), BTreeSet::from([account("a", "b"), account("istio-system", "ztunnel")]));
        assert_eq!(config.mesh().enrolled_by, EnrolledBy::Redirection);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in
            ["--trusted-node-accounts=a", "--trusted-node-accounts=a/b/c", "--certificate-lifetime=0", "--drain=x"]
        {
            let error = parse(&[bad]).unwrap_err();
            assert!(error.contains("write "), "{error}");
        }
    }
}
