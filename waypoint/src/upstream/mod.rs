//! The way from a waypoint to an endpoint: a stream of a tunnel or a plain connection ([`connect`]), TLS in it where a
//! DestinationRule asks for it ([`tls`]), HTTP on it, and the
//! connections of one worker to one cluster, which requests share one after the other or, by HTTP/2, at once.
//!
//! What must hold: no connection carries the requests of two sources, and none is above the limits of its cluster.

mod connect;
mod connection;
mod tls;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use underpass_core::{
    Identity,
    http::{ClusterPolicy, ConnectionRules, Counted, HttpVersion, Overflow},
};

pub(crate) use self::{
    connect::{ConnectError, connect, plain, reach},
    connection::{Connection, Executor, Lease, upgradable},
    tls::Origination,
};
use crate::{
    called::Client,
    cluster::{CountGuard, Endpoint, Shared, WorkerCluster},
    worker::Worker,
};

/// Turns in which a connection that has had its response becomes ready; one that is still sending its request does not.
const TURNS_UNTIL_READY: usize = 3;

/// Which requests may share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// With the identity that it has shown.
    endpoint: Endpoint,
    version: HttpVersion,
    /// The source: its identity, and its address, which policies and the endpoint's record may look at.
    source: Identity,
    address: IpAddr,
}

impl Key {
    pub(crate) fn new(endpoint: &Endpoint, client: &Client, version: HttpVersion) -> Self {
        let (endpoint, source) = (endpoint.clone(), client.identity.clone());
        Self { endpoint, version, source, address: client.address.ip() }
    }
}

/// The connections of one worker to the endpoints of a cluster.
#[derive(Debug)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
    /// Those that may take a request now or later.
    open: RefCell<HashMap<Key, Vec<Rc<Connection>>>>,
    /// Requests of this worker that wait for a place.
    waiting: Rc<Cell<u32>>,
    rules: Cell<ConnectionRules>,
    /// The moment that times count from.
    began: Instant,
}

/// What a request that waits has found.
enum Found {
    Slot(CountGuard),
    Lease(Lease),
}

/// A request that waits, until it is dropped.
struct Waits<'w>(&'w Connections);

impl<'w> Waits<'w> {
    fn new(connections: &'w Connections) -> Self {
        connections.waiting.set(connections.waiting.get().saturating_add(1));
        connections.shared.waits(true);
        Self(connections)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
        self.0.shared.waits(false);
    }
}

/// No connection for a request.
#[derive(Debug)]
pub(crate) enum LeaseError {
    /// A limit of the cluster.
    Overflow(Overflow),
    /// It could not be opened.
    Connect(ConnectError),
}

impl Connections {
    pub(crate) fn new(shared: Arc<Shared>, began: Instant) -> Self {
        let rules = Cell::new(rules(&ClusterPolicy::default()));
        Self { shared, open: RefCell::default(), waiting: Rc::default(), rules, began }
    }

    /// Goes by another policy, also for what is open.
    pub(crate) fn set_rules(&self, policy: &ClusterPolicy) {
        self.rules.set(rules(policy));
    }

    /// The rules of its connections.
    pub(crate) fn rules(&self) -> ConnectionRules {
        self.rules.get()
    }

    /// A connection with room for one more request of this key; none: one has to be opened.
    fn take(&self, key: &Key) -> Option<Lease> {
        let mut open = self.open.borrow_mut();
        let mine = open.get_mut(key)?;
        let (rules, now) = (self.rules(), self.began.elapsed());
        mine.retain(|connection| !connection.is_closed() && !connection.is_spent(&rules, now));
        // The one that was used last: the others come to their idle time.
        let (at, lease) =
            mine.iter().enumerate().rev().find_map(|(at, connection)| Some((at, connection.lease(&rules, now)?)))?;
        if mine.get(at).is_some_and(|connection| connection.is_spent(&rules, now)) {
            mine.swap_remove(at);
        }
        Some(lease)
    }

    /// One of this key has had its request, and is about to be ready for the next one.
    fn has_idle(&self, key: &Key) -> bool {
        self.open.borrow().get(key).is_some_and(|mine| mine.iter().any(|c| c.is_idle() && !c.is_closed()))
    }

    /// Closes an idle connection of any key, to make room for one of another.
    fn give_up_idle(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let with_idle = open.values_mut().find_map(|mine| Some((mine.iter().position(|c| c.is_idle())?, mine)));
        with_idle.map(|(at, mine)| mine.swap_remove(at)).is_some()
    }

    /// Closes idle connections, as many as requests of other workers wait for. Where requests of this one wait, they do.
    pub(crate) fn give_way(&self) {
        if self.waiting.get() == 0 {
            let _ = (0..self.shared.waiting()).all(|_| self.give_up_idle()); // until none is idle
        }
    }

    fn enter(&self, key: Key, connection: Rc<Connection>) {
        self.open.borrow_mut().entry(key).or_default().push(connection);
        // It may have room for others that wait.
        self.shared.freed.notify_waiters();
    }

    /// A place among the connections of the cluster; where there is none, the caller waits for one.
    pub(crate) async fn slot(&self, endpoint: SocketAddr) -> Result<CountGuard, Overflow> {
        loop {
            if let Found::Slot(slot) = self.slot_or_lease(endpoint, None).await? {
                return Ok(slot);
            }
        }
    }

    /// The same, unless a connection of this key has room, now or later.
    async fn slot_or_lease(&self, endpoint: SocketAddr, key: Option<&Key>) -> Result<Found, Overflow> {
        let mut waits = None;
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            for _ in 0..TURNS_UNTIL_READY {
                if let Some(lease) = key.and_then(|key| self.take(key)) {
                    return Ok(Found::Lease(lease));
                }
                if !key.is_some_and(|key| self.has_idle(key)) {
                    break;
                }
                tokio::task::yield_now().await;
            }
            if let Ok(slot) = self.shared.begin_connection(endpoint, waits.is_none()) {
                return Ok(Found::Slot(slot));
            }
            // Where one could be closed, its place is given back when its task has seen that.
            self.give_up_idle();
            if waits.is_none() {
                waits = Some((self.shared.begin(Counted::Pending)?, Waits::new(self)));
            }
            freed.await;
        }
    }

    /// Drops connections to other endpoints: requests on them go on, and none is added.
    pub(crate) fn retain(&self, is_left: impl Fn(&Endpoint) -> bool) {
        self.open.borrow_mut().retain(|key, _| is_left(&key.endpoint));
    }

    /// Drops connections that have ended, or had their time.
    pub(crate) fn sweep(&self, now: Duration) {
        let rules = self.rules();
        self.open.borrow_mut().retain(|_, mine| {
            mine.retain(|connection| !connection.is_closed() && !connection.is_over(&rules, now));
            !mine.is_empty()
        });
    }
}

/// Requests at once on one connection, where the endpoint allows as many (the wire contract's value for streams).
const CONCURRENT: u32 = 100;

fn rules(policy: &ClusterPolicy) -> ConnectionRules {
    let rules = ConnectionRules::of(policy);
    let most = |said: Option<u32>| said.filter(|most| *most > 0);
    ConnectionRules {
        max_requests: most(rules.max_requests),
        max_streams: most(rules.max_streams).or(Some(CONCURRENT)),
        ..rules
    }
}

/// A connection for one request of this client to this endpoint: one that is open and has room, or a new one. Where there are as
/// many as there may be, the request waits for one.
pub(crate) async fn lease(
    worker: &Rc<Worker>,
    cluster: &Rc<WorkerCluster>,
    endpoint: &Endpoint,
    client: &Client,
    version: HttpVersion,
) -> Result<Lease, LeaseError> {
    let key = Key::new(endpoint, client, version);
    let connections = &cluster.connections;
    let slot = match connections.slot_or_lease(endpoint.target, Some(&key)).await.map_err(LeaseError::Overflow)? {
        Found::Slot(slot) => slot,
        Found::Lease(lease) => return Ok(lease),
    };
    let connection = Connection::open(worker, cluster, endpoint, client, version, slot).await;
    let connection = Rc::new(connection.map_err(LeaseError::Connect)?);
    let (rules, now) = (connections.rules(), worker.now());
    let lease = connection.lease(&rules, now).ok_or(LeaseError::Connect(ConnectError::Closed))?;
    if !connection.is_spent(&rules, now) {
        connections.enter(key, connection);
    }
    Ok(lease)
}
