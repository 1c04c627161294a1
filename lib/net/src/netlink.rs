//! A minimal netlink client: requests with attributes, acknowledgements, dumps and notifications. For [`crate::netns`]
//! (rtnetlink) and [`crate::destroy`] (sock_diag), its only users.
//!
//! What must hold: a request runs on a socket of its own, so that no answer of an earlier one can be taken for it; what
//! the kernel sends is read with bounds, never by index.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
            socket, sockopt,
        },
        time::TimeVal,
    },
};

/// `struct nlmsghdr` (linux/netlink.h): length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// NLMSG_ERROR; with code 0 it is the acknowledgement.
const ERROR: u16 = 2;
/// NLMSG_DONE: the end of a dump.
const DONE: u16 = 3;
/// NLM_F_DUMP_INTR: something changed while it was dumped; the dump may lack entries.
const INTERRUPTED: u16 = 0x10;
/// The largest chunk of a dump (NLMSG_GOODSIZE is a page, the kernel fills up to 32 KiB).
const CHUNK_BYTES: usize = 64 * 1024;
/// Timeout of the kernel's answer. It answers while the request is being sent; this is against a lost answer.
const ANSWER_SECONDS: i64 = 5;
/// Attempts of a dump that changes interrupt.
const DUMPS: usize = 16;

/// A netlink protocol: the part of the kernel that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// rtnetlink(7).
    Route,
    /// sock_diag(7).
    SocketDiagnosis,
}

/// A request: its header's type and flags, its family's header, and attributes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// NLM_F_REPLACE.
    pub(crate) const REPLACE: u16 = 0x100;
    /// NLM_F_EXCL.
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    /// NLM_F_CREATE.
    pub(crate) const CREATE: u16 = 0x400;
    /// NLM_F_ROOT | NLM_F_MATCH.
    pub(crate) const DUMP: u16 = 0x300;
    const REQUEST: u16 = 0x1;
    const ACKNOWLEDGE: u16 = 0x4;

    /// `header` is that of the family, padded to four bytes.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let wants_answer = if flags & Self::DUMP == Self::DUMP { 0 } else { Self::ACKNOWLEDGE };
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | Self::REQUEST | wants_answer).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        add(&mut self.bytes, kind, value);
        self
    }

    fn finished(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.splice(..4, length.to_ne_bytes());
        self.bytes
    }
}

/// Adds an attribute: `struct nlattr` (length, type), then the value, padded to four bytes.
fn add(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX); // ours are addresses, numbers and names
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The value of an attribute that has others in it, behind a header that is padded to four bytes.
pub(crate) fn nested(mut header: Vec<u8>, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    attributes.iter().for_each(|(kind, value)| add(&mut header, *kind, value));
    header
}

/// An attribute of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

/// The attributes in `bytes`, up to the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(fixed(bytes.get(..2)?)?));
        let kind = u16::from_ne_bytes(fixed(bytes.get(2..4)?)?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

/// The bytes as an array, where their number is right.
pub(crate) fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// A message of an answer, or how the answer ends.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    Body { interrupted: bool, body: &'a [u8] },
    Done { interrupted: bool },
    Acknowledged,
    Failed(i32),
}

/// The messages in a datagram, up to the first that does not fit.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(fixed(bytes.get(..4)?)?) as usize;
        let kind = u16::from_ne_bytes(fixed(bytes.get(4..6)?)?);
        let interrupted = u16::from_ne_bytes(fixed(bytes.get(6..8)?)?) & INTERRUPTED != 0;
        let body = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let code = || body.get(..4).and_then(fixed).map_or(0, i32::from_ne_bytes);
        Some(match kind {
            DONE if code() < 0 => Answer::Failed(code().saturating_neg()),
            DONE => Answer::Done { interrupted },
            ERROR if code() < 0 => Answer::Failed(code().saturating_neg()),
            ERROR => Answer::Acknowledged,
            _ => Answer::Body { interrupted, body },
        })
    })
}

/// A netlink socket of the namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens one in the calling thread's namespace; `groups` are the notifications that it gets.
    pub(crate) fn open(protocol: Protocol, groups: u32) -> io::Result<Self> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::SocketDiagnosis => SockProtocol::NetlinkSockDiag,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
        Ok(Self { fd })
    }

    /// Sends a request and waits for its acknowledgement.
    pub(crate) fn acknowledged(&self, request: Request) -> io::Result<()> {
        self.send(request)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            for answer in answers(self.receive(&mut buffer)?) {
                match answer {
                    Answer::Acknowledged => return Ok(()),
                    Answer::Failed(code) => return Err(io::Error::from_raw_os_error(code)),
                    Answer::Body { .. } | Answer::Done { .. } => {}
                }
            }
        }
    }

    /// Sends a request for a list; the bodies of its entries. Repeated when something changed meanwhile.
    pub(crate) fn dump(&self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..DUMPS {
            if let Some(bodies) = self.dump_once(request.clone())? {
                return Ok(bodies);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the list changes faster than it can be read"))
    }

    fn dump_once(&self, request: Request) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.send(request)?;
        let (mut buffer, mut bodies, mut whole) = (vec![0; CHUNK_BYTES], Vec::new(), true);
        loop {
            for answer in answers(self.receive(&mut buffer)?) {
                match answer {
                    Answer::Body { interrupted, body } => {
                        whole &= !interrupted;
                        bodies.push(body.to_owned());
                    }
                    Answer::Done { interrupted } => return Ok((whole && !interrupted).then_some(bodies)),
                    Answer::Failed(code) => return Err(io::Error::from_raw_os_error(code)),
                    Answer::Acknowledged => {}
                }
            }
        }
    }

    /// Reads every notification that waits. True if there were any, or some got lost.
    pub(crate) fn drain(&self) -> io::Result<bool> {
        let (mut buffer, mut any) = ([0; 8192], false);
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EAGAIN) => return Ok(any),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn send(&self, request: Request) -> io::Result<()> {
        let bytes = request.finished();
        let sent = send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let length = loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_request_is_padded_and_knows_its_length() {
        let request = Request::new(7, Request::CREATE, &[1, 2, 3, 4]).attribute(9, b"abcde").attribute(1, &[]);
        let bytes = request.finished();
        assert_eq!(bytes.len(), 16 + 4 + 12 + 4);
        assert_eq!(bytes[..4], 36_u32.to_ne_bytes());
        assert_eq!(bytes[4..8], [7_u16.to_ne_bytes(), 0x405_u16.to_ne_bytes()].concat());
        let read: Vec<_> = attributes(&bytes[20..]).collect();
        assert_eq!(read, [Attribute { kind: 9, value: b"abcde" }, Attribute { kind: 1, value: b"" }]);
    }

    #[test]
    fn answers_end_the_way_the_kernel_says() {
        let check = |bytes: Vec<u8>, expected: &[Answer<'_>]| assert_eq!(answers(&bytes).collect::<Vec<_>>(), expected);
        check(message(ERROR, 0, &0_i32.to_ne_bytes()), &[Answer::Acknowledged]);
        check(message(ERROR, 0, &(-17_i32).to_ne_bytes()), &[Answer::Failed(17)]);
        check(message(DONE, 0, &0_i32.to_ne_bytes()), &[Answer::Done { interrupted: false }]);
        check(message(DONE, 0x10, &[]), &[Answer::Done { interrupted: true }]);
        check(message(DONE, 0, &(-2_i32).to_ne_bytes()), &[Answer::Failed(2)]);
        let two = [message(24, 2, b"abc"), message(24, 0x12, b"")].concat();
        let body = |interrupted, body| Answer::Body { interrupted, body };
        check(two, &[body(false, b"abc"), body(true, b"")]);
    }

    #[test]
    fn truncated_messages_are_not_read() {
        let whole = [message(24, 2, b"abcd"), message(DONE, 0, &[0; 4])].concat();
        for end in 0..whole.len() {
            assert!(answers(&whole[..end]).count() < 2, "{end}");
        }
        for bytes in [&[0; 16][..], &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[255; 40]] {
            assert_eq!(answers(bytes).count(), 0, "{bytes:?}");
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn the_kernel_refuses_an_unknown_request() {
        let socket = Socket::open(Protocol::Route, 0).expect("rtnetlink");
        let e = socket.acknowledged(Request::new(9999, 0, &[0; 4])).expect_err("no such request");
        assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP), "{e}");
        assert!(!socket.drain().expect("nothing waits"));
    }
}
