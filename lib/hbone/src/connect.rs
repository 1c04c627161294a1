//! Messages: the CONNECT request, its answer, and the rules that make either of them malformed (RFC 9113 sections
//! 8.1.1, 8.2, 8.3 and 8.5).
//!
//! Its own module because input is validated here alone: field names and values from the peer become typed requests,
//! and a malformed message never reaches the tunnel.

use crate::error::Violation;
use std::fmt;

/// Field names and values in the order of the message, without pseudo-header fields.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    bytes: Vec<u8>,
    /// The ends of names and values in `bytes`.
    ends: Vec<(u32, u32)>,
}

impl Headers {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a field. The name has to be in lower case.
    pub fn push(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(name.as_ref());
        let name_end = self.bytes.len();
        self.bytes.extend_from_slice(value.as_ref());
        // Bounded by the header list size, which has 32 bits.
        self.ends.push((name_end as u32, self.bytes.len() as u32));
    }

    /// The fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(_, end)| end));
        starts.zip(&self.ends).map(|(start, &(name_end, end))| {
            let part = |from: u32, to: u32| self.bytes.get(from as usize..to as usize).unwrap_or_default();
            (part(start, name_end), part(name_end, end))
        })
    }

    /// The value of the first field of this name.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value)
    }

    /// The count of fields.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut headers = Self::new();
        fields.into_iter().for_each(|(name, value)| headers.push(name, value));
        headers
    }
}

/// A CONNECT request, which opens a stream of the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// `:authority`, as it was sent: an address or a name, and a port.
    pub authority: Vec<u8>,
    /// All other fields.
    pub headers: Headers,
}

/// A well-formed request other than CONNECT. It can only be answered with a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `:method`.
    pub method: Vec<u8>,
    /// `:scheme`.
    pub scheme: Vec<u8>,
    /// `:authority`, if there is one.
    pub authority: Option<Vec<u8>>,
    /// `:path`.
    pub path: Vec<u8>,
    /// All other fields.
    pub headers: Headers,
}

/// The message of the first field block on a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Connect(Connect),
    Request(Request),
}

/// A response's fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
}

/// The size of a field beyond its name and value (RFC 9113 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// The collector of the fields of one block, as they are decoded.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pseudo: [Option<Vec<u8>>; PSEUDO.len()],
    headers: Headers,
    content_length: Option<u64>,
    /// Sum of the fields' sizes, counted on where they are no longer kept.
    size: usize,
    most: usize,
    malformed: bool,
    /// No pseudo-header field may follow a regular one (RFC 9113 8.3).
    regular: bool,
}

/// Pseudo-header fields (RFC 9113 8.3.1, 8.3.2); all others are malformed, `:protocol` among them, which is not
/// enabled.
const PSEUDO: [&[u8]; 5] = [b":method", b":scheme", b":authority", b":path", b":status"];

impl Fields {
    /// `most`: the header list size that is kept.
    pub(crate) fn new(most: u32) -> Self {
        Self { most: most as usize, ..Self::default() }
    }

    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len().saturating_add(value.len()).saturating_add(FIELD_OVERHEAD);
        self.size = self.size.saturating_add(size);
        if self.size > self.most || self.malformed {
            return;
        }
        if !valid_value(value) {
            self.malformed = true;
        } else if name.first() == Some(&b':') {
            self.pseudo_field(name, value);
        } else {
            self.regular = true;
            self.malformed |= !valid_name(name) || connection_specific(name, value);
            if name == b"content-length" {
                self.content_length(value);
            }
            self.headers.push(name, value);
        }
    }

    fn pseudo_field(&mut self, name: &[u8], value: &[u8]) {
        let slot = PSEUDO.iter().position(|known| *known == name).and_then(|at| self.pseudo.get_mut(at));
        match slot {
            Some(slot @ None) if !self.regular => *slot = Some(value.to_vec()),
            _ => self.malformed = true,
        }
    }

    /// Repeated lengths have to agree (RFC 9110 8.6).
    fn content_length(&mut self, value: &[u8]) {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        match (length, self.content_length) {
            (Some(length), None) => self.content_length = Some(length),
            (Some(length), Some(before)) if length == before => {}
            _ => self.malformed = true,
        }
    }

    fn check(&self) -> Result<(), Violation> {
        if self.malformed {
            return Err(Violation::Malformed);
        }
        if self.size > self.most {
            return Err(Violation::HeaderListTooLarge);
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> [Option<Vec<u8>>; N] {
        let mut taken = self.pseudo.iter_mut().map(Option::take);
        std::array::from_fn(|_| taken.next().flatten())
    }

    /// The block as a request, and the length its content has to have.
    pub(crate) fn request(mut self) -> Result<(Opening, Option<u64>), Violation> {
        self.check()?;
        let (headers, length) = (std::mem::take(&mut self.headers), self.content_length);
        match self.take::<{ PSEUDO.len() }>() {
            // CONNECT has an authority and nothing else (RFC 9113 8.5); its content has no length (RFC 9110 9.3.6).
            [Some(method), None, Some(authority), None, None] if method == b"CONNECT" => {
                Ok((Opening::Connect(Connect { authority, headers }), None))
            }
            [Some(method), Some(scheme), authority, Some(path), None] if method != b"CONNECT" && !path.is_empty() => {
                Ok((Opening::Request(Request { method, scheme, authority, path, headers }), length))
            }
            _ => Err(Violation::Malformed),
        }
    }

    /// The block as an answer to CONNECT, and the length its content has to have.
    pub(crate) fn answer(mut self) -> Result<(Answer, Option<u64>), Violation> {
        self.check()?;
        let headers = std::mem::take(&mut self.headers);
        let [None, None, None, None, Some(status)] = self.take::<{ PSEUDO.len() }>() else {
            return Err(Violation::Malformed);
        };
        let status = match status.as_slice() {
            &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                let digit = |byte: u8| u16::from(byte & 0x0f);
                digit(a).wrapping_mul(100).wrapping_add(digit(b).wrapping_mul(10)).wrapping_add(digit(c))
            }
            _ => return Err(Violation::Malformed),
        };
        // There is no switching of protocols in HTTP/2 (RFC 9113 8.6).
        if status == 101 {
            return Err(Violation::Malformed);
        }
        // A successful answer to CONNECT has no content that a length could count (RFC 9110 9.3.6).
        let length = self.content_length.filter(|_| status >= 300);
        Ok((Answer { status, headers }, length))
    }

    /// The block as trailers.
    pub(crate) fn trailers(self) -> Result<Headers, Violation> {
        self.check()?;
        if self.pseudo.iter().any(Option::is_some) {
            return Err(Violation::Malformed);
        }
        Ok(self.headers)
    }
}

/// The size of a header list as SETTINGS_MAX_HEADER_LIST_SIZE counts it (RFC 9113 6.5.2).
pub(crate) fn list_size<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
    fields.fold(0_usize, |sum, (name, value)| {
        sum.saturating_add(name.len()).saturating_add(value.len()).saturating_add(FIELD_OVERHEAD)
    })
}

/// Whether a list may be sent: a list that the peer had to treat as malformed is never sent (RFC 9113 8.2).
pub(crate) fn valid(headers: &Headers) -> bool {
    headers.iter().all(|(name, value)| valid_name(name) && valid_value(value) && !connection_specific(name, value))
}

/// RFC 9113 8.2.1: visible ASCII without upper case; a colon only begins pseudo-header fields.
fn valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| matches!(byte, 0x21..=0x39 | 0x3b..=0x40 | 0x5b..=0x7e))
}

/// RFC 9113 8.2.1.
pub(crate) fn valid_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !blank(value.first()) && !blank(value.last()) && !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}

/// RFC 9113 8.2.2.
fn connection_specific(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => true,
        b"te" => value != b"trailers",
        _ => false,
    }
}
