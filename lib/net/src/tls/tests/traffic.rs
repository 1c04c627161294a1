//! Bytes after the handshake: in bulk, while keys change, cut, damaged, and at the end.

use super::*;

/// Two ends whose keys are good for 64 records.
fn limited_pair() -> (Pair, Arc<KeyUse>) {
    let mut mesh = Mesh::new();
    let (suite, used) = limited(64);
    mesh.suites = vec![suite];
    (mesh.connected(), used)
}

#[test]
fn keys_change_in_bulk_both_ways() {
    let (mut pair, used) = limited_pair();
    let before = used.encrypters.load(Ordering::Relaxed);
    let plain = pattern(3 << 20);
    for _ in 0..4 {
        pair.client.send(&plain);
        pair.server.send(&plain);
        // Both flights are under way when the other end's key update arrives.
        let (up, down) = (pair.client.take(), pair.server.take());
        pair.server.receive(&up).unwrap();
        pair.client.receive(&down).unwrap();
    }
    pair.run().unwrap();
    assert!(pair.client.data == plain.repeat(4));
    assert!(pair.server.data == plain.repeat(4));
    // 768 records each way in keys of 64.
    let updates = used.encrypters.load(Ordering::Relaxed) - before;
    assert!(updates >= 2 * 12, "{updates} new keys");
    assert!(used.highest.load(Ordering::Relaxed) <= 64, "a key was used {:?} times", used.highest);
}

#[test]
fn keys_change_while_one_end_only_listens() {
    for talker in ["client", "server"] {
        let (mut pair, used) = limited_pair();
        let before = used.encrypters.load(Ordering::Relaxed);
        for i in 0..2_000_u32 {
            let (from, to) = match talker {
                "client" => (&mut pair.client, &mut pair.server),
                _ => (&mut pair.server, &mut pair.client),
            };
            from.send(&i.to_be_bytes());
            let bytes = from.take();
            to.receive(&bytes).unwrap();
            assert!(to.out.is_empty(), "an update is answered with the next data, not before");
        }
        assert!(used.encrypters.load(Ordering::Relaxed) - before > 30);
        // The listener speaks: its answer to the updates, then data.
        pair.client.send(b"client");
        pair.server.send(b"server");
        pair.run().unwrap();
        assert!(pair.client.data.ends_with(b"server") && pair.server.data.ends_with(b"client"), "{talker}");
        let heard = if talker == "client" { &pair.server.data } else { &pair.client.data };
        assert_eq!(heard.len(), 8_000 + 6);
        assert!(used.highest.load(Ordering::Relaxed) <= 64);
    }
}

#[test]
fn keys_change_in_small_traffic_both_ways() {
    let (mut pair, used) = limited_pair();
    for i in 0..1_000_u32 {
        pair.client.send(&i.to_be_bytes());
        pair.server.receive(&pair.client.take()).unwrap();
        pair.server.send(&i.to_le_bytes());
        pair.client.receive(&pair.server.take()).unwrap();
    }
    assert_eq!((pair.client.data.len(), pair.server.data.len()), (4_000, 4_000));
    assert!(used.highest.load(Ordering::Relaxed) <= 64);
}

#[test]
fn any_size_in_any_cut() {
    let mesh = Mesh::new();
    let mut pair = mesh.connected();
    let sizes = [1, 2, 16_383, 16_384, 16_385, 32_768, 100_000, BATCH, BATCH + 1];
    let mut sent = Vec::new();
    let mut pieces = [1_usize, 4, 5, 6, 21, 22, 23, 16_405, 16_406, 16_407, 65_536].iter().cycle();
    for size in sizes {
        let plain = pattern(size);
        sent.extend_from_slice(&plain);
        pair.client.send(&plain);
        let bytes = pair.client.take();
        assert_eq!(bytes.len(), size + size.div_ceil(16_384) * 22, "records are full");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            pair.server.receive(piece).unwrap();
            rest = tail;
        }
    }
    assert!(pair.server.data == sent);
    pair.client.send(b"");
    assert!(pair.client.out.is_empty(), "no empty records");
}

/// The session's batch.
const BATCH: usize = 512 * 1024;

#[test]
fn a_damaged_record_ends_it() {
    let mesh = Mesh::new();
    let mut flips = 0;
    for byte in [5, 6, 20, 30] {
        let mut pair = mesh.connected();
        pair.client.send(b"good");
        pair.server.receive(&pair.client.take()).unwrap();
        pair.client.send(b"evil evil evil");
        let mut bytes = pair.client.take();
        bytes[byte] ^= 1;
        let error = pair.server.receive(&bytes).unwrap_err();
        assert_eq!(error, SessionError::Tampered, "byte {byte}");
        assert_eq!(pair.server.data, b"good");
        // The alert is worth sending, and says what happened.
        let alert = pair.server.take();
        let seen = pair.client.receive(&alert).unwrap_err();
        assert_eq!(seen, SessionError::PeerAlert(Alert(20)));
        assert_eq!(pair.server.session.encrypt(b"x", &mut Outgoing::new()), Err(SessionError::Closed));
        assert_eq!(pair.server.session.close(&mut Outgoing::new()), Err(SessionError::Closed));
        assert_eq!(pair.server.receive(b""), Err(SessionError::Closed));
        flips += 1;
    }
    assert_eq!(flips, 4);
}

#[test]
fn a_repeated_or_missing_record_ends_it() {
    let mesh = Mesh::new();
    let mut pair = mesh.connected();
    pair.client.send(b"one");
    let one = pair.client.take();
    pair.server.receive(&one).unwrap();
    assert_eq!(pair.server.receive(&one), Err(SessionError::Tampered));

    let mut pair = mesh.connected();
    pair.client.send(b"lost");
    pair.client.take();
    pair.client.send(b"two");
    let two = pair.client.take();
    assert_eq!(pair.server.receive(&two), Err(SessionError::Tampered));
    assert_eq!(pair.server.data, b"");
}

#[test]
fn the_end_is_told_from_a_cut() {
    let mesh = Mesh::new();
    // Cut: in the middle of a record, and between records.
    let mut pair = mesh.connected();
    pair.client.send(b"hello");
    let bytes = pair.client.take();
    pair.server.receive(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(pair.server.session.end_of_input(), Err(SessionError::Truncated));
    pair.server.receive(&bytes[bytes.len() - 1..]).unwrap();
    assert_eq!(pair.server.data, b"hello");
    assert_eq!(pair.server.session.end_of_input(), Err(SessionError::Truncated));
    assert_eq!(SessionError::Truncated.reason(), Refusal::Truncated);

    // close_notify.
    pair.client.session.close(&mut pair.client.out).unwrap();
    pair.client.session.close(&mut pair.client.out).unwrap();
    pair.run().unwrap();
    assert!(pair.server.peer_closed);
    assert_eq!(pair.server.session.end_of_input(), Ok(()));
    assert_eq!(pair.client.session.encrypt(b"more", &mut Outgoing::new()), Err(SessionError::Closed));
    // The other direction is not closed by it.
    pair.server.send(b"last words");
    // What comes behind close_notify counts for nothing (RFC 8446, 6.1).
    pair.server.receive(b"garbage behind the end, longer than a header").unwrap();
    assert_eq!(pair.server.data, b"hello");
    pair.server.send(b"still there");
    pair.server.session.close(&mut pair.server.out).unwrap();
}

#[test]
fn outgoing_keeps_order_and_memory() {
    let mesh = Mesh::new();
    let mut pair = mesh.connected();
    let mut wire = Vec::new();
    let mut sent = Vec::new();
    for i in 0..200_usize {
        let plain = pattern(i * 37 % 5_000);
        sent.extend_from_slice(&plain);
        pair.client.send(&plain);
        // A socket that takes a little now and then.
        let n = (i * 911 % 4_000).min(pair.client.out.len());
        wire.extend_from_slice(&pair.client.out.pending()[..n]);
        pair.client.out.advance(n);
    }
    wire.extend_from_slice(&pair.client.take());
    pair.server.receive(&wire).unwrap();
    assert!(pair.server.data == sent);
    pair.client.out.advance(10);
    assert!(pair.client.out.is_empty());
}

#[test]
fn an_end_that_closes_stops_reading() {
    let mesh = Mesh::new();
    let mut pair = mesh.connected();
    pair.server.session.close(&mut pair.server.out).unwrap();
    pair.client.send(b"late");
    let mut bytes = pair.client.take();
    bytes[9] ^= 1;
    let waiting = pair.server.out.len();
    pair.server.receive(&bytes).unwrap();
    assert_eq!((pair.server.data.len(), pair.server.out.len()), (0, waiting), "neither believed nor answered");
    assert_eq!(pair.server.session.end_of_input(), Ok(()));
    pair.run().unwrap();
    assert!(pair.client.peer_closed);
}
