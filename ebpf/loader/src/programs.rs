//! The kernel programs of this build, loaded and attached: seven on the node's cgroup, and the template of each pod's.
//!
//! ```text
//! first    each pod's steer -> stamp -> on_tcp -> bind4 -> bind6 -> guard -> connect4 -> connect6
//! swap     each pod's steer -> guard -> on_tcp -> connect4 -> connect6 -> bind4 -> bind6 -> stamp
//! remove   connect6 -> connect4 -> bind6 -> bind4 -> stamp -> each pod's steer -> on_tcp -> guard
//! ```
//! What must hold: nothing is attached or replaced before all of it has passed the verifier. Where nothing is attached, what
//! captures comes last and goes first, or packets would be marked that no program takes; `guard` goes last, or open connections
//! would continue in the clear. Where others are attached, readers of socket storage are replaced before its writers. On the way back
//! this leaves later writers beside earlier readers: every version writes into `FLOWS` all that the programs of each earlier one
//! go by.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use aya::programs::{CgroupSkb, CgroupSock, CgroupSockAddr, ProgramError, SockOps};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_attach_type;
use underpass_abi::{Cookie, Map, VERSION};

use crate::Settings;
use crate::error::{Error, ObjectError, Result};
use crate::kernel_log::KernelLog;
use crate::link::{self, Target};
use crate::object::{Template, object};
use crate::pin::Pins;
use crate::tables::KernelLayout;
use crate::version::Deadline;

/// A program of the node.
struct NodeProgram {
    name: &'static str,
    attach_type: bpf_attach_type,
    load: fn(&mut Ebpf, &'static str) -> Result<()>,
}

/// In the order in which they are attached where there is none.
const NODE_PROGRAMS: [NodeProgram; 7] = [
    NodeProgram { name: STAMP, attach_type: bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE, load: load::<CgroupSock> },
    NodeProgram { name: ON_TCP, attach_type: bpf_attach_type::BPF_CGROUP_SOCK_OPS, load: load::<SockOps> },
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
const STAMP: &str = "stamp";
const ON_TCP: &str = "on_tcp";
const BIND4: &str = "bind4";
const BIND6: &str = "bind6";
pub(crate) const CONNECT4: &str = "connect4";
pub(crate) const CONNECT6: &str = "connect6";
const GUARD: &str = "guard";
/// The hooks of the node's programs, by their names.
pub(crate) fn hooks() -> impl Iterator<Item = (&'static str, bpf_attach_type)> {
    NODE_PROGRAMS.iter().map(|program| (program.name, program.attach_type))
}

/// Readers of socket storage before its writers.
const SWAP: [&str; 7] = [GUARD, ON_TCP, CONNECT4, CONNECT6, BIND4, BIND6, STAMP];
/// In the order in which they are taken away; between the two halves go the programs of the pods.
const FIRST_TO_GO: [&str; 5] = [CONNECT6, CONNECT4, BIND6, BIND4, STAMP];
const LAST_TO_GO: [&str; 2] = [ON_TCP, GUARD];

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

/// The order in which the programs of the node are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// No agent has come so far: [`NODE_PROGRAMS`].
    First,
    /// In the place of an agent's, of this version or another: [`SWAP`].
    Swap,
}

/// The programs of this build. An agent keeps them for as long as it lives, so that it can put them back in their place without
/// asking the verifier again.
pub(crate) struct Programs {
    cgroup_root: PathBuf,
    /// As in [`NODE_PROGRAMS`].
    node: Vec<(&'static NodeProgram, OwnedFd)>,
    template: Template,
}

impl Programs {
    /// Loads them, with the maps of this version made or adopted. Nothing is attached.
    pub(crate) fn load(settings: &Settings, pins: &Pins) -> Result<(Self, Option<KernelLog>)> {
        let object = object(settings.log)?;
        let mut ebpf = load_node(object, settings, pins)?;
        let template = Template::new(object, pins, settings.log.then_some(&ebpf))?;
        let log = if settings.log { Some(KernelLog::open(&mut ebpf)?) } else { None };
        // The verifier has seen it before anything is attached; no pod has this cookie.
        template.load(Cookie(0))?;
        let node = NODE_PROGRAMS.iter().map(|program| Ok((program, descriptor(&ebpf, program.name)?)));
        let node = node.collect::<Result<_>>()?;
        Ok((Self { cgroup_root: settings.cgroup_root.clone(), node, template }, log))
    }

    /// A pod's program.
    pub(crate) fn steer(&self, pod: Cookie) -> Result<OwnedFd> {
        self.template.load(pod)
    }

    /// Every program of the node runs: in the place of another version's, or where there was none.
    pub(crate) fn attach(&self, pins: &Pins, order: Order, deadline: Deadline) -> Result<()> {
        let root = &self.cgroup_root;
        let cgroup = File::open(root).map_err(Error::system("open", root.display()))?;
        let cgroup_id = cgroup.metadata().map_err(Error::system("read", root.display()))?.ino();
        let names = match order {
            Order::First => NODE_PROGRAMS.map(|program| program.name),
            Order::Swap => SWAP,
        };
        for name in names {
            let named = self.node.iter().find(|(program, _)| program.name == name);
            let (program, fd) = named.ok_or(ObjectError::NoProgram(name))?;
            let target = Target { at: cgroup.as_fd(), attach_type: program.attach_type, cgroup_id: Some(cgroup_id) };
            deadline.check()?;
            link::ensure(&pins.link(name), fd.as_fd(), &target)?;
        }
        Ok(())
    }
}

/// Takes every program away, the pods' among them.
pub(crate) fn detach_all(pins: &Pins) -> Result<()> {
    let remove = |name: &str| link::remove(&pins.link(name));
    FIRST_TO_GO.into_iter().try_for_each(remove)?;
    detach_unknown(pins)?;
    pins.pods()?.into_iter().try_for_each(|pod| link::remove(&pins.pod(pod)))?;
    LAST_TO_GO.into_iter().try_for_each(remove)
}

/// Takes away the programs of another version at hooks that this one does not use.
pub(crate) fn detach_unknown(pins: &Pins) -> Result<()> {
    let unknown = pins.links()?.into_iter().filter(|name| NODE_PROGRAMS.iter().all(|program| program.name != name));
    unknown.map(|name| pins.link(&name)).try_for_each(|path| link::remove(&path))
}

/// Loads the programs of the node, with their maps made or adopted.
fn load_node(object: &[u8], settings: &Settings, pins: &Pins) -> Result<Ebpf> {
    let marks = KernelLayout(settings.marks);
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins.tables(VERSION)).override_global("MARKS", &marks, true);
    loader.map_max_entries(Map::Mesh.name(), settings.capacity(Map::Mesh));
    for map in Map::ALL {
        // Also for the map of socket storage, whose definition cannot ask for it.
        loader.map_pin_path(map.name(), pins.map(VERSION, map));
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

fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd> {
    let program = ebpf.program(name).ok_or(ObjectError::NoProgram(name))?;
    let fd =
        program.fd().map_err(|source| Error::Program { operation: "use", object: name, source: Box::new(source) })?;
    fd.as_fd().try_clone_to_owned().map_err(Error::system("copy the descriptor of", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_every_program() {
        let first = NODE_PROGRAMS.map(|program| program.name);
        let removed: Vec<_> = FIRST_TO_GO.into_iter().chain(LAST_TO_GO).collect();
        assert_eq!((first.last(), removed.last()), (Some(&CONNECT6), Some(&GUARD)));
        let sorted = |names: &[&'static str]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names
        };
        assert_eq!(sorted(&first), sorted(&removed));
        assert_eq!(sorted(&first), sorted(&SWAP));
    }

    /// `stamp`, `connect` and `bind` write what `guard` and `on_tcp` read; of what `bind` writes `connect` is a reader.
    #[test]
    fn readers_are_replaced_before_writers() {
        let place = |name| SWAP.iter().position(|other| *other == name);
        for (readers, writers) in [
            ([GUARD, ON_TCP].as_slice(), [CONNECT4, CONNECT6, BIND4, BIND6, STAMP].as_slice()),
            (&[CONNECT4, CONNECT6], &[BIND4, BIND6, STAMP]),
        ] {
            for (reader, writer) in readers.iter().flat_map(|reader| writers.iter().map(move |writer| (reader, writer)))
            {
                assert!(place(*reader) < place(*writer), "{reader} {writer}");
            }
        }
    }
}
