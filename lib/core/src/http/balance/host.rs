//! The endpoints of one balancer, each with what has to outlive a change of the others: its active requests, when it
//! joined, whether it is ejected.
//!
//! What must hold: an [`EndpointId`] is never another endpoint's, also not after its own has left.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{objects::Warmup, world::Uid};

/// An endpoint of one [`Balancer`](super::Balancer). The id of one that has left is never another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    slot: u32,
    /// How many endpoints had the slot before.
    before: u32,
}

/// The whole weight of an endpoint that is warm; one that warms up has some of these parts.
pub(super) const WARM: u64 = 10_000;

/// One endpoint.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) id: EndpointId,
    pub(super) target: SocketAddr,
    pub(super) weight: u16,
    /// Requests to it that have begun and not ended.
    pub(super) active: u32,
    pub(super) joined: Duration,
    pub(super) is_ejected: bool,
    /// Where it is chosen from; none: it is not balanced to.
    pub(super) place: Option<Place>,
}

/// The priority of an endpoint, 0 first, and its share there, where the endpoints of a priority have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) priority: u32,
    pub(super) share: u32,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    slots: Vec<Slot>,
    /// Before all others, to look for an address alone.
    first: Uid,
    /// By address and workload: an order that is the same in every replica.
    by_key: BTreeMap<(SocketAddr, Uid), u32>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    before: u32,
    host: Option<Host>,
}

impl Hosts {
    pub(super) fn none() -> Self {
        Self { slots: Vec::new(), first: Uid::new(""), by_key: BTreeMap::new() }
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Host> {
        self.slots.get(usize::try_from(slot).ok()?)?.host.as_ref()
    }

    pub(super) fn get(&self, id: EndpointId) -> Option<&Host> {
        self.at(id.slot).filter(|host| host.id == id)
    }

    pub(super) fn get_mut(&mut self, id: EndpointId) -> Option<&mut Host> {
        let slot = self.slots.get_mut(usize::try_from(id.slot).ok()?)?;
        slot.host.as_mut().filter(|host| host.id == id)
    }

    /// The one at this address; the first one where two workloads are said to have it.
    pub(super) fn called(&self, target: SocketAddr) -> Option<&Host> {
        let from = (target, self.first.clone());
        let (_, slot) = self.by_key.range(from..).next().filter(|((at, _), _)| *at == target)?;
        self.at(*slot)
    }

    /// All, by address, each with its slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Host)> {
        self.by_key.values().filter_map(|slot| Some((*slot, self.at(*slot)?)))
    }

    pub(super) fn for_each_mut(&mut self, mut change: impl FnMut(&mut Host)) {
        self.slots.iter_mut().filter_map(|slot| slot.host.as_mut()).for_each(&mut change);
    }

    /// The endpoints are these now. Answers whether another choice follows from that.
    pub(super) fn set(&mut self, all: BTreeMap<(SocketAddr, Uid), (u16, Option<Place>)>, now: Duration) -> bool {
        let mut changed = false;
        let slots = &mut self.slots;
        self.by_key.retain(|key, slot| {
            let stays = all.contains_key(key);
            if !stays && let Some(slot) = usize::try_from(*slot).ok().and_then(|at| slots.get_mut(at)) {
                *slot = Slot { before: slot.before.saturating_add(1), host: None };
            }
            changed |= !stays;
            stays
        });
        let mut free = 0;
        for (key, (weight, place)) in all {
            if let Some(host) = self.by_key.get(&key).and_then(|slot| self.slots.get_mut(usize::try_from(*slot).ok()?))
            {
                let Some(host) = &mut host.host else { continue };
                changed |= (host.weight, host.place) != (weight, place);
                (host.weight, host.place) = (weight, place);
                continue;
            }
            changed = true;
            free = (free..self.slots.len()).find(|at| self.slots.get(*at).is_some_and(Slot::is_free)).unwrap_or_else(
                || {
                    self.slots.push(Slot::default());
                    self.slots.len().saturating_sub(1)
                },
            );
            let (Ok(number), Some(slot)) = (u32::try_from(free), self.slots.get_mut(free)) else { continue };
            let id = EndpointId { slot: number, before: slot.before };
            let target = key.0;
            slot.host = Some(Host { id, target, weight, active: 0, joined: now, is_ejected: false, place });
            self.by_key.insert(key, number);
        }
        changed
    }
}

impl Slot {
    fn is_free(&self) -> bool {
        self.host.is_none() && self.before < u32::MAX
    }
}

/// The parts of [`WARM`] that an endpoint has which joined some time ago: Envoy's slow start,
/// `max(minimum, (time / duration)^(1 / aggression))`, where the first second counts as a whole one.
pub(super) fn warm(warmup: &Warmup, since_joined: Duration) -> u64 {
    const THOUSAND: f64 = 1_000.0;
    if since_joined >= warmup.duration {
        return WARM;
    }
    let time = since_joined.max(Duration::from_secs(1)).as_secs_f64() / warmup.duration.as_secs_f64();
    let part = time.min(1.0).powf(THOUSAND / f64::from(warmup.aggression_thousandths.max(1)));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number from 0 to 1 becomes as many parts of ten thousand"
    )]
    let parts = (part * WARM as f64) as u64;
    parts.max(warmup.minimum_basis_points.into()).clamp(1, WARM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_warm_up() {
        let check = |(minimum, aggression): (u32, u32), parts: [u64; 6]| {
            let warmup = Warmup {
                duration: Duration::from_secs(100),
                minimum_basis_points: minimum,
                aggression_thousandths: aggression,
            };
            let got = [0, 1, 4, 25, 81, 100].map(|seconds| warm(&warmup, Duration::from_secs(seconds)));
            assert_eq!(got, parts, "{warmup:?}");
        };
        check((1_000, 1_000), [1_000, 1_000, 1_000, 2_500, 8_100, WARM]);
        check((0, 1_000), [100, 100, 400, 2_500, 8_100, WARM]);
        check((0, 2_000), [1_000, 1_000, 2_000, 5_000, 9_000, WARM]);
        check((WARM as u32, 1_000), [WARM; 6]);
    }

    #[test]
    fn an_id_is_never_another_endpoints() {
        let key = |n: u16| (SocketAddr::from(([10, 0, 0, 1], n)), Uid::new("a"));
        let all = |ports: &[u16]| ports.iter().map(|port| (key(*port), (1, None))).collect();
        let mut hosts = Hosts::none();
        assert!(hosts.set(all(&[1, 2]), Duration::ZERO));
        assert!(!hosts.set(all(&[2, 1]), Duration::from_secs(9)), "the same ones");
        let id = |hosts: &Hosts, port| hosts.called(key(port).0).map(|host| host.id);
        let first = id(&hosts, 1).unwrap();
        let second = id(&hosts, 2);
        assert!(hosts.set(all(&[2, 3]), Duration::from_secs(9)));
        assert_eq!((id(&hosts, 2), id(&hosts, 1)), (second, None));
        assert!(hosts.get(first).is_none() && hosts.get_mut(first).is_none());
        assert!(hosts.set(all(&[1, 2, 3]), Duration::from_secs(9)));
        assert_ne!(id(&hosts, 1), Some(first), "it came back as another one");
        assert_eq!(hosts.slots.len(), 3, "slots are used again");
        assert_eq!(hosts.iter().map(|(_, host)| host.target.port()).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
