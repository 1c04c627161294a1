//! Preconditions of the kernel data path, probed before anything is changed.
//!
//! Everything that is missing is reported at once, each with what to do about it. What must hold: a probe changes nothing,
//! and what it cannot find out counts as missing.

use std::fmt;
use std::fs;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use aya::util::KernelVersion;

use crate::Settings;
use crate::object::object;
use crate::sys;

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPFFS_MAGIC: i64 = 0xcafe_4a11;
/// The oldest kernel on which the kernel tests run.
const OLDEST: (u8, u8) = (6, 1);
/// Where the kernel shows its type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Numbers of linux/capability.h, and their names.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// A precondition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The embedded kernel programs.
    Object,
    /// The embedded kernel programs that log.
    LogObject,
    /// A kernel that is new enough.
    KernelVersion,
    /// The kernel's type information.
    Btf,
    /// A capability of this process.
    Capability(&'static str),
    /// The configured directory is on a cgroup2 filesystem.
    Cgroup2,
    /// The configured directory is a bpf filesystem that can be written.
    Bpffs,
    /// A type of program.
    Program(&'static str),
    /// A type of map.
    Map(&'static str),
    /// A helper function of a type of program.
    Helper(&'static str),
}

impl Need {
    /// The remedy where it is missing.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Object | Self::LogObject => "run `cargo xtask build-ebpf` and build again",
            Self::KernelVersion => "run Linux 6.1 or later",
            Self::Btf => "run a kernel with CONFIG_DEBUG_INFO_BTF=y",
            Self::Capability(_) => "run as root, or grant the capability to the container",
            Self::Cgroup2 => "mount cgroup2 and name its root in the settings",
            Self::Bpffs => "mount -t bpf bpf /sys/fs/bpf, writable, and share it with the container",
            Self::Program(_) | Self::Helper(_) => {
                "run a kernel with CONFIG_BPF_SYSCALL=y, CONFIG_CGROUP_BPF=y and CONFIG_INET=y"
            }
            Self::Map(_) => "run a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_STREAM_PARSER=y or CONFIG_INET=y",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object => write!(f, "kernel programs in this build"),
            Self::LogObject => write!(f, "kernel programs that log in this build"),
            Self::KernelVersion => write!(f, "Linux {}.{} or later", OLDEST.0, OLDEST.1),
            Self::Btf => write!(f, "{BTF}"),
            Self::Capability(name) => write!(f, "{name}"),
            Self::Cgroup2 => write!(f, "a cgroup2 directory"),
            Self::Bpffs => write!(f, "a writable bpf filesystem"),
            Self::Program(name) => write!(f, "programs of type {name}"),
            Self::Map(name) => write!(f, "maps of type {name}"),
            Self::Helper(name) => write!(f, "helper {name}"),
        }
    }
}

/// A precondition that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The precondition.
    pub need: Need,
    /// The state that was found instead.
    pub found: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing ({}): {}", self.need, self.found, self.need.remedy())
    }
}

/// All preconditions that are not met; empty where the kernel data path can be attached.
#[must_use]
pub fn probe(settings: &Settings) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut need = |need, found: Result<(), String>| {
        if let Err(found) = found {
            missing.push(Missing { need, found });
        }
    };
    let built = if settings.log { Need::LogObject } else { Need::Object };
    need(built, object(settings.log).map(drop).map_err(|error| error.to_string()));
    need(Need::KernelVersion, kernel_version());
    need(Need::Btf, fs::metadata(BTF).map(drop).map_err(|error| error.to_string()));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (number, name) in CAPABILITIES {
        need(Need::Capability(name), capability(&status, number));
    }
    need(Need::Cgroup2, filesystem(&settings.cgroup_root, sys::CGROUP2_MAGIC));
    need(Need::Bpffs, filesystem(&settings.bpffs, BPFFS_MAGIC).and_then(|()| writable(&settings.bpffs)));
    if capability(&status, CAPABILITIES[1].0).is_ok() {
        // Without it every one of these would fail, and say nothing.
        missing.extend(features());
    }
    missing
}

fn kernel_version() -> Result<(), String> {
    let found = KernelVersion::current().map_err(|error| error.to_string())?;
    if found >= KernelVersion::new(OLDEST.0, OLDEST.1, 0) { Ok(()) } else { Err(format!("{found:?}")) }
}

/// The effective capabilities of proc_pid_status(5): one hexadecimal number.
fn capability(status: &str, number: u32) -> Result<(), String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim();
    let set = u64::from_str_radix(line, 16).map_err(|_| format!("CapEff is {line:?}"))?;
    if set >> number & 1 == 1 { Ok(()) } else { Err(format!("CapEff is {line}")) }
}

fn filesystem(path: &Path, magic: i64) -> Result<(), String> {
    match sys::filesystem(path) {
        Ok(found) if found == magic => Ok(()),
        Ok(found) => Err(format!("{} is on a filesystem of type {found:#x}", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn writable(path: &Path) -> Result<(), String> {
    sys::writable(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn features() -> Vec<Missing> {
    let programs = [
        (ProgramType::CgroupSock, "cgroup_sock"),
        (ProgramType::CgroupSockAddr, "cgroup_sock_addr"),
        (ProgramType::CgroupSkb, "cgroup_skb"),
        (ProgramType::SockOps, "sock_ops"),
        (ProgramType::SkLookup, "sk_lookup"),
    ];
    let maps = [(MapType::SkStorage, "sk_storage"), (MapType::SockHash, "sockhash"), (MapType::LruHash, "lru_hash")];
    let helpers = [
        (ProgramType::CgroupSock, BpfHelper::BPF_FUNC_get_netns_cookie, "get_netns_cookie in cgroup_sock"),
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie, "get_netns_cookie in cgroup_sock_addr"),
        (ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie, "get_netns_cookie in sock_ops"),
        (ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_sk_storage_get, "sk_storage_get in cgroup_skb"),
        (ProgramType::SkLookup, BpfHelper::BPF_FUNC_sk_assign, "sk_assign in sk_lookup"),
    ];
    let programs = programs.map(|(kind, name)| (Need::Program(name), answer(is_program_supported(kind))));
    let maps = maps.map(|(kind, name)| (Need::Map(name), answer(is_map_supported(kind))));
    let helpers = helpers.map(|(kind, helper, name)| (Need::Helper(name), answer(is_helper_supported(kind, helper))));
    let all = programs.into_iter().chain(maps).chain(helpers);
    all.filter_map(|(need, found)| found.err().map(|found| Missing { need, found })).collect()
}

fn answer<E: fmt::Display>(supported: Result<bool, E>) -> Result<(), String> {
    match supported {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel does not have it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        let check = |line: &str, number, expected: bool| {
            assert_eq!(capability(&format!("Name:\tx\n{line}\n"), number).is_ok(), expected, "{line} {number}");
        };
        check("CapEff:\t000001ffffffffff", 21, true);
        check("CapEff:\t0000000000001000", 12, true);
        check("CapEff:\t0000000000001000", 21, false);
        check("CapEff:\tnonsense", 12, false);
        check("CapPrm:\t000001ffffffffff", 12, false);
    }

    #[test]
    fn wrong_directories_are_named_with_what_to_do() {
        let settings = Settings {
            bpffs: "/proc".into(),
            instance: "node".to_owned(),
            cgroup_root: "/does/not/exist".into(),
            marks: underpass_abi::Marks::DEFAULT,
            mesh_entries: underpass_abi::limits::MESH,
            log: false,
        };
        let missing = probe(&settings);
        let text = |need| {
            let found = missing.iter().find(|missing| missing.need == need);
            found.map(ToString::to_string).unwrap_or_else(|| panic!("{need} is not in {missing:?}"))
        };
        assert!(text(Need::Cgroup2).contains("/does/not/exist"));
        assert!(text(Need::Bpffs).contains("/proc is on a filesystem of type 0x9fa0"), "{}", text(Need::Bpffs));
        assert!(text(Need::Bpffs).contains("mount -t bpf"));
    }
}
