//! Judging again of what is open at one worker when the World changes: requests that are under way, WebSockets, and connections
//! that are no HTTP. What a change may concern passes both gates once more, as it passed them; what is denied now ends.
//!
//! ```text
//! configuration --> GateChanges --> a walk over all that is open --slices of a worker's turn--> gates --> denied: its task ends it
//! ```
//! A walk looks at everything that is open, which costs little: most changes concern no gate and begin none. What changes
//! meanwhile is added up for the next walk, so that each comes to its end.
//!
//! What must hold: once no walk is left, everything that is open is allowed by the worker's World, or about to end. A
//! caller that waits for the worker to catch up is answered only then. And nothing goes on to an endpoint for the first time
//! that the World of that turn denies, though a walk has not come to it; nor a copy of what was denied before it went on.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    iter,
    ops::Bound::{Excluded, Unbounded},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use http::{HeaderMap, Method};
use tokio::sync::oneshot;
use underpass_core::{
    World,
    authz::Verdict,
    http::{RequestHead, Source},
    jwt::Token,
    rejudge::{GateChanges, Reached},
    world::Delta,
};

use crate::{
    Own,
    called::{Called, Client},
    cluster::Endpoint,
    configuration::Configuration,
    http::{Recorded, Streamed, pairs},
    policy::{Gates, Vouched},
    worker::Worker,
};

/// The longest time of one turn of a worker that is spent on judging again.
const SLICE: Duration = Duration::from_millis(1);
/// What is looked at between two looks at the clock.
const AT_ONCE: usize = 64;

/// The head of a request, kept as a gate has read it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) authority: Rc<str>,
    /// With its query.
    pub(crate) path: Rc<str>,
    pub(crate) headers: HeaderMap,
    /// The called port.
    pub(crate) port: u16,
    /// What was verified for it, which holds for as long as it is open.
    pub(crate) token: Option<Rc<Token>>,
    /// The external authorizers that have allowed it, which holds for as long as it is open.
    pub(crate) allowed_by: Vec<Arc<str>>,
}

impl Head {
    /// What others say of it.
    pub(crate) fn vouched(&self) -> Vouched<'_> {
        Vouched { token: self.token.as_deref(), allowed_by: &self.allowed_by }
    }

    /// Lends it to what decides.
    pub(crate) fn lend<R>(&self, to: impl FnOnce(RequestHead<'_>) -> R) -> R {
        to(self.with(&pairs(&self.headers)))
    }

    /// It, with these of its headers.
    pub(crate) fn with<'h>(&'h self, headers: &'h [(&'h str, &'h [u8])]) -> RequestHead<'h> {
        RequestHead {
            method: self.method.as_str(),
            scheme: "http",
            authority: &self.authority,
            path: &self.path,
            headers,
            port: self.port,
            source: Source::default(), // of routes
        }
    }
}

/// The endpoint of something that is open, and what gate 2 has read; none: it is no HTTP.
type Passed = (Rc<Endpoint>, Option<Rc<Head>>);

/// Something that is open, and what its verdicts rest on.
pub(crate) struct Open {
    pub(crate) called: Called,
    pub(crate) client: Client,
    /// What gate 1 has read; none: it is no HTTP.
    pub(crate) head: Option<Rc<Head>>,
    /// The endpoint of its last try.
    pub(crate) reached: RefCell<Option<Passed>>,
    /// What its client sends, which goes no further once it is denied.
    body: RefCell<Option<Rc<Recorded>>>,
    /// Its response, which ends at once where it is denied, also where its client takes nothing.
    response: RefCell<Weak<RefCell<Streamed>>>,
    denied: Cell<bool>,
    /// Its first byte is on the way to an endpoint.
    went_on: Cell<bool>,
    /// The request that it is a copy of.
    original: Option<Rc<Open>>,
    waker: RefCell<Option<Waker>>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("called", &self.called).field("client", &self.client).finish_non_exhaustive()
    }
}

impl Open {
    fn is_concerned(&self, own: &Own, world: &World, changes: &GateChanges) -> bool {
        let gates = Gates { own, world, called: &self.called, client: &self.client };
        let of_endpoint = |endpoint: &Endpoint| {
            reached(own, endpoint).is_some_and(|reached| changes.concern_endpoint(world, &reached))
        };
        changes.concern_targets(&gates.targets())
            || self.reached.borrow().as_ref().is_some_and(|(endpoint, _)| of_endpoint(endpoint))
    }

    /// Judges it, and has it ended where it is denied.
    fn judge(&self, own: &Own, world: &World) {
        let gates = Gates { own, world, called: &self.called, client: &self.client };
        let Verdict::Deny { policy, reason } = gates.again(self) else { return };
        if self.denied.replace(true) {
            return;
        }
        let policy = policy.map(|policy| policy.to_string()).unwrap_or_default();
        let Called { service, port, .. } = &self.called;
        tracing::info!(from = %self.client.address, %service, port, policy, %reason, "denied since a change");
        if let Some(body) = self.body.take() {
            body.give_up();
        }
        if let Some(response) = self.response.take().upgrade() {
            response.borrow_mut().deny();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// An endpoint, as [`underpass_core::rejudge`] asks for it; none: nothing can have called it.
pub(crate) fn reached<'e>(own: &Own, endpoint: &'e Endpoint) -> Option<Reached<'e>> {
    let Endpoint { target, workload, identity } = endpoint;
    let from = own.address(target.is_ipv4())?;
    Some(Reached { from, workload, target: *target, identity: identity.as_ref() })
}

/// What is open, until this is dropped. One task at a time asks whether it is denied.
#[derive(Debug)]
pub(crate) struct Opened {
    worker: Rc<Worker>,
    id: u64,
    open: Rc<Open>,
    /// The number of the configuration by which its gates were asked last.
    by: Cell<u64>,
}

impl Opened {
    /// Gate 1 has let it pass by this configuration's World.
    pub(crate) fn begin(worker: &Rc<Worker>, open: (Called, Client, Option<Rc<Head>>), by: &Configuration) -> Self {
        let this = Self::enter(worker, open, None, by.number());
        this.passes(); // no walk has seen it
        this
    }

    /// For what goes to another endpoint as well.
    pub(crate) fn copy(&self) -> Self {
        let Open { called, client, head, .. } = &*self.open;
        let open = (called.clone(), client.clone(), head.clone());
        Self::enter(&self.worker, open, Some(Rc::clone(&self.open)), self.by.get())
    }

    fn enter(
        worker: &Rc<Worker>,
        (called, client, head): (Called, Client, Option<Rc<Head>>),
        original: Option<Rc<Open>>,
        by: u64,
    ) -> Self {
        let open = Rc::new(Open {
            called,
            client,
            head,
            reached: RefCell::default(),
            body: RefCell::default(),
            response: RefCell::default(),
            denied: Cell::new(false),
            went_on: Cell::new(false),
            original,
            waker: RefCell::default(),
        });
        let id = worker.judging.enter(Rc::clone(&open));
        Self { worker: Rc::clone(worker), id, open, by: Cell::new(by) }
    }

    /// The gates let it pass by the World of this turn; where it is a copy, they let the original pass as well, or that has gone
    /// on already.
    pub(crate) fn passes(&self) -> bool {
        let newest = self.worker.configuration();
        let has_changed = self.by.replace(newest.number()) != newest.number();
        let original = self.open.original.iter().filter(|original| !original.went_on.get());
        iter::once(&self.open).chain(original).all(|open| {
            if has_changed {
                open.judge(&self.worker.own, &newest.world);
            }
            !open.denied.get()
        })
    }

    /// Its first byte is about to be sent, where this is so.
    pub(crate) fn goes_on(&self) -> bool {
        let passes = self.passes();
        self.open.went_on.set(passes || self.open.went_on.get());
        passes
    }

    /// Something else than a change denies it, its endpoint's node or a token that is not good there.
    pub(crate) fn refuse(&self) {
        self.open.denied.set(true);
    }

    /// Gate 2 lets it pass to this endpoint by the World of this turn.
    pub(crate) fn reaches(&self, endpoint: &Rc<Endpoint>, head: Option<Rc<Head>>) {
        self.open.reached.replace(Some((Rc::clone(endpoint), head)));
    }

    /// Its client sends this.
    pub(crate) fn sends(&self, body: &Rc<Recorded>) {
        self.open.body.replace(Some(Rc::clone(body)));
    }

    /// This is the response to it.
    pub(crate) fn answers(&self, response: &Rc<RefCell<Streamed>>) {
        self.open.response.replace(Rc::downgrade(response));
    }

    /// Ready when it is denied.
    pub(crate) fn poll_denied(&self, cx: &Context<'_>) -> Poll<()> {
        if self.open.denied.get() {
            return Poll::Ready(());
        }
        let mut waker = self.open.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Completes when it is denied.
    pub(crate) async fn denied(&self) {
        poll_fn(|cx| self.poll_denied(cx)).await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.open.body.take(); // copies may outlive it, and learn by its end that no more of it comes
        self.worker.judging.open.borrow_mut().remove(&self.id);
    }
}

/// What is open at one worker, and the walks over it.
#[derive(Debug, Default)]
pub(crate) struct Judging {
    /// In the order in which it was opened.
    open: RefCell<BTreeMap<u64, Rc<Open>>>,
    last: Cell<u64>,
    walks: RefCell<Walks>,
}

/// The changes that are still to be gone through.
#[derive(Debug, Default)]
struct Walks {
    /// The one under way, and what it has looked at last.
    current: Option<(GateChanges, u64)>,
    /// What has changed since it began.
    next: Option<GateChanges>,
    /// Walks that have come to their end.
    done: u64,
    /// Each is answered when so many have.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
}

impl Walks {
    fn add(&mut self, changes: GateChanges) {
        match (&self.current, &mut self.next) {
            (None, _) => self.current = Some((changes, 0)),
            (Some(_), Some(next)) => next.extend(changes),
            (Some(_), next) => *next = Some(changes),
        }
    }

    fn wait(&mut self, done: oneshot::Sender<()>) {
        let left = u64::from(self.current.is_some()) + u64::from(self.next.is_some());
        self.waiting.push((self.done + left, done));
    }

    /// The one under way has come to its end.
    fn end(&mut self) {
        self.current = self.next.take().map(|changes| (changes, 0));
        self.done += 1;
    }

    fn answer(&mut self) {
        let done = self.done;
        for (_, waits) in self.waiting.extract_if(.., |(at, _)| *at <= done) {
            let _ = waits.send(()); // the caller may have stopped waiting
        }
    }
}

impl Judging {
    fn enter(&self, open: Rc<Open>) -> u64 {
        let id = self.last.get().wrapping_add(1);
        self.last.set(id);
        self.open.borrow_mut().insert(id, open);
        id
    }

    /// The worker has exchanged its World, by this difference.
    pub(crate) fn changed(&self, delta: &Delta<'_>, new: &World) {
        if self.open.borrow().is_empty() {
            return; // what opens later is judged by the new one
        }
        let changes = GateChanges::of(delta, new);
        if !changes.is_empty() {
            self.walks.borrow_mut().add(changes);
        }
    }

    /// Something is still to be looked at: [`Self::slice`] is to be called again.
    pub(crate) fn is_pending(&self) -> bool {
        self.walks.borrow().current.is_some()
    }

    /// Answers once nothing is open that the World of this turn denies.
    pub(crate) fn caught_up(&self, done: oneshot::Sender<()>) {
        self.walks.borrow_mut().wait(done);
    }

    /// Judges for as long as one turn of the worker may take, or until nothing is pending.
    pub(crate) fn slice(&self, own: &Own, world: &World) {
        let began = Instant::now();
        while self.is_pending() {
            for open in self.next(own, world) {
                open.judge(own, world);
            }
            if began.elapsed() >= SLICE {
                break;
            }
        }
        self.walks.borrow_mut().answer();
    }

    /// Goes on with the walk: what of the next few is concerned.
    fn next(&self, own: &Own, world: &World) -> Vec<Rc<Open>> {
        let walks = &mut *self.walks.borrow_mut();
        let Some((changes, last)) = &mut walks.current else { return Vec::new() };
        let all = self.open.borrow();
        let some: Vec<_> = all.range((Excluded(*last), Unbounded)).take(AT_ONCE).collect();
        let concerned = some.iter().filter(|(_, open)| open.is_concerned(own, world, changes));
        let concerned = concerned.map(|(_, open)| Rc::clone(open)).collect();
        match some.last() {
            Some((id, _)) if some.len() == AT_ONCE => *last = **id,
            _ => walks.end(),
        }
        concerned
    }
}
