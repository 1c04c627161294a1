//! The kernel's tables: their names, keys and values, and the operations that change them.
//!
//! Keys and values are what the kernel compares and reads byte by byte: `#[repr(C)]`, no padding, numbers instead of
//! enums, because a program of another build might have written them. [`Op`] is the only way in which user space changes
//! them, so that the order of changes can be computed and tested without a kernel.

use core::fmt;

use crate::addr::{Address, CgroupId, Cookie, Port};
use crate::flow::Flow;
use crate::limits;

pub use crate::layout::current::{Destination, Pod};

/// A pod's phase between enrolment and release.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Phase(u64);

impl Phase {
    /// Everything applies.
    pub const ENROLLED: Self = Self(1);
    /// No new connection is captured; captured ones stay, and inbound connections still pass the tunnel.
    pub const RELEASING: Self = Self(2);
}

/// Key of `LOCALS`: an address that is local to a pod's namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalKey {
    /// The pod of the namespace.
    pub pod: Cookie,
    /// The address.
    pub address: Address,
}

/// Value of `LOCALS`: whether the address counts for identity.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Locality(u32);

impl Locality {
    /// One of status.podIPs: it counts for identity.
    pub const POD: Self = Self(1);
    /// Secondary, link-local: it only ever makes traffic refused or local.
    pub const OTHER: Self = Self(2);
}

/// Key of `PROBES`: a probe target, at which the object of an enrolled pod has its kubelet ask.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// An address of the pod.
    pub address: Address,
    /// A port that its probes or lifecycle hooks name.
    pub port: Port,
}

/// Key of `MESH` for every address that has no entry of its own: it is there while the table has no room for all. To connect()
/// it means loopback, so that it is no destination itself.
pub const ANY_OTHER: Address = Address::UNSPECIFIED;

/// The direction of a pod's listener.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Direction(u64);

impl Direction {
    /// Connections that the pod's applications open.
    pub const OUTBOUND: Self = Self(1);
    /// Connections that reach the pod from outside.
    pub const INBOUND: Self = Self(2);
}

/// Key of `LISTENERS`, the table of listening sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The pod of the listener.
    pub pod: Cookie,
    /// Its direction.
    pub direction: Direction,
}

/// Key of `ATTESTED`: a connection as its opener sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Address of its opener.
    pub source: Address,
    /// Address of its destination.
    pub destination: Address,
    /// Port of its opener.
    pub source_port: Port,
    /// Port of its destination.
    pub destination_port: Port,
    /// 1 where its SYN arrives over lo, else 0. A real client may use the very port that the agent chose towards the
    /// application; that one's SYN does not arrive over lo.
    pub over_lo: u64,
}

/// Value of `ATTESTED`: the agent, or the kubelet, opened this connection, to an application of this pod.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attestation {
    /// The only pod in which it counts.
    pub pod: Cookie,
}

const _: () = assert!(size_of::<LocalKey>() == 24 && size_of::<Locality>() == 4);
const _: () = assert!(size_of::<Attestation>() == 8 && size_of::<ProbeKey>() == 20);
const _: () = assert!(size_of::<ListenerKey>() == 16 && size_of::<Tuple>() == 48);

/// The maps that the kernel programs and user space share. All of them are pinned.
///
/// A later version that must remember more of a socket has a map of socket storage besides: [`Map::Flows`] stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// [`Cookie`] to [`Pod`].
    Pods,
    /// [`LocalKey`] to [`Locality`].
    Locals,
    /// [`Address`] to [`Destination`].
    Mesh,
    /// [`Tuple`] to [`Attestation`]; written by the kernel alone; the oldest entry gives way.
    Attested,
    /// [`ListenerKey`] to a listening socket.
    Listeners,
    /// [`CgroupId`] of agents, to 1.
    Agents,
    /// [`CgroupId`] of pods, to [`Cookie`].
    PodCgroups,
    /// [`ProbeKey`] to the [`Cookie`] of the pod that is probed there.
    Probes,
    /// [`CgroupId`] of the kubelet, to the [`Cookie`] of the node's own network namespace: it probes from there alone.
    Kubelets,
    /// [`crate::Counter`] to a number, per CPU.
    Counts,
    /// Socket storage: [`Flow`].
    Flows,
}

impl Map {
    /// Every map.
    pub const ALL: [Self; 11] = [
        Self::Pods,
        Self::Locals,
        Self::Mesh,
        Self::Attested,
        Self::Listeners,
        Self::Agents,
        Self::PodCgroups,
        Self::Probes,
        Self::Kubelets,
        Self::Counts,
        Self::Flows,
    ];

    /// Its name in the object and among the pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pods => "PODS",
            Self::Locals => "LOCALS",
            Self::Mesh => "MESH",
            Self::Attested => "ATTESTED",
            Self::Listeners => "LISTENERS",
            Self::Agents => "AGENTS",
            Self::PodCgroups => "POD_CGROUPS",
            Self::Probes => "PROBES",
            Self::Kubelets => "KUBELETS",
            Self::Counts => "COUNTS",
            Self::Flows => "FLOWS",
        }
    }

    /// How many entries fit; 0 for socket storage, which lives with its sockets.
    #[must_use]
    pub const fn limit(self) -> u32 {
        match self {
            Self::Pods => limits::PODS,
            Self::Locals => limits::LOCALS,
            Self::Mesh => limits::MESH,
            Self::Attested => limits::ATTESTED,
            Self::Listeners => limits::LISTENERS,
            Self::Agents => limits::AGENTS,
            Self::PodCgroups => limits::POD_CGROUPS,
            Self::Probes => limits::PROBES,
            Self::Kubelets => limits::KUBELETS,
            Self::Counts => limits::COUNTS,
            Self::Flows => 0,
        }
    }

    /// The version of the layout of a map that every version of the tables shares: open connections are in it, which go on
    /// under the programs of another version. Nothing for a table that each version has for itself.
    #[must_use]
    pub const fn shared(self) -> Option<u32> {
        match self {
            Self::Attested | Self::Flows => Some(1),
            _ => None,
        }
    }

    /// User space fills it: what it holds follows from the World and from the pods of the node.
    #[must_use]
    pub const fn is_filled(self) -> bool {
        matches!(
            self,
            Self::Pods | Self::Locals | Self::Mesh | Self::Agents | Self::PodCgroups | Self::Probes | Self::Kubelets
        )
    }

    /// Memory is taken for every entry that fits, not for those that are there.
    #[must_use]
    pub const fn is_preallocated(self) -> bool {
        !matches!(self, Self::Locals | Self::Mesh | Self::Probes)
    }

    /// Size of a key and of a value, in bytes: what a pinned map must have to be taken over.
    #[must_use]
    pub const fn sizes(self) -> (usize, usize) {
        match self {
            Self::Pods => (size_of::<Cookie>(), size_of::<Pod>()),
            Self::Locals => (size_of::<LocalKey>(), size_of::<Locality>()),
            Self::Mesh => (size_of::<Address>(), size_of::<Destination>()),
            Self::Attested => (size_of::<Tuple>(), size_of::<Attestation>()),
            Self::Listeners => (size_of::<ListenerKey>(), size_of::<u32>()),
            Self::Agents => (size_of::<CgroupId>(), size_of::<u32>()),
            Self::PodCgroups => (size_of::<CgroupId>(), size_of::<Cookie>()),
            Self::Probes => (size_of::<ProbeKey>(), size_of::<Cookie>()),
            Self::Kubelets => (size_of::<CgroupId>(), size_of::<Cookie>()),
            Self::Counts => (size_of::<u32>(), size_of::<u64>()),
            Self::Flows => (size_of::<u32>(), size_of::<Flow>()),
        }
    }
}

/// A table has no room for another entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The table.
    pub map: Map,
    /// How many entries it holds.
    pub limit: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} is full: {} entries", self.map.name(), self.limit)
    }
}

impl core::error::Error for Full {}

/// One change of a table. Each is idempotent: setting what is set and removing what is absent change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Cgroup of an agent.
    SetAgent(CgroupId),
    /// An address of a pod's namespace.
    SetLocal(LocalKey, Locality),
    /// Cgroup of a pod.
    SetPodCgroup(CgroupId, Cookie),
    /// Cgroup of the kubelet, and the node's own network namespace.
    SetKubelet(CgroupId, Cookie),
    /// A probe target of a pod.
    SetProbe(ProbeKey, Cookie),
    /// An address in the mesh.
    SetDestination(Address, Destination),
    /// A pod whose connections are decided from here on; new ones no longer where it is [`Phase::RELEASING`].
    SetPod(Cookie, Pod),
    /// Cgroup of a kubelet that ended.
    RemoveKubelet(CgroupId),
    /// An address and port at which no pod is probed.
    RemoveProbe(ProbeKey),
    /// Connections of this namespace are no longer decided.
    RemovePod(Cookie),
    /// An address that left the mesh.
    RemoveDestination(Address),
    /// Cgroup of a pod.
    RemovePodCgroup(CgroupId),
    /// An address of a pod's namespace.
    RemoveLocal(LocalKey),
    /// Cgroup of an agent that ended.
    RemoveAgent(CgroupId),
}

impl Op {
    /// The order in which the operations of one batch are applied: by this number, lowest first. A pod is announced only
    /// when everything that decides about it is there, and what decides about it goes only when the pod is gone; a
    /// destination enters the mesh before it leaves, so that an address that moves is never open in between.
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self {
            Self::SetAgent(_) => 0,
            Self::SetLocal(..) => 1,
            Self::SetPodCgroup(..) => 2,
            Self::SetKubelet(..) => 3,
            Self::SetProbe(..) => 4,
            Self::SetDestination(..) => 5,
            Self::SetPod(..) => 6,
            Self::RemoveKubelet(_) => 7,
            Self::RemoveProbe(_) => 8,
            Self::RemovePod(_) => 9,
            Self::RemoveDestination(_) => 10,
            Self::RemovePodCgroup(_) => 11,
            Self::RemoveLocal(_) => 12,
            Self::RemoveAgent(_) => 13,
        }
    }

    /// The operation that removes the entry that this one sets or removes.
    #[must_use]
    pub const fn removal(&self) -> Self {
        match *self {
            Self::SetAgent(cgroup) => Self::RemoveAgent(cgroup),
            Self::SetLocal(key, _) => Self::RemoveLocal(key),
            Self::SetPodCgroup(cgroup, _) => Self::RemovePodCgroup(cgroup),
            Self::SetKubelet(cgroup, _) => Self::RemoveKubelet(cgroup),
            Self::SetProbe(key, _) => Self::RemoveProbe(key),
            Self::SetDestination(address, _) => Self::RemoveDestination(address),
            Self::SetPod(pod, _) => Self::RemovePod(pod),
            removal => removal,
        }
    }

    /// The table that it changes.
    #[must_use]
    pub const fn map(&self) -> Map {
        match self {
            Self::SetAgent(_) | Self::RemoveAgent(_) => Map::Agents,
            Self::SetLocal(..) | Self::RemoveLocal(_) => Map::Locals,
            Self::SetPodCgroup(..) | Self::RemovePodCgroup(_) => Map::PodCgroups,
            Self::SetKubelet(..) | Self::RemoveKubelet(_) => Map::Kubelets,
            Self::SetProbe(..) | Self::RemoveProbe(_) => Map::Probes,
            Self::SetDestination(..) | Self::RemoveDestination(_) => Map::Mesh,
            Self::SetPod(..) | Self::RemovePod(_) => Map::Pods,
        }
    }
}
