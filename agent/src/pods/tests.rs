//! The shell without a kernel: what the World makes of the tables, and of pods that are not there (yet). Pods that are
//! there need namespaces: the kernel level of tests/ has them.

use std::{
    net::IpAddr,
    os::fd::BorrowedFd,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use underpass_abi::{Address, Destination, Full, ListenerKey, LocalKey, Locality, Map, Op, Phase, Pod};
use underpass_core::{
    Few,
    objects::{self, Batch, Change},
    resolve::Model,
    testing::{ambient, model, pod},
};

use underpass_telemetry::metrics::Registry;

use super::*;
use crate::datapath::{self, InMemory};
use enrolled::EnrolledPod;

struct Bench {
    pods: Pods<InMemory>,
    path: InMemory,
    events: mpsc::Receiver<Event>,
}

fn settings() -> Settings {
    Settings {
        node: "node-1".into(),
        cgroup_root: "/nonexistent/underpass".into(),
        agents: vec![CgroupId(7)],
        kubelet_cgroup: None,
        marks: Marks::DEFAULT,
        drain: Duration::ZERO,
        keepalive: Keepalive::default(),
    }
}

fn bench(path: InMemory, now: Instant) -> Bench {
    let (sender, events) = mpsc::channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let pods = Pods::adopt(settings(), path.clone(), now, sink).expect("adopted");
    Bench { pods, path, events }
}

fn sizes(path: &InMemory) -> [usize; 3] {
    path.with(|tables| [Map::Mesh, Map::Pods, Map::Agents].map(|map| tables.len(map)))
}

fn of(pods: impl IntoIterator<Item = objects::Pod>) -> Model {
    model(pods.into_iter().map(Into::into))
}

impl Bench {
    fn set(&mut self, model: &Model) -> Version {
        self.pods.set_world(Arc::new(model.world().clone()), model.local_pods("node-1").into());
        model.world().version()
    }
}

#[test]
fn the_tables_follow_the_world() {
    let now = Instant::now();
    let mut bench = bench(InMemory::new(Marks::DEFAULT), now);
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [0, 0, 0], "nothing before the first World");
    assert!(bench.events.try_recv().is_err());
    let mut known = of([ambient("default/a", "10.0.0.1 fd00::1", ""), pod("default/b", "10.0.0.2")]);
    let first = bench.set(&known);
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [2, 0, 1]);
    assert!(matches!(bench.events.try_recv(), Ok(Event::Applied(version)) if version == first));
    // A version without a difference is applied as well; the same one is announced once.
    known.apply(&Batch::default());
    let second = bench.set(&known);
    bench.pods.turn(now);
    bench.pods.turn(now);
    let told: Vec<_> = bench.events.try_iter().collect();
    assert!(matches!(told[..], [Event::Applied(version)] if version == second), "{told:?}");
    bench.set(&of([]));
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [0, 0, 1]);
}

#[test]
fn a_pod_without_a_sandbox_is_waited_for_and_forgotten() {
    let now = Instant::now();
    let mut bench = bench(InMemory::new(Marks::DEFAULT), now);
    bench.set(&of([ambient("default/a", "10.0.0.1", "")]));
    let mut pauses = Vec::new();
    let mut at = now;
    for _ in 0..10 {
        let due = bench.pods.turn(at);
        pauses.push(due.saturating_duration_since(at).as_millis());
        at = due;
    }
    assert_eq!(pauses[..6], [20, 40, 80, 160, 320, 640]);
    assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE.as_millis()), "{pauses:?}");
    let status = bench.pods.status();
    let [waiting] = &status[..] else { panic!("{status:?}") };
    assert_eq!((waiting.name.as_str(), waiting.state, waiting.cookie), ("default/a", "waiting", None));
    assert!(waiting.problem.as_deref().is_some_and(|p| p.contains("/nonexistent/underpass")), "{status:?}");
    bench.set(&of([pod("default/a", "10.0.0.1")]));
    bench.pods.turn(at);
    assert_eq!(bench.pods.status(), []);
    assert!(bench.pods.is_empty());
}

#[test]
fn the_wanted_states_of_this_nodes_pods() {
    let mut elsewhere = ambient("default/b", "10.0.0.2", "");
    elsewhere.node = Some("node-2".into());
    let mut ended = ambient("default/c", "10.0.0.3", "");
    ended.phase = objects::Phase::Terminal;
    let mut twin = pod("other/a", "10.0.0.4");
    twin.uid = "twin".into();
    let mut other_twin = ambient("other/b", "10.0.0.5", "");
    other_twin.uid = "twin".into();
    let model = of([
        ambient("default/a", "10.0.0.1", ""),
        elsewhere,
        ended,
        twin,
        other_twin,
        pod("default/d", "10.0.0.6"),
        pod("default/e", ""),
    ]);
    let says = wanted(&model.local_pods("node-1"));
    let expected = [
        ("uid-default-a", Wanted::Enrolled { addresses: Few::one([10, 0, 0, 1].into()) }),
        ("uid-default-d", Wanted::Released),
    ];
    assert_eq!(says, expected.map(|(uid, wanted)| (PodUid::from(uid), wanted)).into());
}

#[test]
fn a_successor_changes_nothing_once_its_time_is_up() {
    let now = Instant::now();
    let mut bench = bench(InMemory::new(Marks::DEFAULT), now);
    bench.pods.inherit(BTreeMap::new(), Some(now + Duration::from_secs(1)));
    bench.set(&of([ambient("default/a", "10.0.0.1", "")]));
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [1, 0, 1]);
    bench.set(&of([]));
    bench.pods.turn(now + Duration::from_secs(1));
    assert_eq!(sizes(&bench.path), [1, 0, 1]);
    // The other one has left: there is no limit any more.
    bench.pods.own();
    bench.pods.turn(now + Duration::from_secs(2));
    assert_eq!(sizes(&bench.path), [0, 0, 1]);
}

#[test]
fn what_a_failed_successor_left_is_found_after_standing_still() {
    let now = Instant::now();
    let mut bench = bench(InMemory::new(Marks::DEFAULT), now);
    bench.set(&of([]));
    bench.pods.turn(now);
    assert!(bench.pods.is_empty());
    leftover(&mut bench.path, Cookie(u64::MAX));
    bench.path.apply(&[Op::SetAgent(CgroupId(99))]).expect("room");
    bench.pods.resume(&mut BTreeMap::new()).expect("read");
    assert_eq!(bench.pods.orphans(), [Cookie(u64::MAX)]);
    bench.pods.turn(Instant::now());
    assert_eq!(sizes(&bench.path), [0, 0, 1], "the dead pod and the successor's cgroup");
}

/// The entries that a killed agent leaves of a pod: here, of a namespace without a process.
fn leftover(path: &mut InMemory, cookie: Cookie) {
    let pod = Pod::new(Address::UNSPECIFIED, Address::UNSPECIFIED, Phase::ENROLLED);
    path.apply(&[Op::SetPodCgroup(CgroupId(50), cookie), Op::SetPod(cookie, pod)]).expect("room");
}

#[test]
fn what_a_dead_agent_left_of_a_dead_pod_is_purged_once_the_world_is_known() {
    let now = Instant::now();
    let mut path = InMemory::new(Marks::DEFAULT);
    leftover(&mut path, Cookie(u64::MAX));
    path.apply(&[Op::SetAgent(CgroupId(99))]).expect("room");
    let mut bench = bench(path, now);
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [0, 1, 1]);
    bench.set(&of([]));
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [0, 0, 1], "the dead agent's cgroup is replaced by the living one's");
    assert_eq!(bench.path.with(|tables| tables.len(Map::PodCgroups)), 0);
    assert!(bench.pods.is_empty());
}

#[test]
fn what_a_dead_agent_left_of_a_living_pod_stays() {
    let now = Instant::now();
    let mut path = InMemory::new(Marks::DEFAULT);
    // This process's own namespace is one in which something lives.
    leftover(&mut path, Cookie(Netns::own().expect("own namespace").cookie()));
    let mut bench = bench(path, now);
    bench.set(&of([ambient("default/a", "10.0.0.1", "")]));
    bench.pods.turn(now);
    assert_eq!(sizes(&bench.path), [1, 1, 1]);
    assert!(!bench.pods.is_empty());
}

#[test]
fn what_goes_makes_room_and_a_full_table_is_reported_and_tried_again() {
    let now = Instant::now();
    let mut path = InMemory::new(Marks::DEFAULT).with_capacity(Map::Agents, 1);
    path.apply(&[Op::SetAgent(CgroupId(100))]).expect("room");
    let mut bench = bench(path, now);
    bench.set(&of([]));
    bench.pods.turn(now);
    assert_eq!(bench.pods.problem(), None, "the earlier agent gave way");
    assert!(matches!(bench.events.try_recv(), Ok(Event::Applied(_))));

    let mut known = of([]);
    known.apply(&Batch::default());
    bench.set(&known);
    bench.pods.set_agents(vec![CgroupId(7), CgroupId(8)]);
    bench.pods.turn(now);
    let problem = bench.pods.problem().expect("reported").to_owned();
    assert!(problem.contains("AGENTS is full"), "{problem}");
    assert!(bench.events.try_recv().is_err(), "not applied");
    bench.path.clone().apply(&[Op::RemoveAgent(CgroupId(7))]).expect("removed");
    // It is read back that there is room again, and that one is missing.
    bench.pods.set_agents(vec![CgroupId(8)]);
    bench.pods.turn(now + LOOK_AGAIN);
    assert_eq!((bench.pods.problem(), sizes(&bench.path)), (None, [0, 0, 1]));
    assert!(matches!(bench.events.try_recv(), Ok(Event::Applied(_))));
}

/// One pod's operations fail: those of others are done, before and behind it, and so are its own that close.
#[test]
fn a_failure_of_one_pod_stops_no_other() {
    let path = InMemory::new(Marks::DEFAULT).with_capacity(Map::Locals, 2).with_capacity(Map::Mesh, 1);
    let mut bench = bench(path, Instant::now());
    let ip = |n: u32| Address::from(std::net::Ipv4Addr::from(n));
    let local = |pod, n| Op::SetLocal(LocalKey { pod: Cookie(pod), address: ip(n) }, Locality::POD);
    let pod = |cookie| {
        let pod = Pod::new(ip(1), Address::UNSPECIFIED, Phase::ENROLLED);
        Op::SetPod(Cookie(cookie), pod)
    };
    let ops = [local(1, 1), local(2, 2), local(2, 3), local(3, 4), pod(1), pod(2), pod(3)];
    let failures = bench.pods.apply_apart(&ops);
    assert_eq!(failures.keys().collect::<Vec<_>>(), [&Some(Cookie(2)), &Some(Cookie(3))], "{failures:?}");
    assert_eq!(sizes(&bench.path)[1], 3);
    // What goes makes room for what comes before it; a mesh that is missing an address is captured whole.
    let key = LocalKey { pod: Cookie(1), address: ip(1) };
    assert!(bench.pods.apply_apart(&[local(3, 4), Op::RemoveLocal(key)]).is_empty());
    assert_eq!(Tables::from_ops(&bench.path.contents().expect("read")), bench.pods.there);
}

/// A data path without room for one address, also where it is empty; while the flag is set it cannot be restored.
struct Refuses(InMemory, Address, Arc<AtomicBool>);

impl DataPath for Refuses {
    fn apply(&mut self, ops: &[Op]) -> datapath::Result<()> {
        let refused = |op: &Op| matches!(op, Op::SetDestination(address, _) if *address == self.1);
        let allowed = ops.split(refused).next().unwrap_or_default();
        self.0.apply(allowed)?;
        if allowed.len() == ops.len() { Ok(()) } else { Err(Full { map: Map::Mesh, limit: 0 }.into()) }
    }

    fn contents(&self) -> datapath::Result<Vec<Op>> {
        self.0.contents()
    }

    fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> datapath::Result<()> {
        self.0.attach_pod(pod, netns)
    }

    fn detach_pod(&mut self, pod: Cookie) -> datapath::Result<()> {
        self.0.detach_pod(pod)
    }

    fn pods(&self) -> datapath::Result<Vec<Cookie>> {
        self.0.pods()
    }

    fn insert_listener(&mut self, key: ListenerKey, listener: BorrowedFd<'_>) -> datapath::Result<()> {
        self.0.insert_listener(key, listener)
    }

    fn remove_listener(&mut self, key: &ListenerKey) -> datapath::Result<()> {
        self.0.remove_listener(key)
    }

    fn purge(&mut self, pod: Cookie) -> datapath::Result<()> {
        self.0.purge(pod)
    }

    fn restore(&mut self) -> datapath::Result<()> {
        if self.2.load(Ordering::SeqCst) { Err(Full { map: Map::Mesh, limit: 0 }.into()) } else { Ok(()) }
    }
}

#[test]
fn an_address_that_cannot_be_set_is_captured_all_the_same() {
    let address = |n: u8| Address::from(IpAddr::from([10, 0, 0, n]));
    let path = InMemory::new(Marks::DEFAULT);
    let now = Instant::now();
    let mut pods = Pods::adopt(settings(), Refuses(path.clone(), address(2), Arc::default()), now, Box::new(drop))
        .expect("adopted");
    let model = of([ambient("default/a", "10.0.0.1", ""), ambient("default/b", "10.0.0.2", "")]);
    pods.set_world(Arc::new(model.world().clone()), model.local_pods("node-1").into());
    let destination = |n: u8| {
        path.with(|tables| underpass_abi::decide::destination(tables, &address(n)) == Some(Destination::TUNNEL))
    };
    pods.turn(now);
    assert!(pods.problem().is_some() && (1..9).all(destination), "captured, as everything is");
    pods.path.1 = address(99);
    pods.turn(now + LOOK_AGAIN);
    assert_eq!(pods.problem(), None);
    assert!((1..3).all(destination) && !destination(3), "there is room again");
}

#[test]
fn a_pod_beyond_what_the_tables_hold_is_not_enrolled_and_named() {
    let path = InMemory::new(Marks::DEFAULT).with_capacity(Map::Pods, 1);
    let mut bench = bench(path, Instant::now());
    assert!(bench.pods.room_for(Cookie(1)).is_ok());
    leftover(&mut bench.path.clone(), Cookie(1));
    bench.pods.there = Tables::from_ops(&bench.path.contents().expect("read"));
    assert!(bench.pods.room_for(Cookie(1)).is_ok(), "it has its room");
    let error = bench.pods.room_for(Cookie(2)).expect_err("no room");
    assert_eq!(error.to_string(), "no room for another pod: the kernel's tables take 1");

    bench.set(&of([ambient("default/a", "10.0.0.1", "")]));
    let waiting = |no_room| State::Waiting { again: Instant::now(), failures: 1, problem: error.to_string(), no_room };
    bench.pods.pods.insert("uid-default-a".into(), waiting(true));
    bench.pods.report_waiting();
    bench.pods.report_waiting();
    let told: Vec<_> = bench.events.try_iter().collect();
    assert!(
        matches!(&told[..], [Event::Waiting(pods)] if pods[0].name.to_string() == "default/a" && pods[0].no_room),
        "{told:?}"
    );
    bench.pods.pods.insert("uid-default-a".into(), waiting(false));
    bench.pods.report_waiting();
    assert!(matches!(bench.events.try_recv(), Ok(Event::Waiting(pods)) if pods.is_empty()));
}

#[test]
fn a_mesh_that_does_not_fit_is_applied_cut_and_heals_by_itself() {
    let now = Instant::now();
    let mut bench = bench(InMemory::new(Marks::DEFAULT).with_capacity(Map::Mesh, 4), now);
    let destination = |path: &InMemory, ip: [u8; 4]| {
        let address = Address::from(IpAddr::from(ip));
        path.with(|tables| underpass_abi::decide::destination(tables, &address))
    };
    let object = |n: u8| objects::Object::from(ambient(&format!("default/p{n}"), &format!("10.0.0.{n}"), ""));
    let mut known = of([]);
    for (many, entries, outside) in
        [(3, 3, None), (9, 4, Some(Destination::TUNNEL)), (7, 4, Some(Destination::TUNNEL)), (2, 2, None)]
    {
        let change = |n| if n <= many { Change::Put(object(n)) } else { Change::Remove(object(n).key()) };
        known.apply(&Batch { changes: (1..10).map(change).collect() });
        let version = bench.set(&known);
        bench.pods.turn(now);
        assert_eq!(bench.pods.problem(), None);
        assert!(matches!(bench.events.try_recv(), Ok(Event::Applied(applied)) if applied == version));
        assert_eq!(bench.path.with(|tables| tables.len(Map::Mesh)), entries, "{many}");
        assert!((1..=many).all(|n| destination(&bench.path, [10, 0, 0, n]).is_some()), "{many}");
        assert_eq!(destination(&bench.path, [192, 0, 2, 1]), outside, "{many}");
    }
}

#[test]
fn the_thread_answers_and_ends() {
    let path = InMemory::new(Marks::DEFAULT);
    let Bench { pods, events, .. } = bench(path, Instant::now());
    let handle = spawn(pods, Meter::new(&Registry::default())).expect("thread");
    assert_eq!(handle.status(), []);
    let model = of([ambient("default/a", "10.0.0.1", "")]);
    let world = Arc::new(model.world().clone());
    handle.set_world(Arc::clone(&world), model.local_pods("node-1").into());
    let told = events.recv_timeout(Duration::from_secs(30)).expect("told");
    assert!(matches!(told, Event::Applied(version) if version == world.version()), "{told:?}");
    assert_eq!(handle.status().len(), 1);
    assert!(handle.release_all(Instant::now() + Duration::from_secs(30)));
    drop(handle);
    assert!(events.recv_timeout(Duration::from_secs(30)).is_err(), "the sink goes with the thread");
}

/// While what a successor did is not undone, neither may the next one begin, nor are pods attended.
#[test]
fn a_successor_waits_for_the_data_path_to_be_restored() {
    let refuses = Arc::new(AtomicBool::new(true));
    let path = Refuses(InMemory::new(Marks::DEFAULT), Address::UNSPECIFIED, Arc::clone(&refuses));
    let (sender, events) = mpsc::channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let pods = Pods::adopt(settings(), path, Instant::now(), sink).expect("adopted");
    let handle = spawn(pods, Meter::new(&Registry::default())).expect("thread");
    let stands_still = || handle.stand_still_for(underpass_abi::VERSION).blocking_recv().expect("answered");
    stands_still().expect("the first one");
    handle.resume(BTreeMap::new());
    assert!(stands_still().is_err());
    handle.stir();
    let model = of([ambient("default/a", "10.0.0.1", "")]);
    handle.set_world(Arc::new(model.world().clone()), model.local_pods("node-1").into());
    assert_eq!(handle.status(), [], "unattended");
    assert!(events.try_recv().is_err(), "not applied");
    refuses.store(false, Ordering::SeqCst);
    stands_still().expect("restored");
    handle.stir();
    let event = events.recv_timeout(Duration::from_secs(30)).expect("attended again");
    assert!(matches!(event, Event::Applied(_)), "{event:?}");
}

/// A cancelled release ends in the mesh: also where nothing is known of the pod any more, and after a failure.
#[test]
fn a_cancelled_release_takes_nothing_down() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("cgroup.events"), "populated 1\n").expect("written");
    let known = of([ambient("default/a", "10.0.0.1", "")]);
    let local = known.local_pods("node-1");
    let uid = Arc::clone(&local[0].pod_uid);
    for (wanted, model) in [("enrolled", &known), ("unknown", &of([]))] {
        for fails in [false, true] {
            let now = Instant::now();
            let mut bench = bench(InMemory::new(Marks::DEFAULT), now);
            bench.pods.settings.drain = Duration::from_secs(30);
            let pod = EnrolledPod::of_this_process(&local[0], folder.path().to_owned()).expect("found");
            bench.pods.begin_release(Arc::clone(&uid), Box::new(pod), true, false, now);
            if fails {
                bench.pods.kept(&uid, Err(datapath::Error::from(Full { map: Map::Pods, limit: 0 }).into()), now);
            }
            // Of the time before the next try, also where the release's own is over by then.
            bench.set(model);
            let until = now + LOOK_AGAIN - Duration::from_millis(1);
            for at in [now, now + LOOK_AGAIN / 2, until] {
                bench.pods.turn(at);
            }
            let status = bench.pods.status();
            let is = (status[0].state, status[0].problem.is_some());
            assert_eq!(is, if fails { ("releasing", true) } else { ("enrolled", false) }, "{wanted}: {status:?}");
            bench.pods.kept(&uid, Ok(()), until);
            bench.pods.turn(until);
            let status = bench.pods.status();
            assert_eq!((status[0].state, &status[0].problem), ("enrolled", &None), "{wanted}: {status:?}");
            let told: Vec<_> = bench.events.try_iter().collect();
            assert!(told.iter().all(|event| matches!(event, Event::Applied(_))), "{wanted}: {told:?}");
        }
    }
}

/// A sandbox that a runtime has named stands for the pod before a process is in it, and goes when the runtime ends it.
#[test]
fn a_named_sandbox_lives_until_the_runtime_ends_it() {
    let now = Instant::now();
    let mut bench = bench(InMemory::new(Marks::DEFAULT), now);
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("cgroup.events"), "populated 0\n").expect("written");
    let model = of([ambient("default/a", "10.0.0.1", "")]);
    let [local] = &model.local_pods("node-1")[..] else { panic!("one pod") };
    let mut enrolled = EnrolledPod::of_this_process(local, folder.path().to_owned()).expect("enrolled");
    enrolled.has_no_process();
    let (cookie, netns) = (enrolled.kernel.cookie, Arc::new(Netns::own().expect("own")));
    bench.pods.pods.insert(Arc::clone(&local.pod_uid), State::Enrolled(Box::new(enrolled)));
    bench.pods.name_sandbox(Arc::clone(&local.pod_uid), netns);
    bench.set(&model);
    bench.pods.turn(now);
    assert_eq!(bench.pods.status()[0].state, "enrolled");
    // That of an earlier sandbox of the pod, or of another pod.
    bench.pods.end_sandbox(&local.pod_uid, Cookie(cookie.0 + 1));
    bench.pods.end_sandbox(&"another".into(), cookie);
    bench.pods.turn(now);
    assert_eq!(bench.pods.status()[0].state, "enrolled");
    bench.pods.end_sandbox(&local.pod_uid, cookie);
    bench.set(&of([]));
    bench.pods.turn(now);
    assert_eq!(bench.pods.status(), []);
    assert!(bench.events.try_iter().any(|event| matches!(event, Event::Removed { .. })));
}
