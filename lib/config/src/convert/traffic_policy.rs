//! The traffic policy of a DestinationRule, at each of its levels.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use underpass_core::objects::{
    Balancing, ClientTls, ConnectionPool, ConsistentHash, Distribute, HashCookie, HashKey, HashRing, HttpPool,
    Keepalive, LoadBalancer, LocalityBalancing, OutlierDetection, PortPolicy, ProxyProtocol, RetryBudget, TcpPool,
    TlsMode, TrafficPolicy, Tunnel, Upgrade, Warmup,
};

use super::{
    Faults,
    traffic_value::{self as value, malformed},
};
use crate::{Fault, RouteFault, path::At, shapes};

const SIMPLE: &[&str] = &["UNSPECIFIED", "ROUND_ROBIN", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "PASSTHROUGH"];
const UPGRADES: &[&str] = &["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"];
const TLS_MODES: &[&str] = &["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"];
const VERSIONS: &[&str] = &["V1", "V2"];
const TUNNELS: &[&str] = &["CONNECT", "POST"];
/// The bounds of numbers with decimals, and their form.
const PERCENT: (f64, f64, &str) = (0.0, 100.0, "a percentage from 0 to 100");
const AGGRESSION: (f64, f64, &str) = (1.0, 1000.0, "a number from 1 to 1000");
/// Envoy's bounds of a ring and of a table.
const MAX_RING: i64 = 8 * 1024 * 1024;
const MAX_TABLE: i64 = 5_000_011;
const NONE_OF: &str = "httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName";

/// What stands at `trafficPolicy`.
pub(super) fn policy(s: Option<&shapes::TrafficPolicy>, at: &At<'_>, faults: &mut Faults) -> TrafficPolicy {
    let Some(s) = s else { return TrafficPolicy::default() };
    let at = at.field("trafficPolicy");
    let own = Parts {
        load_balancer: s.load_balancer.as_ref(),
        connection_pool: s.connection_pool.as_ref(),
        outlier_detection: s.outlier_detection.as_ref(),
        tls: s.tls.as_ref(),
    };
    let mut ports = BTreeMap::new();
    let ports_at = at.field("portLevelSettings");
    for (i, one) in s.port_level_settings.iter().enumerate() {
        let at = ports_at.index(i);
        let parts = Parts {
            load_balancer: one.load_balancer.as_ref(),
            connection_pool: one.connection_pool.as_ref(),
            outlier_detection: one.outlier_detection.as_ref(),
            tls: one.tls.as_ref(),
        };
        if one.port.is_none() {
            faults.push(&at.field("port"), Fault::Missing);
        }
        let policy = parts.read(&at, faults);
        let Some(port) = value::port_of(one.port.as_ref(), &at, faults) else { continue };
        if ports.insert(port, policy).is_some() {
            faults.push(&at.field("port"), Fault::DuplicatePort { port });
        }
    }
    let proxy_at = at.field("proxyProtocol");
    let versions = [("V1", ProxyProtocol::V1), ("V2", ProxyProtocol::V2)];
    let version = |s: &shapes::ProxyProtocol, faults: &mut Faults| {
        value::word(s.version.as_ref(), &versions, VERSIONS, &proxy_at.field("version"), faults)
            .unwrap_or(ProxyProtocol::V1)
    };
    TrafficPolicy {
        own: own.read(&at, faults),
        ports,
        tunnel: s.tunnel.as_ref().and_then(|tunnel| self::tunnel(tunnel, &at.field("tunnel"), faults)),
        proxy_protocol: s.proxy_protocol.as_ref().map(|s| version(s, faults)),
        retry_budget: s.retry_budget.as_ref().and_then(|s| budget(s, &at.field("retryBudget"), faults)),
    }
}

/// The parts that a port can have of its own.
struct Parts<'s> {
    load_balancer: Option<&'s shapes::LoadBalancer>,
    connection_pool: Option<&'s shapes::ConnectionPool>,
    outlier_detection: Option<&'s shapes::OutlierDetection>,
    tls: Option<&'s shapes::ClientTls>,
}

impl Parts<'_> {
    fn read(&self, at: &At<'_>, faults: &mut Faults) -> PortPolicy {
        PortPolicy {
            load_balancer: self.load_balancer.and_then(|s| load_balancer(s, &at.field("loadBalancer"), faults)),
            connection_pool: self.connection_pool.map(|s| connection_pool(s, &at.field("connectionPool"), faults)),
            outlier_detection: self.outlier_detection.map(|s| outliers(s, &at.field("outlierDetection"), faults)),
            tls: self.tls.and_then(|s| tls(s, &at.field("tls"), faults)),
        }
    }
}

fn load_balancer(s: &shapes::LoadBalancer, at: &At<'_>, faults: &mut Faults) -> Option<LoadBalancer> {
    let simple = [
        ("UNSPECIFIED", Simple::Unspecified),
        ("ROUND_ROBIN", Simple::RoundRobin),
        ("LEAST_REQUEST", Simple::LeastRequest),
        ("LEAST_CONN", Simple::LeastRequest),
        ("RANDOM", Simple::Random),
        ("PASSTHROUGH", Simple::Passthrough),
    ];
    let hash_at = at.field("consistentHash");
    if s.simple.is_some() && s.consistent_hash.is_some() {
        faults.push(&hash_at, Fault::Exclusive { other: "simple" });
    }
    let simple = value::word(s.simple.as_ref(), &simple, SIMPLE, &at.field("simple"), faults);
    let method = match (&s.consistent_hash, simple) {
        (Some(hash), _) => Balancing::Hash(self::hash(hash, &hash_at, faults)?),
        (None, simple) => simple.map_or(Balancing::Unspecified, Simple::balancing),
    };
    let locality = s.locality_lb_setting.as_ref();
    if s.warmup.is_some() && s.warmup_duration_secs.is_some() {
        faults.push(&at.field("warmup"), Fault::Exclusive { other: "warmupDurationSecs" });
    }
    let old = value::some_duration(s.warmup_duration_secs.as_ref(), &at.field("warmupDurationSecs"), faults);
    let old = old.map(|duration| Warmup { duration, minimum_basis_points: 1_000, aggression_thousandths: 1_000 });
    let warmup = s.warmup.as_ref().and_then(|s| warmup(s, &at.field("warmup"), faults));
    Some(LoadBalancer {
        method,
        locality: locality.map(|s| self::locality(s, &at.field("localityLbSetting"), faults)),
        warmup: warmup.or(old),
    })
}

/// The words of `simple`.
#[derive(Clone, Copy)]
enum Simple {
    Unspecified,
    RoundRobin,
    LeastRequest,
    Random,
    Passthrough,
}

impl Simple {
    const fn balancing(self) -> Balancing {
        match self {
            Self::Unspecified => Balancing::Unspecified,
            Self::RoundRobin => Balancing::RoundRobin,
            Self::LeastRequest => Balancing::LeastRequest,
            Self::Random => Balancing::Random,
            Self::Passthrough => Balancing::Passthrough,
        }
    }
}

fn hash(s: &shapes::ConsistentHash, at: &At<'_>, faults: &mut Faults) -> Option<ConsistentHash> {
    let text = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let (header, query) = (text(&s.http_header_name), text(&s.http_query_parameter_name));
    let set = [
        ("httpHeaderName", header.is_some()),
        ("httpCookie", s.http_cookie.is_some()),
        ("useSourceIp", s.use_source_ip == Some(true)),
        ("httpQueryParameterName", query.is_some()),
    ];
    let mut set = set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name);
    match (set.next(), set.next()) {
        (None, _) => faults.push(at, RouteFault::OneOf { of: NONE_OF }.into()),
        (Some(other), Some(second)) => faults.push(&at.field(second), Fault::Exclusive { other }),
        (Some(_), None) => {}
    }
    let key = if let Some(name) = header {
        HashKey::Header(faults.check(&at.field("httpHeaderName"), value::header_name(&name))?)
    } else if let Some(cookie) = &s.http_cookie {
        HashKey::Cookie(self::cookie(cookie, &at.field("httpCookie"), faults)?)
    } else if let Some(name) = query {
        HashKey::Query(name.into())
    } else {
        HashKey::SourceIp
    };
    if s.maglev.is_some() && (s.ring_hash.is_some() || s.minimum_ring_size.is_some()) {
        faults.push(&at.field("maglev"), Fault::Exclusive { other: "ringHash" });
    }
    let ring = match (&s.maglev, s.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(s.minimum_ring_size)) {
        (Some(maglev), _) => {
            let size = maglev.table_size.unwrap_or(0);
            let bad = RouteFault::OutOfRange { found: size, least: 2, most: MAX_TABLE }.into();
            let at = at.field("maglev");
            let table = match u64::try_from(size) {
                Ok(0) => Ok(HashRing::DEFAULT_TABLE),
                Ok(table) if size <= MAX_TABLE && is_prime(table) => Ok(table),
                Ok(_) if size <= MAX_TABLE => Err(malformed(&size.to_string(), "a prime number")),
                _ => Err(bad),
            };
            HashRing::Maglev(faults.check(&at.field("tableSize"), table)?)
        }
        (None, size) => {
            let size = size.unwrap_or(0);
            let ring = match u64::try_from(size) {
                Ok(0) => Ok(HashRing::DEFAULT_RING),
                Ok(ring) if size <= MAX_RING => Ok(ring),
                _ => Err(RouteFault::OutOfRange { found: size, least: 0, most: MAX_RING }.into()),
            };
            let ring_at = at.field("ringHash");
            HashRing::Ring(faults.check(&ring_at.field("minimumRingSize"), ring)?)
        }
    };
    Some(ConsistentHash { key, ring })
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..n).take_while(|d| d.saturating_mul(*d) <= n).all(|d| n.checked_rem(d) != Some(0))
}

fn cookie(s: &shapes::HashCookie, at: &At<'_>, faults: &mut Faults) -> Option<HashCookie> {
    let name_at = at.field("name");
    let is_token = value::header_name(&s.name).is_ok() && !s.name.starts_with(':');
    let name = match s.name.as_str() {
        "" => Err(Fault::Missing),
        name if is_token => Ok(name.into()),
        name => Err(malformed(name, "the name of a cookie: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~")),
    };
    let ttl = s.ttl.as_ref().map(|text| faults.check(&at.field("ttl"), value::duration(text)));
    let ttl: Option<Duration> = match ttl {
        Some(read) => Some(read?),
        None => None,
    };
    let path = value::some_head_text(s.path.as_ref(), &at.field("path"), faults);
    let mut attributes = Vec::new();
    let all_at = at.field("attributes");
    for (i, one) in s.attributes.iter().enumerate() {
        let at = all_at.index(i);
        let name = faults.check(&at.field("name"), value::head_text(&one.name));
        attributes.extend(name.zip(faults.check(&at.field("value"), value::head_text(&one.value))));
    }
    Some(HashCookie { name: faults.check(&name_at, name)?, path, ttl, attributes })
}

fn locality(s: &shapes::LocalityBalancing, at: &At<'_>, faults: &mut Faults) -> LocalityBalancing {
    let set = [!s.distribute.is_empty(), !s.failover.is_empty()];
    if set == [true, true] {
        faults.push(&at.field("failover"), Fault::Exclusive { other: "distribute" });
    }
    if !s.distribute.is_empty() && !s.failover_priority.is_empty() {
        faults.push(&at.field("failoverPriority"), Fault::Exclusive { other: "distribute" });
    }
    let place = |text: &str| match text {
        "" => Err(Fault::Missing),
        text => Ok(Arc::<str>::from(text)),
    };
    let mut distribute = Vec::new();
    let all_at = at.field("distribute");
    for (i, one) in s.distribute.iter().enumerate() {
        let at = all_at.index(i);
        let (from, to_at) = (faults.check(&at.field("from"), place(&one.from)), at.field("to"));
        let mut to = BTreeMap::new();
        for (place, percent) in &one.to {
            let percent = value::number(Some(*percent), 0, 100, &to_at.field(place), faults);
            to.extend(percent.map(|percent| (place.as_str().into(), percent)));
        }
        let sum: u32 = to.values().sum();
        if sum != 100 {
            faults.push(&to_at, malformed(&sum.to_string(), "the sum of these shares: together they are 100"));
        }
        distribute.extend(from.map(|from| Distribute { from, to }));
    }
    let mut failover = Vec::new();
    let all_at = at.field("failover");
    for (i, one) in s.failover.iter().enumerate() {
        let at = all_at.index(i);
        let from = faults.check(&at.field("from"), place(&one.from));
        failover.extend(from.zip(faults.check(&at.field("to"), place(&one.to))));
    }
    LocalityBalancing {
        enabled: s.enabled,
        distribute,
        failover,
        failover_priority: s.failover_priority.iter().map(|label| label.as_str().into()).collect(),
    }
}

fn warmup(s: &shapes::Warmup, at: &At<'_>, faults: &mut Faults) -> Option<Warmup> {
    let duration_at = at.field("duration");
    let text = faults.check(&duration_at, s.duration.as_ref().ok_or(Fault::Missing));
    let duration = value::some_duration(text, &duration_at, faults);
    let minimum = scaled(s.minimum_percent.unwrap_or(10.0), 100.0, PERCENT, &at.field("minimumPercent"), faults);
    let aggression = scaled(s.aggression.unwrap_or(1.0), 1000.0, AGGRESSION, &at.field("aggression"), faults);
    Some(Warmup { duration: duration?, minimum_basis_points: minimum?, aggression_thousandths: aggression? })
}

/// A number with decimals, as so many parts of 1.
fn scaled(
    n: f64,
    by: f64,
    (least, most, what): (f64, f64, &'static str),
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<u32> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked, and what is finer is rounded"
    )]
    let parts = (least..=most).contains(&n).then(|| (n * by).round() as u32);
    faults.check(at, parts.ok_or_else(|| malformed(&n.to_string(), what)))
}

fn connection_pool(s: &shapes::ConnectionPool, at: &At<'_>, faults: &mut Faults) -> ConnectionPool {
    ConnectionPool {
        tcp: s.tcp.as_ref().map(|s| tcp_pool(s, &at.field("tcp"), faults)).unwrap_or_default(),
        http: s.http.as_ref().map(|s| http_pool(s, &at.field("http"), faults)).unwrap_or_default(),
    }
}

fn tcp_pool(s: &shapes::TcpPool, at: &At<'_>, faults: &mut Faults) -> TcpPool {
    let alive_at = at.field("tcpKeepalive");
    let keepalive = |s: &shapes::Keepalive, faults: &mut Faults| Keepalive {
        probes: value::count(s.probes, &alive_at.field("probes"), faults),
        time: value::some_duration(s.time.as_ref(), &alive_at.field("time"), faults),
        interval: value::some_duration(s.interval.as_ref(), &alive_at.field("interval"), faults),
    };
    let max_duration_at = at.field("maxConnectionDuration");
    TcpPool {
        max_connections: value::count(s.max_connections, &at.field("maxConnections"), faults),
        connect_timeout: value::some_duration(s.connect_timeout.as_ref(), &at.field("connectTimeout"), faults),
        keepalive: s.tcp_keepalive.as_ref().map(|s| keepalive(s, faults)),
        max_connection_duration: value::some_duration(s.max_connection_duration.as_ref(), &max_duration_at, faults),
        idle_timeout: value::limit(s.idle_timeout.as_ref(), &at.field("idleTimeout"), faults),
    }
}

fn http_pool(s: &shapes::HttpPool, at: &At<'_>, faults: &mut Faults) -> HttpPool {
    let upgrades = [("DEFAULT", Upgrade::Default), ("DO_NOT_UPGRADE", Upgrade::Never), ("UPGRADE", Upgrade::Always)];
    let upgrade = value::word(s.h2_upgrade_policy.as_ref(), &upgrades, UPGRADES, &at.field("h2UpgradePolicy"), faults);
    let per_connection_at = at.field("maxRequestsPerConnection");
    HttpPool {
        max_pending_requests: value::count(s.http1_max_pending_requests, &at.field("http1MaxPendingRequests"), faults),
        max_requests: value::count(s.http2_max_requests, &at.field("http2MaxRequests"), faults),
        max_requests_per_connection: value::count(s.max_requests_per_connection, &per_connection_at, faults),
        max_retries: value::count(s.max_retries, &at.field("maxRetries"), faults),
        idle_timeout: value::limit(s.idle_timeout.as_ref(), &at.field("idleTimeout"), faults),
        upgrade: upgrade.unwrap_or_default(),
        use_client_protocol: s.use_client_protocol,
        max_concurrent_streams: value::count(s.max_concurrent_streams, &at.field("maxConcurrentStreams"), faults),
    }
}

fn outliers(s: &shapes::OutlierDetection, at: &At<'_>, faults: &mut Faults) -> OutlierDetection {
    let number = |n: Option<i64>, most: u32, name: &'static str, faults: &mut Faults| {
        value::number(n, 0, most, &at.field(name), faults)
    };
    let many = i32::MAX.unsigned_abs();
    if s.consecutive_errors.is_some() && s.consecutive_5xx_errors.is_some() {
        faults.push(&at.field("consecutiveErrors"), Fault::Exclusive { other: "consecutive5xxErrors" });
    }
    let old = number(s.consecutive_errors, many, "consecutiveErrors", faults);
    OutlierDetection {
        consecutive_5xx: number(s.consecutive_5xx_errors, many, "consecutive5xxErrors", faults).or(old),
        consecutive_gateway: number(s.consecutive_gateway_errors, many, "consecutiveGatewayErrors", faults),
        consecutive_local: number(s.consecutive_local_origin_failures, many, "consecutiveLocalOriginFailures", faults),
        splits_local: s.split_external_local_origin_errors,
        interval: value::some_duration(s.interval.as_ref(), &at.field("interval"), faults),
        base_ejection_time: value::some_duration(s.base_ejection_time.as_ref(), &at.field("baseEjectionTime"), faults),
        max_ejection_percent: number(s.max_ejection_percent, 100, "maxEjectionPercent", faults),
        min_health_percent: number(s.min_health_percent, 100, "minHealthPercent", faults),
    }
}

fn tls(s: &shapes::ClientTls, at: &At<'_>, faults: &mut Faults) -> Option<ClientTls> {
    let modes = [
        ("DISABLE", TlsMode::Disable),
        ("SIMPLE", TlsMode::Simple),
        ("MUTUAL", TlsMode::Mutual),
        ("ISTIO_MUTUAL", TlsMode::IstioMutual),
    ];
    let mode_at = at.field("mode");
    // As protobuf has it: the first word is what a message says that does not say.
    let mode = match &s.mode {
        None => Some(TlsMode::Disable),
        Some(_) => value::word(s.mode.as_ref(), &modes, TLS_MODES, &mode_at, faults),
    };
    let some = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(Arc::from);
    let (certificate, key, secret) = (some(&s.client_certificate), some(&s.private_key), some(&s.credential_name));
    if mode == Some(TlsMode::Mutual) && secret.is_none() {
        for (field, _) in
            [("clientCertificate", &certificate), ("privateKey", &key)].into_iter().filter(|(_, v)| v.is_none())
        {
            faults.push(&at.field(field), Fault::Missing);
        }
    }
    if secret.is_some() && (certificate.is_some() || key.is_some()) {
        faults.push(&at.field("credentialName"), Fault::Exclusive { other: "clientCertificate" });
    }
    let sni = some(&s.sni);
    let is_host = |name: &str| name.parse::<IpAddr>().is_err();
    if let Some(sni) = sni.as_deref().filter(|sni| is_host(sni)) {
        faults.check(&at.field("sni"), value::host(sni));
    }
    let names_at = at.field("subjectAltNames");
    let names = s.subject_alt_names.iter().enumerate();
    for (i, name) in names.filter(|(_, name)| !name.contains("://") && is_host(name)) {
        faults.check(&names_at.index(i), value::host(name));
    }
    Some(ClientTls {
        mode: mode?,
        client_certificate: certificate,
        private_key: key,
        ca_certificates: some(&s.ca_certificates),
        ca_crl: some(&s.ca_crl),
        credential_name: secret,
        subject_alt_names: s.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
        sni,
        skips_verification: s.insecure_skip_verify.unwrap_or(false),
    })
}

fn tunnel(s: &shapes::Tunnel, at: &At<'_>, faults: &mut Faults) -> Option<Tunnel> {
    let posts =
        value::word(s.protocol.as_ref(), &[("CONNECT", false), ("POST", true)], TUNNELS, &at.field("protocol"), faults);
    let host = faults.check(&at.field("targetHost"), value::host(&s.target_host));
    let port_at = at.field("targetPort");
    let port = faults.check(&port_at, s.target_port.ok_or(Fault::Missing));
    Some(Tunnel {
        posts: posts.unwrap_or(false),
        host: host?.to_string().into(),
        port: value::port(port, &port_at, faults)?,
    })
}

fn budget(s: &shapes::RetryBudget, at: &At<'_>, faults: &mut Faults) -> Option<RetryBudget> {
    let percent = scaled(s.percent.unwrap_or(20.0), 100.0, PERCENT, &at.field("percent"), faults);
    let least =
        value::number(s.min_retry_concurrency, 0, i32::MAX.unsigned_abs(), &at.field("minRetryConcurrency"), faults);
    Some(RetryBudget { basis_points: percent?, min_concurrency: least.unwrap_or(3) })
}
