//! The record of a connection that is no HTTP: its series, and its line of the access log, which is written when the record is
//! dropped.
//!
//! ```text
//! begin --tries--> to an endpoint --carries--> carried --ends--> line
//!       \-- refused: ends --> line            \-- dropped before: the waypoint ends --> line
//!       \-- dropped: it was HTTP, and its requests have lines --> none
//! ```

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::SystemTime,
};

use tokio::time::Instant;
use underpass_core::{
    ObjectName,
    connection::Party,
    http::{ClusterKey, RequestEnd},
};
use underpass_telemetry::access_log::{Entry, Kept};

use crate::{
    access_log::{unix_us, upstream_local},
    called::{Called, Client},
    carry::Carried,
    cluster::Endpoint,
    metrics::ConnectionSeries,
    worker::Worker,
};

/// The record of one connection.
pub(crate) struct ConnectionRecord {
    worker: Rc<Worker>,
    began: Instant,
    began_unix_us: u64,
    local: SocketAddr,
    client: Client,
    service: RefCell<ObjectName>,
    cluster: RefCell<Option<ClusterKey>>,
    endpoint: RefCell<Option<Rc<Endpoint>>>,
    failure: RefCell<Option<String>>,
    end: Cell<Option<RequestEnd>>,
    is_over_time: Cell<bool>,
    carried: Rc<Carried>,
}

impl ConnectionRecord {
    pub(crate) fn begin(worker: &Rc<Worker>, called: &Called, client: &Client) -> Self {
        Self {
            worker: Rc::clone(worker),
            began: Instant::now(),
            began_unix_us: unix_us(SystemTime::now()),
            local: SocketAddr::new(called.address, called.port),
            client: client.clone(),
            service: RefCell::new(called.service.clone()),
            cluster: RefCell::default(),
            endpoint: RefCell::default(),
            failure: RefCell::default(),
            end: Cell::new(None),
            is_over_time: Cell::new(false),
            carried: Rc::default(),
        }
    }

    /// Its route leads to this Service.
    pub(crate) fn goes_to(&self, service: &ObjectName) {
        self.service.replace(service.clone());
    }

    /// It goes to this endpoint of this cluster.
    pub(crate) fn tries(&self, cluster: &ClusterKey, endpoint: &Rc<Endpoint>) {
        self.cluster.replace(Some(cluster.clone()));
        self.endpoint.replace(Some(Rc::clone(endpoint)));
    }

    /// There is no connection to the endpoint.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) {
        self.failure.replace(Some(error.to_string()));
    }

    /// It is open: what is carried is counted here.
    pub(crate) fn carries(&self) -> &Rc<Carried> {
        self.series();
        self.end.set(Some(RequestEnd::Drain)); // unless another end comes before
        &self.carried
    }

    /// The series that it is counted in, from the moment that it is open or refused.
    fn series(&self) -> &ConnectionSeries {
        self.carried.series(|| {
            let world = self.worker.world();
            let workload = world.workload_at(self.client.address.ip()).cloned();
            let source = Party { address: self.client.address, workload, identity: Some(self.client.identity.clone()) };
            let endpoint = self.endpoint.borrow();
            let has_failed = self.failure.borrow().is_some();
            let destination = Party {
                address: endpoint.as_ref().map_or(self.local, |endpoint| endpoint.target),
                workload: endpoint.as_ref().and_then(|endpoint| world.workload(&endpoint.workload)).cloned(),
                identity: endpoint.as_ref().and_then(|e| e.identity.clone()).filter(|_| !has_failed),
            };
            self.worker.recorder.opens(&world, &source, &destination, &self.service.borrow())
        })
    }

    /// It ends so.
    pub(crate) fn ends(&self, end: RequestEnd) {
        self.end.set(Some(end));
    }

    /// It was idle, or open, for as long as it may be.
    pub(crate) fn is_over_time(&self) {
        self.is_over_time.set(true);
        self.end.set(Some(RequestEnd::Finished));
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let Some(end) = self.end.get() else { return };
        self.series().close(end.flag().unwrap_or("-"));
        let Some(log) = &self.worker.log else { return };
        let termination = match end {
            RequestEnd::Denied | RequestEnd::DeniedLater => Some(end.details(false)),
            _ => self.is_over_time.get().then_some("duration_timeout"),
        };
        let (cluster, endpoint, failure) = (self.cluster.borrow(), self.endpoint.borrow(), self.failure.borrow());
        let upstream = endpoint.as_ref().map(|endpoint| endpoint.target);
        let identity = endpoint.as_ref().and_then(|endpoint| endpoint.identity.as_ref());
        let none = Kept::default();
        log.write(&Entry {
            began_unix_us: self.began_unix_us,
            duration_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            request_us: None,
            response_us: None,
            bytes_received: self.carried.received(),
            bytes_sent: self.carried.sent(),
            request: None,
            code: 0,
            details: None,
            flags: end.flag().unwrap_or("-"),
            termination,
            failure: failure.as_deref(),
            upstream,
            upstream_local: upstream_local(&self.worker.own, upstream),
            upstream_identity: identity.filter(|_| failure.is_none()),
            cluster: cluster.as_ref(),
            attempts: u32::from(upstream.is_some()),
            local: self.local,
            remote: self.client.address,
            peer: Some(&self.client.identity),
            own: Some(&self.worker.own.identity),
            route: None,
            request_headers: &none,
            response_headers: &none,
            trailers: &none,
        });
    }
}
