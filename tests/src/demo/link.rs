//! What passes on the link between the nodes, shared by both demos: the sample in plaintext, or TLS and nothing else of it.

use anyhow::Result;
use underpass_tests::testbed::{Capture, packet::Segment};

use super::{
    page::{MARKER, PORT},
    screen::Screen,
};

/// HBONE.
pub(crate) const TUNNEL_PORT: u16 = 15008;
/// TLS 1.3 application data (RFC 8446, 5.2).
const TLS_RECORD: [u8; 3] = [0x17, 0x03, 0x03];

/// An answer of details can be read.
pub(crate) fn shows_plaintext(screen: &mut Screen, wire: &Capture) -> Result<()> {
    let frames = wire.frames()?;
    let has_marker = |s: &Segment<'_>| String::from_utf8_lossy(s.payload).contains(MARKER);
    let found = frames.iter().filter_map(|f| f.segment()).find(has_marker);
    screen.expect("on the link, in plaintext:", found.is_some(), "nothing of it")?;
    let Some(segment) = found else { return Ok(()) };
    let text = String::from_utf8_lossy(segment.payload).into_owned();
    let line = |with: &str| text.lines().find(|line| line.contains(with)).unwrap_or_default().trim().to_owned();
    screen.quote(&format!("{} > {}", segment.source, segment.destination));
    screen.quote(&line("HTTP/1.1"));
    screen.quote(&line(MARKER));
    Ok(())
}

/// TLS in tunnels, and no byte of the applications.
pub(crate) fn shows_tls_alone(screen: &mut Screen, wire: &Capture) -> Result<()> {
    let frames = wire.frames()?;
    let is_record = |s: &Segment<'_>| s.is_tcp && s.has_port(TUNNEL_PORT) && s.payload.starts_with(&TLS_RECORD);
    let records: Vec<_> = frames.iter().filter_map(|f| f.segment()).filter(is_record).collect();
    let promised = format!("on the link: TLS on port {TUNNEL_PORT}, {} segments of it, such as", records.len());
    screen.expect(&promised, !records.is_empty(), "no TLS record")?;
    if let Some(s) = records.first() {
        let bytes: Vec<_> = s.payload.iter().take(8).map(|b| format!("{b:02x}")).collect();
        let (length, bytes) = (s.payload.len(), bytes.join(" "));
        screen.quote(&format!("{} > {}  {length} bytes: {bytes} ...", s.source, s.destination));
    }
    let plain = segments_in_the_clear(wire)?;
    screen.expect(&format!("on the link: no byte from or to port {PORT}"), plain == 0, plain)?;
    for text in [MARKER, "HTTP/1.1"] {
        let leaked = wire.contains(text.as_bytes())?;
        screen.expect(&format!("on the link: nowhere {text}"), !leaked, "it was there")?;
    }
    Ok(())
}

/// Segments with data from or to the port of the sample.
pub(crate) fn segments_in_the_clear(wire: &Capture) -> Result<usize> {
    wire.count(|s| s.is_tcp && s.has_port(PORT) && !s.payload.is_empty())
}
