//! Handshakes: whole, cut anywhere, with other protocols; and the state of the session afterwards.

use underpass_identity::testing::{Leaf, now};

use super::*;

#[test]
fn both_ends_know_each_other() {
    let mesh = Mesh::new();
    let pair = mesh.connected();
    let (client, server) = (&pair.client.session, &pair.server.session);
    assert_eq!(client.peer().unwrap().identity, id(BOB));
    assert_eq!(server.peer().unwrap().identity, id(ALICE));
    assert_eq!(client.peer().unwrap().chain, mesh.bob.chain());
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(client.streams_until(), Some(later(now(), 24 * 3600)));
}

#[test]
fn streams_end_with_the_first_leaf() {
    let mut mesh = Mesh::new();
    let check = |mesh: &Mesh, seconds| {
        let pair = mesh.connected();
        assert_eq!(pair.client.session.streams_until(), Some(later(now(), seconds)));
        assert_eq!(pair.server.session.streams_until(), Some(later(now(), seconds)));
    };
    mesh.alice = mesh.ca.credential(&Leaf { not_after: later(now(), 60), ..Leaf::of(ALICE) });
    check(&mesh, 60);
    mesh.bob = mesh.ca.credential(&Leaf { not_after: later(now(), 30), ..Leaf::of(BOB) });
    check(&mesh, 30);
    assert_eq!(mesh.pair().client.session.streams_until(), None);
}

#[test]
fn cut_at_every_byte() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.client(), mesh.server());
    let mut longest = 0;
    let mut at = 0;
    while at <= longest {
        let mut pair = Pair::new(&client, &server);
        let mut cut = |bytes: &[u8]| {
            longest = longest.max(bytes.len());
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            vec![head.to_vec(), tail.to_vec()]
        };
        pair.run_cut(&mut cut).unwrap();
        assert!(pair.client.connected && pair.server.connected, "cut at {at}");
        at += 1;
    }
    assert!(at > 700, "a flight of the server is longer than {at}");
}

#[test]
fn byte_by_byte_with_data_behind_it() {
    let mesh = Mesh::new();
    let mut pair = mesh.pair();
    let mut bytes = |bytes: &[u8]| bytes.iter().map(|b| vec![*b]).collect::<Vec<_>>();
    let hello = pair.client.take();
    for piece in bytes(&hello) {
        pair.server.receive(&piece).unwrap();
    }
    pair.client.receive(&pair.server.take()).unwrap();
    // The client's last flight and its first data in one stream.
    pair.client.send(b"first");
    pair.client.send(&pattern(40_000));
    pair.run_cut(&mut bytes).unwrap();
    assert!(pair.server.data == [b"first".as_slice(), &pattern(40_000)].concat());
}

#[test]
fn data_in_the_last_flight_comes_after_connected() {
    let mesh = Mesh::new();
    let mut pair = mesh.pair();
    let hello = pair.client.take();
    pair.server.receive(&hello).unwrap();
    pair.client.receive(&pair.server.take()).unwrap();
    pair.client.send(b"at once");
    let all = pair.client.take();
    pair.server.receive(&all).unwrap();
    assert!(pair.server.connected);
    assert_eq!(pair.server.data, b"at once");
}

#[test]
fn nothing_is_sent_or_encrypted_before_its_time() {
    let mesh = Mesh::new();
    let mut pair = mesh.pair();
    let mut out = Outgoing::new();
    assert_eq!(pair.client.session.encrypt(b"x", &mut out), Err(SessionError::NotConnected));
    assert_eq!(pair.client.session.close(&mut out), Err(SessionError::NotConnected));
    let hello = pair.client.take();
    pair.server.receive(&hello).unwrap();
    // The server could technically send here, to a client that is not authenticated.
    assert_eq!(pair.server.session.encrypt(b"secret", &mut out), Err(SessionError::NotConnected));
    assert!(out.is_empty() && !pair.server.connected && pair.server.session.peer().is_none());
}

#[test]
fn no_name_and_no_ticket_on_the_wire() {
    let mesh = Mesh::new();
    let mut pair = mesh.pair();
    let hello = pair.client.take();
    assert_eq!(extension(&hello, 0), None, "server_name (RFC 6066, 3)");
    assert_eq!(extension(&hello, 41), None, "pre_shared_key (RFC 8446, 4.2.11)");
    assert_eq!(extension(&hello, 42), None, "early_data");
    assert_eq!(extension(&hello, 43), Some(vec![2, 3, 4]), "supported_versions: 1.3 alone");
    assert_eq!(extension(&hello, 16), Some(vec![0, 3, 2, b'h', b'2']), "ALPN");
    pair.server.receive(&hello).unwrap();
    pair.client.receive(&pair.server.take()).unwrap();
    pair.server.receive(&pair.client.take()).unwrap();
    assert!(pair.server.connected);
    assert!(pair.server.out.is_empty(), "a server that sends tickets does so here");
}

/// The body of an extension in a ClientHello that fits one record (RFC 8446, 4.1.2).
fn extension(record: &[u8], wanted: u16) -> Option<Vec<u8>> {
    let u16_at = |b: &[u8], at: usize| usize::from(u16::from_be_bytes([b[at], b[at + 1]]));
    let hello = &record[5 + 4..];
    let mut at = 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + u16_at(hello, at);
    at += 1 + usize::from(hello[at]);
    let mut extensions = &hello[at + 2..at + 2 + u16_at(hello, at)];
    while extensions.len() >= 4 {
        let (kind, length) = (u16_at(extensions, 0), u16_at(extensions, 2));
        if kind == usize::from(wanted) {
            return Some(extensions[4..4 + length].to_vec());
        }
        extensions = &extensions[4 + length..];
    }
    None
}

#[test]
fn ciphers_in_the_order_of_the_setting() {
    let mesh = Mesh::new();
    let suite = |offer: &[Cipher], accept: &[Cipher]| {
        let configs = |ciphers: &[Cipher]| {
            Configs::new(Settings { ciphers: ciphers.to_vec(), time: Arc::<ManualTime>::clone(&mesh.time) }).unwrap()
        };
        let client = configs(offer).client(&mesh.alice, &Identities::from(id(BOB)), &mesh.ca.roots(1)).unwrap();
        let accepted = TrustDomains::new(TrustDomain::default(), []);
        let server = configs(accept).server(&mesh.bob, &accepted, &mesh.ca.roots(1)).unwrap();
        let mut pair = Pair::new(&client, &server);
        pair.run().map(|()| {
            pair.client.send(b"x");
            pair.run().unwrap();
            assert_eq!(pair.server.data, b"x");
            pair.client.session.cipher().unwrap()
        })
    };
    let (small, big) = (Cipher::Aes128Gcm, Cipher::Aes256Gcm);
    assert_eq!(suite(&[small, big], &[small, big]).unwrap(), small);
    assert_eq!(suite(&[big, small], &[big, small]).unwrap(), big);
    assert_eq!(suite(&[small, big], &[big, small]).unwrap(), big, "the server's preference");
    assert_eq!(suite(&[small], &[big, small]).unwrap(), small);
    let (end, error) = suite(&[small], &[big]).unwrap_err();
    assert_eq!((end, error.reason()), ("server", Refusal::NoCommonCipher));
    assert!(matches!(Configs::new(Settings { ciphers: vec![], ..Settings::default() }), Err(ConfigError::NoCipher)));
}

#[test]
fn other_protocols_are_refused_at_once() {
    let mesh = Mesh::new();
    let check = |what: &str, bytes: &[u8]| {
        let mut server = Side::new(Session::server(&mesh.server()).unwrap(), Outgoing::new());
        let error = bytes.iter().find_map(|b| server.receive(&[*b]).err());
        assert_eq!(error.as_ref().map(SessionError::reason), Some(Refusal::Protocol), "{what}: {error:?}");
        assert_eq!(server.receive(b"more"), Err(SessionError::Closed));
        assert_eq!(server.out.pending().first(), Some(&21), "{what}: an alert");
    };
    check("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    check("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    check("SSH", b"SSH-2.0-OpenSSH_9.6\r\n");
    check("zeros", &[0; 64]);
    check("an endless record", &[22, 3, 1, 0xff, 0xff, 1, 0, 0]);
    check("an empty handshake record", &[22, 3, 1, 0, 0]);
    check("data before the handshake", &[23, 3, 3, 0, 1, 0]);
}

#[test]
fn a_handshake_message_does_not_grow_for_ever() {
    let mesh = Mesh::new();
    let mut server = Side::new(Session::server(&mesh.server()).unwrap(), Outgoing::new());
    // A ClientHello of 60,000 bytes, one byte in each record: six bytes kept for each.
    let mut record = vec![22, 3, 1, 0, 1, 1];
    let length = [0, 0xea, 0x60];
    let mut sent = 0;
    let error = loop {
        record[5] = match sent {
            0 => 1,
            1..=3 => length[sent - 1],
            _ => 0,
        };
        if let Err(error) = server.receive(&record) {
            break error;
        }
        sent += 1;
        assert!(sent < 20_000);
    };
    assert!(matches!(error, SessionError::MessageTooLong { .. }), "{error:?}");
    assert!(sent > 10_000);
}

#[test]
fn the_cache_is_keyed_by_what_matters() {
    let mesh = Mesh::new();
    let mut configs = mesh.configs();
    let (bob, both) = (Identities::from(id(BOB)), Identities::new([id(ALICE), id(BOB), id(BOB)]));
    assert_eq!(both.iter().len(), 2);
    let (old, new) = (mesh.ca.roots(1), mesh.ca.roots(2));
    let mut client = |credential: &Credential, expected: &Identities, roots| {
        let config = configs.client(credential, expected, roots).unwrap();
        (Arc::as_ptr(&config.tls), configs.len())
    };
    let first = client(&mesh.alice, &bob, &old);
    assert_eq!(client(&mesh.alice, &Identities::from(id(BOB)), &old), first);
    let others = [client(&mesh.alice, &both, &old), client(&mesh.bob, &bob, &old)];
    assert_eq!(others.map(|o| o.1), [2, 3]);
    let renewed = mesh.ca.credential(&Leaf::of(ALICE));
    assert_eq!(client(&renewed, &bob, &old).1, 4);
    assert_eq!(client(&mesh.alice, &bob, &new).1, 1, "a newer bundle empties it");
    assert_eq!(client(&mesh.alice, &bob, &old).1, 1, "an older one is served and not kept");
    configs.server(&mesh.bob, &TrustDomains::new(TrustDomain::default(), []), &new).unwrap();
    assert_eq!(configs.len(), 2);
    configs.forget(mesh.alice.serial());
    assert_eq!(configs.len(), 1);
    configs.forget(mesh.bob.serial());
    assert!(configs.is_empty());
}
