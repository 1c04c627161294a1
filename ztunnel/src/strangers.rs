//! The sockets at one pod's port 15008 whose peers have not proved who they are. There are so many of them at most; one
//! more takes the place of another: of the oldest from the address that has most. Who opens connections and says nothing
//! is in its own way then, and not in that of others.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, rc::Rc};

use underpass_net::tunnel::{Tunnel, TunnelEnd};

/// The strangers of one pod. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Strangers(Rc<RefCell<List>>);

#[derive(Debug)]
struct List {
    most: usize,
    /// The oldest first.
    sockets: BTreeMap<u64, (IpAddr, Option<Tunnel>)>,
    next: u64,
}

/// A place; dropped when the peer has proved who it is, or when its tunnel ends.
#[derive(Debug)]
pub(crate) struct Place {
    list: Strangers,
    number: u64,
}

impl Strangers {
    /// At most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self(Rc::new(RefCell::new(List { most: most.max(1), sockets: BTreeMap::new(), next: 0 })))
    }

    /// One more. Where there is no room it takes another one's, whose tunnel ends.
    pub(crate) fn enter(&self, from: IpAddr) -> Place {
        let mut list = self.0.borrow_mut();
        while list.sockets.len() >= list.most {
            let Some(number) = longest_of_most(list.sockets.iter().map(|(number, (from, _))| (*number, *from))) else {
                break;
            };
            if let Some((_, Some(tunnel))) = list.sockets.remove(&number) {
                tunnel.end(TunnelEnd::Crowded);
            }
        }
        let number = list.next;
        list.next += 1;
        list.sockets.insert(number, (from, None));
        Place { list: self.clone(), number }
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.borrow().sockets.len()
    }

    /// The tunnel that is to end where the place is taken; it has not begun to run yet.
    pub(crate) fn is(&self, number: u64, tunnel: &Tunnel) {
        match self.0.borrow_mut().sockets.get_mut(&number) {
            Some((_, theirs)) => *theirs = Some(tunnel.clone()),
            None => tunnel.end(TunnelEnd::Crowded),
        }
    }
}

impl Place {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.list.0.borrow_mut().sockets.remove(&self.number);
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
    fn who_has_most_makes_room() {
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
    fn a_place_is_free_when_it_is_dropped_or_taken() {
        let strangers = Strangers::new(2);
        let (quiet, first) = (strangers.enter(ip(1)), strangers.enter(ip(2)));
        drop(first);
        assert_eq!(strangers.len(), 1);
        let taken = strangers.enter(ip(2));
        let _third = strangers.enter(ip(2));
        assert_eq!(strangers.len(), 2, "never more");
        let left = |place: &Place| strangers.0.borrow().sockets.contains_key(&place.number());
        // Of two with one each it was the older one's place; from then on there is only one address.
        assert!(!left(&quiet) && left(&taken));
        drop(taken);
        drop(quiet);
        assert_eq!(strangers.len(), 1, "whose place was taken has none to give back");
    }
}
