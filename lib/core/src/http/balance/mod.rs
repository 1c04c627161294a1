//! The balancer of one cluster: which endpoint a request goes to. A state machine; time and dice are arguments, and it
//! keeps nothing of the World.
//!
//! ```text
//! endpoints of the cluster --update--> priorities --pick--> an endpoint --begin, end--> its active requests
//! outliers --set_ejected--^
//! ```
//! Facts and ejections change rarely and cost the count of endpoints (a table or a ring is made anew); a choice costs at
//! most the logarithm of it, and allocates nothing.
//!
//! What must hold: what is chosen is an endpoint that was given last, and none that is ejected; with a consistent hash every
//! replica that knows the same endpoints chooses the same one for a key. A try again goes elsewhere where there is one.

mod hash;
mod host;
mod maglev;
mod pool;
mod priorities;
mod ring;
mod turns;
mod words;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

pub use self::{
    hash::{Hashed, hash_of, hash_of_ip},
    host::EndpointId,
    priorities::Viewpoint,
};
use self::{
    hash::{below, mix},
    host::{Host, Hosts, Place},
    pool::{Draw, Member, Pool},
    priorities::Priorities,
};
use super::{ClusterEndpoint, ClusterPolicy};
use crate::{
    labels::Labels,
    objects::{Balancing, HashRing, Warmup},
    world::{Distribution, Workload},
};

/// The choice among the endpoints of a cluster.
#[derive(Clone, Debug)]
pub struct Balancer {
    method: Method,
    /// `PASSTHROUGH`: the endpoint that the client has called; the method where it called none.
    passes_through: bool,
    warmup: Option<Warmup>,
    rules: Priorities,
    viewpoint: Viewpoint,
    hosts: Hosts,
    priorities: Vec<Priority>,
    /// The priorities are by this policy.
    is_current: bool,
}

/// How one of several is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    RoundRobin,
    LeastRequest,
    Random,
    /// With this minimum of points.
    Ring(u64),
    /// With a table of this size.
    Maglev(u64),
}

/// Endpoints that come before those of the next priority.
#[derive(Clone, Debug)]
struct Priority {
    number: u32,
    /// How much of all requests it can take, of [`ALL`]; 0: nothing can be chosen.
    available: u64,
    /// Each with its share of the priority's requests.
    pools: Vec<(u64, Pool)>,
}

/// The endpoints of a priority with their slots, by share.
type Shares<'h> = BTreeMap<u32, Vec<(u32, &'h Host)>>;

/// All requests of a cluster.
const ALL: u64 = 1_000_000;
/// A priority takes all requests while this part of its endpoints is in use: Envoy's overprovisioning factor, 1.4.
const OVERPROVISIONED: u64 = 1_400_000;
/// After as many tries again the priorities of the earlier ones are left, as Istio has it (`previous_priorities`).
const TRIES_OF_A_PRIORITY: usize = 2;

/// What is asked about one try of a request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The key of a consistent hash, as [`hash_of`] answers it; none: the request has none.
    pub key: Option<u64>,
    /// The address that the client has called.
    pub called: Option<SocketAddr>,
    /// The endpoints of the tries before.
    pub tried: &'a [EndpointId],
    /// Those are avoided, where there are others.
    pub avoids_tried: bool,
    /// So are their priorities.
    pub remote_localities: bool,
    /// Since one fixed moment.
    pub now: Duration,
    /// A random number.
    pub dice: u64,
}

/// The reason why a request has no endpoint: it is answered 503, response flag UH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The cluster has none that gets requests.
    #[error("the cluster has no endpoint")]
    Nowhere,
    /// All are ejected.
    #[error("all endpoints of the cluster are ejected")]
    Ejected,
}

impl Balancer {
    /// Of a cluster with this policy, without endpoints. `distribution` is its Service's.
    #[must_use]
    pub fn new(policy: &ClusterPolicy, distribution: Distribution, viewpoint: Viewpoint) -> Self {
        let mut balancer = Self {
            method: Method::LeastRequest,
            passes_through: false,
            warmup: None,
            rules: Priorities::One,
            viewpoint,
            hosts: Hosts::none(),
            priorities: Vec::new(),
            is_current: false,
        };
        balancer.set_policy(policy, distribution);
        balancer
    }

    /// Another policy, which counts from the next [`update`](Self::update) on. What is known of endpoints is kept.
    pub fn set_policy(&mut self, policy: &ClusterPolicy, distribution: Distribution) {
        let said = policy.port.load_balancer.as_ref();
        self.method = match said.map_or(&Balancing::Unspecified, |said| &said.method) {
            Balancing::Unspecified | Balancing::LeastRequest | Balancing::Passthrough => Method::LeastRequest,
            Balancing::RoundRobin => Method::RoundRobin,
            Balancing::Random => Method::Random,
            Balancing::Hash(hash) => match hash.ring {
                HashRing::Ring(minimum) => Method::Ring(minimum),
                HashRing::Maglev(size) => Method::Maglev(size),
            },
        };
        let warms_up = matches!(self.method, Method::RoundRobin | Method::LeastRequest);
        self.passes_through = said.is_some_and(|said| said.method == Balancing::Passthrough);
        self.warmup = said.and_then(|said| said.warmup).filter(|_| warms_up);
        self.rules = Priorities::of(policy, distribution, &self.viewpoint);
        self.is_current = false;
    }

    /// The endpoints are these now, as [`Cluster::endpoints`](super::Cluster::endpoints) answers them. What is known of
    /// those that stay is kept; what is new begins to warm up. `labels` answers those of a workload's pod.
    pub fn update<'l>(
        &mut self,
        endpoints: &[ClusterEndpoint<'_>],
        labels: impl Fn(&Workload) -> Option<&'l Labels>,
        now: Duration,
        dice: u64,
    ) {
        let any_weight = endpoints.iter().any(|endpoint| endpoint.weight > 0);
        let all: BTreeMap<_, _> = (endpoints.iter())
            .map(|endpoint| {
                let workload = &**endpoint.workload;
                let labels = if self.rules.asks_labels() { labels(workload) } else { None };
                let gets = endpoint.weight > 0 || !any_weight;
                let place = self.rules.place(&self.viewpoint, workload, labels).filter(|_| gets);
                ((endpoint.target, workload.uid.clone()), (endpoint.weight.max(1), place))
            })
            .collect();
        if self.hosts.set(all, now) || !self.is_current {
            self.rebuild(now, dice);
        }
    }

    /// These are ejected now, and no others: what [`Outliers`](super::Outliers) say after one of them has changed.
    pub fn set_ejected(&mut self, is_ejected: impl Fn(EndpointId) -> bool, now: Duration, dice: u64) {
        let mut changed = false;
        self.hosts.for_each_mut(|host| {
            let ejected = is_ejected(host.id);
            changed |= host.is_ejected != ejected;
            host.is_ejected = ejected;
        });
        if changed {
            self.rebuild(now, dice);
        }
    }

    /// The endpoint of a try.
    ///
    /// # Errors
    /// If there is none.
    pub fn pick(&mut self, ask: &Ask<'_>) -> Result<EndpointId, NoEndpoint> {
        if self.passes_through
            && let Some(called) = ask.called.and_then(|called| self.hosts.called(called))
        {
            return Ok(called.id);
        }
        let draw = self.draw(ask);
        // Which priority and share follows from the key as well, so that the key leads to one endpoint.
        let (to_priority, to_pool) = (mix(draw.key), mix(mix(draw.key)));
        let at = self.priority(ask, to_priority).ok_or_else(|| self.nothing())?;
        let hosts = &self.hosts;
        let is_tried = |slot: u32| hosts.at(slot).is_some_and(|host| ask.tried.contains(&host.id));
        let avoids = |slot: u32| ask.avoids_tried && is_tried(slot);
        let (mut slot, priorities) = (None, &mut self.priorities);
        if let Some(priority) = priorities.get_mut(at) {
            slot = priority.pick(to_pool, hosts, &draw, &avoids);
        }
        if slot.is_none() && ask.remote_localities {
            slot = priorities.iter_mut().find_map(|priority| priority.pick(to_pool, hosts, &draw, &avoids));
        }
        if slot.is_none()
            && let Some(priority) = priorities.get_mut(at)
        {
            slot = priority.pick(to_pool, hosts, &draw, &|_| false);
        }
        slot.and_then(|slot| hosts.at(slot)).map(|host| host.id).ok_or_else(|| self.nothing())
    }

    /// A request to an endpoint begins. Of one that has left nothing is counted.
    pub fn begin(&mut self, id: EndpointId) {
        if let Some(host) = self.hosts.get_mut(id) {
            host.active = host.active.saturating_add(1);
        }
    }

    /// It has ended.
    pub fn end(&mut self, id: EndpointId) {
        if let Some(host) = self.hosts.get_mut(id) {
            host.active = host.active.saturating_sub(1);
        }
    }

    /// The requests to an endpoint that have begun and not ended.
    #[must_use]
    pub fn active(&self, id: EndpointId) -> u32 {
        self.hosts.get(id).map_or(0, |host| host.active)
    }

    /// Where an endpoint is called; none: it has left.
    #[must_use]
    pub fn target(&self, id: EndpointId) -> Option<SocketAddr> {
        self.hosts.get(id).map(|host| host.target)
    }

    /// All endpoints, by address: those of which [`Outliers`](super::Outliers) are to know.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointId, SocketAddr)> {
        self.hosts.iter().map(|(_, host)| (host.id, host.target))
    }

    fn nothing(&self) -> NoEndpoint {
        let any = self.hosts.iter().any(|(_, host)| host.place.is_some_and(|place| self.rules.share(place) > 0));
        if any { NoEndpoint::Ejected } else { NoEndpoint::Nowhere }
    }

    const fn hashes(&self) -> bool {
        matches!(self.method, Method::Ring(_) | Method::Maglev(_))
    }

    fn draw(&self, ask: &Ask<'_>) -> Draw {
        let key = if self.hashes() { ask.key.unwrap_or(ask.dice) } else { ask.dice };
        Draw { key, dice: ask.dice, now: ask.now, warmup: self.warmup }
    }

    /// The position of the priority that takes a request: each as much as it can, the first ones first.
    fn priority(&self, ask: &Ask<'_>, roll: u64) -> Option<usize> {
        let left = if ask.remote_localities { ask.tried.len() / TRIES_OF_A_PRIORITY * TRIES_OF_A_PRIORITY } else { 0 };
        let was_tried = |priority: &Priority| {
            let of = |id: &EndpointId| self.hosts.get(*id).and_then(|host| host.place).map(|place| place.priority);
            ask.tried.iter().take(left).any(|id| of(id) == Some(priority.number))
        };
        let has_others =
            left > 0 && self.priorities.iter().any(|priority| priority.available > 0 && !was_tried(priority));
        let open = |priority: &Priority| !(has_others && was_tried(priority));
        let total: u64 =
            self.priorities.iter().filter(|priority| open(priority)).map(|priority| priority.available).sum();
        let mut roll = below(roll, total.min(ALL));
        self.priorities.iter().position(|priority| {
            let available = if open(priority) { priority.available } else { 0 };
            let found = roll < available;
            roll = roll.saturating_sub(available);
            found
        })
    }

    fn rebuild(&mut self, now: Duration, dice: u64) {
        let mut by_place: BTreeMap<u32, Shares<'_>> = BTreeMap::new();
        for (slot, host) in self.hosts.iter() {
            if let Some(Place { priority, share }) = host.place {
                by_place.entry(priority).or_default().entry(share).or_default().push((slot, host));
            }
        }
        let draw = Draw { key: 0, dice, now, warmup: self.warmup };
        self.is_current = true;
        self.priorities =
            by_place.into_iter().map(|(number, shares)| self.priority_of(number, &shares, &draw)).collect();
    }

    fn priority_of(&self, number: u32, shares: &Shares<'_>, draw: &Draw) -> Priority {
        let (mut pools, mut hashed) = (Vec::new(), Vec::new());
        let (mut count, mut in_use) = (0, 0);
        for (share, hosts) in shares {
            let of_share: Vec<_> = hosts.iter().filter(|(_, host)| !host.is_ejected).collect();
            count += hosts.len();
            in_use += of_share.len();
            let place = Place { priority: number, share: *share };
            let gets = self.rules.share(place).saturating_mul(available(of_share.len(), hosts.len()));
            let sum: u64 = of_share.iter().map(|(_, host)| u64::from(host.weight)).sum();
            if gets == 0 || sum == 0 {
                continue;
            }
            // Under a hash one ring is for all, and each area has its share of it.
            let weight = |host: &Host| match self.hashes() && shares.len() > 1 {
                true => (gets.saturating_mul(host.weight.into()) / sum).max(1),
                false => host.weight.into(),
            };
            let members = of_share.iter().map(|(slot, host)| Member { slot: *slot, weight: weight(host) });
            if self.hashes() {
                hashed.extend(members);
            } else {
                pools.push((gets, Pool::new(self.method, members.collect(), &self.hosts, draw)));
            }
        }
        if !hashed.is_empty() {
            pools.push((1, Pool::new(self.method, hashed, &self.hosts, draw)));
        }
        let available = if pools.is_empty() { 0 } else { available(in_use, count) };
        Priority { number, available, pools }
    }
}

/// How much of [`ALL`] endpoints can take of which some are in use.
fn available(in_use: usize, all: usize) -> u64 {
    let [in_use, all] = [in_use, all].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
    let part = OVERPROVISIONED.saturating_mul(in_use).checked_div(all).unwrap_or(0);
    part.clamp(in_use.min(1), ALL)
}

impl Priority {
    /// The slot of an endpoint that is not avoided: of the pool that the roll says, else of another one.
    fn pick(&mut self, roll: u64, hosts: &Hosts, draw: &Draw, avoids: &impl Fn(u32) -> bool) -> Option<u32> {
        let total = self.pools.iter().map(|(share, _)| share).sum();
        let mut roll = below(roll, total);
        let at = self.pools.iter().position(|(share, _)| {
            let found = roll < *share;
            roll = roll.saturating_sub(*share);
            found
        })?;
        let first = self.pools.get_mut(at).and_then(|(_, pool)| pool.pick(hosts, draw, avoids));
        first.or_else(|| self.pools.iter_mut().find_map(|(_, pool)| pool.pick(hosts, draw, avoids)))
    }
}

#[cfg(test)]
mod tests;
