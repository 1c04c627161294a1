//! The connections of a cluster to its endpoints: which protocol they speak, how many requests one takes, and when it has
//! had its time. A state machine of each connection; the time is an argument, and nothing here waits.
//!
//! What must hold: no request is cut off because its connection has had its time: it takes no other, and ends when it is
//! empty.

use std::time::Duration;

use super::ClusterPolicy;
use crate::objects::Keepalive;

/// `connectionPool` with its defaults, as far as it is about one connection. How many there are is the
/// [`Breaker`](super::Breaker)'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRules {
    /// `tcp.connectTimeout`.
    pub connect_timeout: Duration,
    /// `tcp.tcpKeepalive`; none: the system's.
    pub keepalive: Option<Keepalive>,
    /// `tcp.maxConnectionDuration`; none: no limit.
    pub max_duration: Option<Duration>,
    /// `http.idleTimeout`, else `tcp.idleTimeout`; none: no limit.
    pub idle_timeout: Option<Duration>,
    /// `tcp.idleTimeout`, of a connection that is no HTTP; none: no limit.
    pub tcp_idle_timeout: Option<Duration>,
    /// `http.maxRequestsPerConnection`; none: no limit.
    pub max_requests: Option<u32>,
    /// `http.maxConcurrentStreams`, over HTTP/2; none: what the endpoint takes.
    pub max_streams: Option<u32>,
    /// `http.useClientProtocol`.
    pub uses_client_protocol: bool,
}

/// The mesh's `connectTimeout`, by Istio's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Envoy's `common_http_protocol_options.idle_timeout`, and that of its TCP proxy.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1: one request at a time.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How a connection has been used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionUse {
    version: HttpVersion,
    opened: Duration,
    /// All that have begun on it.
    requests: u32,
    active: u32,
    idle_since: Duration,
}

impl ConnectionRules {
    /// Those of a cluster.
    #[must_use]
    pub fn of(policy: &ClusterPolicy) -> Self {
        let pool = policy.port.connection_pool.clone().unwrap_or_default();
        let (tcp, http) = (pool.tcp, pool.http);
        Self {
            connect_timeout: tcp.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            keepalive: tcp.keepalive,
            max_duration: tcp.max_connection_duration,
            idle_timeout: http.idle_timeout.or(tcp.idle_timeout).unwrap_or(Some(IDLE_TIMEOUT)),
            tcp_idle_timeout: tcp.idle_timeout.unwrap_or(Some(IDLE_TIMEOUT)),
            max_requests: http.max_requests_per_connection,
            max_streams: http.max_concurrent_streams,
            uses_client_protocol: http.use_client_protocol,
        }
    }

    /// What a request is sent by. `of_port`: the Service's port says that its endpoints speak HTTP/2 (`http2`, `h2c`,
    /// `grpc`). Without its word none is asked in it, also under `h2UpgradePolicy: UPGRADE`: an endpoint that speaks HTTP/1.1
    /// alone would not answer.
    #[must_use]
    pub const fn version(&self, of_port: HttpVersion, of_client: HttpVersion) -> HttpVersion {
        if self.uses_client_protocol { of_client } else { of_port }
    }

    /// Another request may begin on this connection.
    #[must_use]
    pub fn takes_another(&self, of: &ConnectionUse, now: Duration) -> bool {
        let most = match of.version {
            HttpVersion::Http1 => Some(1),
            HttpVersion::Http2 => self.max_streams,
        };
        !self.is_spent(of, now) && most.is_none_or(|most| of.active < most)
    }

    /// The connection is to be closed: it is empty, and takes no more, or has been idle for too long.
    #[must_use]
    pub fn is_over(&self, of: &ConnectionUse, now: Duration) -> bool {
        of.active == 0 && (self.is_spent(of, now) || self.idle_end(of).is_some_and(|end| now >= end))
    }

    /// When an empty connection is over, unless another request comes; none: never by itself.
    #[must_use]
    pub fn ends_at(&self, of: &ConnectionUse) -> Option<Duration> {
        [self.idle_end(of), self.spent_at(of)].into_iter().flatten().min()
    }

    /// It takes no other request.
    #[must_use]
    pub fn is_spent(&self, of: &ConnectionUse, now: Duration) -> bool {
        self.max_requests.is_some_and(|most| of.requests >= most) || self.spent_at(of).is_some_and(|end| now >= end)
    }

    fn spent_at(&self, of: &ConnectionUse) -> Option<Duration> {
        self.max_duration.map(|most| of.opened.saturating_add(most))
    }

    fn idle_end(&self, of: &ConnectionUse) -> Option<Duration> {
        self.idle_timeout.map(|most| of.idle_since.saturating_add(most))
    }
}

impl ConnectionUse {
    /// Of one that has just been opened.
    #[must_use]
    pub const fn new(version: HttpVersion, now: Duration) -> Self {
        Self { version, opened: now, requests: 0, active: 0, idle_since: now }
    }

    /// A request begins on it.
    pub const fn begin(&mut self) {
        self.requests = self.requests.saturating_add(1);
        self.active = self.active.saturating_add(1);
    }

    /// One has ended.
    pub const fn end(&mut self, now: Duration) {
        self.active = self.active.saturating_sub(1);
        self.idle_since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        HttpVersion::{Http1, Http2},
        *,
    };
    use crate::objects::{ConnectionPool, HttpPool, PortPolicy, TcpPool, Upgrade};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules(tcp: TcpPool, http: HttpPool) -> ConnectionRules {
        let port = PortPolicy { connection_pool: Some(ConnectionPool { tcp, http }), ..PortPolicy::default() };
        ConnectionRules::of(&ClusterPolicy { port, ..ClusterPolicy::default() })
    }

    fn http(change: impl FnOnce(&mut HttpPool)) -> ConnectionRules {
        let mut http = HttpPool::default();
        change(&mut http);
        rules(TcpPool::default(), http)
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let default = ConnectionRules::of(&ClusterPolicy::default());
        assert_eq!((default.connect_timeout, default.idle_timeout), (s(10), Some(s(3600))));
        assert_eq!((default.max_duration, default.max_requests, default.max_streams), (None, None, None));
        let tcp = |idle| TcpPool { connect_timeout: Some(s(1)), idle_timeout: idle, ..TcpPool::default() };
        let of = |idle| HttpPool { idle_timeout: idle, ..HttpPool::default() };
        assert_eq!(rules(tcp(None), of(None)).connect_timeout, s(1));
        assert_eq!(rules(tcp(Some(Some(s(2)))), of(None)).idle_timeout, Some(s(2)));
        assert_eq!(rules(tcp(Some(Some(s(2)))), of(Some(Some(s(3))))).idle_timeout, Some(s(3)));
        assert_eq!(rules(tcp(Some(Some(s(2)))), of(Some(None))).idle_timeout, None);
        let of_bytes = |said| rules(tcp(said), of(Some(Some(s(3))))).tcp_idle_timeout;
        assert_eq!([None, Some(None), Some(Some(s(2)))].map(of_bytes), [Some(s(3600)), None, Some(s(2))]);
    }

    #[test]
    fn the_version_of_a_request() {
        let check = |upgrade, uses_client, want: [HttpVersion; 4]| {
            let rules = http(|http| (http.upgrade, http.use_client_protocol) = (upgrade, uses_client));
            let got =
                [(Http1, Http1), (Http1, Http2), (Http2, Http1), (Http2, Http2)].map(|(p, c)| rules.version(p, c));
            assert_eq!(got, want, "{upgrade:?} {uses_client}");
        };
        for upgrade in [Upgrade::Default, Upgrade::Never, Upgrade::Always] {
            check(upgrade, false, [Http1, Http1, Http2, Http2]);
            check(upgrade, true, [Http1, Http2, Http1, Http2]);
        }
    }

    #[test]
    fn a_connection_has_its_time() {
        let rules = rules(
            TcpPool { max_connection_duration: Some(s(100)), ..TcpPool::default() },
            HttpPool { idle_timeout: Some(Some(s(10))), ..HttpPool::default() },
        );
        let mut of = ConnectionUse::new(Http1, s(0));
        assert_eq!(
            (rules.ends_at(&of), rules.is_over(&of, s(9)), rules.is_over(&of, s(10))),
            (Some(s(10)), false, true)
        );
        of.begin();
        assert!(!rules.is_over(&of, s(99)) && !rules.is_over(&of, s(500)), "a request is not cut off");
        assert!(!rules.takes_another(&of, s(1)), "one at a time");
        of.end(s(95));
        assert!(rules.takes_another(&of, s(99)) && !rules.takes_another(&of, s(100)));
        assert_eq!(
            (rules.ends_at(&of), rules.is_over(&of, s(99)), rules.is_over(&of, s(100))),
            (Some(s(100)), false, true)
        );
    }

    #[test]
    fn a_connection_takes_so_many_requests() {
        let rules = http(|http| (http.max_requests_per_connection, http.max_concurrent_streams) = (Some(3), Some(2)));
        let mut of = ConnectionUse::new(Http2, s(0));
        (0..2).for_each(|_| of.begin());
        assert!(!rules.takes_another(&of, s(0)), "two streams");
        of.end(s(1));
        assert!(rules.takes_another(&of, s(1)));
        of.begin();
        of.end(s(2));
        assert!(!rules.takes_another(&of, s(2)) && !rules.is_over(&of, s(2)), "three requests, one of them open");
        of.end(s(3));
        assert!(rules.is_over(&of, s(3)));
        let free = ConnectionRules::of(&ClusterPolicy::default());
        (0..1_000).for_each(|_| of.begin());
        assert!(free.takes_another(&of, s(4)));
        assert_eq!(http(|http| http.idle_timeout = Some(None)).ends_at(&of), None);
    }
}
