//! The client's end of delta streams, one after the other: responses in, changes and answers out. No IO and no clock:
//! the time is an argument.
//!
//! ```text
//!   open() --requests, with what is held--> receive(response) ... --> take() --changes--> the caller applies them
//!                                               ^                                               |
//!                                               '------------ answers <-- applied(rejected) <---'
//! ```
//! Responses that arrived together are one batch: policies that are new or changed, then addresses, then policies that
//! are gone. The last state of a name counts.
//!
//! What must hold:
//! * What is named to the next server as held is what was applied, so that it sends exactly the rest.
//! * A server whose state is older than what was applied takes nothing away and changes nothing. It is older where it does
//!   not know a kind of objects up to the last change that was applied (`underpass_versions`). A kind that it does not
//!   name, as istiod names none, makes no rule. It is told what was applied, and lists the kind anew if it must.
//!
//! ```text
//!   level --response older than what was applied--> behind: new addresses are applied, all else is left out, and no state
//!                                                   | counts as known to its end
//!     ^                                               | a response that is not older, also one that says nothing else
//!     '-- the next stream, with what is held ---------'
//! ```

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost_types::Any;
use underpass_core::Kind;
use underpass_door::Reached;

use super::{
    Node,
    receipt::{Receipt, Rejected},
};
use crate::{
    contract::envoy::service::discovery::v3::{self as contract, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::{Change, ResourceKind},
    versions::Applied,
    wire::PerKind,
};

/// A server that is behind for longer is reported.
pub const BEHIND: Duration = Duration::from_secs(30);

/// Changes that belong together, in the order in which they are to be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub changes: Vec<Change>,
    /// The changes of the server's source that they lead to; empty: it names none, or is behind.
    pub applied: Applied,
    /// With them the state of every kind was received to its end at least once.
    pub complete: bool,
}

/// What follows from a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A batch can be taken.
    Take,
    /// The server has caught up, and does not know what was left out: the stream is to be ended and the next one opened.
    Reopen,
}

/// A server that is older than what was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Since when.
    pub since: Instant,
    /// A kind of objects that it does not know up to what was applied.
    pub kind: Arc<str>,
    /// The version of that kind that was applied.
    pub applied: u64,
    /// The version up to which the server knows it.
    pub offered: u64,
}

/// All streams to the control plane.
#[derive(Debug)]
pub struct Session {
    node: Node,
    /// Name and version of what was applied.
    held: PerKind<BTreeMap<Arc<str>, Arc<str>>>,
    /// The state of the kind was received to its end.
    answered: PerKind<bool>,
    applied: Applied,
    /// How far the server of this stream is, by kind.
    offered: BTreeMap<Arc<str>, Reached>,
    behind: Option<Behind>,
    reported: bool,
    /// On this stream changes were left out.
    left_out: bool,
    /// On this stream a state that is not known to its end was received from a server that was behind.
    has_unanswered: bool,
    staged: PerKind<BTreeMap<Arc<str>, Staged>>,
    staged_applied: Applied,
    taken: Vec<(ResourceKind, Arc<str>, Option<Arc<str>>)>,
    receipts: Vec<Receipt>,
}

/// The last state of a name that arrived: version and body.
type Staged = Option<(Arc<str>, Bytes)>;

/// A resource that arrived: name, version and body.
type Arrived = (Arc<str>, (Arc<str>, Bytes));

impl Session {
    /// A client that holds nothing.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self {
            node,
            held: PerKind::default(),
            answered: PerKind::default(),
            applied: Applied::default(),
            offered: BTreeMap::new(),
            behind: None,
            reported: false,
            left_out: false,
            has_unanswered: false,
            staged: PerKind::default(),
            staged_applied: Applied::default(),
            taken: Vec::new(),
            receipts: Vec::new(),
        }
    }

    /// A client that holds what an earlier one had applied: these resources (kind, name, version), of these changes of
    /// the server's source. Complete is its state once a server has answered for every kind.
    #[must_use]
    pub fn holding(
        node: Node,
        held: impl IntoIterator<Item = (ResourceKind, Arc<str>, Arc<str>)>,
        applied: Applied,
    ) -> Self {
        let mut session = Self { applied, ..Self::new(node) };
        for (kind, name, version) in held {
            session.held.of_mut(kind).insert(name, version);
        }
        session
    }

    /// A new stream: its first requests. What arrived by an earlier one and was not applied is forgotten.
    pub fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.staged = PerKind::default();
        self.staged_applied = Applied::default();
        self.offered.clear();
        self.taken.clear();
        self.receipts.clear();
        (self.left_out, self.has_unanswered) = (false, false);
        let request = |kind| DeltaDiscoveryRequest {
            node: Some(self.node.message()),
            type_url: ResourceKind::type_url(kind).into(),
            initial_resource_versions: self
                .held
                .of(kind)
                .iter()
                .map(|(name, version)| (name.as_ref().into(), version.as_ref().into()))
                .collect(),
            underpass_applied: self.applied.iter().map(|(kind, version)| (kind.as_ref().into(), version)).collect(),
            ..Default::default()
        };
        ResourceKind::ALL.into_iter().map(request).collect()
    }

    /// Takes a response.
    pub fn receive(&mut self, mut response: DeltaDiscoveryResponse, now: Instant) -> Next {
        for kind in Kind::ALL.map(Kind::as_str) {
            if let Some(contract::Reached { known, changed }) = response.underpass_versions.remove(kind) {
                self.offered.insert(kind.into(), Reached { known, changed });
            }
        }
        let Some(kind) = ResourceKind::of(&response.type_url) else {
            self.receipts.push(Receipt::not_subscribed(response.type_url, response.nonce));
            return Next::Take;
        };
        if let Some((kind_of_object, applied, offered)) = self.lacking() {
            let since = self.behind.as_ref().map_or(now, |behind| behind.since);
            self.behind = Some(Behind { since, kind: kind_of_object, applied, offered });
            self.receive_behind(kind, response);
            return Next::Take;
        }
        (self.behind, self.reported) = (None, false);
        if self.left_out || self.has_unanswered {
            return Next::Reopen;
        }
        self.offered.iter().for_each(|(kind, reached)| self.staged_applied.add(kind, reached.changed));
        let mut receipt = Receipt::new(kind, response.nonce);
        receipt.ends_state = !response.underpass_partial;
        let staged = self.staged.of_mut(kind);
        // A name that is both gone and there was made anew.
        staged.extend(response.removed_resources.into_iter().map(|name| (Arc::from(name), None)));
        for resource in response.resources {
            match staged_of(kind, resource) {
                Ok((name, resource)) => {
                    staged.insert(name, Some(resource));
                }
                Err(rejected) => receipt.reject(&rejected),
            }
        }
        self.receipts.push(receipt);
        Next::Take
    }

    /// What arrived, for the caller to apply. Then [`Self::applied`].
    pub fn take(&mut self) -> Batch {
        let ended = |kind| self.receipts.iter().any(|receipt| receipt.kind == Some(kind) && receipt.ends_state);
        let complete = ResourceKind::ALL.into_iter().all(|kind| *self.answered.of(kind) || ended(kind));
        let (changed, gone): (Vec<_>, Vec<_>) = std::mem::take(self.staged.of_mut(ResourceKind::Authorization))
            .into_iter()
            .partition(|(_, resource)| resource.is_some());
        let addresses = std::mem::take(self.staged.of_mut(ResourceKind::Address));
        let kinds = [
            (ResourceKind::Authorization, changed),
            (ResourceKind::Address, addresses.into_iter().collect()),
            (ResourceKind::Authorization, gone),
        ];
        let mut changes = Vec::new();
        for (kind, (name, resource)) in
            kinds.into_iter().flat_map(|(kind, all)| all.into_iter().map(move |one| (kind, one)))
        {
            let (version, body) = resource.unzip();
            self.taken.push((kind, name.clone(), version.clone()));
            changes.push(Change { kind, name, version: version.unwrap_or_default(), body });
        }
        Batch { changes, applied: self.staged_applied.clone(), complete }
    }

    /// The batch that was taken is applied, without what was rejected: for that the last good version stays. The
    /// answers to its responses.
    pub fn applied(&mut self, rejected: &[Rejected]) -> Vec<DeltaDiscoveryRequest> {
        for (kind, name, version) in self.taken.drain(..) {
            // A resource that was rejected is held in its former version, so that another server sends it again.
            if rejected.iter().any(|rejected| rejected.kind == kind && rejected.name == name) {
                continue;
            }
            match version {
                Some(version) => self.held.of_mut(kind).insert(name, version),
                None => self.held.of_mut(kind).remove(&name),
            };
        }
        self.applied.join(&std::mem::take(&mut self.staged_applied));
        for one in rejected {
            if let Some(receipt) = self.receipts.iter_mut().rfind(|receipt| receipt.kind == Some(one.kind)) {
                receipt.reject(one);
            }
        }
        let answer = |receipt: Receipt| {
            if let Some(kind) = receipt.kind.filter(|_| receipt.ends_state) {
                *self.answered.of_mut(kind) = true;
            }
            receipt.answer()
        };
        self.receipts.drain(..).filter_map(answer).collect()
    }

    /// The state of every kind was received to its end, and applied.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        ResourceKind::ALL.into_iter().all(|kind| *self.answered.of(kind))
    }

    /// The number of resources that are held.
    #[must_use]
    pub fn held(&self, kind: ResourceKind) -> usize {
        self.held.of(kind).len()
    }

    /// The changes of the server's source that were applied.
    #[must_use]
    pub const fn applied_changes(&self) -> &Applied {
        &self.applied
    }

    /// The server is older than what was applied, and something of it was left out. One that differs in its version alone is behind in
    /// nothing.
    #[must_use]
    pub fn behind(&self) -> Option<&Behind> {
        self.behind.as_ref().filter(|_| self.left_out)
    }

    /// When [`Self::report`] may have something to say without any event.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.behind().filter(|_| !self.reported)?.since.checked_add(BEHIND)
    }

    /// The server has been behind for [`BEHIND`]. Said once until it has caught up.
    pub fn report(&mut self, now: Instant) -> Option<Behind> {
        let late = self.deadline().is_some_and(|deadline| now >= deadline);
        self.reported |= late;
        self.behind.clone().filter(|_| late)
    }

    /// A kind of objects that the server does not know up to what was applied: its name, both versions.
    fn lacking(&self) -> Option<(Arc<str>, u64, u64)> {
        self.applied.iter().find_map(|(kind, applied)| {
            let offered = self.offered.get(kind)?.known;
            (offered < applied).then(|| (Arc::clone(kind), applied, offered))
        })
    }

    /// Takes a response of a server that is behind: it only adds addresses.
    fn receive_behind(&mut self, kind: ResourceKind, response: DeltaDiscoveryResponse) {
        let mut receipt = Receipt::new(kind, response.nonce);
        self.has_unanswered |= !*self.answered.of(kind);
        self.left_out |= !response.removed_resources.is_empty();
        let (held, staged) = (self.held.of(kind), self.staged.of_mut(kind));
        for resource in response.resources {
            match staged_of(kind, resource) {
                Ok((name, resource)) if kind == ResourceKind::Address && !held.contains_key(&name) => {
                    staged.entry(name).or_insert(Some(resource));
                }
                Ok(_) => self.left_out = true,
                Err(rejected) => receipt.reject(&rejected),
            }
        }
        self.receipts.push(receipt);
    }
}

/// The name, version and body of a resource's message.
fn staged_of(kind: ResourceKind, resource: contract::Resource) -> Result<Arrived, Rejected> {
    let name: Arc<str> = Arc::from(resource.name);
    let rejected = |reason: String| Rejected { kind, name: name.clone(), reason };
    let Some(Any { type_url, value }) = resource.resource else {
        return Err(rejected("resource: missing".into()));
    };
    if type_url != kind.type_url() {
        return Err(rejected(format!("resource.type_url: {type_url:?} among resources of {:?}", kind.type_url())));
    }
    if name.is_empty() {
        return Err(rejected("name: empty".into()));
    }
    Ok((name.clone(), (Arc::from(resource.version), Bytes::from(value))))
}
