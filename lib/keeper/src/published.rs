//! The Worlds that were published and are still read by a follower. The keeper holds one reference to each of them and
//! drops it once no other is left: freeing a World takes time, which must never be that of a thread that serves connections.

use std::sync::Arc;

use underpass_core::World;

/// Published Worlds, the newest last.
#[derive(Debug, Default)]
pub(super) struct Published(Vec<Arc<World>>);

impl Published {
    /// From now on this one is the newest.
    pub(super) fn push(&mut self, world: Arc<World>) {
        self.0.push(world);
    }

    /// Frees those that no follower reads any more. How many are left.
    pub(super) fn free(&mut self) -> usize {
        // Only this list has a reference left, so that none can be added meanwhile.
        self.0.retain(|world| Arc::strong_count(world) > 1);
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::world::MeshSettings;

    use super::*;

    #[test]
    fn a_world_is_freed_here_and_only_once_it_is_read_no_more() {
        let mut published = Published::default();
        let worlds = [(); 3].map(|()| Arc::new(World::empty(MeshSettings::default())));
        let freed = worlds.each_ref().map(Arc::downgrade);
        worlds.iter().for_each(|world| published.push(Arc::clone(world)));
        let is_freed = || freed.each_ref().map(|world| world.strong_count() == 0);
        let [a, b, newest] = worlds;
        assert_eq!((published.free(), is_freed()), (3, [false; 3]));
        drop(b);
        assert_eq!(is_freed(), [false; 3], "a follower that lets go frees nothing");
        assert_eq!((published.free(), is_freed()), (2, [false, true, false]));
        drop(a);
        assert_eq!((published.free(), is_freed()), (1, [true, true, false]));
        drop(newest);
        assert_eq!(published.free(), 0);
    }
}
