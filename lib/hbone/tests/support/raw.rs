//! A peer written by hand: frames byte by byte, right or wrong, and the frames of what is answered.

use super::pair::End;
use std::time::Instant;
use underpass_hbone::{Config, Connection, Error, ErrorCode, Role};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it stands on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field block of literals that are not indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![];
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            match u8::try_from(text.len()).unwrap() {
                short @ 0..=126 => bytes.push(short),
                long => bytes.extend([127, 0x80 | ((long - 127) & 0x7f), (long - 127) >> 7]),
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

pub(crate) fn request(stream: u32) -> Vec<u8> {
    headers(stream, 0, &[(":method", "CONNECT"), (":authority", "10.0.0.1:80")])
}

pub(crate) fn answer(stream: u32) -> Vec<u8> {
    headers(stream, 0, &[(":status", "200")])
}

pub(crate) fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        list.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn rst(stream: u32, code: ErrorCode) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

pub(crate) fn goaway(last: u32, code: ErrorCode) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

pub(crate) fn credit(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A frame that our side has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn code(&self) -> ErrorCode {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        ErrorCode(u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()))
    }
}

/// Cuts output into frames, of which there have to be whole ones.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut list = vec![];
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        list.push(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..9 + length].to_vec() });
        bytes = &bytes[9 + length..];
    }
    list
}

/// One of our ends against a hand-written peer.
pub(crate) struct Raw {
    pub(crate) end: End,
    pub(crate) now: Instant,
}

impl Raw {
    /// After the first bytes of both sides; our settings are acknowledged.
    pub(crate) fn new(role: Role, config: Config) -> Self {
        Self::with_settings(role, config, &[])
    }

    pub(crate) fn with_settings(role: Role, config: Config, list: &[(u16, u32)]) -> Self {
        let mut raw = Self::silent(role, config);
        if role == Role::Server {
            raw.end.receive(PREFACE);
        }
        raw.end.receive(&settings(list));
        raw.end.receive(&frame(SETTINGS, ACK, 0, &[]));
        raw.end.transmit();
        assert_eq!(raw.end.error, None);
        raw
    }

    /// Before the peer has said anything.
    pub(crate) fn silent(role: Role, config: Config) -> Self {
        let now = super::origin();
        let connection = match role {
            Role::Client => Connection::client(config, now),
            Role::Server => Connection::server(config, now),
        };
        Self { end: End::new(connection), now }
    }

    /// Gives our end bytes and takes the frames it answers with.
    pub(crate) fn exchange(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.end.receive(bytes);
        frames(&self.end.transmit())
    }

    /// As [`Raw::exchange`], in words: what became of the connection or of a stream.
    pub(crate) fn verdict(&mut self, bytes: &[u8]) -> String {
        let answered = self.exchange(bytes);
        let mut words = vec![];
        for frame in &answered {
            match frame.kind {
                GOAWAY => words.push(format!("goaway {}", frame.code())),
                RST_STREAM => words.push(format!("rst {} {}", frame.stream, frame.code())),
                _ => {}
            }
        }
        let violation = match self.end.error {
            Some(Error::Receive { violation, .. }) => Some(violation),
            _ => None,
        };
        if let Some(violation) = violation {
            assert_eq!(answered.last().map(|frame| (frame.kind, frame.code())), Some((GOAWAY, violation.code())));
        }
        if words.is_empty() { "ok".into() } else { words.join(", ") }
    }
}
