//! The traffic policy of a DestinationRule, at the level of a host, a subset or a port.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::virtual_service::Limit;

/// `trafficPolicy`. What is none is said at another level, or is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficPolicy {
    /// The part that a port can have of its own.
    pub own: PortPolicy,
    /// `portLevelSettings`, by port.
    pub ports: BTreeMap<u16, PortPolicy>,
    /// `tunnel`.
    pub tunnel: Option<Tunnel>,
    /// `proxyProtocol.version`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// The part of a traffic policy that a port can have of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    pub tls: Option<ClientTls>,
}

/// `loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadBalancer {
    /// `simple` or `consistentHash`.
    pub method: Balancing,
    /// `localityLbSetting`.
    pub locality: Option<LocalityBalancing>,
    /// `warmup`, or the older `warmupDurationSecs`.
    pub warmup: Option<Warmup>,
}

/// The choice among endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Balancing {
    /// `UNSPECIFIED`, or nothing is said: the mesh's default.
    #[default]
    Unspecified,
    /// `ROUND_ROBIN`.
    RoundRobin,
    /// `LEAST_REQUEST`, and the older `LEAST_CONN`.
    LeastRequest,
    /// `RANDOM`.
    Random,
    /// `PASSTHROUGH`: the called address.
    Passthrough,
    /// `consistentHash`.
    Hash(ConsistentHash),
}

/// `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsistentHash {
    /// The part of a request that decides.
    pub key: HashKey,
    /// How.
    pub ring: HashRing,
}

/// The part of a request that decides about its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HashKey {
    /// `httpHeaderName`, in lower case.
    Header(Arc<str>),
    /// `httpCookie`.
    Cookie(HashCookie),
    /// `useSourceIp`.
    SourceIp,
    /// `httpQueryParameterName`.
    Query(Arc<str>),
}

/// `httpCookie`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashCookie {
    /// `name`.
    pub name: Arc<str>,
    /// `path`.
    pub path: Option<Arc<str>>,
    /// `ttl`: the cookie is made where a request has none; zero: for a session.
    pub ttl: Option<Duration>,
    /// `attributes`.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// The structure of a consistent hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HashRing {
    /// `ringHash.minimumRingSize`.
    Ring(u64),
    /// `maglev.tableSize`: a prime.
    Maglev(u64),
}

impl HashRing {
    /// The default of `minimumRingSize`.
    pub const DEFAULT_RING: u64 = 1024;
    /// The default of `tableSize`.
    pub const DEFAULT_TABLE: u64 = 65_537;
}

/// `localityLbSetting`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LocalityBalancing {
    /// `enabled`; none: as the mesh says.
    pub enabled: Option<bool>,
    /// `distribute`.
    pub distribute: Vec<Distribute>,
    /// `failover`: from a region to another.
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    /// `failoverPriority`: labels, or labels with their values.
    pub failover_priority: Vec<Arc<str>>,
}

/// An entry of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Distribute {
    /// `from`: the caller's locality.
    pub from: Arc<str>,
    /// `to`: shares of localities, in percent.
    pub to: BTreeMap<Arc<str>, u32>,
}

/// `warmup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Warmup {
    /// `duration`.
    pub duration: Duration,
    /// `minimumPercent`, in hundredths of a percent.
    pub minimum_basis_points: u32,
    /// `aggression`, in thousandths.
    pub aggression_thousandths: u32,
}

/// `connectionPool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionPool {
    /// `tcp`.
    pub tcp: TcpPool,
    /// `http`.
    pub http: HttpPool,
}

/// `connectionPool.tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpPool {
    /// `maxConnections`; none: no limit.
    pub max_connections: Option<u32>,
    /// `connectTimeout`.
    pub connect_timeout: Limit,
    /// `tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// `maxConnectionDuration`.
    pub max_connection_duration: Limit,
    /// `idleTimeout`; `Some(None)`: none.
    pub idle_timeout: Option<Limit>,
}

/// `tcpKeepalive`; what is none is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// `probes`.
    pub probes: Option<u32>,
    /// `time`.
    pub time: Option<Duration>,
    /// `interval`.
    pub interval: Option<Duration>,
}

/// `connectionPool.http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpPool {
    /// `http1MaxPendingRequests`.
    pub max_pending_requests: Option<u32>,
    /// `http2MaxRequests`.
    pub max_requests: Option<u32>,
    /// `maxRequestsPerConnection`; none: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// `maxRetries`.
    pub max_retries: Option<u32>,
    /// `idleTimeout`; `Some(None)`: none.
    pub idle_timeout: Option<Limit>,
    /// `h2UpgradePolicy`.
    pub upgrade: Upgrade,
    /// `useClientProtocol`.
    pub use_client_protocol: bool,
    /// `maxConcurrentStreams`.
    pub max_concurrent_streams: Option<u32>,
}

/// `h2UpgradePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Upgrade {
    /// `DEFAULT`.
    #[default]
    Default,
    /// `DO_NOT_UPGRADE`.
    Never,
    /// `UPGRADE`.
    Always,
}

/// `outlierDetection`. What is none is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`, or the older `consecutiveErrors`; 0: not looked at.
    pub consecutive_5xx: Option<u32>,
    /// `consecutiveGatewayErrors`; 0: not looked at.
    pub consecutive_gateway: Option<u32>,
    /// `consecutiveLocalOriginFailures`.
    pub consecutive_local: Option<u32>,
    /// `splitExternalLocalOriginErrors`.
    pub splits_local: bool,
    /// `interval`.
    pub interval: Option<Duration>,
    /// `baseEjectionTime`.
    pub base_ejection_time: Option<Duration>,
    /// `maxEjectionPercent`.
    pub max_ejection_percent: Option<u32>,
    /// `minHealthPercent`.
    pub min_health_percent: Option<u32>,
}

/// `tls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientTls {
    /// `mode`.
    pub mode: TlsMode,
    /// `clientCertificate`, a file.
    pub client_certificate: Option<Arc<str>>,
    /// `privateKey`, a file.
    pub private_key: Option<Arc<str>>,
    /// `caCertificates`, a file.
    pub ca_certificates: Option<Arc<str>>,
    /// `caCrl`, a file.
    pub ca_crl: Option<Arc<str>>,
    /// `credentialName`, a Secret.
    pub credential_name: Option<Arc<str>>,
    /// `subjectAltNames`.
    pub subject_alt_names: Vec<Arc<str>>,
    /// `sni`.
    pub sni: Option<Arc<str>>,
    /// `insecureSkipVerify`.
    pub skips_verification: bool,
}

impl ClientTls {
    /// TLS of the rule's own is begun: SIMPLE or MUTUAL.
    #[must_use]
    pub const fn begins(&self) -> bool {
        matches!(self.mode, TlsMode::Simple | TlsMode::Mutual)
    }
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TlsMode {
    /// `DISABLE`: no TLS of the route's own; between pods of the mesh there is the tunnel's all the same.
    Disable,
    /// `SIMPLE`.
    Simple,
    /// `MUTUAL`.
    Mutual,
    /// `ISTIO_MUTUAL`: the tunnel.
    IstioMutual,
}

/// `tunnel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tunnel {
    /// `protocol`: `POST` instead of `CONNECT`.
    pub posts: bool,
    /// `targetHost`.
    pub host: Arc<str>,
    /// `targetPort`.
    pub port: u16,
}

/// `proxyProtocol.version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyProtocol {
    /// `V1`.
    V1,
    /// `V2`.
    V2,
}

/// `retryBudget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// `percent`, in hundredths of a percent.
    pub basis_points: u32,
    /// `minRetryConcurrency`.
    pub min_concurrency: u32,
}
