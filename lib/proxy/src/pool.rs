//! The pool of one worker's tunnels, shared by connections that may share one: same source identity, same identities expected
//! at the other end, same next hop, same source address. Anything less would show one pod's traffic under another's
//! certificate or address.
//!
//! A tunnel stays until it has ended, also when it takes no more streams: those it carries have to end with the trust
//! in its peer. How many streams a peer takes is remembered while it has a tunnel here, because a tunnel that is just
//! being opened does not know, and what is too many for it is refused. A tunnel to a workload that has gone takes none:
//! its address may be another's by now, also that of a pod with the same identity.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use underpass_core::{Identities, Identity};
use underpass_hbone::{Connect, OpenError};
use underpass_identity::Roots;
use underpass_net::tunnel::{Stream, Tunnel, TunnelEnd};

/// The key of a tunnel: connections with the same one may share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The identity whose certificate is shown.
    pub source: Identity,
    /// The identities that may answer.
    pub identities: Identities,
    /// The address of the next hop.
    pub next: SocketAddr,
    /// The source address.
    pub from: IpAddr,
    /// The cookie of the network namespace that its socket is in: an address may have another owner later.
    pub netns: u64,
}

/// The next tunnel is begun where less than one of so many parts of a tunnel's streams is left.
const NEARLY_FULL: usize = 8;

/// Tunnels to one peer.
#[derive(Debug, Default)]
struct PeerTunnels {
    tunnels: Vec<Tunnel>,
    /// The limit of open streams of the last tunnel that knew it.
    cap: Option<usize>,
}

impl PeerTunnels {
    /// Drops tunnels that ended, and learns the limit of streams from the others.
    fn refresh(&mut self) {
        self.tunnels.retain(|tunnel| !tunnel.has_ended());
        self.cap = self.tunnels.iter().rev().find_map(Tunnel::stream_cap).or(self.cap);
    }

    /// The tunnel with the most streams that still has room: few tunnels batch better than many.
    fn fullest_with_room(&self, now: SystemTime, not: Option<&Stream>) -> Option<&Tunnel> {
        let cap = self.cap.unwrap_or(usize::MAX);
        let has_room = |tunnel: &&Tunnel| {
            tunnel.can_open(now)
                && tunnel.open_streams() < tunnel.stream_cap().unwrap_or(cap)
                && !not.is_some_and(|stream| stream.rules_out(tunnel))
        };
        self.tunnels.iter().filter(has_room).max_by_key(|tunnel| tunnel.open_streams())
    }

    /// True where so few streams more can be opened that the next tunnel is worth its handshake now. Never for peers that take
    /// only a few per tunnel, nor before one has announced its limit.
    fn is_nearly_full(&self, now: SystemTime) -> bool {
        let Some(cap) = self.cap else { return false };
        let open = self.tunnels.iter().filter(|tunnel| tunnel.can_open(now));
        let room = open.map(|tunnel| tunnel.stream_cap().unwrap_or(cap).saturating_sub(tunnel.open_streams()));
        room.fold(0_usize, usize::saturating_add) < cap / NEARLY_FULL
    }
}

/// The tunnels of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    /// By the address of the next hop.
    peers: RefCell<HashMap<IpAddr, HashMap<Key, PeerTunnels>>>,
}

impl Pool {
    /// Opens a stream on a tunnel that has room, or on a new one that `connect` begins. `not` is the attempt before, which
    /// came back unprocessed, and says which tunnels are not worth another one.
    ///
    /// # Errors
    /// The error of `connect`; inside, the reason why the tunnel takes no stream.
    pub fn open<E>(
        &self,
        key: &Key,
        request: &Connect,
        now: SystemTime,
        not: Option<&Stream>,
        connect: impl FnOnce() -> Result<Tunnel, E>,
    ) -> Result<Result<Stream, OpenError>, E> {
        let mut peers = self.peers.borrow_mut();
        let mine = peers.entry(key.next.ip()).or_default().entry(key.clone()).or_default();
        mine.refresh();
        if let Some(tunnel) = mine.fullest_with_room(now, not) {
            let stream = tunnel.open(request);
            // A failure is reported by the connection that needs it.
            if mine.is_nearly_full(now)
                && let Ok(next) = connect()
            {
                mine.tunnels.push(next);
            }
            return Ok(stream);
        }
        if mine.cap == Some(0) {
            return Ok(Err(OpenError::Full)); // another tunnel would have no room either
        }
        let tunnel = connect()?;
        let stream = tunnel.open(request);
        mine.tunnels.push(tunnel);
        Ok(stream)
    }

    /// Verifies every peer's certificate against a changed bundle.
    pub fn verify_again(&self, roots: &Roots, now: SystemTime) {
        self.each(|tunnel| tunnel.verify_again(roots, now));
    }

    /// Takes no new streams anywhere; tunnels end when their streams have.
    pub fn drain(&self) {
        self.each(Tunnel::drain);
    }

    /// Takes no new streams on the tunnels to this address; they end when their streams have.
    pub fn drain_to(&self, next: IpAddr) {
        let peers = self.peers.borrow();
        let tunnels = peers.get(&next).into_iter().flat_map(HashMap::values).flat_map(|mine| &mine.tunnels);
        tunnels.for_each(Tunnel::drain);
    }

    /// Drains the idle tunnels of these keys, which end at once.
    pub fn drain_idle(&self, of: impl Fn(&Key) -> bool) {
        let peers = self.peers.borrow();
        let mine = peers.values().flatten().filter(|(key, _)| of(key));
        let tunnels = mine.flat_map(|(_, mine)| &mine.tunnels);
        tunnels.filter(|tunnel| tunnel.open_streams() == 0).for_each(Tunnel::drain);
    }

    /// Ends the tunnels of these keys at once, and returns them.
    pub fn end(&self, of: impl Fn(&Key) -> bool, end: &TunnelEnd) -> Vec<Tunnel> {
        let mut peers = self.peers.borrow_mut();
        let old = peers.values_mut().flat_map(|keys| keys.extract_if(|key, _| of(key)));
        let ended: Vec<_> = old.flat_map(|(_, old)| old.tunnels).collect();
        peers.retain(|_, keys| !keys.is_empty());
        ended.iter().for_each(|tunnel| tunnel.end(end.clone()));
        ended
    }

    /// Drops tunnels that ended, and keys without any.
    pub fn sweep(&self) {
        self.peers.borrow_mut().retain(|_, keys| {
            keys.retain(|_, mine| {
                mine.refresh();
                !mine.tunnels.is_empty()
            });
            !keys.is_empty()
        });
    }

    /// The number of tunnels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.borrow().values().flat_map(HashMap::values).map(|mine| mine.tunnels.len()).sum()
    }

    /// The number of tunnels that would take a stream now.
    #[must_use]
    pub fn with_room(&self, now: SystemTime) -> usize {
        let peers = self.peers.borrow();
        let tunnels = peers.values().flat_map(HashMap::values).flat_map(|mine| &mine.tunnels);
        tunnels.filter(|tunnel| tunnel.can_open(now)).count()
    }

    /// True without tunnels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.borrow().values().flat_map(HashMap::values).all(|mine| mine.tunnels.is_empty())
    }

    fn each(&self, f: impl Fn(&Tunnel)) {
        self.peers.borrow().values().flat_map(HashMap::values).flat_map(|mine| &mine.tunnels).for_each(f);
    }
}
