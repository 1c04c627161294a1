//! The node's kernel data path: loaded, attached, adopted, taken away.
//!
//! ```text
//! attach   load everything -> each pod's steer -> stamp -> on_tcp -> bind4 -> bind6 -> guard -> connect4 -> connect6
//! remove   connect6 -> connect4 -> bind6 -> bind4 -> stamp -> each pod's steer -> on_tcp -> guard -> maps
//! ```
//! What must hold: nothing is attached or replaced before all of it has passed the verifier; what captures comes last and
//! goes first, or packets would be marked that nobody takes; `guard` goes last, or open connections would continue in the
//! clear.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use aya::maps::MapInfo;
use aya::programs::{CgroupSkb, CgroupSock, CgroupSockAddr, ProgramError, ProgramFd, SockOps, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_attach_type;
use underpass_abi::{Cookie, Counter, ListenerKey, Map, Op};

use crate::Settings;
use crate::error::{Error, ObjectError, Result};
use crate::kernel_log::KernelLog;
use crate::link::{self, Target};
use crate::listeners::Listeners;
use crate::object::{Template, object};
use crate::pin::Pins;
use crate::reports::Counts;
use crate::sys;
use crate::tables::{Tables, Wire};

/// A program of the node.
struct NodeProgram {
    name: &'static str,
    attach_type: bpf_attach_type,
    load: fn(&mut Ebpf, &'static str) -> Result<()>,
}

/// In the order in which they are attached.
const NODE_PROGRAMS: [NodeProgram; 7] = [
    NodeProgram { name: "stamp", attach_type: bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE, load: load::<CgroupSock> },
    NodeProgram { name: "on_tcp", attach_type: bpf_attach_type::BPF_CGROUP_SOCK_OPS, load: load::<SockOps> },
    NodeProgram { name: BIND4, attach_type: bpf_attach_type::BPF_CGROUP_INET4_BIND, load: load::<CgroupSockAddr> },
    NodeProgram { name: BIND6, attach_type: bpf_attach_type::BPF_CGROUP_INET6_BIND, load: load::<CgroupSockAddr> },
    NodeProgram { name: GUARD, attach_type: bpf_attach_type::BPF_CGROUP_INET_EGRESS, load: load::<CgroupSkb> },
    NodeProgram {
        name: CONNECT4,
        attach_type: bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
        load: load::<CgroupSockAddr>,
    },
    NodeProgram {
        name: CONNECT6,
        attach_type: bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        load: load::<CgroupSockAddr>,
    },
];
const BIND4: &str = "bind4";
const BIND6: &str = "bind6";
const CONNECT4: &str = "connect4";
const CONNECT6: &str = "connect6";
const GUARD: &str = "guard";
/// In the order in which they are taken away; between the two halves go the programs of the pods.
const FIRST_TO_GO: [&str; 5] = [CONNECT6, CONNECT4, BIND6, BIND4, "stamp"];
const LAST_TO_GO: [&str; 2] = ["on_tcp", GUARD];

/// aya's program types, each with a `load` of its own.
trait Load {
    fn load(&mut self) -> std::result::Result<(), ProgramError>;
}
macro_rules! load {
    ($($program:ty),+) => {
        $(impl Load for $program {
            fn load(&mut self) -> std::result::Result<(), ProgramError> {
                <$program>::load(self)
            }
        })+
    };
}
load!(CgroupSkb, CgroupSock, CgroupSockAddr, SockOps);

fn load<T: Load>(ebpf: &mut Ebpf, name: &'static str) -> Result<()>
where
    for<'a> &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(ObjectError::NoProgram(name))?;
    let program: &mut T = program.try_into().map_err(|_| ObjectError::OtherType(name))?;
    program.load().map_err(|source| Error::Program {
        operation: "load program",
        object: name,
        source: Box::new(source),
    })
}

/// The kernel data path of one node.
pub struct Kernel {
    pins: Pins,
    template: Option<Template>,
    log: Option<KernelLog>,
    mesh_entries: u32,
    tables: Tables,
    listeners: Listeners,
    counts: Counts,
}

impl Kernel {
    /// Loads the programs, makes or adopts the pinned maps, and makes or updates the links. What an earlier agent left in
    /// the tables stays: it is read with [`Self::contents`] and brought up to date by the caller.
    ///
    /// # Errors
    /// Nothing is attached or replaced when a program or map is refused. Pins of another version are refused.
    pub fn attach(settings: &Settings) -> Result<Self> {
        let object = object(settings.log)?;
        let pins = Pins::new(settings);
        if let Some(path) = pins.of_other_version()? {
            return Err(Error::OtherVersion { path });
        }
        pins.create()?;
        check_layouts(settings, &pins)?;
        let mut ebpf = load_node(object, settings, &pins)?;
        let template = Template::new(object, &pins, settings.log.then_some(&ebpf))?;
        let log = if settings.log { Some(KernelLog::open(&mut ebpf)?) } else { None };
        // The verifier has seen it before anything is attached; no pod has this cookie.
        template.load(Cookie(0))?;
        let mut kernel = Self { template: Some(template), log, ..Self::from_pins(settings, pins)? };
        for pod in kernel.pods()? {
            kernel.update_pod(pod)?;
        }
        attach_node(&ebpf, settings, &kernel.pins)?;
        Ok(kernel)
    }

    /// What the programs say, once; none where they are those that say nothing. Where nobody reads it, what does not fit
    /// any more is lost.
    pub fn log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }

    /// Opens what is pinned, to read and to take away: programs are not loaded, pods cannot be attached.
    ///
    /// # Errors
    /// Where nothing is pinned.
    pub fn open(settings: &Settings) -> Result<Self> {
        let pins = Pins::new(settings);
        check_layouts(settings, &pins)?;
        Self::from_pins(settings, pins)
    }

    /// The directory on the bpf file system that is locked by whoever may change what is pinned for this node, in whatever
    /// version. It may be missing.
    #[must_use]
    pub fn lock(settings: &Settings) -> PathBuf {
        Pins::new(settings).lock()
    }

    /// Something of this version is pinned for this node.
    #[must_use]
    pub fn is_pinned(settings: &Settings) -> bool {
        Pins::new(settings).maps().exists()
    }

    /// What another version has pinned for this node.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn of_other_version(settings: &Settings) -> Result<Option<PathBuf>> {
        Pins::new(settings).of_other_version()
    }

    fn from_pins(settings: &Settings, pins: Pins) -> Result<Self> {
        Ok(Self {
            template: None,
            log: None,
            mesh_entries: settings.mesh_entries,
            tables: Tables::open(&pins)?,
            listeners: Listeners::open(&pins)?,
            counts: Counts::open(&pins)?,
            pins,
        })
    }

    /// How many entries fit into a table.
    #[must_use]
    pub const fn capacity(&self, map: Map) -> u32 {
        match map {
            Map::Mesh => self.mesh_entries,
            other => other.limit(),
        }
    }

    /// Applies operations in the given order. Applying them again changes nothing more.
    ///
    /// # Errors
    /// The first that failed; those before it have been applied. [`Error::Full`] where a table has no room.
    pub fn apply(&mut self, ops: &[Op]) -> Result<()> {
        ops.iter().try_for_each(|op| self.tables.apply(op))
    }

    /// What is in the tables, as the operations that would make it, by [`Op::rank`].
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn contents(&self) -> Result<Vec<Op>> {
        self.tables.contents()
    }

    /// The pods whose program is attached or was: they are pinned.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn pods(&self) -> Result<Vec<Cookie>> {
        self.pins.pods()
    }

    /// Attaches the pod's program to its network namespace, which `netns` is. One that is attached is replaced.
    ///
    /// # Errors
    /// The program is refused, or the descriptor is no network namespace.
    pub fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> Result<()> {
        let template = self.template.as_ref().ok_or(Error::NotAttached { pod })?;
        let program = template.load(pod)?;
        let target = Target { at: netns, attach_type: bpf_attach_type::BPF_SK_LOOKUP, cgroup_id: None };
        link::ensure(&self.pins.pod(pod), program.as_fd(), &target)
    }

    /// The program of a pod that an earlier agent left becomes ours; the pin goes where its namespace is gone.
    fn update_pod(&mut self, pod: Cookie) -> Result<()> {
        let template = self.template.as_ref().ok_or(Error::NotAttached { pod })?;
        let program = template.load(pod)?;
        if link::update(&self.pins.pod(pod), program.as_fd())? { Ok(()) } else { self.detach_pod(pod) }
    }

    /// Takes the pod's program away: what arrives in its namespace goes to whoever listens there.
    ///
    /// # Errors
    /// It cannot be detached, or the pin cannot be removed.
    pub fn detach_pod(&mut self, pod: Cookie) -> Result<()> {
        link::remove(&self.pins.pod(pod))
    }

    /// The tunnel listens: from now on captured connections reach this socket.
    ///
    /// # Errors
    /// The table is full, or the socket does not listen.
    pub fn insert_listener(&mut self, key: ListenerKey, socket: BorrowedFd<'_>) -> Result<()> {
        self.listeners.insert(key, socket)
    }

    /// The tunnel listens no longer.
    ///
    /// # Errors
    /// The table cannot be changed.
    pub fn remove_listener(&mut self, key: &ListenerKey) -> Result<()> {
        self.listeners.remove(key)
    }

    /// Which listeners there are.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn listeners(&self) -> Result<Vec<ListenerKey>> {
        self.listeners.keys()
    }

    /// Every counter, summed over the CPUs.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn counts(&self) -> Result<Vec<(Counter, u64)>> {
        self.counts.read()
    }

    /// How many hand-offs are attested at the moment.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn attested(&self) -> Result<usize> {
        self.tables.attested()
    }

    /// Removes all that is left of a pod whose network namespace is gone. Not for a living one: its open connections
    /// would continue in the clear.
    ///
    /// # Errors
    /// The first step that failed; what follows is left for another try.
    pub fn purge(&mut self, pod: Cookie) -> Result<()> {
        self.apply(&[Op::RemovePod(pod)])?;
        self.detach_pod(pod)?;
        for key in self.listeners()?.iter().filter(|key| key.pod == pod) {
            self.remove_listener(key)?;
        }
        self.tables.forget(pod)
    }

    /// Takes everything of this node away. Every pod must have been released or purged.
    ///
    /// # Errors
    /// [`Error::PodsRemain`], or the first step that failed; what follows is left for another try.
    pub fn remove(self) -> Result<()> {
        let pods = self.tables.pods()?;
        if pods > 0 {
            return Err(Error::PodsRemain { pods });
        }
        for name in FIRST_TO_GO {
            link::remove(&self.pins.link(name))?;
        }
        for pod in self.pins.pods()? {
            link::remove(&self.pins.pod(pod))?;
        }
        for name in LAST_TO_GO {
            link::remove(&self.pins.link(name))?;
        }
        self.pins.remove_all()
    }
}

/// A pinned map is adopted only where it is what the programs expect: aya takes any.
fn check_layouts(settings: &Settings, pins: &Pins) -> Result<()> {
    for map in Map::ALL {
        let path = pins.map(map);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(Error::map("open", map.name()))?;
        let found = (info.key_size() as usize, info.value_size() as usize);
        if found != map.sizes() || info.max_entries() != capacity(settings, map) {
            return Err(Error::OtherLayout { path });
        }
    }
    Ok(())
}

/// How many entries a map is made with.
const fn capacity(settings: &Settings, map: Map) -> u32 {
    match map {
        Map::Mesh => settings.mesh_entries,
        other => other.limit(),
    }
}

/// Loads the programs of the node, with their maps made or adopted. Nothing is attached.
fn load_node(object: &[u8], settings: &Settings, pins: &Pins) -> Result<Ebpf> {
    let marks = Wire(settings.marks);
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins.maps()).override_global("MARKS", &marks, true);
    loader.map_max_entries(Map::Mesh.name(), capacity(settings, Map::Mesh));
    for map in Map::ALL {
        // Also for the map of socket storage, whose definition cannot ask for it.
        loader.map_pin_path(map.name(), pins.map(map));
    }
    let mut ebpf = loader.load(object).map_err(|source| Error::Load {
        operation: "load",
        object: "maps",
        source: Box::new(source),
    })?;
    for program in &NODE_PROGRAMS {
        (program.load)(&mut ebpf, program.name)?;
    }
    Ok(ebpf)
}

fn attach_node(ebpf: &Ebpf, settings: &Settings, pins: &Pins) -> Result<()> {
    let root = &settings.cgroup_root;
    let cgroup = File::open(root).map_err(Error::system("open", root.display()))?;
    let cgroup_id = cgroup.metadata().map_err(Error::system("read", root.display()))?.ino();
    for program in &NODE_PROGRAMS {
        let fd = program_fd(ebpf, program.name)?;
        let target = Target { at: cgroup.as_fd(), attach_type: program.attach_type, cgroup_id: Some(cgroup_id) };
        link::ensure(&pins.link(program.name), fd.as_fd(), &target)?;
    }
    Ok(())
}

fn program_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a ProgramFd> {
    let program = ebpf.program(name).ok_or(ObjectError::NoProgram(name))?;
    program.fd().map_err(|source| Error::Program { operation: "use", object: name, source: Box::new(source) })
}

/// A connect program of somebody else that runs after ours, and may change what was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The kernel's id of it.
    pub id: u32,
    /// Its name, where it has one.
    pub name: String,
    /// `connect4` or `connect6`.
    pub hook: &'static str,
}

/// Who runs after our connect programs, in our cgroup or above it. A rewrite by one of them is refused just before the
/// SYN where it leads into the mesh.
///
/// # Errors
/// The cgroup cannot be read.
pub fn foreign_connect_programs(settings: &Settings) -> Result<Vec<Foreign>> {
    let pins = Pins::new(settings);
    let root = &settings.cgroup_root;
    let cgroup = File::open(root).map_err(Error::system("open", root.display()))?;
    let mut foreign = Vec::new();
    for (hook, attach_type) in
        [(CONNECT4, bpf_attach_type::BPF_CGROUP_INET4_CONNECT), (CONNECT6, bpf_attach_type::BPF_CGROUP_INET6_CONNECT)]
    {
        let ours = link::program_id(&pins.link(hook))?;
        let ids =
            sys::effective_programs(cgroup.as_fd(), attach_type).map_err(Error::system("query", root.display()))?;
        let after = after_ours(&ids, ours);
        foreign.extend(after.iter().map(|&id| Foreign { id, name: program_name(id), hook }));
    }
    Ok(foreign)
}

/// Where ours does not run, everybody counts as running after it.
fn after_ours(ids: &[u32], ours: Option<u32>) -> &[u32] {
    match ids.iter().position(|id| Some(*id) == ours) {
        Some(place) => ids.get(place + 1..).unwrap_or_default(),
        None => ids,
    }
}

fn program_name(id: u32) -> String {
    loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_attached_is_taken_away_guard_last() {
        let mut attached: Vec<_> = NODE_PROGRAMS.iter().map(|program| program.name).collect();
        let mut removed: Vec<_> = FIRST_TO_GO.into_iter().chain(LAST_TO_GO).collect();
        assert_eq!(attached.last(), Some(&CONNECT6));
        assert_eq!(removed.last(), Some(&GUARD));
        attached.sort_unstable();
        removed.sort_unstable();
        assert_eq!(attached, removed);
    }

    /// The agent keeps it in a task that may move between threads.
    #[test]
    fn it_can_be_sent() {
        fn check<T: Send>() {}
        check::<Kernel>();
    }

    #[test]
    fn who_runs_after_ours() {
        let check = |ids: &[u32], ours, expected: &[u32]| assert_eq!(after_ours(ids, ours), expected);
        check(&[1, 2, 3], Some(2), &[3]);
        check(&[1, 2], Some(2), &[]);
        check(&[1, 2], None, &[1, 2]);
        check(&[1, 2], Some(9), &[1, 2]);
        check(&[], Some(1), &[]);
    }
}
