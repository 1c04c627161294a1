//! The certificates of the pods on this node: asked for before a pod is enrolled, renewed at half-life, kept while they
//! are valid if renewal fails, dropped with the last pod of their identity. Keys are made here and never written.
//!
//! `book` decides, `clock` is the time and waits for it, `ca` asks the embedded CA on a thread of its own, `status` is what
//! can be told. What must hold: the tunnel
//! trusts a root before anything is signed with it.

mod book;
mod ca;
mod clock;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    io,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc as async_mpsc, watch};
use underpass_core::Identity;
use underpass_identity::{Authority, Roots};
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::admin::Gate;

pub use self::{
    book::NOT_YET_VALID,
    ca::{CaPlace, directory},
    status::{AuthorityStatus, CertificateStatus, FAMILIES, RootStatus, Status},
};
use self::{
    book::{Book, State},
    ca::{Answer, Order, Trust},
    clock::Clock,
};

/// How long to wait where nothing is due: something is looked at again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// How long a World waits for first certificates, counted from the oldest change in it.
pub const LONGEST_WAIT: Duration = book::FIRST_WAIT;

/// Why there are no certificates at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The roots of the CA.
    #[error("roots of the certificate authority")]
    Roots(#[source] underpass_identity::Error),
    /// The thread.
    #[error("start the thread of the certificates")]
    Thread(#[source] io::Error),
    /// The timer on the wall clock.
    #[error("watch the clock for the certificates")]
    Clock(#[source] io::Error),
}

/// Keeps the certificates of this node.
pub struct Certs {
    book: Book,
    clock: Clock,
    lifetime: Duration,
    /// What every worker of the tunnel trusts.
    applied: Arc<Roots>,
    orders: mpsc::Sender<Order>,
    answers: async_mpsc::UnboundedReceiver<Answer>,
    published: watch::Sender<Arc<Credentials>>,
    status: watch::Sender<Arc<Status>>,
    ready: Gate,
    /// Whose connections are refused.
    out: BTreeSet<Identity>,
    random: RandomState,
}

impl std::fmt::Debug for Certs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certs").field("identities", &self.book.entries.keys()).finish_non_exhaustive()
    }
}

impl Certs {
    /// With the CA at `place`, which was found to be `authority`, and no identity yet. `ready` is closed while somebody here
    /// has no certificate. To be called on a runtime.
    ///
    /// # Errors
    /// Where the CA has no usable roots, or the thread or the timer cannot be had.
    pub fn start(place: CaPlace, lifetime: Duration, authority: &Authority, ready: Gate) -> Result<Self, StartError> {
        Self::by(Clock::wall().map_err(StartError::Clock)?, place, lifetime, authority, ready)
    }

    fn by(
        clock: Clock,
        place: CaPlace,
        lifetime: Duration,
        authority: &Authority,
        ready: Gate,
    ) -> Result<Self, StartError> {
        let now = clock.now();
        let book = Book::new(Trust::from(authority), now).map_err(StartError::Roots)?;
        let (sender, answers) = async_mpsc::unbounded_channel();
        let orders = ca::spawn(place, sender).map_err(StartError::Thread)?;
        let (published, _) = watch::channel(Arc::new(credentials(&book)));
        let (status, _) = watch::channel(Arc::new(Status::of(&book, now)));
        let applied = Arc::clone(&book.roots);
        ready.open();
        let (out, random) = (BTreeSet::new(), RandomState::new());
        Ok(Self { book, clock, lifetime, applied, orders, answers, published, status, ready, out, random })
    }

    /// What the tunnel uses, newest.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.published.subscribe()
    }

    /// What can be told, newest.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Certificates that are asked for from now on are valid for so long.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// From now on exactly these identities have certificates: new ones are asked for, others are dropped.
    pub fn want(&mut self, identities: &BTreeSet<Identity>) {
        let now = self.clock.now();
        let left = self.book.want(identities, now);
        self.ask(now);
        if left {
            self.publish();
        }
        self.tell(now);
    }

    /// A first certificate is on its way, and worth waiting for.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.book.is_pending(self.clock.now())
    }

    /// Waits until something is due or was answered, or the clock is set, and does what there is to do. True: something else is published, and when the tunnel has
    /// caught up with it, [`Certs::applied`] is to be told so. May be dropped and called again at any time.
    pub async fn turn(&mut self) -> bool {
        let now = self.clock.now();
        self.ask(now);
        let next = self.book.next(now).unwrap_or(now + LOOK_AGAIN).min(now + LOOK_AGAIN);
        let changed = tokio::select! {
            Some(answer) = self.answers.recv() => {
                let now = self.clock.now();
                let random = &self.random;
                self.book.take(answer, now, |identity| random.hash_one((identity.uri(), now)))
            }
            () = self.clock.reached(next) => false,
        };
        if changed {
            self.publish();
        }
        self.tell(self.clock.now());
        changed
    }

    /// The tunnel goes by what was published last.
    pub fn applied(&mut self) {
        self.applied = Arc::clone(&self.book.roots);
    }

    fn ask(&mut self, now: SystemTime) {
        let identities = self.book.ask(now);
        if !identities.is_empty() {
            // Fails only where the thread ended, and then the process ends.
            let _ = self.orders.send(Order { identities, lifetime: self.lifetime, trusted: Arc::clone(&self.applied) });
        }
    }

    fn publish(&self) {
        self.published.send_replace(Arc::new(credentials(&self.book)));
    }

    /// Readiness, one line of the log for each identity that cannot serve any more or can again, and the status.
    fn tell(&mut self, now: SystemTime) {
        let state = |identity: &Identity| self.book.entries.get(identity).map(|entry| entry.state(now));
        let is_out = |identity: &&Identity| state(identity).is_some_and(State::is_out);
        let out: BTreeSet<Identity> = self.book.entries.keys().filter(is_out).cloned().collect();
        for identity in out.difference(&self.out) {
            let state = state(identity).map(State::as_str);
            tracing::error!(%identity, state, "no valid certificate: connections are refused");
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
