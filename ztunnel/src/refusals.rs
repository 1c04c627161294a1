//! The last refused TLS handshakes, for an operator without a log at hand. Beside the open connections, because a refused one
//! never is among them.
//!
//! What must hold: a peer that is refused again and again is one entry, so that it pushes no other out; and the list is
//! short, because workers and its readers share a lock.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use underpass_core::{Connection, Reason, connection::Direction, tls::Refusal};

/// The most entries.
const MOST: usize = 100;

/// The handshakes of one peer that were refused, by either end, for one reason.
#[derive(Clone, Debug)]
pub struct RefusedHandshake {
    /// The last time.
    pub last: Connection,
    /// Their number.
    pub times: u64,
}

/// The key of an entry: everything but the source port.
#[derive(PartialEq, Eq)]
struct Key(Direction, IpAddr, SocketAddr, Refusal);

impl Key {
    fn of(record: &Connection) -> Option<Self> {
        let Some(Reason::Tls(failure)) = &record.reason else { return None };
        let (from, to) = (record.source.address.ip(), record.destination.address);
        Some(Self(record.direction, from, to, failure.refusal()))
    }
}

/// The last refused handshakes of a node, the latest first.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<VecDeque<RefusedHandshake>>);

impl Refusals {
    /// Adds a connection that has ended, where TLS was the reason.
    pub(crate) fn add(&self, record: &Connection) {
        let Some(key) = Key::of(record) else { return };
        let mut known = self.locked();
        let before = known.iter().position(|one| Key::of(&one.last).is_some_and(|other| other == key));
        let times = before.and_then(|at| known.remove(at)).map_or(0, |one| one.times);
        known.truncate(MOST - 1);
        known.push_front(RefusedHandshake { last: record.clone(), times: times.saturating_add(1) });
    }

    /// All of them, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<RefusedHandshake> {
        self.locked().iter().cloned().collect()
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<RefusedHandshake>> {
        // A panic elsewhere leaves at worst one entry out.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        testing::connection,
        tls::{Alert, TlsFailure},
    };

    use super::*;

    fn ended(source: &str, reason: Reason) -> Connection {
        Connection { reason: Some(reason), ..connection(source, "10.0.0.2:15008") }
    }

    fn tls(refusal: Refusal) -> Reason {
        Reason::Tls(TlsFailure::new(refusal, String::new(), None, None))
    }

    fn shown(refusals: &Refusals) -> Vec<(String, &'static str, u64)> {
        let word = |one: &RefusedHandshake| one.last.reason.as_ref().map_or("", Reason::as_str);
        refusals.list().iter().map(|one| (one.last.source.address.to_string(), word(one), one.times)).collect()
    }

    #[test]
    fn one_entry_for_each_peer_and_reason_the_latest_first() {
        let refusals = Refusals::default();
        let (expired, alert) = (Refusal::Expired, Refusal::Alert(Alert(48)));
        refusals.add(&ended("10.0.0.1:1000", tls(expired)));
        refusals.add(&ended("10.0.0.1:1001", tls(alert)));
        refusals.add(&ended("10.0.0.3:1000", tls(expired)));
        refusals.add(&ended("10.0.0.4:1000", Reason::Denied));
        refusals.add(&ended("10.0.0.1:1002", tls(expired)));
        let want = [("10.0.0.1:1002", expired, 2), ("10.0.0.3:1000", expired, 1), ("10.0.0.1:1001", alert, 1)];
        assert_eq!(shown(&refusals), want.map(|(from, refusal, times)| (from.to_owned(), refusal.as_str(), times)));
    }

    #[test]
    fn a_peer_that_is_refused_for_ever_is_one_entry() {
        let refusals = Refusals::default();
        refusals.add(&ended("10.0.0.1:1", tls(Refusal::Expired)));
        (0..1_000).for_each(|n| refusals.add(&ended(&format!("10.0.0.2:{}", n + 1), tls(Refusal::Protocol))));
        assert_eq!(shown(&refusals).last().unwrap().0, "10.0.0.1:1");
        (0..1_000_u32).for_each(|n| {
            refusals.add(&ended(&format!("10.1.{}.{}:1", n / 256, n % 256), tls(Refusal::Protocol)));
        });
        assert_eq!(refusals.list().len(), MOST);
        assert_eq!(shown(&refusals).last().unwrap().0, "10.1.3.132:1", "the oldest go");
    }
}
