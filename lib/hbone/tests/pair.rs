//! Our two ends against each other, under virtual time.

mod support;

use std::time::Duration;
use support::pair::{End, Pair, connect};
use support::raw::{self, GOAWAY, PING, RST_STREAM};
use underpass_hbone::{
    Blocked, Config, Connect, Error, ErrorCode, Event, Headers, OpenError, ResetCause, RespondError, SMALL_FRAME,
};

/// A tunnel with early data, an answer, payload both ways and both ends; what both sides saw of it.
fn exchange(pair: &mut Pair) -> String {
    let mut headers = Headers::new();
    headers.push("forwarded", "for=\"10.0.0.9:4711\";host=reviews");
    headers.push("baggage", "k8s.cluster.name=one");
    let request = Connect { authority: b"10.0.0.1:80".to_vec(), headers };
    let stream = pair.client.connection.open(&request).unwrap();
    assert_eq!(pair.client.send(stream, b"early", false), 5);
    pair.run();
    let accepted = pair.server.asked()[0];
    pair.server.connection.respond(accepted, 200, &[("server", "test")].into_iter().collect(), false).unwrap();
    pair.server.send(accepted, b"hello", true);
    pair.client.send(stream, b" late", false);
    pair.client.connection.finish(stream);
    pair.run();
    pair.no_errors();
    assert_eq!((pair.client.connection.open_streams(), pair.server.connection.open_streams()), (0, 0));
    assert_eq!((&pair.client.ended, &pair.server.ended), (&vec![1], &vec![1]));
    let payload = |end: &End| String::from_utf8(end.received[&1].clone()).unwrap();
    format!("{:?} {} {:?} {}", pair.server.log, payload(&pair.server), pair.client.log, payload(&pair.client))
}

#[test]
fn one_tunnel_both_ways_at_every_cut() {
    let mut whole = Pair::new(Config::default(), Config::default());
    let expected = exchange(&mut whole);
    assert!(
        expected.contains("early late") && expected.contains("hello") && expected.contains("for=\\\"10.0.0.9:4711")
    );
    for size in 1..200 {
        let mut pair = Pair::new(Config::default(), Config::default());
        pair.cuts = std::iter::repeat_n(size, 5_000).collect();
        assert_eq!(exchange(&mut pair), expected, "reads of {size} bytes");
        let mut pair = Pair::new(Config::default(), Config::default());
        pair.cuts = [size, usize::MAX].into_iter().cycle().take(100).collect();
        assert_eq!(exchange(&mut pair), expected, "first read of {size} bytes");
    }
}

#[test]
fn a_refusal_ends_the_answer_and_the_upload() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let stream = pair.client.connection.open(&connect("10.0.0.1:80")).unwrap();
    pair.client.send(stream, b"early", false);
    pair.run();
    let accepted = pair.server.asked()[0];
    pair.server.connection.respond(accepted, 503, &Headers::new(), true).unwrap();
    assert_eq!(pair.server.connection.reserve(accepted, 1).unwrap_err(), Blocked::Ended);
    pair.server.connection.reset(accepted, ErrorCode::NO_ERROR);
    pair.run();
    let [Event::Response { status: 503, end: true, .. }, Event::Reset { code, cause, .. }] = &pair.client.log[..]
    else {
        panic!("{:?}", pair.client.log)
    };
    assert_eq!((*code, *cause), (ErrorCode::NO_ERROR, ResetCause::Peer));
    assert_eq!((pair.client.connection.open_streams(), pair.server.connection.open_streams()), (0, 0));
    assert_eq!(pair.client.connection.reserve(stream, 1).unwrap_err(), Blocked::Ended);
    pair.no_errors();
}

#[test]
fn answers_that_cannot_be_given() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    pair.run();
    let accepted = pair.server.asked()[0];
    let server = &mut pair.server.connection;
    assert_eq!(server.reserve(accepted, 5).unwrap_err(), Blocked::Unanswered);
    for (status, headers) in [
        (101, Headers::new()),
        (1000, Headers::new()),
        (200, [("Upper", "x")].into_iter().collect()),
        (200, [(":status", "x")].into_iter().collect()),
        (200, [("a", "x\r\nb: c")].into_iter().collect()),
        (200, [("connection", "close")].into_iter().collect()),
    ] {
        assert_eq!(server.respond(accepted, status, &headers, false), Err(RespondError::Malformed), "{headers:?}");
    }
    server.respond(accepted, 200, &Headers::new(), false).unwrap();
    assert_eq!(server.respond(accepted, 200, &Headers::new(), false), Err(RespondError::Answered));
    assert_eq!(pair.client.connection.respond(stream, 200, &Headers::new(), false), Err(RespondError::Answered));
    pair.server.connection.reset(accepted, ErrorCode::CONNECT_ERROR);
    assert_eq!(pair.server.connection.respond(accepted, 200, &Headers::new(), false), Err(RespondError::Gone));
    assert_eq!(pair.server.connection.open(&connect("a:1")), Err(OpenError::NotClient));
    let newline = Connect { authority: b"a:1\r\n".to_vec(), headers: Headers::new() };
    assert_eq!(pair.client.connection.open(&newline), Err(OpenError::Malformed));
    pair.run();
    pair.no_errors();
}

#[test]
fn as_many_streams_as_both_allow() {
    let mut pair = Pair::new(
        Config { max_open_streams: 5, ..Config::default() },
        Config { max_accepted_streams: 3, ..Config::default() },
    );
    assert_eq!(pair.client.connection.stream_cap(), 5, "the peer has not said anything yet");
    pair.run();
    assert_eq!(pair.client.connection.stream_cap(), 3);
    let streams: Vec<_> = (0..3).map(|_| pair.client.connection.open(&connect("a:1")).unwrap()).collect();
    assert_eq!(pair.client.connection.open(&connect("a:1")), Err(OpenError::Full));
    pair.run();
    pair.client.connection.reset(streams[1], ErrorCode::CANCEL);
    assert!(pair.client.connection.can_open());
    pair.client.connection.open(&connect("a:1")).unwrap();
    pair.run();
    assert_eq!(pair.server.connection.open_streams(), 3);
    pair.no_errors();
}

#[test]
fn streams_opened_too_early_are_refused_and_may_be_tried_elsewhere() {
    let mut pair = Pair::new(Config::default(), Config { max_accepted_streams: 1, ..Config::default() });
    let streams: Vec<_> = (0..3).map(|_| pair.client.connection.open(&connect("a:1")).unwrap()).collect();
    pair.client.send(streams[2], b"early", false);
    pair.run();
    let unprocessed = |stream| Event::Reset { stream, code: ErrorCode::REFUSED_STREAM, cause: ResetCause::Unprocessed };
    assert_eq!(pair.client.log, [unprocessed(streams[1]), unprocessed(streams[2])]);
    assert_eq!(pair.server.received.len(), 0);
    pair.no_errors();
}

/// Sends `bytes` through a tunnel, as fast as the windows allow, and counts the turns it takes.
fn bulk(pair: &mut Pair, bytes: usize) -> usize {
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    let payload: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut turns) = (0, 0);
    while sent < bytes {
        sent += pair.client.send(stream, &payload[sent..], true);
        assert!(pair.step() || sent == bytes, "stuck after {sent} bytes");
        turns += 1;
    }
    pair.run();
    assert!(pair.server.received[&stream.number()] == payload, "what arrives is what was sent");
    assert_eq!(pair.server.ended.last(), Some(&stream.number()));
    pair.no_errors();
    turns
}

#[test]
fn bulk_through_windows_of_every_size() {
    for stream_window in [1, 2, 255, 256, 257, 1_000, 16_384, 65_535, 65_536, 1 << 20] {
        for connection_window in [65_535, 100_000, 16 << 20] {
            let server = Config {
                stream_window,
                stream_window_max: stream_window,
                connection_window,
                max_frame_size: 16_384,
                ..Config::default()
            };
            let mut pair = Pair::new(Config::default(), server);
            pair.run();
            bulk(&mut pair, if stream_window < 1000 { 5_000 } else { 3_000_000 });
        }
    }
}

#[test]
fn a_window_below_the_protocols_own_holds_once_it_is_acknowledged() {
    let server = Config { stream_window: 1_000, stream_window_max: 1_000, ..Config::default() };
    let mut pair = Pair::new(Config::default(), server);
    pair.server.consumes = false;
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    // The client does not know the server's settings: the protocol's window holds, and what is sent may exceed the new
    // one.
    assert_eq!(pair.client.send(stream, &[7; 70_000], false), 65_535);
    pair.run();
    let accepted = pair.server.asked()[0];
    assert_eq!(pair.client.send(stream, &[7; 10], false), 0);
    for _ in 0..65 {
        pair.server.connection.consumed(accepted, 1_000);
        pair.run();
    }
    assert!(pair.client.send(stream, &[7; 10], false) == 10, "the window is positive again");
    pair.run();
    pair.no_errors();
}

#[test]
fn the_window_grows_while_the_reader_keeps_up() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    bulk(&mut pair, 12 << 20);
    let grown = |pair: &mut Pair| {
        let stream = pair.client.connection.open(&connect("a:1")).unwrap();
        let (mut sent, chunk) = (0, [0; 64 << 10]);
        while sent < 6 << 20 {
            sent += pair.client.send(stream, &chunk, false);
            pair.step();
        }
        pair.run();
        let accepted = *pair.server.asked().last().unwrap();
        pair.server.connection.window(accepted).unwrap()
    };
    assert_eq!(grown(&mut pair), 4 << 20);
    pair.server.connection.allow_growth(false);
    assert_eq!(grown(&mut pair), 256 << 10);
    let accepted = *pair.server.asked().last().unwrap();
    pair.server.connection.grow(accepted, 1 << 20);
    assert_eq!(pair.server.connection.window(accepted), Some(1 << 20));
    pair.server.connection.grow(accepted, 1 << 30);
    assert_eq!(pair.server.connection.window(accepted), Some(4 << 20));
    pair.run();
    pair.no_errors();
}

#[test]
fn fifty_stalled_streams_do_not_stop_the_next_one() {
    let server = Config { connection_window: 1 << 20, ..Config::default() };
    let mut pair = Pair::new(Config::default(), server);
    pair.run();
    pair.server.consumes = false;
    for _ in 0..50 {
        let stream = pair.client.connection.open(&connect("a:1")).unwrap();
        let mut sent = 0;
        while sent < 256 << 10 {
            let more = pair.client.send(stream, &vec![1; (300 << 10) - sent], false);
            sent += more;
            assert!(pair.step() || more > 0, "credit of the connection does not wait for a stream");
        }
        assert_eq!(sent, 256 << 10, "a stalled stream holds its own window");
    }
    assert_eq!(pair.server.held.values().sum::<usize>(), 50 * (256 << 10));
    pair.server.consumes = true;
    bulk(&mut pair, 4 << 20);
}

#[test]
fn a_reservation_that_is_not_used_leaves_nothing() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    pair.run();
    for n in 0..100 {
        pair.client.connection.reserve(stream, 100_000).unwrap().commit(0, false);
        let _ = pair.client.connection.reserve(stream, 1 + n).unwrap();
    }
    assert_eq!(pair.client.connection.queued(), 0);
    let mut room = pair.client.connection.reserve(stream, 100).unwrap();
    room.bytes()[..3].copy_from_slice(b"end");
    room.commit(3, false);
    pair.client.connection.finish(stream);
    pair.client.connection.finish(stream);
    let frames = raw::frames(pair.client.connection.poll_transmit());
    assert_eq!(
        frames.iter().map(|frame| (frame.kind, frame.flags, &frame.payload[..])).collect::<Vec<_>>(),
        [(0, 1, &b"end"[..])]
    );
    let other = pair.client.connection.open(&connect("a:1")).unwrap();
    pair.run();
    pair.client.connection.reserve(other, 100).unwrap().commit(0, true);
    let frames = raw::frames(pair.client.connection.poll_transmit());
    assert_eq!(
        frames.iter().map(|frame| (frame.kind, frame.flags, frame.payload.len())).collect::<Vec<_>>(),
        [(0, 1, 0)]
    );
    pair.run();
    assert_eq!(pair.server.ended, [1, 3]);
}

#[test]
fn a_stream_given_up_before_it_is_written_never_was() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let first = pair.client.connection.open(&connect("first:1")).unwrap();
    pair.client.send(first, b"one", false);
    let second = pair.client.connection.open(&connect("second:1")).unwrap();
    // All of the connection's window: it has to come back.
    let (mut sent, chunk) = (0, vec![0; 1 << 20]);
    while let n @ 1.. = pair.client.send(second, &chunk, false) {
        sent += n;
    }
    assert_eq!(sent, 256 << 10);
    let third = pair.client.connection.open(&connect("third:1")).unwrap();
    pair.client.send(third, b"three", false);
    pair.client.connection.reset(second, ErrorCode::CANCEL);
    pair.client.send(first, b" and on", false);
    pair.run();
    assert_eq!(pair.server.asked().iter().map(|stream| stream.number()).collect::<Vec<_>>(), [1, 5]);
    assert!(pair.server.log.iter().all(|event| matches!(event, Event::Connect { .. })));
    assert_eq!((&pair.server.received[&1][..], &pair.server.received[&5][..]), (&b"one and on"[..], &b"three"[..]));
    assert_eq!(pair.client.connection.open_streams(), 2);
    pair.no_errors();
}

#[test]
fn ten_resets_of_unanswered_streams_at_a_time() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let streams: Vec<_> = (0..35).map(|_| pair.client.connection.open(&connect("a:1")).unwrap()).collect();
    pair.run();
    // One that was answered is not held back.
    let answered = pair.server.asked()[34];
    pair.server.connection.respond(answered, 200, &Headers::new(), false).unwrap();
    pair.run();
    streams.iter().for_each(|stream| pair.client.connection.reset(*stream, ErrorCode::CANCEL));
    let mut writes = vec![];
    while pair.client.connection.queued() > 0 || pair.server.connection.queued() > 0 {
        let frames = raw::frames(pair.client.connection.poll_transmit());
        writes.push(frames.iter().filter(|frame| frame.kind == RST_STREAM).count());
        pair.step();
    }
    writes.retain(|&n| n > 0);
    assert_eq!(writes, [11, 10, 10, 4]);
    assert_eq!((pair.client.connection.open_streams(), pair.server.connection.open_streams()), (0, 0));
    let resets = pair.server.log.iter().filter(|event| matches!(event, Event::Reset { .. })).count();
    assert_eq!(resets, 35);
    pair.no_errors();
}

#[test]
fn frames_for_a_stream_with_a_waiting_reset_are_dropped() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let streams: Vec<_> = (0..12).map(|_| pair.client.connection.open(&connect("a:1")).unwrap()).collect();
    pair.run();
    for accepted in pair.server.asked() {
        pair.server.connection.respond(accepted, 200, &Headers::new(), false).unwrap();
        pair.server.send(accepted, b"answer", true);
    }
    let before = pair.client.log.len();
    streams.iter().for_each(|stream| pair.client.connection.reset(*stream, ErrorCode::CANCEL));
    assert_eq!(pair.client.connection.reserve(streams[11], 1).unwrap_err(), Blocked::Ended);
    pair.client.connection.finish(streams[11]);
    pair.run();
    assert_eq!(pair.client.log.len(), before, "a stream that was given up is not heard of again");
    assert!(pair.client.received.is_empty());
    assert_eq!((pair.client.connection.open_streams(), pair.server.connection.open_streams()), (0, 0));
    pair.no_errors();
}

#[test]
fn a_server_drains_without_losing_a_stream_on_its_way() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let first = pair.client.connection.open(&connect("first:1")).unwrap();
    pair.run();
    pair.server.connection.drain();
    assert!(!pair.server.connection.is_drained());
    // Opened before the client has seen the GOAWAY.
    let second = pair.client.connection.open(&connect("second:1")).unwrap();
    let crossing = pair.client.transmit();
    let goaway = pair.server.transmit();
    let kinds: Vec<_> = raw::frames(&goaway).iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(kinds, [(GOAWAY, 0), (PING, 0)]);
    pair.server.receive(&crossing);
    pair.client.receive(&goaway);
    assert!(!pair.client.connection.can_open());
    assert_eq!(pair.client.connection.open(&connect("a:1")), Err(OpenError::GoingAway));
    pair.run();
    let goaways: Vec<_> = pair.client.log.iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(
        goaways,
        ["GoAway { last: 2147483647, code: NO_ERROR, debug: [] }", "GoAway { last: 3, code: NO_ERROR, debug: [] }"]
    );
    for accepted in pair.server.asked() {
        pair.server.connection.respond(accepted, 200, &Headers::new(), false).unwrap();
        pair.server.send(accepted, b"served", true);
    }
    pair.client.connection.finish(first);
    pair.client.connection.finish(second);
    pair.run();
    assert_eq!((&pair.client.received[&1][..], &pair.client.received[&3][..]), (&b"served"[..], &b"served"[..]));
    assert!(pair.server.connection.is_drained() && pair.client.connection.is_drained());
    pair.no_errors();
}

#[test]
fn a_client_drains_and_a_close_ends_at_once() {
    let mut pair = Pair::new(Config::default(), Config::default());
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    pair.run();
    pair.client.connection.drain();
    assert!(!pair.client.connection.can_open());
    pair.run();
    assert!(matches!(pair.server.log.last(), Some(Event::GoAway { last: 0, code: ErrorCode::NO_ERROR, .. })));
    pair.client.send(stream, b"goes on", false);
    pair.run();
    assert_eq!(pair.server.received[&1], b"goes on");
    pair.server.connection.close(ErrorCode::INTERNAL_ERROR);
    assert!(pair.server.connection.is_closed() && !pair.server.connection.is_drained());
    pair.run();
    assert!(pair.server.connection.is_drained());
    assert!(matches!(pair.client.log.last(), Some(Event::GoAway { last: 1, code: ErrorCode::INTERNAL_ERROR, .. })));
    pair.client.send(stream, b"more", false);
    pair.run();
    assert_eq!(pair.server.error, Some(Error::Closed));
}

#[test]
fn goaway_names_what_was_not_processed() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let streams: Vec<_> = (0..3).map(|_| pair.client.connection.open(&connect("a:1")).unwrap()).collect();
    pair.client.transmit();
    pair.client.receive(&raw::goaway(1, ErrorCode::ENHANCE_YOUR_CALM));
    let unprocessed = |stream| Event::Reset { stream, code: ErrorCode::REFUSED_STREAM, cause: ResetCause::Unprocessed };
    let goaway = Event::GoAway { last: 1, code: ErrorCode::ENHANCE_YOUR_CALM, debug: vec![] };
    assert_eq!(pair.client.log, [goaway, unprocessed(streams[1]), unprocessed(streams[2])]);
    assert_eq!(pair.client.connection.open_streams(), 1);
    // A higher number later takes nothing back.
    pair.client.receive(&raw::goaway(9, ErrorCode::NO_ERROR));
    assert!(matches!(pair.client.log.last(), Some(Event::GoAway { last: 1, .. })));
    pair.client.receive(&raw::answer(1));
    assert!(matches!(pair.client.log.last(), Some(Event::Response { status: 200, .. })));
    assert_eq!(pair.client.error, None);
}

/// Bytes queued for a stream that GOAWAY leaves out are not sent any more: they are sent elsewhere.
#[test]
fn goaway_takes_back_what_has_not_left() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    pair.client.send(stream, b"early", false);
    pair.client.receive(&raw::goaway(0, ErrorCode::NO_ERROR));
    assert!(matches!(pair.client.log[..], [_, Event::Reset { cause: ResetCause::Unprocessed, .. }]));
    assert_eq!(pair.client.connection.queued(), 0);
}

#[test]
fn small_frames_are_counted_until_credit_comes() {
    let mut pair =
        Pair::new(Config::default(), Config { stream_window: 2_000, stream_window_max: 2_000, ..Config::default() });
    pair.run();
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    for _ in 0..30 {
        pair.client.send(stream, b"x", false);
        pair.run();
    }
    pair.client.send(stream, &[0; SMALL_FRAME], false);
    assert_eq!(pair.client.connection.uncredited_small_frames(stream), 30);
    pair.client.send(stream, &[0; 1_000], false);
    pair.run();
    assert_eq!(pair.client.connection.uncredited_small_frames(stream), 0);
}

#[test]
fn small_frames_that_are_read_are_credited_early() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    let mut most = 0;
    for _ in 0..1_000 {
        pair.client.send(stream, b"x", false);
        pair.run();
        most = most.max(pair.client.connection.uncredited_small_frames(stream));
    }
    assert_eq!(most, 32 - 1);
    // A peer that answers also reads.
    let asked = pair.server.asked()[0];
    pair.server.connection.respond(asked, 200, &Headers::new(), false).unwrap();
    pair.client.send(stream, b"x", false);
    assert_ne!(pair.client.connection.uncredited_small_frames(stream), 0);
    pair.server.send(asked, b"y", false);
    pair.run();
    assert_eq!(pair.client.connection.uncredited_small_frames(stream), 0);
}

#[test]
fn a_connection_may_move_between_threads() {
    fn moves<T: Send + 'static>() {}
    moves::<underpass_hbone::Connection>();
}

#[test]
fn a_ping_every_ten_seconds_and_death_after_twenty() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.run();
    let start = pair.now;
    let pings =
        |end: &End| raw::frames(end.connection.poll_transmit()).iter().filter(|frame| frame.kind == PING).count();
    let due = |pair: &Pair| pair.client.connection.poll_timeout().unwrap().duration_since(start).as_secs();
    assert_eq!(due(&pair), 10);
    pair.pass(Duration::from_secs(9));
    assert_eq!(pings(&pair.client), 0);
    for second in [10, 20, 30, 40, 50] {
        pair.pass(Duration::from_secs(second) - pair.now.duration_since(start));
        assert_eq!(pings(&pair.client), 1, "at {second} s");
        pair.run();
        pair.no_errors();
    }
    // The peer falls silent: the PING of 60 s is never answered.
    pair.pass(Duration::from_secs(10));
    assert_eq!((pings(&pair.client), due(&pair)), (1, 70));
    pair.client.transmit();
    pair.pass(Duration::from_secs(10));
    assert_eq!((pings(&pair.client), due(&pair), pair.client.error), (0, 80, None));
    pair.pass(Duration::from_secs(10));
    assert_eq!(pair.client.error, Some(Error::PingTimeout));
    assert_eq!(pair.client.connection.poll_timeout(), None);
    assert_eq!(pair.client.connection.open(&connect("a:1")), Err(OpenError::GoingAway));
}

#[test]
fn without_an_interval_nothing_is_asked() {
    let quiet = Config { ping_interval: None, ..Config::default() };
    let mut pair = Pair::new(quiet.clone(), quiet);
    pair.run();
    assert_eq!(pair.client.connection.poll_timeout(), None);
    pair.pass(Duration::from_secs(1 << 20));
    assert_eq!(pair.client.connection.queued(), 0);
    pair.no_errors();
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let mut pair = Pair::new(Config::default(), Config::default());
    assert!(pair.client.connection.release().is_none(), "the preface waits in it");
    pair.run();
    assert!(!pair.client.connection.release().unwrap().is_empty());
    assert!(pair.client.connection.release().unwrap().is_empty());
    pair.client.connection.lend(vec![0xee; 1 << 20]);
    let stream = pair.client.connection.open(&connect("a:1")).unwrap();
    pair.client.send(stream, b"x", false);
    pair.client.connection.lend(vec![0xee; 2 << 20]);
    pair.run();
    assert_eq!(pair.client.connection.release().unwrap().len(), 1 << 20);
    assert_eq!(pair.server.received[&1], b"x");
}

#[test]
fn headers_beyond_a_frame_are_continued() {
    let limits = Config { max_frame_size: 16_384, max_header_list_size: 100_000, ..Config::default() };
    let mut pair = Pair::new(Config::default(), limits);
    pair.run();
    let mut request = connect("a:1");
    request.headers.push("baggage", "x".repeat(60_000));
    pair.client.connection.open(&request).unwrap();
    let kinds: Vec<_> = raw::frames(pair.client.connection.poll_transmit()).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [1, 9, 9, 9]);
    pair.run();
    assert!(matches!(&pair.server.log[0], Event::Connect { request: got, .. } if *got == request));
    request.headers.push("baggage", "x".repeat(60_000));
    assert_eq!(pair.client.connection.open(&request), Err(OpenError::HeadersTooLarge));
    pair.no_errors();
}
