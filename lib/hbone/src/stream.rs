//! One stream, and all streams of a connection.
//!
//! ```text
//!            client opens                          server accepts
//!   send    Open ---------> Ended        send    Unanswered --respond--> Open ------> Ended
//!   recv    Unanswered --answer--> Open --END_STREAM--> Ended
//!                                        recv    Open --END_STREAM--> Ended
//!   both Ended, a reset by either side, or a GOAWAY below it: the stream is gone, its number is remembered for a while
//! ```
//!
//! Streams live in a flat vector; a table from number to index makes every look-up one step.

use crate::error::ErrorCode;
use crate::limits::REMEMBERED_STREAMS;
use crate::window::{RecvWindow, SendWindow};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The sending half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// Server: the request is not answered yet.
    Unanswered,
    Open,
    Ended,
}

/// The receiving half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Client: the request is not answered yet.
    Unanswered,
    Open,
    Ended,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) send: Sending,
    pub(crate) recv: Receiving,
    pub(crate) send_window: SendWindow,
    pub(crate) recv_window: RecvWindow,
    /// The room that the owner waits for; 0: it does not wait.
    pub(crate) waits_for: usize,
    /// Small DATA frames sent since the peer last gave credit, or sent payload.
    pub(crate) small_frames: u32,
    /// Small DATA frames received since credit was last given.
    pub(crate) small_received: u32,
    /// The stream was given up; its RST_STREAM waits for those before it to arrive.
    pub(crate) reset_due: Option<ErrorCode>,
    /// Bytes of content that content-length still promises.
    pub(crate) content_left: Option<u64>,
}

/// The end of a stream that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Reset by this end: frames in flight are ignored.
    Reset,
    /// Both sides know that it ended: more frames are an error.
    Ended,
}

/// All living streams, and the numbers of those that ended lately.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
    places: HashMap<u32, u32, BuildHasherDefault<NumberHasher>>,
    gone: VecDeque<(u32, Gone)>,
}

impl Streams {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let place = *self.places.get(&id)?;
        self.slots.get_mut(place as usize)?.as_mut()
    }

    pub(crate) fn insert(&mut self, stream: Stream) {
        let id = stream.id;
        let place = match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.slots.get_mut(place as usize) {
                    *slot = Some(stream);
                }
                place
            }
            None => {
                self.slots.push(Some(stream));
                // Bounded by the number of streams that are open at once.
                self.slots.len().saturating_sub(1) as u32
            }
        };
        self.places.insert(id, place);
    }

    /// Takes a stream out and remembers how it ended; `None` forgets that it ever was.
    pub(crate) fn remove(&mut self, id: u32, how: Option<Gone>) -> Option<Stream> {
        let place = self.places.remove(&id)?;
        let stream = self.slots.get_mut(place as usize)?.take();
        self.free.push(place);
        if let Some(how) = how {
            self.remember(id, how);
        }
        stream
    }

    pub(crate) fn remember(&mut self, id: u32, how: Gone) {
        if self.gone.len() >= REMEMBERED_STREAMS {
            self.gone.pop_front();
        }
        self.gone.push_back((id, how));
    }

    /// The end of a stream that is gone, if that is still known.
    pub(crate) fn gone(&self, id: u32) -> Option<Gone> {
        self.gone.iter().rev().find(|(other, _)| *other == id).map(|&(_, how)| how)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }
}

/// Spreads stream numbers, which are chosen by the peer but few: at most the streams open at once are in the table.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // Fibonacci hashing: the table takes its index from the low, its tag from the high bits.
        let mixed = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed.wrapping_shr(32);
    }
}
