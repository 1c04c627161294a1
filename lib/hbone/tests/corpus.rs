//! The stored inputs of the fuzz targets, and some that are made here.

mod support;

use proptest::prelude::*;
use std::fs;
use std::path::Path;
use support::differential;
use support::raw::*;
use underpass_hbone::fuzz;

fn each(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "{} holds a corpus", folder.display());
    for file in files {
        let input = fs::read(&file).unwrap();
        if std::panic::catch_unwind(|| run(&input)).is_err() {
            panic!("{} fails", file.display());
        }
    }
}

#[test]
fn receive() {
    each("receive", fuzz::receive::run);
}

#[test]
fn hpack() {
    each("hpack", fuzz::hpack::run);
}

#[test]
fn differential() {
    each("differential", differential::run);
}

#[test]
fn the_differential_compares_something() {
    let get = headers(3, 1, &[(":method", "GET"), (":scheme", "http"), (":authority", "b"), (":path", "/x?y")]);
    let input =
        [request(1), frame(DATA, 0, 1, b"payload"), get, request(5), rst(5, underpass_hbone::ErrorCode::CANCEL)];
    differential::run(&input.concat());
    assert_eq!(differential::accepted(&input[..3].concat()), (2, 2));
}

/// Frames that are nearly right: more of them get through than of bytes at random.
fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let stream = || prop_oneof![8 => Just(1_u32), 4 => Just(3), 2 => Just(5), 1 => 0_u32..8];
    let fields = prop::sample::subsequence(
        vec![
            (":method", "CONNECT"),
            (":authority", "a:1"),
            ("forwarded", "for=1"),
            ("baggage", "x"),
            ("content-length", "3"),
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x?y"),
            (":authority", "b"),
            ("te", "trailers"),
            ("Upper", "x"),
        ],
        0..8,
    );
    let fixed = prop::sample::select(vec![
        vec![(":method", "CONNECT"), (":authority", "a:1"), ("forwarded", "for=1")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "b"), (":path", "/x")],
        vec![("checksum", "1")],
    ]);
    let any = prop_oneof![
        6 => (stream(), prop_oneof![fixed, fields], any::<bool>()).prop_map(|(stream, fields, end)| headers(stream, u8::from(end), &fields)),
        6 => (stream(), prop::collection::vec(any::<u8>(), 0..9), 0_u8..2).prop_map(|(stream, data, end)| frame(DATA, end, stream, &data)),
        1 => (stream(), prop::collection::vec(0_u8..9, 1..9)).prop_map(|(stream, data)| frame(DATA, PADDED, stream, &data)),
        1 => (stream(), 0_u32..0xf).prop_map(|(stream, code)| rst(stream, underpass_hbone::ErrorCode(code))),
        1 => (stream(), 0_u32..70_000).prop_map(|(stream, more)| credit(stream, more)),
        1 => prop::collection::vec((0_u16..8, 0_u32..70_000), 0..3).prop_map(|list| settings(&list)),
        1 => (0_u8..12, any::<u8>(), stream(), prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(kind, flags, stream, data)| frame(kind, flags, stream, &data)),
        1 => (0_u32..9).prop_map(|last| goaway(last, underpass_hbone::ErrorCode::NO_ERROR)),
        1 => Just(frame(PING, 0, 0, &[1; 8])),
    ];
    prop::collection::vec(any, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn frames_that_are_nearly_right(choice in any::<u8>(), bytes in any_frames()) {
        fuzz::receive::run(&[&[choice & !4], &bytes[..]].concat());
        differential::run(&bytes);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::receive::run(&bytes);
        fuzz::hpack::run(&bytes);
        differential::run(&bytes);
    }
}
