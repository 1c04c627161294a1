//! The same bytes to our server and to the h2 crate's: what both take for a request has to be the same request.
//!
//! The two differ in what they refuse, in their limits and in how hard they punish. So only streams that both accept
//! are compared: method, authority, path, fields and the payload as far as both have it. Where neither refuses
//! anything, both have to accept the same streams.

use bytes::Bytes;
use h2::server;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use underpass_hbone::{Config, Connection, Event};

/// A request and its payload. The fields are sorted: h2 keeps no order between names.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    method: Vec<u8>,
    authority: Option<Vec<u8>>,
    path: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    payload: Vec<u8>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Outcome {
    asked: BTreeMap<u32, Asked>,
    /// Something was refused: RST_STREAM or GOAWAY was sent.
    refused: bool,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HELLO: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const WINDOW: u32 = 1 << 20;
const LIST: u32 = 16 << 10;

/// Any bytes, as sent by a client after its first SETTINGS. The rest of a frame that is not whole is left out: we tell
/// of its payload, h2 does not.
pub(crate) fn run(input: &[u8]) {
    let mut rest = input;
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let Some(next) = after.get(length..) else { break };
        rest = next;
    }
    let bytes = [PREFACE, HELLO, &input[..input.len() - rest.len()]].concat();
    let (ours, theirs) = (ours(&bytes), theirs(&bytes));
    for (stream, ours) in &ours.asked {
        let Some(theirs) = theirs.asked.get(stream) else { continue };
        let common = ours.payload.len().min(theirs.payload.len());
        assert_eq!(ours.payload[..common], theirs.payload[..common], "payload of {stream}");
        let head =
            |asked: &Asked| (asked.method.clone(), asked.authority.clone(), asked.path.clone(), asked.fields.clone());
        assert_eq!(head(ours), head(theirs), "request {stream}");
    }
    if !ours.refused && !theirs.refused {
        assert_eq!(ours.asked, theirs.asked);
    }
}

/// The count of requests that both accept: the comparison must not be empty.
pub(crate) fn accepted(input: &[u8]) -> (usize, usize) {
    let bytes = [PREFACE, HELLO, input].concat();
    (ours(&bytes).asked.len(), theirs(&bytes).asked.len())
}

fn ours(bytes: &[u8]) -> Outcome {
    let config =
        Config { stream_window: WINDOW, stream_window_max: WINDOW, max_header_list_size: LIST, ..Config::default() };
    #[allow(clippy::disallowed_methods, reason = "there is no other way to make an Instant; it is never compared")]
    let mut connection = Connection::server(config, std::time::Instant::now());
    let (mut outcome, mut input) = (Outcome::default(), bytes);
    while let Ok(Some(event)) = connection.receive(&mut input) {
        match event {
            Event::Connect { stream, request, end } => {
                // Means nothing in CONNECT, which has no content (RFC 9110 9.3.6); h2 counts the bytes nevertheless.
                outcome.refused |= request.headers.first("content-length").is_some();
                let fields = sorted(request.headers.iter());
                let asked = Asked {
                    method: b"CONNECT".to_vec(),
                    authority: Some(request.authority),
                    fields,
                    ended: end,
                    ..Asked::default()
                };
                outcome.asked.insert(stream.number(), asked);
            }
            Event::Request { stream, request, end } => {
                let fields = sorted(request.headers.iter());
                let asked = Asked {
                    method: request.method,
                    authority: request.authority,
                    path: request.path,
                    fields,
                    payload: vec![],
                    ended: end,
                };
                outcome.asked.insert(stream.number(), asked);
            }
            Event::Data { stream, data, end } => {
                if let Some(asked) = outcome.asked.get_mut(&stream.number()) {
                    asked.payload.extend_from_slice(data);
                    asked.ended |= end;
                }
            }
            Event::Trailers { stream, .. } => {
                outcome.asked.get_mut(&stream.number()).unwrap().ended = true;
            }
            // The client itself took the request back: what h2 still tells of it depends on when it is asked.
            Event::Reset { .. } => outcome.refused = true,
            _ => {}
        }
    }
    outcome.refused |= refuses(connection.poll_transmit());
    outcome
}

fn sorted<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields: Vec<_> = fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    fields.sort();
    fields
}

/// Whether RST_STREAM or GOAWAY is among these frames.
fn refuses(mut bytes: &[u8]) -> bool {
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        if header[3] == 3 || header[3] == 7 {
            return true;
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        bytes = rest.get(length..).unwrap_or_default();
    }
    false
}

/// Bytes to read, after which nothing comes; what is written is kept.
struct Wire<'a> {
    input: &'a [u8],
    output: &'a std::cell::RefCell<Vec<u8>>,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.input.split_at(self.input.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.input = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn theirs(bytes: &[u8]) -> Outcome {
    let (mut outcome, written) = (Outcome::default(), std::cell::RefCell::new(vec![]));
    let mut context = Context::from_waker(Waker::noop());
    let mut builder = server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(16 << 20).max_frame_size(1 << 20);
    builder.max_concurrent_streams(200).max_header_list_size(LIST);
    let mut handshake = builder.handshake::<_, Bytes>(Wire { input: bytes, output: &written });
    let connection = match pin!(&mut handshake).poll(&mut context) {
        Poll::Ready(Ok(connection)) => Some(connection),
        Poll::Ready(Err(_)) => {
            outcome.refused = true;
            None
        }
        Poll::Pending => None,
    };
    let Some(mut connection) = connection else { return outcome };
    let (mut bodies, mut answers) = (BTreeMap::new(), vec![]);
    // A few rounds: bodies arrive while the connection is polled.
    for _ in 0..4 {
        while let Poll::Ready(Some(accepted)) = connection.poll_accept(&mut context) {
            let Ok((request, answer)) = accepted else {
                outcome.refused = true;
                break;
            };
            let stream = u32::from(answer.stream_id());
            let (head, body) = request.into_parts();
            let asked = Asked {
                method: head.method.as_str().as_bytes().to_vec(),
                authority: head.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec()),
                path: head.uri.path_and_query().map_or_else(Vec::new, |path| path.as_str().as_bytes().to_vec()),
                fields: sorted(head.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))),
                payload: vec![],
                ended: false,
            };
            outcome.asked.insert(stream, asked);
            bodies.insert(stream, body);
            answers.push(answer);
        }
        for (stream, body) in &mut bodies {
            let asked = outcome.asked.get_mut(stream).unwrap();
            loop {
                match body.poll_data(&mut context) {
                    Poll::Ready(Some(Ok(data))) => asked.payload.extend_from_slice(&data),
                    Poll::Ready(Some(Err(_))) => {
                        outcome.refused = true;
                        break;
                    }
                    Poll::Ready(None) => {
                        asked.ended = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
    }
    outcome.refused |= refuses(&written.borrow());
    outcome
}
