//! HPACK, the compression of field sections (RFC 7541): a decoder that takes everything and an encoder that keeps no
//! state.
//!
//! Its own module because it is the one part of HTTP/2 with state that all streams share: a block that is not decoded,
//! or decoded differently from how the peer meant it, spoils every later one. So every block is decoded to its end,
//! even of streams that are refused, and any doubt is an error of the connection.
//!
//! The encoder refers to the static table only. Its blocks do not change the peer's state, so that the opening of a
//! stream that was given up can be cut out of the output again; the one exception says that no table is used, to peers
//! that shrink theirs.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod table;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;

/// The block cannot be decoded. The connection ends; the peer is not told which rule of RFC 7541 was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

#[cfg(test)]
mod tests;
