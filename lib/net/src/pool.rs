//! The tunnels of one worker, shared by connections that may share one: same source identity, same identities expected
//! at the other end, same next hop, same source address. Anything less would show one pod's traffic under another's
//! certificate or address.
//!
//! A tunnel leaves the pool when it ended, goes away or outlived a certificate; a full one stays for when it is not.

use std::{cell::RefCell, collections::HashMap, net::{IpAddr, SocketAddr}, time::SystemTime};

use underpass_core::Identity;
use underpass_hbone::{Connect, OpenError};
use underpass_identity::Roots;

use crate::{
    tls::Expected,
    tunnel::{Stream, Tunnel, TunnelEnd},
};

/// Who may share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose certificate is shown.
    pub source: Identity,
    /// Who must answer.
    pub expected: Expected,
    /// Where the tunnel goes to.
    pub next: SocketAddr,
    /// Where it comes from.
    pub from: IpAddr,
}

/// The tunnels of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    tunnels: RefCell<HashMap<Key, Vec<Tunnel>>>,
}

impl Pool {
    /// Opens a stream on a tunnel that has room, or on a new one that `connect` begins. `not` names a tunnel that has
    /// just refused this very stream.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn open<E>(
        &self,
        key: &Key,
        request: &Connect,
        now: SystemTime,
        not: Option<&Stream>,
        connect: impl FnOnce() -> Result<Tunnel, E>,
    ) -> Result<Result<Stream, OpenError>, E> {
        let mut tunnels = self.tunnels.borrow_mut();
        let mine = tunnels.entry(key.clone()).or_default();
        mine.retain(|tunnel| !tunnel.is_over(now));
        // The one with the most streams that still has room: few tunnels batch better than many.
        let mut open: Vec<_> =
            mine.iter().filter(|t| t.can_open(now) && !not.is_some_and(|s| s.is_on(t))).collect();
        open.sort_by_key(|t| std::cmp::Reverse(t.open_streams()));
        for tunnel in open {
            match tunnel.open(request) {
                Err(OpenError::Full | OpenError::GoingAway) => {}
                done => return Ok(done),
            }
        }
        let tunnel = connect()?;
        let stream = tunnel.open(request);
        mine.push(tunnel);
        Ok(stream)
    }

    /// Checks every peer's certificate against a changed bundle.
    pub fn check_again(&self, roots: &Roots, now: SystemTime) {
        self.tunnels.borrow().values().flatten().for_each(|tunnel| tunnel.check_again(roots, now));
    }

    /// Ends all tunnels of an identity: its last pod left.
    pub fn forget(&self, source: &Identity) {
        let mut tunnels = self.tunnels.borrow_mut();
        for (_, old) in tunnels.extract_if(|key, _| key.source == *source) {
            old.iter().for_each(|tunnel| tunnel.end(TunnelEnd::Closed));
        }
    }

    /// Drops tunnels that ended, and keys without any.
    pub fn sweep(&self, now: SystemTime) {
        self.tunnels.borrow_mut().retain(|_, mine| {
            mine.retain(|tunnel| !tunnel.is_over(now));
            !mine.is_empty()
        });
    }

    /// How many tunnels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tunnels.borrow().values().map(Vec::len).sum()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
