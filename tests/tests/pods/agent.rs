//! The agent's lower half in a process of its own, and the handle by which a test orders it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use underpass_abi::{Cookie, Marks, Op, limits};
use underpass_agent::pods::{self, Pods};
use underpass_core::{
    Few, ObjectName, World,
    enrol::DATAPLANE_MODE,
    labels::Labels,
    objects::{Batch, DEFAULT_WEIGHT, Object, Phase, Pod},
    resolve::{LocalPod, Model},
    world::MeshSettings,
};
use underpass_loader::Kernel;
use underpass_net::{
    netns::Netns,
    socket::{
        self,
        options::{Keepalive, Options, Role},
    },
};
use underpass_tests::testbed::{Actor, Io, Testbed, wait::wait_until};

use super::tunnel::{Served, Tunnel};

/// A pod as manifests would say it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) enrolled: bool,
    pub(crate) ended: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Start {
    node: String,
    cgroup_root: PathBuf,
    bpffs: PathBuf,
    drain: Duration,
    /// Room of the table of the mesh.
    mesh_entries: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    World(Vec<Fact>),
    Status,
    Look,
    ReleaseAll,
    StandStill,
    GoOn,
    Remove,
    Measure(String, SocketAddr),
}

/// The state of pods: name, state, problem.
pub(crate) type Status = Vec<(String, String, Option<String>)>;

/// The state of the kernel, and the tunnel's updates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sight {
    pub(crate) pods: usize,
    pub(crate) locals: usize,
    pub(crate) cgroups: usize,
    pub(crate) destinations: usize,
    pub(crate) agents: usize,
    pub(crate) steered: usize,
    pub(crate) listeners: usize,
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
}

/// The World of this version, and the pods of a node.
fn world(facts: &[Fact], node: &str, version: u64) -> (Arc<World>, Arc<[LocalPod]>) {
    let objects = facts.iter().map(|fact| {
        let (namespace, name) = fact.name.split_once('/').unwrap_or(("", &fact.name));
        let mut labels = Labels::new();
        labels.insert(DATAPLANE_MODE.into(), if fact.enrolled { "ambient" } else { "none" }.into());
        Object::from(Pod {
            name: ObjectName::new(namespace, name),
            uid: fact.uid.as_str().into(),
            addresses: (*fact.addresses).into(),
            node: Some(fact.node.as_str().into()),
            hostname: None,
            host_network: false,
            phase: if fact.ended { Phase::Terminal } else { Phase::Running },
            ready: true,
            draining: false,
            deleted: false,
            weight: DEFAULT_WEIGHT,
            labels,
            annotations: Labels::new(),
            service_account: "default".into(),
            ports: Vec::new(),
            probes: Few::new(),
            owner: None,
            proxy: None,
        })
    });
    let batch: Batch = objects.collect();
    let mut model = Model::empty(MeshSettings::default());
    for _ in 1..version {
        model.apply(&Batch::default());
    }
    model.apply(&batch);
    (Arc::new(model.world().clone()), model.local_pods(node).into())
}

/// The process: takes orders until the test lets go, or kills it.
fn agent(start: Start, io: &mut Io) -> Result<()> {
    let settings = underpass_loader::Settings {
        bpffs: start.bpffs,
        instance: start.node.clone(),
        cgroup_root: start.cgroup_root.clone(),
        marks: Marks::DEFAULT,
        mesh_entries: start.mesh_entries,
        log: false,
    };
    let own = pods::cgroup_id(&pods::own_alone("underpass-agent")?)?;
    let kernel = Kernel::attach(&settings)?;
    let (sender, events) = mpsc::channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let settings_of_pods = pods::Settings {
        node: start.node.as_str().into(),
        cgroup_root: start.cgroup_root,
        agents: vec![own],
        kubelet_cgroup: None,
        marks: Marks::DEFAULT,
        drain: start.drain,
        keepalive: Keepalive::default(),
    };
    let handle = pods::spawn(
        Pods::adopt(settings_of_pods, kernel, Instant::now(), sink)?,
        pods::Meter::new(&underpass_telemetry::metrics::Registry::default()),
    )?;
    let mut tunnel = Tunnel { events, served: HashMap::new(), applied: 0, sight: Sight::default() };
    let mut version = 0;
    io.send(&())?;
    while let Some(order) = io.receive::<Order>()? {
        match order {
            Order::World(facts) => {
                version += 1;
                let (world, local) = world(&facts, &start.node, version);
                handle.set_world(world, local);
                while tunnel.applied < version {
                    tunnel.wait()?;
                }
                io.send(&())?;
            }
            Order::Status => {
                let of = |s: pods::PodStatus| (s.name, s.state.to_owned(), s.problem);
                let status: Status = handle.status().into_iter().map(of).collect();
                tunnel.take()?; // what it says has been announced
                io.send(&status)?;
            }
            Order::Look => {
                tunnel.take()?;
                io.send(&look(&Kernel::open(&settings)?, tunnel.sight.clone())?)?;
            }
            Order::ReleaseAll => {
                let done = handle.release_all(Instant::now() + Duration::from_secs(20));
                tunnel.take()?;
                io.send(&done)?;
            }
            Order::StandStill => {
                handle.stand_still().blocking_recv()?;
                io.send(&())?;
            }
            Order::GoOn => {
                tunnel.take()?;
                let serving = |(cookie, served): (&Cookie, &Served)| Ok((*cookie, served.listeners()?));
                handle.resume(tunnel.served.iter().map(serving).collect::<Result<_>>()?);
                io.send(&())?;
            }
            Order::Remove => {
                Kernel::remove(&settings)?;
                io.send(&())?;
            }
            Order::Measure(pod, to) => {
                tunnel.take()?;
                let served = tunnel.served.values().find(|s| s.name == pod).context("not served")?;
                io.send(&measure(&served.netns, to)?)?;
            }
        }
    }
    Ok(())
}

fn look(kernel: &Kernel, mut sight: Sight) -> Result<Sight> {
    for op in kernel.contents()? {
        match op {
            Op::SetPod(..) => sight.pods += 1,
            Op::SetLocal(..) => sight.locals += 1,
            Op::SetPodCgroup(..) => sight.cgroups += 1,
            Op::SetDestination(..) => sight.destinations += 1,
            Op::SetAgent(..) => sight.agents += 1,
            other => bail!("{other:?}"),
        }
    }
    (sight.steered, sight.listeners) = (kernel.pods()?.len(), kernel.listeners()?.len());
    Ok(sight)
}

/// Microseconds, each the median of many: entering a namespace, a connection to the application, one from the own
/// namespace.
fn measure(netns: &Netns, to: SocketAddr) -> Result<[f64; 2]> {
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let enter = (0..2000).map(|_| {
        let begin = Instant::now();
        netns.enter_here(|| ())?;
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    });
    let enter = median(enter.collect::<Result<_>>()?);
    let own = Netns::own()?.cookie();
    let nested = netns.enter_here(|| netns.enter_here(|| ()).is_err())?;
    let unwound = std::panic::catch_unwind(|| netns.enter_here(|| std::panic::resume_unwind(Box::new(())))).is_err();
    ensure!(nested && unwound && Netns::own()?.cookie() == own, "still inside");
    ensure!(netns.enter(|| Netns::own().map(|inside| inside.cookie()))?? == netns.cookie());
    let options = Options::of(Role::ToApplication, Keepalive::default());
    let connect = (0..500).map(|_| {
        let begin = Instant::now();
        let opened = socket::to_application(netns, [192, 0, 2, 7].into(), to, Marks::DEFAULT.inbound(), &options)?;
        let took = begin.elapsed().as_secs_f64() * 1e6;
        socket::reset_on_close(&opened, true);
        Ok(took)
    });
    Ok([enter, median(connect.collect::<Result<_>>()?)])
}

pub(crate) struct Agent(pub(crate) Actor<()>);

impl Agent {
    pub(crate) fn start(bed: &Testbed, drain: Duration) -> Result<Self> {
        Self::start_on(bed, "node-1", drain)
    }

    pub(crate) fn start_on(bed: &Testbed, node: &str, drain: Duration) -> Result<Self> {
        Self::start_as("underpass-agent", bed, node, drain)
    }

    pub(crate) fn start_as(service: &str, bed: &Testbed, node: &str, drain: Duration) -> Result<Self> {
        Self::launch(service, bed, node, drain, limits::MESH)
    }

    pub(crate) fn launch(service: &str, bed: &Testbed, node: &str, drain: Duration, mesh_entries: u32) -> Result<Self> {
        let node = bed.node(node)?;
        let start = Start {
            node: node.spec().name.clone(),
            cgroup_root: node.cgroup().to_owned(),
            bpffs: bed.lab().bpffs().to_owned(),
            drain,
            mesh_entries,
        };
        let mut actor = node.service(service)?.spawn(agent, start)?;
        actor.event::<()>()?;
        Ok(Self(actor))
    }

    pub(crate) fn world(&mut self, facts: &[Fact]) -> Result<()> {
        self.0.tell(&Order::World(facts.to_vec()))?;
        self.0.event()
    }

    pub(crate) fn status(&mut self) -> Result<Status> {
        self.0.tell(&Order::Status)?;
        self.0.event()
    }

    pub(crate) fn look(&mut self) -> Result<Sight> {
        self.0.tell(&Order::Look)?;
        self.0.event()
    }

    /// Waits until the pod stands so; empty: until nothing is known of it.
    pub(crate) fn wait_for(&mut self, pod: &str, state: &str) -> Result<()> {
        let mut before = Status::new();
        wait_until(&format!("{pod} is {state:?}"), || {
            let status = self.status()?;
            if status != before {
                println!("{status:?}");
                before.clone_from(&status);
            }
            let now = status.iter().find(|(name, ..)| name == pod).map_or("", |(_, now, _)| now);
            Ok(now == state)
        })
    }
}
