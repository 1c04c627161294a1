//! Two owners with random operations in random order, and bytes cut at random: payload arrives as it was sent, windows
//! hold, waiting streams are woken, and both ends agree on the open streams.

mod support;

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::pair::{End, Pair, connect};
use underpass_hbone::{Blocked, Config, ErrorCode, Event, Headers, StreamId};

/// An operation of an owner; the number picks a stream.
#[derive(Clone, Debug)]
enum Op {
    Open,
    Respond(usize),
    /// By the server (or the client), so many bytes.
    Send(bool, usize, usize),
    Finish(bool, usize),
    Reset(bool, usize),
    Consume(bool, usize, usize),
    Grow(bool, usize, u32),
    /// Carries bytes both ways once, in reads of these sizes.
    Step(Vec<usize>),
    /// Part of what waits leaves, the rest stays.
    Part(bool, usize),
    Pass,
    Drain(bool),
}

fn any_op() -> impl Strategy<Value = Op> {
    let pick = 0_usize..12;
    prop_oneof![
        4 => Just(Op::Open),
        4 => pick.clone().prop_map(Op::Respond),
        8 => (any::<bool>(), pick.clone(), prop_oneof![6 => 0_usize..20, 4 => 0_usize..3_000, 1 => 0_usize..30_000]).prop_map(|(s, p, n)| Op::Send(s, p, n)),
        2 => (any::<bool>(), pick.clone()).prop_map(|(s, p)| Op::Finish(s, p)),
        1 => (any::<bool>(), pick.clone()).prop_map(|(s, p)| Op::Reset(s, p)),
        3 => (any::<bool>(), pick.clone(), 0_usize..100_000).prop_map(|(s, p, n)| Op::Consume(s, p, n)),
        1 => (any::<bool>(), pick, 0_u32..200_000).prop_map(|(s, p, n)| Op::Grow(s, p, n)),
        8 => prop::collection::vec(prop_oneof![1_usize..12, 1_usize..3_000], 0..40).prop_map(Op::Step),
        2 => (any::<bool>(), 0_usize..5_000).prop_map(|(s, n)| Op::Part(s, n)),
        1 => Just(Op::Pass),
        1 => prop::bool::weighted(0.1).prop_map(Op::Drain),
    ]
}

fn any_config() -> impl Strategy<Value = Config> {
    let window = || prop_oneof![200_u32..2_000, 200_u32..70_000, Just(65_535_u32), Just(256 << 10)];
    (1_u32..8, 1_u32..8, window(), window(), 65_535_u32..200_000, 16_384_u32..70_000, any::<bool>()).prop_map(
        |(max_open_streams, max_accepted_streams, stream_window, more, connection_window, max_frame_size, table)| {
            Config {
                max_open_streams,
                max_accepted_streams,
                stream_window,
                stream_window_max: stream_window.saturating_add(more),
                connection_window,
                max_frame_size,
                header_table_size: if table { 4_096 } else { 0 },
                ..Config::default()
            }
        },
    )
}

/// The payload of one end on one stream.
#[derive(Default)]
struct Voice {
    said: usize,
    waiting: usize,
    finish: bool,
    finished: bool,
    /// `reserve` said that there is no room: only an event may end this.
    blocked: bool,
}

#[derive(Default)]
struct Side {
    voices: BTreeMap<StreamId, Voice>,
    /// The payload of streams that have ended.
    said: BTreeMap<StreamId, usize>,
    /// The checked part of the log.
    seen: usize,
}

struct World {
    pair: Pair,
    client: Side,
    server: Side,
    unanswered: Vec<StreamId>,
    /// Streams that one of the two has reset: what they carried may be lost.
    reset: BTreeSet<StreamId>,
}

/// The byte at a place of a stream's payload.
fn byte(stream: StreamId, server: bool, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(stream.number() * 7 + u32::from(server)) as u8
}

impl World {
    fn new(client: Config, server: Config) -> Self {
        let mut pair = Pair::new(client, server);
        (pair.client.consumes, pair.server.consumes) = (false, false);
        let (client, server) = (Side::default(), Side::default());
        Self { pair, client, server, unanswered: vec![], reset: BTreeSet::new() }
    }

    fn at(&mut self, server: bool) -> (&mut End, &mut Side) {
        if server { (&mut self.pair.server, &mut self.server) } else { (&mut self.pair.client, &mut self.client) }
    }

    fn pick(&mut self, server: bool, pick: usize) -> Option<StreamId> {
        let side = self.at(server).1;
        side.voices.keys().nth(pick % side.voices.len().max(1)).copied()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open => {
                let client = &mut self.pair.client.connection;
                let can = client.can_open();
                let opened = client.open(&connect("10.0.0.1:80"));
                assert_eq!(can, opened.is_ok());
                if let Ok(stream) = opened {
                    self.client.voices.insert(stream, Voice::default());
                }
            }
            Op::Respond(pick) if !self.unanswered.is_empty() => {
                let stream = self.unanswered.remove(pick % self.unanswered.len());
                self.pair.server.connection.respond(stream, 200, &Headers::new(), false).unwrap();
                self.server.voices.insert(stream, Voice::default());
            }
            Op::Send(server, pick, n) => {
                if let Some(stream) = self.pick(server, pick) {
                    let voice = self.at(server).1.voices.get_mut(&stream).unwrap();
                    voice.waiting += if voice.finish { 0 } else { n };
                    self.pump(server, stream);
                }
            }
            Op::Finish(server, pick) => {
                if let Some(stream) = self.pick(server, pick) {
                    self.at(server).1.voices.get_mut(&stream).unwrap().finish = true;
                    self.pump(server, stream);
                }
            }
            Op::Reset(server, pick) => {
                if let Some(stream) = self.pick(server, pick) {
                    let (end, side) = self.at(server);
                    end.connection.reset(stream, ErrorCode::CANCEL);
                    let voice = side.voices.remove(&stream).unwrap();
                    side.said.insert(stream, voice.said);
                    self.reset.insert(stream);
                }
            }
            Op::Consume(server, pick, n) => {
                let Some(stream) = self.pick(server, pick) else { return };
                let (end, _) = self.at(server);
                let held = end.held.entry(stream.number()).or_default();
                let n = n.min(*held);
                *held -= n;
                end.connection.consumed(stream, n);
            }
            Op::Grow(server, pick, n) => {
                if let Some(stream) = self.pick(server, pick) {
                    self.at(server).0.connection.grow(stream, n);
                }
            }
            Op::Step(cuts) => {
                self.pair.cuts = cuts.into();
                self.pair.step();
                self.pair.cuts.clear();
            }
            Op::Part(server, n) => self.pair.part(server, n),
            Op::Pass => {
                self.pair.pass(Duration::from_secs(10));
                self.pair.step();
            }
            Op::Drain(server) => self.at(server).0.connection.drain(),
            Op::Respond(_) => {}
        }
    }

    /// Says what waits, as far as there is room.
    fn pump(&mut self, server: bool, stream: StreamId) {
        let (end, side) = self.at(server);
        let Some(voice) = side.voices.get_mut(&stream) else { return };
        while voice.waiting > 0 && !voice.blocked {
            match end.connection.reserve(stream, voice.waiting.min(64 << 10)) {
                Ok(mut room) => {
                    let n = room.len();
                    room.bytes().iter_mut().zip(voice.said..).for_each(|(to, at)| *to = byte(stream, server, at));
                    (voice.said, voice.waiting) = (voice.said + n, voice.waiting - n);
                    let last = voice.waiting == 0 && voice.finish && n % 2 == 0;
                    room.commit(n, last);
                    voice.finished |= last;
                }
                Err(Blocked::Window) => voice.blocked = true,
                Err(other) => panic!("{other} on {stream:?}, which no owner has ended"),
            }
        }
        if voice.finish && voice.waiting == 0 && !voice.finished {
            end.connection.finish(stream);
            voice.finished = true;
        }
    }

    /// Looks at what both ends have to tell, and at what always holds.
    fn look(&mut self) {
        self.pair.no_errors();
        for server in [false, true] {
            let (end, side) = self.at(server);
            let news: Vec<_> = end.log[side.seen..].to_vec();
            side.seen = end.log.len();
            // A whole read was taken before its events are looked at: what it has ended at last is ended for all of
            // them.
            for event in &news {
                if let Event::Reset { stream, .. } = event {
                    let (_, side) = self.at(server);
                    if let Some(voice) = side.voices.remove(stream) {
                        side.said.insert(*stream, voice.said);
                    }
                    self.reset.insert(*stream);
                }
            }
            for event in news {
                match event {
                    Event::Connect { stream, .. } if !self.reset.contains(&stream) => self.unanswered.push(stream),
                    Event::Writable { stream } if !self.reset.contains(&stream) => {
                        let voice = self.at(server).1.voices.get_mut(&stream).expect("a stream that is written to");
                        assert!(voice.blocked, "no owner waits on {stream:?}");
                        voice.blocked = false;
                        self.pump(server, stream);
                    }
                    _ => {}
                }
            }
            let reset = &self.reset;
            self.unanswered.retain(|stream| !reset.contains(stream));
            let (end, side) = self.at(server);
            for stream in side.voices.keys() {
                let held = end.held.get(&stream.number()).copied().unwrap_or_default();
                if let Some(window) = end.connection.window(*stream) {
                    assert!(held <= (window as usize).max(65_535), "{held} bytes in a window of {window}");
                }
            }
        }
    }

    /// Lets everything end that goes on, and compares what arrived with what was said.
    fn end(mut self) {
        for _ in 0..200_000 {
            while !self.unanswered.is_empty() {
                self.apply(Op::Respond(0));
            }
            for server in [false, true] {
                for stream in self.at(server).1.voices.keys().copied().collect::<Vec<_>>() {
                    self.at(server).1.voices.get_mut(&stream).unwrap().finish = true;
                    self.pump(server, stream);
                    let (end, _) = self.at(server);
                    let held = std::mem::take(end.held.entry(stream.number()).or_default());
                    end.connection.consumed(stream, held);
                }
            }
            let moved = self.pair.step();
            self.look();
            if !moved && self.unanswered.is_empty() {
                break;
            }
        }
        assert_eq!(self.pair.client.connection.open_streams(), 0);
        assert_eq!(self.pair.server.connection.open_streams(), 0);
        for server in [false, true] {
            let (_, side) = self.at(server);
            let said = side.voices.iter().map(|(stream, voice)| (*stream, voice.said)).chain(side.said.clone());
            for (stream, said) in said.collect::<Vec<_>>() {
                let whole = !self.reset.contains(&stream);
                let (other, _) = self.at(!server);
                let arrived = other.received.get(&stream.number()).cloned().unwrap_or_default();
                assert!(arrived.iter().zip(0..).all(|(got, at)| *got == byte(stream, server, at)), "on {stream:?}");
                assert!(arrived.len() <= said);
                if whole {
                    assert_eq!(arrived.len(), said, "all of {stream:?}");
                    assert!(other.ended.contains(&stream.number()));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_actions_of_two_owners(
        client in any_config(),
        server in any_config(),
        ops in prop::collection::vec(any_op(), 0..120),
    ) {
        let mut world = World::new(client, server);
        for op in ops {
            world.apply(op);
            world.look();
        }
        world.end();
    }
}
