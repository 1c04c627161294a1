//! One connection and its record: begun when it is accepted, listed while it is open, logged exactly once when it ends. A
//! guard: a task that panics or is dropped is logged as well, with the reason `internal`.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use underpass_core::{
    Connection, Identity, NamedSource, ObjectName, Reason, World, admit, authz,
    authz::{Request, Verdict},
    connection::{Direction, Party, Path},
    rejudge::Judged,
};
use underpass_net::tunnel::Tally;
use underpass_proxy::{drain::Guard, judging::Cancel};

use crate::{PodBudget, open_connections::filled, worker::Worker, worker_pod::WorkerPod};

/// The registration of a connection with its worker and pod. A guard of its own: a panic while the record is written must not
/// leave the connection among the open ones.
#[derive(Debug)]
struct Registered {
    worker: Rc<Worker>,
    id: u64,
    _of_pod: Guard<Rc<Cancel>>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.judging.remove(self.id);
        self.worker.connections.remove(self.id);
    }
}

/// A connection of a pod, open or about to be, with its record.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    registered: Registered,
    budget: Arc<PodBudget>,
    record: Connection,
    began: Instant,
    pub(crate) tally: Arc<Tally>,
    pub(crate) cancel: Rc<Cancel>,
    finished: bool,
}

impl OpenConnection {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        pod: &Rc<WorkerPod>,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        let world = worker.world();
        let party =
            |address: SocketAddr| Party { address, workload: world.workload_at(address.ip()).cloned(), identity: None };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Connection {
            id: worker.connections.next_id(),
            direction,
            path: Path::None,
            source: party(source),
            destination: party(destination),
            via: None,
            service: None,
            service_host: None,
            vip: None,
            bytes_received: 0,
            bytes_sent: 0,
            opened_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            duration_us: 0,
            policy: None,
            dry_run_denied_by: Vec::new(),
            reason: None,
            world: world.version(),
        };
        let cancel = Rc::<Cancel>::default();
        if let Some(reason) = &*pod.closed.borrow() {
            cancel.cancel(reason.clone(), None); // accepted before, begun after
        }
        let of_pod = pod.connections.enter(Rc::clone(&cancel));
        Self {
            registered: Registered { worker: Rc::clone(worker), id: record.id, _of_pod: of_pod },
            budget: Arc::clone(&pod.budget),
            record,
            began: Instant::now(),
            tally: Arc::default(),
            cancel,
            finished: false,
        }
    }

    pub(crate) fn path(&mut self, path: Path) {
        self.record.path = path;
    }

    pub(crate) fn source_identity(&mut self, identity: Option<Identity>) {
        self.record.source.identity = identity;
    }

    pub(crate) fn destination_identity(&mut self, identity: Option<Identity>) {
        self.record.destination.identity = identity;
    }

    /// Sets the source that a waypoint calls for, and the waypoint.
    pub(crate) fn named(&mut self, world: &World, source: &NamedSource, via: Identity) {
        let NamedSource { identity, address } = source.clone();
        let workload = world.workload_at(address.ip()).cloned();
        self.record.source = Party { address, workload, identity: Some(identity) };
        self.record.via = Some(via);
    }

    /// Sets the waypoint that carries it on.
    pub(crate) fn via(&mut self, identity: Option<Identity>) {
        self.record.via = identity;
    }

    /// Sets the application's address, as chosen.
    pub(crate) fn destination(&mut self, world: &World, address: SocketAddr) {
        self.record.destination.workload = world.workload_at(address.ip()).cloned();
        self.record.destination.address = address;
    }

    /// Sets the service that was called, at its `vip`.
    pub(crate) fn service(&mut self, world: &World, service: Option<ObjectName>, vip: SocketAddr) {
        let known = service.as_ref().and_then(|name| world.service(name));
        self.record.service_host = known.map(|service| Arc::clone(&service.hostname));
        self.record.vip = service.as_ref().map(|_| vip);
        self.record.service = service;
    }

    /// Judges it: core's verdict, and dry-run denials.
    ///
    /// # Errors
    /// The reason of a denial.
    pub(crate) fn judge(&mut self, world: &World, request: &Request<'_>) -> Result<(), Reason> {
        self.record.dry_run_denied_by = authz::dry_run_denials(world, request);
        let (policy, verdict) = match admit::admit(world, request, &mut ()) {
            Verdict::Allow { policy } => (policy, Ok(())),
            Verdict::Deny { policy, reason } => (policy, Err(reason)),
        };
        self.record.policy = policy;
        verdict
    }

    pub(crate) fn policy(&mut self, policy: Option<ObjectName>) {
        self.record.policy = policy;
    }

    /// Lists it from now on, and has it judged again after every change.
    pub(crate) fn open(&self, judged: Judged) {
        let worker = &self.registered.worker;
        worker.connections.insert(self.record.clone(), Arc::clone(&self.tally), self.began);
        worker.recorder.opened(&worker.world(), &self.record, &self.tally);
        worker.judging.register(self.record.id, judged, Rc::clone(&self.cancel));
    }

    /// Ends it for `reason`.
    pub(crate) fn finish(mut self, reason: Reason) {
        self.end(reason);
    }

    /// Drops it without a record: it turned out to be no connection.
    pub(crate) fn discard(mut self) {
        self.finished = true;
    }

    fn end(&mut self, reason: Reason) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.budget.ended(&reason);
        self.record.reason = Some(reason);
        let record = filled(&self.record, &self.tally, self.began, Instant::now());
        let worker = &self.registered.worker;
        worker.recorder.ended(&worker.world(), &record);
        worker.refusals.add(&record);
        worker.log(&record);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.end(Reason::Internal);
    }
}
