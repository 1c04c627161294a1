//! RFC 9113 section by section: the input of a hand-written peer, and the effect on the connection or the stream.
//!
//! Every case runs once in one piece, once byte by byte, and once for each place where one read could have cut it; what
//! was answered and what the owner saw has to be the same.

mod support;

use support::pair::{End, connect};
use support::raw::*;
use underpass_hbone::{Config, ErrorCode, Role};

/// Runs `input` against a server (or a client that has opened stream 1), in every cut.
#[track_caller]
fn check(role: Role, name: &str, input: &[u8], expected: &str) {
    let run = |cuts: &mut dyn FnMut(&mut End)| {
        let mut raw = Raw::new(role, Config::default());
        if role == Role::Client {
            raw.end.connection.open(&connect("10.0.0.1:80")).unwrap();
            raw.end.transmit();
        }
        cuts(&mut raw.end);
        let verdict = raw.verdict(&[]);
        (verdict, raw.end.log, raw.end.received, raw.end.ended, raw.end.error)
    };
    let whole = run(&mut |end| end.receive(input));
    assert_eq!(whole.0, expected, "{name}: {:?}", whole.4);
    let bytewise = run(&mut |end| input.iter().for_each(|byte| end.receive(&[*byte])));
    assert_eq!(bytewise, whole, "{name}, byte by byte");
    for at in 1..input.len().min(400) {
        let cut = run(&mut |end| {
            end.receive(&input[..at]);
            end.receive(&input[at..]);
        });
        assert_eq!(cut, whole, "{name}, cut at {at}");
    }
}

fn server(cases: &[(&str, Vec<u8>, &str)]) {
    cases.iter().for_each(|(name, input, expected)| check(Role::Server, name, input, expected));
}

fn client(cases: &[(&str, Vec<u8>, &str)]) {
    cases.iter().for_each(|(name, input, expected)| check(Role::Client, name, input, expected));
}

const PROTOCOL: &str = "goaway PROTOCOL_ERROR";
const SIZE: &str = "goaway FRAME_SIZE_ERROR";
const FLOW: &str = "goaway FLOW_CONTROL_ERROR";
const CALM: &str = "goaway ENHANCE_YOUR_CALM";
const COMPRESSION: &str = "goaway COMPRESSION_ERROR";
const CLOSED: &str = "goaway STREAM_CLOSED";
const MALFORMED: &str = "rst 1 PROTOCOL_ERROR";

#[test]
fn section_3_4_preface() {
    let verdict = |bytes: &[u8]| Raw::silent(Role::Server, Config::default()).verdict(bytes);
    for at in 0..PREFACE.len() {
        let mut wrong = PREFACE.to_vec();
        wrong[at] ^= 0x20;
        assert_eq!(verdict(&wrong[..=at]), PROTOCOL, "known at byte {at}");
        assert_eq!(verdict(&PREFACE[..at]), "ok");
    }
    assert_eq!(verdict(&[PREFACE, &settings(&[])].concat()), "ok");
    for first in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, ACK, 0, &[]), request(1), frame(0x77, 0, 0, &[])] {
        assert_eq!(verdict(&[PREFACE, &first].concat()), PROTOCOL);
        assert_eq!(Raw::silent(Role::Client, Config::default()).verdict(&first), PROTOCOL);
    }
    assert_eq!(verdict(b"GET / HTTP/1.1\r\n"), PROTOCOL);
    assert_eq!(verdict(&[0x16, 3, 1]), PROTOCOL);
}

#[test]
fn section_4_frames() {
    let reserved = {
        let mut bytes = request(1);
        bytes[5] |= 0x80;
        bytes
    };
    let huge = |kind, stream| frame(kind, 0, stream, &vec![0; (1 << 20) + 1])[..9].to_vec();
    server(&[
        ("unknown type", frame(0xfe, 0xff, 3, &[1; 70]), "ok"),
        ("unknown type of size zero", frame(0xfe, 0xff, 0, &[]), "ok"),
        ("undefined flags", frame(PING, 0xfe, 0, &[0; 8]), "ok"),
        ("reserved bit", reserved, "ok"),
        ("too large: DATA", [request(1), huge(DATA, 1)].concat(), SIZE),
        ("too large: HEADERS", huge(HEADERS, 1), SIZE),
        ("too large: unknown", huge(0xfe, 1), SIZE),
        ("largest", [request(1), frame(DATA, 0, 1, &vec![7; 256 << 10])].concat(), "ok"),
        ("block is not decodable", frame(HEADERS, END_HEADERS, 1, &[0x80]), COMPRESSION),
        ("block ends early", frame(HEADERS, END_HEADERS, 1, &[0x40, 5, b'a']), COMPRESSION),
        ("0x3f alone", frame(HEADERS, END_HEADERS, 1, &[0x3f]), COMPRESSION),
    ]);
}

#[test]
fn section_5_1_streams() {
    let ended = [headers(1, END_STREAM, &[(":method", "CONNECT"), (":authority", "a:1")])].concat();
    let idle: Vec<(&str, Vec<u8>)> = vec![
        ("DATA", frame(DATA, 0, 1, b"x")),
        ("RST_STREAM", rst(1, ErrorCode::CANCEL)),
        ("WINDOW_UPDATE", credit(1, 1)),
        ("CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, &[])),
    ];
    for (name, bytes) in &idle {
        check(Role::Server, name, bytes, PROTOCOL);
    }
    for (name, bytes) in [("DATA", frame(DATA, 0, 3, b"x")), ("RST", rst(3, ErrorCode::CANCEL)), ("WU", credit(3, 1))] {
        check(Role::Client, name, &bytes, PROTOCOL);
    }
    server(&[
        ("PRIORITY on idle", frame(PRIORITY, 0, 5, &[0, 0, 0, 1, 9]), "ok"),
        ("half closed: DATA", [ended.clone(), frame(DATA, 0, 1, b"x")].concat(), "rst 1 STREAM_CLOSED"),
        ("half closed: HEADERS", [ended.clone(), headers(1, END_STREAM, &[])].concat(), "rst 1 STREAM_CLOSED"),
        ("half closed: credit", [ended.clone(), credit(1, 5)].concat(), "ok"),
        ("half closed: RST", [ended.clone(), rst(1, ErrorCode::CANCEL)].concat(), "ok"),
        (
            "closed: DATA",
            [request(1), rst(1, ErrorCode::CANCEL), frame(DATA, 0, 1, b"x")].concat(),
            "rst 1 STREAM_CLOSED",
        ),
        ("closed: HEADERS", [request(1), rst(1, ErrorCode::CANCEL), request(1)].concat(), CLOSED),
        ("closed: credit", [request(1), rst(1, ErrorCode::CANCEL), credit(1, 9)].concat(), "ok"),
        ("closed: RST", [request(1), rst(1, ErrorCode::CANCEL), rst(1, ErrorCode::CANCEL)].concat(), "ok"),
        ("even", request(2), PROTOCOL),
        ("lower, never used", [request(5), request(3)].concat(), PROTOCOL),
        ("gaps", [request(5), request(9)].concat(), "ok"),
        ("skipped: DATA", [request(5), frame(DATA, 0, 3, b"x")].concat(), "rst 3 STREAM_CLOSED"),
        (
            "depends on itself",
            frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[&[0, 0, 0, 1, 9][..], &[0x82]].concat()),
            MALFORMED,
        ),
        ("PRIORITY of itself", [request(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])].concat(), MALFORMED),
    ]);
    client(&[
        ("even", answer(2), PROTOCOL),
        ("not opened", answer(3), PROTOCOL),
        ("content before the answer", frame(DATA, 0, 1, b"x"), MALFORMED),
        (
            "closed: DATA",
            [answer(1), rst(1, ErrorCode::CANCEL), frame(DATA, 0, 1, b"x")].concat(),
            "rst 1 STREAM_CLOSED",
        ),
        ("closed: HEADERS", [answer(1), rst(1, ErrorCode::CANCEL), answer(1)].concat(), "rst 1 STREAM_CLOSED"),
    ]);
}

#[test]
fn section_5_1_2_concurrency() {
    let mut raw = Raw::new(Role::Server, Config { max_accepted_streams: 3, ..Config::default() });
    assert_eq!(raw.verdict(&[request(1), request(3), request(5)].concat()), "ok");
    assert_eq!(raw.verdict(&request(7)), "rst 7 REFUSED_STREAM");
    // What was on its way for it means nothing; the table is kept in step; a place that becomes free is a place.
    assert_eq!(raw.verdict(&frame(DATA, 0, 7, b"early")), "ok");
    assert_eq!(raw.verdict(&[rst(3, ErrorCode::CANCEL), request(9)].concat()), "ok");
    assert_eq!(raw.end.asked().iter().map(|stream| stream.number()).collect::<Vec<_>>(), [1, 3, 5, 9]);
}

#[test]
fn section_6_1_data() {
    let padded = |pad: u8, len: usize| {
        let mut payload = vec![pad];
        payload.extend(vec![b'x'; len]);
        frame(DATA, PADDED, 1, &payload)
    };
    server(&[
        ("stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("padded", [request(1), padded(3, 10)].concat(), "ok"),
        ("only padding", [request(1), padded(10, 10)].concat(), "ok"),
        ("too much padding", [request(1), padded(11, 10)].concat(), PROTOCOL),
        ("no pad length", [request(1), frame(DATA, PADDED, 1, &[])].concat(), SIZE),
        ("empty", [request(1), frame(DATA, 0, 1, &[])].concat(), "ok"),
        ("empty end", [request(1), frame(DATA, END_STREAM, 1, &[])].concat(), "ok"),
        ("padded end", [request(1), frame(DATA, END_STREAM | PADDED, 1, &[2, 7, 0, 0])].concat(), "ok"),
        ("padded empty end", [request(1), frame(DATA, END_STREAM | PADDED, 1, &[2, 0, 0])].concat(), "ok"),
    ]);
    let mut raw = Raw::new(Role::Server, Config::default());
    raw.exchange(&[request(1), padded(3, 10), frame(DATA, END_STREAM | PADDED, 1, &[2, b'y', 0, 0])].concat());
    assert_eq!((&raw.end.received[&1][..], &raw.end.ended), (&b"xxxxxxxy"[..], &vec![1]));
}

#[test]
fn section_6_2_headers() {
    let block = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let with = |flags, front: &[u8], back: &[u8]| frame(HEADERS, flags, 1, &[front, &block[..], back].concat());
    server(&[
        ("stream 0", headers(0, 0, &[]), PROTOCOL),
        ("padded", with(END_HEADERS | PADDED, &[3], &[0; 3]), "ok"),
        ("priority", with(END_HEADERS | WITH_PRIORITY, &[0, 0, 0, 3, 7], &[]), "ok"),
        ("both", with(END_HEADERS | PADDED | WITH_PRIORITY, &[1, 0x80, 0, 0, 3, 7], &[0]), "ok"),
        ("too much padding", frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82]), PROTOCOL),
        ("no pad length", frame(HEADERS, END_HEADERS | PADDED, 1, &[]), SIZE),
        ("no priority", frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[0, 0, 0, 3]), SIZE),
    ]);
}

#[test]
fn sections_6_3_and_6_4_priority_and_reset() {
    server(&[
        ("PRIORITY on 0", frame(PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("PRIORITY too short", [request(1), frame(PRIORITY, 0, 1, &[0; 4])].concat(), "rst 1 FRAME_SIZE_ERROR"),
        ("PRIORITY too long", [request(1), frame(PRIORITY, 0, 1, &[0; 9])].concat(), "rst 1 FRAME_SIZE_ERROR"),
        ("RST_STREAM on 0", rst(0, ErrorCode::CANCEL), PROTOCOL),
        ("RST_STREAM too short", [request(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), SIZE),
        ("RST_STREAM too long", [request(1), frame(RST_STREAM, 0, 1, &[0; 5])].concat(), SIZE),
        ("RST_STREAM with an unknown code", [request(1), rst(1, ErrorCode(0xdead))].concat(), "ok"),
    ]);
}

#[test]
fn section_6_5_settings() {
    server(&[
        ("on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 7]), SIZE),
        ("acknowledgement with payload", frame(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        ("unknown", settings(&[(0xabcd, 7), (0, 0), (8, 1)]), "ok"),
        ("ENABLE_PUSH 2", settings(&[(2, 2)]), PROTOCOL),
        ("ENABLE_PUSH 1", settings(&[(2, 1)]), "ok"),
        ("INITIAL_WINDOW_SIZE 2^31", settings(&[(4, 1 << 31)]), FLOW),
        ("INITIAL_WINDOW_SIZE overflows", [request(1), credit(1, 1), settings(&[(4, 0x7fff_ffff)])].concat(), FLOW),
        ("INITIAL_WINDOW_SIZE largest", [request(1), settings(&[(4, 0x7fff_ffff)])].concat(), "ok"),
        ("MAX_FRAME_SIZE too small", settings(&[(5, 16_383)]), PROTOCOL),
        ("MAX_FRAME_SIZE too large", settings(&[(5, 1 << 24)]), PROTOCOL),
        ("MAX_FRAME_SIZE bounds", settings(&[(5, 16_384), (5, (1 << 24) - 1)]), "ok"),
        ("many at once", settings(&vec![(0xabcd, 7); 64]), "ok"),
        ("too many at once", settings(&vec![(0xabcd, 7); 65]), CALM),
    ]);
    client(&[("a server that would accept a push", settings(&[(2, 1)]), PROTOCOL)]);
    let mut raw = Raw::new(Role::Server, Config::default());
    let answered = raw.exchange(&settings(&[(1, 0), (3, 0)]));
    assert_eq!(answered, [Frame { kind: SETTINGS, flags: ACK, stream: 0, payload: vec![] }]);
}

#[test]
fn section_6_6_push() {
    let promise = frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]);
    client(&[("PUSH_PROMISE", promise.clone(), PROTOCOL)]);
    server(&[("PUSH_PROMISE", [request(1), promise].concat(), PROTOCOL)]);
}

#[test]
fn sections_6_7_and_6_8_ping_and_goaway() {
    server(&[
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("PING too short", frame(PING, 0, 0, &[0; 7]), SIZE),
        ("PING too long", frame(PING, 0, 0, &[0; 9]), SIZE),
        ("PING answer to nothing", frame(PING, ACK, 0, &[0; 8]), "ok"),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("GOAWAY too short", frame(GOAWAY, 0, 0, &[0; 7]), SIZE),
        ("GOAWAY with much debug data", frame(GOAWAY, 0, 0, &[7; 300]), "ok"),
        ("GOAWAY of a client", [request(1), goaway(0, ErrorCode::NO_ERROR), request(3)].concat(), "ok"),
    ]);
    let mut raw = Raw::new(Role::Server, Config::default());
    let answered = raw.exchange(&frame(PING, 0, 0, b"any data"));
    assert_eq!(answered, [Frame { kind: PING, flags: ACK, stream: 0, payload: b"any data".to_vec() }]);
}

#[test]
fn section_6_9_windows() {
    let over = vec![0; 256 << 10];
    server(&[
        ("zero for the connection", credit(0, 0), PROTOCOL),
        ("zero for a stream", [request(1), credit(1, 0)].concat(), MALFORMED),
        ("too short", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        ("too long", frame(WINDOW_UPDATE, 0, 0, &[0; 5]), SIZE),
        ("connection overflows", credit(0, 0x7fff_ffff), FLOW),
        ("connection largest", credit(0, 0x7fff_ffff - 65_535), "ok"),
        ("stream overflows", [request(1), credit(1, 0x7fff_ffff)].concat(), "rst 1 FLOW_CONTROL_ERROR"),
        ("reserved bit", [request(1), credit(1, 0x8000_0005)].concat(), "ok"),
    ]);
    for (config, expected) in [
        (Config { stream_window: 256 << 10, ..Config::default() }, "rst 1 FLOW_CONTROL_ERROR"),
        (Config { connection_window: 256 << 10, stream_window: 1 << 20, ..Config::default() }, "ok"),
    ] {
        let mut raw = Raw::new(Role::Server, config);
        raw.end.consumes = false;
        assert_eq!(raw.verdict(&[request(1), frame(DATA, 0, 1, &over)].concat()), "ok");
        assert_eq!(raw.verdict(&frame(DATA, 0, 1, b"x")), expected, "connection credit is returned on receipt");
    }
    let mut raw = Raw::new(Role::Server, Config { connection_window: 65_535, ..Config::default() });
    assert_eq!(raw.verdict(&[request(1), frame(DATA, 0, 1, &over[..65_536])].concat()), FLOW);
}

#[test]
fn section_6_10_continuation() {
    let block = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let begun = frame(HEADERS, 0, 1, &block[..5]);
    let rest = |flags| frame(CONTINUATION, flags, 1, &block[5..]);
    let between = |other: Vec<u8>| [begun.clone(), other, rest(END_HEADERS)].concat();
    server(&[
        ("two pieces", [begun.clone(), rest(END_HEADERS)].concat(), "ok"),
        ("empty pieces", [begun.clone(), rest(0), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(), "ok"),
        ("another frame between", between(frame(PING, 0, 0, &[0; 8])), PROTOCOL),
        ("another stream's", between(request(3)), PROTOCOL),
        ("an unknown frame between", between(frame(0xfe, 0, 0, &[])), PROTOCOL),
        ("of another stream", [begun.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(), PROTOCOL),
        ("on stream 0", frame(CONTINUATION, END_HEADERS, 0, &[]), PROTOCOL),
        ("after the end", [begun.clone(), rest(END_HEADERS), rest(END_HEADERS)].concat(), PROTOCOL),
    ]);
}

#[test]
fn section_8_requests() {
    let good = [(":method", "CONNECT"), (":authority", "a:1")];
    let with = |more: &[(&str, &str)]| headers(1, 0, &[&good[..], more].concat());
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let get_with = |flags, more: &[(&str, &str)]| headers(1, flags, &[&get[..], more].concat());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("CONNECT", with(&[("forwarded", "for=1"), ("baggage", ""), ("te", "trailers")]), "ok"),
        ("CONNECT with :scheme", headers(1, 0, &[good[0], good[1], (":scheme", "http")]), MALFORMED),
        ("CONNECT with :path", headers(1, 0, &[good[0], good[1], (":path", "/")]), MALFORMED),
        ("CONNECT with :protocol", headers(1, 0, &[good[0], good[1], (":protocol", "websocket")]), MALFORMED),
        ("CONNECT without :authority", headers(1, 0, &good[..1]), MALFORMED),
        ("CONNECT as a whole request", headers(1, 0, &[good[0], get[1], get[2], good[1]]), MALFORMED),
        ("nothing", headers(1, 0, &[]), MALFORMED),
        ("upper case", with(&[("Baggage", "x")]), MALFORMED),
        ("empty name", with(&[("", "x")]), MALFORMED),
        ("space in a name", with(&[("bag gage", "x")]), MALFORMED),
        ("colon in a name", with(&[("bag:gage", "x")]), MALFORMED),
        ("control in a name", with(&[("bag\u{7f}", "x")]), MALFORMED),
        ("NUL in a value", with(&[("baggage", "x\0")]), MALFORMED),
        ("newline in a value", with(&[("baggage", "x\ny")]), MALFORMED),
        ("return in a value", with(&[("baggage", "x\ry")]), MALFORMED),
        ("newline in :authority", headers(1, 0, &[good[0], (":authority", "a:1\nb")]), MALFORMED),
        ("blank before a value", with(&[("baggage", " x")]), MALFORMED),
        ("blank behind a value", with(&[("baggage", "x\t")]), MALFORMED),
        ("pseudo after regular", with(&[("a", "b"), (":path", "/")]), MALFORMED),
        ("pseudo twice", with(&[(":authority", "b:2")]), MALFORMED),
        ("unknown pseudo", with(&[(":test", "x")]), MALFORMED),
        ("pseudo of an answer", with(&[(":status", "200")]), MALFORMED),
        ("connection", with(&[("connection", "close")]), MALFORMED),
        ("keep-alive", with(&[("keep-alive", "1")]), MALFORMED),
        ("proxy-connection", with(&[("proxy-connection", "close")]), MALFORMED),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")]), MALFORMED),
        ("upgrade", with(&[("upgrade", "h2c")]), MALFORMED),
        ("te", with(&[("te", "gzip")]), MALFORMED),
        (
            "CONNECT has no content length",
            [with(&[("content-length", "3")]), frame(DATA, 0, 1, b"four")].concat(),
            "ok",
        ),
        ("GET", get_with(END_STREAM, &[]), "ok"),
        ("GET without :path", headers(1, 0, &[get[0], get[1], get[3]]), MALFORMED),
        ("GET with an empty :path", headers(1, 0, &[get[0], get[1], (":path", "")]), MALFORMED),
        ("GET without :scheme", headers(1, 0, &[get[0], get[2], get[3]]), MALFORMED),
        ("without :method", headers(1, 0, &get[1..]), MALFORMED),
        (
            "length that is kept",
            [get_with(0, &[("content-length", "3")]), frame(DATA, END_STREAM, 1, b"two")].concat(),
            "ok",
        ),
        ("length twice the same", [get_with(0, &[("content-length", "0"), ("content-length", "0")])].concat(), "ok"),
        ("length twice", get_with(0, &[("content-length", "3"), ("content-length", "4")]), MALFORMED),
        ("length of letters", get_with(0, &[("content-length", "+3")]), MALFORMED),
        ("too much", [get_with(0, &[("content-length", "3")]), frame(DATA, 0, 1, b"four")].concat(), MALFORMED),
        ("too little", [get_with(0, &[("content-length", "3")]), frame(DATA, END_STREAM, 1, b"2")].concat(), MALFORMED),
        ("nothing of it", get_with(END_STREAM, &[("content-length", "3")]), MALFORMED),
        (
            "trailers too early",
            [get_with(0, &[("content-length", "3")]), headers(1, END_STREAM, &[])].concat(),
            MALFORMED,
        ),
        ("trailers", [with(&[]), headers(1, END_STREAM, &[("a", "b")])].concat(), "ok"),
        ("trailers that do not end", [with(&[]), headers(1, 0, &[("a", "b")])].concat(), MALFORMED),
        ("trailers with pseudo", [with(&[]), headers(1, END_STREAM, &[(":path", "/")])].concat(), MALFORMED),
        ("trailers with upper case", [with(&[]), headers(1, END_STREAM, &[("A", "b")])].concat(), MALFORMED),
    ];
    server(&cases);
}

#[test]
fn section_8_answers() {
    let status = |flags, code: &str| headers(1, flags, &[(":status", code)]);
    let with_length = |code: &str| headers(1, 0, &[(":status", code), ("content-length", "3")]);
    client(&[
        ("200", status(0, "200"), "ok"),
        ("200 and the end", status(END_STREAM, "200"), "ok"),
        ("interim, then final", [status(0, "100"), status(0, "103"), status(0, "200")].concat(), "ok"),
        ("interim and the end", status(END_STREAM, "103"), MALFORMED),
        ("interim, then content", [status(0, "103"), frame(DATA, 0, 1, b"x")].concat(), MALFORMED),
        ("101", status(0, "101"), MALFORMED),
        ("no status", headers(1, 0, &[("a", "b")]), MALFORMED),
        ("two digits", status(0, "20"), MALFORMED),
        ("letters", status(0, "2xx"), MALFORMED),
        ("099", status(0, "099"), MALFORMED),
        ("pseudo of a request", headers(1, 0, &[(":status", "200"), (":path", "/")]), MALFORMED),
        ("second final answer", [status(0, "200"), status(0, "200")].concat(), MALFORMED),
        ("trailers", [status(0, "200"), headers(1, END_STREAM, &[("a", "b")])].concat(), "ok"),
        ("length of a 200 means nothing", [with_length("200"), frame(DATA, END_STREAM, 1, b"four")].concat(), "ok"),
        ("length of a 503", [with_length("503"), frame(DATA, END_STREAM, 1, b"four")].concat(), MALFORMED),
        ("length of a 503 that is kept", [with_length("503"), frame(DATA, END_STREAM, 1, b"two")].concat(), "ok"),
    ]);
}

#[test]
fn section_10_5_floods() {
    let list = |bytes: usize| {
        [(":method", "CONNECT"), (":authority", "a:1")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into_iter()
            .chain((0..bytes / 132).map(|n| (format!("header-{n:03}"), "x".repeat(90))))
            .collect::<Vec<_>>()
    };
    let as_refs = |fields: &[(String, String)]| fields.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
    let large = |bytes: usize| {
        let fields = as_refs(&list(bytes));
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        headers(1, 0, &fields)
    };
    let continued = |n: usize| {
        let mut bytes = frame(HEADERS, 0, 1, &block(&[(":method", "CONNECT")]));
        (1..n).for_each(|_| bytes.extend(frame(CONTINUATION, 0, 1, &[])));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &block(&[(":authority", "a:1")])));
        bytes
    };
    let repeat = |n: usize, bytes: Vec<u8>| bytes.repeat(n);
    let resets =
        |n: u32| (0..n).flat_map(|n| [request(2 * n + 1), rst(2 * n + 1, ErrorCode::CANCEL)].concat()).collect();
    let malformed = |n: u32| (0..n).flat_map(|n| headers(2 * n + 1, 0, &[])).collect::<Vec<u8>>();
    let verdict = |input: Vec<u8>| {
        let mut raw = Raw::new(Role::Server, Config::default());
        raw.end.receive(&input);
        raw.verdict(&[]).rsplit(", ").next().map(str::to_owned).unwrap()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a list within the limit", large(14_000), "ok"),
        ("a list beyond it", large(20_000), "rst 1 ENHANCE_YOUR_CALM"),
        ("a block beyond all measure", large(90_000), CALM),
        ("64 CONTINUATIONs", continued(64), "ok"),
        ("65 CONTINUATIONs", continued(65), CALM),
        ("1000 PINGs", repeat(1_000, frame(PING, 0, 0, &[0; 8])), "ok"),
        ("1001 PINGs", repeat(1_001, frame(PING, 0, 0, &[0; 8])), CALM),
        ("99 SETTINGS", repeat(99, settings(&[])), "ok"),
        ("100 SETTINGS", repeat(100, settings(&[])), CALM),
        ("5000 rapid resets", resets(5_000), "ok"),
        ("5001 rapid resets", resets(5_001), CALM),
        ("1000 empty frames", [request(1), repeat(1_000, frame(DATA, 0, 1, &[]))].concat(), "ok"),
        ("1001 empty frames", [request(1), repeat(1_001, frame(DATA, 0, 1, &[]))].concat(), CALM),
        ("1001 frames of padding", [request(1), repeat(1_001, frame(DATA, PADDED, 1, &[1, 0]))].concat(), CALM),
        ("2000 unknown frames", repeat(2_000, frame(0xfe, 0, 0, &[1])), "ok"),
        ("2001 unknown frames", repeat(2_001, frame(0xfe, 0, 0, &[1])), CALM),
        ("2001 PRIORITY frames", repeat(2_001, frame(PRIORITY, 0, 3, &[0; 5])), CALM),
        ("1001 malformed requests", malformed(1_001), CALM),
        (
            "PINGs between payload",
            [request(1), repeat(900, [repeat(9, frame(PING, ACK, 0, &[0; 8])), frame(DATA, 0, 1, b"x")].concat())]
                .concat(),
            "ok",
        ),
    ];
    for (name, input, expected) in cases {
        assert_eq!(verdict(input), expected, "{name}");
    }
}

/// Many streams with much on its way are reset at once: that the rest arrives is no flood.
#[test]
fn frames_in_flight_to_reset_streams_are_no_flood() {
    let mut raw = Raw::new(Role::Server, Config::default());
    for n in 0..100 {
        raw.end.receive(&request(2 * n + 1));
    }
    for stream in raw.end.asked() {
        raw.end.connection.reset(stream, ErrorCode::CONNECT_ERROR);
    }
    raw.end.transmit();
    for n in 0..100 {
        assert_eq!(raw.verdict(&frame(DATA, 0, 2 * n + 1, &[7; 1_000]).repeat(200)), "ok");
    }
    assert_eq!(raw.verdict(&frame(DATA, 0, 1, &[]).repeat(1_001)), CALM);
}

#[test]
fn unread_answers_are_limited() {
    let mut raw = Raw::new(Role::Server, Config::default());
    raw.end.receive(&request(1));
    let input = [frame(PING, 0, 0, &[0; 8]).repeat(900), frame(DATA, 0, 1, b"x")].concat();
    for _ in 0..4 {
        raw.end.receive(&input);
    }
    assert_eq!(raw.end.error, None);
    raw.end.receive(&input);
    assert_eq!(raw.verdict(&[]), CALM);
    let mut reads = Raw::new(Role::Server, Config::default());
    reads.end.receive(&request(1));
    for _ in 0..100 {
        assert_eq!(reads.verdict(&input), "ok");
    }
}
