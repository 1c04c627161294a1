//! The protocol of a connection whose port does not say it, by its first bytes, and the server name of TLS. Its own file because of
//! its bounds: so many bytes and no more are looked at, and a client that waits for its server to speak is not waited for.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use underpass_net::tls::{Hello, HelloReader};

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 without an upgrade (RFC 9113, 3.4).
    Http2,
    /// Something else, or nothing.
    Other,
}

/// The client's preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest request line that is looked for.
const MOST_BYTES: usize = 8 << 10;
/// The longest ClientHello.
const MOST_HELLO_BYTES: usize = 16 << 10;
/// The longest method.
const MOST_METHOD_BYTES: usize = 32;
const VERSIONS: [&[u8]; 2] = [b" HTTP/1.1", b" HTTP/1.0"];

/// What these bytes begin; none: more are needed.
pub(crate) fn look(bytes: &[u8]) -> Option<Spoken> {
    if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
        return Some(Spoken::Http2);
    }
    if PREFACE.starts_with(bytes) || bytes == b"\r" {
        return None;
    }
    // RFC 9112, 2.2: an empty line before a request line is passed over.
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = line.iter().take_while(|b| is_token(**b)).count();
    match line.get(method) {
        _ if method > MOST_METHOD_BYTES => return Some(Spoken::Other),
        None => return None,
        Some(b' ') if method > 0 => {}
        _ => return Some(Spoken::Other),
    }
    let Some(end) = line.iter().position(|b| *b == b'\n') else {
        return (bytes.len() >= MOST_BYTES).then_some(Spoken::Other);
    };
    let line = line.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(if VERSIONS.iter().any(|version| line.ends_with(version)) { Spoken::Http1 } else { Spoken::Other })
}

/// `tchar` of RFC 9110, 5.6.2.
const fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Reads until it is known. What was read is kept in `read`, also where the future is dropped.
pub(crate) async fn detect(from: &mut (impl AsyncRead + Unpin), read: &mut BytesMut) -> std::io::Result<Spoken> {
    loop {
        if !read.is_empty()
            && let Some(spoken) = look(read)
        {
            return Ok(spoken);
        }
        if from.read_buf(read).await? == 0 {
            return Ok(Spoken::Other);
        }
    }
}

/// Reads until the server name of TLS is known; none: it names none, or is no TLS. What was read is kept in `read`.
pub(crate) async fn server_name(
    from: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
) -> std::io::Result<Option<Box<str>>> {
    let mut reader = HelloReader::default();
    loop {
        let before = read.len();
        if from.read_buf(read).await? == 0 {
            return Ok(None);
        }
        match reader.read(read.get(before..).unwrap_or_default()) {
            Hello::Partial if read.len() < MOST_HELLO_BYTES => {}
            Hello::Partial | Hello::Other => return Ok(None),
            Hello::Name(name) => return Ok(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        let check = |bytes: &[u8], expect| assert_eq!(look(bytes), expect, "{:?}", String::from_utf8_lossy(bytes));
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Some(Spoken::Http2));
        check(b"PRI * HTTP/2.0\r\n\r\nSM", None);
        check(b"P", None);
        check(b"PO", None);
        check(b"POST /x HTTP/1.1\r\n", Some(Spoken::Http1));
        check(b"GET / HTTP/1.0\n", Some(Spoken::Http1));
        check(b"\r\nGET / HTTP/1.1\r\n", Some(Spoken::Http1));
        check(b"PROPFIND /x?y=1 HTTP/1.1\r\nHost: a\r\n", Some(Spoken::Http1));
        check(b"GET /a-path-that-goes-on", None);
        check(b"GET key\r\n", Some(Spoken::Other));
        check(b"GET / HTTP/2.0\r\n", Some(Spoken::Other));
        check(b"PRI * HTTP/2.0\r\n\r\nSMTP?", Some(Spoken::Other));
        check(b"\x16\x03\x01\x02", Some(Spoken::Other));
        check(b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Other));
        check(b" / HTTP/1.1\r\n", Some(Spoken::Other));
        check(b"", None);
        check(b"\r", None);
        check(&[b'a'; 33], Some(Spoken::Other));
        check(&[b"GET /".as_slice(), &[b'a'; MOST_BYTES]].concat(), Some(Spoken::Other));
    }

    #[tokio::test]
    async fn every_cut_is_the_same() {
        for (text, expect) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], Spoken::Http1),
            (PREFACE, Spoken::Http2),
            (b"*1\r\n", Spoken::Other),
        ] {
            for cut in 1..text.len() {
                let (first, second) = text.split_at(cut);
                let mut both = first.chain(second);
                let mut read = BytesMut::new();
                assert_eq!(detect(&mut both, &mut read).await.unwrap(), expect, "{cut}");
                assert!(text.starts_with(&read));
            }
        }
    }
}
