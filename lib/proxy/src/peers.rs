//! Unauthenticated peers: sockets on port 15008 of one address whose TLS handshake is not done. Their number is limited; one more
//! takes the slot of another: of the oldest from the source address that has most. A peer that opens connections and sends
//! nothing then competes with itself, and not with others.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, rc::Rc};

use underpass_net::tunnel::{Tunnel, TunnelEnd};

/// The unauthenticated peers of one pod or proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UnauthenticatedPeers(Rc<RefCell<Sockets>>);

#[derive(Debug)]
struct Sockets {
    most: usize,
    /// The oldest first.
    sockets: BTreeMap<u64, (IpAddr, Option<Tunnel>)>,
    next: u64,
}

/// The slot of one socket; dropped when the peer is authenticated, or when its tunnel ends.
#[derive(Debug)]
pub struct Slot {
    peers: UnauthenticatedPeers,
    number: u64,
}

impl UnauthenticatedPeers {
    /// At most `most` slots, and at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Rc::new(RefCell::new(Sockets { most: most.max(1), sockets: BTreeMap::new(), next: 0 })))
    }

    /// The slot of one more peer, from this address. Where none is free it takes another one's, whose tunnel ends.
    pub fn slot(&self, from: IpAddr) -> Slot {
        let mut known = self.0.borrow_mut();
        while known.sockets.len() >= known.most {
            let Some(number) = longest_of_most(known.sockets.iter().map(|(number, (from, _))| (*number, *from))) else {
                break;
            };
            if let Some((_, Some(tunnel))) = known.sockets.remove(&number) {
                tunnel.end(TunnelEnd::Crowded);
            }
        }
        let number = known.next;
        known.next += 1;
        known.sockets.insert(number, (from, None));
        Slot { peers: self.clone(), number }
    }

    /// The number of used slots.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.borrow().sockets.len()
    }

    /// Sets the tunnel that ends where the slot of this number is taken; it has not begun to run yet.
    pub fn set_tunnel(&self, number: u64, tunnel: &Tunnel) {
        match self.0.borrow_mut().sockets.get_mut(&number) {
            Some((_, theirs)) => *theirs = Some(tunnel.clone()),
            None => tunnel.end(TunnelEnd::Crowded),
        }
    }
}

impl Slot {
    /// Its number, for [`UnauthenticatedPeers::set_tunnel`].
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.peers.0.borrow_mut().sockets.remove(&self.number);
    }
}

/// The oldest of the address that has most sockets; of addresses that have as many, the one with the oldest.
fn longest_of_most(sockets: impl Iterator<Item = (u64, IpAddr)>) -> Option<u64> {
    let mut of = BTreeMap::<IpAddr, (usize, u64)>::new();
    for (number, from) in sockets {
        of.entry(from).or_insert((0, number)).0 += 1;
    }
    let (_, oldest) = of.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)))?;
    Some(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_address_with_most_sockets_makes_room() {
        let check = |sockets: &[u8], expect| {
            let numbered = sockets.iter().enumerate().map(|(number, last)| (number as u64, ip(*last)));
            assert_eq!(longest_of_most(numbered), expect, "{sockets:?}");
        };
        check(&[], None);
        check(&[1], Some(0));
        check(&[1, 2, 2], Some(1));
        check(&[1, 2, 2, 1, 1], Some(0));
        check(&[1, 2, 3], Some(0));
        check(&[1, 2, 2, 1], Some(0));
        check(&[3, 1, 2, 2, 1], Some(1));
    }

    #[test]
    fn a_slot_is_free_when_it_is_dropped_or_taken() {
        let peers = UnauthenticatedPeers::new(2);
        let (quiet, first) = (peers.slot(ip(1)), peers.slot(ip(2)));
        drop(first);
        assert_eq!(peers.len(), 1);
        let taken = peers.slot(ip(2));
        let _third = peers.slot(ip(2));
        assert_eq!(peers.len(), 2, "never more");
        let left = |slot: &Slot| peers.0.borrow().sockets.contains_key(&slot.number());
        // Of two with one each it was the older one's slot; from then on there is only one address.
        assert!(!left(&quiet) && left(&taken));
        drop(taken);
        drop(quiet);
        assert_eq!(peers.len(), 1, "whose slot was taken has none to give back");
    }
}
