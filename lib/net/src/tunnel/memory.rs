//! The memory of one pod's tunnels: bytes that wait for its applications, for peers, for an answer to CONNECT. They count
//! against the pod's [`Share`]. Where that runs short windows do not grow any more, streams queue less for their tunnels,
//! and early data waits for its answer; where it is used up the stream whose application has taken nothing for longest
//! is ended, until the pod is within its budget again.
//!
//! Worker-local, like the tunnels. What must hold: a stream is in `stalled` exactly as long as bytes of it wait for its
//! application.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::Arc,
};

use super::shared::SharedStream;
use crate::budget::{Level, Permit, Reservation, Share};

/// The memory of one pod's tunnels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    share: Arc<Share>,
    /// Streams whose applications do not take what is there, in the order in which they last took something.
    stalled: RefCell<BTreeMap<u64, Weak<SharedStream>>>,
    next: Cell<u64>,
}

/// What one tunnel counts against: memory and a socket.
#[derive(Debug)]
pub struct Charge {
    /// For the bytes that wait in it.
    pub memory: Memory,
    /// For its socket, given back when that is closed.
    pub permit: Permit,
}

impl Memory {
    /// The memory of the pod that has this share.
    #[must_use]
    pub fn new(share: Arc<Share>) -> Self {
        Self(Rc::new(Inner { share, stalled: RefCell::default(), next: Cell::new(0) }))
    }

    /// A reservation for bytes that wait; of none at first.
    #[must_use]
    pub fn reservation(&self) -> Reservation {
        self.0.share.reserve(0)
    }

    /// How much of its allowance the pod has used.
    #[must_use]
    pub fn level(&self) -> Level {
        self.0.share.level()
    }

    /// Puts a stream at the end of the line: it begins to wait, or its application took something. Its position, in the place of
    /// the one `before`.
    pub(super) fn add_stalled(&self, shared: &Rc<SharedStream>, before: Option<u64>) -> u64 {
        let mut stalled = self.0.stalled.borrow_mut();
        before.and_then(|position| stalled.remove(&position));
        let position = self.0.next.get();
        self.0.next.set(position.wrapping_add(1));
        stalled.insert(position, Rc::downgrade(shared));
        position
    }

    /// Takes a stream that waits no more out of the line.
    pub(super) fn remove_stalled(&self, position: u64) {
        self.0.stalled.borrow_mut().remove(&position);
    }

    /// Ends the longest-stalled streams until the pod is within its allowance.
    pub(super) fn make_room(&self) {
        while self.level() == Level::Over {
            let Some((_, longest)) = self.0.stalled.borrow_mut().pop_first() else { return };
            if let Some(shared) = longest.upgrade() {
                shared.give_up();
            }
        }
    }
}
