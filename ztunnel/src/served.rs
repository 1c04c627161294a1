//! A pod that a worker serves: what it is known by, what it holds, and what is open for it.

use std::{cell::RefCell, fmt, net::IpAddr, rc::Rc, sync::Arc};

use underpass_core::{
    ObjectName, Reason, World,
    world::{Account, Uid, Workload},
};
use underpass_net::{
    budget::{Permit, Reservation},
    netns::Netns,
    tunnel::{Charge, Memory, Tunnel},
};
use underpass_proxy::{drain::Group, judging::Cancel, peers::UnauthenticatedPeers};

use crate::{PodBudget, SOCKETS_PER_CONNECTION, SOCKETS_PER_POD, Settings};

/// A pod that is being served.
pub(crate) struct Served {
    pub(crate) name: ObjectName,
    pub(crate) uid: Uid,
    /// As its node knows them, as is its account.
    addresses: Vec<IpAddr>,
    pub(crate) account: RefCell<Account>,
    pub(crate) cookie: u64,
    pub(crate) netns: Arc<Netns>,
    pub(crate) budget: Arc<PodBudget>,
    /// What waits in its tunnels.
    pub(crate) memory: Memory,
    /// Sockets on 15008 whose peers have not proved who they are.
    pub(crate) unauthenticated: UnauthenticatedPeers,
    /// What the pod itself counts for.
    _reservation: Reservation,
    /// Tunnels of other nodes that end here.
    pub(crate) tunnels: Group<Tunnel>,
    /// Its connections, open or about to be.
    pub(crate) connections: Group<Rc<Cancel>>,
    /// What was accepted for it, until it has ended.
    pub(crate) serving: Group<()>,
    /// Its listeners, while they wait for room to accept.
    pub(crate) waiting: Group<()>,
    /// It is not served any more, and why.
    pub(crate) closed: RefCell<Option<Reason>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Served {
    pub(crate) fn new(
        (name, uid): (ObjectName, Uid),
        (addresses, account): (Vec<IpAddr>, Account),
        cookie: u64,
        netns: Arc<Netns>,
        budget: Arc<PodBudget>,
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
        }
    }

    /// What the World says of it.
    ///
    /// # Errors
    /// What it says is about another pod, or nothing: then nothing is to be judged by it.
    pub(crate) fn workload<'a>(&self, world: &'a World) -> Result<&'a Arc<Workload>, Reason> {
        let is_it = |workload: &&Arc<Workload>| workload.is_of(&self.addresses, &self.account.borrow());
        world.workload(&self.uid).filter(is_it).ok_or(Reason::UnknownPod)
    }

    /// For where a stream of another node leads, which takes one permit; nothing where there is none. A listener that waits
    /// for two is before it: otherwise streams would take each that becomes free.
    pub(crate) fn permit(&self) -> Option<Permit> {
        let before = if self.waiting.is_empty() { 0 } else { SOCKETS_PER_CONNECTION };
        self.budget.sockets.try_permit(before)
    }

    /// For one more tunnel of this pod, whose socket is there already.
    pub(crate) fn charge(&self) -> Charge {
        Charge { memory: self.memory.clone(), permit: self.budget.sockets.permit() }
    }
}
