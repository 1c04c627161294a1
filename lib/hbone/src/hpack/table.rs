//! The static table of RFC 7541 appendix A and the dynamic table of section 2.3.2.

use std::collections::VecDeque;

/// The size of an entry beyond its name and value (RFC 7541 4.1).
pub(super) const ENTRY_OVERHEAD: usize = 32;

/// RFC 7541 appendix A, index 1 first.
#[rustfmt::skip]
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// One field, name and value in one piece of memory.
#[derive(Debug, Default)]
struct Entry {
    bytes: Vec<u8>,
    name_len: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.bytes.len().saturating_add(ENTRY_OVERHEAD)
    }
}

/// The peer's dynamic table. Its size never exceeds `capacity`, which never exceeds the limit of this end.
#[derive(Debug)]
pub(super) struct Table {
    /// Newest first, as indices count.
    entries: VecDeque<Entry>,
    size: usize,
    capacity: usize,
}

impl Table {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, capacity }
    }

    /// Name and value at `index`, which counts from 1 through the static into the dynamic table (RFC 7541 2.3.3).
    pub(super) fn field(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Some((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index.checked_sub(STATIC.len())?)?;
        entry.bytes.split_at_checked(entry.name_len)
    }

    /// Adds a field; what does not fit is evicted, oldest first, the new field itself included (RFC 7541 4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let len = name.len().saturating_add(value.len());
        let size = len.saturating_add(ENTRY_OVERHEAD);
        // The memory of an evicted entry serves the new one: a table that is full allocates nothing.
        let mut entry = self.evict_until(self.capacity.saturating_sub(size)).unwrap_or_default();
        if size > self.capacity {
            return;
        }
        entry.bytes.clear();
        entry.bytes.reserve(len);
        entry.bytes.extend_from_slice(name);
        entry.bytes.extend_from_slice(value);
        entry.name_len = name.len();
        self.size = self.size.saturating_add(size);
        self.entries.push_front(entry);
    }

    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.evict_until(capacity);
    }

    fn evict_until(&mut self, most: usize) -> Option<Entry> {
        let mut last = None;
        while self.size > most {
            let entry = self.entries.pop_back()?;
            self.size = self.size.saturating_sub(entry.size());
            last = Some(entry);
        }
        last
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
