//! Metrics of clusters, under Envoy's names: the limits that were met, retries, and endpoints that are ejected. Each is shown
//! before anything is counted, because an increase from nothing is none for Prometheus.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use underpass_core::http::ClusterKey;
use underpass_telemetry::metrics::{Family, Registry};

use crate::{
    cluster::{Counts, SharedClusters},
    configuration::Configuration,
};

pub(super) static CONNECTIONS_OVERFLOW: Family = Family::counter(
    "envoy_cluster_upstream_cx_overflow",
    "Requests and connections that met the limit maxConnections of their cluster: a request waits then.",
    &["cluster_name"],
);
pub(super) static PENDING_OVERFLOW: Family = Family::counter(
    "envoy_cluster_upstream_rq_pending_overflow",
    "Requests that were answered 503 because their cluster had as many waiting, or under way, as it may.",
    &["cluster_name"],
);
pub(super) static RETRIES: Family =
    Family::counter("envoy_cluster_upstream_rq_retry", "Tries beside the first ones of requests.", &["cluster_name"]);
pub(super) static RETRIES_OVERFLOW: Family = Family::counter(
    "envoy_cluster_upstream_rq_retry_overflow",
    "Requests that were not tried again because their cluster had as many retries as it may.",
    &["cluster_name"],
);
pub(super) static RETRIES_LIMIT: Family = Family::counter(
    "envoy_cluster_upstream_rq_retry_limit_exceeded",
    "Requests that were not tried again because no try was left.",
    &["cluster_name"],
);
pub(super) static RETRIES_SUCCESS: Family = Family::counter(
    "envoy_cluster_upstream_rq_retry_success",
    "Requests that were tried again and had a response that is no reason for another try.",
    &["cluster_name"],
);
pub(super) static EJECTED: Family = Family::gauge(
    "envoy_cluster_outlier_detection_ejections_active",
    "Endpoints that are ejected for their failures.",
    &["cluster_name"],
);
pub(super) static EJECTIONS: Family = Family::counter(
    "envoy_cluster_outlier_detection_ejections_enforced_total",
    "Ejections of endpoints for their failures.",
    &["cluster_name"],
);

/// The families of clusters.
pub(super) const FAMILIES: [&Family; 8] = [
    &CONNECTIONS_OVERFLOW,
    &PENDING_OVERFLOW,
    &RETRIES,
    &RETRIES_OVERFLOW,
    &RETRIES_LIMIT,
    &RETRIES_SUCCESS,
    &EJECTED,
    &EJECTIONS,
];

/// Shows them in `registry`, of all clusters that routes lead to.
pub(super) fn collect(
    registry: &Registry,
    configuration: watch::Receiver<Arc<Configuration>>,
    clusters: &Arc<SharedClusters>,
) {
    let clusters = Arc::clone(clusters);
    registry.collect(&FAMILIES, move |samples| {
        let configuration = Arc::clone(&configuration.borrow());
        let mut all: BTreeMap<ClusterKey, Counts> =
            configuration.clusters().map(|key| (key.clone(), Counts::default())).collect();
        // Once by each address family.
        for (key, counts) in clusters.counts() {
            let sum = all.entry(key).or_default();
            sum.add(&counts);
        }
        for (cluster, counts) in all {
            let cluster = cluster.to_string();
            for (family, count) in [
                (&CONNECTIONS_OVERFLOW, counts.connections_overflow),
                (&PENDING_OVERFLOW, counts.requests_overflow),
                (&RETRIES, counts.retries),
                (&RETRIES_OVERFLOW, counts.retries_overflow),
                (&RETRIES_LIMIT, counts.retries_limit),
                (&RETRIES_SUCCESS, counts.retries_success),
                (&EJECTED, counts.ejected),
                (&EJECTIONS, counts.ejections),
            ] {
                samples.add(family, &[&cluster], count);
            }
        }
    });
}
