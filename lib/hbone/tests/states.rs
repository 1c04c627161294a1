//! Every frame of a hand-written peer in every state of a stream.
//!
//! A row is a frame, a column of words per state: what becomes of the stream or connection, then what the owner is
//! told. `-` is nothing at all. The tables are the reference: read them beside RFC 9113 section 5.1 when one of them
//! changes.

mod support;

use expect_test::{Expect, expect};
use std::fmt::Write;
use support::pair::connect;
use support::raw::*;
use underpass_hbone::{Config, ErrorCode, Event, Headers, ResetCause, Role, StreamId};

type Prepare = fn(&mut Raw);

fn opened(raw: &mut Raw) -> StreamId {
    let stream = raw.end.connection.open(&connect("a:1")).unwrap();
    raw.end.transmit();
    stream
}

fn answered(raw: &mut Raw) -> StreamId {
    let stream = opened(raw);
    raw.end.receive(&answer(1));
    stream
}

fn asked(raw: &mut Raw) -> StreamId {
    raw.end.receive(&request(1));
    raw.end.asked()[0]
}

fn respond(raw: &mut Raw, end: bool) -> StreamId {
    let stream = asked(raw);
    raw.end.connection.respond(stream, 200, &Headers::new(), end).unwrap();
    stream
}

const CLIENT: [(&str, Prepare); 9] = [
    ("idle", |_| {}),
    ("not yet sent", |raw| {
        raw.end.connection.open(&connect("a:1")).unwrap();
    }),
    ("opened", |raw| {
        opened(raw);
    }),
    ("answered", |raw| {
        answered(raw);
    }),
    ("we ended", |raw| {
        let stream = answered(raw);
        raw.end.connection.finish(stream);
    }),
    ("they ended", |raw| {
        answered(raw);
        raw.end.receive(&frame(DATA, END_STREAM, 1, &[]));
    }),
    ("both ended", |raw| {
        let stream = answered(raw);
        raw.end.connection.finish(stream);
        raw.end.receive(&frame(DATA, END_STREAM, 1, &[]));
    }),
    ("we reset", |raw| {
        let stream = opened(raw);
        raw.end.connection.reset(stream, ErrorCode::CANCEL);
    }),
    ("they reset", |raw| {
        opened(raw);
        raw.end.receive(&rst(1, ErrorCode::CANCEL));
    }),
];

const SERVER: [(&str, Prepare); 8] = [
    ("idle", |_| {}),
    ("asked", |raw| {
        asked(raw);
    }),
    ("answered", |raw| {
        respond(raw, false);
    }),
    ("we ended", |raw| {
        respond(raw, true);
    }),
    ("they ended", |raw| {
        respond(raw, false);
        raw.end.receive(&frame(DATA, END_STREAM, 1, &[]));
    }),
    ("both ended", |raw| {
        respond(raw, true);
        raw.end.receive(&frame(DATA, END_STREAM, 1, &[]));
    }),
    ("we reset", |raw| {
        let stream = asked(raw);
        raw.end.connection.reset(stream, ErrorCode::CANCEL);
    }),
    ("they reset", |raw| {
        asked(raw);
        raw.end.receive(&rst(1, ErrorCode::CANCEL));
    }),
];

fn hostile(role: Role) -> Vec<(&'static str, Vec<u8>)> {
    let mut list = vec![
        ("DATA", frame(DATA, 0, 1, b"x")),
        ("DATA, end", frame(DATA, END_STREAM, 1, b"x")),
        ("trailers", headers(1, END_STREAM, &[("a", "b")])),
        ("RST_STREAM", rst(1, ErrorCode::CONNECT_ERROR)),
        ("RST_STREAM, refused", rst(1, ErrorCode::REFUSED_STREAM)),
        ("RST_STREAM, no error", rst(1, ErrorCode::NO_ERROR)),
        ("credit", credit(1, 5)),
        ("credit of zero", credit(1, 0)),
        ("credit beyond all", credit(1, 0x7fff_ffff)),
        ("SETTINGS, window 0", settings(&[(4, 0)])),
        ("SETTINGS, all", settings(&[(1, 0), (3, 0), (4, 70_000), (5, 16_384), (6, 100)])),
        ("GOAWAY 0", goaway(0, ErrorCode::NO_ERROR)),
        ("GOAWAY 1, then 0", [goaway(1, ErrorCode::NO_ERROR), goaway(0, ErrorCode::INTERNAL_ERROR)].concat()),
        ("GOAWAY 2^31-1", goaway(0x7fff_ffff, ErrorCode::NO_ERROR)),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, &[])),
    ];
    match role {
        Role::Client => list.extend([
            ("answer", answer(1)),
            ("answer, end", headers(1, END_STREAM, &[(":status", "503")])),
            ("interim answer", headers(1, 0, &[(":status", "103")])),
        ]),
        Role::Server => list.extend([
            ("request", request(1)),
            ("request, end", headers(1, END_STREAM, &[(":method", "CONNECT"), (":authority", "a:1")])),
        ]),
    }
    list
}

fn words(event: &Event<'_>) -> String {
    match event {
        Event::Connect { end, .. } => format!("Connect{}", if *end { " end" } else { "" }),
        Event::Request { .. } => "Request".into(),
        Event::Response { status, end, .. } => format!("Response {status}{}", if *end { " end" } else { "" }),
        Event::Trailers { .. } => "Trailers".into(),
        Event::Reset { code, cause: ResetCause::Peer, .. } => format!("Reset {code}"),
        Event::Reset { cause: ResetCause::Unprocessed, .. } => "Unprocessed".into(),
        Event::Reset { cause: ResetCause::Violation(violation), .. } => format!("Violation {violation:?}"),
        Event::Writable { .. } => "Writable".into(),
        Event::GoAway { last, .. } => format!("GoAway {last}"),
        Event::Data { .. } => unreachable!("is kept apart"),
    }
}

fn table(role: Role, states: &[(&str, Prepare)], expected: Expect) {
    let mut text = String::new();
    for (frame_name, bytes) in hostile(role) {
        writeln!(text, "{frame_name}").unwrap();
        for (state, prepare) in states {
            let mut raw = Raw::new(role, Config::default());
            prepare(&mut raw);
            if *state != "not yet sent" {
                raw.end.transmit();
            }
            let (log, ended) = (raw.end.log.len(), raw.end.ended.len());
            let verdict = raw.verdict(&bytes);
            let mut told: Vec<_> = raw.end.log[log..].iter().map(words).collect();
            told.extend(
                raw.end.received.values().filter(|data| !data.is_empty()).map(|data| format!("Data {}", data.len())),
            );
            if raw.end.ended.len() > ended && !told.iter().any(|word| word.ends_with("end") || word == "Trailers") {
                told.push("end".into());
            }
            let verdict = if verdict == "ok" { "-".into() } else { verdict };
            writeln!(text, "    {state:13} {verdict} {}", told.join(", ")).unwrap();
            // In any case the connection either ended with GOAWAY or serves on.
            if raw.end.error.is_none() {
                let answered = raw.exchange(&frame(PING, 0, 0, b"still up"));
                assert!(answered.iter().any(|frame| frame.kind == PING && frame.flags == ACK), "{frame_name} {state}");
            }
        }
    }
    let text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    expected.assert_eq(&text);
}

#[test]
fn client() {
    table(
        Role::Client,
        &CLIENT,
        expect![[r#"
            DATA
                idle          goaway PROTOCOL_ERROR
                not yet sent  rst 1 PROTOCOL_ERROR Violation Malformed
                opened        rst 1 PROTOCOL_ERROR Violation Malformed
                answered      - Data 1
                we ended      - Data 1
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            DATA, end
                idle          goaway PROTOCOL_ERROR
                not yet sent  rst 1 PROTOCOL_ERROR Violation Malformed
                opened        rst 1 PROTOCOL_ERROR Violation Malformed
                answered      - Data 1, end
                we ended      - Data 1, end
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            trailers
                idle          goaway PROTOCOL_ERROR
                not yet sent  rst 1 PROTOCOL_ERROR Violation Malformed
                opened        rst 1 PROTOCOL_ERROR Violation Malformed
                answered      - Trailers
                we ended      - Trailers
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            RST_STREAM
                idle          goaway PROTOCOL_ERROR
                not yet sent  - Reset CONNECT_ERROR
                opened        - Reset CONNECT_ERROR
                answered      - Reset CONNECT_ERROR
                we ended      - Reset CONNECT_ERROR
                they ended    - Reset CONNECT_ERROR
                both ended    -
                we reset      -
                they reset    -
            RST_STREAM, refused
                idle          goaway PROTOCOL_ERROR
                not yet sent  - Unprocessed
                opened        - Unprocessed
                answered      - Reset REFUSED_STREAM
                we ended      - Reset REFUSED_STREAM
                they ended    - Reset REFUSED_STREAM
                both ended    -
                we reset      -
                they reset    -
            RST_STREAM, no error
                idle          goaway PROTOCOL_ERROR
                not yet sent  - Reset NO_ERROR
                opened        - Reset NO_ERROR
                answered      - Reset NO_ERROR
                we ended      - Reset NO_ERROR
                they ended    - Reset NO_ERROR
                both ended    -
                we reset      -
                they reset    -
            credit
                idle          goaway PROTOCOL_ERROR
                not yet sent  -
                opened        -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            credit of zero
                idle          goaway PROTOCOL_ERROR
                not yet sent  rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                opened        rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                answered      rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                we ended      rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                they ended    rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                both ended    -
                we reset      -
                they reset    -
            credit beyond all
                idle          goaway PROTOCOL_ERROR
                not yet sent  rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                opened        rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                answered      rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                we ended      rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                they ended    rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                both ended    -
                we reset      -
                they reset    -
            SETTINGS, window 0
                idle          -
                not yet sent  -
                opened        -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            SETTINGS, all
                idle          -
                not yet sent  -
                opened        -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            GOAWAY 0
                idle          - GoAway 0
                not yet sent  - GoAway 0, Unprocessed
                opened        - GoAway 0, Unprocessed
                answered      - GoAway 0, Reset REFUSED_STREAM
                we ended      - GoAway 0, Reset REFUSED_STREAM
                they ended    - GoAway 0, Reset REFUSED_STREAM
                both ended    - GoAway 0
                we reset      - GoAway 0
                they reset    - GoAway 0
            GOAWAY 1, then 0
                idle          - GoAway 1, GoAway 0
                not yet sent  - GoAway 1, GoAway 0, Unprocessed
                opened        - GoAway 1, GoAway 0, Unprocessed
                answered      - GoAway 1, GoAway 0, Reset REFUSED_STREAM
                we ended      - GoAway 1, GoAway 0, Reset REFUSED_STREAM
                they ended    - GoAway 1, GoAway 0, Reset REFUSED_STREAM
                both ended    - GoAway 1, GoAway 0
                we reset      - GoAway 1, GoAway 0
                they reset    - GoAway 1, GoAway 0
            GOAWAY 2^31-1
                idle          - GoAway 2147483647
                not yet sent  - GoAway 2147483647
                opened        - GoAway 2147483647
                answered      - GoAway 2147483647
                we ended      - GoAway 2147483647
                they ended    - GoAway 2147483647
                both ended    - GoAway 2147483647
                we reset      - GoAway 2147483647
                they reset    - GoAway 2147483647
            PRIORITY
                idle          -
                not yet sent  -
                opened        -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            PUSH_PROMISE
                idle          goaway PROTOCOL_ERROR
                not yet sent  goaway PROTOCOL_ERROR
                opened        goaway PROTOCOL_ERROR
                answered      goaway PROTOCOL_ERROR
                we ended      goaway PROTOCOL_ERROR
                they ended    goaway PROTOCOL_ERROR
                both ended    goaway PROTOCOL_ERROR
                we reset      goaway PROTOCOL_ERROR
                they reset    goaway PROTOCOL_ERROR
            CONTINUATION
                idle          goaway PROTOCOL_ERROR
                not yet sent  goaway PROTOCOL_ERROR
                opened        goaway PROTOCOL_ERROR
                answered      goaway PROTOCOL_ERROR
                we ended      goaway PROTOCOL_ERROR
                they ended    goaway PROTOCOL_ERROR
                both ended    goaway PROTOCOL_ERROR
                we reset      goaway PROTOCOL_ERROR
                they reset    goaway PROTOCOL_ERROR
            answer
                idle          goaway PROTOCOL_ERROR
                not yet sent  - Response 200
                opened        - Response 200
                answered      rst 1 PROTOCOL_ERROR Violation Malformed
                we ended      rst 1 PROTOCOL_ERROR Violation Malformed
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            answer, end
                idle          goaway PROTOCOL_ERROR
                not yet sent  - Response 503 end
                opened        - Response 503 end
                answered      rst 1 PROTOCOL_ERROR Violation Malformed
                we ended      rst 1 PROTOCOL_ERROR Violation Malformed
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            interim answer
                idle          goaway PROTOCOL_ERROR
                not yet sent  -
                opened        -
                answered      rst 1 PROTOCOL_ERROR Violation Malformed
                we ended      rst 1 PROTOCOL_ERROR Violation Malformed
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
        "#]],
    );
}

#[test]
fn server() {
    table(
        Role::Server,
        &SERVER,
        expect![[r#"
            DATA
                idle          goaway PROTOCOL_ERROR
                asked         - Data 1
                answered      - Data 1
                we ended      - Data 1
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            DATA, end
                idle          goaway PROTOCOL_ERROR
                asked         - Data 1, end
                answered      - Data 1, end
                we ended      - Data 1, end
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    rst 1 STREAM_CLOSED
                we reset      -
                they reset    rst 1 STREAM_CLOSED
            trailers
                idle          rst 1 PROTOCOL_ERROR
                asked         - Trailers
                answered      - Trailers
                we ended      - Trailers
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    goaway STREAM_CLOSED
                we reset      -
                they reset    goaway STREAM_CLOSED
            RST_STREAM
                idle          goaway PROTOCOL_ERROR
                asked         - Reset CONNECT_ERROR
                answered      - Reset CONNECT_ERROR
                we ended      - Reset CONNECT_ERROR
                they ended    - Reset CONNECT_ERROR
                both ended    -
                we reset      -
                they reset    -
            RST_STREAM, refused
                idle          goaway PROTOCOL_ERROR
                asked         - Reset REFUSED_STREAM
                answered      - Reset REFUSED_STREAM
                we ended      - Reset REFUSED_STREAM
                they ended    - Reset REFUSED_STREAM
                both ended    -
                we reset      -
                they reset    -
            RST_STREAM, no error
                idle          goaway PROTOCOL_ERROR
                asked         - Reset NO_ERROR
                answered      - Reset NO_ERROR
                we ended      - Reset NO_ERROR
                they ended    - Reset NO_ERROR
                both ended    -
                we reset      -
                they reset    -
            credit
                idle          goaway PROTOCOL_ERROR
                asked         -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            credit of zero
                idle          goaway PROTOCOL_ERROR
                asked         rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                answered      rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                we ended      rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                they ended    rst 1 PROTOCOL_ERROR Violation ZeroIncrement
                both ended    -
                we reset      -
                they reset    -
            credit beyond all
                idle          goaway PROTOCOL_ERROR
                asked         rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                answered      rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                we ended      rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                they ended    rst 1 FLOW_CONTROL_ERROR Violation WindowOverflow
                both ended    -
                we reset      -
                they reset    -
            SETTINGS, window 0
                idle          -
                asked         -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            SETTINGS, all
                idle          -
                asked         -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            GOAWAY 0
                idle          - GoAway 0
                asked         - GoAway 0
                answered      - GoAway 0
                we ended      - GoAway 0
                they ended    - GoAway 0
                both ended    - GoAway 0
                we reset      - GoAway 0
                they reset    - GoAway 0
            GOAWAY 1, then 0
                idle          - GoAway 1, GoAway 0
                asked         - GoAway 1, GoAway 0
                answered      - GoAway 1, GoAway 0
                we ended      - GoAway 1, GoAway 0
                they ended    - GoAway 1, GoAway 0
                both ended    - GoAway 1, GoAway 0
                we reset      - GoAway 1, GoAway 0
                they reset    - GoAway 1, GoAway 0
            GOAWAY 2^31-1
                idle          - GoAway 2147483647
                asked         - GoAway 2147483647
                answered      - GoAway 2147483647
                we ended      - GoAway 2147483647
                they ended    - GoAway 2147483647
                both ended    - GoAway 2147483647
                we reset      - GoAway 2147483647
                they reset    - GoAway 2147483647
            PRIORITY
                idle          -
                asked         -
                answered      -
                we ended      -
                they ended    -
                both ended    -
                we reset      -
                they reset    -
            PUSH_PROMISE
                idle          goaway PROTOCOL_ERROR
                asked         goaway PROTOCOL_ERROR
                answered      goaway PROTOCOL_ERROR
                we ended      goaway PROTOCOL_ERROR
                they ended    goaway PROTOCOL_ERROR
                both ended    goaway PROTOCOL_ERROR
                we reset      goaway PROTOCOL_ERROR
                they reset    goaway PROTOCOL_ERROR
            CONTINUATION
                idle          goaway PROTOCOL_ERROR
                asked         goaway PROTOCOL_ERROR
                answered      goaway PROTOCOL_ERROR
                we ended      goaway PROTOCOL_ERROR
                they ended    goaway PROTOCOL_ERROR
                both ended    goaway PROTOCOL_ERROR
                we reset      goaway PROTOCOL_ERROR
                they reset    goaway PROTOCOL_ERROR
            request
                idle          - Connect
                asked         rst 1 PROTOCOL_ERROR Violation Malformed
                answered      rst 1 PROTOCOL_ERROR Violation Malformed
                we ended      rst 1 PROTOCOL_ERROR Violation Malformed
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    goaway STREAM_CLOSED
                we reset      -
                they reset    goaway STREAM_CLOSED
            request, end
                idle          - Connect end
                asked         rst 1 PROTOCOL_ERROR Violation Malformed
                answered      rst 1 PROTOCOL_ERROR Violation Malformed
                we ended      rst 1 PROTOCOL_ERROR Violation Malformed
                they ended    rst 1 STREAM_CLOSED Violation StreamClosed
                both ended    goaway STREAM_CLOSED
                we reset      -
                they reset    goaway STREAM_CLOSED
        "#]],
    );
}

/// Windows that were used up when the peer changed them.
#[test]
fn a_window_lowered_raised_and_overflowed_while_streams_wait() {
    let mut raw = Raw::new(Role::Client, Config::default());
    let streams: Vec<_> = (0..3).map(|_| raw.end.connection.open(&connect("a:1")).unwrap()).collect();
    assert_eq!(raw.end.send(streams[0], &[0; 20_000], false), 20_000);
    assert_eq!(raw.end.send(streams[1], &[0; 50_000], false), 45_535, "the connection's window is used up");
    assert!(raw.end.connection.is_starved());
    assert_eq!(raw.end.send(streams[2], &[0; 10], false), 0);
    raw.exchange(&settings(&[(4, 10_000)]));
    raw.exchange(&credit(0, 100_000));
    assert!(!raw.end.connection.is_starved());
    // The first two are negative now; the third has the new window.
    assert_eq!(raw.end.log, [Event::Writable { stream: streams[2] }]);
    assert_eq!(raw.end.send(streams[2], &[0; 20_000], false), 10_000);
    assert_eq!(raw.end.send(streams[0], &[0; 10], false), 0);
    raw.exchange(&credit(1, 10_001));
    assert_eq!(raw.end.log.last(), Some(&Event::Writable { stream: streams[2] }), "one byte is not worth a frame");
    raw.exchange(&settings(&[(4, 50_000)]));
    let woken: Vec<_> = raw.end.log[1..].iter().map(words).collect();
    assert_eq!(woken, ["Writable", "Writable", "Writable"]);
    assert_eq!(raw.end.send(streams[0], &[0; 50_000], false), 40_001);
    assert_eq!(raw.verdict(&settings(&[(4, 0x7fff_ffff)])), "ok");
    assert_eq!(raw.verdict(&credit(5, 0x7fff_ffff)), "rst 5 FLOW_CONTROL_ERROR");
    assert_eq!(raw.verdict(&credit(0, 0x7fff_ffff)), "goaway FLOW_CONTROL_ERROR");
}

/// A peer whose table is switched off, on and off again gets blocks that say so.
#[test]
fn a_table_that_comes_and_goes() {
    let mut raw = Raw::new(Role::Client, Config::default());
    let first_byte = |raw: &mut Raw| {
        raw.end.connection.open(&connect("a:1")).unwrap();
        let sent = frames(&raw.end.transmit());
        sent.iter().find(|frame| frame.kind == HEADERS).unwrap().payload[0]
    };
    let plain = first_byte(&mut raw);
    assert_ne!(plain, 0x20);
    raw.exchange(&settings(&[(1, 0)]));
    assert_eq!(first_byte(&mut raw), 0x20);
    assert_eq!(first_byte(&mut raw), plain);
    raw.exchange(&settings(&[(1, 4_096)]));
    assert_eq!(first_byte(&mut raw), plain);
    raw.exchange(&settings(&[(1, 0), (1, 8_192)]));
    // The block that says it cannot be taken back: the next one relies on it.
    let given_up = raw.end.connection.open(&connect("a:1")).unwrap();
    let next = raw.end.connection.open(&connect("a:1")).unwrap();
    raw.end.connection.reset(given_up, ErrorCode::CANCEL);
    raw.end.connection.reset(next, ErrorCode::CANCEL);
    let sent = frames(&raw.end.transmit());
    let kinds: Vec<_> = sent.iter().map(|frame| (frame.kind, frame.stream)).collect();
    assert_eq!(kinds, [(HEADERS, given_up.number()), (RST_STREAM, given_up.number())]);
    assert_eq!(sent[0].payload[0], 0x20);
    assert_eq!(first_byte(&mut raw), plain);
}

/// The same for what we announce: no table, then blocks that use one.
#[test]
fn a_table_that_we_do_not_have() {
    let indexed = |stream| {
        let mut payload = vec![0x40, 7];
        payload.extend(b":method");
        payload.extend([7]);
        payload.extend(b"CONNECT");
        payload.extend([0x01, 3]);
        payload.extend(b"a:1");
        frame(HEADERS, END_HEADERS, stream, &payload)
    };
    let again = frame(HEADERS, END_HEADERS, 3, &[0xbe, 0x01, 3, b'a', b':', b'1']);
    let with = Config::default();
    let without = Config { header_table_size: 0, ..Config::default() };
    let mut raw = Raw::new(Role::Server, with);
    assert_eq!(raw.verdict(&[indexed(1), again.clone()].concat()), "ok");
    assert_eq!(raw.end.asked().len(), 2);
    let mut raw = Raw::new(Role::Server, without);
    assert_eq!(raw.verdict(&indexed(1)), "goaway COMPRESSION_ERROR", "the reduction was not acknowledged");
}
