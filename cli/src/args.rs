//! What can be asked, as clap reads it.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use underpass_core::{TrustDomain, world::MeshSettings};

/// Underpass: a service mesh without sidecars.
#[derive(Debug, Parser)]
#[command(name = "underpass", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Explain(Explain),
}

/// Say what happens to a connection, step by step, and which object decides.
///
/// Reads a directory of manifests and asks the same functions that decide about connections. Needs no cluster, no agent
/// and no root.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 the connection is allowed, 2 it is denied, 1 there is no answer.\n\
    Problems of the manifests go to standard error, one per line.\n\n\
    Examples:\n  \
    underpass explain -f deploy/samples/bookinfo bookinfo/productpage-v1 reviews:9080\n  \
    underpass explain -f mesh/ 10.0.1.7 shop/cart:8080 -o json")]
pub(crate) struct Explain {
    /// The directory of manifests, or one file.
    #[arg(short = 'f', long = "filename", value_name = "DIR")]
    pub(crate) filename: PathBuf,
    /// Who connects: namespace/pod, or an address.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Where to: namespace/pod, a service's name or host, or an address ([..] around IPv6), and the port.
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,
    /// How the answer is written.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What holds for the whole mesh and stands in no manifest.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The mesh")]
pub(crate) struct Mesh {
    /// Where mesh-wide policy stands.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", value_parser = namespace)]
    root_namespace: String,
    /// The trust domain of its identities.
    #[arg(long, value_name = "DOMAIN", default_value_t)]
    trust_domain: TrustDomain,
    /// The DNS suffix of its services.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    cluster_domain: String,
}

impl Mesh {
    pub(crate) fn settings(&self) -> MeshSettings {
        MeshSettings {
            root_namespace: self.root_namespace.as_str().into(),
            trust_domain: self.trust_domain.clone(),
            cluster_domain: self.cluster_domain.as_str().into(),
            ..MeshSettings::default()
        }
    }
}

fn namespace(text: &str) -> Result<String, &'static str> {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_core() {
        let args = Args::try_parse_from(["underpass", "explain", "-f", ".", "a/b", "c:1"]).unwrap();
        let Command::Explain(args) = args.command;
        assert_eq!(args.mesh.settings(), MeshSettings::default());
    }

    #[test]
    fn settings_are_checked() {
        let parse = |flag: &str| Args::try_parse_from(["underpass", "explain", "-f", ".", "a/b", "c:1", flag]).is_ok();
        assert!(parse("--root-namespace=mesh"));
        assert!(parse("--cluster-domain=example.org"));
        assert!(parse("--trust-domain=prod.example.org"));
        for bad in ["--root-namespace=", "--root-namespace=A", "--root-namespace=a.b", "--root-namespace=-a"] {
            assert!(!parse(bad), "{bad}");
        }
        for bad in ["--cluster-domain=", "--cluster-domain=.", "--cluster-domain=a.", "--trust-domain=a/b"] {
            assert!(!parse(bad), "{bad}");
        }
    }
}
