//! The tables in the kernel: operations are applied, contents are read back.
//!
//! What must hold: nothing is decided here; an operation that was applied can be applied again.
#![allow(unsafe_code, reason = "values are handed to the kernel byte by byte")]

use std::borrow::Borrow;
use std::io;

use aya::maps::{HashMap, Map as AyaMap, MapData, MapError};
use underpass_abi::{Address, CgroupId, Cookie, Destination, Full, LocalKey, Locality, Map, Marks, Op, Pod, Tuple};

use crate::error::{Error, Result};
use crate::pin::Pins;

/// A layout of the abi, as its bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Wire<T>(pub(crate) T);

macro_rules! plain {
    ($($layout:ty),+) => {
        $(
            // SAFETY: `repr(C)` or `repr(transparent)` over numbers, without padding, and valid for any bytes.
            unsafe impl aya::Pod for Wire<$layout> {}
        )+
    };
}
plain!(
    Address,
    CgroupId,
    Cookie,
    Destination,
    LocalKey,
    Locality,
    Marks,
    Pod,
    Tuple,
    underpass_abi::Attestation,
    underpass_abi::ListenerKey
);

type Table<K, V> = HashMap<MapData, Wire<K>, V>;

/// The tables that user space fills.
pub(crate) struct Tables {
    pods: Table<Cookie, Wire<Pod>>,
    locals: Table<LocalKey, Wire<Locality>>,
    mesh: Table<Address, Wire<Destination>>,
    agents: Table<CgroupId, u32>,
    pod_cgroups: Table<CgroupId, Wire<Cookie>>,
    attested: Table<Tuple, Wire<underpass_abi::Attestation>>,
}

/// Opens a pinned map as what aya knows about its kind.
pub(crate) fn open<T>(pins: &Pins, map: Map) -> Result<T>
where
    T: TryFrom<AyaMap, Error = MapError>,
{
    MapData::from_pin(pins.map(map))
        .and_then(AyaMap::from_map_data)
        .and_then(T::try_from)
        .map_err(Error::map("open", map.name()))
}

impl Tables {
    pub(crate) fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            pods: open(pins, Map::Pods)?,
            locals: open(pins, Map::Locals)?,
            mesh: open(pins, Map::Mesh)?,
            agents: open(pins, Map::Agents)?,
            pod_cgroups: open(pins, Map::PodCgroups)?,
            attested: open(pins, Map::Attested)?,
        })
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<()> {
        let map = op.map();
        match *op {
            Op::SetAgent(cgroup) => set(&mut self.agents, map, Wire(cgroup), 1),
            Op::SetLocal(key, locality) => set(&mut self.locals, map, Wire(key), Wire(locality)),
            Op::SetPodCgroup(cgroup, pod) => set(&mut self.pod_cgroups, map, Wire(cgroup), Wire(pod)),
            Op::SetDestination(address, destination) => set(&mut self.mesh, map, Wire(address), Wire(destination)),
            Op::SetPod(cookie, pod) => set(&mut self.pods, map, Wire(cookie), Wire(pod)),
            Op::RemovePod(cookie) => remove(&mut self.pods, map, Wire(cookie)),
            Op::RemoveDestination(address) => remove(&mut self.mesh, map, Wire(address)),
            Op::RemovePodCgroup(cgroup) => remove(&mut self.pod_cgroups, map, Wire(cgroup)),
            Op::RemoveLocal(key) => remove(&mut self.locals, map, Wire(key)),
            Op::RemoveAgent(cgroup) => remove(&mut self.agents, map, Wire(cgroup)),
        }
    }

    /// What is there, as the operations that would make it, by their rank.
    pub(crate) fn contents(&self) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        for key in self.agents.keys() {
            ops.push(Op::SetAgent(key.map_err(Error::map("read", Map::Agents.name()))?.0));
        }
        read(&self.locals, Map::Locals, |key, value| ops.push(Op::SetLocal(key, value.0)))?;
        read(&self.pod_cgroups, Map::PodCgroups, |key, value| ops.push(Op::SetPodCgroup(key, value.0)))?;
        read(&self.mesh, Map::Mesh, |key, value| ops.push(Op::SetDestination(key, value.0)))?;
        read(&self.pods, Map::Pods, |key, value| ops.push(Op::SetPod(key, value.0)))?;
        Ok(ops)
    }

    pub(crate) fn pods(&self) -> Result<usize> {
        let keys: std::result::Result<Vec<_>, _> = self.pods.keys().collect();
        Ok(keys.map_err(Error::map("read", Map::Pods.name()))?.len())
    }

    /// How many connections are attested.
    pub(crate) fn attested(&self) -> Result<usize> {
        let keys: std::result::Result<Vec<_>, _> = self.attested.keys().collect();
        Ok(keys.map_err(Error::map("read", Map::Attested.name()))?.len())
    }

    /// Takes out what is left of a pod: its attestations, its cgroups, its addresses.
    pub(crate) fn forget(&mut self, pod: Cookie) -> Result<()> {
        let mut attested = Vec::new();
        read(&self.attested, Map::Attested, |key, value: Wire<underpass_abi::Attestation>| {
            if value.0.pod == pod {
                attested.push(key);
            }
        })?;
        let mut ops = Vec::new();
        read(&self.pod_cgroups, Map::PodCgroups, |key, value: Wire<Cookie>| {
            if value.0 == pod {
                ops.push(Op::RemovePodCgroup(key));
            }
        })?;
        read(&self.locals, Map::Locals, |key, _| {
            if key.pod == pod {
                ops.push(Op::RemoveLocal(key));
            }
        })?;
        attested.into_iter().try_for_each(|key| remove(&mut self.attested, Map::Attested, Wire(key)))?;
        ops.iter().try_for_each(|op| self.apply(op))
    }
}

fn set<K, V>(table: &mut Table<K, V>, map: Map, key: Wire<K>, value: V) -> Result<()>
where
    Wire<K>: aya::Pod,
    V: aya::Pod,
{
    table.insert(key, value, 0).map_err(|source| failed("write", map, source))
}

fn remove<K, V>(table: &mut Table<K, V>, map: Map, key: Wire<K>) -> Result<()>
where
    Wire<K>: aya::Pod,
    V: aya::Pod,
{
    absent_is_removed(table.remove(&key), map)
}

fn read<K, V, T>(table: &HashMap<T, Wire<K>, V>, map: Map, mut each: impl FnMut(K, V)) -> Result<()>
where
    Wire<K>: aya::Pod,
    V: aya::Pod,
    T: Borrow<MapData>,
{
    for entry in table.iter() {
        let (key, value) = entry.map_err(Error::map("read", map.name()))?;
        each(key.0, value);
    }
    Ok(())
}

/// What removing answered; what was not there is removed already.
pub(crate) fn absent_is_removed(answer: std::result::Result<(), MapError>, map: Map) -> Result<()> {
    match answer {
        Err(source) if code(&source) != Some(libc::ENOENT) => Err(failed("change", map, source)),
        _ => Ok(()),
    }
}

/// A failure to write: the kernel answers E2BIG where a table has no room.
pub(crate) fn failed(operation: &'static str, map: Map, source: MapError) -> Error {
    if code(&source) == Some(libc::E2BIG) {
        return Full { map, limit: map.limit() }.into();
    }
    Error::Map { operation, object: map.name(), source }
}

fn code(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(call) => call.io_error.raw_os_error(),
        MapError::IoError(error) => io::Error::raw_os_error(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32) -> MapError {
        MapError::IoError(io::Error::from_raw_os_error(code))
    }

    #[test]
    fn a_full_table_is_a_typed_error() {
        let error = failed("write", Map::Mesh, answer(libc::E2BIG));
        assert!(matches!(error, Error::Full(Full { map: Map::Mesh, limit: underpass_abi::limits::MESH })), "{error}");
        assert!(matches!(failed("write", Map::Mesh, answer(libc::ENOMEM)), Error::Map { object: "MESH", .. }));
    }

    #[test]
    fn removing_what_is_absent_is_no_failure() {
        assert!(absent_is_removed(Err(answer(libc::ENOENT)), Map::Pods).is_ok());
        assert!(absent_is_removed(Err(answer(libc::EPERM)), Map::Pods).is_err());
        assert!(absent_is_removed(Ok(()), Map::Pods).is_ok());
    }
}
