//! Open connections after a change of World: those that it may concern are judged again, and end where it denies them. Its
//! own file because everything about the race of a change with a connection being opened is here and in
//! [`Track::open`](crate::track::Track::open).
//!
//! What must hold: after [`Worker::exchange_world`] every connection that is registered is one that the new World allows,
//! or has been told to end; one that is registered later is checked then.

use std::sync::Arc;

use underpass_core::{
    World,
    authz::Verdict,
    rejudge::{self, Changes},
};

use crate::{track::Live, worker::Worker};

impl Worker {
    /// From here on this worker goes by `world`.
    pub(crate) fn exchange_world(&self, world: Arc<World>) {
        let old = self.world.replace(Arc::clone(&world));
        let mut changes = Changes::new(&old, &world);
        for live in self.live.borrow_mut().values_mut() {
            match &mut live.judged {
                Some(judged) if changes.may_concern(judged) => judge(&world, live),
                Some(judged) => judged.judged_at = world.version(),
                None => {}
            }
        }
    }

    /// Judges a connection that has just been registered, where the World has changed since it was judged.
    pub(crate) fn judge_again(&self, id: u64) {
        let world = self.world();
        if let Some(live) = self.live.borrow_mut().get_mut(&id) {
            judge(&world, live);
        }
    }
}

/// One that is denied ends.
fn judge(world: &World, live: &mut Live) {
    let Some(judged) = live.judged.as_mut().filter(|judged| judged.judged_at != world.version()) else { return };
    match rejudge::check(world, judged) {
        Verdict::Allow { .. } => judged.judged_at = world.version(),
        Verdict::Deny { policy, reason } => live.cancel.cancel(reason, policy),
    }
}
