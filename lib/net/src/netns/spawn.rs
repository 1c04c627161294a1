//! A process in a namespace, with descriptors under numbers that it knows, and with less power than this one. Its own file because
//! of its `unsafe`: code between fork and exec.
//!
//! What must hold: between fork and exec nothing is allocated or locked, because another thread may have held the lock.
#![allow(unsafe_code, reason = "descriptors and capabilities are set between fork and exec")]

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command},
};

use super::Netns;
use crate::system::SystemError;

/// Above the numbers that a process knows.
const FIRST_COPY: RawFd = 64;
/// The first number behind the standard descriptors.
const FIRST: RawFd = 3;
/// To read files of any owner (linux/capability.h): the one capability that is kept.
const CAP_DAC_READ_SEARCH: libc::c_ulong = 2;

impl Netns {
    /// Starts a process inside, which has copies of these descriptors under these numbers, 3 to 63, and no other but its standard
    /// ones. It has no capability but that of reading files of any owner, and can get none by any program. What it is started with
    /// beside that is the caller's business.
    pub fn spawn(&self, command: &mut Command, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> Result<Child, SystemError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| SystemError::Namespace { operation: "start a process in", object: program, source };
        let behind = descriptors.iter().map(|(_, number)| *number + 1).max().unwrap_or(FIRST);
        // None of the copies has a number that another one is to get, and the pipe by which an error of exec is reported neither.
        let copies = descriptors.iter().map(|(fd, number)| Ok((copy(fd)?, *number))).collect::<io::Result<Vec<_>>>();
        let ready = copies.and_then(|copies| Ok((copies, hold(descriptors, behind)?)));
        let (copies, held) = match ready {
            Ok(ready) => ready,
            Err(error) => return Err(failed(error)),
        };
        let prepare = move || {
            for (copy, number) in &copies {
                // SAFETY: numbers alone. The new one stays open across the exec.
                check(unsafe { libc::dup2(copy.as_raw_fd(), *number) })?;
            }
            // SAFETY: numbers alone. What this process was itself started with goes no further.
            check(unsafe { libc::close_range(behind.cast_unsigned(), libc::c_uint::MAX, CLOSE_WITH_EXEC) })?;
            give_up_power()
        };
        // SAFETY: only system calls, and an error of the operating system is a number.
        unsafe { command.pre_exec(prepare) };
        let started = self.enter(|| command.spawn())?.map_err(failed);
        drop(held);
        started
    }
}

const CLOSE_WITH_EXEC: libc::c_int = libc::CLOSE_RANGE_CLOEXEC.cast_signed();

/// Takes every number below `behind` that is free.
fn hold(descriptors: &[(BorrowedFd<'_>, RawFd)], behind: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    let Some((any, _)) = descriptors.first() else { return Ok(held) };
    loop {
        let next = copy_from(any, FIRST)?;
        if next.as_raw_fd() >= behind {
            return Ok(held);
        }
        held.push(next);
    }
}

/// The program after the next exec has no capability but that of reading files, also as root.
fn give_up_power() -> io::Result<()> {
    for capability in 0..libc::c_ulong::from(u8::MAX) {
        if capability == CAP_DAC_READ_SEARCH {
            continue;
        }
        // SAFETY: numbers alone.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break, // behind the last one of this kernel
            dropped => dropped?,
        }
    }
    // SAFETY: numbers alone.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes with an exec.
fn copy(fd: &impl AsFd) -> io::Result<OwnedFd> {
    copy_from(fd, FIRST_COPY)
}

/// The same, with the first free number from this one on.
fn copy_from(fd: &impl AsFd, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: numbers alone; the answer is a descriptor or -1.
    let copy = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        process::Stdio,
    };

    use super::*;

    #[test]
    fn a_process_has_its_descriptors_under_their_numbers() {
        let (mut read, mut write) = io::pipe().expect("pipe");
        let (mut answer, answered) = io::pipe().expect("pipe");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line <&4 && echo got $line >&3"]).stdin(Stdio::null());
        let own = Netns::own().expect("own namespace");
        // Each has the number of the other, or may have.
        let with = [(answered.as_fd(), 3), (read.as_fd(), 4)];
        let mut child = own.spawn(&mut command, &with).expect("started");
        drop((command, answered));
        write.write_all(b"this\n").expect("written");
        let mut text = String::new();
        answer.read_to_string(&mut text).expect("the end comes: no other copy is open");
        assert_eq!(text, "got this\n");
        assert!(child.wait().expect("ended").success());
        drop(write);
        assert_eq!(read.read(&mut [0]).expect("no other copy"), 0);
    }

    #[test]
    fn a_process_has_no_power_and_nothing_else() {
        let (read, write) = io::pipe().expect("pipe");
        // As what a supervisor has left in this process: it does not close with an exec.
        let (left, _other) = io::pipe().expect("pipe");
        // SAFETY: numbers alone.
        check(unsafe { libc::fcntl(left.as_raw_fd(), libc::F_SETFD, 0) }).expect("set");
        let mut command = Command::new("/bin/sh");
        let script =
            "grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs)' /proc/self/status; [ ! -e /proc/$$/fd/$LEFT ] && echo closed";
        command.env("LEFT", left.as_raw_fd().to_string());
        command.args(["-c", script]).stdin(Stdio::null()).stdout(write);
        let own = Netns::own().expect("own namespace");
        let mut child = own.spawn(&mut command, &[(read.as_fd(), 3)]).expect("started");
        drop(command);
        let mut text = String::new();
        { read }.read_to_string(&mut text).expect("read");
        assert!(child.wait().expect("ended").success());
        let words: Vec<_> = text.split_whitespace().collect();
        let one = "0000000000000004";
        let expect = ["CapPrm:", one, "CapEff:", one, "CapBnd:", one, "NoNewPrivs:", "1", "closed"];
        assert_eq!(words, expect);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let own = Netns::own().expect("own namespace");
        let error = own.spawn(&mut Command::new("/nowhere/program"), &[]).expect_err("no such program");
        assert!(error.to_string().starts_with("start a process in network namespace /nowhere/program"), "{error}");
        assert_eq!(error.kernel_error().kind(), io::ErrorKind::NotFound);
    }
}
