//! The decoder: every representation of RFC 7541 section 6.

use super::table::Table;
use super::{Malformed, huffman, integer};
use crate::settings::DEFAULT_TABLE;

/// First bits of a representation (RFC 7541 section 6).
const INDEXED: u8 = 0x80;
const INCREMENTAL: u8 = 0x40;
const SIZE_UPDATE: u8 = 0x20;
const HUFFMAN: u8 = 0x80;

/// Decodes the field blocks of one direction of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest table that the peer may choose.
    limit: usize,
    /// The limit was lowered: the next block has to begin with a size update (RFC 9113 4.3.1).
    update_due: bool,
    /// Literals that had to be put together, kept for their memory.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// A decoder whose table has the protocol's initial size and may be set up to `limit`; never below the initial
    /// size, which holds until the peer has seen our settings.
    pub(crate) fn new(limit: u32) -> Self {
        let limit = limit.max(DEFAULT_TABLE) as usize;
        Self {
            table: Table::new(DEFAULT_TABLE as usize),
            limit,
            update_due: false,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// The peer has acknowledged this SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        let limit = limit as usize;
        self.update_due |= limit < self.limit;
        self.limit = limit;
    }

    /// Decodes one whole block; `field` is given every name and value in order.
    pub(crate) fn decode(&mut self, mut block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        // Size updates stand at the beginning of a block only (RFC 7541 4.2).
        let mut updates_allowed = true;
        while let Some((&first, rest)) = block.split_first() {
            block = rest;
            if first & (INDEXED | INCREMENTAL | SIZE_UPDATE) == SIZE_UPDATE {
                let capacity = integer::decode(first, 5, &mut block)?;
                if !updates_allowed || capacity > self.limit {
                    return Err(Malformed);
                }
                self.update_due = false;
                self.table.resize(capacity);
                continue;
            }
            if self.update_due {
                return Err(Malformed);
            }
            updates_allowed = false;
            self.representation(first, &mut block, &mut field)?;
        }
        Ok(())
    }

    fn representation(
        &mut self,
        first: u8,
        block: &mut &[u8],
        field: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        if first & INDEXED != 0 {
            let index = integer::decode(first, 7, block)?;
            let (name, value) = self.table.field(index).ok_or(Malformed)?;
            field(name, value);
            return Ok(());
        }
        let insert = first & INCREMENTAL != 0;
        let index = integer::decode(first, if insert { 6 } else { 4 }, block)?;
        let (mut name, mut value) = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        let known = if index == 0 {
            string(block, &mut name)?;
            None
        } else {
            Some(self.table.field(index).ok_or(Malformed)?.0)
        };
        string(block, &mut value)?;
        field(known.unwrap_or(&name), &value);
        if insert {
            if let Some(known) = known {
                // Inserting may evict the entry that lends its name (RFC 7541 4.4).
                name.clear();
                name.extend_from_slice(known);
            }
            self.table.insert(&name, &value);
        }
        (self.name, self.value) = (name, value);
        Ok(())
    }

    /// Bytes of the dynamic table, as RFC 7541 4.1 counts them.
    pub(crate) fn table_size(&self) -> usize {
        self.table.size()
    }

    /// Gives back memory that an unusually large field has left behind.
    pub(crate) fn shrink(&mut self) {
        const KEEP: usize = 1 << 10;
        self.name.clear();
        self.name.shrink_to(KEEP);
        self.value.clear();
        self.value.shrink_to(KEEP);
    }
}

/// Reads a string literal (RFC 7541 5.2) into `out`.
fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let (&first, rest) = block.split_first().ok_or(Malformed)?;
    *block = rest;
    let length = integer::decode(first, 7, block)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    out.clear();
    if first & HUFFMAN == 0 {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    huffman::decode(bytes, out)
}

#[cfg(test)]
impl Decoder {
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}
