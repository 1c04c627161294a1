//! The kernel as the data path: through the loader, which has the same operations. Its own file so that [`super`] reads
//! without it.

use std::os::fd::BorrowedFd;

use underpass_abi::{Cookie, ListenerKey, Map, Op};
use underpass_loader::Kernel;

use super::{DataPath, Result};

impl DataPath for Kernel {
    fn apply(&mut self, ops: &[Op]) -> Result<()> {
        Ok(self.apply(ops)?)
    }

    fn capacity(&self, map: Map) -> u32 {
        self.capacity(map)
    }

    fn contents(&self) -> Result<Vec<Op>> {
        Ok(self.contents()?)
    }

    fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> Result<()> {
        Ok(self.attach_pod(pod, netns)?)
    }

    fn detach_pod(&mut self, pod: Cookie) -> Result<()> {
        Ok(self.detach_pod(pod)?)
    }

    fn pods(&self) -> Result<Vec<Cookie>> {
        Ok(self.pods()?)
    }

    fn insert_listener(&mut self, key: ListenerKey, listener: BorrowedFd<'_>) -> Result<()> {
        Ok(self.insert_listener(key, listener)?)
    }

    fn remove_listener(&mut self, key: &ListenerKey) -> Result<()> {
        Ok(self.remove_listener(key)?)
    }

    fn purge(&mut self, pod: Cookie) -> Result<()> {
        Ok(self.purge(pod)?)
    }

    fn commit(&mut self) -> Result<()> {
        Ok(self.commit()?)
    }

    fn restore(&mut self) -> Result<()> {
        Ok(self.restore()?)
    }

    fn write_tables(&mut self, version: u32) -> Result<()> {
        Ok(Kernel::write_tables(self, version)?)
    }
}
