//! What is served of what is kept and of what comes; and that what is kept leads to the same World again.

use underpass_core::{
    World,
    testing::{ambient, model, peer_authentication, policy},
    world::{Action, Delta},
};
use underpass_keeper::Keeper;
use underpass_telemetry::{admin::Readiness, metrics::Registry};
use underpass_xds::{
    client::Behind,
    facts::Encoder,
    resource::{Change, Resources},
};

use super::*;
use crate::cluster::cache::tests::held;

const NEVER: Duration = Duration::from_secs(10_000);

struct Rig {
    door: FactsDoor,
    records: Records,
    world: watch::Receiver<Arc<World>>,
    progress: watch::Sender<Progress>,
    cached: IntGauge,
    noted: Vec<Changes>,
}

impl Rig {
    fn new(kept: Option<kept::HeldFacts>, patience: Duration) -> Self {
        let (registry, ready) = (Registry::default(), Readiness::new());
        let mut keeper = Keeper::given_facts(MeshSettings::default(), "node-1", &registry);
        let feed = keeper.door("control plane", ready.gate("control plane", "not read"));
        let world = keeper.world();
        drop(keeper.start().unwrap());
        let cached = super::super::cache::Meter::new(&registry).control_plane;
        let records = Records::unwritten();
        let kept = kept.map(|kept| (kept, SystemTime::UNIX_EPOCH));
        let door = FactsDoor::new(MeshSettings::default(), kept, records.clone(), (feed, cached.clone()), patience);
        Self { door, records, world, progress: watch::Sender::default(), cached, noted: Vec::new() }
    }

    /// The names that are rejected.
    async fn apply(&mut self, changes: Vec<Change>, version: u64, complete: bool) -> Vec<String> {
        let applied = [("Pod", version)].into_iter().collect();
        let rejected = self.door.apply(Batch { changes, applied, complete }).await;
        self.noted.push(self.records.noted());
        rejected.iter().map(|rejected| rejected.name.to_string()).collect()
    }

    /// The World of this version, once it is there.
    async fn world(&mut self, version: u64) -> Arc<World> {
        Arc::clone(&*self.world.wait_for(|world| world.version().0 >= version).await.unwrap())
    }

    /// The first World of the next process, which hears nothing.
    async fn of_the_next(&self) -> Arc<World> {
        let mut next = Self::new(held(&self.noted), Duration::ZERO);
        next.be_late();
        next.world(1).await
    }

    fn due(&self) -> Option<Instant> {
        self.door.lock().due(&self.progress.borrow())
    }

    fn be_late(&mut self) {
        assert!(self.due().is_some_and(|due| due <= Instant::now()));
        self.door.lock().serve_kept(&self.progress);
    }
}

fn resources(world: &World) -> Resources {
    let mut encoder = Encoder::new();
    encoder.follow(&World::empty(world.settings().clone()), world);
    encoder.resources().clone()
}

/// Two pods of a mesh with STRICT, and a policy for each of these names.
fn mesh(policies: &[&str]) -> Vec<Change> {
    let pods = [ambient("default/a", "10.0.0.1", ""), ambient("default/b", "10.0.0.2", "")].map(Into::into);
    let policies = policies.iter().map(|name| policy(name, Action::Deny, Vec::new()).into());
    let strict = peer_authentication("default/strict - STRICT").into();
    let resources = resources(model(pods.into_iter().chain([strict]).chain(policies)).world());
    let of = |kind| {
        let change = move |(name, resource): (&Arc<str>, &Arc<underpass_xds::resource::Resource>)| {
            let (version, body) = (resource.version.to_string().into(), Some(resource.body.to_vec().into()));
            Change { kind, name: Arc::clone(name), version, body }
        };
        resources.of(kind).iter().map(change).collect::<Vec<_>>()
    };
    ResourceKind::ALL.into_iter().flat_map(of).collect()
}

fn gone(name: &str) -> Change {
    Change { kind: ResourceKind::Authorization, name: name.into(), version: Arc::default(), body: None }
}

/// A policy that cannot be read.
fn broken(name: &str) -> Change {
    Change { version: "broken".into(), body: Some(vec![0xff].into()), ..gone(name) }
}

fn policies(world: &World) -> Vec<String> {
    world.policies().map(|policy| policy.name.to_string()).collect()
}

#[tokio::test]
async fn without_kept_facts_nothing_is_served_or_kept_before_all_has_come() {
    let mut rig = Rig::new(None, Duration::ZERO);
    let mut all = mesh(&["default/p"]);
    let rest = all.split_off(2);
    rig.apply(all, 7, false).await;
    assert!(rig.door.lock().early.is_some() && rig.due().is_none());
    assert_eq!((rig.noted.clone(), held(&rig.noted)), (vec![Changes::new()], None));
    rig.apply(rest, 8, true).await;
    let world = rig.world(1).await;
    assert_eq!((policies(&world), world.workloads().count()), (vec!["default/p".to_owned()], 2));
    assert_eq!(held(&rig.noted).unwrap().changes.newest(), Some(8));
    assert!(!Delta::is_any(&world, &*rig.of_the_next().await));
}

#[tokio::test]
async fn kept_facts_are_served_where_nothing_is_heard() {
    let mut first = Rig::new(None, NEVER);
    first.apply(mesh(&["default/p", "default/q"]), 7, true).await;
    let mut rig = Rig::new(held(&first.noted), Duration::ZERO);
    rig.be_late();
    assert!(!Delta::is_any(&*first.world(1).await, &*rig.world(1).await));
    assert_eq!(rig.cached.get(), 1);
    {
        let progress = rig.progress.borrow();
        assert_eq!((progress.cached, progress.version), (Some(SystemTime::UNIX_EPOCH), Some(7)));
    }
    // The control plane answers with the difference.
    rig.apply(vec![gone("default/p")], 9, false).await;
    assert_eq!(rig.cached.get(), 1);
    rig.apply(Vec::new(), 9, true).await;
    assert_eq!((policies(&*rig.world(2).await), rig.cached.get()), (vec!["default/q".to_owned()], 0));
    first.noted.append(&mut rig.noted);
    let kept = held(&first.noted).unwrap();
    assert_eq!((kept.changes.newest(), kept.applied.iter().any(|c| &*c.name == "default/p")), (Some(9), false));
}

#[tokio::test]
async fn a_control_plane_that_answers_has_time_to_catch_up() {
    let mut first = Rig::new(None, NEVER);
    first.apply(mesh(&[]), 7, true).await;
    let patience = Duration::from_secs(5);
    let rig = Rig::new(held(&first.noted), patience);
    let start = rig.door.lock().heard;
    let at = |s| start + Duration::from_secs(s);
    let link = |link| Progress { link, ..Progress::default() };
    let open = link(Link::Open { since: SystemTime::UNIX_EPOCH });
    let ended = link(Link::Ended { at: SystemTime::UNIX_EPOCH, reason: "gone".to_owned() });
    let behind = Some(Behind { since: start, kind: "Pod".into(), applied: 7, offered: 6 });
    let behind = Progress { behind, ..open.clone() };
    // When each is heard of, in seconds, and when what was kept is served then.
    for (now, progress, due) in [
        (1, &ended, 5),
        (2, &open, 72),
        (3, &behind, 72),
        (60, &behind, 72),
        (61, &ended, 65),
        (62, &link(Link::Opening), 65),
        // By another replica; the time is the same.
        (63, &behind, 72),
        (71, &behind, 72),
        (71, &open, 76),
        (80, &open, 85),
        (81, &ended, 85),
    ] {
        let mut state = rig.door.lock();
        state.hear(progress, at(now));
        assert_eq!(state.due(progress), Some(at(due)), "{now} {progress:?}");
    }
}

#[tokio::test]
async fn a_response_that_is_left_out_is_a_word() {
    let mut first = Rig::new(None, NEVER);
    first.apply(mesh(&["default/p"]), 7, true).await;
    let rig = Rig::new(held(&first.noted), Duration::from_secs(3600));
    let late = tokio::spawn(rig.door.clone().serve_when_late(rig.progress.clone()));
    rig.progress.send_modify(|progress| progress.link = Link::Open { since: SystemTime::UNIX_EPOCH });
    let heard = async {
        while rig.door.lock().answered.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.expect("a word");
    assert_eq!(rig.cached.get(), 0);
    late.abort();
}

#[tokio::test]
async fn kept_facts_that_have_changed_are_never_served_where_that_is_heard_in_time() {
    let mut first = Rig::new(None, NEVER);
    first.apply(mesh(&["default/p", "default/q"]), 7, true).await;
    let mut rig = Rig::new(held(&first.noted), NEVER);
    let due = rig.due().unwrap();
    rig.apply(vec![gone("default/p")], 9, false).await;
    assert!(rig.due().unwrap() > due, "a word moves it");
    assert_eq!(rig.noted, [Changes::new()], "what is not served is not kept");
    rig.apply(Vec::new(), 9, true).await;
    let world = rig.world(1).await;
    assert_eq!((world.version().0, policies(&world)), (1, vec!["default/q".to_owned()]));
    assert_eq!((world.workloads().count(), rig.cached.get()), (2, 0));
    assert!(rig.due().is_none());
    first.noted.append(&mut rig.noted);
    assert!(!Delta::is_any(&world, &*first.of_the_next().await));
}

#[tokio::test]
async fn what_stands_in_for_a_broken_policy_is_the_same_after_a_restart() {
    let mut rig = Rig::new(None, NEVER);
    rig.apply(mesh(&["default/good"]), 1, true).await;
    let mut version = 1;
    for (change, refused) in [
        (broken("default/good"), vec!["default/good"]),
        (broken("default/never-good"), vec!["default/never-good"]),
        (broken("istio-system/everywhere"), vec!["istio-system/everywhere"]),
        (gone("default/never-good"), vec![]),
        (gone("default/good"), vec![]),
    ] {
        assert_eq!(rig.apply(vec![change.clone()], 2, true).await, refused);
        // A broken policy that has a good version changes no World.
        version += u64::from(change.name != "default/good".into() || change.body.is_none());
        let (world, next) = (rig.world(version).await, rig.of_the_next().await);
        assert!(!Delta::is_any(&world, &next), "{change:?}: {:?} {:?}", policies(&world), policies(&next));
    }
    let HeldFactsOf { applied, rejected } = names(held(&rig.noted).unwrap());
    assert!(applied.iter().all(|name| !name.contains("good")), "{applied:?}");
    assert_eq!(rejected, ["istio-system/everywhere"]);
}

struct HeldFactsOf {
    applied: Vec<String>,
    rejected: Vec<String>,
}

fn names(held: kept::HeldFacts) -> HeldFactsOf {
    let names = |all: Vec<Change>| all.iter().map(|change| change.name.to_string()).collect();
    HeldFactsOf { applied: names(held.applied), rejected: names(held.rejected) }
}
