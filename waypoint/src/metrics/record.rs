//! What is written down about a request while it is under way, for its series and for its line of the access log.

use std::{
    cell::{Cell, Ref, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use underpass_core::{Identity, ObjectName, connection::Party, http::RequestEnd};

use super::flags::{Answer, Flags, Retry};
use crate::access_log::Notes;

/// The last status that gRPC knows (grpc/doc/statuscodes.md): peers may send any number.
const LAST_GRPC_STATUS: u8 = 16;

/// The record of one request.
#[derive(Debug)]
pub(crate) struct Record {
    began: Instant,
    is_grpc: bool,
    source: Party,
    /// The Service that it goes to: the called one, until its route says another.
    pub(super) service: RefCell<ObjectName>,
    attempts: Cell<u32>,
    /// The endpoint of the last try, with its identity once there was a connection to it.
    destination: RefCell<Party>,
    code: Cell<u16>,
    grpc_status: Cell<Option<u8>>,
    is_delayed: Cell<bool>,
    retry: Cell<Retry>,
    /// Bytes of the request's body, where it has one, by who reads it.
    received: RefCell<Option<Rc<Received>>>,
    sent: Cell<u64>,
    /// What its line says beside; none: the log is off.
    notes: Option<RefCell<Box<Notes>>>,
    /// The dry-run policies that would have denied it, each once.
    pub(super) dry_run_denied_by: RefCell<Vec<ObjectName>>,
    /// The policies with action AUDIT that match it, each once.
    pub(super) audited_by: RefCell<Vec<ObjectName>>,
}

/// The body of a request, as far as the client has sent it.
#[derive(Debug, Default)]
pub(crate) struct Received {
    bytes: Cell<u64>,
    /// When all of it had come.
    ended: Cell<Option<Instant>>,
}

impl Received {
    /// So many bytes more.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
    }

    /// That was all.
    pub(crate) fn end(&self) {
        self.ended.set(Some(Instant::now()));
    }
}

impl Record {
    /// Of a request that begins now.
    pub(crate) fn new(source: Party, service: ObjectName, is_grpc: bool, notes: Option<Notes>) -> Self {
        let unknown = Party { address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), workload: None, identity: None };
        Self {
            began: Instant::now(),
            is_grpc,
            source,
            service: RefCell::new(service),
            attempts: Cell::new(0),
            destination: RefCell::new(unknown),
            code: Cell::new(0),
            grpc_status: Cell::new(None),
            is_delayed: Cell::new(false),
            retry: Cell::new(Retry::NotWanted),
            received: RefCell::new(None),
            sent: Cell::new(0),
            notes: notes.map(|notes| RefCell::new(Box::new(notes))),
            dry_run_denied_by: RefCell::default(),
            audited_by: RefCell::default(),
        }
    }

    /// Notes something for its line, where there is one.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Notes)) {
        if let Some(notes) = &self.notes {
            note(&mut notes.borrow_mut());
        }
    }

    /// What was noted for its line.
    pub(crate) fn notes(&self) -> Option<Ref<'_, Box<Notes>>> {
        self.notes.as_ref().map(RefCell::borrow)
    }

    /// When it began.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// The tries so far.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    /// The client.
    pub(crate) const fn source(&self) -> &Party {
        &self.source
    }

    /// The endpoint of the last try.
    pub(crate) fn destination(&self) -> Ref<'_, Party> {
        self.destination.borrow()
    }

    /// When all of the request had come; none: it has not.
    pub(crate) fn request_ended(&self) -> Option<Instant> {
        self.received.borrow().as_ref().map_or(Some(self.began), |received| received.ended.get())
    }

    /// Its route leads to this Service.
    pub(crate) fn goes_to(&self, service: &ObjectName) {
        self.service.replace(service.clone());
    }

    /// It is about to be sent to this endpoint.
    pub(crate) fn tries(&self, endpoint: Party) {
        self.destination.replace(endpoint);
        self.attempts.set(self.attempts.get().saturating_add(1));
        self.note(Notes::tries);
    }

    /// There is a connection to the endpoint, which proved this.
    pub(crate) fn reached(&self, identity: Option<&Identity>) {
        self.destination.borrow_mut().identity = identity.cloned();
    }

    /// These dry-run policies would deny it, and these with action AUDIT match it.
    pub(crate) fn judged_aside(&self, [dry_runs, audits]: [Vec<ObjectName>; 2]) {
        add(&self.dry_run_denied_by, dry_runs);
        add(&self.audited_by, audits);
    }

    /// A fault delays it.
    pub(crate) fn delayed(&self) {
        self.is_delayed.set(true);
    }

    /// It would be tried again, if a try were left.
    pub(crate) fn tries_used_up(&self) {
        self.retry.set(Retry::UsedUp);
    }

    /// It would be tried again, if its cluster had not as many retries as it may.
    pub(crate) fn may_not_try(&self) {
        self.retry.set(Retry::Overflow);
    }

    /// The bytes of its body are counted here.
    pub(crate) fn receives(&self, received: Option<Rc<Received>>) {
        self.received.replace(received);
    }

    /// The head of the answer to the client, which an endpoint has made.
    pub(crate) fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        self.code.set(status.as_u16());
        self.grpc_status(headers);
        self.note(|notes| notes.answered(headers, true));
    }

    /// The head of the answer to the client, which was made here.
    pub(crate) fn answered_here(&self, status: StatusCode, headers: &HeaderMap) {
        self.code.set(status.as_u16());
        self.grpc_status(headers);
        self.note(|notes| notes.answered(headers, false));
    }

    /// Trailers of the answer.
    pub(crate) fn trailers(&self, trailers: &HeaderMap) {
        self.grpc_status(trailers);
        self.note(|notes| notes.trailers(trailers));
    }

    /// Trailers, or the head, of the answer: where gRPC has its status.
    fn grpc_status(&self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").filter(|_| self.is_grpc);
        let status = status.and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(status) = status.filter(|status| *status <= LAST_GRPC_STATUS) {
            self.grpc_status.set(Some(status));
        }
    }

    /// So many bytes more of the answer's body.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get().saturating_add(bytes));
    }

    /// What its series says about the answer, where it ends so.
    pub(crate) fn answer(&self, end: RequestEnd) -> Answer {
        Answer {
            is_grpc: self.is_grpc,
            code: self.code.get(),
            grpc_status: self.grpc_status.get(),
            flags: Flags { end: end.flag(), is_delayed: self.is_delayed.get(), retry: self.retry.get() },
        }
    }

    pub(crate) fn measured(&self) -> Measured {
        Measured {
            duration: self.began.elapsed(),
            request_bytes: self.received.borrow().as_ref().map_or(0, |received| received.bytes.get()),
            response_bytes: self.sent.get(),
        }
    }
}

/// The measures of one request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) duration: Duration,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

/// Each once.
fn add(all: &RefCell<Vec<ObjectName>>, more: Vec<ObjectName>) {
    let mut all = all.borrow_mut();
    for policy in more {
        if !all.contains(&policy) {
            all.push(policy);
        }
    }
}
