//! The tables in the kernel: operations are applied, contents are read back; those of this build's version, and of each earlier
//! one that it knows.
//!
//! What must hold: nothing is decided here; an operation that was applied can be applied again.
#![allow(unsafe_code, reason = "values are handed to the kernel byte by byte")]

use std::borrow::Borrow;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{HashMap, Map as AyaMap, MapData, MapError, MapInfo};
use aya_obj::generated::bpf_map_type;
use underpass_abi::layout::{self, Layout};
use underpass_abi::{Address, CgroupId, Cookie, Full, LocalKey, Locality, Map, Marks, Op, ProbeKey, Tuple};

use crate::error::{Error, Result};
use crate::pin::Pins;

/// A kernel layout of the abi as plain bytes, as aya asks of keys and values.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct KernelLayout<T>(pub(crate) T);

macro_rules! plain {
    ($($layout:ty),+) => {
        $(
            // SAFETY: `repr(C)` or `repr(transparent)` over numbers, without padding, and valid for any bytes.
            unsafe impl aya::Pod for KernelLayout<$layout> {}
        )+
    };
}
plain!(
    Address,
    CgroupId,
    Cookie,
    LocalKey,
    Locality,
    Marks,
    ProbeKey,
    Tuple,
    underpass_abi::Attestation,
    underpass_abi::ListenerKey,
    layout::v3::Pod,
    layout::v3::Destination
);
#[cfg(feature = "next")]
plain!(layout::next::Pod, layout::next::Destination);

/// The tables of one version that user space fills.
pub(crate) trait Tables: Send {
    /// Applies one operation; applied again it changes nothing.
    fn apply(&mut self, op: &Op) -> Result<()>;

    /// The contents, as the operations that would make them, by their rank.
    fn contents(&self) -> Result<Vec<Op>>;

    /// The operations that remove a pod's probe targets, cgroups and addresses.
    fn of_pod(&self, pod: Cookie) -> Result<Vec<Op>>;

    /// The capacity of the table of the mesh, in entries.
    fn mesh_entries(&self) -> u32;
}

/// A version whose tables this build can read and write.
struct Known {
    version: u32,
    open: fn(&Pins) -> Result<Box<dyn Tables>>,
    create: fn(&Pins, mesh_entries: u32) -> Result<()>,
}

const fn known<L: Layout + 'static>() -> Known
where
    KernelLayout<L::Pod>: aya::Pod,
    KernelLayout<L::Destination>: aya::Pod,
    L::Pod: Send,
    L::Destination: Send,
{
    Known { version: L::VERSION, open: |pins| Ok(Box::new(Pinned::<L>::open(pins)?)), create: create::<L> }
}

/// This build's version, and each earlier one.
const VERSIONS: &[Known] = &[
    known::<layout::V3>(),
    #[cfg(feature = "next")]
    known::<layout::Next>(),
];

fn find(version: u32) -> Result<&'static Known> {
    VERSIONS.iter().find(|known| known.version == version).ok_or(Error::UnknownVersion { version })
}

/// Whether this build can read and write the tables of this version.
#[must_use]
pub fn is_known(version: u32) -> bool {
    find(version).is_ok()
}

/// Opens the pinned tables of a version.
///
/// # Errors
/// [`Error::UnknownVersion`], or they cannot be opened.
pub(crate) fn open_version(pins: &Pins, version: u32) -> Result<Box<dyn Tables>> {
    (find(version)?.open)(pins)
}

/// Makes and pins the tables of a version, empty. The tables that only its programs need are left to that version's agent.
///
/// # Errors
/// [`Error::UnknownVersion`], or a table cannot be made.
pub(crate) fn create_version(pins: &Pins, version: u32, mesh_entries: u32) -> Result<()> {
    (find(version)?.create)(pins, mesh_entries)
}

type Table<K, V> = HashMap<MapData, KernelLayout<K>, V>;

/// Tables that are pinned.
struct Pinned<L: Layout>
where
    KernelLayout<L::Pod>: aya::Pod,
    KernelLayout<L::Destination>: aya::Pod,
{
    pods: Table<Cookie, KernelLayout<L::Pod>>,
    locals: Table<LocalKey, KernelLayout<Locality>>,
    mesh: Table<Address, KernelLayout<L::Destination>>,
    agents: Table<CgroupId, u32>,
    pod_cgroups: Table<CgroupId, KernelLayout<Cookie>>,
    probes: Table<ProbeKey, KernelLayout<Cookie>>,
    kubelets: Table<CgroupId, KernelLayout<Cookie>>,
    mesh_entries: u32,
}

impl<L: Layout> Pinned<L>
where
    KernelLayout<L::Pod>: aya::Pod,
    KernelLayout<L::Destination>: aya::Pod,
{
    fn open(pins: &Pins) -> Result<Self> {
        let path = |map| pins.map(L::VERSION, map);
        let mesh = MapInfo::from_pin(path(Map::Mesh)).map_err(Error::map("open", Map::Mesh.name()))?;
        Ok(Self {
            pods: open(&path(Map::Pods), Map::Pods)?,
            locals: open(&path(Map::Locals), Map::Locals)?,
            mesh: open(&path(Map::Mesh), Map::Mesh)?,
            agents: open(&path(Map::Agents), Map::Agents)?,
            pod_cgroups: open(&path(Map::PodCgroups), Map::PodCgroups)?,
            probes: open(&path(Map::Probes), Map::Probes)?,
            kubelets: open(&path(Map::Kubelets), Map::Kubelets)?,
            mesh_entries: mesh.max_entries(),
        })
    }
}

impl<L: Layout> Tables for Pinned<L>
where
    KernelLayout<L::Pod>: aya::Pod + Send,
    KernelLayout<L::Destination>: aya::Pod + Send,
{
    fn apply(&mut self, op: &Op) -> Result<()> {
        let map = op.map();
        match *op {
            Op::SetAgent(cgroup) => set(&mut self.agents, map, KernelLayout(cgroup), 1),
            Op::SetLocal(key, locality) => set(&mut self.locals, map, KernelLayout(key), KernelLayout(locality)),
            Op::SetPodCgroup(cgroup, pod) => set(&mut self.pod_cgroups, map, KernelLayout(cgroup), KernelLayout(pod)),
            Op::SetKubelet(cgroup, node) => set(&mut self.kubelets, map, KernelLayout(cgroup), KernelLayout(node)),
            Op::SetProbe(key, pod) => set(&mut self.probes, map, KernelLayout(key), KernelLayout(pod)),
            Op::SetDestination(address, destination) => {
                set(&mut self.mesh, map, KernelLayout(address), KernelLayout(destination.into()))
            }
            Op::SetPod(cookie, pod) => set(&mut self.pods, map, KernelLayout(cookie), KernelLayout(pod.into())),
            Op::RemoveKubelet(cgroup) => remove(&mut self.kubelets, map, KernelLayout(cgroup)),
            Op::RemoveProbe(key) => remove(&mut self.probes, map, KernelLayout(key)),
            Op::RemovePod(cookie) => remove(&mut self.pods, map, KernelLayout(cookie)),
            Op::RemoveDestination(address) => remove(&mut self.mesh, map, KernelLayout(address)),
            Op::RemovePodCgroup(cgroup) => remove(&mut self.pod_cgroups, map, KernelLayout(cgroup)),
            Op::RemoveLocal(key) => remove(&mut self.locals, map, KernelLayout(key)),
            Op::RemoveAgent(cgroup) => remove(&mut self.agents, map, KernelLayout(cgroup)),
        }
    }

    fn contents(&self) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        for key in self.agents.keys() {
            ops.push(Op::SetAgent(key.map_err(Error::map("read", Map::Agents.name()))?.0));
        }
        read(&self.locals, Map::Locals, |key, value| ops.push(Op::SetLocal(key, value.0)))?;
        read(&self.pod_cgroups, Map::PodCgroups, |key, value| ops.push(Op::SetPodCgroup(key, value.0)))?;
        read(&self.kubelets, Map::Kubelets, |key, value| ops.push(Op::SetKubelet(key, value.0)))?;
        read(&self.probes, Map::Probes, |key, value| ops.push(Op::SetProbe(key, value.0)))?;
        read(&self.mesh, Map::Mesh, |key, value| ops.push(Op::SetDestination(key, value.0.into())))?;
        read(&self.pods, Map::Pods, |key, value| ops.push(Op::SetPod(key, value.0.into())))?;
        Ok(ops)
    }

    fn of_pod(&self, pod: Cookie) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        read(&self.probes, Map::Probes, |key, value: KernelLayout<Cookie>| {
            if value.0 == pod {
                ops.push(Op::RemoveProbe(key));
            }
        })?;
        read(&self.pod_cgroups, Map::PodCgroups, |key, value: KernelLayout<Cookie>| {
            if value.0 == pod {
                ops.push(Op::RemovePodCgroup(key));
            }
        })?;
        read(&self.locals, Map::Locals, |key, _| {
            if key.pod == pod {
                ops.push(Op::RemoveLocal(key));
            }
        })?;
        Ok(ops)
    }

    fn mesh_entries(&self) -> u32 {
        self.mesh_entries
    }
}

/// The attested connections, by the programs of any version.
pub(crate) struct Attested(Table<Tuple, KernelLayout<underpass_abi::Attestation>>);

impl Attested {
    pub(crate) fn open(pins: &Pins) -> Result<Self> {
        open(&pins.map(underpass_abi::VERSION, Map::Attested), Map::Attested).map(Self)
    }

    /// The number of attested connections.
    pub(crate) fn len(&self) -> Result<usize> {
        let keys: std::result::Result<Vec<_>, _> = self.0.keys().collect();
        Ok(keys.map_err(Error::map("read", Map::Attested.name()))?.len())
    }

    /// Takes out the connections of a pod.
    pub(crate) fn forget(&mut self, pod: Cookie) -> Result<()> {
        let mut of_pod = Vec::new();
        read(&self.0, Map::Attested, |key, value: KernelLayout<underpass_abi::Attestation>| {
            if value.0.pod == pod {
                of_pod.push(key);
            }
        })?;
        of_pod.into_iter().try_for_each(|key| remove(&mut self.0, Map::Attested, KernelLayout(key)))
    }
}

/// Opens a pinned map as what aya knows about its kind.
pub(crate) fn open<T>(path: &Path, map: Map) -> Result<T>
where
    T: TryFrom<AyaMap, Error = MapError>,
{
    MapData::from_pin(path)
        .and_then(AyaMap::from_map_data)
        .and_then(T::try_from)
        .map_err(Error::map("open", map.name()))
}

/// BPF_F_NO_PREALLOC (linux/bpf.h).
const NO_PREALLOC: u32 = 1;

/// Makes the tables of a version as its programs declare them.
fn create<L: Layout>(pins: &Pins, mesh_entries: u32) -> Result<()> {
    let sizes = [
        (Map::Agents, size_of::<CgroupId>(), size_of::<u32>()),
        (Map::Locals, size_of::<LocalKey>(), size_of::<Locality>()),
        (Map::PodCgroups, size_of::<CgroupId>(), size_of::<Cookie>()),
        (Map::Kubelets, size_of::<CgroupId>(), size_of::<Cookie>()),
        (Map::Probes, size_of::<ProbeKey>(), size_of::<Cookie>()),
        (Map::Mesh, size_of::<Address>(), size_of::<L::Destination>()),
        (Map::Pods, size_of::<Cookie>(), size_of::<L::Pod>()),
    ];
    for (map, key, value) in sizes {
        let entries = if map == Map::Mesh { mesh_entries } else { map.limit() };
        let flags = if map.is_preallocated() { 0 } else { NO_PREALLOC };
        let kind = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
        let definition = aya_obj::Map::new_from_params(kind, key as u32, value as u32, entries, flags);
        let made = MapData::create(definition, map.name(), None).map_err(Error::map("create", map.name()))?;
        let path = pins.map(L::VERSION, map);
        crate::sys::pin(made.fd().as_fd(), &path).map_err(Error::system("pin", path.display()))?;
    }
    Ok(())
}

fn set<K, V>(table: &mut Table<K, V>, map: Map, key: KernelLayout<K>, value: V) -> Result<()>
where
    KernelLayout<K>: aya::Pod,
    V: aya::Pod,
{
    table.insert(key, value, 0).map_err(|source| failed("write", map, source))
}

fn remove<K, V>(table: &mut Table<K, V>, map: Map, key: KernelLayout<K>) -> Result<()>
where
    KernelLayout<K>: aya::Pod,
    V: aya::Pod,
{
    absent_is_removed(table.remove(&key), map)
}

fn read<K, V, T>(table: &HashMap<T, KernelLayout<K>, V>, map: Map, mut each: impl FnMut(K, V)) -> Result<()>
where
    KernelLayout<K>: aya::Pod,
    V: aya::Pod,
    T: Borrow<MapData>,
{
    for entry in table.iter() {
        let (key, value) = entry.map_err(Error::map("read", map.name()))?;
        each(key.0, value);
    }
    Ok(())
}

/// The answer to a removal; an absent entry is removed already.
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
