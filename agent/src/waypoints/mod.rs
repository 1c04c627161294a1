//! The waypoints that this node runs as children of the agent, where files alone describe the mesh: those instances that
//! [`underpass_core::provision`] has placed here. In a cluster they are pods like any other, and this room has nothing to do.
//!
//! * `plan`: which to start and which to stop. `supervise`: the life of one, with `backoff` between its processes.
//! * `network`: its namespace and listener. `child`: one process of it.
//! * `status`: how they fare.
//!
//! What must hold: only the agent of the node starts one, and a successor goes on with the listeners of its predecessor, so that
//! what connects meanwhile waits. A waypoint that fails takes nothing else with it: the node is ready without it.

mod backoff;
mod child;
mod network;
mod plan;
mod status;
mod supervise;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use underpass_core::{
    Identity, ObjectName,
    provision::Instance,
    world::{Account, MeshSettings},
};
use underpass_proxy::credentials::Credentials;

pub use self::status::{Board, FAMILIES, State, WaypointStatus};
use self::{
    child::Program,
    network::Network,
    plan::{Step, steps},
    supervise::{Slot, Supervisor},
};
use crate::config::Config;

/// The name of the program.
pub(crate) const PROGRAM: &str = "underpass-waypoint";

/// What one waypoint is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Run.
    Run,
    /// Take nothing new, and end when nothing is open or the time is over.
    Drain,
    /// End at once.
    Kill,
}

/// What all of them have in common.
#[derive(Debug)]
struct Shared {
    program: Program,
    manifests: PathBuf,
    node: String,
    drain: Duration,
    credentials: watch::Receiver<Arc<Credentials>>,
    mesh: watch::Receiver<MeshSettings>,
    board: Board,
}

/// One that runs or ends.
#[derive(Debug)]
struct Known {
    instance: Instance,
    network: Slot,
    goal: watch::Sender<Goal>,
}

/// The network of a waypoint, for a successor.
#[derive(Debug)]
pub struct Lent {
    /// Its pod.
    pub pod: ObjectName,
    /// What it was made for.
    pub at: At,
    /// Its namespace.
    pub netns: OwnedFd,
    /// Its listener.
    pub listener: TcpListener,
}

/// What a network is made for: another one needs another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
}

impl At {
    fn of(instance: &Instance) -> Self {
        Self { addresses: instance.addresses.to_vec(), port: instance.port }
    }
}

/// The waypoints of this node.
#[derive(Debug)]
pub struct Waypoints {
    shared: Arc<Shared>,
    mesh: watch::Sender<MeshSettings>,
    wanted: Vec<Instance>,
    known: BTreeMap<ObjectName, Known>,
    tasks: JoinSet<ObjectName>,
    inherited: BTreeMap<ObjectName, (At, Network)>,
    /// This process may start one.
    starts: bool,
}

impl Waypoints {
    /// None yet. `inherited`: what a predecessor has lent. Call it inside a runtime.
    #[must_use]
    pub fn new(
        config: &Config,
        credentials: watch::Receiver<Arc<Credentials>>,
        board: Board,
        inherited: Vec<Lent>,
    ) -> Self {
        let (mesh, settings) = watch::channel(config.mesh());
        let shared = Shared {
            program: Program { path: config.waypoint_program(), arguments: config.waypoint_arguments() },
            manifests: config.manifests.clone().unwrap_or_default(),
            node: config.node.clone(),
            drain: config.drain,
            credentials,
            mesh: settings,
            board,
        };
        Self::with(shared, mesh, inherited)
    }

    fn with(shared: Shared, mesh: watch::Sender<MeshSettings>, inherited: Vec<Lent>) -> Self {
        let inherited = inherited.into_iter().filter_map(|Lent { pod, at, netns, listener }| {
            let taken = Network::inherited(netns, listener);
            let failed =
                |error: &_| tracing::warn!(waypoint = %pod, %error, "taking over the network of a waypoint failed");
            taken.inspect_err(failed).ok().map(|network| (pod.clone(), (at, network)))
        });
        Self {
            shared: Arc::new(shared),
            mesh,
            wanted: Vec::new(),
            known: BTreeMap::new(),
            inherited: inherited.collect(),
            tasks: JoinSet::new(),
            starts: false,
        }
    }

    /// From now on these are to run, once this process may start them. Those that are to end drain first.
    pub fn set(&mut self, wanted: Vec<Instance>) {
        self.wanted = wanted;
        self.step();
    }

    /// This process is the agent of the node: it starts them.
    pub fn start(&mut self) {
        self.starts = true;
        self.step();
        // Those of another World.
        self.inherited.clear();
    }

    /// Settings of the mesh.
    pub fn set_mesh(&mut self, mesh: MeshSettings) {
        self.mesh.send_if_modified(|known| {
            let differs = *known != mesh;
            *known = mesh;
            differs
        });
    }

    /// The accounts whose certificates they need: those of all that are to run, and of all that have not ended.
    pub fn accounts(&self) -> impl Iterator<Item = Account> + '_ {
        let known = self.known.values().map(|known| &known.instance);
        self.wanted
            .iter()
            .chain(known)
            .map(|instance| Account { namespace: instance.pod.namespace().into(), name: instance.pod.name().into() })
    }

    /// Waits until one has ended that was to, and starts what waited for that. Dropped before that, nothing is lost.
    pub async fn turn(&mut self) {
        let ended = match self.tasks.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        };
        self.forget(ended);
        self.step();
    }

    /// All of them end when nothing is open, or when their time is over.
    pub fn drain(&mut self) {
        self.starts = false;
        self.end(Goal::Drain);
    }

    /// None runs, and none is ending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Ends what is left, and waits for it.
    pub async fn shut_down(mut self) {
        self.end(Goal::Kill);
        while let Some(ended) = self.tasks.join_next().await {
            self.forget(ended);
        }
    }

    /// Copies of the networks that there are.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn lend(&self) -> io::Result<Vec<Lent>> {
        let made = self.known.iter().filter_map(|(pod, known)| Some((pod, known, known.network.get()?)));
        let lend = |(pod, known, network): (&ObjectName, &Known, Arc<Network>)| {
            Ok(Lent {
                pod: pod.clone(),
                at: At::of(&known.instance),
                netns: network.netns.as_fd().try_clone_to_owned()?,
                listener: network.listener.try_clone()?,
            })
        };
        made.map(lend).collect()
    }

    fn step(&mut self) {
        let is_stopping = |known: &Known| *known.goal.borrow() != Goal::Run;
        let known = self.known.iter().map(|(pod, k)| (pod.clone(), (k.instance.clone(), is_stopping(k)))).collect();
        for step in steps(&known, &self.wanted) {
            match step {
                Step::Stop(pod) => {
                    if let Some(known) = self.known.get(&pod) {
                        let _ = known.goal.send(Goal::Drain); // it has ended
                    }
                }
                Step::Start(instance) if self.starts => self.supervise(instance),
                Step::Start(_) => {}
            }
        }
    }

    fn supervise(&mut self, instance: Instance) {
        let (goal, follow) = watch::channel(Goal::Run);
        let lent = self.inherited.remove(&instance.pod).filter(|(at, _)| *at == At::of(&instance));
        let network = lent.map_or_else(Slot::default, |(_, network)| Slot::of(network));
        let (pod, mesh) = (instance.pod.clone(), self.mesh.borrow());
        let supervisor = Supervisor {
            shared: Arc::clone(&self.shared),
            identity: Identity::new(&mesh.trust_domain, pod.namespace(), pod.name()),
            instance: instance.clone(),
            network: network.clone(),
            goal: follow,
            restarts: 0,
        };
        self.known.insert(pod.clone(), Known { instance, network, goal });
        self.tasks.spawn(async move {
            supervisor.run().await;
            pod
        });
    }

    fn end(&self, goal: Goal) {
        for known in self.known.values() {
            let _ = known.goal.send(goal); // it has ended
        }
    }

    fn forget(&mut self, ended: Result<ObjectName, JoinError>) {
        match ended {
            Ok(pod) => drop(self.known.remove(&pod)),
            // None is aborted.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests;
