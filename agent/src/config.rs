//! The agent's settings. [`Config`] is the one table: each field is a flag, an environment variable, a key of the file of
//! `--config` and a row of docs/settings.md. Parsed once; everything below gets values.
//!
//! * `load`: flag over environment over file over default; all problems at once, with their origins.
//! * `live`: the file is read again while the agent runs. Settings that may change then have the heading [`LIVE`].
//! * `reference`: the table for people, and docs/settings.md.

mod file;
mod live;
mod load;
mod problem;
mod reference;
mod table;
pub mod units;

use std::{
    ffi::OsString,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use clap::{Parser, value_parser};
use http::uri::Authority;
use underpass_core::{TrustDomain, enrol::EnrolledBy, http::PathNormalization, world::MeshSettings};
use underpass_net::socket::options::Keepalive;
use underpass_telemetry::{Format, log::Filter};
use underpass_ztunnel::{SOCKETS_PER_CONNECTION, SOCKETS_PER_POD};

use crate::{
    certs::{self, CaLocation},
    waypoints,
};

pub(crate) use self::load::load_with;
pub use self::{
    live::{Pending, Reloader, Running},
    load::{Effective, Loaded, Sources, Stop, load},
    problem::{Origin, Problem, Problems},
    reference::{markdown, yaml},
};

/// The heading of settings that can change while the agent runs: `help_heading = LIVE` on a field, whose users go by
/// [`Running`].
pub const LIVE: &str = "Settings that can change while the agent runs";

/// The settings of which exactly one is given: the source of what the agent knows of the mesh.
pub(crate) const SOURCES: [&str; 2] = ["manifests", "control-plane"];

/// The variable that names the file of settings where no flag does.
const CONFIG_VARIABLE: &str = "UNDERPASS_CONFIG";

/// The Underpass node agent: captures the TCP connections of labelled pods in the kernel and carries them over mutual TLS.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-agent", version)]
#[command(after_help = "`underpass-agent check` says whether an agent can start on a node, and changes nothing. \
`underpass-agent cleanup` removes everything that agents left on a node. \
`underpass-agent probe` asks the agent of a container whether it is alive or ready. \
`underpass-agent mount-bpffs DIR` mounts a bpf file system where there is none. \
`underpass-agent ca` shows the embedded certificate authority (status) or replaces its root (prepare, activate, retire).")]
pub struct Config {
    /// A file with settings: YAML, whose keys are the names of the flags. Flags and environment overrule it.
    #[arg(long, env = CONFIG_VARIABLE, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the settings in effect and the origin of each, and end.
    #[arg(long)]
    pub print_config: bool,

    /// The name of this node, as in spec.nodeName of its pods.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: String,

    /// The program of the waypoints that the agent starts on its node where files alone describe the mesh; by default
    /// `underpass-waypoint` beside the agent's own.
    #[arg(long, env = "UNDERPASS_WAYPOINT_PROGRAM", value_name = "FILE")]
    pub waypoint_program: Option<PathBuf>,

    /// The file to which its waypoints write a line for each request, such as /dev/stdout; by default none is written. As Istio's
    /// accessLogFile.
    #[arg(long, env = "UNDERPASS_WAYPOINT_ACCESS_LOG", value_name = "FILE")]
    pub waypoint_access_log: Option<PathBuf>,

    /// The encoding of those lines: text or JSON. As Istio's accessLogEncoding.
    #[arg(long, env = "UNDERPASS_WAYPOINT_ACCESS_LOG_ENCODING", value_name = "text|json", default_value = "text")]
    pub waypoint_access_log_encoding: Format,

    /// The format of those lines, with Envoy's operators; by default Istio's own. As Istio's accessLogFormat.
    #[arg(long, env = "UNDERPASS_WAYPOINT_ACCESS_LOG_FORMAT", value_name = "FORMAT")]
    pub waypoint_access_log_format: Option<String>,

    /// The directory of manifests that describes the mesh. Watched. Without a cluster it is the source of everything; in a
    /// cluster --control-plane takes its place.
    #[arg(long, env = "UNDERPASS_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// The control plane, which gives this node the facts of the mesh and its certificates: a name or address, and a port.
    /// The pods of the node and the namespaces come from the API server.
    #[arg(long, env = "UNDERPASS_CONTROL_PLANE", value_name = "HOST:PORT", value_parser = host_and_port)]
    pub control_plane: Option<Authority>,

    /// The name in the control plane's certificate; by default the host of --control-plane.
    #[arg(long, env = "UNDERPASS_CONTROL_PLANE_NAME", value_name = "NAME")]
    pub control_plane_name: Option<String>,

    /// The file of the mesh's root certificates, in PEM, by which the control plane is trusted. Watched.
    #[arg(
        long,
        env = "UNDERPASS_CONTROL_PLANE_ROOTS",
        value_name = "FILE",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    pub control_plane_roots: PathBuf,

    /// The file of the token by which the control plane knows this agent: a service account's, with the audience
    /// `istio-ca`. Read for each connection.
    #[arg(
        long,
        env = "UNDERPASS_CONTROL_PLANE_TOKEN",
        value_name = "FILE",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    pub control_plane_token: PathBuf,

    /// A kubeconfig for the API server; by default the service account of the agent's own pod.
    #[arg(long, env = "UNDERPASS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The state directory, with the key of the embedded certificate authority. Agents that share it trust each other.
    #[arg(long, env = "UNDERPASS_STATE", value_name = "DIR", default_value = "/var/lib/underpass")]
    pub state: PathBuf,

    /// Keep what is known of the mesh in the state directory (`facts`), so that the next agent of the node serves it while the control
    /// plane or the API server is away. Without it, what is kept there is removed.
    #[arg(long, env = "UNDERPASS_FACTS_CACHE", value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set)]
    pub facts_cache: bool,

    /// The time without an answer of the control plane or of the API server after which a started agent serves what an earlier one
    /// has kept.
    #[arg(long, env = "UNDERPASS_FACTS_CACHE_AFTER", value_name = "DURATION", default_value = "5s", value_parser = units::duration)]
    pub facts_cache_after: Duration,

    /// The bpf file system, where kernel programs and tables outlive the agent.
    #[arg(long, env = "UNDERPASS_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// The root of the node's cgroup v2 tree: every process of every pod is below it. By default the one in
    /// /proc/self/mounts.
    #[arg(long, env = "UNDERPASS_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// The kubelet's cgroup, as a path below that root: its probes reach pods in spite of their policies, at the ports that the
    /// pods' own probes and lifecycle hooks name. By default that of the one process named `kubelet` that runs as root on the
    /// node, outside of pods.
    #[arg(long, env = "UNDERPASS_KUBELET_CGROUP", value_name = "PATH", value_parser = below_root)]
    pub kubelet_cgroup: Option<PathBuf>,

    /// The unix socket of the admin API, for root alone, with all of its operations.
    #[arg(long, env = "UNDERPASS_ADMIN_SOCKET", value_name = "PATH", default_value = "/run/underpass/admin.sock")]
    pub admin_socket: PathBuf,

    /// The directory of CNI configurations, into which a configuration with the plugin `underpass-cni` is written: the primary
    /// plugin's, with ours behind it, in a file that sorts before it. Watched. By default no plugin is installed.
    #[arg(long, env = "UNDERPASS_CNI_CONFIG_DIR", value_name = "DIR")]
    pub cni_config_dir: Option<PathBuf>,

    /// The directory of CNI plugins, into which the program of `underpass-cni` is copied.
    #[arg(long, env = "UNDERPASS_CNI_BIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,

    /// The unix socket on which the agent answers the CNI plugin, which it cannot install without one. By default it answers none.
    #[arg(long, env = "UNDERPASS_CNI_SOCKET", value_name = "PATH")]
    pub cni_socket: Option<PathBuf>,

    /// The namespaces whose pods start also where no agent answers the CNI plugin, or cannot capture them. The agent's own, from
    /// POD_NAMESPACE, is always one.
    #[arg(
        long,
        env = "UNDERPASS_CNI_EXEMPT",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        default_value = "kube-system"
    )]
    pub cni_exempt: Vec<String>,

    /// The unix socket of this process's own probes, which `underpass-agent probe live` and `underpass-agent probe ready` ask.
    /// No other process may share its directory: around a take-over two agents run on a node.
    #[arg(long, env = "UNDERPASS_PROBE_SOCKET", value_name = "PATH")]
    pub probe_socket: Option<PathBuf>,

    /// The address of the read-only admin API. Loopback only.
    #[arg(long, env = "UNDERPASS_ADMIN_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,

    /// The address of the readiness probe.
    #[arg(long, env = "UNDERPASS_READINESS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15021")]
    pub readiness_address: SocketAddr,

    /// The address of metrics: `/metrics`. They name workloads and identities, and nothing secret.
    #[arg(long, env = "UNDERPASS_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15020")]
    pub metrics_address: SocketAddr,

    /// The name of the cluster, in the labels of metrics.
    #[arg(long, env = "UNDERPASS_CLUSTER", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster: String,

    /// The limit of traffic series in the metrics, one for every pair of workloads with connections; beyond it traffic is
    /// counted together, under `overflow`.
    #[arg(long, env = "UNDERPASS_METRICS_MOST_SERIES", value_name = "N", default_value = "10000")]
    pub metrics_most_series: usize,

    /// The time for which metrics still show a workload or a dry run that is gone: several times the interval of scrapes.
    #[arg(long, env = "UNDERPASS_METRICS_KEEP_GONE", value_name = "DURATION", default_value = "5m", value_parser = units::duration)]
    pub metrics_keep_gone: Duration,

    /// The format of the access log: one line per connection.
    #[arg(long, env = "UNDERPASS_ACCESS_LOG_FORMAT", value_name = "text|json", default_value_t = Format::Text)]
    pub access_log_format: Format,

    /// The file of the access log; standard output by default.
    #[arg(long, env = "UNDERPASS_ACCESS_LOG", value_name = "FILE")]
    pub access_log: Option<PathBuf>,

    /// The format of the agent's own log, on standard error.
    #[arg(long, env = "UNDERPASS_LOG_FORMAT", value_name = "text|json", default_value_t = Format::Text)]
    pub log_format: Format,

    /// The filter of the agent's own log: a level, or levels by target, such as `info,underpass_net=debug`.
    #[arg(long, env = "UNDERPASS_LOG", value_name = "FILTER", default_value_t = Filter::default(), help_heading = LIVE)]
    pub log: Filter,

    /// Write every decision of the kernel programs into the agent's own log: connection, hook, and outcome (captured, left
    /// alone, refused). For debugging: another build of the programs is loaded, and every new connection costs more.
    #[arg(long, env = "UNDERPASS_KERNEL_LOG")]
    pub kernel_log: bool,

    /// The trust domain of the mesh.
    #[arg(long, env = "UNDERPASS_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// Trust domains that count as the same as the mesh's own.
    #[arg(long, env = "UNDERPASS_TRUST_DOMAIN_ALIASES", value_name = "NAME", value_delimiter = ',', help_heading = LIVE)]
    pub trust_domain_aliases: Vec<TrustDomain>,

    /// The namespace of policies for the whole mesh.
    #[arg(long, env = "UNDERPASS_ROOT_NAMESPACE", value_name = "NAME", default_value = "istio-system", help_heading = LIVE)]
    pub root_namespace: String,

    /// The DNS suffix of services.
    #[arg(long, env = "UNDERPASS_CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local", help_heading = LIVE)]
    pub cluster_domain: String,

    /// How far waypoints normalise paths before policies, routes and applications read them: Istio's
    /// `meshConfig.pathNormalization`.
    #[arg(long, env = "UNDERPASS_PATH_NORMALIZATION", value_name = "NONE|BASE|MERGE_SLASHES|DECODE_AND_MERGE_SLASHES", default_value_t, help_heading = LIVE)]
    pub path_normalization: PathNormalization,

    /// Enrolment by the labels `istio-injection` and `sidecar.istio.io/inject`, as by `istio.io/dataplane-mode`.
    #[arg(long, env = "UNDERPASS_SIDECAR_KEYS", value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set, help_heading = LIVE)]
    pub sidecar_keys: bool,

    /// The lifetime of a workload's certificate, such as 24h. It is renewed at half of it; a change counts from the next
    /// certificate on.
    #[arg(long, env = "UNDERPASS_CERTIFICATE_LIFETIME", value_name = "DURATION", default_value = "24h", value_parser = lifetime, help_heading = LIVE)]
    pub certificate_lifetime: Duration,

    /// The longest time that open connections of a pod that leaves the mesh may go on.
    #[arg(long, env = "UNDERPASS_RELEASE_DRAIN", value_name = "DURATION", default_value = "30s", value_parser = units::duration, allow_negative_numbers = true, help_heading = LIVE)]
    pub release_drain: Duration,

    /// The longest time that open connections may go on after the agent was asked to end. Then they are reset.
    #[arg(long, env = "UNDERPASS_DRAIN", value_name = "DURATION", default_value = "30s", value_parser = units::duration, allow_negative_numbers = true)]
    pub drain: Duration,

    /// Take over from the running agent of this node, without a failed connection: it drains, and ends by itself.
    #[arg(long, env = "UNDERPASS_TAKE_OVER")]
    pub take_over: bool,

    /// After another agent has taken over and this one has drained, stay until asked to end, or until the node has had no agent
    /// for a minute: for an agent that would be started again, as a pod's container is, and take the node back.
    #[arg(long, env = "UNDERPASS_STAY")]
    pub stay: bool,

    /// The time of silence on a socket after which the kernel sends TCP keepalive probes to its peer: an application, or the
    /// tunnel's other node. In whole seconds.
    #[arg(long, env = "UNDERPASS_KEEPALIVE_IDLE", value_name = "DURATION", default_value = "90s", value_parser = whole_seconds)]
    pub keepalive_idle: Duration,

    /// The time between two keepalive probes. In whole seconds.
    #[arg(long, env = "UNDERPASS_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "15s", value_parser = whole_seconds)]
    pub keepalive_interval: Duration,

    /// The number of unanswered keepalive probes after which a peer is gone, and its connection is reset at the other end. A
    /// tunnel also ends where sent bytes stay unacknowledged for as long as all of this takes: 165s by default.
    #[arg(long, env = "UNDERPASS_KEEPALIVE_PROBES", value_name = "N", default_value = "5", value_parser = value_parser!(u8).range(i64::from(Keepalive::PROBES[0])..=i64::from(Keepalive::PROBES[1])))]
    pub keepalive_probes: u8,

    /// The number of the tunnel's worker threads; by default that of the cores, at most 4.
    #[arg(long, env = "UNDERPASS_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// The limit of sockets of one pod, at least 10: an outbound connection by tunnel has one, a plaintext and an inbound one
    /// two. By default, and at most, two thirds of the node's sockets, which follow from the limit of open files.
    #[arg(long, env = "UNDERPASS_POD_SOCKETS", value_name = "N", value_parser = pod_sockets)]
    pub pod_sockets: Option<NonZeroUsize>,

    /// The limit of queued bytes in all tunnels of the node, on their way to applications and peers, in MiB.
    #[arg(long, env = "UNDERPASS_NODE_MEMORY", value_name = "MIB", default_value = "256")]
    pub node_memory: NonZeroUsize,

    /// The limit of queued bytes of one pod, in MiB. Beyond it the connection that has stood still for longest is reset.
    #[arg(long, env = "UNDERPASS_POD_MEMORY", value_name = "MIB", default_value = "64")]
    pub pod_memory: NonZeroUsize,
}

/// The shortest lifetime of a certificate: shorter ones would be renewed faster than clocks agree.
const LIFETIME_MIN_S: u64 = 4;

pub(crate) fn lifetime(text: &str) -> Result<Duration, units::DurationError> {
    units::at_least(text, LIFETIME_MIN_S)
}

/// Parses a keepalive time, as tcp(7) takes it.
fn whole_seconds(text: &str) -> Result<Duration, String> {
    let [least, most] = Keepalive::SECONDS;
    let time = units::duration(text).map_err(|e| e.to_string())?;
    let fits = time.subsec_nanos() == 0 && (least..=most).contains(&time.as_secs());
    if fits { Ok(time) } else { Err(format!("whole seconds, {least} to {most}")) }
}

/// Parses a path below a root, of which a slash at its beginning is a part.
fn below_root(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text).components().filter(|part| *part != Component::RootDir);
    let path: Option<PathBuf> = path.map(|part| matches!(part, Component::Normal(_)).then_some(part)).collect();
    path.filter(|path| *path != Path::new("")).ok_or_else(|| "write a path below the root, without `..`".to_owned())
}

/// Parses an address with its port, by which TLS can also check a name.
fn host_and_port(text: &str) -> Result<Authority, String> {
    let authority: Authority = text.parse().map_err(|e| format!("{e}"))?;
    let is_whole = authority.port_u16().is_some() && !authority.host().is_empty() && !text.contains('@');
    if is_whole { Ok(authority) } else { Err("write HOST:PORT".to_owned()) }
}

/// With fewer a pod has room for no connection.
const POD_SOCKETS_MIN: usize = SOCKETS_PER_POD + SOCKETS_PER_CONNECTION;

fn pod_sockets(text: &str) -> Result<NonZeroUsize, String> {
    let sockets: NonZeroUsize = text.parse().map_err(|e| format!("{e}"))?;
    if sockets.get() < POD_SOCKETS_MIN { Err(format!("write at least {POD_SOCKETS_MIN}")) } else { Ok(sockets) }
}

impl Config {
    /// The embedded CA.
    #[must_use]
    pub fn ca(&self) -> CaLocation {
        CaLocation { directory: certs::directory(&self.state), trust_domain: self.trust_domain.clone() }
    }

    /// The keepalive of sockets.
    #[must_use]
    pub const fn keepalive(&self) -> Keepalive {
        Keepalive { idle: self.keepalive_idle, interval: self.keepalive_interval, probes: self.keepalive_probes }
    }

    /// The program of waypoints.
    #[must_use]
    pub fn waypoint_program(&self) -> PathBuf {
        let beside = || std::env::current_exe().map(|own| own.with_file_name(waypoints::PROGRAM));
        // Found on the path where the own program cannot be.
        self.waypoint_program.clone().unwrap_or_else(|| beside().unwrap_or_else(|_| waypoints::PROGRAM.into()))
    }

    /// The arguments of that program.
    #[must_use]
    pub fn waypoint_arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![
            "--log-format".into(),
            self.log_format.to_string().into(),
            "--log".into(),
            self.log.to_string().into(),
        ];
        if let Some(file) = &self.waypoint_access_log {
            let encoding = self.waypoint_access_log_encoding.to_string();
            all.extend(["--access-log".into(), file.into(), "--access-log-encoding".into(), encoding.into()]);
        }
        if let Some(format) = &self.waypoint_access_log_format {
            all.extend(["--access-log-format".into(), format.into()]);
        }
        all
    }

    /// The settings of the whole mesh.
    #[must_use]
    pub fn mesh(&self) -> MeshSettings {
        MeshSettings {
            cluster: self.cluster.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_aliases.clone(),
            cluster_domain: self.cluster_domain.as_str().into(),
            sidecar_keys: self.sidecar_keys,
            path_normalization: self.path_normalization,
            enrolled_by: EnrolledBy::Labels,
        }
    }
}

#[cfg(test)]
mod tests;
