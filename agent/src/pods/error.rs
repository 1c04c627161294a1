//! Errors of enrolment and release. Most of these pass: a sandbox that is being made has no cgroup, then no
//! process, then no address. Its own file because every step of [`super`] can fail.

use std::{fmt, io, net::IpAddr, path::PathBuf};

use underpass_net::system::SystemError;

use crate::datapath;

/// What a network namespace is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The oldest process of the sandbox.
    Process(u32),
    /// The runtime has named it.
    Runtime,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Runtime => write!(f, "the container runtime's sandbox"),
        }
    }
}

/// An error about one pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its uid cannot be the name of a directory.
    #[error("invalid pod uid {uid:?}")]
    Uid {
        /// The uid as written.
        uid: String,
    },
    /// The kubelet has not made its cgroup.
    #[error("no cgroup of pod {uid} below {root}")]
    NoCgroup {
        /// The uid of the pod.
        uid: String,
        /// The root of the node's cgroups.
        root: PathBuf,
    },
    /// More than one cgroup has its uid.
    #[error("pod {uid} has more than one cgroup: {first} and {second}")]
    TwoCgroups {
        /// The uid of the pod.
        uid: String,
        /// One.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A cgroup could not be read.
    #[error("cannot {operation} {path}: {source}")]
    Cgroup {
        /// A verb, such as `read`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No process is in its cgroup.
    #[error("no process in {cgroup}")]
    NoProcess {
        /// The cgroup of the pod.
        cgroup: PathBuf,
    },
    /// A process in a PID namespace that the agent does not see.
    #[error("a process of {cgroup} is not visible here: the agent needs the host's PID namespace")]
    Hidden {
        /// The cgroup of the pod.
        cgroup: PathBuf,
    },
    /// Its oldest process is another one than a moment ago, or there are two in different namespaces.
    #[error("ambiguous oldest process of {cgroup}")]
    Uncertain {
        /// The cgroup of the pod.
        cgroup: PathBuf,
    },
    /// Its sandbox has no network namespace of its own (yet).
    #[error("the network namespace of {owner} is the agent's")]
    HostNetwork {
        /// The owner of the namespace.
        owner: Owner,
    },
    /// Its namespace lacks an address of its object.
    #[error("address {address} is missing in the network namespace of {owner}")]
    NoAddress {
        /// The owner of the namespace.
        owner: Owner,
        /// An address of the pod.
        address: IpAddr,
    },
    /// Its addresses are on different devices: the inbound listener can be bound to one only.
    #[error("{address} is on {device}, another address of the pod on {other}")]
    TwoDevices {
        /// An address of the pod.
        address: IpAddr,
        /// The device of this address.
        device: String,
        /// The device of the other address.
        other: String,
    },
    /// Another pod is enrolled in that namespace.
    #[error("its network namespace is already that of pod {other}")]
    Shared {
        /// The other's uid.
        other: String,
    },
    /// The kernel's tables take no more pods.
    #[error("no room for another pod: the kernel's tables take {limit}")]
    NoRoom {
        /// The number of pods that fit.
        limit: u32,
    },
    /// A socket, rule or namespace.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The data path.
    #[error(transparent)]
    DataPath(#[from] datapath::Error),
}

/// The result of every step.
pub type Result<T> = std::result::Result<T, Error>;
