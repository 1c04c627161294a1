//! A number of places that peers share: of connections, of handshakes, of large bodies. A peer that has the most of them cannot keep
//! the others out.
//!
//! What must hold: where all are taken, a new peer gets the place of the oldest of the address with the most, itself counted. Peers of
//! one address, as behind one that translates addresses, count as one.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

/// The address of a peer, as far as there is one: a unix socket has none.
pub type Peer = Option<IpAddr>;

/// Places of a limited number. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    /// By age.
    holders: BTreeMap<u64, (Peer, oneshot::Sender<()>)>,
    next: u64,
}

/// One of the places. It is free again once this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    number: u64,
    given: oneshot::Receiver<()>,
}

impl Places {
    /// So many of them, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit: limit.max(1), taken: Mutex::default(), freed: Notify::new() }))
    }

    /// A place, at once.
    #[must_use]
    pub fn take(&self, peer: Peer) -> Place {
        let mut taken = self.taken();
        if taken.holders.len() >= self.0.limit
            && let Some((oldest, _)) = taken.most(peer)
        {
            taken.holders.remove(&oldest);
        }
        self.hand_out(&mut taken, peer)
    }

    /// A place: at once where one is free, or an address has several; otherwise as soon as one is free.
    pub async fn wait(&self, peer: Peer) -> Place {
        loop {
            let mut freed = pin!(self.0.freed.notified());
            // One that is freed from here on is heard of.
            freed.as_mut().enable();
            {
                let mut taken = self.taken();
                if taken.holders.len() < self.0.limit {
                    return self.hand_out(&mut taken, peer);
                }
                if let Some((oldest, most)) = taken.most(peer)
                    && most > 1
                {
                    taken.holders.remove(&oldest);
                    return self.hand_out(&mut taken, peer);
                }
            }
            freed.await;
        }
    }

    fn hand_out(&self, taken: &mut Taken, peer: Peer) -> Place {
        let (sender, given) = oneshot::channel();
        let number = taken.next;
        taken.next += 1;
        taken.holders.insert(number, (peer, sender));
        Place { places: self.clone(), number, given }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The oldest of the address with the most, where `new` has one more than it has, and how many these are. None: `new` is the
    /// first.
    fn most(&self, new: Peer) -> Option<(u64, usize)> {
        let mut by_peer = BTreeMap::<Peer, (usize, u64)>::new();
        for (number, (peer, _)) in &self.holders {
            by_peer.entry(*peer).or_insert((usize::from(*peer == new), *number)).0 += 1;
        }
        // Of several with as many, that of the oldest.
        let (count, oldest) =
            by_peer.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)))?;
        Some((oldest, count))
    }
}

impl Place {
    /// Waits until the place is another one's.
    pub async fn given_away(&mut self) {
        let _ = (&mut self.given).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // None where it was given away: its successor has it.
        if self.places.taken().holders.remove(&self.number).is_some() {
            self.places.0.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of peers that come one after the other, each named by its address: `-` for one whose place was given away.
    fn check(limit: usize, peers: &[u8], expect: &str) {
        let places = Places::new(limit);
        let mut held: Vec<_> = peers.iter().map(|peer| places.take(Some([10, 0, 0, *peer].into()))).collect();
        let kept = |place: &mut Place| place.given.try_recv() == Err(oneshot::error::TryRecvError::Empty);
        let shown =
            held.iter_mut().zip(peers).map(|(place, peer)| if kept(place) { peer.to_string() } else { "-".into() });
        assert_eq!(shown.collect::<String>(), expect, "{places:?}");
        drop(held);
        assert!(places.taken().holders.is_empty());
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_gives_way() {
        check(3, &[1, 2, 3], "123");
        check(3, &[1, 2, 2, 2], "1-22");
        check(3, &[1, 2, 2, 2, 2, 2, 2], "1----22");
        check(3, &[1, 2, 2, 3], "1-23");
        check(3, &[1, 1, 1, 2], "-112");
        check(3, &[1, 2, 3, 4], "-234");
        check(2, &[1, 2, 2], "1-2");
        check(1, &[1, 2], "-2");
    }

    /// What is there without waiting.
    async fn now<T>(of: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            is = of => Some(is),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn one_that_has_no_more_than_the_others_waits() {
        let (places, peer) = (Places::new(2), |n: u8| Some(IpAddr::from([10, 0, 0, n])));
        let first = places.wait(peer(1)).await;
        let mut second = places.wait(peer(2)).await;
        assert!(now(places.wait(peer(3))).await.is_none());
        // Its second, and the first gives way.
        let _third = now(places.wait(peer(2))).await.unwrap();
        now(second.given_away()).await.unwrap();
        let mut waiting = pin!(places.wait(peer(3)));
        assert!(now(waiting.as_mut()).await.is_none());
        drop(first);
        assert!(now(waiting).await.is_some());
    }
}
