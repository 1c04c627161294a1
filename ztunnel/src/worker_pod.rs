//! A pod of a worker: its names, its budgets, and its open connections and tunnels.

use std::{cell::RefCell, fmt, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use underpass_core::{
    Few, ObjectName, Reason, World,
    world::{Account, Uid, Workload},
};
use underpass_net::{
    budget::{Permit, Reservation},
    netns::Netns,
    tunnel::{Charge, Memory, Tunnel},
};
use underpass_proxy::{drain::Group, judging::Cancel, peers::UnauthenticatedPeers};

use crate::{PodBudget, SOCKETS_PER_CONNECTION, SOCKETS_PER_POD, Settings};

/// A pod that a worker serves.
pub(crate) struct WorkerPod {
    pub(crate) name: ObjectName,
    pub(crate) uid: Uid,
    /// Its addresses as its node knows them, as is its account.
    addresses: Few<IpAddr>,
    pub(crate) account: RefCell<Account>,
    pub(crate) cookie: u64,
    pub(crate) netns: Arc<Netns>,
    pub(crate) budget: Arc<PodBudget>,
    /// The queued bytes of its tunnels.
    pub(crate) memory: Memory,
    /// Sockets on 15008 whose peers are in their TLS handshake.
    pub(crate) unauthenticated: UnauthenticatedPeers,
    /// For the pod itself: its listeners, its namespace, its steering.
    _reservation: Reservation,
    /// Tunnels of other nodes that end here.
    pub(crate) tunnels: Group<Tunnel>,
    /// Its connections, open or about to be.
    pub(crate) connections: Group<Rc<Cancel>>,
    /// Accepted connections and tunnels, until they have ended.
    pub(crate) serving: Group<()>,
    /// Its listeners, while they wait for permits to accept.
    pub(crate) waiting: Group<()>,
    /// The reason for which it is no longer served.
    pub(crate) closed: RefCell<Option<Reason>>,
    /// The time for which its connections wait for the mesh to know it, from the first of them on. None: they do not.
    pub(crate) expected_within: Option<Duration>,
}

impl fmt::Debug for WorkerPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl WorkerPod {
    pub(crate) fn new(
        (name, uid): (ObjectName, Uid),
        (addresses, account): (Few<IpAddr>, Account),
        cookie: u64,
        netns: Arc<Netns>,
        budget: Arc<PodBudget>,
        expected_within: Option<Duration>,
        settings: &Settings,
    ) -> Self {
        Self {
            name,
            uid,
            addresses,
            account: RefCell::new(account),
            cookie,
            netns,
            memory: Memory::new(Arc::clone(&budget.memory)),
            unauthenticated: UnauthenticatedPeers::new(settings.most_unauthenticated),
            _reservation: budget.sockets.reserve(SOCKETS_PER_POD),
            budget,
            tunnels: Group::default(),
            connections: Group::default(),
            serving: Group::default(),
            waiting: Group::default(),
            closed: RefCell::default(),
            expected_within,
        }
    }

    /// The World's workload of this pod.
    ///
    /// # Errors
    /// Where the World has none, or that of another pod: then no connection is to be judged by it.
    pub(crate) fn workload<'a>(&self, world: &'a World) -> Result<&'a Arc<Workload>, Reason> {
        let is_it = |workload: &&Arc<Workload>| workload.is_of(&self.addresses, &self.account.borrow());
        world.workload(&self.uid).filter(is_it).ok_or(Reason::UnknownPod)
    }

    /// The permit of the socket that a stream of another node leads to; none where none is free. A listener that waits for two
    /// comes first: otherwise streams would take each that becomes free.
    pub(crate) fn permit(&self) -> Option<Permit> {
        let before = if self.waiting.is_empty() { 0 } else { SOCKETS_PER_CONNECTION };
        self.budget.sockets.try_permit(before)
    }

    /// The charge of one more tunnel of this pod, whose socket is there already.
    pub(crate) fn charge(&self) -> Charge {
        Charge { memory: self.memory.clone(), permit: self.budget.sockets.permit() }
    }
}
