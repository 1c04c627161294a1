//! The settings that both ends of a connection exchange (RFC 9113 section 6.5), and the configuration by an owner.

use crate::error::Violation;
use crate::frame::MAX_31_BITS;
use std::time::Duration;

/// Windows and the table start with these sizes until SETTINGS change them (RFC 9113 6.5.2, 6.9.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
pub(crate) const DEFAULT_TABLE: u32 = 4_096;
pub(crate) const DEFAULT_FRAME: u32 = 16_384;
/// The largest SETTINGS_MAX_FRAME_SIZE there is (RFC 9113 6.5.2).
pub(crate) const LARGEST_FRAME: u32 = 0x00ff_ffff;
/// The most settings of one frame; RFC 9113 defines six.
pub(crate) const MOST_SETTINGS_PER_FRAME: usize = 64;
/// One setting: identifier and value (RFC 9113 6.5.1).
const SETTING_LEN: usize = 6;

/// Identifiers (RFC 9113 6.5.2).
mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// The role of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Accepts streams.
    Server,
}

/// The configuration of a connection; the defaults are those of the protocol between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Client: the most streams that are open at once, also where the peer allows more.
    pub max_open_streams: u32,
    /// Server: SETTINGS_MAX_CONCURRENT_STREAMS.
    pub max_accepted_streams: u32,
    /// Bytes a stream may have on the way at first (SETTINGS_INITIAL_WINDOW_SIZE); at most 2^31-1.
    pub stream_window: u32,
    /// Bytes a stream's window may grow to while its reader keeps up.
    pub stream_window_max: u32,
    /// Bytes the connection may have on the way; at least 65,535, which no setting can lower.
    pub connection_window: u32,
    /// Largest frame accepted (SETTINGS_MAX_FRAME_SIZE), 16,384 to 2^24-1.
    pub max_frame_size: u32,
    /// Bytes of names and values, and 32 per field, that a message may have (SETTINGS_MAX_HEADER_LIST_SIZE).
    pub max_header_list_size: u32,
    /// Bytes of the table with which the peer may compress (SETTINGS_HEADER_TABLE_SIZE).
    pub header_table_size: u32,
    /// The interval of PINGs; `None`: never.
    pub ping_interval: Option<Duration>,
    /// A peer from which nothing arrived for this long after a PING is dead.
    pub ping_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_open_streams: 100,
            max_accepted_streams: 200,
            stream_window: 256 << 10,
            stream_window_max: 4 << 20,
            connection_window: 16 << 20,
            max_frame_size: 1 << 20,
            max_header_list_size: 16 << 10,
            header_table_size: DEFAULT_TABLE,
            ping_interval: Some(Duration::from_secs(10)),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl Config {
    /// Brings every value into the range the protocol allows.
    pub(crate) fn clamped(mut self) -> Self {
        self.stream_window = self.stream_window.min(MAX_31_BITS);
        self.stream_window_max = self.stream_window_max.clamp(self.stream_window, MAX_31_BITS);
        self.connection_window = self.connection_window.clamp(DEFAULT_WINDOW, MAX_31_BITS);
        self.max_frame_size = self.max_frame_size.clamp(DEFAULT_FRAME, LARGEST_FRAME);
        self
    }

    /// The payload of the first SETTINGS frame.
    pub(crate) fn encode(&self, role: Role) -> Vec<u8> {
        let mut settings = vec![
            (id::INITIAL_WINDOW_SIZE, self.stream_window),
            (id::MAX_FRAME_SIZE, self.max_frame_size),
            (id::MAX_HEADER_LIST_SIZE, self.max_header_list_size),
        ];
        match role {
            Role::Client => settings.push((id::ENABLE_PUSH, 0)),
            Role::Server => settings.push((id::MAX_CONCURRENT_STREAMS, self.max_accepted_streams)),
        }
        if self.header_table_size != DEFAULT_TABLE {
            settings.push((id::HEADER_TABLE_SIZE, self.header_table_size));
        }
        let pairs = settings.into_iter();
        pairs.flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect()
    }
}

/// The settings of the peer so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    pub(crate) header_table_size: u32,
    /// The table was made smaller, which the next field block has to acknowledge (RFC 9113 4.3.1).
    pub(crate) table_reduced: bool,
    /// `None`: no limit was named.
    pub(crate) max_concurrent_streams: Option<u32>,
    pub(crate) initial_window: u32,
    pub(crate) max_frame_size: u32,
    /// `None`: no limit was named.
    pub(crate) max_header_list_size: Option<u32>,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            header_table_size: DEFAULT_TABLE,
            table_reduced: false,
            max_concurrent_streams: None,
            initial_window: DEFAULT_WINDOW,
            max_frame_size: DEFAULT_FRAME,
            max_header_list_size: None,
        }
    }
}

impl PeerSettings {
    /// Applies a SETTINGS payload, in its order; `role` is this end's.
    pub(crate) fn apply(&mut self, payload: &[u8], role: Role) -> Result<(), Violation> {
        let (settings, rest) = payload.as_chunks::<SETTING_LEN>();
        if !rest.is_empty() {
            return Err(Violation::FrameSize);
        }
        if settings.len() > MOST_SETTINGS_PER_FRAME {
            return Err(Violation::SettingsFlood);
        }
        for &[i0, i1, v0, v1, v2, v3] in settings {
            self.apply_one(u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3]), role)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, id: u16, value: u32, role: Role) -> Result<(), Violation> {
        match id {
            id::HEADER_TABLE_SIZE => {
                self.table_reduced |= value < self.header_table_size;
                self.header_table_size = value;
            }
            // A server may not announce that it would accept a push (RFC 9113 6.5.2).
            id::ENABLE_PUSH if value > 1 || (role == Role::Client && value == 1) => {
                return Err(Violation::SettingValue);
            }
            id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
            id::INITIAL_WINDOW_SIZE if value > MAX_31_BITS => return Err(Violation::InitialWindow),
            id::INITIAL_WINDOW_SIZE => self.initial_window = value,
            id::MAX_FRAME_SIZE if !(DEFAULT_FRAME..=LARGEST_FRAME).contains(&value) => {
                return Err(Violation::SettingValue);
            }
            id::MAX_FRAME_SIZE => self.max_frame_size = value,
            id::MAX_HEADER_LIST_SIZE => self.max_header_list_size = Some(value),
            // Unknown settings are ignored (RFC 9113 6.5.2).
            _ => {}
        }
        Ok(())
    }
}
