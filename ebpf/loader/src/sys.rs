//! The system calls that neither std nor aya offers: bpf(2) for links, pins and raw program loads, and statfs(2).
//!
//! One file, because here is the crate's `unsafe`. Each function is one call; nothing is decided here.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_link_info, bpf_prog_type};

/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
pub(crate) const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// `BPF_F_QUERY_EFFECTIVE` (linux/bpf.h): what runs for this cgroup, its ancestors' programs included, in that order.
const QUERY_EFFECTIVE: u32 = 1;
/// Room for the programs of one hook: far more than any node attaches.
const QUERY_LIMIT: usize = 64;

/// A zeroed argument: the kernel refuses what is not zero behind a command's fields.
fn attr() -> bpf_attr {
    // SAFETY: a union of plain numbers.
    unsafe { zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the argument lives for the call and has the size that is named; the pointers in it are the callers'.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// For commands that answer with a descriptor. The kernel sets close-on-exec.
fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)? as i32;
    // SAFETY: a descriptor that was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// BPF_LINK_CREATE: `program` runs at `target`, a cgroup or a network namespace, until the link is gone.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(target);
    attr.link_create.attach_type = attach_type as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// BPF_LINK_UPDATE: from now on `program` runs there, without a moment in which none does.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// BPF_LINK_DETACH: when it returns, the program runs there no longer. Removing the last pin alone detaches later, at a
/// moment that the kernel chooses.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Which program a link runs, and for links of cgroups, where. 0 where its cgroup is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkInfo {
    pub(crate) program_id: u32,
    pub(crate) cgroup_id: u64,
}

/// BPF_OBJ_GET_INFO_BY_FD of a link that is attached to a cgroup.
pub(crate) fn cgroup_link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: plain numbers.
    let mut info: bpf_link_info = unsafe { zeroed() };
    let mut attr = attr();
    attr.info.bpf_fd = raw(link);
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: the kernel filled it; every field of the union is plain numbers.
    let cgroup_id = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    Ok(LinkInfo { program_id: info.prog_id, cgroup_id })
}

/// BPF_OBJ_PIN.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attr = attr();
    // SAFETY: plain numbers, all zero.
    let fields = unsafe { &mut attr.__bindgen_anon_4 };
    fields.pathname = path.as_ptr() as u64;
    fields.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// BPF_OBJ_GET; `None` where nothing is pinned.
pub(crate) fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = path_string(path)?;
    let mut attr = attr();
    // SAFETY: plain numbers, all zero.
    let fields = unsafe { &mut attr.__bindgen_anon_4 };
    fields.pathname = path.as_ptr() as u64;
    match bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// BPF_PROG_LOAD of an sk_lookup program whose map references are descriptors already. Without BTF: it takes 1.6 ms
/// instead of the 26 to 44 that the whole way through an ELF file takes.
pub(crate) fn load_sk_lookup(name: &CStr, instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    let mut attr = attr();
    // SAFETY: plain numbers, all zero.
    let fields = unsafe { &mut attr.__bindgen_anon_3 };
    fields.prog_type = bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP as u32;
    fields.expected_attach_type = bpf_attach_type::BPF_SK_LOOKUP as u32;
    fields.insn_cnt = instructions.len() as u32;
    fields.insns = instructions.as_ptr() as u64;
    fields.license = LICENSE.as_ptr() as u64;
    let room = fields.prog_name.len() - 1;
    for (to, byte) in fields.prog_name[..room].iter_mut().zip(name.to_bytes()) {
        *to = *byte as libc::c_char;
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// BPF_PROG_QUERY: the ids of the programs that run for a cgroup at a hook, in their order.
pub(crate) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    query(cgroup, attach_type, QUERY_EFFECTIVE).map(|(ids, _)| ids)
}

/// BPF_PROG_QUERY: the ids of the programs that are attached to this very cgroup at a hook, and the flags of their attachment.
pub(crate) fn attached_programs(cgroup: BorrowedFd<'_>, attach_type: bpf_attach_type) -> io::Result<(Vec<u32>, u32)> {
    query(cgroup, attach_type, 0)
}

fn query(cgroup: BorrowedFd<'_>, attach_type: bpf_attach_type, flags: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = [0_u32; QUERY_LIMIT];
    let mut attr = attr();
    attr.query.__bindgen_anon_1.target_fd = raw(cgroup);
    attr.query.attach_type = attach_type as u32;
    attr.query.query_flags = flags;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel wrote the number of programs there, and the flags, which are plain numbers.
    let (count, flags) = unsafe { (attr.query.__bindgen_anon_2.prog_cnt as usize, attr.query.attach_flags) };
    Ok((ids.into_iter().take(count).collect(), flags))
}

/// The path is of a cgroup2 file system.
pub(crate) fn is_cgroup2(path: &Path) -> bool {
    filesystem(path).is_ok_and(|found| found == CGROUP2_MAGIC)
}

/// statfs(2): the magic number of the filesystem under a path.
pub(crate) fn filesystem(path: &Path) -> io::Result<i64> {
    let path = path_string(path)?;
    // SAFETY: plain numbers.
    let mut stat: libc::statfs = unsafe { zeroed() };
    // SAFETY: both live for the call.
    if unsafe { libc::statfs(path.as_ptr(), &mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_type)
}

/// access(2) with W_OK.
pub(crate) fn writable(path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    // SAFETY: it lives for the call.
    if unsafe { libc::access(path.as_ptr(), libc::W_OK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
