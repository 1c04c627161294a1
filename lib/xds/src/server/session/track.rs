//! The resources of one kind on one stream: what is subscribed to, what is still to be sent, what waits for an answer.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Instant,
};

use super::{Limits, Malformed, Notice};
use crate::{
    contract::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::{Resource, ResourceKind},
    server::{Catalog, catalog::Change},
    wire::{self, WILDCARD},
};

/// One kind on one stream.
#[derive(Debug)]
pub(super) struct Track {
    kind: ResourceKind,
    /// Subscribed to all.
    wildcard: bool,
    /// Subscribed names and aliases.
    names: BTreeSet<Arc<str>>,
    /// Without `wildcard`: the resources that the client has because of `names`. They are followed by their own names.
    held: BTreeSet<Arc<str>>,
    /// All resources are to be sent; those up to this name were.
    all: Option<Option<Arc<str>>>,
    /// Names whose state is to be sent: the resource, or that there is none. Each once, however often it is asked for.
    queue: BTreeSet<Arc<str>>,
    /// Names that were asked for and lead to no resource.
    missing: BTreeSet<Arc<str>>,
    /// Policies that are gone: sent when all addresses were.
    removals: VecDeque<Arc<str>>,
    /// The response that was sent and not answered yet.
    flight: Option<Flight>,
    /// The first response is due even if it is empty: clients are not ready without it.
    first: bool,
    /// A client that takes the first response for the whole state gets the whole state.
    whole: bool,
    takes_parts: bool,
}

#[derive(Debug)]
struct Flight {
    nonce: String,
    since: Instant,
}

impl Track {
    /// The first request of this kind.
    pub(super) fn new(
        kind: ResourceKind,
        request: DeltaDiscoveryRequest,
        takes_parts: bool,
        current: &Catalog,
        limits: &Limits,
    ) -> Result<Self, Malformed> {
        // Without a name all are meant. `*` named both ways is how Istio's clients subscribe to nothing yet.
        let wildcard = request.resource_names_subscribe.is_empty();
        let mut track = Self {
            kind,
            wildcard,
            names: BTreeSet::new(),
            held: BTreeSet::new(),
            all: wildcard.then_some(None),
            queue: BTreeSet::new(),
            missing: BTreeSet::new(),
            removals: VecDeque::new(),
            flight: None,
            first: true,
            whole: false,
            takes_parts,
        };
        track.change(&request, current, limits)?;
        if request.initial_resource_versions.is_empty() {
            track.whole = track.wildcard && !takes_parts;
        } else {
            track.all = None;
            track.resume(request.initial_resource_versions, current, limits)?;
        }
        Ok(track)
    }

    pub(super) const fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// All of the catalog was sent.
    pub(super) fn is_done(&self) -> bool {
        !self.first && self.has_sent_changes() && self.removals.is_empty()
    }

    /// All of the catalog was sent, except what waits for the other kind.
    pub(super) fn has_sent_changes(&self) -> bool {
        !self.first && self.all.is_none() && self.queue.is_empty() && self.missing.is_empty()
    }

    /// Since when a response has waited for its answer.
    pub(super) fn waits(&self) -> Option<Instant> {
        self.flight.as_ref().map(|flight| flight.since)
    }

    /// Takes the answer that a request is. Answers to other responses than the last one say nothing.
    pub(super) fn answered(&mut self, request: &DeltaDiscoveryRequest) -> Option<Notice> {
        let answered = self.flight.take_if(|flight| flight.nonce == request.response_nonce)?;
        let error = request.error_detail.as_ref()?;
        Some(Notice::Refused { kind: self.kind, nonce: answered.nonce, message: error.message.clone() })
    }

    /// Takes the change of subscriptions that a request is.
    pub(super) fn change(
        &mut self,
        request: &DeltaDiscoveryRequest,
        current: &Catalog,
        limits: &Limits,
    ) -> Result<(), Malformed> {
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                self.all = Some(None);
                self.held.clear();
            } else {
                self.subscribe(&Arc::from(name.as_str()), current, limits)?;
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
                self.all = None;
                let held = self.names.iter().flat_map(|name| current.resolve(self.kind, name));
                self.held = held.map(|resource| resource.name.clone()).collect();
            } else {
                self.unsubscribe(&Arc::from(name.as_str()), current);
            }
        }
        Ok(())
    }

    /// What changed with the next catalog is to be sent.
    pub(super) fn advance(&mut self, changes: impl Iterator<Item = Change>) {
        for Change { name, resource } in changes {
            let wanted = self.wildcard
                || self.held.contains(&name)
                || resource.as_ref().is_some_and(|resource| self.is_subscribed(resource));
            if !wanted {
                continue;
            }
            if resource.is_none() && self.kind == ResourceKind::Authorization {
                self.removals.push_back(name);
            } else {
                self.queue.insert(name);
            }
        }
    }

    /// The next response, if one is due and none is on its way. `removes`: policies may be removed.
    pub(super) fn respond(
        &mut self,
        current: &Catalog,
        removes: bool,
        nonce: u64,
        now: Instant,
        limits: &Limits,
    ) -> Option<DeltaDiscoveryResponse> {
        let due = self.first || !self.has_sent_changes() || (removes && !self.removals.is_empty());
        if self.flight.is_some() || !due {
            return None;
        }
        let mut part = Part::new(self.kind, if self.whole { None } else { Some(limits) });
        self.fill(&mut part, current);
        // There is room only where all else has been taken.
        while removes && part.has_room() {
            let Some(name) = self.removals.pop_front() else { break };
            self.held.remove(&name);
            part.remove(&name);
        }
        (self.first, self.whole) = (false, false);
        self.flight = Some(Flight { nonce: nonce.to_string(), since: now });
        part.response.underpass_partial = self.takes_parts && !self.is_done();
        Some(part.response)
    }

    /// A response without a resource. None is on its way, and none is due.
    pub(super) fn respond_empty(&mut self, nonce: u64, now: Instant) -> DeltaDiscoveryResponse {
        self.flight = Some(Flight { nonce: nonce.to_string(), since: now });
        Part::new(self.kind, None).response
    }

    /// Moves what is to be sent into a response, as far as there is room.
    fn fill(&mut self, part: &mut Part, current: &Catalog) {
        while part.has_room() {
            let Some(name) = self.queue.pop_first() else { break };
            match current.get(self.kind, &name) {
                Some(resource) => {
                    if !self.wildcard {
                        self.held.insert(name);
                    }
                    part.add(resource);
                }
                None => {
                    self.held.remove(&name);
                    part.remove(&name);
                }
            }
        }
        while part.has_room() {
            let Some(name) = self.missing.pop_first() else { break };
            part.remove(&name);
        }
        let Some(after) = self.all.take() else { return };
        let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut sent = after.clone();
        for (name, resource) in current.resources().of(self.kind).range::<_, str>((start, Bound::Unbounded)) {
            if !part.has_room() {
                self.all = Some(sent);
                return;
            }
            part.add(resource);
            sent = Some(name.clone());
        }
    }

    /// Goes on where an earlier stream ended: only differences to what the client holds are sent.
    fn resume(
        &mut self,
        mut versions: HashMap<String, String>,
        current: &Catalog,
        limits: &Limits,
    ) -> Result<(), Malformed> {
        if !self.wildcard {
            // Istio's clients name what they are subscribed to by what they hold.
            for (name, version) in versions {
                let name = Arc::from(name);
                match current.get(self.kind, &name).filter(|resource| resource.version.is(&version)) {
                    Some(_) => {
                        self.held.insert(Arc::clone(&name));
                        self.name(name, limits)?;
                    }
                    None => self.subscribe(&name, current, limits)?,
                }
            }
            return Ok(());
        }
        for (name, resource) in current.resources().of(self.kind) {
            if versions.remove(&**name).is_none_or(|version| !resource.version.is(&version)) {
                self.queue.insert(name.clone());
            }
        }
        let gone = versions.into_keys().map(Arc::from);
        match self.kind {
            ResourceKind::Authorization => self.removals.extend(gone),
            ResourceKind::Address => self.queue.extend(gone),
        }
        Ok(())
    }

    fn subscribe(&mut self, name: &Arc<str>, current: &Catalog, limits: &Limits) -> Result<(), Malformed> {
        self.name(name.clone(), limits)?;
        let mut found = current.resolve(self.kind, name).map(|resource| resource.name.clone()).peekable();
        if found.peek().is_none() {
            self.missing.insert(name.clone());
        }
        self.queue.extend(found);
        Ok(())
    }

    fn name(&mut self, name: Arc<str>, limits: &Limits) -> Result<(), Malformed> {
        self.names.insert(name);
        if self.names.len() > limits.names_per_stream {
            let type_url = self.kind.type_url();
            return Err(Malformed::TooManySubscriptions { type_url, limit: limits.names_per_stream });
        }
        Ok(())
    }

    /// The client forgets what it is no longer subscribed to; nothing is sent.
    fn unsubscribe(&mut self, name: &Arc<str>, current: &Catalog) {
        self.names.remove(name);
        self.missing.remove(name);
        for resource in current.resolve(self.kind, name) {
            if !self.is_subscribed(resource) {
                self.held.remove(&resource.name);
            }
        }
    }

    fn is_subscribed(&self, resource: &Resource) -> bool {
        self.names.contains(&resource.name) || resource.aliases.iter().any(|alias| self.names.contains(alias))
    }
}

/// A response that is being filled.
struct Part {
    kind: ResourceKind,
    response: DeltaDiscoveryResponse,
    resources: usize,
    bytes: usize,
    /// Resources and bytes beyond which nothing is added.
    limit: (usize, usize),
}

impl Part {
    fn new(kind: ResourceKind, limits: Option<&Limits>) -> Self {
        let limit = limits.map(|limits| (limits.response_resources, limits.response_bytes));
        let response = DeltaDiscoveryResponse { type_url: kind.type_url().into(), ..Default::default() };
        Self { kind, response, resources: 0, bytes: 0, limit: limit.unwrap_or((usize::MAX, usize::MAX)) }
    }

    const fn has_room(&self) -> bool {
        self.resources < self.limit.0 && self.bytes < self.limit.1
    }

    fn add(&mut self, resource: &Resource) {
        self.count(wire::size(self.kind, resource));
        self.response.resources.push(wire::message(self.kind, resource));
    }

    fn remove(&mut self, name: &str) {
        self.count(name.len().saturating_add(5));
        self.response.removed_resources.push(name.into());
    }

    const fn count(&mut self, bytes: usize) {
        self.resources = self.resources.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}
