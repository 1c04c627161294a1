//! The pods of this node: found, set up, announced to the tunnel, released, purged; and the data path's tables, which follow
//! the World and them. A [`LocalPod`] says whether a pod is to be enrolled, never the World, which knows the mesh alone.
//! [`plan`] decides; [`Pods`] does, on one thread of its own ([`spawn`]), because everything here is a system call.
//!
//! ```text
//! local --> wanted --\                      /--> cgroup, sandbox, rules, listeners   (cgroup netns setup)
//!                     >-- plan --> actions <
//! pods  --> actual --/                      \--> tables: follow, diff --> DataPath  (tables datapath)
//! ```
//! What must hold: `Pods::there` is what stands in the data path; everything in it that belongs to a pod was put there
//! by this agent or an earlier one, and goes only when the pod is released or its sandbox has ended.

mod cgroup;
mod enrolled;
mod error;
mod kubelet;
mod meter;
mod netns;
mod orphan;
mod plan;
mod release;
mod run;
mod setup;
mod state;
mod status;
mod sync;
mod take_over;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::{CgroupId, Cookie, Map, Marks};
use underpass_core::{
    ObjectName, World,
    resolve::{Local, LocalPod},
    world::Version,
};
use underpass_net::{netns::Netns, socket::options::Keepalive};

pub use cgroup::{id as cgroup_id, mount_point, own as own_cgroup, own_alone, see_processes};
pub use error::{Error, Result};
pub use meter::{FAMILIES, Meter};
pub use plan::{Action, Actual, PodUid, Wanted, plan};
pub use run::{Handle, spawn};
pub use status::PodStatus;

use crate::{datapath::DataPath, tables::Tables};
use enrolled::EnrolledPod;
use state::State;

/// The first pause before a pod that could not be enrolled is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Failed tries before a warning, about five seconds: by then a sandbox that is being made is there.
const FAILURES_TO_WARN: u32 = 8;
/// The longest pause before a pod that could not be enrolled is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The interval between two looks at all sandboxes without an event, and between two tries after a failure.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Rounds of one turn: a step may make another due. What is left is done in the next turn.
const ROUNDS: usize = 4;

/// Settings of the pods of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this node: pods of other nodes are ignored.
    pub node: Arc<str>,
    /// The cgroup2 directory below which the kubelet keeps this node's pods.
    pub cgroup_root: PathBuf,
    /// The cgroups that count as the agent.
    pub agents: Vec<CgroupId>,
    /// The kubelet's cgroup, below that directory; none: it is found.
    pub kubelet_cgroup: Option<PathBuf>,
    /// The bits of the firewall mark.
    pub marks: Marks,
    /// The longest time that captured connections of a pod in release may go on.
    pub drain: Duration,
    /// Keepalive of the listeners' connections.
    pub keepalive: Keepalive,
}

/// A pod that is announced to the tunnel, which is to serve it.
#[derive(Debug)]
pub struct AnnouncedPod {
    /// As its node knows it: the tunnel serves it while the World's fact of its uid has these addresses and this account.
    pub pod: LocalPod,
    /// The cookie of its network namespace.
    pub cookie: Cookie,
    /// Its network namespace, which lives as long as this: drop it with the pod.
    pub netns: Arc<Netns>,
    /// Accepts captured connections; their local address is the original destination. Non-blocking.
    pub outbound: TcpListener,
    /// Accepts every connection that arrives at the pod. Non-blocking.
    pub inbound: TcpListener,
    /// Its processes had started before it was captured, though it was in the mesh from its beginning.
    pub late: bool,
}

/// An event for the rest of the agent.
#[derive(Debug)]
pub enum Event {
    /// Serve this pod: from now on its connections arrive at the listeners.
    Added(Box<AnnouncedPod>),
    /// Of a pod that the tunnel serves: whether what arrives there is steered to it. An added one is steered.
    Steered {
        /// Its network namespace.
        cookie: Cookie,
        /// False: to its applications. Said before it is so, true after.
        steered: bool,
    },
    /// Serve it no longer: it left the mesh, or its sandbox ended. Close everything.
    Removed {
        /// namespace/name.
        name: ObjectName,
        /// Its network namespace.
        cookie: Cookie,
    },
    /// The data path decides by this World now.
    Applied(Version),
    /// The pods that are to be enrolled and could not be, all of them: said when they are others than before. A pod that just
    /// starts is not among them.
    Waiting(Vec<WaitingPod>),
}

/// A pod that could not be enrolled, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingPod {
    /// namespace/name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: PodUid,
    /// The last error.
    pub problem: String,
    /// It is want of room in the kernel's tables.
    pub no_room: bool,
}

/// The receiver of events.
pub type Sink = Box<dyn FnMut(Event) + Send>;

/// The pods of one node and its data path.
pub struct Pods<D> {
    settings: Settings,
    path: D,
    /// The contents of the data path.
    there: Tables,
    /// The World whose destinations stand there; none: it is not known.
    finished: Option<Arc<World>>,
    world: Option<Arc<World>>,
    /// The pods of this node.
    local: Arc<[LocalPod]>,
    /// Every pod is to be released, in any wanted state.
    leaving: bool,
    pods: BTreeMap<PodUid, State>,
    /// The orphans: pods that an earlier agent left in the data path.
    orphans: BTreeSet<Cookie>,
    /// The namespaces of sandboxes that the runtime has named, before their first process and until they end.
    named: BTreeMap<PodUid, Arc<Netns>>,
    /// Listeners that the predecessor still serves, of pods that are not enrolled yet.
    inherited: BTreeMap<Cookie, (TcpListener, TcpListener)>,
    /// The end of the time in which the data path may be changed: the predecessor may resume.
    until: Option<Instant>,
    /// False where switching to this agent's version of the tables failed.
    committed: bool,
    /// Pods that a failed successor may have set up or taken down, with the listeners that the tunnel serves.
    unsure: BTreeMap<Cookie, Option<(TcpListener, TcpListener)>>,
    own: Netns,
    finder: cgroup::Finder,
    kubelet: kubelet::Finder,
    sink: Sink,
    applied: Option<Version>,
    /// The pods of the last [`Event::Waiting`].
    waiting: Vec<WaitingPod>,
    /// The pods of this node that were outside the mesh at some time.
    outside: BTreeSet<PodUid>,
    /// The count of pods that were enrolled late.
    late: u64,
    /// The operations of the data path that failed.
    failures: sync::Failures,
    /// After a failure: the time at which the data path is read back, and the pause before.
    reading: Option<(Instant, Duration)>,
    /// The data path may not be as World and pods want it.
    stale: bool,
    /// The time of the next try after a failure of the data path, and of the next look for orphans.
    look_again: Instant,
}

impl<D: std::fmt::Debug> std::fmt::Debug for Pods<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").field("pods", &self.pods).field("path", &self.path).finish_non_exhaustive()
    }
}

impl<D: DataPath> Pods<D> {
    /// Starts with the contents of the data path. Nothing is changed before the first World is there.
    pub fn adopt(settings: Settings, path: D, now: Instant, sink: Sink) -> Result<Self> {
        let there = Tables::from_ops(&path.contents()?);
        let orphans = there.mentioned().chain(path.pods()?).collect();
        Ok(Self {
            finder: cgroup::Finder::new(settings.cgroup_root.clone()),
            kubelet: kubelet::Finder::new(settings.cgroup_root.clone(), settings.kubelet_cgroup.clone(), now),
            own: Netns::own()?,
            settings,
            path,
            there,
            finished: None,
            world: None,
            local: Arc::default(),
            leaving: false,
            pods: BTreeMap::new(),
            orphans,
            named: BTreeMap::new(),
            inherited: BTreeMap::new(),
            until: None,
            committed: true,
            unsure: BTreeMap::new(),
            sink,
            applied: None,
            waiting: Vec::new(),
            outside: BTreeSet::new(),
            late: 0,
            failures: sync::Failures::new(),
            reading: None,
            stale: true,
            look_again: now,
        })
    }

    /// From the next turn on this World holds, and these are the pods of this node.
    pub fn set_world(&mut self, world: Arc<World>, local: Arc<[LocalPod]>) {
        (self.world, self.local) = (Some(world), local);
        let uids: BTreeSet<_> = self.local.iter().map(|pod| &pod.pod_uid).collect();
        self.outside.retain(|uid| uids.contains(uid));
        let released = self.local.iter().filter(|pod| pod.local == Local::Released);
        self.outside.extend(released.map(|pod| Arc::clone(&pod.pod_uid)));
        let probes = probes(&self.local);
        for (uid, state) in &mut self.pods {
            if let Some(enrolled) = state.enrolled_mut() {
                enrolled.set_probes(probes.get(uid).copied().unwrap_or_default());
            }
        }
        self.stale = true;
    }

    /// The runtime has named the namespace of a pod's sandbox: it is the pod's from the next turn on, also before a process is in it.
    pub fn name_sandbox(&mut self, pod: PodUid, netns: Arc<Netns>) {
        match self.pods.get_mut(&pod) {
            Some(State::Waiting { again, .. }) => *again = Instant::now(),
            // An earlier sandbox of the pod, which the runtime has given up.
            Some(State::Enrolled(enrolled) | State::Releasing { enrolled, .. })
                if enrolled.kernel.cookie.0 != netns.cookie() =>
            {
                enrolled.expect_no_process();
            }
            _ => {}
        }
        self.named.insert(pod, netns);
    }

    /// The runtime has ended a sandbox that it named: it is over with its last process, or at once where it never had one.
    pub fn end_sandbox(&mut self, pod: &PodUid, cookie: Cookie) {
        if self.named.get(pod).is_some_and(|named| named.cookie() == cookie.0) {
            self.named.remove(pod);
        }
        let enrolled = self.pods.get_mut(pod).and_then(State::enrolled_mut);
        if let Some(enrolled) = enrolled.filter(|enrolled| enrolled.kernel.cookie == cookie) {
            enrolled.expect_no_process();
        }
    }

    /// Pods that leave the mesh from the next turn on may keep their connections for so long.
    pub fn set_drain(&mut self, drain: Duration) {
        if !self.leaving {
            self.settings.drain = drain;
        }
    }

    /// From the next turn on every pod is released. For cleanup: nothing is enrolled again.
    pub fn release_all(&mut self) {
        self.leaving = true;
        self.look_again = Instant::now();
        self.settings.drain = Duration::ZERO;
    }

    /// Whether nothing of any pod is left in the data path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.orphans.is_empty()
    }

    /// Takes the steps that are due. The answer: the time of the next step, if nothing happens before.
    pub fn turn(&mut self, now: Instant) -> Instant {
        if self.until.is_some_and(|until| until <= now) {
            return now + LOOK_AGAIN;
        }
        let looking = self.look_again <= now && (self.world.is_some() || self.leaving);
        if looking {
            self.look_again = now + LOOK_AGAIN;
            self.look_for_orphans();
        }
        if looking {
            self.restore(now);
        }
        if looking && !self.committed {
            self.commit();
        }
        let Some(world) = self.world.clone() else { return now + LOOK_AGAIN };
        let wanted = self.wanted();
        for enrolled in self.pods.values_mut().filter_map(State::enrolled_mut) {
            enrolled.look_for_process();
            self.stale |= enrolled.look_at_addresses();
        }
        self.stale |= !self.leaving && self.kubelet.look(now);
        // A step may make another one due.
        for _ in 0..ROUNDS {
            let actual = self.pods.iter().map(|(uid, state)| (Arc::clone(uid), state.actual())).collect();
            let actions = plan(&wanted, &actual, looking && !self.orphans.is_empty(), now);
            self.stale |= !actions.is_empty();
            let (due, done) = (plan::next_due(&actual), actions.is_empty());
            actions.into_iter().for_each(|action| self.act(action, now));
            if self.stale || (looking && !self.failures.is_empty()) {
                self.sync(&world, now);
            }
            if done {
                let is_probed = |enrolled: &EnrolledPod| !enrolled.kernel.probes.is_empty();
                self.kubelet.log(self.pods.values().filter_map(State::enrolled).any(is_probed));
                return due.map_or(self.look_again, |due| due.min(self.look_again));
            }
        }
        now + FIRST_PAUSE
    }

    /// The pod of this node that has this uid.
    fn local(&self, uid: &PodUid) -> Option<LocalPod> {
        self.local.iter().find(|pod| pod.pod_uid == *uid).cloned()
    }

    /// The wanted states of the pods of this node.
    fn wanted(&self) -> BTreeMap<PodUid, Wanted> {
        if self.leaving {
            let all = self.pods.keys().chain(self.local.iter().map(|pod| &pod.pod_uid));
            return all.map(|uid| (Arc::clone(uid), Wanted::Released)).collect();
        }
        wanted(&self.local)
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Enrol(uid) => self.enrol(uid, now),
            Action::Adopt(uid) => self.adopt_orphan(uid, now),
            Action::Release(uid) => self.release(&uid, now),
            Action::Keep(uid) => self.keep(&uid, now),
            Action::Continue(uid) => self.continue_release(&uid, now),
            Action::Purge(uid) => self.purge(&uid),
            Action::Forget(uid) => drop(self.pods.remove(&uid)),
        }
    }

    fn enrol(&mut self, uid: PodUid, now: Instant) {
        let failures = match self.pods.get(&uid) {
            Some(State::Waiting { failures, .. }) => *failures,
            _ => 0,
        };
        let Some(pod) = self.local(&uid) else { return };
        let found = self.find(&pod).map(|mut enrolled| {
            // One that was outside before is enrolled by a change of labels.
            let is_known = self.outside.contains(&uid) || self.orphans.contains(&enrolled.kernel.cookie);
            enrolled.late = !is_known && enrolled.has_begun();
            enrolled
        });
        match found.and_then(|enrolled| self.set_up(enrolled)) {
            Ok(enrolled) => {
                let (cookie, late) = (enrolled.kernel.cookie.0, enrolled.late);
                tracing::info!(pod = %enrolled.pod.name, cookie, late, "pod enrolled");
                self.late = self.late.saturating_add(u64::from(late));
                enrolled.log_too_many_probes();
                self.orphans.remove(&enrolled.kernel.cookie);
                self.pods.insert(uid, State::Enrolled(Box::new(enrolled)));
            }
            Err(e) => {
                let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
                let (problem, no_room) = (e.to_string(), matches!(e, Error::NoRoom { .. }));
                if failures == FAILURES_TO_WARN {
                    tracing::warn!(pod = %pod.name, problem, "enrolling a pod failed");
                }
                let failures = failures.saturating_add(1);
                self.pods.insert(uid, State::Waiting { again: now + pause, failures, problem, no_room });
            }
        }
    }

    /// Finds the pod's cgroup and sandbox.
    fn find(&mut self, pod: &LocalPod) -> Result<EnrolledPod> {
        let cgroup = self.finder.find(&pod.pod_uid)?;
        let enrolled = EnrolledPod::find(pod, cgroup, &self.own, self.named.get(&pod.pod_uid))?;
        let cookie = enrolled.kernel.cookie;
        let holder = self
            .pods
            .iter()
            .find(|(_, state)| state.enrolled().is_some_and(|enrolled| enrolled.kernel.cookie == cookie));
        match holder {
            Some((other, _)) => Err(Error::Shared { other: other.to_string() }),
            None => self.room_for(cookie).map(|()| enrolled),
        }
    }

    /// A pod that did not fit would be let out uncaptured, or stop those behind it.
    fn room_for(&self, pod: Cookie) -> Result<()> {
        let enrolled = self.pods.values().filter_map(State::enrolled).map(|enrolled| enrolled.kernel.cookie);
        let known: BTreeSet<Cookie> = self.there.cookies().chain(enrolled).collect();
        let limit = self.path.capacity(Map::Pods).min(self.path.capacity(Map::PodCgroups));
        if known.contains(&pod) || known.len() < limit as usize { Ok(()) } else { Err(Error::NoRoom { limit }) }
    }

    /// Sets up everything before the tables: local addresses, listeners, rules, routes, and last the program that steers.
    fn set_up(&mut self, mut enrolled: EnrolledPod) -> Result<EnrolledPod> {
        let marks = self.settings.marks;
        let adopted = self.orphans.contains(&enrolled.kernel.cookie);
        let locals: Vec<_> = enrolled.locals().collect();
        self.change(&locals)?;
        enrolled.inherit(self.inherited.remove(&enrolled.kernel.cookie));
        match enrolled.set_up(&mut self.path, &self.settings, adopted) {
            Ok(()) => Ok(enrolled),
            // What an earlier agent set up goes on refusing what it cannot carry; the next try has the same listeners.
            Err(e) if adopted => {
                let cookie = enrolled.kernel.cookie;
                self.inherited.extend(enrolled.into_listeners().map(|listeners| (cookie, listeners)));
                Err(e)
            }
            Err(e) => {
                if let Err(error) = enrolled.take_down(&mut self.path, marks) {
                    tracing::warn!(pod = %enrolled.pod.name, %error, "undoing a failed enrolment failed");
                }
                Err(e)
            }
        }
    }

    /// Removes everything of a pod whose sandbox is gone. The tunnel closes what keeps its namespace alive.
    fn purge(&mut self, uid: &PodUid) {
        let Some(enrolled) = self.pods.get(uid).and_then(State::enrolled) else { return };
        let (name, cookie) = (enrolled.pod.name.clone(), enrolled.kernel.cookie);
        match self.path.purge(cookie) {
            Ok(()) => {
                tracing::info!(pod = %name, cookie = cookie.0, "pod sandbox ended");
                self.forget(cookie);
                self.pods.remove(uid);
                (self.sink)(Event::Removed { name, cookie });
            }
            Err(e) => tracing::warn!(pod = %name, error = %e, "purging an ended pod failed"),
        }
    }
}

/// The wanted states of these pods. A uid that two of them have is no pod's, and what it names stays as it is.
pub(crate) fn wanted(pods: &[LocalPod]) -> BTreeMap<PodUid, Wanted> {
    let mut wanted: BTreeMap<PodUid, Option<Wanted>> = BTreeMap::new();
    for pod in pods {
        let state = match pod.local {
            Local::Enrolled => Some(Wanted::Enrolled { addresses: pod.addresses.clone() }),
            Local::Released => Some(Wanted::Released),
            Local::Unknown => None,
        };
        wanted.entry(Arc::clone(&pod.pod_uid)).and_modify(|other| *other = None).or_insert(state);
    }
    wanted.into_iter().filter_map(|(uid, state)| Some((uid, state?))).collect()
}

/// The ports at which these pods are probed, by uid. A uid that two of them have is no pod's.
pub(crate) fn probes(pods: &[LocalPod]) -> BTreeMap<PodUid, &[u16]> {
    let mut probes: BTreeMap<PodUid, Option<&[u16]>> = BTreeMap::new();
    for pod in pods {
        probes.entry(Arc::clone(&pod.pod_uid)).and_modify(|other| *other = None).or_insert(Some(&pod.probes));
    }
    probes.into_iter().filter_map(|(uid, ports)| Some((uid, ports?))).collect()
}

#[cfg(test)]
mod tests;
