//! Tests of the metrics: records, Worlds and times in, the text of a scrape out.

use std::net::SocketAddr;

use expect_test::expect;
use proptest::prelude::*;
use underpass_core::{
    Connection, Identity, ObjectName, Reason,
    authz::Rule,
    connection::{Direction, Party, Path},
    objects::{Node, Object, Pod},
    resolve::Model,
    testing::{connection, labels, model, name, pod, policy, service},
    tls::{Alert, Refusal, TlsFailure},
    world::{Action, AuthorizationPolicy, Owner, OwnerKind},
};
use underpass_net::tunnel::Tally;

use super::{
    response::{Flag, Security},
    *,
};

/// Two workloads on two nodes, a service in front of one of them.
fn objects() -> Vec<Object> {
    let node = |name: &str, with: &str| {
        Object::from(Node {
            name: ObjectName::cluster(name),
            addresses: Vec::new(),
            labels: labels(with),
            awaits_agent: false,
            waypoint_ranges: Vec::new(),
        })
    };
    let owner = Some(Owner { kind: OwnerKind::Deployment, name: "shop".into() });
    let client = Pod { owner, labels: labels("app=store version=v2"), ..pod("default/shop-1", "10.0.0.1 fd00::1") };
    let server = Pod { node: Some("node-2".into()), ..pod("back/db-0", "10.0.0.2 fd00::2") };
    vec![
        node("node-1", "topology.kubernetes.io/region=north topology.kubernetes.io/zone=n1"),
        // What is empty says nothing.
        node("node-2", "topology.kubernetes.io/zone="),
        client.into(),
        server.into(),
        service("back/db app=db-0 10.96.0.1 80=5432").into(),
        service("back/zz app=db-0 10.96.0.2 80=5432").into(),
    ]
}

struct Rig {
    model: Model,
    recorder: Recorder,
    registry: Registry,
    /// What there is at a scrape, when that is, and how many connections are open.
    scraped: Arc<Mutex<(Arc<World>, Instant, OpenCount)>>,
    began: Instant,
    next: u64,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        let model = model(objects());
        let registry = Registry::default();
        let (world, began) = (Arc::new(model.world().clone()), Instant::now());
        let metrics = Metrics::new(&settings);
        let recorder = Recorder::new(&metrics, &registry);
        let scraped = Arc::new(Mutex::new((world, began, OpenCount::default())));
        let at = Arc::clone(&scraped);
        registry.write(WRITTEN, move |lines| {
            let (world, now, open) = &*lock(&at);
            metrics.show(world, *now, *open, lines);
        });
        Self { model, recorder, registry, scraped, began, next: 0 }
    }

    /// A record as the tunnel makes it, with the workloads that have the addresses.
    fn record(&mut self, direction: Direction, path: Path, from: &str, to: &str) -> Connection {
        self.next += 1;
        let world = self.model.world();
        let party = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let workload = world.workload_at(address.ip()).cloned();
            let identity = workload.as_deref().filter(|_| path == Path::Hbone).and_then(|w| world.identity(w)).cloned();
            Party { address, workload, identity }
        };
        Connection {
            id: self.next,
            direction,
            path,
            source: party(from),
            destination: party(to),
            reason: None,
            ..connection(from, to)
        }
    }

    fn hbone(&mut self, direction: Direction) -> Connection {
        self.record(direction, Path::Hbone, "10.0.0.1:40000", "10.0.0.2:5432")
    }

    fn open(&self, record: &Connection) -> Arc<Tally> {
        let tally = Arc::default();
        self.recorder.opened(self.model.world(), record, &tally);
        tally
    }

    fn end(&self, record: &Connection, reason: Reason) {
        self.recorder.ended(self.model.world(), &Connection { reason: Some(reason), ..record.clone() });
    }

    /// From now on there is this object.
    fn put(&mut self, object: impl Into<Object>) {
        let mut batch = underpass_core::objects::Batch::default();
        batch.put(object);
        self.model.apply(&batch);
    }

    /// From now on there is no pod of this name.
    fn remove(&mut self, pod: &str) {
        let mut batch = underpass_core::objects::Batch::default();
        batch.remove(underpass_core::ObjectKey::new(underpass_core::Kind::Pod, name(pod)));
        self.model.apply(&batch);
    }

    /// A scrape `after_s` seconds after the begin.
    fn scrape(&self, after_s: u64) -> String {
        let (mut open, mut after) = (OpenCount::default(), Some(0));
        while let Some(id) = after {
            let folded = self.recorder.fold(id);
            open.add(folded.open);
            after = folded.last;
        }
        *lock(&self.scraped) = (Arc::new(self.model.world().clone()), self.began + Duration::from_secs(after_s), open);
        self.registry.text()
    }
}

/// The sum of the series of `family` that have all of these labels; nothing where there is none.
fn sum(text: &str, family: &str, with: &[&str]) -> Option<u64> {
    let series = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(family));
    let values: Vec<u64> = series
        .filter(|line| with.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Opened, closed, received, sent.
fn counts(text: &str, with: &[&str]) -> [Option<u64>; 4] {
    ["connections_opened", "connections_closed", "received_bytes", "sent_bytes"]
        .map(|what| sum(text, &format!("istio_tcp_{what}_total"), with))
}

#[test]
fn every_label_as_istio_spells_it() {
    let mut rig = Rig::new(Settings::default());
    let mut record = rig.hbone(Direction::Outbound);
    record.service = Some(name("back/db"));
    rig.open(&record);
    let text = rig.scrape(0);
    let line = text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total")).unwrap();
    expect![[r#"
        istio_tcp_connections_opened_total
        reporter="source"
        source_workload="shop"
        source_canonical_service="store"
        source_canonical_revision="v2"
        source_workload_namespace="default"
        source_principal="spiffe://cluster.local/ns/default/sa/shop-1"
        source_app="store"
        source_version="v2"
        source_cluster="Kubernetes"
        source_region="north"
        source_zone="n1"
        destination_service="db.back.svc.cluster.local"
        destination_service_namespace="back"
        destination_service_name="db"
        destination_workload="db-0"
        destination_canonical_service="db-0"
        destination_canonical_revision="latest"
        destination_workload_namespace="back"
        destination_principal="spiffe://cluster.local/ns/back/sa/db-0"
        destination_app="db-0"
        destination_version="latest"
        destination_cluster="Kubernetes"
        destination_region="unknown"
        destination_zone="unknown"
        request_protocol="tcp"
        response_flags="-"
        connection_security_policy="mutual_tls" 1
    "#]]
    .assert_eq(&format!("{}\n", line.replace('{', "\n").replace("\",", "\"\n").replace('}', "")));
}

#[test]
fn bytes_of_open_connections_are_shown_once() {
    let mut rig = Rig::new(Settings::default());
    for (direction, reporter) in
        [(Direction::Outbound, "reporter=\"source\""), (Direction::Inbound, "reporter=\"destination\"")]
    {
        // The client's side of a connection reads from the application what the server's side writes to it.
        let carry = |tally: &Tally, request, answer| match direction {
            Direction::Outbound => (tally.add_from_app(request), tally.add_to_app(answer)),
            Direction::Inbound => (tally.add_to_app(request), tally.add_from_app(answer)),
        };
        let records = [rig.hbone(direction), rig.hbone(direction)];
        let [first, second] = records.each_ref().map(|record| rig.open(record));
        carry(&first, 10, 1);
        let check = |want: [u64; 4]| assert_eq!(counts(&rig.scrape(0), &[reporter]), want.map(Some), "{reporter}");
        check([2, 0, 10, 1]);
        check([2, 0, 10, 1]);
        carry(&first, 90, 9);
        carry(&second, 1000, 100);
        check([2, 0, 1100, 110]);
        carry(&first, 1, 0);
        rig.end(&records[0], Reason::Finished);
        check([2, 1, 1101, 110]);
        rig.end(&records[1], Reason::ClientReset);
        check([2, 2, 1101, 110]);
    }
    let text = rig.scrape(0);
    assert_eq!(sum(&text, "underpass_connection_ends_total", &["\"outbound\"", "\"finished\""]), Some(1));
    assert_eq!(sum(&text, "underpass_connection_ends_total", &["\"inbound\"", "\"client_reset\""]), Some(1));
    assert_eq!(sum(&text, "underpass_connections_open", &[]), Some(0));
}

fn tls(refusal: Refusal) -> Reason {
    Reason::Tls(TlsFailure::new(refusal, String::new(), None, None))
}

#[test]
fn refused_connections_say_how() {
    let check = |direction, reason: Reason, want: &str| {
        let mut rig = Rig::new(Settings::default());
        let record = rig.hbone(direction);
        rig.end(&record, reason.clone());
        let flag = format!("response_flags=\"{want}\"");
        let text = rig.scrape(0);
        assert_eq!(sum(&text, "istio_tcp_connections_closed_total", &[&flag]), Some(1), "{reason:?}");
        let all = [Some(1), Some(1), Some(0), Some(0)];
        assert_eq!(counts(&text, &[]), all, "{reason:?}: what was refused was opened and closed, and carried nothing");
    };
    check(Direction::Inbound, Reason::Denied, "DENY");
    check(Direction::Inbound, Reason::NotAllowed, "DENY");
    check(Direction::Inbound, Reason::NeedsWaypoint(Vec::new()), "DENY");
    check(Direction::Inbound, Reason::PlaintextRefused, "DENY");
    check(Direction::Inbound, Reason::Identity, "DENY");
    check(Direction::Outbound, Reason::Identity, "CONNECT");
    check(Direction::Inbound, tls(Refusal::Expired), "DENY");
    check(Direction::Outbound, tls(Refusal::Expired), "CONNECT");
    check(Direction::Inbound, tls(Refusal::Protocol), "CONNECT");
    check(Direction::Inbound, tls(Refusal::Alert(Alert(48))), "CONNECT");
    check(Direction::Outbound, Reason::Refused(401), "DENY");
    check(Direction::Outbound, Reason::Refused(503), "CONNECT");
    check(Direction::Outbound, Reason::NoEndpoint, "CONNECT");
    check(Direction::Outbound, Reason::Unreachable, "CONNECT");
    check(Direction::Inbound, Reason::ConnectFailed, "CONNECT");
    check(Direction::Outbound, Reason::TunnelClosed, "-");
    check(Direction::Inbound, Reason::Finished, "-");

    let mut rig = Rig::new(Settings::default());
    let record = rig.record(Direction::Inbound, Path::Hbone, "10.0.0.1:4000", "10.0.0.2:15008");
    rig.end(&record, tls(Refusal::Protocol));
    rig.end(&record, tls(Refusal::Alert(Alert(48))));
    let text = rig.scrape(0);
    assert_eq!(counts(&text, &[]), [None; 4], "a tunnel is no connection");
    for word in ["\"tls_protocol\"", "\"tls_alert_unknown_ca\""] {
        assert_eq!(sum(&text, "underpass_connection_ends_total", &[word]), Some(1));
    }
}

#[test]
fn security_is_said_as_istio_says_it() {
    for (direction, path, want) in [
        (Direction::Outbound, Path::Hbone, Security::MutualTls),
        (Direction::Inbound, Path::Hbone, Security::MutualTls),
        (Direction::Inbound, Path::Plaintext, Security::None),
        (Direction::Outbound, Path::Passthrough, Security::Unknown),
        (Direction::Outbound, Path::None, Security::Unknown),
        (Direction::Inbound, Path::None, Security::Unknown),
    ] {
        assert_eq!(Security::of(direction, path), want, "{direction:?} {path:?}");
    }
    assert_eq!(Flag::ALL.map(|flag| flag as usize), [0, 1, 2], "flags are indices");
}

#[test]
fn labels_of_a_peer_are_proved_or_unknown() {
    let check = |from: &str, proved: Option<&str>, want: [&str; 2]| {
        let mut rig = Rig::new(Settings::default());
        let mut record = rig.record(Direction::Inbound, Path::Hbone, from, "10.0.0.2:5432");
        record.source.identity = proved.map(|sa| format!("spiffe://cluster.local/ns/default/sa/{sa}").parse().unwrap());
        rig.open(&record);
        let text = rig.scrape(0);
        let [workload, principal] = want;
        let principal = record.source.identity.as_ref().map_or(principal, Identity::uri);
        let labels = [format!("source_workload=\"{workload}\""), format!("source_principal=\"{principal}\"")];
        assert_eq!(counts(&text, &[&labels[0], &labels[1]])[0], Some(1), "{from} {proved:?}: {text}");
    };
    check("10.0.0.1:4000", Some("shop-1"), ["shop", ""]);
    check("[fd00::1]:4000", Some("shop-1"), ["shop", ""]);
    check("10.0.0.1:4000", None, ["shop", "unknown"]);
    // The address is the shop's, the certificate is another workload's.
    check("10.0.0.1:4000", Some("thief"), ["unknown", ""]);
    check("203.0.113.7:4000", None, ["unknown", "unknown"]);
}

#[test]
fn the_service_of_inbound_connections_is_one_that_leads_there() {
    let check = |to: &str, want: &str| {
        let mut rig = Rig::new(Settings::default());
        let record = rig.record(Direction::Inbound, Path::Hbone, "10.0.0.1:4000", to);
        rig.open(&record);
        let label = format!("destination_service_name=\"{want}\"");
        assert_eq!(counts(&rig.scrape(0), &[&label])[0], Some(1), "{to}");
    };
    check("10.0.0.2:5432", "db");
    check("[fd00::2]:5432", "db");
    check("10.0.0.2:80", "unknown");
    check("10.0.0.1:5432", "unknown");
}

#[test]
fn series_of_the_gone_are_shown_for_a_while_and_dropped() {
    let keep_gone = Duration::from_secs(100);
    let mut rig = Rig::new(Settings { keep_gone, ..Settings::default() });
    let record = rig.hbone(Direction::Outbound);
    let tally = rig.open(&record);
    rig.remove("back/db-0");
    rig.scrape(0);
    assert_eq!(counts(&rig.scrape(1000), &[])[0], Some(1), "a connection is open");
    tally.add_from_app(7);
    rig.end(&record, Reason::PodGone);
    assert_eq!(counts(&rig.scrape(1001), &[]), [Some(1), Some(1), Some(7), Some(0)], "first shown as gone");
    assert_eq!(counts(&rig.scrape(1100), &[]), [Some(1), Some(1), Some(7), Some(0)]);

    let again = rig.hbone(Direction::Outbound);
    let other = Connection { destination: record.destination.clone(), ..again };
    rig.open(&other);
    rig.end(&other, Reason::Finished);
    assert_eq!(counts(&rig.scrape(1102), &[])[0], Some(2), "what counts again begins again");
    assert_eq!(counts(&rig.scrape(1201), &[])[0], Some(2));
    assert_eq!(counts(&rig.scrape(1202), &[])[0], None, "dropped");
    assert_eq!(sum(&rig.scrape(1203), "underpass_metrics_series", &[]), Some(0));
    // The worker has met the series that was dropped, and counts in a new one.
    rig.open(&other);
    rig.end(&other, Reason::Finished);
    assert_eq!(counts(&rig.scrape(1204), &[])[..2], [Some(1), Some(1)]);
}

#[test]
fn series_of_present_workloads_stay() {
    let mut rig = Rig::new(Settings { keep_gone: Duration::ZERO, ..Settings::default() });
    let record = rig.hbone(Direction::Inbound);
    rig.open(&record);
    rig.end(&record, Reason::Finished);
    rig.scrape(0);
    assert_eq!(counts(&rig.scrape(1_000_000), &[])[0], Some(1));
    rig.remove("default/shop-1");
    assert_eq!(counts(&rig.scrape(1_000_001), &[])[0], Some(1), "shown once more");
    assert_eq!(counts(&rig.scrape(1_000_002), &[])[0], None);
}

#[test]
fn denials_of_dry_runs_are_counted_once_and_go_with_the_policy() {
    let keep_gone = Duration::from_secs(100);
    let mut rig = Rig::new(Settings { keep_gone, ..Settings::default() });
    let tried = |dry_run| AuthorizationPolicy { dry_run, ..policy("back/tried", Action::Deny, vec![Rule::default()]) };
    rig.put(tried(true));
    let mut record = rig.hbone(Direction::Inbound);
    record.dry_run_denied_by = vec![name("back/tried")];
    let denials =
        |text: &str| sum(text, "underpass_dry_run_denials_total", &["namespace=\"back\"", "policy=\"tried\""]);
    rig.open(&record);
    assert_eq!(denials(&rig.scrape(0)), Some(1), "while it is open");
    rig.end(&record, Reason::Finished);
    assert_eq!(denials(&rig.scrape(1)), Some(1), "it has been counted");
    rig.end(&record, Reason::PlaintextRefused);
    assert_eq!(denials(&rig.scrape(2)), Some(2), "one that never was open");
    rig.put(tried(false));
    assert_eq!(denials(&rig.scrape(3)), Some(2));
    assert_eq!(denials(&rig.scrape(102)), Some(2));
    assert_eq!(denials(&rig.scrape(103)), None, "it is no dry run any more");
}

#[test]
fn there_are_no_more_series_than_the_limit() {
    let mut rig = Rig::new(Settings { most_series: 2, ..Settings::default() });
    let paths = [Path::Hbone, Path::Plaintext, Path::None, Path::None];
    for path in paths {
        let record = rig.record(Direction::Inbound, path, "10.0.0.1:4000", "10.0.0.2:5432");
        rig.open(&record).add_to_app(10);
        rig.end(&record, Reason::Finished);
    }
    let text = rig.scrape(0);
    assert_eq!(counts(&text, &[]), [Some(4), Some(4), Some(40), Some(0)], "all is counted");
    let overflow = ["reporter=\"destination\"", "source_workload=\"overflow\"", "destination_service=\"overflow\""];
    assert_eq!(counts(&text, &overflow), [Some(2), Some(2), Some(20), Some(0)]);
    assert_eq!(sum(&text, "underpass_metrics_folded_total", &[]), Some(2));
    assert_eq!(sum(&text, "underpass_metrics_series", &[]), Some(3));
}

#[test]
fn a_pod_cannot_make_series_by_calling_around() {
    let mut rig = Rig::new(Settings::default());
    for n in 0..200 {
        let to = format!("198.51.100.{n}:{}", 1000 + n);
        let record = rig.record(Direction::Outbound, Path::None, "10.0.0.1:4000", &to);
        rig.end(&record, Reason::AmbiguousAddress);
        let from = format!("203.0.113.{n}:4000");
        let record = rig.record(Direction::Inbound, Path::Plaintext, &from, &format!("10.0.0.2:{}", 2000 + n));
        rig.end(&record, Reason::PlaintextRefused);
    }
    assert_eq!(sum(&rig.scrape(0), "underpass_metrics_series", &[]), Some(2));
}

#[derive(Clone, Debug)]
enum Step {
    Open(bool),
    Carry(usize, usize),
    End(usize),
    Scrape,
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Open),
        4 => (0..8_usize, 1..1000_usize).prop_map(|(which, n)| Step::Carry(which, n)),
        2 => (0..8_usize).prop_map(Step::End),
        1 => Just(Step::Scrape),
    ]
}

proptest! {
    #[test]
    fn whenever_it_is_scraped_nothing_is_lost_or_counted_twice(steps in prop::collection::vec(some_step(), 0..60)) {
        let mut rig = Rig::new(Settings { most_series: 1, ..Settings::default() });
        let mut open: Vec<(Connection, Arc<Tally>)> = Vec::new();
        let (mut opened, mut closed, mut bytes) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Open(inbound) => {
                    let record = rig.hbone(if inbound { Direction::Inbound } else { Direction::Outbound });
                    let tally = rig.open(&record);
                    open.push((record, tally));
                    opened += 1;
                }
                Step::Carry(which, n) => {
                    if let Some((_, tally)) = open.get(which) {
                        tally.add_to_app(n);
                        tally.add_from_app(n);
                        bytes += n as u64;
                    }
                }
                Step::End(which) => {
                    if which < open.len() {
                        let (record, _) = open.remove(which);
                        rig.end(&record, Reason::Finished);
                        closed += 1;
                    }
                }
                Step::Scrape => drop(rig.scrape(0)),
            }
        }
        let found = counts(&rig.scrape(0), &[]).map(Option::unwrap_or_default);
        prop_assert_eq!(found, [opened, closed, bytes, bytes]);
    }
}
