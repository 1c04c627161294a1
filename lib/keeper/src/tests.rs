//! The Worlds that the keeper publishes, and their order.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use underpass_core::{
    Kind, ObjectKey, ObjectName,
    objects::{self, Batch},
    resolve::Local,
    testing::{ambient, model, namespace, pod, service, workload},
    world::{Fact, FactChange, FactKey, Facts},
};
use underpass_door::{Reached, Versions};
use underpass_telemetry::admin::{Limits, Listener, Readiness, Router};

use super::{queue::MOST_KEYS, *};

/// One generous deadline.
const DEADLINE: Duration = Duration::from_secs(60);

fn update(batch: Batch) -> Update {
    Update { batch, ..Update::default() }
}

async fn changed<T>(seen: &mut watch::Receiver<T>) {
    tokio::time::timeout(DEADLINE, seen.changed()).await.expect("in time").expect("the keeper runs");
}

#[tokio::test]
async fn worlds_are_published_in_order_and_empty_changes_are_not() {
    let ready = Readiness::new();
    let mut keeper = Keeper::new(MeshSettings::default(), "node-1", &Registry::default());
    let manifests = keeper.door("manifests", ready.gate("manifests", "not read yet"));
    let (mut world, reports) = (keeper.world(), keeper.reports());
    let thread = tokio::spawn(keeper.start().expect("a thread"));
    let version = |w: &watch::Receiver<Arc<World>>| w.borrow().version().0;
    assert_eq!(ready.waiting().len(), 1);

    manifests.send(update(Batch::default()));
    changed(&mut world).await;
    assert_eq!(version(&world), 1, "nothing is something to know");

    let mut batch = Batch::default();
    batch.put(pod("default/a", "10.0.0.1"));
    manifests.send(update(Batch::default()));
    manifests.send(update(batch.clone()));
    changed(&mut world).await;
    assert_eq!((version(&world), world.borrow_and_update().workloads().count()), (2, 1));
    // An equal put, and an object that nothing follows from.
    batch.put(namespace("other"));
    manifests.send(update(batch));
    manifests.send(update([ambient("default/b", "10.0.0.2", "").into()].into_iter().collect()));
    changed(&mut world).await;
    assert_eq!(world.borrow_and_update().workloads().count(), 2);
    assert!(ready.waiting().is_empty());
    drop(manifests);
    thread.await.unwrap();
    let report = &reports.borrow()["manifests"];
    assert!(report.problems.is_empty() && (3..=5).contains(&report.taken), "{report:?}");
    assert_eq!(ready.waiting(), [("manifests", "its task has ended".to_owned())]);
}

/// A keeper with these doors, and what it publishes.
struct Rig {
    feeds: Vec<Feed>,
    ready: Readiness,
    registry: Registry,
    world: watch::Receiver<Arc<World>>,
    snapshot: watch::Receiver<Snapshot>,
    sources: watch::Receiver<Sources>,
    newest: watch::Receiver<Newest>,
    mesh: Mesh,
}

fn rig(doors: &[&'static str]) -> Rig {
    let (ready, registry) = (Readiness::new(), Registry::default());
    let mut keeper = Keeper::new(MeshSettings::default(), "node-1", &registry);
    let feeds = doors.iter().map(|door| keeper.door(door, ready.gate(door, "not read yet"))).collect();
    let (world, snapshot, sources, mesh) = (keeper.world(), keeper.snapshot(), keeper.sources(), keeper.mesh());
    let newest = keeper.newest();
    drop(keeper.start().expect("a thread"));
    Rig { feeds, ready, registry, world, snapshot, sources, newest, mesh }
}

impl Rig {
    fn say(&self, door: usize, objects: impl IntoIterator<Item = objects::Object>) {
        self.feeds[door].send(update(objects.into_iter().collect()));
    }

    async fn until(&mut self, what: impl Fn(&World) -> bool) {
        let seen = tokio::time::timeout(DEADLINE, self.snapshot.wait_for(|seen| what(&seen.world))).await;
        drop(seen.expect("in time").expect("the keeper runs"));
    }

    fn local(&self) -> Vec<(String, Local)> {
        self.snapshot.borrow().local.iter().map(|pod| (pod.name.to_string(), pod.local)).collect()
    }
}

#[tokio::test]
async fn nothing_is_published_before_every_door_has_answered() {
    let mut rig = rig(&["pods", "manifests"]);
    rig.say(1, [ambient("default/a", "10.0.0.1", "").into()]);
    rig.sources.wait_for(|sources| sources.len() == 1).await.expect("the keeper runs");
    rig.say(1, [ambient("default/b", "10.0.0.2", "").into()]);
    rig.sources.wait_for(|sources| sources.len() == 2).await.expect("the keeper runs");
    let waiting: Vec<_> = rig.ready.waiting().into_iter().map(|(part, _)| part).collect();
    assert_eq!((rig.world.borrow().version().0, waiting), (0, vec!["pods"]));
    rig.say(0, []);
    rig.until(|world| world.version().0 == 1 && world.workloads().count() == 2).await;
    assert!(rig.ready.waiting().is_empty());
}

#[tokio::test]
async fn a_world_and_its_reports_are_of_the_same_updates() {
    const UPDATES: usize = 500;
    let Rig { mut feeds, mut newest, .. } = rig(&["API server"]);
    let feed = feeds.remove(0);
    // The n-th update makes the n-th pod.
    let sending = std::thread::spawn(move || {
        for n in 1..=UPDATES {
            let address = format!("10.0.{}.{}", n / 256, n % 256);
            let batch = [pod(&format!("default/p{n}"), &address).into()].into_iter().collect();
            feed.send(Update { versions: of_pods(n as u64), ..update(batch) });
        }
        feed
    });
    let mut pods = 0;
    while pods < UPDATES {
        changed(&mut newest).await;
        let Newest { world, reports } = newest.borrow_and_update().clone();
        pods = world.workloads().count();
        let version = reports.get("API server").and_then(|report| report.versions.newest());
        assert_eq!(version, Some(pods as u64));
    }
    // A version that brings no change is told as well, with the World that it is of.
    let feed = sending.join().unwrap();
    let before = newest.borrow_and_update().world.version();
    feed.send(Update { versions: of_pods(9_999), ..update(Batch::default()) });
    changed(&mut newest).await;
    let Newest { world, reports } = newest.borrow_and_update().clone();
    assert_eq!((world.version(), reports["API server"].versions.newest()), (before, Some(9_999)));
}

#[tokio::test]
async fn the_pods_of_the_node_are_of_the_same_objects_as_the_world() {
    let mut rig = rig(&["manifests"]);
    let enrols = || objects::Namespace {
        labels: [("istio.io/dataplane-mode".into(), "ambient".into())].into(),
        ..namespace("default")
    };
    let elsewhere = objects::Pod { node: Some("node-2".into()), ..pod("default/z", "10.0.0.9") };
    rig.say(0, [pod("default/a", "10.0.0.1").into(), elsewhere.into(), service("default/s app=a 10.96.0.1 80").into()]);
    rig.until(|world| world.version().0 == 1).await;
    assert_eq!(rig.local(), [("default/a".to_owned(), Local::Released)]);
    let before = Arc::clone(&rig.snapshot.borrow().local);
    rig.say(0, [enrols().into()]);
    rig.until(|world| world.workloads().all(|w| w.is_enrolled())).await;
    assert_eq!(rig.local(), [("default/a".to_owned(), Local::Enrolled)]);
    let enrolled = Arc::clone(&rig.snapshot.borrow().local);
    assert!(!Arc::ptr_eq(&before, &enrolled));
    // Another node's pod is none of ours, and one that comes here is.
    rig.say(0, [objects::Pod { node: Some("node-2".into()), ..pod("default/z", "10.0.0.8") }.into()]);
    rig.until(|world| world.workload_at([10, 0, 0, 8].into()).is_some()).await;
    assert!(Arc::ptr_eq(&enrolled, &rig.snapshot.borrow().local));
    rig.say(0, [pod("default/z", "10.0.0.7").into()]);
    rig.until(|world| world.workload_at([10, 0, 0, 7].into()).is_some()).await;
    assert_eq!(rig.local().len(), 2);
    // A pod that the node alone knows makes no World, and is published all the same.
    let version = rig.world.borrow().version();
    rig.say(0, [objects::Pod { uid: "another".into(), ..pod("default/z", "10.0.0.7") }.into()]);
    let published = rig.snapshot.wait_for(|seen| seen.local.iter().any(|pod| &*pod.pod_uid == "another"));
    drop(tokio::time::timeout(DEADLINE, published).await.expect("in time").expect("the keeper runs"));
    // So is a change of its probes.
    let probed =
        |probes: &[u16]| objects::Pod { uid: "another".into(), probes: probes.into(), ..pod("default/z", "10.0.0.7") };
    for ports in [&[80, 8080][..], &[]] {
        rig.say(0, [probed(ports).into()]);
        let published =
            rig.snapshot.wait_for(|seen| seen.local.iter().any(|p| &*p.pod_uid == "another" && *p.probes == *ports));
        drop(tokio::time::timeout(DEADLINE, published).await.expect("in time").expect("the keeper runs"));
    }
    assert_eq!((rig.world.borrow().version(), rig.snapshot.borrow().world.version()), (version, version));
}

#[tokio::test]
async fn facts_of_a_control_plane_and_the_pods_of_the_node_do_not_mix() {
    let (ready, registry) = (Readiness::new(), Registry::default());
    let mut keeper = Keeper::given_facts(MeshSettings::default(), "node-1", &registry);
    let [pods, facts] = ["pods", "facts"].map(|door| keeper.door(door, ready.gate(door, "not read yet")));
    let (mut snapshot, reports) = (keeper.snapshot(), keeper.reports());
    drop(keeper.start().expect("a thread"));
    let says = |addresses: &str| Facts {
        changes: vec![FactChange::Put(Fact::Workload(workload(&ambient("default/b", addresses, ""))))],
    };
    let own = || ambient("default/a", "10.0.0.1", "");
    pods.send(update([own().into()].into_iter().collect()));
    facts.send(Update { facts: says("10.0.0.2"), versions: of_pods(7), ..Update::default() });
    let known = |snapshot: &Snapshot| {
        let world: Vec<_> = snapshot.world.workloads().map(|w| format!("{} {:?}", w.name, w.addresses)).collect();
        let local: Vec<_> = snapshot.local.iter().map(|pod| (pod.name.to_string(), pod.local)).collect();
        (world, local)
    };
    let both = (vec!["default/b [10.0.0.2]".to_owned()], vec![("default/a".to_owned(), Local::Enrolled)]);
    let published = tokio::time::timeout(DEADLINE, snapshot.wait_for(|seen| known(seen) == both)).await;
    drop(published.expect("in time").expect("the keeper runs"));
    // Of two facts of one key the later counts, also before they are taken; and one that is gone is gone.
    let mut gone = says("10.0.0.4");
    gone.remove(gone_key(&gone));
    facts.send(Update { facts: says("10.0.0.3"), ..Update::default() });
    facts.send(Update { facts: gone, versions: of_pods(9), ..Update::default() });
    let published = snapshot.wait_for(|seen| seen.world.workloads().next().is_none());
    drop(tokio::time::timeout(DEADLINE, published).await.expect("in time").expect("the keeper runs"));
    let mut reports = reports;
    let version = |reports: &Arc<Reports>| reports["facts"].versions.newest();
    let read = tokio::time::timeout(DEADLINE, reports.wait_for(|r| version(r) == Some(9))).await;
    drop(read.expect("in time").expect("the keeper runs"));
}

/// Pods were read up to this version.
fn of_pods(known: u64) -> Versions {
    [(Kind::Pod, Reached { known, changed: known })].into_iter().collect()
}

fn gone_key(facts: &Facts) -> FactKey {
    match facts.changes.first() {
        Some(FactChange::Put(fact)) => fact.key(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn settings_are_a_change_like_any_other() {
    let mut rig = rig(&["manifests"]);
    let mut sidecars = namespace("default");
    sidecars.labels.insert("istio-injection".into(), "enabled".into());
    rig.say(0, [sidecars.into(), pod("default/a", "10.0.0.1").into()]);
    let settings = |keys, domain: &str| MeshSettings {
        sidecar_keys: keys,
        trust_domain: domain.parse().expect("a trust domain"),
        ..MeshSettings::default()
    };
    for (keys, domain) in [(true, "cluster.local"), (false, "cluster.local"), (true, "other.example")] {
        rig.mesh.set(settings(keys, domain));
        let identity = format!("spiffe://{domain}/ns/default/sa/a");
        rig.until(|world| {
            let a = world.workloads().next();
            a.is_some_and(|a| {
                let uri = world.identity(a).map(|identity| identity.uri().to_owned());
                a.is_enrolled() == keys && uri.as_deref() == Some(&*identity)
            })
        })
        .await;
        assert_eq!(rig.local(), [("default/a".to_owned(), if keys { Local::Enrolled } else { Local::Released })]);
    }
}

#[tokio::test]
async fn numbers_are_kept_as_objects_come_and_go() {
    let mut rig = rig(&["manifests"]);
    let external = || objects::Service { external_name: Some("example.com".into()), ..service("default/e - - 80") };
    rig.say(0, [pod("default/a", "10.0.0.1").into(), pod("default/b", "10.0.0.1").into(), external().into()]);
    rig.until(|world| world.version().0 == 1).await;
    let lines = |registry: &Registry| {
        let text = registry.text();
        let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>();
        let shown = |line: &String| !line.ends_with(" 0");
        [of("underpass_world_objects"), of("underpass_world_findings")]
            .concat()
            .into_iter()
            .filter(shown)
            .collect::<Vec<_>>()
    };
    let objects = |kind, n| format!("underpass_world_objects{{kind=\"{kind}\"}} {n}");
    // Both pods claim an address, and an ExternalName says nothing about what it leads to.
    let expected = [objects("Pod", 2), objects("Service", 1), "underpass_world_findings 3".to_owned()];
    assert_eq!(lines(&rig.registry), expected);
    let mut batch = Batch::default();
    batch.remove(ObjectKey::new(Kind::Pod, ObjectName::new("default", "b")));
    batch.remove(ObjectKey::new(Kind::Pod, ObjectName::new("default", "never-was")));
    batch.put(external());
    rig.feeds[0].send(update(batch));
    rig.until(|world| world.workloads().count() == 1).await;
    assert_eq!(
        lines(&rig.registry),
        [objects("Pod", 1), objects("Service", 1), "underpass_world_findings 1".to_owned()]
    );
}

fn is_answered(at: SocketAddr) -> bool {
    let mut socket = TcpStream::connect(at).expect("connected");
    socket.write_all(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("asked");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    text.starts_with("HTTP/1.1 200")
}

/// Judged by facts: the queue is bounded, every question has its answer, Worlds come in order, and the last state is right.
#[tokio::test]
async fn a_storm_of_changes_delays_no_answer() {
    const PODS: usize = 12_000;
    const CHANGES: usize = 24_000;
    const TOGETHER: usize = 5;
    let of = |n: usize, turn: usize| {
        let [.., high, low] = n.to_be_bytes();
        ambient(&format!("n{}/p{n}", n % 20), &format!("10.{turn}.{high}.{low}"), "").into()
    };
    let mut rig = rig(&["manifests"]);
    rig.say(0, []);
    rig.until(|world| world.version().0 == 1).await;
    let listener = Listener::loopback("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let at = listener.target().address().expect("an address");
    let _server = listener.serve(rig.ready.routes(Router::new()), Limits::default()).expect("served");

    let (feed, most, is_over) = (rig.feeds.remove(0), AtomicUsize::new(0), AtomicBool::new(false));
    let shared = Arc::new((most, is_over));
    let (storm, asking) = (Arc::clone(&shared), Arc::clone(&shared));
    let storm = std::thread::spawn(move || {
        for n in (0..CHANGES).step_by(TOGETHER) {
            feed.send(update((n..n + TOGETHER).map(|n| of(n % PODS, n / PODS)).collect()));
            storm.0.fetch_max(feed.queue.waiting(feed.door), Ordering::Relaxed);
        }
        storm.1.store(true, Ordering::Relaxed);
        feed
    });
    let asking = std::thread::spawn(move || {
        let mut answers = Vec::new();
        while !asking.1.load(Ordering::Relaxed) {
            answers.push(is_answered(at));
        }
        answers
    });
    // The follower is slower than the keeper, and skips what it cannot follow.
    let mut last = 1;
    let expected = model((0..PODS).map(|n| of(n, CHANGES / PODS - 1)));
    loop {
        let world = Arc::clone(&rig.world.borrow_and_update());
        if *world == *expected.world() {
            break;
        }
        changed(&mut rig.world).await;
        let version = rig.world.borrow().version().0;
        assert!(version > last, "{version} after {last}");
        last = version;
    }
    let feed = storm.join().expect("no panic");
    let answers = asking.join().expect("no panic");
    let missing = answers.iter().filter(|ready| !**ready).count();
    assert!(!answers.is_empty() && missing == 0, "{missing} of {}", answers.len());
    let most = shared.0.load(Ordering::Relaxed);
    assert!((1..=MOST_KEYS).contains(&most), "{most} keys waited");
    assert_eq!(rig.sources.borrow().len(), PODS);
    // More keys than may wait at once, so that it takes two Worlds at least.
    assert!((3..=1 + (CHANGES / TOGETHER) as u64).contains(&last), "{last}");
    drop(feed);
}
