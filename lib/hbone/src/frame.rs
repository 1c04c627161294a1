//! The nine bytes in front of every frame (RFC 9113 section 4.1), its types and flags.
//!
//! Its own module because all others work with frames: the layout of the header is known here alone.

use std::fmt;

/// Length of a frame header in bytes (RFC 9113 4.1).
pub(crate) const HEADER_LEN: usize = 9;
/// Stream identifiers, windows and increments have 31 bits (RFC 9113 4.1, 6.9).
pub(crate) const MAX_31_BITS: u32 = 0x7fff_ffff;
/// The connection preface of a client (RFC 9113 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Flags (RFC 9113 section 6); which of them means something depends on the type.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// A frame's type. Unknown types are kept: they are ignored, except inside a field block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Payload of a stream.
    pub const DATA: Self = Self(0);
    /// Opens a stream, answers it, or ends it with trailers.
    pub const HEADERS: Self = Self(1);
    /// Deprecated; checked and ignored.
    pub const PRIORITY: Self = Self(2);
    /// Ends a stream at once.
    pub const RST_STREAM: Self = Self(3);
    /// Configuration of the connection.
    pub const SETTINGS: Self = Self(4);
    /// Server push; never enabled here.
    pub const PUSH_PROMISE: Self = Self(5);
    /// Round trip.
    pub const PING: Self = Self(6);
    /// No more streams.
    pub const GOAWAY: Self = Self(7);
    /// Flow control credit.
    pub const WINDOW_UPDATE: Self = Self(8);
    /// The rest of a field block.
    pub const CONTINUATION: Self = Self(9);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::DATA => "DATA",
            Self::HEADERS => "HEADERS",
            Self::PRIORITY => "PRIORITY",
            Self::RST_STREAM => "RST_STREAM",
            Self::SETTINGS => "SETTINGS",
            Self::PUSH_PROMISE => "PUSH_PROMISE",
            Self::PING => "PING",
            Self::GOAWAY => "GOAWAY",
            Self::WINDOW_UPDATE => "WINDOW_UPDATE",
            Self::CONTINUATION => "CONTINUATION",
            Self(other) => return write!(f, "unknown ({other:#x})"),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Payload length in bytes, 24 bits.
    pub(crate) length: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    /// 31 bits; the reserved bit is ignored on receipt and never sent.
    pub(crate) stream: u32,
}

impl Header {
    pub(crate) fn decode(bytes: [u8; HEADER_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind: Kind(kind),
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_31_BITS,
        }
    }

    pub(crate) fn encode(self) -> [u8; HEADER_LEN] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = (self.stream & MAX_31_BITS).to_be_bytes();
        [l0, l1, l2, self.kind.0, self.flags, s0, s1, s2, s3]
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The first `N` bytes of a payload, if it has them.
pub(crate) fn take<const N: usize>(payload: &[u8]) -> Option<[u8; N]> {
    payload.first_chunk::<N>().copied()
}
