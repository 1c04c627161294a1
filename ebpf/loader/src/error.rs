//! What can go wrong: the operation, the object, the source.

use std::io;
use std::path::PathBuf;

use underpass_abi::{Cookie, Full};

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the kernel data path could not be loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// User space was built without the kernel programs.
    #[error("this build has no kernel programs: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// User space was built without those that say what they decide.
    #[error("this build has no kernel programs that log: run `cargo xtask build-ebpf` and build again")]
    NoLogObject,
    /// The object is not what this build expects.
    #[error("kernel programs: {0}")]
    Object(#[from] ObjectError),
    /// A system call failed.
    #[error("cannot {operation} {object}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why not.
        source: io::Error,
    },
    /// The programs or maps could not be loaded.
    #[error("cannot {operation} {object}: {source}")]
    Load {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: &'static str,
        /// Why not.
        source: Box<aya::EbpfError>,
    },
    /// A program was refused; the source has the verifier's words.
    #[error("cannot {operation} {object}: {source}")]
    Program {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: &'static str,
        /// Why not.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be opened, read or changed.
    #[error("cannot {operation} {object}: {source}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: &'static str,
        /// Why not.
        source: aya::maps::MapError,
    },
    /// What the programs say cannot be read.
    #[error("cannot open the kernel log: {0}")]
    Log(#[from] aya_log::Error),
    /// A table has no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// A pinned map has another layout although its version is the same.
    #[error("pinned map {path} has another layout: remove it with `underpass-agent cleanup`")]
    OtherLayout {
        /// Which.
        path: PathBuf,
    },
    /// What was pinned before versions could follow each other.
    #[error(
        "{path} was pinned by a version of Underpass that no other one can follow: run that version's `cleanup` first"
    )]
    TooOld {
        /// Which directory.
        path: PathBuf,
    },
    /// Tables of a later version, or of one so early that its layout is forgotten.
    #[error(
        "the kernel tables are of version {version}, and this agent, which has version {}, does not know it",
        underpass_abi::VERSION
    )]
    UnknownVersion {
        /// Theirs.
        version: u32,
    },
    /// The pinned programs are attached to another cgroup than the settings say.
    #[error("{path} is attached to another cgroup (id {found}): run `cleanup` first, or restore the setting")]
    OtherCgroup {
        /// Which link.
        path: PathBuf,
        /// The cgroup it is attached to.
        found: u64,
    },
    /// Pods were opened for reading only.
    #[error("cannot attach the program of pod {pod:?}: the kernel programs are not loaded")]
    NotAttached {
        /// Which pod.
        pod: Cookie,
    },
    /// Pods are still known to the kernel.
    #[error("{pods} pods are still enrolled: release them before the guard goes")]
    PodsRemain {
        /// How many.
        pods: usize,
    },
}

/// What is wrong with the embedded object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is no such file.
    #[error("cannot be parsed: {0}")]
    Parse(#[from] aya_obj::ParseError),
    /// Its references could not be resolved.
    #[error("cannot be relocated: {0}")]
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
