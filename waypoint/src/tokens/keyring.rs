//! The keys of issuers, as all workers see them, by place. One worker fetches ([`super::fetch`]) and publishes; all read, and ask
//! and wait where a token needs keys that are not there. Its own file because many requests meet here at once.
//!
//! What must hold: there are entries for places that rules name, and none for what a token says; of each place one ask at most is
//! outstanding, however many requests need it; and what is published of one place wakes those alone that wait for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::{Notify, watch};
use underpass_core::jwt::{KeyPlace, KeysOf};

/// The keys of all places. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: RwLock<BTreeMap<KeyPlace, Arc<Entry>>>,
    /// Some entry is asked for.
    asked: Notify,
}

#[derive(Debug, Default)]
struct Entry {
    known: watch::Sender<KeysOf>,
    is_asked: AtomicBool,
}

impl Keyring {
    /// What is known of a place, and becomes known. It ends where no rule names the place any more.
    pub(super) fn of(&self, place: &KeyPlace) -> watch::Receiver<KeysOf> {
        self.entry(place).known.subscribe()
    }

    /// A token needs keys of this place that are not there.
    pub(super) fn ask(&self, place: &KeyPlace) {
        if !self.entry(place).is_asked.swap(true, Relaxed) {
            self.0.asked.notify_one();
        }
    }

    /// Completes when a place is asked for.
    pub(super) async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// The places that were asked for since the last call.
    pub(super) fn asks(&self) -> Vec<KeyPlace> {
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        let asked = entries.iter().filter(|(_, entry)| entry.is_asked.swap(false, Relaxed));
        asked.map(|(place, _)| place.clone()).collect()
    }

    /// This is known of a place now.
    pub(super) fn publish(&self, place: &KeyPlace, known: &KeysOf) {
        self.entry(place).known.send_if_modified(|before| {
            let is_other = before != known;
            if is_other {
                before.clone_from(known);
            }
            is_other
        });
    }

    /// Forgets the other places; what waits for them waits no longer.
    pub(super) fn retain(&self, is_wanted: impl Fn(&KeyPlace) -> bool) {
        self.write().retain(|place, _| is_wanted(place));
    }

    fn entry(&self, place: &KeyPlace) -> Arc<Entry> {
        let known = self.0.entries.read().unwrap_or_else(PoisonError::into_inner).get(place).cloned();
        known.unwrap_or_else(|| Arc::clone(self.write().entry(place.clone()).or_default()))
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<KeyPlace, Arc<Entry>>> {
        self.0.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(uri: &str) -> KeyPlace {
        KeyPlace::Uri(uri.into())
    }

    #[test]
    fn of_each_place_one_ask_is_outstanding() {
        let keyring = Keyring::default();
        for _ in 0..1000 {
            keyring.ask(&place("a"));
            keyring.ask(&place("b"));
        }
        assert_eq!(keyring.asks(), [place("a"), place("b")]);
        assert!(keyring.asks().is_empty());
        keyring.ask(&place("a"));
        assert_eq!(keyring.asks(), [place("a")], "a later one");
    }

    #[tokio::test]
    async fn an_ask_is_heard_later_too() {
        let keyring = Keyring::default();
        keyring.ask(&place("a"));
        keyring.asked().await;
        assert_eq!(keyring.asks(), [place("a")]);
    }

    #[tokio::test]
    async fn what_is_published_wakes_those_that_wait_for_it() {
        let keyring = Keyring::default();
        let mut of = ["a", "b"].map(|uri| keyring.of(&place(uri)));
        let mut publish = |ended| {
            keyring.publish(&place("a"), &KeysOf { ended, ..KeysOf::default() });
            of.each_mut().map(|known| {
                let has_changed = known.has_changed().expect("open");
                known.mark_unchanged();
                has_changed
            })
        };
        assert_eq!(
            [publish(0), publish(1), publish(1), publish(2)],
            [[false; 2], [true, false], [false; 2], [true, false]]
        );
        let [a, mut b] = of;
        keyring.retain(|known| *known == place("a"));
        assert!(b.wait_for(|known| known.ended == 1).await.is_err(), "nothing comes any more");
        assert_eq!((a.borrow().ended, a.has_changed().is_ok()), (2, true));
    }
}
