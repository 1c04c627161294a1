//! Who is here now: whoever enters gets a guard, and leaves with it, whatever ends the task that holds it. Worker-local.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use tokio::sync::Notify;

/// Those who are here.
pub(crate) struct List<T>(Rc<Inner<T>>);

struct Inner<T> {
    /// In the order in which they came.
    entries: RefCell<BTreeMap<u64, T>>,
    /// Somebody has left.
    left: Notify,
}

/// A place in a [`List`].
pub(crate) struct Entry<T> {
    list: Rc<Inner<T>>,
    number: u64,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Rc::new(Inner { entries: RefCell::default(), left: Notify::new() }))
    }
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<T> List<T> {
    /// One more, until what is returned is dropped.
    pub(crate) fn enter(&self, value: T) -> Entry<T> {
        let mut entries = self.0.entries.borrow_mut();
        let number = entries.last_key_value().map_or(0, |(last, _)| last.wrapping_add(1));
        entries.insert(number, value);
        Entry { list: Rc::clone(&self.0), number }
    }

    /// Nobody is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.entries.borrow().is_empty()
    }

    /// Those who are here; none of them may leave meanwhile.
    pub(crate) fn each(&self, f: impl FnMut(&T)) {
        self.0.entries.borrow().values().for_each(f);
    }

    /// Completes when nobody is here.
    pub(crate) async fn is_left(&self) {
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

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        let gone = self.list.entries.borrow_mut().remove(&self.number);
        self.list.left.notify_waiters();
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin, task::Poll};

    use super::*;

    #[test]
    fn whoever_is_gone_has_left() {
        let list = List::default();
        let here = || {
            let mut here = Vec::new();
            list.each(|name: &&str| here.push(*name));
            here
        };
        let (first, second) = (list.enter("a"), list.enter("b"));
        drop(first);
        let third = list.enter("c");
        assert_eq!(here(), ["b", "c"]);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut left = pin!(list.is_left());
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
        assert!(here().is_empty());
    }
}
