//! The form of the kept facts: a journal of batches. Bytes in, entries out, and back; no IO.
//!
//! ```text
//! journal = head frame, batch ...          batch = frame ..., the last one marked
//! frame   = length u32, checksum u32, payload              (numbers are little-endian)
//! payload = mark u8, entry ...             entry = length u32, key, length u32, value     a value of length u32::MAX: the key is gone
//! ```
//! The checksum of a frame goes on from that of the one before: a frame that is lost, or stands in another place, does not fit.
//!
//! What must hold: what is read is the state after some batch, however the bytes behind it are broken; never half of a batch, never a
//! later batch without an earlier one.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Keys with their values.
pub(crate) type Entries = BTreeMap<Box<[u8]>, Box<[u8]>>;
/// Keys with their new values; none: the key is gone.
pub(crate) type Changes = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

/// Begins every journal.
const MAGIC: &[u8] = b"underpass facts ";
/// Another form of journals or of their entries has another number.
const FORMAT: u32 = 1;
/// The length of a frame's head, in bytes.
const HEAD: usize = 8;
/// A frame is ended once its payload has so many bytes.
const FRAME: usize = 256 << 10;
/// The length that stands for a key that is gone.
const GONE: u32 = u32::MAX;
/// The mark of the last frame of a batch, and of the others.
const LAST: u8 = 1;
const MORE: u8 = 0;

/// Appends frames behind a journal that ends with this checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoder {
    checksum: u32,
}

/// A journal that was read.
#[derive(Debug)]
pub(super) struct Journal {
    /// The state after the last whole batch.
    pub(super) entries: Entries,
    /// The length up to there, in bytes.
    pub(super) end: usize,
    /// Appends there.
    pub(super) encoder: Encoder,
}

/// Bytes that are no journal for this agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// No head.
    #[error("it is broken, or no journal of facts")]
    Broken,
    /// Of another build.
    #[error("it has the format {0}, and this agent's is {FORMAT}")]
    Format(u32),
    /// Of another mesh or node.
    #[error("it is of {found:?}, and this agent of {expected:?}")]
    Scope {
        /// Its scope.
        found: String,
        /// The agent's.
        expected: String,
    },
}

impl Encoder {
    /// Writes the head of a journal of this scope: facts count where they are of the same mesh and node alone.
    pub(super) fn begin(scope: &str, out: &mut impl Write) -> io::Result<Self> {
        let mut encoder = Self { checksum: 0 };
        let payload = [MAGIC, &FORMAT.to_le_bytes(), scope.as_bytes()].concat();
        encoder.frame(&payload, out)?;
        Ok(encoder)
    }

    /// Appends a batch.
    pub(super) fn batch<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let mut payload = vec![MORE];
        for (key, value) in changes {
            if payload.len() >= FRAME {
                self.frame(&payload, out)?;
                payload = vec![MORE];
            }
            put(key, &mut payload)?;
            match value {
                Some(value) => put(value, &mut payload)?,
                None => payload.extend(GONE.to_le_bytes()),
            }
        }
        if let Some(mark) = payload.first_mut() {
            *mark = LAST;
        }
        self.frame(&payload, out)
    }

    fn frame(&mut self, payload: &[u8], out: &mut impl Write) -> io::Result<()> {
        let length = length(payload)?.to_le_bytes();
        self.checksum = checksum(self.checksum, length, payload);
        out.write_all(&length)?;
        out.write_all(&self.checksum.to_le_bytes())?;
        out.write_all(payload)
    }
}

impl Journal {
    /// Reads what an agent of this scope wrote, as far as it is whole.
    pub(super) fn read(bytes: &[u8], scope: &str) -> Result<Self, Unusable> {
        let mut frames = Frames { bytes, end: 0, checksum: 0 };
        let head = frames.next().and_then(|payload| payload.strip_prefix(MAGIC)).ok_or(Unusable::Broken)?;
        let (format, found) = head.split_first_chunk().ok_or(Unusable::Broken)?;
        match u32::from_le_bytes(*format) {
            FORMAT => {}
            other => return Err(Unusable::Format(other)),
        }
        if found != scope.as_bytes() {
            let found = String::from_utf8_lossy(found).into_owned();
            return Err(Unusable::Scope { found, expected: scope.to_owned() });
        }
        let at = |frames: &Frames<'_>| (frames.end, Encoder { checksum: frames.checksum });
        let (mut entries, (mut end, mut encoder)) = (Entries::new(), at(&frames));
        let mut batch = Vec::new();
        while let Some((mark, rest)) = frames.next().and_then(<[u8]>::split_first) {
            let Some(changes) = changes(rest) else { break };
            batch.extend(changes);
            if *mark != LAST {
                continue;
            }
            for (key, value) in batch.drain(..) {
                match value {
                    Some(value) => drop(entries.insert(key.into(), value.into())),
                    None => drop(entries.remove(key)),
                }
            }
            (end, encoder) = at(&frames);
        }
        Ok(Self { entries, end, encoder })
    }
}

/// Whole frames, up to the first that is not.
struct Frames<'a> {
    bytes: &'a [u8],
    end: usize,
    checksum: u32,
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.end..)?;
        let (length, rest) = rest.split_first_chunk()?;
        let (found, rest) = rest.split_first_chunk()?;
        let payload = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let checksum = checksum(self.checksum, *length, payload);
        if checksum != u32::from_le_bytes(*found) {
            return None;
        }
        self.checksum = checksum;
        self.end += HEAD + payload.len();
        Some(payload)
    }
}

fn checksum(before: u32, length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length != GONE);
    length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes in one piece", bytes.len())))
}

fn put(bytes: &[u8], payload: &mut Vec<u8>) -> io::Result<()> {
    payload.extend(length(bytes)?.to_le_bytes());
    payload.extend(bytes);
    Ok(())
}

type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// The entries of a payload behind its mark. None: another writer's.
fn changes(mut rest: &[u8]) -> Option<Vec<Change<'_>>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let key = piece(&mut rest)?;
        let value = match rest.split_first_chunk() {
            Some((length, more)) if u32::from_le_bytes(*length) == GONE => {
                rest = more;
                None
            }
            _ => Some(piece(&mut rest)?),
        };
        all.push((key, value));
    }
    Some(all)
}

fn piece<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, more) = rest.split_first_chunk()?;
    let (piece, more) = more.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = more;
    Some(piece)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SCOPE: &str = "cluster c, node n";

    fn applied(entries: &Entries, changes: &Changes) -> Entries {
        let mut next = entries.clone();
        for (key, value) in changes {
            match value {
                Some(value) => drop(next.insert(key.clone(), value.clone())),
                None => drop(next.remove(key)),
            }
        }
        next
    }

    /// A journal of these batches; the state after each, with the length up to there.
    fn written(batches: &[Changes]) -> (Vec<u8>, Vec<(usize, Entries)>) {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::begin(SCOPE, &mut bytes).unwrap();
        let mut states = vec![(bytes.len(), Entries::new())];
        for batch in batches {
            encoder.batch(batch.iter().map(|(key, value)| (&**key, value.as_deref())), &mut bytes).unwrap();
            let next = applied(&states.last().unwrap().1, batch);
            states.push((bytes.len(), next));
        }
        (bytes, states)
    }

    /// Few keys, so that they change again; now and then a value that fills a frame.
    fn batches() -> impl Strategy<Value = Vec<Changes>> {
        let value = prop_oneof![
            8 => vec(any::<u8>(), 0..9).prop_map(Vec::into_boxed_slice),
            1 => any::<u8>().prop_map(|byte| vec![byte; FRAME].into_boxed_slice()),
        ];
        let key = (0..6u8).prop_map(|n| vec![b'k'; usize::from(n)].into_boxed_slice());
        vec(proptest::collection::btree_map(key, proptest::option::of(value), 0..6), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_journal_is_read_as_it_was_written(batches in batches()) {
            let (bytes, states) = written(&batches);
            let read = Journal::read(&bytes, SCOPE).unwrap();
            prop_assert_eq!((read.end, &read.entries), (bytes.len(), &states.last().unwrap().1));
        }

        #[test]
        fn what_is_read_of_a_broken_one_is_a_state_that_was(
            batches in batches(),
            cut in any::<prop::sample::Index>(),
            flips in vec((any::<prop::sample::Index>(), 1..=u8::MAX), 0..3),
            junk in vec(any::<u8>(), 0..20),
        ) {
            let (mut bytes, states) = written(&batches);
            let whole = bytes.len();
            bytes.truncate(cut.index(whole + 1));
            bytes.extend(junk);
            for (at, mask) in flips {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= mask;
                }
            }
            if let Ok(read) = Journal::read(&bytes, SCOPE) {
                prop_assert!(states.contains(&(read.end, read.entries)));
                // What is appended there is read.
                bytes.truncate(read.end);
                let (key, value) = (&b"more"[..], Some(&b"x"[..]));
                let mut encoder = read.encoder;
                encoder.batch([(key, value)], &mut bytes).unwrap();
                let again = Journal::read(&bytes, SCOPE).unwrap();
                prop_assert_eq!((again.end, again.entries.get(key).map(|v| &**v)), (bytes.len(), value));
            }
        }
    }

    #[test]
    fn a_frame_in_another_place_does_not_count() {
        let batch = |value: &[u8]| Changes::from([(b"k"[..].into(), Some(value.into()))]);
        let (bytes, states) = written(&[batch(b"1"), batch(b"2"), batch(b"3")]);
        let ends: Vec<_> = states.iter().map(|(end, _)| *end).collect();
        // The second batch is lost; the third fits behind no other.
        let without = [&bytes[..ends[1]], &bytes[ends[2]..]].concat();
        let read = Journal::read(&without, SCOPE).unwrap();
        assert_eq!((read.end, &read.entries), (ends[1], &states[1].1));
    }

    #[test]
    fn a_journal_of_others_is_refused() {
        let (bytes, _) = written(&[]);
        let refused = |bytes: &[u8], scope| Journal::read(bytes, scope).unwrap_err();
        assert_eq!(refused(&[], SCOPE), Unusable::Broken);
        assert_eq!(refused(b"something else that is long enough", SCOPE), Unusable::Broken);
        let other = Unusable::Scope { found: SCOPE.into(), expected: "cluster d".into() };
        assert_eq!(refused(&bytes, "cluster d"), other);
        let payload = [MAGIC, &7_u32.to_le_bytes(), SCOPE.as_bytes()].concat();
        let mut later = Vec::new();
        Encoder { checksum: 0 }.frame(&payload, &mut later).unwrap();
        assert_eq!(refused(&later, SCOPE), Unusable::Format(7));
    }
}
