//! Descriptor passing between two processes (SCM_RIGHTS), over a Unix socket that keeps messages apart (SOCK_SEQPACKET): how a
//! successor gets the listeners of its predecessor. Its own file because of its `unsafe`: a descriptor that arrives is a number
//! until it has an owner.
#![allow(unsafe_code, reason = "owning descriptors that arrived")]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::PermissionsExt as _,
    },
    path::Path,
    time::Duration,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use tokio::io::unix::AsyncFd;

/// Most descriptors of one message (the kernel's SCM_MAX_FD is 253).
pub const MOST_DESCRIPTORS: usize = 250;
/// The longest message, in bytes.
pub const MOST_BYTES: usize = 64 << 10;

/// The listener of descriptor connections.
#[derive(Debug)]
pub struct DescriptorListener(OwnedFd);

/// One end of a connection that passes descriptors.
#[derive(Debug)]
pub struct DescriptorConnection(OwnedFd);

fn seqpacket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

impl DescriptorListener {
    /// Listens at `path`, in the place of an earlier listener.
    ///
    /// # Errors
    /// Where the path is too long for a Unix socket, or cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = seqpacket()?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        // The owner alone may connect, and no process can before listen().
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listen(&listener, Backlog::new(4)?)?;
        Ok(Self(listener))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What accept4(2) says.
    pub fn accept(&self) -> io::Result<DescriptorConnection> {
        let fd = accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: a descriptor that was just made for us.
        Ok(DescriptorConnection(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl DescriptorConnection {
    /// Connects to the listener at `path`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let connection = seqpacket()?;
        connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(connection))
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// What socketpair(2) says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    /// The peer's user and process ids, as of its connect().
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn peer(&self) -> io::Result<(u32, i32)> {
        let credentials = getsockopt(&self.0, sockopt::PeerCredentials)?;
        Ok((credentials.uid(), credentials.pid()))
    }

    /// Sets the timeout of sending and receiving; none where it is zero.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let time = TimeVal::milliseconds(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&self.0, sockopt::ReceiveTimeout, &time)?;
        Ok(setsockopt(&self.0, sockopt::SendTimeout, &time)?)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// What sendmsg(2) says; too many descriptors or bytes are `InvalidInput`.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if descriptors.len() > MOST_DESCRIPTORS || bytes.len() > MOST_BYTES || bytes.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?;
        Ok(())
    }

    /// Waits for one message; empty where the other end is gone.
    ///
    /// # Errors
    /// What recvmsg(2) says; `WouldBlock` after the timeout, `InvalidData` where a message was truncated.
    pub fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MOST_BYTES];
        let mut room = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made them for us, and no other code knows their numbers.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let (n, cut) = (message.bytes, message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
        if cut {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.truncate(n);
        Ok((bytes, descriptors))
    }
}

/// One end of a connection in a tokio runtime. Messages are sent and taken without descriptors.
#[derive(Debug)]
pub struct AsyncConnection(AsyncFd<DescriptorConnection>);

impl AsyncConnection {
    /// This end, whose process has no other use of it. Call it inside a runtime.
    ///
    /// # Errors
    /// Where the descriptor is nothing that can be waited for.
    pub fn new(connection: DescriptorConnection) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&connection.0, FcntlArg::F_GETFL)?);
        fcntl(&connection.0, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the connection owns its one descriptor until it is dropped, and nothing exchanges it.
        let watched = unsafe { AsyncFd::register(connection) };
        watched.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Sends one message, once there is room. Dropped before it completes, it may have been sent.
    ///
    /// # Errors
    /// As [`DescriptorConnection::send`].
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            if let Ok(sent) = self.0.writable().await?.try_io(|socket| socket.get_ref().send(bytes, &[])) {
                return sent;
            }
        }
    }

    /// Waits for one message; none where the other end is gone. Dropped before it completes, nothing is lost.
    ///
    /// # Errors
    /// As [`DescriptorConnection::receive`].
    pub async fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.0.readable().await?.try_io(|socket| socket.get_ref().receive()) {
                Err(_not_yet) => {}
                Ok(Ok((bytes, _))) => return Ok((!bytes.is_empty()).then_some(bytes)),
                // It ended with messages unread.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

/// A descriptor that becomes readable when the process is gone (pidfd_open(2)).
///
/// # Errors
/// Where there is no such process, as this one sees them.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers; the answer is a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until a descriptor is readable; false after the timeout.
#[must_use]
pub fn is_readable(descriptor: &impl AsFd, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
}

/// The end of a process, to be waited for in a runtime.
#[derive(Debug)]
pub struct ProcessEnd(AsyncFd<OwnedFd>);

impl ProcessEnd {
    /// Of the process of this number, which is not reaped yet. Call it inside a runtime.
    ///
    /// # Errors
    /// What pidfd_open(2) says.
    pub fn of(pid: i32) -> io::Result<Self> {
        // SAFETY: the descriptor is owned until it is dropped, and nothing exchanges it.
        let watched = unsafe { AsyncFd::register(pidfd(pid)?) };
        watched.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Completes once it has ended, and at once from then on. It is still to be reaped.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}

/// Takes a descriptor that the process was started with, by its number. It closes with an exec from now on.
///
/// # Safety
/// Nothing else in this process owns that number.
///
/// # Errors
/// `EBADF` where it was started without.
pub unsafe fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: numbers alone.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as was just seen, and has no other owner, as the caller says.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Looks whether a descriptor is one end of such a connection.
///
/// # Errors
/// `InvalidInput` where it is another one.
pub fn is_connection(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    match getsockopt(&descriptor, sockopt::SockType)? {
        SockType::SeqPacket => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket of another kind")),
    }
}

impl From<OwnedFd> for DescriptorConnection {
    /// From another process. Where it is no such socket, sending and receiving fail.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<DescriptorConnection> for OwnedFd {
    fn from(connection: DescriptorConnection) -> Self {
        connection.0
    }
}

impl AsRawFd for DescriptorConnection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for DescriptorConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::IntoRawFd as _};

    use super::*;

    #[test]
    fn descriptors_arrive_in_their_order() {
        let (a, b) = DescriptorConnection::pair().expect("pair");
        let sent: Vec<TcpListener> =
            (0..MOST_DESCRIPTORS).map(|_| TcpListener::bind("127.0.0.1:0").expect("bound")).collect();
        let borrowed: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
        a.send(b"all", &borrowed).expect("sent");
        a.send(b"none", &[]).expect("sent");
        let (bytes, arrived) = b.receive().expect("received");
        assert_eq!(bytes, b"all");
        let names = |all: &[TcpListener]| all.iter().map(|l| l.local_addr().expect("name")).collect::<Vec<_>>();
        let arrived: Vec<TcpListener> = arrived.into_iter().map(TcpListener::from).collect();
        assert_eq!(names(&arrived), names(&sent));
        assert_eq!(b.receive().expect("received").0, b"none");
        drop(a);
        assert_eq!(b.receive().expect("the end").0, b"");
    }

    #[test]
    fn a_message_beyond_the_limits_is_refused() {
        let (a, b) = DescriptorConnection::pair().expect("pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let check = |bytes: &[u8], descriptors: usize| {
            let error = a.send(bytes, &vec![listener.as_fd(); descriptors]).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        };
        check(b"x", MOST_DESCRIPTORS + 1);
        check(&vec![0; MOST_BYTES + 1], 0);
        check(b"", 0); // it would be the end
        b.set_timeout(Duration::from_millis(10)).expect("set");
        assert_eq!(b.receive().expect_err("nothing comes").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_descriptor_is_inherited_by_its_number() {
        let (a, b) = DescriptorConnection::pair().expect("pair");
        // SAFETY: nothing else owns the number now.
        let b = unsafe { inherited(b.0.into_raw_fd()) }.expect("there");
        is_connection(b.as_fd()).expect("it is");
        a.send(b"x", &[]).expect("sent");
        assert_eq!(DescriptorConnection::from(b).receive().expect("received").0, b"x");
        // SAFETY: nothing has a number that large.
        let missing = unsafe { inherited(1 << 20) }.expect_err("none");
        assert_eq!(missing.raw_os_error(), Some(libc::EBADF));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        assert_eq!(is_connection(listener.as_fd()).expect_err("another").kind(), io::ErrorKind::InvalidInput);
        let file = std::fs::File::open("/dev/null").expect("opened");
        assert_eq!(is_connection(file.as_fd()).expect_err("no socket").raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn only_its_owner_may_connect() {
        let path = std::env::temp_dir().join(format!("underpass-listener-{}", std::process::id()));
        assert_eq!(DescriptorConnection::connect(&path).expect_err("no listener").kind(), io::ErrorKind::NotFound);
        let first = DescriptorListener::open(&path).expect("opened");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (near, far) = (DescriptorConnection::connect(&path).expect("connected"), first.accept().expect("accepted"));
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(far.peer().expect("asked"), (nix::unistd::geteuid().as_raw(), own));
        near.send(b"hello", &[]).expect("sent");
        assert_eq!(far.receive().expect("received").0, b"hello");
        // The next owner of the path takes over from the first.
        let second = DescriptorListener::open(&path).expect("opened");
        let _near = DescriptorConnection::connect(&path).expect("connected");
        second.accept().expect("accepted");
        std::fs::remove_file(&path).expect("removed");
    }
}
