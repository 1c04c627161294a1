//! The command line, as clap reads it.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use underpass_core::{TrustDomain, world::MeshSettings};
use underpass_telemetry::{admin::Target, log::Filter};

/// Underpass: a service mesh without sidecars.
///
/// Commands ask the agent of this node; those with -f answer from a directory of manifests as well, without agent and
/// root.
#[derive(Debug, Parser)]
#[command(name = "underpass", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(Status),
    /// Pods: in the mesh or not, and the label that decides.
    #[command(after_help = "STATE is known only to a running agent, of pods on its own node.")]
    Workloads(Listing),
    /// Services and their endpoints.
    Services(Listing),
    /// Policies: action, scope, selected pods, and fields that need a waypoint.
    ///
    /// NEEDS WAYPOINT names the fields that L4 cannot judge. Until a waypoint does, an ALLOW rule with such a field
    /// allows nothing, and a DENY rule denies everything that its other fields match.
    Policies(Listing),
    Certificates(Certificates),
    Connections(Connections),
    Config(Config),
    Log(Log),
    Explain(Explain),
    Analyze(crate::commands::analyze::Analyze),
    Crd(crate::commands::crd::Crd),
    Completion(Completion),
    Man(Man),
}

/// The health of this node's agent.
///
/// Readiness, the version of the World, pods and their problems, connections, certificates, problems of manifests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 healthy, 2 there are problems, 1 no answer from the agent.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// The arguments of lists from an agent or from manifests.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) from: From,
    #[command(flatten)]
    pub(crate) only: Only,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// Certificates of the pods on this node.
#[derive(Debug, clap::Args)]
pub(crate) struct Certificates {
    #[command(flatten)]
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// Open connections of this node, with bytes and rates.
///
/// Rates need --watch: they are averages between two refreshes. `close` ends a connection: both of its ends are reset,
/// and its reason in the access log is `operator`. `refused` shows refused TLS handshakes, with their reasons.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  underpass connections close 42\n  underpass connections refused"
)]
pub(crate) struct Connections {
    #[command(subcommand)]
    pub(crate) other: Option<OtherThanOpen>,
    #[command(flatten)]
    pub(crate) agent: Agent,
    /// Only those with this pod at either end.
    #[arg(long, value_name = "NAMESPACE/POD")]
    pub(crate) pod: Option<String>,
    /// Only calls of this service.
    #[arg(long, value_name = "NAMESPACE/SERVICE")]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// Refused handshakes.
#[derive(Debug, clap::Args)]
pub(crate) struct Refused {
    #[command(flatten)]
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// The settings of the agent: values, their sources, and changes that need a restart.
///
/// docs/settings.md and `underpass-agent --help` describe each; `underpass-agent --print-config` prints the same before
/// a start.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 the agent has what its file says, 2 the file has a mistake or a change that \
    needs a restart, 1 there is no answer.")]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) agent: Agent,
    /// Only those that are not the default.
    #[arg(long)]
    pub(crate) changed: bool,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// Actions on connections, and refused handshakes.
#[derive(Debug, Subcommand)]
pub(crate) enum OtherThanOpen {
    /// Reset both ends of an open connection.
    Close {
        /// Its ID, as listed.
        id: u64,
        #[command(flatten)]
        agent: Agent,
    },
    /// The last refused TLS handshakes: the refusing end, the reason, and the found and expected identities.
    ///
    /// One line for each peer and reason, the latest first; the agent keeps a hundred. docs/certificates.md
    /// describes each reason.
    Refused(Refused),
}

/// The level of the agent's own log; with LEVEL, changes it in the running agent.
///
/// The agent's own log goes to its standard error. Its access log, one line for each connection, goes to its standard
/// output, or to the file that the setting access-log names (`underpass config`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  underpass log\n  underpass log info,underpass_net=debug")]
pub(crate) struct Log {
    #[command(flatten)]
    pub(crate) agent: Agent,
    /// off, error, warn, info, debug or trace; or such levels by target.
    #[arg(value_name = "LEVEL")]
    pub(crate) level: Option<Filter>,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Explain what happens to a connection, step by step, and which object decides.
///
/// Asks the same functions that decide about connections: of the agent of this node, or with -f of a directory of
/// manifests, which needs no cluster, no agent and no root.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 the connection is allowed, 2 it is denied, 1 there is no answer.\n\
    Problems of the manifests go to standard error, one per line.\n\n\
    Examples:\n  \
    underpass explain -f deploy/samples/bookinfo bookinfo/productpage-v1 reviews:9080\n  \
    underpass explain -f mesh/ 10.0.1.7 shop/cart:8080 -o json")]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) from: From,
    /// The source: namespace/pod, or an address.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The destination: namespace/pod, a service's name or host, or an address ([..] around IPv6), and the port.
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Write a script that completes this command in a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  underpass completion bash > /etc/bash_completion.d/underpass")]
pub(crate) struct Completion {
    /// The shell.
    pub(crate) shell: Shell,
}

/// Write the manual: to standard output, or one page per command into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  underpass man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// The directory of the pages.
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For people, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
}

/// The agent to ask.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Agent {
    /// The agent's admin API: unix:PATH, or ADDRESS:PORT for read-only access.
    #[arg(long, env = "UNDERPASS_AGENT", value_name = "TARGET", default_value = "unix:/run/underpass/admin.sock")]
    pub(crate) agent: Target,
}

/// The cluster, as kubectl finds it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Cluster {
    /// The kubeconfig; by default the files of KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; by default its current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// The source of the answer: a running agent, or manifests.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Answer from this directory of manifests, or one file, instead of from an agent.
    #[arg(short = 'f', long = "filename", value_name = "DIR")]
    pub(crate) filename: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

/// The filter of rows.
#[derive(Debug, clap::Args)]
pub(crate) struct Only {
    /// Only those of this namespace.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// The presentation of an answer.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Shown {
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// Refresh every SECONDS, until Ctrl-C.
    #[arg(short = 'w', long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = pause)]
    pub(crate) watch: Option<Duration>,
}

/// Settings of the whole mesh, which are in no manifest.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The mesh, for -f")]
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
}

impl Mesh {
    pub(crate) fn settings(&self) -> MeshSettings {
        MeshSettings {
            root_namespace: self.root_namespace.as_str().into(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_aliases.clone(),
            cluster_domain: self.cluster_domain.as_str().into(),
            ..MeshSettings::default()
        }
    }
}

/// A shorter interval would be a load on the agent, and unreadable.
const SHORTEST_PAUSE_S: f64 = 0.1;
const LONGEST_PAUSE_S: f64 = 86_400.0;

fn pause(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if (SHORTEST_PAUSE_S..=LONGEST_PAUSE_S).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{SHORTEST_PAUSE_S} to {LONGEST_PAUSE_S} seconds"))
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
        let Command::Explain(args) = args.command else { panic!("{args:?}") };
        assert_eq!(args.from.mesh.settings(), MeshSettings::default());
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

    #[test]
    fn intervals_of_watch() {
        let watch = |more: &[&str]| {
            let args = Args::try_parse_from([&["underpass", "services"], more].concat()).ok()?;
            let Command::Services(args) = args.command else { return None };
            Some(args.shown.watch)
        };
        assert_eq!(watch(&[]), Some(None));
        assert_eq!(watch(&["--watch"]), Some(Some(Duration::from_secs(2))));
        assert_eq!(watch(&["-w"]), Some(Some(Duration::from_secs(2))));
        assert_eq!(watch(&["--watch=0.5"]), Some(Some(Duration::from_millis(500))));
        for bad in ["--watch=0", "--watch=x", "--watch=NaN", "--watch=inf", "--watch=-1", "--watch=1e9"] {
            assert_eq!(watch(&[bad]), None, "{bad}");
        }
    }
}
