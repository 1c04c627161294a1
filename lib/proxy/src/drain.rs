//! Groups of open connections and tunnels, for draining: each member has a guard and leaves when it is dropped, however its task
//! ends. A drain ends when the last guard has been dropped. Worker-local.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use tokio::sync::Notify;

/// A group of members, each with a value, until their guards are dropped.
pub struct Group<T>(Rc<Inner<T>>);

struct Inner<T> {
    /// In the order in which they entered.
    entries: RefCell<BTreeMap<u64, T>>,
    /// Wakes drains when a member has left.
    left: Notify,
}

/// Membership of a [`Group`].
#[must_use = "dropped, it leaves the group"]
pub struct Guard<T> {
    group: Rc<Inner<T>>,
    number: u64,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self(Rc::new(Inner { entries: RefCell::default(), left: Notify::new() }))
    }
}

impl<T> fmt::Debug for Guard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<T> Group<T> {
    /// Adds a member, until its guard is dropped.
    pub fn enter(&self, value: T) -> Guard<T> {
        let mut entries = self.0.entries.borrow_mut();
        let number = entries.last_key_value().map_or(0, |(last, _)| last.wrapping_add(1));
        entries.insert(number, value);
        Guard { group: Rc::clone(&self.0), number }
    }

    /// True without members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.entries.borrow().is_empty()
    }

    /// Calls `f` for every member; none of them may leave meanwhile.
    pub fn each(&self, f: impl FnMut(&T)) {
        self.0.entries.borrow().values().for_each(f);
    }

    /// Completes when no member is left.
    pub async fn emptied(&self) {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.0.entries.borrow().is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        let gone = self.group.entries.borrow_mut().remove(&self.number);
        self.group.left.notify_waiters();
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin, task::Poll};

    use super::*;

    #[test]
    fn a_member_leaves_when_its_guard_is_dropped() {
        let group = Group::default();
        let members = || {
            let mut members = Vec::new();
            group.each(|name: &&str| members.push(*name));
            members
        };
        let (first, second) = (group.enter("a"), group.enter("b"));
        drop(first);
        let third = group.enter("c");
        assert_eq!(members(), ["b", "c"]);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut left = pin!(group.emptied());
        assert_eq!(left.as_mut().poll(&mut context), Poll::Pending);
        drop(third);
        assert_eq!(left.as_mut().poll(&mut context), Poll::Pending);
        // A panic is an end like any other.
        let panics = std::panic::AssertUnwindSafe(|| {
            let _second = second;
            panic!("of a connection");
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(left.as_mut().poll(&mut context), Poll::Ready(()));
        assert!(members().is_empty());
    }
}
