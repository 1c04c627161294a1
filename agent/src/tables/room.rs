//! The table of a mesh with more addresses than the kernel has room for: its entries, and the order in which they change. Its own
//! file because nothing else has to know that a table can be full.
//!
//! What must hold: while an address of the mesh is not in the table, [`ANY_OTHER`] is, so that connections to what is not
//! there are captured and the tunnel asks the World. It comes first and goes last, and one entry is always kept for it.

use std::collections::BTreeSet;

use underpass_abi::{ANY_OTHER, Destination, Map, Op};

use super::Tables;

impl Tables {
    /// Some addresses have no entry of their own.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.mesh.contains_key(&ANY_OTHER)
    }

    /// Cut down to a table of `capacity` entries where it does not fit; what is `there` already stays there.
    #[must_use]
    pub fn within(mut self, there: &Self, capacity: usize) -> Self {
        if !fits(self.mesh.len(), capacity) {
            let in_order = self.mesh.keys().map(|address| (!there.mesh.contains_key(address), address.ip()));
            let in_order: BTreeSet<_> = in_order.collect();
            for (_, ip) in in_order.into_iter().skip(capacity.saturating_sub(1)) {
                self.mesh.remove(&ip.into());
            }
            self.mesh.insert(ANY_OTHER, Destination::TUNNEL);
        }
        self
    }

    /// Whether everything fits, on the way and at the end, if these operations are applied.
    #[must_use]
    pub fn has_room(&self, ops: &[Op], capacity: usize) -> bool {
        !self.is_cut() && fits(self.mesh.len() + self.new_destinations(ops), capacity)
    }

    fn new_destinations(&self, ops: &[Op]) -> usize {
        let is_new = |op: &&Op| matches!(op, Op::SetDestination(address, _) if !self.mesh.contains_key(address));
        ops.iter().filter(is_new).count()
    }
}

/// One entry is kept for [`ANY_OTHER`].
const fn fits(addresses: usize, capacity: usize) -> bool {
    addresses < capacity
}

/// The order of operations that change `there`, where what comes and what goes may not fit into the table together: everything
/// else is captured meanwhile, what goes makes room for what comes.
#[must_use]
pub fn ordered_for_room(mut ops: Vec<Op>, there: &Tables, capacity: usize) -> Vec<Op> {
    if there.has_room(&ops, capacity) {
        return ops;
    }
    let cuts = |op: &Op| matches!(op, Op::SetDestination(address, _) if *address == ANY_OTHER);
    let heals = |op: &Op| matches!(op, Op::RemoveDestination(address) if *address == ANY_OTHER);
    let stays_cut = if there.is_cut() { !ops.iter().any(heals) } else { ops.iter().any(cuts) };
    ops.retain(|op| !cuts(op) && !heals(op));
    if !there.is_cut() {
        ops.push(Op::SetDestination(ANY_OTHER, Destination::TUNNEL));
    }
    let mut end = Vec::new();
    if !stays_cut {
        end.push(Op::RemoveDestination(ANY_OTHER));
    }
    let (mut destinations, others): (Vec<_>, Vec<_>) =
        ops.into_iter().partition(|op| matches!(op, Op::SetDestination(..) | Op::RemoveDestination(_)));
    destinations.sort_by_key(|op| (!cuts(op), matches!(op, Op::SetDestination(..))));
    // Where destinations come in the usual order: before the pods.
    let is_before = |op: &Op| op.map() != Map::Pods && !matches!(op, Op::RemovePodCgroup(_) | Op::RemoveAgent(_));
    let before = others.iter().take_while(|op| is_before(op)).count();
    let (before, after) = others.split_at(before);
    [before, &destinations, after, &end].concat()
}
