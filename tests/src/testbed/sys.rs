//! The system calls that the standard library and nix do not offer safely: making the scenario's process with its own
//! namespaces, forking a process that runs a function, socket options, `bpf`. Its own file because it is the only one
//! of the testbed with `unsafe` in it.
//!
//! What must hold: `fork` is called by a process with one thread only (the scenario's init, see
//! child.rs), and a function pointer is called only by a fork of the process that it comes from.

#![allow(unsafe_code, reason = "raw system calls and function pointers that travel to a forked process")]

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::unistd::Pid;

/// include/uapi/linux/sched.h; in libc it is an int, which cannot hold it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// include/uapi/asm-generic/fcntl.h; not in libc.
const F_SETSIG: i32 = 10;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The process that [`spawn_isolated`] starts.
pub(super) struct Image {
    /// The program.
    pub(super) program: CString,
    /// Its arguments, the program's name first.
    pub(super) arguments: Vec<CString>,
    /// Its environment, `NAME=value`.
    pub(super) environment: Vec<CString>,
    /// Its stdout and stderr, unless they are ours.
    pub(super) output: Option<OwnedFd>,
}

/// Starts `image` as the first process of a new PID, mount, network and IPC namespace, in `cgroup` from its first
/// instruction; it is killed when the calling thread ends. Returns its pid and a pidfd.
pub(super) fn spawn_isolated(image: &Image, cgroup: BorrowedFd<'_>) -> io::Result<(Pid, OwnedFd)> {
    let null_terminated = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (null_terminated(&image.arguments), null_terminated(&image.environment));
    let output = image.output.as_ref().map(AsRawFd::as_raw_fd);
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is a plain structure of integers; zero is a valid value for all of them.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC) as u64
        | libc::CLONE_PIDFD as u64
        | CLONE_INTO_CGROUP;
    clone.pidfd = &raw mut pidfd as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    clone.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is a fork. The child only makes async-signal-safe calls on memory prepared above
    // (so other threads of the parent do not matter) and ends in execve or _exit.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut clone, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        // SAFETY: as above; every pointer is to memory that the parent's stack keeps alive in this copy.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            if let Some(fd) = output {
                libc::dup2(fd, libc::STDOUT_FILENO);
                libc::dup2(fd, libc::STDERR_FILENO);
            }
            libc::execve(image.program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
    }
    // SAFETY: the kernel stored a new descriptor there, which has no other owner.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((Pid::from_raw(pid as i32), pidfd))
}

/// The two sides of a [`fork`].
pub(super) enum Fork {
    /// In the new process.
    Child,
    /// In the old one, with the new one's pid.
    Parent(Pid),
}

/// Forks. Only for a process with one thread: checked.
pub(super) fn fork() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "fork of a process with {threads} threads");
    // SAFETY: there is one thread, so no lock can be held by a thread that the child lacks.
    match check(i64::from(unsafe { libc::fork() }))? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as i32))),
    }
}

/// Ends a forked process at once, without running what its parent registered for its own exit.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Instructions of a filter of system calls (linux/filter.h, linux/seccomp.h).
mod filter {
    /// In struct seccomp_data: the call's number.
    pub(super) const NUMBER: u32 = 0;
    /// The low half of its first argument.
    pub(super) const FIRST: u32 = 16;
    pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    pub(super) const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

    pub(super) const fn step(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
}

/// From now on this process, and the program that it becomes, is told EAFNOSUPPORT where it wants an IPv6 socket. Only for a
/// process with the rights of root.
pub(super) fn forget_ipv6() -> io::Result<()> {
    use filter::{FIRST, JUMP, LOAD, NUMBER, RETURN, step};
    let mut filter = [
        step(LOAD, NUMBER, 0, 0),
        step(JUMP, libc::SYS_socket as u32, 0, 3),
        step(LOAD, FIRST, 0, 0),
        step(JUMP, libc::AF_INET6 as u32, 0, 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the instructions, whose number is named, from memory that lives until the call is over.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    check(i64::from(set)).map(drop)
}

/// A system call that waits for the stepper.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) id: u64,
    number: i64,
    arguments: [u64; 6],
}

/// The kind of a call that waits for the stepper.
#[derive(Clone, Copy, Debug)]
pub(super) enum SteppedCall {
    /// A command of bpf(2).
    Bpf(&'static str),
    /// A call about the path at this address of its process.
    Path(&'static str, u64),
}

/// Commands of bpf(2) that change what outlives a process (linux/bpf.h).
const GATED_COMMANDS: [(u32, &str); 4] = [(6, "pin"), (28, "create link"), (29, "update link"), (34, "detach link")];

/// Calls that change names, and which argument is the one.
const GATED_CALLS: &[(i64, &str, usize)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename to", 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "remove", 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "remove directory", 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "create directory", 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "create link to a name", 1),
    (libc::SYS_renameat2, "rename to", 3),
    (libc::SYS_unlinkat, "remove", 1),
    (libc::SYS_mkdirat, "create directory", 1),
    (libc::SYS_symlinkat, "create link to a name", 2),
];

/// The kind of a waiting call.
pub(super) fn stepped_call(asked: &Asked) -> SteppedCall {
    let [command, ..] = asked.arguments;
    match GATED_CALLS.iter().find(|(number, ..)| *number == asked.number) {
        Some((_, name, argument)) => SteppedCall::Path(name, asked.arguments[*argument]),
        None => {
            let known = GATED_COMMANDS.iter().find(|(number, _)| u64::from(*number) == command);
            SteppedCall::Bpf(known.map_or("bpf", |(_, name)| name))
        }
    }
}

/// From now on every call of this process, and of the program that it becomes, that changes names, pins or links waits for a
/// stepper, which is this descriptor: it stays open in the program.
pub(super) fn set_stepper(number: RawFd) -> io::Result<()> {
    use filter::{FIRST, JUMP, LOAD, NUMBER, RETURN, step};
    let ask = || step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);
    let mut filter = vec![step(LOAD, NUMBER, 0, 0)];
    for (number, ..) in GATED_CALLS {
        filter.extend([step(JUMP, *number as u32, 0, 1), ask()]);
    }
    filter.push(step(JUMP, libc::SYS_bpf as u32, 0, 1 + 2 * GATED_COMMANDS.len() as u8));
    filter.push(step(LOAD, FIRST, 0, 0));
    for (command, _) in GATED_COMMANDS {
        filter.extend([step(JUMP, command, 0, 1), ask()]);
    }
    filter.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let (set, listen) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the kernel copies the instructions, whose number is named, from memory that lives until the call is over.
    let listener = check(unsafe { libc::syscall(libc::SYS_seccomp, set, listen, &raw const program) })?;
    // Not close-on-exec, as the one that the kernel made is.
    // SAFETY: plain dup2; nothing has that number in a process that is about to become a program.
    check(i64::from(unsafe { libc::dup2(listener as RawFd, number) })).map(drop)
}

/// The next call that waits; none where its process has been killed meanwhile.
pub(super) fn next_call(listener: BorrowedFd<'_>) -> io::Result<Option<Asked>> {
    // SAFETY: a plain structure of integers, which the kernel wants zeroed.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
    match check(i64::from(result)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => Ok(Some(Asked { id: asked.id, number: i64::from(asked.data.nr), arguments: asked.data.args })),
    }
}

/// A call that waits is made; one whose process is gone is none any more.
pub(super) fn let_call_go(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let go = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: go };
    // SAFETY: the kernel reads one such structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    match check(i64::from(result)) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// A process, by a descriptor.
pub(super) fn process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers alone.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: RawFd) {
    // SAFETY: called by a fresh fork right after it took its own descriptor below `first`; none of the ones closed
    // here is used by it again: they belong to the parent's side, whose copies stay open.
    unsafe { libc::close_range(first as u32, u32::MAX, 0) };
}

/// Makes `fd` the descriptor `number` of this process.
pub(super) fn move_to(fd: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() == number {
        return Ok(fd);
    }
    // SAFETY: plain dup3; the descriptor that had the number before is closed, which only fresh forks do here.
    check(i64::from(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) }))?;
    drop(fd);
    // SAFETY: dup3 made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes over the descriptor with this number, which was handed to this process.
pub(super) fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: its caller was told this number by the message that carried the descriptor, and asks once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// A function pointer as a number, for a request to the process that was forked from this image.
pub(super) fn address_of<F: Copy>(function: F) -> u64 {
    assert_eq!(size_of::<F>(), size_of::<usize>(), "a plain function pointer");
    // SAFETY: a function pointer has the size of usize (asserted) and no provenance that is needed later: see `call`.
    unsafe { std::mem::transmute_copy::<F, usize>(&function) as u64 }
}

/// The inverse of [`address_of`].
///
/// # Safety
/// `address` came from `address_of::<F>` in a process with the same image at the same place: this one, its parent or
/// its child by fork alone.
pub(super) unsafe fn function_at<F: Copy>(address: u64) -> F {
    assert_eq!(size_of::<F>(), size_of::<usize>(), "a plain function pointer");
    let address = address as usize;
    // SAFETY: see above; the bits are those of an `F` of this image.
    unsafe { std::mem::transmute_copy::<usize, F>(&address) }
}

/// A descriptor of another process, by its number there: what it names is shared from then on.
pub fn descriptor_of(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers alone.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// setsockopt with bytes as they are.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    check(i64::from(result)).map(drop)
}

/// getsockopt of a value of `N` bytes; 4 for an int.
pub fn option_bytes<const N: usize>(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<[u8; N]> {
    let (mut value, mut length) = ([0; N], N as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    check(i64::from(result)).map(|_| value)
}

/// An AF_PACKET socket for all protocols, not blocking, bound to a device of the caller's network namespace.
pub(super) fn packet_socket(device: &str) -> io::Result<OwnedFd> {
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    let device = CString::new(device)?;
    // SAFETY: takes a C string, returns 0 for a device that does not exist.
    let index = unsafe { libc::if_nametoindex(device.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // Protocol 0 until it is bound: otherwise it would receive from every device first.
    // SAFETY: plain call; the descriptor it returns is ours.
    let socket = unsafe { OwnedFd::from_raw_fd(check(i64::from(libc::socket(libc::AF_PACKET, kind, 0)))? as RawFd) };
    // SAFETY: sockaddr_ll is a plain structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every_protocol;
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`.
    check(i64::from(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(socket)
}

/// One `bpf` system call. `attributes` is `union bpf_attr` as bytes; pointers in it must be valid for the call.
///
/// # Safety
/// Every address within `attributes` points to memory of the length that the command expects.
pub unsafe fn bpf(command: i32, attributes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: pointer and length describe `attributes`; what it points to is the caller's promise.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) })?;
    // SAFETY: the commands that are used here return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The same, of a command that returns none.
///
/// # Safety
/// As [`bpf`].
pub unsafe fn bpf_without_descriptor(command: i32, attributes: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `attributes`; what it points to is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) }).map(drop)
}

/// A stream socket of any family and protocol.
pub fn stream_socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    socket(family, libc::SOCK_STREAM, protocol)
}

/// A raw socket. `IPPROTO_RAW` (255): packets bring their own IP header.
pub fn raw_socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    socket(family, libc::SOCK_RAW, protocol)
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain call; the descriptor it returns is ours.
    Ok(unsafe {
        OwnedFd::from_raw_fd(check(i64::from(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol)))? as RawFd)
    })
}

/// Takes a socket's destination away, so that it can be connected anew: connect(2) with AF_UNSPEC.
pub fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: sockaddr is a plain structure of integers; zero is a valid value for all of them, and AF_UNSPEC is zero.
    let unspecified: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads so many bytes of a structure that lives until the call is over.
    let result =
        unsafe { libc::connect(socket.as_raw_fd(), &raw const unspecified, size_of::<libc::sockaddr>() as u32) };
    check(i64::from(result)).map(drop)
}

/// Closes a TCP socket by a RST instead of a FIN: SO_LINGER with zero seconds.
pub fn linger_zero(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on_for_zero_seconds = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &on_for_zero_seconds)
}

/// Takes a lease on a file that no other process has open: open() of it waits until `file` is closed (for
/// /proc/sys/fs/lease-break-time at the longest).
pub fn lease(file: BorrowedFd<'_>) -> io::Result<()> {
    // The holder is told by a signal, SIGIO unless it chooses another; SIGURG is ignored by default.
    // SAFETY: these commands of fcntl() take an int and touch no memory.
    let chosen = unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    check(i64::from(chosen))?;
    // SAFETY: as above.
    let leased = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    check(i64::from(leased)).map(drop)
}
