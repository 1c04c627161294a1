//! One delta stream: requests and catalogs in, responses out. No IO and no clock: the time is an argument.
//!
//! ```text
//!   publish --> latest            receive(request) --> subscriptions, answers
//!                 | both kinds have nothing left of `current`
//!                 v
//!              current --differences--> Authorization: new and changed --> Address --> Authorization: gone
//!                                       one response of each kind on its way at a time
//! ```
//! A catalog is sent to its end before the next one begins, and what changed meanwhile goes out as one difference.
//! So a client that answers slowly gets less, and costs no more than the catalog that it is at.
//!
//! What must hold:
//! * No address is sent before the policies of its catalog were; no policy is removed while the client may hold an
//!   address of an earlier catalog that names it.
//! * A resource that the client refused is not sent again before it changes.
//! * A client that had applied newer changes, from another server, leaves out what it hears here. It is told as soon as
//!   they are known here, by a response that says nothing else if there is nothing else to say.
//! * Every name that is asked for is answered, where nothing has that name as removed: Istio's clients wait for it.
//!
//! Types that are not served are answered with an empty response, once. istiod gives no answer, and go-control-plane
//! may close the stream. A ztunnel is not ready until each of its types was answered, and one whose stream is closed
//! comes back to ask the same, so only an answer lets a newer ztunnel work. It is the truth: there are none.

mod track;

#[cfg(test)]
mod on_demand;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use thiserror::Error;
use underpass_core::Kind;
use underpass_door::{Reached, Versions};

use self::track::Track;
use super::{Catalog, Limits};
use crate::{
    contract::envoy::service::discovery::v3::{self as contract, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::ResourceKind,
    wire::{PARTIAL, PerKind},
};

/// One delta stream.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    latest: Catalog,
    /// What is being sent, or was sent last.
    current: Catalog,
    tracks: PerKind<Option<Track>>,
    /// Until then what was subscribed to first waits for the other kind, with which it has to keep an order.
    other_until: Option<Instant>,
    client: Option<Client>,
    /// Types that were asked for and are not served.
    foreign: BTreeSet<String>,
    /// Answers to requests for such types.
    empty: VecDeque<DeltaDiscoveryResponse>,
    nonces: u64,
    /// How far the source had been read, as it was told last.
    told: Versions,
}

/// What a client says about itself in its first request.
#[derive(Debug)]
struct Client {
    node: String,
    takes_parts: bool,
    /// What it had applied.
    applied: BTreeMap<Kind, u64>,
}

/// What became of a stream's subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No subscription yet.
    Opening,
    /// Resources wait to be sent or answered.
    Behind,
    /// The client has answered for all that there is.
    Current,
}

/// What a request said that is worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A response was refused.
    Refused {
        /// The type.
        kind: ResourceKind,
        /// The response.
        nonce: String,
        /// The client's reason.
        message: String,
    },
    /// The first request for a type that is not served.
    NotServed {
        /// The type.
        type_url: String,
    },
}

/// A malformed request: the stream is closed with `INVALID_ARGUMENT`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// No type.
    #[error("a request on an aggregated stream needs a type_url")]
    NoType,
    /// Too many names at once.
    #[error("{names} names in one request for {type_url}; the limit is {limit}")]
    TooManyNames {
        /// Their number.
        names: usize,
        /// The type.
        type_url: String,
        /// The limit.
        limit: usize,
    },
    /// Too many names on the stream.
    #[error("more than {limit} names subscribed to of {type_url}")]
    TooManySubscriptions {
        /// The type.
        type_url: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A name beyond all that exist.
    #[error("a name of {bytes} bytes in a request for {type_url}; the limit is {limit}")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// The type.
        type_url: String,
        /// The limit.
        limit: usize,
    },
    /// Too many types that are not served.
    #[error("more than {limit} types that are not served; the last is {type_url}")]
    TooManyTypes {
        /// The last one.
        type_url: String,
        /// The limit.
        limit: usize,
    },
}

impl Session {
    /// A stream that was just opened, while `catalog` is the newest.
    #[must_use]
    pub fn new(catalog: Catalog, limits: Limits) -> Self {
        Self {
            limits,
            latest: catalog.clone(),
            current: catalog,
            tracks: PerKind::default(),
            other_until: None,
            client: None,
            foreign: BTreeSet::new(),
            empty: VecDeque::new(),
            nonces: 0,
            told: Versions::default(),
        }
    }

    /// Takes the newest catalog. Then [`Self::poll`].
    pub fn publish(&mut self, catalog: Catalog) {
        self.latest = catalog;
    }

    /// The id of the client's node; empty until it is known.
    #[must_use]
    pub fn node(&self) -> &str {
        self.client.as_ref().map_or("", |client| &client.node)
    }

    /// What became of its subscriptions.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let mut tracks = self.tracks().peekable();
        if tracks.peek().is_none() {
            return Phase::Opening;
        }
        let current = self.current.is(&self.latest) && tracks.all(|track| track.is_done() && track.waits().is_none());
        if current { Phase::Current } else { Phase::Behind }
    }

    /// Takes a request. Then [`Self::poll`].
    ///
    /// # Errors
    ///
    /// The request is malformed; the stream is to be closed.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest, now: Instant) -> Result<Option<Notice>, Malformed> {
        self.check(&request)?;
        if let (None, Some(node)) = (&self.client, &request.node) {
            let takes_parts = node.client_features.iter().any(|feature| feature == PARTIAL);
            let applied = |kind: Kind| Some((kind, *request.underpass_applied.get(kind.as_str())?));
            let applied = Kind::ALL.into_iter().filter_map(applied).collect();
            self.client = Some(Client { node: node.id.clone(), takes_parts, applied });
        }
        let Some(kind) = ResourceKind::of(&request.type_url) else { return self.not_served(request) };
        if let Some(track) = self.tracks.of_mut(kind) {
            let notice = track.answered(&request);
            track.change(&request, &self.current, &self.limits)?;
            return Ok(notice);
        }
        let takes_parts = self.client.as_ref().is_some_and(|client| client.takes_parts);
        let track = Track::new(kind, request, takes_parts, &self.current, &self.limits)?;
        if self.tracks().next().is_none() {
            self.other_until = now.checked_add(self.limits.other_kind);
        }
        *self.tracks.of_mut(kind) = Some(track);
        Ok(None)
    }

    /// The next response, if one can be sent now. To be called until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<DeltaDiscoveryResponse> {
        if let Some(empty) = self.empty.pop_front() {
            return Some(self.numbered(empty));
        }
        self.other_until.take_if(|until| now >= *until);
        loop {
            for kind in ResourceKind::ALL {
                if kind == ResourceKind::Address && !self.has_sent(ResourceKind::Authorization, Track::has_sent_changes)
                {
                    continue;
                }
                let removes = self.has_sent(ResourceKind::Address, Track::is_done);
                let Some(track) = self.tracks.of_mut(kind) else { continue };
                let nonce = self.nonces.wrapping_add(1);
                if let Some(response) = track.respond(&self.current, removes, nonce, now, &self.limits) {
                    return Some(self.numbered(response));
                }
            }
            if self.current.is(&self.latest) || !self.tracks().all(Track::is_done) {
                return self.version(now);
            }
            self.advance();
        }
    }

    /// An empty response with how far the source has been read, where the client waits for that.
    fn version(&mut self, now: Instant) -> Option<DeltaDiscoveryResponse> {
        let is_quiet = self.tracks().all(|track| track.is_done() && track.waits().is_none());
        if !is_quiet || self.knows_what_was_applied(&self.told) {
            return None;
        }
        if !self.knows_what_was_applied(&self.current.resources().versions) {
            return None;
        }
        let nonce = self.nonces.wrapping_add(1);
        let response = self.tracks.of_mut(ResourceKind::Authorization).as_mut()?.respond_empty(nonce, now);
        Some(self.numbered(response))
    }

    /// What the client had applied is known to a server that knows so much.
    fn knows_what_was_applied(&self, versions: &Versions) -> bool {
        let Some(client) = self.client.as_ref().filter(|client| client.takes_parts) else { return true };
        let is_known = |(kind, applied): (&Kind, &u64)| versions.of(*kind).is_none_or(|of| of.known >= *applied);
        client.applied.iter().all(is_known)
    }

    /// What the client had applied when it opened the stream, by kind of object.
    #[must_use]
    pub fn applied(&self) -> Option<&BTreeMap<Kind, u64>> {
        self.client.as_ref().map(|client| &client.applied)
    }

    /// When [`Self::poll`] or [`Self::overdue`] may answer differently without any event.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let answers = self.tracks().filter_map(|track| track.waits()?.checked_add(self.limits.answer));
        let other = self.other_until.filter(|_| self.tracks().count() == 1 && !self.tracks().all(Track::is_done));
        answers.chain(other).min()
    }

    /// A type of which a response has waited for its answer for too long.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<ResourceKind> {
        let overdue = |track: &&Track| {
            track.waits().is_some_and(|since| now.saturating_duration_since(since) >= self.limits.answer)
        };
        self.tracks().find(overdue).map(Track::kind)
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        ResourceKind::ALL.into_iter().filter_map(|kind| self.tracks.of(kind).as_ref())
    }

    /// Begins with the latest catalog.
    fn advance(&mut self) {
        for kind in ResourceKind::ALL {
            if let Some(track) = self.tracks.of_mut(kind) {
                track.advance(self.current.changes(&self.latest, kind));
            }
        }
        self.current = self.latest.clone();
    }

    /// So much of `current` was sent of this kind, or the client does without it.
    fn has_sent(&self, kind: ResourceKind, much: impl Fn(&Track) -> bool) -> bool {
        self.tracks.of(kind).as_ref().map_or(self.other_until.is_none(), much)
    }

    fn numbered(&mut self, mut response: DeltaDiscoveryResponse) -> DeltaDiscoveryResponse {
        self.nonces = self.nonces.wrapping_add(1);
        response.nonce = self.nonces.to_string();
        response.system_version_info = self.current.resources().source.as_ref().into();
        if self.client.as_ref().is_some_and(|client| client.takes_parts) {
            let versions = self.current.resources().versions.clone();
            let news = versions.iter().filter(|(kind, reached)| self.told.of(*kind) != Some(*reached));
            let message = |(kind, Reached { known, changed }): (Kind, Reached)| {
                (kind.as_str().to_owned(), contract::Reached { known, changed })
            };
            response.underpass_versions = news.map(message).collect();
            self.told = versions;
        }
        response
    }

    fn check(&self, request: &DeltaDiscoveryRequest) -> Result<(), Malformed> {
        let limits = &self.limits;
        if request.type_url.is_empty() {
            return Err(Malformed::NoType);
        }
        let listed = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
        let names = listed.chain(request.initial_resource_versions.keys());
        let number = names.clone().count();
        let longest = names.map(String::len).chain([request.type_url.len()]).max().unwrap_or_default();
        let type_url = || request.type_url.chars().take(limits.name_bytes).collect();
        if number > limits.names_per_request {
            return Err(Malformed::TooManyNames {
                names: number,
                type_url: type_url(),
                limit: limits.names_per_request,
            });
        }
        if longest > limits.name_bytes {
            return Err(Malformed::NameTooLong { bytes: longest, type_url: type_url(), limit: limits.name_bytes });
        }
        Ok(())
    }

    fn not_served(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<Notice>, Malformed> {
        let first = !self.foreign.contains(&request.type_url);
        if first && self.foreign.len() >= self.limits.foreign_types {
            return Err(Malformed::TooManyTypes { type_url: request.type_url, limit: self.limits.foreign_types });
        }
        let names = request.resource_names_subscribe.into_iter().filter(|name| name != crate::wire::WILDCARD);
        let removed_resources: Vec<String> = names.collect();
        // What follows the first request are answers, and names that were not asked for before.
        if first || !removed_resources.is_empty() {
            let type_url = request.type_url.clone();
            self.empty.push_back(DeltaDiscoveryResponse { type_url, removed_resources, ..Default::default() });
        }
        if !first {
            return Ok(None);
        }
        self.foreign.insert(request.type_url.clone());
        Ok(Some(Notice::NotServed { type_url: request.type_url }))
    }
}
