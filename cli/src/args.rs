//! The command line, as clap reads it.

mod mesh;
mod request;
mod way;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use underpass_telemetry::log::Filter;

pub(crate) use self::{
    mesh::Mesh,
    way::{Cluster, LOCAL_SOCKET, Place, Way},
};

/// Underpass: a service mesh without sidecars.
///
/// Commands ask the agent of this node, or where there is none the agents of the cluster that kubectl would ask; those with
/// -f answer from a directory of manifests as well.
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
    Ca(crate::commands::ca::CertificateAuthority),
    /// Install the mesh into a cluster, or bring an installation to what is asked for.
    ///
    /// Runs Helm with the chart that is in this command. Values count in this order, the last one most: the profile, each file, each --set.
    /// Where the mesh is installed already it is upgraded, and values that are not given again are those of the chart;
    /// `underpass upgrade` keeps them.
    #[command(after_help = crate::commands::install::EXAMPLES)]
    Install(crate::commands::install::Install),
    /// Upgrade the mesh to this command's version, with the values it was installed with under those that are given.
    #[command(after_help = crate::commands::install::EXIT_STATUS)]
    Upgrade(crate::commands::install::Install),
    Uninstall(crate::commands::uninstall::Uninstall),
    Profile(crate::commands::profile::Profile),
    Manifest(crate::commands::manifest::Manifest),
    #[command(visible_alias = "precheck")]
    Check(crate::commands::check::Check),
    #[command(visible_alias = "verify-install")]
    Verify(crate::commands::verify::Verify),
    #[command(visible_alias = "ps")]
    ProxyStatus(crate::commands::proxy_status::ProxyStatus),
    #[command(visible_alias = "pc")]
    ProxyConfig(crate::commands::proxy_config::ProxyConfig),
    Version(crate::commands::version::Version),
    Authn(crate::commands::describe::Authn),
    #[command(visible_alias = "x", alias = "exp")]
    Experimental(crate::commands::describe::Experimental),
    Label(crate::commands::label::Label),
    KubeInject(crate::commands::kube_inject::KubeInject),
    Completion(Completion),
    Man(Man),
}

/// The health of agents: of this node's, or of every node's in a cluster.
///
/// Readiness, the version of the World, pods and their problems, connections, certificates, problems of configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 healthy, 2 there are problems, 1 no answer from the agent.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) way: Way,
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

/// Certificates of the pods on a node, or on every node of a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Certificates {
    #[command(flatten)]
    pub(crate) way: Way,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// Open connections of a node, or of every node of a cluster, with bytes and rates.
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
    pub(crate) way: Way,
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
    pub(crate) way: Way,
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
    pub(crate) way: Way,
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
        way: Way,
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
    pub(crate) way: Way,
    /// off, error, warn, info, debug or trace; or such levels by target.
    #[arg(value_name = "LEVEL")]
    pub(crate) level: Option<Filter>,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Explain what happens to a connection, step by step, and which object decides.
///
/// Asks the same functions that decide about connections: of the source pod's node, or with -f of a directory of manifests,
/// which needs no cluster, no agent and no root.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 the connection is allowed, 2 it is denied, 1 there is no answer.\n\
    Problems of the manifests go to standard error, one per line.\n\n\
    Examples:\n  \
    underpass explain -f deploy/samples/bookinfo bookinfo/productpage-v1 reviews:9080\n  \
    underpass explain -f mesh/ 10.0.1.7 shop/cart:8080 -o json\n  \
    underpass explain -f mesh/ shop/web cart:80 --path /api/v2/x --header end-user=jason")]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) from: From,
    /// The namespace of a SOURCE that names none; by default the kubeconfig's, else `default`.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// The source: namespace/pod, pod, or an address.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The destination: namespace/pod, a service's name or host, or an address ([..] around IPv6), and the port.
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) request: request::Request,
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
    #[value(alias = "table")]
    Text,
    /// For people, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
}

/// The source of the answer: a running agent, or manifests.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Answer from this directory of manifests, or one file, instead of from an agent.
    #[arg(short = 'f', long = "filename", value_name = "DIR")]
    pub(crate) filename: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) way: Way,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

/// The filter of rows.
#[derive(Debug, clap::Args)]
pub(crate) struct Only {
    /// Only those of this namespace.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Those of every namespace, which is the default.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    _all_namespaces: bool,
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
        use underpass_core::world::MeshSettings;

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
