//! Metrics of the process, and the list of all families of the agent, from which `docs/metrics.md` is written.
//!
//! A family stands beside what it measures; its room lists it in `FAMILIES`, and [`groups`] names the rooms.

use underpass_telemetry::{
    access_log,
    metrics::{Family, Registry, process},
};
use underpass_ztunnel::metrics::Settings;

use crate::{certs, cluster, config::Config, pods, reports, waypoints};

static BUILD: Family = Family::gauge("underpass_build_info", "Version of the build; always 1.", &["version"]);
/// The families of this room.
const FAMILIES: &[&Family] = &[&BUILD];

/// All families of the agent, by subject.
#[must_use]
pub fn groups() -> Vec<(&'static str, &'static [&'static Family])> {
    vec![
        ("Traffic", underpass_ztunnel::metrics::FAMILIES),
        ("Tunnels", underpass_net::tunnel::FAMILIES),
        ("Certificates", certs::FAMILIES),
        ("Budgets", underpass_ztunnel::BUDGET_FAMILIES),
        ("World", underpass_keeper::FAMILIES),
        ("Kept facts", cluster::cache::FAMILIES),
        ("Pods", pods::FAMILIES),
        ("Waypoints", waypoints::FAMILIES),
        ("Kernel", reports::FAMILIES),
        ("Access log", access_log::FAMILIES),
        ("The process", FAMILIES),
        ("The process, by Prometheus' common names", process::FAMILIES),
    ]
}

/// Measures the process.
pub fn measure(registry: &Registry) {
    registry.gauge(&BUILD).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    process::measure(registry);
}

/// The settings of traffic metrics.
#[must_use]
pub fn traffic(config: &Config) -> Settings {
    Settings {
        cluster: config.cluster.as_str().into(),
        most_series: config.metrics_most_series,
        keep_gone: config.metrics_keep_gone,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use underpass_telemetry::metrics::{self, Kind};

    use super::*;

    const HEAD: &str = "# Metrics\n\n\
        Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-agent --lib metrics`.\n\n\
        The agent serves them at `http://NODE:15020/metrics` (`--metrics-address`), and under `/stats/prometheus`, as \
        Prometheus' text\nformat 0.0.4. Counters start at 0 with the process.\n\n\
        Traffic is reported by both ends: `reporter` is `source` at the caller's node and `destination` at the called one's, so \
        that a connection\nwithin the mesh is counted once by each. Received bytes go from the source to the destination, \
        sent bytes come back. What is not\nknown is `unknown`: a workload is known by its address, a principal by its \
        certificate alone, and the service of an inbound connection\nis the first by name that leads to its port. Series of \
        workloads and dry runs that are gone are dropped after `--metrics-keep-gone`; above\n`--metrics-most-series` traffic is counted \
        under `overflow`.\n";

    #[test]
    fn the_reference_is_current() {
        expect_file!["../../docs/metrics.md"].assert_eq(&format!("{HEAD}{}", metrics::markdown(&groups())));
    }

    #[test]
    fn every_family_is_named_as_prometheus_wants_it() {
        for family in groups().iter().flat_map(|(_, all)| *all) {
            let (registry, name) = (Registry::default(), family.name());
            // Panics where a name or a label would not be taken, or bounds do not grow.
            match family.kind() {
                Kind::Counter => drop(registry.counter(family)),
                Kind::Gauge => drop(registry.gauge(family)),
                Kind::Histogram(_) => drop(registry.histogram(family)),
            }
            assert_eq!(name.ends_with("_total"), family.kind() == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_duration_seconds"), matches!(family.kind(), Kind::Histogram(_)), "{name}");
            let names = family.labels().iter().chain([&name]);
            let is_plain = |name: &str| name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
            assert!(names.copied().all(is_plain), "{name}");
            assert!(family.help().ends_with('.') && !family.help().contains('\n'), "{name}");
        }
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut names: Vec<_> = groups().iter().flat_map(|(_, all)| *all).map(|family| family.name()).collect();
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
