//! System calls without a safe wrapper, and the error type of this crate's modules that talk to the kernel.
//!
//! It is its own file because it is the only one of [`crate::socket`], [`crate::netns`], netlink and
//! [`crate::destroy`] with `unsafe` in it. What must hold: every pointer handed to the kernel comes with the size of what
//! it points to, and outlives the call.
#![allow(unsafe_code, reason = "setsockopt and getsockopt for options that nix does not name")]

use std::{
    ffi::c_int,
    io,
    os::fd::{AsFd, AsRawFd},
};

/// An operation that the kernel refused, its object, and the kernel's error.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// A namespace could not be opened, read or entered.
    #[error("{operation} network namespace {object}: {source}")]
    Namespace {
        /// The operation.
        operation: &'static str,
        /// The namespace.
        object: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A socket could not be made, set up, bound or connected.
    #[error("{operation} {object}: {source}")]
    Socket {
        /// The operation.
        operation: &'static str,
        /// The socket, or its peer.
        object: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("{operation} {object}: {source}")]
    Netlink {
        /// The operation.
        operation: &'static str,
        /// The rule, route or socket.
        object: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A setting under /proc/sys could not be read or written.
    #[error("{operation} sysctl {object}: {source}")]
    Sysctl {
        /// The operation.
        operation: &'static str,
        /// The setting.
        object: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl SystemError {
    /// The kernel's error, for callers that decide by it.
    #[must_use]
    pub const fn kernel_error(&self) -> &io::Error {
        match self {
            Self::Namespace { source, .. }
            | Self::Socket { source, .. }
            | Self::Netlink { source, .. }
            | Self::Sysctl { source, .. } => source,
        }
    }
}

/// For the sockets of the data path, whose callers know operation and object. The kernel's errno stays: see [`errno`].
impl From<SystemError> for io::Error {
    fn from(error: SystemError) -> Self {
        Self::new(error.kernel_error().kind(), error)
    }
}

/// The kernel's errno behind an error, also where it has been wrapped in [`SystemError`].
#[must_use]
pub fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| errno(error.get_ref()?.downcast_ref::<SystemError>()?.kernel_error()))
}

/// setsockopt(2) for an option whose value is one `int`.
pub(crate) fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let (pointer, length) = ((&raw const value).cast(), size_of::<c_int>() as libc::socklen_t);
    // SAFETY: the pointer is to `value`, which is as long as said and lives to the end of this function.
    match unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, pointer, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// getsockopt(2) for an option whose value is one `int`.
pub(crate) fn option(socket: &impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    let (fd, pointer) = (socket.as_fd().as_raw_fd(), (&raw mut value).cast());
    // SAFETY: both pointers are to locals; the kernel writes at most the bytes of an int, which `length` names.
    match unsafe { libc::getsockopt(fd, level, name, pointer, &raw mut length) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that have arrived on a connection and were not read (FIONREAD, tcp(7)); 0 at the end of the stream as well.
pub(crate) fn unread(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the pointer is to a local, of the type that the kernel writes.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) } {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SO_NETNS_COOKIE: the name of the namespace that the socket was made in, never reused while the machine runs.
pub(crate) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    let (fd, pointer) = (socket.as_fd().as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: both pointers are to locals; the kernel writes at most the 8 bytes that `length` names.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, pointer, &raw mut length) } {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_number() {
        let full = || io::Error::from_raw_os_error(libc::EMFILE);
        let socket = |source| SystemError::Socket { operation: "make", object: "socket".into(), source };
        let once: io::Error = SystemError::Sysctl { operation: "read", object: "range".into(), source: full() }.into();
        assert_eq!((once.raw_os_error(), errno(&once)), (None, Some(libc::EMFILE)));
        assert_eq!(errno(&socket(once).into()), Some(libc::EMFILE));
        assert_eq!(errno(&full()), Some(libc::EMFILE));
        assert_eq!(errno(&socket(io::ErrorKind::InvalidData.into()).into()), None);
        assert_eq!(errno(&io::Error::other("in words")), None);
    }
}
