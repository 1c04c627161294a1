//! DestinationRules: `networking.istio.io` v1, v1beta1 and v1alpha3, which have the same shape.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use super::{
    ObjectMeta, WorkloadSelector,
    virtual_service::{PortSelector, shapes},
};

/// `DestinationRule`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DestinationRule {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `spec`.
    pub spec: DestinationRuleSpec,
    /// `status`, not read.
    pub status: Option<IgnoredAny>,
}

shapes! {
    /// `spec` of a DestinationRule.
    DestinationRuleSpec {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        workload_selector: Option<WorkloadSelector>,
    }
    /// An entry of `subsets`.
    Subset {
        name: String,
        labels: BTreeMap<String, String>,
        traffic_policy: Option<TrafficPolicy>,
    }
    /// `trafficPolicy`.
    TrafficPolicy {
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
        port_level_settings: Vec<PortPolicy>,
        tunnel: Option<Tunnel>,
        proxy_protocol: Option<ProxyProtocol>,
        retry_budget: Option<RetryBudget>,
    }
    /// An entry of `portLevelSettings`.
    PortPolicy {
        port: Option<PortSelector>,
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
    }
    /// `loadBalancer`.
    LoadBalancer {
        simple: Option<String>,
        consistent_hash: Option<ConsistentHash>,
        locality_lb_setting: Option<LocalityBalancing>,
        warmup_duration_secs: Option<String>,
        warmup: Option<Warmup>,
    }
    /// `consistentHash`.
    ConsistentHash {
        http_header_name: Option<String>,
        http_cookie: Option<HashCookie>,
        use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>,
        ring_hash: Option<RingHash>,
        maglev: Option<Maglev>,
        minimum_ring_size: Option<i64>,
    }
    /// `httpCookie`.
    HashCookie {
        name: String,
        path: Option<String>,
        ttl: Option<String>,
        attributes: Vec<CookieAttribute>,
    }
    /// An entry of `attributes`.
    CookieAttribute {
        name: String,
        value: String,
    }
    /// `ringHash`.
    RingHash {
        minimum_ring_size: Option<i64>,
    }
    /// `maglev`.
    Maglev {
        table_size: Option<i64>,
    }
    /// `localityLbSetting`.
    LocalityBalancing {
        distribute: Vec<Distribute>,
        failover: Vec<Failover>,
        failover_priority: Vec<String>,
        enabled: Option<bool>,
    }
    /// An entry of `distribute`.
    Distribute {
        from: String,
        to: BTreeMap<String, i64>,
    }
    /// An entry of `failover`.
    Failover {
        from: String,
        to: String,
    }
    /// `warmup`.
    Warmup {
        duration: Option<String>,
        minimum_percent: Option<f64>,
        aggression: Option<f64>,
    }
    /// `connectionPool`.
    ConnectionPool {
        tcp: Option<TcpPool>,
        http: Option<HttpPool>,
    }
    /// `tcp`.
    TcpPool {
        max_connections: Option<i64>,
        connect_timeout: Option<String>,
        tcp_keepalive: Option<Keepalive>,
        max_connection_duration: Option<String>,
        idle_timeout: Option<String>,
    }
    /// `tcpKeepalive`.
    Keepalive {
        probes: Option<i64>,
        time: Option<String>,
        interval: Option<String>,
    }
    /// `http`.
    HttpPool {
        http1_max_pending_requests: Option<i64>,
        http2_max_requests: Option<i64>,
        max_requests_per_connection: Option<i64>,
        max_retries: Option<i64>,
        idle_timeout: Option<String>,
        h2_upgrade_policy: Option<String>,
        use_client_protocol: bool,
        max_concurrent_streams: Option<i64>,
    }
    /// `outlierDetection`.
    OutlierDetection {
        consecutive_errors: Option<i64>,
        split_external_local_origin_errors: bool,
        consecutive_local_origin_failures: Option<i64>,
        consecutive_gateway_errors: Option<i64>,
        consecutive_5xx_errors: Option<i64>,
        interval: Option<String>,
        base_ejection_time: Option<String>,
        max_ejection_percent: Option<i64>,
        min_health_percent: Option<i64>,
    }
    /// `tls`.
    ClientTls {
        mode: Option<String>,
        client_certificate: Option<String>,
        private_key: Option<String>,
        ca_certificates: Option<String>,
        credential_name: Option<String>,
        subject_alt_names: Vec<String>,
        sni: Option<String>,
        insecure_skip_verify: Option<bool>,
        ca_crl: Option<String>,
    }
    /// `tunnel`.
    Tunnel {
        protocol: Option<String>,
        target_host: String,
        target_port: Option<i64>,
    }
    /// `proxyProtocol`.
    ProxyProtocol {
        version: Option<String>,
    }
    /// `retryBudget`.
    RetryBudget {
        percent: Option<f64>,
        min_retry_concurrency: Option<i64>,
    }
}
