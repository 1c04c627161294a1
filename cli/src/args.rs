//! What can be asked, as clap reads it.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use underpass_core::{TrustDomain, world::MeshSettings};
use underpass_telemetry::{admin::Target, log::Filter};

/// Underpass: a service mesh without sidecars.
///
/// Commands ask the agent of this node; those with -f answer from a directory of manifests as well, without agent and root.
#[derive(Debug, Parser)]
#[command(name = "underpass", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(Status),
    /// Pods: in the mesh or not, and which label decides.
    #[command(after_help = "STATE is told by a running agent of its own node's pods alone.")]
    Workloads(Listing),
    /// Services, and who is behind them.
    Services(Listing),
    /// Policies: what they do, to whom, and what of them needs a waypoint.
    ///
    /// NEEDS WAYPOINT names the fields that L4 cannot judge. Until a waypoint does, an ALLOW rule with such a field allows
    /// nothing, and a DENY rule denies everything that its other fields match.
    Policies(Listing),
    Certificates(Certificates),
    Connections(Connections),
    Config(Config),
    Log(Log),
    Explain(Explain),
    Analyze(crate::commands::analyze::Analyze),
    Completion(Completion),
    Man(Man),
}

/// How the agent of this node stands.
///
/// Readiness, the World it goes by, its pods and those that do not get on, certificates, what is wrong with the manifests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 all is well, 2 something is not as it should be, 1 there is no answer.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// What can be listed from an agent or from manifests.
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

/// Open connections of this node, with what they carry now.
///
/// Rates are between two looks: they need --watch. `close` ends one: both of its ends are reset, and the access log says
/// that an operator did it. `refused` shows TLS handshakes that came to nothing, and why.
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

/// The settings of the agent: their values, who says so, and what waits for a restart.
///
/// What each means stands in docs/settings.md and in `underpass-agent --help`; `underpass-agent --print-config` tells the
/// same before a start.
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

/// What is done to one, and those that never were.
#[derive(Debug, Subcommand)]
pub(crate) enum OtherThanOpen {
    /// Reset both ends of an open connection.
    Close {
        /// Its ID, as listed.
        id: u64,
        #[command(flatten)]
        agent: Agent,
    },
    /// The last TLS handshakes that one of both ends refused: who, why, and which identity was found and expected.
    ///
    /// One line for each peer and reason, the latest first; the agent keeps a hundred. What each reason means stands in
    /// docs/certificates.md.
    Refused(Refused),
}

/// What the agent's own log contains; with LEVEL, changes it while it runs.
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
    /// How the answer is written.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Say what happens to a connection, step by step, and which object decides.
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
    /// Who connects: namespace/pod, or an address.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Where to: namespace/pod, a service's name or host, or an address ([..] around IPv6), and the port.
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,
    /// How the answer is written.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Write a script that completes this command in a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  underpass completion bash > /etc/bash_completion.d/underpass")]
pub(crate) struct Completion {
    /// Which shell.
    pub(crate) shell: Shell,
}

/// Write the manual: to standard output, or one page per command into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  underpass man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Where the pages go.
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

/// How an answer is written.
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

/// Which agent is asked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Agent {
    /// Where the agent is asked: unix:PATH, or ADDRESS:PORT of one that only looks.
    #[arg(long, env = "UNDERPASS_AGENT", value_name = "TARGET", default_value = "unix:/run/underpass/admin.sock")]
    pub(crate) agent: Target,
}

/// Where the answer comes from: a running agent, or manifests.
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

/// Which rows.
#[derive(Debug, clap::Args)]
pub(crate) struct Only {
    /// Only those of this namespace.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// How it is shown.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Shown {
    /// How the answer is written.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// Show it again every so many seconds, until Ctrl-C.
    #[arg(short = 'w', long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = pause)]
    pub(crate) watch: Option<Duration>,
}

/// What holds for the whole mesh and stands in no manifest.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The mesh, for -f")]
pub(crate) struct Mesh {
    /// Where mesh-wide policy stands.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", value_parser = namespace)]
    root_namespace: String,
    /// The trust domain of its identities.
    #[arg(long, value_name = "DOMAIN", default_value_t)]
    trust_domain: TrustDomain,
    /// Trust domains that mean the same as its own.
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

/// Faster would be a load on the agent, and nobody reads it.
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
    fn how_often_it_is_shown() {
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
