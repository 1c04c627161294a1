//! Tests of the metrics: records, Worlds and times in, the text of a scrape out.

use std::net::SocketAddr;

use expect_test::{expect, expect_file};
use http::{HeaderMap, StatusCode};
use underpass_core::{
    ObjectKey, ObjectName,
    authz::Rule,
    connection::Party,
    http::RequestEnd,
    objects::{Batch, Object, Pod},
    resolve::Model,
    testing::{labels, model, name, pod, policy, service},
    world::{Action, AuthorizationPolicy, Owner, OwnerKind},
};
use underpass_telemetry::metrics::{self, Kind};

use super::*;

fn objects() -> Vec<Object> {
    let owner = Some(Owner { kind: OwnerKind::Deployment, name: "shop".into() });
    let client = Pod { owner, labels: labels("app=store version=v2"), ..pod("default/shop-1", "10.0.0.1") };
    vec![
        client.into(),
        pod("back/db-0", "10.0.0.2").into(),
        service("back/db app=db-0 10.96.0.1 80=5432").into(),
        service("back/zz app=db-0 10.96.0.2 80=5432").into(),
    ]
}

struct Rig {
    model: Model,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    registry: Registry,
    scraped: Arc<Mutex<(Arc<World>, Instant)>>,
    began: Instant,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        let model = model(objects());
        let registry = Registry::default();
        let metrics = Metrics::new(&settings);
        let recorder = Recorder::new(&metrics, &registry);
        let began = Instant::now();
        let scraped = Arc::new(Mutex::new((Arc::new(model.world().clone()), began)));
        let (at, shown) = (Arc::clone(&scraped), Arc::clone(&metrics));
        registry.write(WRITTEN, move |lines| {
            let (world, now) = &*lock(&at);
            shown.show(world, *now, lines);
        });
        Self { model, metrics, recorder, registry, scraped, began }
    }

    fn party(&self, address: &str) -> Party {
        let address: SocketAddr = address.parse().unwrap();
        let world = self.model.world();
        let workload = world.workload_at(address.ip()).cloned();
        let identity = workload.as_ref().and_then(|workload| world.identity(workload)).cloned();
        Party { address, workload, identity }
    }

    /// A request of the shop to this Service.
    fn request(&self, service: &str, is_grpc: bool) -> Record {
        Record::new(self.party("10.0.0.1:4000"), name(service), is_grpc, None)
    }

    /// One that the database answers.
    fn answered(&self, status: u16) -> Record {
        let record = self.request("back/db", false);
        let endpoint = self.party("10.0.0.2:5432");
        record.tries(Party { identity: None, ..endpoint.clone() });
        record.reached(endpoint.identity.as_ref());
        record.answered(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        record
    }

    fn end(&self, record: &Record, end: RequestEnd) {
        self.recorder.ended(self.model.world(), record, end);
    }

    fn put(&mut self, policy: AuthorizationPolicy) {
        let mut batch = Batch::default();
        batch.put(policy);
        self.model.apply(&batch);
    }

    fn remove(&mut self, pod: &str) {
        let mut batch = Batch::default();
        batch.remove(ObjectKey::new(underpass_core::Kind::Pod, name(pod)));
        self.model.apply(&batch);
    }

    fn scrape(&self, after_s: u64) -> String {
        let world = Arc::new(self.model.world().clone());
        *lock(&self.scraped) = (world, self.began + Duration::from_secs(after_s));
        self.registry.text()
    }
}

#[test]
fn denials_of_dry_runs_are_counted_once_by_request() {
    let keep_gone = Duration::from_secs(100);
    let mut rig = Rig::new(Settings { keep_gone, ..Settings::default() });
    let tried = |dry_run| AuthorizationPolicy { dry_run, ..policy("back/tried", Action::Deny, vec![Rule::default()]) };
    rig.put(tried(true));
    let denials = |text: &str| sum(text, "underpass_waypoint_dry_run_denials_total", &["policy=\"tried\""]);
    let record = rig.answered(200);
    record.judged_aside([vec![name("back/tried")], Vec::new()]);
    record.judged_aside([vec![name("back/tried")], Vec::new()]);
    assert_eq!(denials(&rig.scrape(0)), None, "it has not ended");
    rig.end(&record, RequestEnd::Finished);
    rig.end(&rig.answered(200), RequestEnd::Finished);
    assert_eq!(denials(&rig.scrape(1)), Some(1.0));
    rig.put(tried(false));
    assert_eq!(denials(&rig.scrape(2)), Some(1.0));
    assert_eq!(denials(&rig.scrape(102)), None, "it is no dry run any more");
}

/// The sum of the series of `family` that have all of these labels; nothing where there is none.
fn sum(text: &str, family: &str, with: &[&str]) -> Option<f64> {
    let series = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(family));
    let values: Vec<f64> = series
        .filter(|line| with.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn requests(text: &str, with: &[&str]) -> Option<f64> {
    sum(text, "istio_requests_total", with)
}

#[test]
fn every_label_as_istio_spells_it() {
    let rig = Rig::new(Settings::default());
    rig.end(&rig.answered(200), RequestEnd::Finished);
    let text = rig.scrape(0);
    let line = text.lines().find(|line| line.starts_with("istio_requests_total")).unwrap();
    expect![[r#"
        istio_requests_total
        reporter="waypoint"
        source_workload="shop"
        source_canonical_service="store"
        source_canonical_revision="v2"
        source_workload_namespace="default"
        source_principal="spiffe://cluster.local/ns/default/sa/shop-1"
        source_app="store"
        source_version="v2"
        source_cluster="Kubernetes"
        destination_workload="db-0"
        destination_canonical_service="db-0"
        destination_canonical_revision="latest"
        destination_workload_namespace="back"
        destination_principal="spiffe://cluster.local/ns/back/sa/db-0"
        destination_app="db-0"
        destination_version="latest"
        destination_cluster="Kubernetes"
        destination_service="db.back.svc.cluster.local"
        destination_service_name="db"
        destination_service_namespace="back"
        request_protocol="http"
        response_code="200"
        response_flags="-"
        grpc_response_status=""
        connection_security_policy="mutual_tls" 1
    "#]]
    .assert_eq(&format!("{}\n", line.replace('{', "\n").replace("\",", "\"\n").replace('}', "")));
}

#[test]
fn what_is_not_known_is_unknown() {
    let rig = Rig::new(Settings::default());
    let thief =
        Party { identity: Some("spiffe://cluster.local/ns/x/sa/y".parse().unwrap()), ..rig.party("10.0.0.1:1") };
    rig.end(&Record::new(thief, name("back/db"), true, None), RequestEnd::ClientReset);
    let expect = [
        "source_workload=\"unknown\"",
        "source_principal=\"spiffe://cluster.local/ns/x/sa/y\"",
        "destination_workload=\"unknown\"",
        "destination_principal=\"unknown\"",
        "destination_service_name=\"db\"",
        "request_protocol=\"grpc\"",
        "response_code=\"0\"",
        "response_flags=\"DC\"",
        "grpc_response_status=\"unknown\"",
    ];
    let text = rig.scrape(0);
    assert_eq!(requests(&text, &expect), Some(1.0), "{text}");
}

#[test]
fn the_status_of_grpc_is_that_of_the_trailers() {
    let check = |is_grpc: bool, head: Option<&str>, trailers: Option<&str>, expect: &str| {
        let rig = Rig::new(Settings::default());
        let headers = |status: Option<&str>| {
            let pair = status.map(|status| ("grpc-status".parse().unwrap(), status.parse().unwrap()));
            pair.into_iter().collect::<HeaderMap>()
        };
        let record = rig.request("back/db", is_grpc);
        record.answered(StatusCode::OK, &headers(head));
        record.trailers(&headers(trailers));
        rig.end(&record, RequestEnd::Finished);
        let label = format!("grpc_response_status=\"{expect}\"");
        assert_eq!(requests(&rig.scrape(0), &[&label]), Some(1.0), "{is_grpc} {head:?} {trailers:?}");
    };
    check(true, None, Some("7"), "7");
    check(true, Some("14"), None, "14");
    check(true, Some("0"), Some("16"), "16");
    check(true, None, None, "unknown");
    check(true, None, Some("17"), "unknown");
    check(true, None, Some("-1"), "unknown");
    check(false, None, Some("7"), "");
}

#[test]
fn bytes_and_time_are_counted_once_each() {
    let rig = Rig::new(Settings::default());
    for bytes in [3_u16, 3000] {
        let record = rig.answered(200);
        let received = std::rc::Rc::new(Received::default());
        received.add(bytes.into());
        record.receives(Some(received));
        record.sent(1);
        record.sent(bytes.into());
        rig.end(&record, RequestEnd::Finished);
    }
    let text = rig.scrape(0);
    let check = |family: &str, with: &[&str], expect| assert_eq!(sum(&text, family, with), Some(expect), "{family}");
    check("istio_request_bytes_sum", &[], 3003.0);
    check("istio_request_bytes_count", &[], 2.0);
    check("istio_request_bytes_bucket", &["le=\"1\""], 0.0);
    check("istio_request_bytes_bucket", &["le=\"5\""], 1.0);
    check("istio_request_bytes_bucket", &["le=\"2500\""], 1.0);
    check("istio_request_bytes_bucket", &["le=\"5000\""], 2.0);
    check("istio_request_bytes_bucket", &["le=\"+Inf\""], 2.0);
    check("istio_response_bytes_sum", &[], 3005.0);
    check("istio_request_duration_milliseconds_count", &[], 2.0);
    check("istio_request_duration_milliseconds_bucket", &["le=\"3600000\""], 2.0);
}

#[test]
fn a_known_series_takes_no_lock() {
    let rig = Rig::new(Settings::default());
    rig.end(&rig.answered(200), RequestEnd::Finished);
    let held = rig.metrics.traffic.lock().unwrap();
    rig.end(&rig.answered(200), RequestEnd::Finished);
    drop(held);
    rig.end(&rig.answered(500), RequestEnd::Finished);
    let text = rig.scrape(0);
    assert_eq!([requests(&text, &["\"200\""]), requests(&text, &["\"500\""])], [Some(2.0), Some(1.0)]);
    assert_eq!(sum(&text, "underpass_waypoint_requests_total", &["finished"]), Some(3.0));
}

#[test]
fn beyond_the_limit_requests_are_counted_together() {
    let rig = Rig::new(Settings { most_series: 2, ..Settings::default() });
    for status in [200, 404, 503, 504, 503, 200] {
        rig.end(&rig.answered(status), RequestEnd::Finished);
    }
    let text = rig.scrape(0);
    let code = |code: &str, service: &str| {
        let labels = [format!("response_code=\"{code}\""), format!("destination_service_name=\"{service}\"")];
        requests(&text, &[&labels[0], &labels[1]])
    };
    assert_eq!([code("200", "db"), code("404", "db"), code("503", "db")], [Some(2.0), Some(1.0), None]);
    assert_eq!([code("503", "overflow"), code("504", "overflow")], [Some(2.0), Some(1.0)], "alerts look at codes");
    assert_eq!(sum(&text, "underpass_waypoint_folded_total", &[]), Some(3.0));
    assert_eq!(sum(&text, "underpass_waypoint_series", &[]), Some(4.0));
}

#[test]
fn series_of_the_gone_are_shown_for_a_while_and_dropped() {
    let mut rig = Rig::new(Settings { keep_gone: Duration::from_secs(100), ..Settings::default() });
    let late = rig.answered(200);
    rig.end(&rig.answered(200), RequestEnd::Finished);
    assert_eq!(requests(&rig.scrape(1000), &[]), Some(1.0), "while all is there");
    rig.remove("back/db-0");
    assert_eq!(requests(&rig.scrape(1001), &[]), Some(1.0), "first shown as gone");
    rig.end(&late, RequestEnd::Finished);
    assert_eq!(requests(&rig.scrape(1102), &[]), Some(2.0), "what counts again begins again");
    assert_eq!(requests(&rig.scrape(1201), &[]), Some(2.0));
    assert_eq!(requests(&rig.scrape(1202), &[]), None, "dropped");
    // The worker has met the series that was dropped, and counts in a new one.
    rig.end(&late, RequestEnd::Finished);
    assert_eq!(requests(&rig.scrape(1203), &[]), Some(1.0));
}

#[test]
fn the_service_is_that_of_the_route() {
    let rig = Rig::new(Settings::default());
    let record = rig.answered(200);
    record.goes_to(&ObjectName::new("back", "zz"));
    rig.end(&record, RequestEnd::Finished);
    assert_eq!(requests(&rig.scrape(0), &["destination_service=\"zz.back.svc.cluster.local\""]), Some(1.0));
}

#[test]
fn what_common_dashboards_and_alerts_look_at() {
    for (name, labels) in [
        ("istio_requests_total", &["destination_service_name", "response_code"][..]),
        ("istio_request_duration_milliseconds", &["destination_service_name"]),
        ("envoy_cluster_upstream_cx_overflow", &["cluster_name"]),
        ("envoy_cluster_upstream_rq_pending_overflow", &["cluster_name"]),
        ("envoy_cluster_upstream_rq_retry", &["cluster_name"]),
        ("envoy_cluster_upstream_rq_retry_success", &["cluster_name"]),
        ("envoy_cluster_upstream_rq_retry_overflow", &["cluster_name"]),
        ("envoy_cluster_outlier_detection_ejections_active", &["cluster_name"]),
        ("envoy_cluster_outlier_detection_ejections_enforced_total", &["cluster_name"]),
    ] {
        let family = FAMILIES.iter().find(|family| family.name() == name);
        let family = family.unwrap_or_else(|| panic!("{name}"));
        assert!(labels.iter().all(|label| family.labels().contains(label)), "{name}: {labels:?}");
    }
}

const HEAD: &str = "# Metrics of a waypoint\n\n\
    Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-waypoint --lib metrics`.\n\n\
    A waypoint serves them at port 15020 of its addresses, as `/metrics` and `/stats/prometheus`.\n\n\
    A request is counted when its answer has ended. Bytes are those of bodies. What is not known is `unknown`: the source is known by its \
    address and\nits certificate, the destination is the endpoint of the last try, with its principal where there was a connection \
    to it, and the\nService is that of the route. `response_flags` are Envoy's, separated by commas. Bounds of the histograms, in \
    ms or bytes, are those\nof Istio. Series of workloads and Services that are gone are dropped after a while; above a limit of series requests \
    are counted under\n`overflow`, by their code.\n";

#[test]
fn the_reference_is_current() {
    let groups = [
        ("Requests", FAMILIES),
        ("Connections that are no HTTP", CONNECTION_FAMILIES),
        ("Access log", underpass_telemetry::access_log::FAMILIES),
        ("World", underpass_keeper::FAMILIES),
        ("The process", crate::process::FAMILIES),
        ("The process, by Prometheus' common names", metrics::process::FAMILIES),
    ];
    expect_file!["../../../docs/waypoint-metrics.md"].assert_eq(&format!("{HEAD}{}", metrics::markdown(&groups)));
}

#[test]
fn every_family_is_one_that_prometheus_takes() {
    for family in FAMILIES.iter().chain(CONNECTION_FAMILIES) {
        let (registry, name) = (Registry::default(), family.name());
        // Panics where a name or a label would not be taken, or bounds do not grow.
        match family.kind() {
            Kind::Counter => drop(registry.counter(family)),
            Kind::Gauge => drop(registry.gauge(family)),
            Kind::Histogram(_) => drop(registry.histogram(family)),
        }
        if !name.starts_with("envoy_") {
            assert_eq!(name.ends_with("_total"), family.kind() == Kind::Counter, "{name}");
        }
        assert!(family.help().ends_with('.') && !family.help().contains('\n'), "{name}");
    }
}
