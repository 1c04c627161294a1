//! The data path in memory: `abi::decide` over hash maps, for tests and for an agent without a kernel. Cheap to clone:
//! clones share the tables, so that a test can read what the agent has made of them.

use std::{
    collections::BTreeSet,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use underpass_abi::{Cookie, Direction, ListenerKey, Map, Marks, Op, memory::Memory};

use super::{DataPath, Result};
use crate::tables::Tables;

/// Tables in memory.
#[derive(Clone, Debug)]
pub struct InMemory {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    tables: Memory,
    steered: BTreeSet<Cookie>,
}

impl InMemory {
    /// Empty ones.
    #[must_use]
    pub fn new(marks: Marks) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { tables: Memory::new(marks), steered: BTreeSet::new() })) }
    }

    /// The same, with room for so many entries in this table.
    #[must_use]
    pub fn with_capacity(self, map: Map, entries: u32) -> Self {
        self.with(|tables| *tables = std::mem::take(tables).with_capacity(map, entries));
        self
    }

    /// Reads or changes the tables, as the kernel's hooks do.
    pub fn with<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.lock().tables)
    }

    /// Nothing is left half-done where a holder of the lock panics: every operation is one change.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DataPath for InMemory {
    fn apply(&mut self, ops: &[Op]) -> Result<()> {
        Ok(self.lock().tables.apply(ops)?)
    }

    fn capacity(&self, map: Map) -> u32 {
        self.lock().tables.capacity(map)
    }

    fn contents(&self) -> Result<Vec<Op>> {
        Ok(self.lock().tables.contents())
    }

    fn attach_pod(&mut self, pod: Cookie, _netns: BorrowedFd<'_>) -> Result<()> {
        self.lock().steered.insert(pod);
        Ok(())
    }

    fn detach_pod(&mut self, pod: Cookie) -> Result<()> {
        self.lock().steered.remove(&pod);
        Ok(())
    }

    fn pods(&self) -> Result<Vec<Cookie>> {
        Ok(self.lock().steered.iter().copied().collect())
    }

    fn insert_listener(&mut self, key: ListenerKey, _listener: BorrowedFd<'_>) -> Result<()> {
        Ok(self.lock().tables.insert_listener(key)?)
    }

    fn remove_listener(&mut self, key: &ListenerKey) -> Result<()> {
        self.lock().tables.remove_listener(key);
        Ok(())
    }

    fn purge(&mut self, pod: Cookie) -> Result<()> {
        let mut inner = self.lock();
        let ops = Tables::from_ops(&inner.tables.contents()).without_pod(pod);
        inner.tables.apply(&ops)?;
        for direction in [Direction::OUTBOUND, Direction::INBOUND] {
            inner.tables.remove_listener(&ListenerKey { pod, direction });
        }
        inner.steered.remove(&pod);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use underpass_abi::{Address, CgroupId, Phase, Pod};

    use super::*;

    #[test]
    fn purging_leaves_nothing_of_the_pod_and_everything_of_others() {
        let mut path = InMemory::new(Marks::DEFAULT);
        let file = std::fs::File::open("/proc/self/ns/net").expect("own namespace");
        let pod = Pod::new(Address::UNSPECIFIED, Address::UNSPECIFIED, Phase::ENROLLED);
        for cookie in [Cookie(1), Cookie(2)] {
            let key = ListenerKey { pod: cookie, direction: Direction::OUTBOUND };
            path.insert_listener(key, file.as_fd()).expect("room");
            path.attach_pod(cookie, file.as_fd()).expect("attached");
            path.apply(&[Op::SetPodCgroup(CgroupId(cookie.0), cookie), Op::SetPod(cookie, pod)]).expect("room");
        }
        let observer = path.clone();
        path.purge(Cookie(1)).expect("purged");
        assert_eq!(path.pods().expect("listed"), [Cookie(2)]);
        let left = observer.with(|tables| [Map::Pods, Map::PodCgroups, Map::Listeners].map(|map| tables.len(map)));
        assert_eq!(left, [1, 1, 1]);
        assert_eq!(path.contents().expect("listed").len(), 2);
    }
}
