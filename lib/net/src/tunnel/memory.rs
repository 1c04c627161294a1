//! The bytes that wait in the tunnels of one pod: for its applications, for peers, for an answer to CONNECT. They count
//! against the pod's [`Share`]. Where that runs short windows do not grow any more, streams queue less for their tunnels,
//! and early data waits for its answer; where it is used up the stream whose application has taken nothing for longest
//! is ended, until the pod is within its budget again.
//!
//! Worker-local, like the tunnels. What must hold: a lane that waits for its application is in `stalled` exactly as long
//! as it holds bytes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::Arc,
};

use super::lane::Lane;
use crate::budget::{Held, Level, Share};

/// The memory of one pod's tunnels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    share: Arc<Share>,
    /// Lanes whose applications do not take what is there, in the order in which they last took something.
    stalled: RefCell<BTreeMap<u64, Weak<Lane>>>,
    next: Cell<u64>,
}

/// What one tunnel is charged to.
#[derive(Debug)]
pub struct Charge {
    /// The bytes that wait in it.
    pub memory: Memory,
    /// Its socket, given back when that is closed.
    pub place: Held,
}

impl Memory {
    /// Of a pod that may hold so much.
    #[must_use]
    pub fn new(share: Arc<Share>) -> Self {
        Self(Rc::new(Inner { share, stalled: RefCell::default(), next: Cell::new(0) }))
    }

    /// For bytes that wait somewhere; none at first.
    #[must_use]
    pub fn held(&self) -> Held {
        self.0.share.hold(0)
    }

    /// How the pod stands.
    #[must_use]
    pub fn level(&self) -> Level {
        self.0.share.level()
    }

    /// A lane's application took something, or the lane begins to wait. Its place in line, instead of the one that it had.
    pub(super) fn stalls(&self, lane: &Rc<Lane>, before: Option<u64>) -> u64 {
        let mut stalled = self.0.stalled.borrow_mut();
        before.and_then(|place| stalled.remove(&place));
        let place = self.0.next.get();
        self.0.next.set(place.wrapping_add(1));
        stalled.insert(place, Rc::downgrade(lane));
        place
    }

    /// A lane waits no more.
    pub(super) fn moves(&self, place: u64) {
        self.0.stalled.borrow_mut().remove(&place);
    }

    /// Ends the longest-stalled lanes until the pod holds no more than it may.
    pub(super) fn make_room(&self) {
        while self.level() == Level::Over {
            let Some((_, longest)) = self.0.stalled.borrow_mut().pop_first() else { return };
            if let Some(lane) = longest.upgrade() {
                lane.give_up();
            }
        }
    }
}
