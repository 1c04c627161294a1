//! The errors of the kernel data path: operation, object, source.

use std::io;
use std::path::PathBuf;

use underpass_abi::{Cookie, Full};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the kernel data path could not be loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// User space was built without the kernel programs.
    #[error("this build has no kernel programs: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// User space was built without the kernel programs that log their decisions.
    #[error("this build has no kernel programs that log: run `cargo xtask build-ebpf` and build again")]
    NoLogObject,
    /// The object is not what this build expects.
    #[error("kernel programs: {0}")]
    Object(#[from] ObjectError),
    /// A system call failed.
    #[error("cannot {operation} {object}: {source}")]
    System {
        /// The operation.
        operation: &'static str,
        /// Its object.
        object: String,
        /// The cause.
        source: io::Error,
    },
    /// The programs or maps could not be loaded.
    #[error("cannot {operation} {object}: {source}")]
    Load {
        /// The operation.
        operation: &'static str,
        /// Its object.
        object: &'static str,
        /// The cause.
        source: Box<aya::EbpfError>,
    },
    /// A program was refused; the source has the verifier's words.
    #[error("cannot {operation} {object}: {source}")]
    Program {
        /// The operation.
        operation: &'static str,
        /// Its object.
        object: &'static str,
        /// The cause.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be opened, read or changed.
    #[error("cannot {operation} {object}: {source}")]
    Map {
        /// The operation.
        operation: &'static str,
        /// Its object.
        object: &'static str,
        /// The cause.
        source: aya::maps::MapError,
    },
    /// The log of the programs could not be opened.
    #[error("cannot open the kernel log: {0}")]
    Log(#[from] aya_log::Error),
    /// A table has no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// A pinned map has another layout although its version is the same.
    #[error(
        "cannot use the pinned map {path}: its layout is not that of its version; remove it with `underpass-agent \
         cleanup`"
    )]
    OtherLayout {
        /// The pin of the map.
        path: PathBuf,
    },
    /// Pins of a version from before one could take over from another.
    #[error(
        "cannot take over the pins in {path}: they are of a version of Underpass that no other one can take over from; run \
         that version's `cleanup` first"
    )]
    TooOld {
        /// The directory of the pins.
        path: PathBuf,
    },
    /// Tables of a later version, or of one so early that this build has no reader for its layout.
    #[error(
        "cannot read the kernel tables: they have version {version}, unknown to this agent, which has version {}",
        underpass_abi::VERSION
    )]
    UnknownVersion {
        /// The version of the tables.
        version: u32,
    },
    /// A table of the version that counts is gone.
    #[error("{path} is missing, although the tables of its version count: it was removed by hand")]
    NoTable {
        /// Which table.
        path: PathBuf,
    },
    /// The time of a take-over is over.
    #[error("the kernel programs were not in place in time: the predecessor goes on")]
    Late,
    /// The pinned programs are attached to another cgroup than the settings say.
    #[error(
        "cannot use the pinned link {path}: it is attached to another cgroup (id {found}) than the settings name; run \
         `cleanup` first, or restore the setting"
    )]
    OtherCgroup {
        /// The pin of the link.
        path: PathBuf,
        /// The cgroup that it is attached to.
        found: u64,
    },
    /// The data path was opened without its programs, for reading and taking away only.
    #[error("cannot attach the program of pod {pod:?}: the kernel programs are not loaded")]
    NotAttached {
        /// The pod.
        pod: Cookie,
    },
    /// Pods are still in the kernel's tables.
    #[error("cannot remove the kernel data path: {pods} pods are still enrolled; release them first")]
    PodsRemain {
        /// Number of pods.
        pods: usize,
    },
}

/// The defect of an embedded object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is no ELF file with BPF programs.
    #[error("cannot parse the object: {0}")]
    Parse(#[from] aya_obj::ParseError),
    /// Its references could not be resolved.
    #[error("cannot relocate the object: {0}")]
    Relocate(#[from] aya_obj::relocation::EbpfRelocationError),
    /// A program is missing.
    #[error("program {0} is missing")]
    NoProgram(&'static str),
    /// A map is missing.
    #[error("map {0} is missing")]
    NoMap(String),
    /// A program has another type than its name says.
    #[error("program {0} has another type")]
    OtherType(&'static str),
    /// The pod's cookie cannot be put into the program that steers it.
    #[error("the template of `steer` has no unambiguous place for the pod's cookie")]
    NoPlace,
}

impl Error {
    pub(crate) fn system(operation: &'static str, object: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let object = object.to_string();
        move |source| Self::System { operation, object, source }
    }

    pub(crate) fn map(operation: &'static str, object: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { operation, object, source }
    }
}
