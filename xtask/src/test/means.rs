//! The machine's means for the levels `kernel` and `kubernetes` and for the demo: root, capabilities, kernel features,
//! programs.
//!
//! A privileged test must not pass by not running: asked for without the means, the level fails and names all that is
//! missing at once, each with what to do.

use std::fs;

use anyhow::{Result, bail};

use crate::install::{self, Program};

/// The oldest kernel that has what the kernel programs use.
const MIN_KERNEL: (u32, u32) = (6, 1);

/// Bits of capabilities(7) that a root without them lacks in containers.
const CAPABILITIES: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (18, "CAP_SYS_CHROOT"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// Programs that the testbed starts.
pub(crate) const PROGRAMS: &[Program] = &[
    Program { name: "ip", package: "iproute2" },
    Program { name: "ss", package: "iproute2" },
    Program { name: "prlimit", package: "util-linux" },
    Program { name: "setpriv", package: "util-linux" },
    Program { name: "unshare", package: "util-linux" },
];

/// The machine as its files under /proc describe it.
#[derive(Clone, Debug, Default)]
struct Facts {
    is_root: bool,
    /// /proc/self/status
    status: String,
    /// /proc/self/mounts
    mounts: String,
    /// /proc/filesystems
    filesystems: String,
    /// /proc/sys/kernel/osrelease
    release: String,
    has_btf: bool,
    has_tun: bool,
}

/// Installs what is missing and can be installed, and fails with everything else that is missing.
pub(crate) fn ensure() -> Result<()> {
    let mut missing = missing(&Facts::read());
    if let Err(error) = install::programs(PROGRAMS) {
        missing.push(format!("{error:#}"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this cannot run here:\n- {}", missing.join("\n- "));
}

impl Facts {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            is_root: install::is_root(),
            status: text("/proc/self/status"),
            mounts: text("/proc/self/mounts"),
            filesystems: text("/proc/filesystems"),
            release: text("/proc/sys/kernel/osrelease"),
            has_btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            has_tun: fs::metadata("/dev/net/tun").is_ok(),
        }
    }
}

fn missing(facts: &Facts) -> Vec<String> {
    let mut missing = Vec::new();
    let mut need = |present: bool, what: &str| {
        if !present {
            missing.push(what.to_owned());
        }
    };
    need(facts.is_root, "root: run the same by `sudo -E env PATH=\"$PATH\" cargo xtask ...`");
    if facts.is_root {
        for (bit, name) in CAPABILITIES {
            need(
                has_capability(&facts.status, *bit),
                &format!("the capability {name}: run a container with --privileged"),
            );
        }
    }
    let release = facts.release.trim();
    need(
        kernel_version(release).is_some_and(|version| version >= MIN_KERNEL),
        &format!(
            "Linux {}.{} or later, this is `{release}`: run `cargo xtask test --kernel 6.1`",
            MIN_KERNEL.0, MIN_KERNEL.1
        ),
    );
    let has_cgroup2 = facts.mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"));
    need(
        has_cgroup2,
        "cgroup v2: run `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`",
    );
    let has_bpffs = facts.filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf"));
    need(has_bpffs, "the bpf file system: a kernel with CONFIG_BPF_SYSCALL");
    need(facts.has_btf, "/sys/kernel/btf/vmlinux: a kernel with CONFIG_DEBUG_INFO_BTF");
    need(facts.has_tun, "/dev/net/tun: run `modprobe tun`");
    missing
}

fn has_capability(status: &str, bit: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> bit & 1 == 1)
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            is_root: true,
            status: "Name:\txtask\nCapEff:\t000001ffffffffff\n".into(),
            mounts: "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n".into(),
            filesystems: "nodev\tsysfs\nnodev\tbpf\n\text4\n".into(),
            release: "6.1.0-37-cloud-amd64\n".into(),
            has_btf: true,
            has_tun: true,
        }
    }

    fn check(spoil: impl FnOnce(&mut Facts), want: &str) {
        let mut facts = good();
        spoil(&mut facts);
        let missing = missing(&facts);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].starts_with(want), "{missing:?}");
    }

    #[test]
    fn nothing_is_missing_on_a_good_machine() {
        assert_eq!(missing(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_thing_is_missed() {
        check(|facts| facts.is_root = false, "root: ");
        check(|facts| facts.status = "CapEff:\t0000017fffffffff\n".into(), "the capability CAP_BPF");
        check(|facts| facts.release = "5.15.0\n".into(), "Linux 6.1 or later, this is `5.15.0`");
        check(|facts| facts.release.clear(), "Linux 6.1 or later");
        check(|facts| facts.mounts = "cgroup2 /sys/fs/cgroup cgroup rw 0 0\n".into(), "cgroup v2");
        check(|facts| facts.filesystems = "nodev\tsysfs\n".into(), "the bpf file system");
        check(|facts| facts.has_btf = false, "/sys/kernel/btf/vmlinux");
        check(|facts| facts.has_tun = false, "/dev/net/tun");
    }

    #[test]
    fn everything_missing_is_named_at_once() {
        assert_eq!(missing(&Facts::default()).len(), 6);
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, want) in
            [("6.10.1", Some((6, 10))), ("6.1-rc1", Some((6, 1))), ("10.0", Some((10, 0))), ("x", None), ("6", None)]
        {
            assert_eq!(kernel_version(release), want, "{release}");
        }
    }
}
