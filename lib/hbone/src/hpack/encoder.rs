//! The encoder: static table or literal, never Huffman, never the dynamic table.

use super::integer;
use super::table::STATIC;

/// First bits of a representation (RFC 7541 section 6).
const INDEXED: u8 = 0x80;
const LITERAL: u8 = 0x00;
const SIZE_UPDATE: u8 = 0x20;

/// An encoder of field blocks. Its only state is whether the peer must be told that its table is not used.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    update_due: bool,
    /// The stream whose block has told it last.
    told_by: u32,
}

impl Encoder {
    /// The peer has made its table smaller: the next block begins with a size update (RFC 7541 4.2).
    pub(crate) fn table_reduced(&mut self) {
        self.update_due = true;
    }

    /// Begins a block of `stream`.
    pub(crate) fn begin(&mut self, stream: u32, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.update_due) {
            integer::encode(0, 5, SIZE_UPDATE, out);
            self.told_by = stream;
        }
    }

    /// Whether the blocks behind that of `stream` rely on it: it cannot be taken back.
    pub(crate) fn is_needed(&self, stream: u32) -> bool {
        self.told_by == stream
    }

    /// Appends one field to a block.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let mut known = 0;
        for ((static_name, static_value), index) in STATIC.iter().zip(1_usize..) {
            if static_name.as_bytes() != name {
                continue;
            }
            if static_value.as_bytes() == value {
                integer::encode(index, 7, INDEXED, out);
                return;
            }
            known = index;
        }
        integer::encode(known, 4, LITERAL, out);
        if known == 0 {
            string(name, out);
        }
        string(value, out);
    }
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    integer::encode(bytes.len(), 7, 0, out);
    out.extend_from_slice(bytes);
}
