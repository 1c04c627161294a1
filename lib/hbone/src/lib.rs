//! HBONE: HTTP/2 CONNECT as a sans-IO state machine, both roles.
//!
//! Bytes and times go in, bytes and events come out. The crate has no socket, no clock and no source of randomness, so
//! that every state can be reached by a test and the owner of the socket decides when anything is read, encrypted or
//! written. What is measured as costly elsewhere is absent by construction: DATA payload is lent, never copied; frames
//! of all streams share one output buffer; nothing is allocated per frame on the data path.
//!
//! ```text
//!             plaintext from TLS                                   events (payload borrows the plaintext)
//!   socket ------------------------> Connection::receive --------> the tunnel's streams
//!   socket <------------------------ poll_transmit / transmitted <- open respond reserve+commit finish reset consumed
//!             plaintext for TLS
//! ```
//!
//! A turn of the owner: `receive` until it answers `None`; per stream with something to send `reserve`, read the
//! application's socket straight into the room, `commit`; then `poll_transmit`, encrypt, write, `transmitted`.
//!
//! **Fairness is the owner's**: streams are served round robin, at most 64 KiB (one DATA frame) per stream and turn, so
//! that a bulk stream never delays a request beside it by more than one frame of each neighbour.
//!
//! What must hold: no input makes it panic; no input makes it hold more than its limits allow; bytes of a stream are
//! delivered in order, once, and within the windows that were granted.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

mod connect;
mod connection;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod hpack;
mod limits;
mod output;
mod receive;
mod send;
mod settings;
mod stream;
mod window;

pub use connect::{Connect, Headers, Request};
pub use connection::{Connection, Event, OpenError, ResetCause, RespondError, StreamId};
pub use error::{Error, ErrorCode, Violation};
pub use frame::Kind;
pub use send::{Blocked, Room, SMALL_FRAME};
pub use settings::{Config, Role};
