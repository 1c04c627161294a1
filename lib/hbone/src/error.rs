//! Error codes of the wire and the one error a connection ends with.
//!
//! A violation is named once, as an enum, where it is found; the code for the peer follows from it, so that a log
//! line, a metric and the GOAWAY frame can never disagree.

use crate::frame::Kind;
use std::fmt;

/// An HTTP/2 error code (RFC 9113 section 7), as carried by RST_STREAM and GOAWAY. Unknown values are kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Not an error: graceful shutdown, or "stop sending, the answer is complete".
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The implementation failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// More was sent than a window allowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame for a half that was already closed.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame of an invalid size.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was refused before anything was processed: safe to try again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x8);
    /// The field section compression state is lost.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The TCP connection behind a CONNECT was reset or abnormally closed.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer causes excessive load.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    /// The transport does not meet the minimum requirements.
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    /// The endpoint wants HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// The registered name, if the code has one.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(usize::try_from(self.0).ok()?).copied()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error that a connection ended with. The GOAWAY for the peer is already queued: send what is waiting, then close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer broke a rule that concerns the whole connection.
    #[error("receive {frame} frame on stream {stream}: {violation}")]
    Receive {
        /// The frame that broke the rule.
        frame: Kind,
        /// Its stream, 0 for the connection.
        stream: u32,
        /// The rule.
        violation: Violation,
    },
    /// The peer answered no PING, and sent nothing else, within the configured time.
    #[error("keep connection alive: nothing received within the PING timeout")]
    PingTimeout,
    /// The connection had already failed or was closed by [`crate::Connection::close`].
    #[error("use connection: it is closed")]
    Closed,
}

impl Error {
    /// The code for the peer.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Receive { violation, .. } => violation.code(),
            Self::PingTimeout | Self::Closed => ErrorCode::NO_ERROR,
        }
    }
}

/// The broken rule of RFC 9113 or RFC 7541, or the exceeded limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// RFC 9113 3.4.
    #[error("the connection preface is invalid")]
    Preface,
    /// RFC 9113 3.4: the first frame is SETTINGS.
    #[error("the first frame is not SETTINGS")]
    SettingsFirst,
    /// RFC 9113 4.2.
    #[error("the frame is larger than SETTINGS_MAX_FRAME_SIZE")]
    FrameTooLarge,
    /// RFC 9113 section 6: each type's own size.
    #[error("the size of the frame is wrong for its type")]
    FrameSize,
    /// RFC 9113 section 6: stream 0 where a stream is needed, or the reverse.
    #[error("the frame type does not belong on this stream")]
    WrongStream,
    /// RFC 9113 6.1, 6.2.
    #[error("the padding is longer than the payload")]
    Padding,
    /// RFC 9113 5.1.
    #[error("the stream is idle")]
    IdleStream,
    /// RFC 9113 5.1.1: identifiers grow and have the opener's parity.
    #[error("the stream identifier is invalid")]
    StreamIdentifier,
    /// RFC 9113 5.1.
    #[error("the stream is closed")]
    StreamClosed,
    /// RFC 9113 5.1.2.
    #[error("more streams are open than SETTINGS_MAX_CONCURRENT_STREAMS")]
    TooManyStreams,
    /// RFC 9113 5.3.1.
    #[error("the stream depends on itself")]
    SelfDependency,
    /// RFC 9113 6.2, 6.10: a field block is contiguous.
    #[error("a field block was interrupted, or continued where there is none")]
    Continuation,
    /// RFC 9113 6.5.2.
    #[error("a setting has an invalid value")]
    SettingValue,
    /// RFC 9113 6.5.2, 6.9.2.
    #[error("SETTINGS_INITIAL_WINDOW_SIZE overflows a window")]
    InitialWindow,
    /// RFC 9113 6.6, 8.4: push is never enabled here.
    #[error("server push is not enabled")]
    Push,
    /// RFC 9113 6.9.
    #[error("a window increment of zero")]
    ZeroIncrement,
    /// RFC 9113 6.9.1.
    #[error("a window exceeds 2^31-1")]
    WindowOverflow,
    /// RFC 9113 6.9.1.
    #[error("more was sent than the window allows")]
    WindowExceeded,
    /// RFC 7541.
    #[error("the field block cannot be decompressed")]
    Compression,
    /// RFC 9113 8.1.1, 8.2, 8.3, 8.5.
    #[error("the message is malformed")]
    Malformed,
    /// The field section is larger than SETTINGS_MAX_HEADER_LIST_SIZE.
    #[error("the header list is too large")]
    HeaderListTooLarge,
    /// A field block in more CONTINUATION frames, or more bytes, than any header list that is allowed needs.
    #[error("the field block is too large")]
    FieldBlockFlood,
    /// More PING frames than a living connection needs.
    #[error("too many PING frames")]
    PingFlood,
    /// More SETTINGS frames, or settings in one frame, than a living connection needs.
    #[error("too many SETTINGS frames")]
    SettingsFlood,
    /// Streams opened and reset again before they were answered.
    #[error("too many streams reset before they were answered")]
    ResetFlood,
    /// DATA frames without payload.
    #[error("too many empty DATA frames")]
    EmptyDataFlood,
    /// Frames that carry nothing: unknown types, PRIORITY, 1xx answers, frames for closed streams.
    #[error("too many frames without effect")]
    NothingFlood,
    /// Streams that broke a rule of their own.
    #[error("too many streams with errors")]
    StreamErrorFlood,
    /// The peer provokes answers and does not read them.
    #[error("too many answers wait for the peer to read")]
    UnreadAnswers,
}

impl Violation {
    /// The error code for this violation.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Preface
            | Self::SettingsFirst
            | Self::WrongStream
            | Self::Padding
            | Self::IdleStream
            | Self::StreamIdentifier
            | Self::SelfDependency
            | Self::Continuation
            | Self::SettingValue
            | Self::Push
            | Self::ZeroIncrement
            | Self::Malformed => ErrorCode::PROTOCOL_ERROR,
            Self::FrameTooLarge | Self::FrameSize => ErrorCode::FRAME_SIZE_ERROR,
            Self::StreamClosed => ErrorCode::STREAM_CLOSED,
            Self::TooManyStreams => ErrorCode::REFUSED_STREAM,
            Self::InitialWindow | Self::WindowOverflow | Self::WindowExceeded => ErrorCode::FLOW_CONTROL_ERROR,
            Self::Compression => ErrorCode::COMPRESSION_ERROR,
            Self::HeaderListTooLarge
            | Self::FieldBlockFlood
            | Self::PingFlood
            | Self::SettingsFlood
            | Self::ResetFlood
            | Self::EmptyDataFlood
            | Self::NothingFlood
            | Self::StreamErrorFlood
            | Self::UnreadAnswers => ErrorCode::ENHANCE_YOUR_CALM,
        }
    }
}
