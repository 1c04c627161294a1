//! The certificates of the pods on this node: requested before a pod is enrolled, renewed at half-life, kept while they
//! are valid if renewal fails, dropped with the last pod of their identity. Keys are made here and never written.
//!
//! `book` decides, `clock` is the time and waits for it, `ca` is the thread of the embedded CA, `remote` the task that asks a
//! control plane's, `status` is for people and metrics. What must hold: the tunnel trusts a root before anything is signed with it.

mod book;
mod ca;
mod clock;
mod remote;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc as async_mpsc, watch};
use underpass_core::Identity;
use underpass_identity::{Authority, CertificateDer, Credential, Roots, Serial};
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::admin::Gate;

pub use self::{
    book::NOT_YET_VALID,
    ca::{CaLocation, directory},
    remote::{Certify, Certifying, Refused, Remote, read_roots},
    status::{AuthorityStatus, CertificateStatus, FAMILIES, RootStatus, Status},
};
use self::{
    book::{Book, State},
    ca::{Event, Request, Trust},
    clock::Clock,
};

/// The longest wait where nothing is due.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The longest wait of a World for first certificates, counted from the oldest change in it.
pub const LONGEST_WAIT: Duration = book::FIRST_WAIT;

/// A certificate, as one agent of a node passes it on to the next.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate and its key.
    pub credential: Arc<Credential>,
    /// The root that certifies it, where it is known.
    pub issuer: Option<Serial>,
}

/// The CA that certifies the identities of this node.
#[derive(Debug)]
pub enum Ca {
    /// The embedded one, as it was opened.
    Embedded(CaLocation, Box<Authority>),
    /// A control plane's, and the roots that are trusted before its first answer.
    Remote(Remote, Vec<CertificateDer<'static>>),
}

/// Sends requests to the CA.
type Requests = Box<dyn Fn(Request) + Send>;

/// A failed start of the certificates.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The roots of the CA.
    #[error("roots of the certificate authority")]
    Roots(#[source] underpass_identity::Error),
    /// The roots of a control plane.
    #[error("roots of the certificate authority: {0}")]
    RemoteRoots(String),
    /// The thread.
    #[error("start the thread of the certificates")]
    Thread(#[source] io::Error),
    /// The timer on the wall clock.
    #[error("watch the clock for the certificates")]
    Clock(#[source] io::Error),
}

/// The certificates of this node.
pub struct Certs {
    book: Book,
    clock: Clock,
    lifetime: Duration,
    /// The roots that every worker of the tunnel trusts.
    applied: Arc<Roots>,
    requests: Requests,
    answers: async_mpsc::UnboundedReceiver<Event>,
    published: watch::Sender<Arc<Credentials>>,
    status: watch::Sender<Arc<Status>>,
    ready: Gate,
    /// Identities whose connections are refused.
    out: BTreeSet<Identity>,
    random: RandomState,
}

impl std::fmt::Debug for Certs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certs").field("identities", &self.book.entries.keys()).finish_non_exhaustive()
    }
}

impl Certs {
    /// Starts with this CA, and the certificates of a predecessor; which identities are wanted is told later. `ready` is closed
    /// while an identity of this node has no certificate. To be called on a runtime.
    ///
    /// # Errors
    /// Where the CA has no usable roots, or the thread or the timer cannot be had.
    pub fn start(ca: Ca, inherited: Vec<Issued>, lifetime: Duration, ready: Gate) -> Result<Self, StartError> {
        Self::by(Clock::wall().map_err(StartError::Clock)?, ca, inherited, lifetime, ready)
    }

    fn by(clock: Clock, ca: Ca, inherited: Vec<Issued>, lifetime: Duration, ready: Gate) -> Result<Self, StartError> {
        let now = clock.now();
        let (sender, answers) = async_mpsc::unbounded_channel();
        let (trust, requests): (_, Requests) = match ca {
            // The key of the authority ends here.
            Ca::Embedded(location, authority) => {
                let requests = ca::spawn(location, sender).map_err(StartError::Thread)?;
                // Fails only where the thread ended, and then the process ends.
                (Trust::from(&*authority), Box::new(move |request| drop(requests.send(request))))
            }
            Ca::Remote(remote, roots) => {
                let trust = remote::trust(roots.clone()).map_err(StartError::RemoteRoots)?;
                let requests = remote::spawn(remote, roots, sender);
                (trust, Box::new(move |request| drop(requests.send(request))))
            }
        };
        let mut book = Book::new(trust, now).map_err(StartError::Roots)?;
        let random = RandomState::new();
        book.inherit(inherited, now, |identity| random.hash_one((identity.uri(), now)));
        let (published, _) = watch::channel(Arc::new(credentials(&book)));
        let (status, _) = watch::channel(Arc::new(Status::of(&book, now)));
        let applied = Arc::clone(&book.roots);
        ready.open();
        let out = BTreeSet::new();
        Ok(Self { book, clock, lifetime, applied, requests, answers, published, status, ready, out, random })
    }

    /// The newest credentials, for the tunnel.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.published.subscribe()
    }

    /// The newest status.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// The certificates that serve, for a successor.
    #[must_use]
    pub fn issued(&self) -> Vec<Issued> {
        self.book.issued(self.clock.now())
    }

    /// Sets the lifetime of certificates that are requested from now on.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// From now on exactly these identities have certificates: new ones are requested, others are dropped.
    pub fn want(&mut self, identities: &BTreeSet<Identity>) {
        let now = self.clock.now();
        let changed = self.book.want(identities, now);
        self.request(now);
        if changed {
            self.publish();
        }
        self.report(now);
    }

    /// Drops the certificates of a predecessor whose identities are not wanted: all pods of the node are known.
    pub fn forget_inherited(&mut self) {
        self.book.forget_inherited();
    }

    /// Whether a first certificate is on its way, and worth waiting for.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.book.is_pending(self.clock.now())
    }

    /// Waits until a request is due or was answered, or the clock is set, and takes that step. True: other credentials are
    /// published, and once the tunnel has caught up with them, [`Certs::applied`] is to be called. May be dropped and called
    /// again at any time.
    pub async fn turn(&mut self) -> bool {
        let now = self.clock.now();
        self.request(now);
        let next = self.book.next(now).unwrap_or(now + LOOK_AGAIN).min(now + LOOK_AGAIN);
        let changed = tokio::select! {
            Some(event) = self.answers.recv() => {
                let now = self.clock.now();
                let random = &self.random;
                match event {
                    Event::Answer(answer) => {
                        self.book.take(answer, now, |identity| random.hash_one((identity.uri(), now)))
                    }
                    Event::MayAnswer => {
                        self.book.failing_at_once(now);
                        false
                    }
                }
            }
            () = self.clock.reached(next) => false,
        };
        if changed {
            self.publish();
        }
        self.report(self.clock.now());
        changed
    }

    /// Notes that the tunnel goes by the credentials that were published last.
    pub fn applied(&mut self) {
        self.applied = Arc::clone(&self.book.roots);
    }

    fn request(&mut self, now: SystemTime) {
        let identities = self.book.request(now);
        if !identities.is_empty() {
            (self.requests)(Request { identities, lifetime: self.lifetime, trusted: Arc::clone(&self.applied) });
        }
    }

    fn publish(&self) {
        self.published.send_replace(Arc::new(credentials(&self.book)));
    }

    /// Reports readiness, one line of the log for each identity that lost or regained its certificate, and the status.
    fn report(&mut self, now: SystemTime) {
        let state = |identity: &Identity| self.book.entries.get(identity).map(|entry| entry.state(now));
        let is_out = |identity: &&Identity| state(identity).is_some_and(State::is_out);
        let out: BTreeSet<Identity> = self.book.entries.keys().filter(is_out).cloned().collect();
        for identity in out.difference(&self.out) {
            let state = state(identity).map(State::as_str);
            tracing::error!(%identity, state, "no valid certificate, connections are refused");
        }
        for identity in self.out.difference(&out).filter(|identity| self.book.entries.contains_key(*identity)) {
            tracing::info!(%identity, "certificate valid again");
        }
        match out.first() {
            None => self.ready.open(),
            Some(first) => self.ready.close(format!("no valid certificate for {first} ({} in all)", out.len())),
        }
        self.out = out;
        self.status.send_replace(Arc::new(Status::of(&self.book, now)));
    }
}

fn credentials(book: &Book) -> Credentials {
    let own = book.entries.iter().filter_map(|(identity, entry)| {
        entry.credential.as_ref().map(|credential| (identity.clone(), Arc::clone(credential)))
    });
    Credentials { roots: Arc::clone(&book.roots), own: own.collect() }
}
