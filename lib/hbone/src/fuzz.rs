//! The fuzz targets; a test runs the same over the stored corpora. Not part of the interface.
//!
//! Each `run` takes any bytes and panics if a promise of this crate does not hold for them.
#![allow(
    missing_docs,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "code that exists to panic"
)]

/// Bytes of a peer, cut anywhere.
pub mod receive {
    use crate::frame::{HEADER_LEN, Header, PREFACE, take};
    use crate::{Config, Connect, Connection, Error, ErrorCode, Event, Headers, OpenError};
    use std::collections::BTreeMap;

    /// The events that the owner has seen, with payload joined.
    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        events: Vec<Event<'static>>,
        payload: BTreeMap<u32, Vec<u8>>,
        ended: Vec<u32>,
        error: Option<Error>,
    }

    /// The first byte chooses role, settings and whether the peer has introduced itself; the rest is what it sends.
    pub fn run(input: &[u8]) {
        let Some((&choice, bytes)) = input.split_first() else { return };
        let whole = passive(choice, bytes, |bytes| vec![bytes]);
        let single = passive(choice, bytes, |bytes| bytes.chunks(1).collect());
        assert_eq!(whole, single, "cuts are not seen");
        let odd = passive(choice, bytes, |bytes| bytes.chunks(7).collect());
        assert_eq!(whole, odd, "cuts are not seen");
        active(choice, bytes);
    }

    fn connection(choice: u8) -> Connection {
        let config = if choice & 2 == 0 {
            Config::default()
        } else {
            Config {
                max_open_streams: 2,
                max_accepted_streams: 2,
                stream_window: 50,
                stream_window_max: 90,
                connection_window: 65_535,
                max_frame_size: 16_384,
                max_header_list_size: 300,
                header_table_size: 64,
                ..Config::default()
            }
        };
        #[allow(clippy::disallowed_methods, reason = "there is no other way to make an Instant; it is never compared")]
        let now = std::time::Instant::now();
        let server = choice & 1 == 0;
        let mut connection = if server { Connection::server(config, now) } else { Connection::client(config, now) };
        if choice & 4 == 0 {
            let preface: &[u8] = if server { PREFACE } else { &[] };
            // Empty SETTINGS, and the acknowledgement of ours.
            let hello = [preface, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 0, 4, 1, 0, 0, 0, 0]].concat();
            let event = connection.receive(&mut hello.as_slice());
            assert_eq!(event, Ok(None));
        }
        if !server {
            for _ in 0..2 {
                open(&mut connection);
            }
            connection.transmitted(usize::MAX);
        }
        connection
    }

    fn open(connection: &mut Connection) {
        let opened = connection.open(&Connect { authority: b"10.0.0.1:80".to_vec(), headers: Headers::new() });
        // The peer may have said that it takes no headers at all.
        assert!(matches!(opened, Ok(_) | Err(OpenError::HeadersTooLarge)));
    }

    /// An owner that only answers: its events must not depend on the cuts.
    fn passive(choice: u8, bytes: &[u8], cut: impl Fn(&[u8]) -> Vec<&[u8]>) -> Seen {
        let (mut connection, mut seen) = (connection(choice), Seen::default());
        for mut piece in cut(bytes) {
            loop {
                match connection.receive(&mut piece) {
                    Ok(Some(event)) => note(&mut connection, &mut seen, event),
                    Ok(None) => break,
                    Err(error) => {
                        seen.error = Some(error);
                        assert!(connection.is_closed());
                        check_output(&connection);
                        return seen;
                    }
                }
            }
            assert!(piece.is_empty());
        }
        check_output(&connection);
        seen
    }

    fn note(connection: &mut Connection, seen: &mut Seen, event: Event<'_>) {
        match event {
            Event::Data { stream, data, end } => {
                assert!(!data.is_empty() || end, "an event without meaning");
                seen.payload.entry(stream.number()).or_default().extend_from_slice(data);
                connection.consumed(stream, data.len());
                seen.ended.extend(end.then_some(stream.number()));
            }
            Event::Connect { stream, request, end } => {
                assert!(connection.respond(stream, 200, &Headers::new(), false).is_ok());
                seen.events.push(Event::Connect { stream, request, end });
            }
            Event::Request { stream, request, end } => {
                assert!(connection.respond(stream, 400, &Headers::new(), true).is_ok());
                seen.events.push(Event::Request { stream, request, end });
            }
            Event::Response { stream, status, headers, end } => {
                seen.events.push(Event::Response { stream, status, headers, end });
            }
            Event::Trailers { stream, headers } => seen.events.push(Event::Trailers { stream, headers }),
            Event::Reset { stream, code, cause } => seen.events.push(Event::Reset { stream, code, cause }),
            Event::Writable { stream } => seen.events.push(Event::Writable { stream }),
            Event::GoAway { last, code, debug } => seen.events.push(Event::GoAway { last, code, debug }),
        }
    }

    /// An owner that uses the whole interface, and sends in parts.
    fn active(choice: u8, bytes: &[u8]) {
        let mut connection = connection(choice);
        let mut turn = 0_usize;
        for piece in bytes.chunks(usize::from(choice >> 4) * 16 + 16) {
            let mut rest = piece;
            while let Ok(Some(event)) = connection.receive(&mut rest) {
                turn += 1;
                act(&mut connection, &event, turn);
            }
            check_output(&connection);
            connection.transmitted(turn % 50);
            if connection.can_open() && turn.is_multiple_of(3) {
                open(&mut connection);
            }
        }
        connection.drain();
        connection.close(ErrorCode::INTERNAL_ERROR);
        connection.transmitted(usize::MAX);
        assert!(connection.is_drained());
    }

    fn act(connection: &mut Connection, event: &Event<'_>, turn: usize) {
        let stream = match *event {
            Event::Connect { stream, .. } | Event::Request { stream, .. } => {
                let _ = connection.respond(stream, 200, &Headers::new(), turn.is_multiple_of(5));
                stream
            }
            Event::Data { stream, data, .. } => {
                connection.consumed(stream, data.len() / 2);
                stream
            }
            Event::Response { stream, .. } | Event::Writable { stream } | Event::Trailers { stream, .. } => stream,
            Event::Reset { .. } | Event::GoAway { .. } => return,
        };
        if let Ok(mut room) = connection.reserve(stream, 10 + turn) {
            let n = room.bytes().len() / 2;
            room.bytes().fill(7);
            room.commit(n, turn.is_multiple_of(7));
        }
        match turn % 11 {
            3 => connection.finish(stream),
            5 => connection.reset(stream, ErrorCode::CANCEL),
            7 => connection.grow(stream, 80),
            _ => {}
        }
    }

    /// The waiting bytes, behind a frame that has begun to leave, are whole frames.
    fn check_output(connection: &Connection) {
        let mut rest = connection.poll_transmit();
        rest = rest.strip_prefix(PREFACE).unwrap_or(rest);
        if connection.output.is_cut() {
            return;
        }
        while !rest.is_empty() {
            let Some(header) = take::<HEADER_LEN>(rest).map(Header::decode) else { panic!("a header is cut") };
            rest = &rest[HEADER_LEN + header.length as usize..];
        }
    }
}

/// Field blocks, one after the other.
pub mod hpack {
    use crate::hpack::{Decoder, Encoder};

    /// Blocks with a byte of length before each; the first byte of all is the table's limit in units of 32.
    pub fn run(input: &[u8]) {
        let Some((&limit, mut rest)) = input.split_first() else { return };
        let mut decoder = Decoder::new(u32::from(limit) * 32);
        while let Some((&length, after)) = rest.split_first() {
            let (block, next) = after.split_at(usize::from(length).min(after.len()));
            rest = next;
            let mut list = vec![];
            if decoder.decode(block, |name, value| list.push((name.to_vec(), value.to_vec()))).is_err() {
                return;
            }
            assert!(decoder.table_size() <= (usize::from(limit) * 32).max(4_096));
            round_trip(&list);
        }
    }

    fn round_trip(list: &[(Vec<u8>, Vec<u8>)]) {
        let (mut encoder, mut block) = (Encoder::default(), vec![]);
        encoder.begin(1, &mut block);
        list.iter().for_each(|(name, value)| encoder.field(name, value, &mut block));
        let mut again = vec![];
        let decoded = Decoder::new(4_096).decode(&block, |name, value| again.push((name.to_vec(), value.to_vec())));
        assert_eq!((decoded, again.as_slice()), (Ok(()), list));
    }
}
