//! Refused peers, the end that refuses, and the reason. The bad peer is plain rustls, since our own end does
//! not even start with such certificates.

use std::time::Duration;

use underpass_identity::{
    Roots,
    testing::{Leaf, TestCa, now},
};

use super::{foreign::Foreign, *};

const EVE: &str = "spiffe://cluster.local/ns/default/sa/eve";

/// A client with `leaf` of `ca` connects to our bob.
fn refused_client(mesh: &Mesh, ca: &TestCa, leaf: &Leaf) -> Option<SessionError> {
    let (key, chain) = ca.sign(leaf);
    let client = Foreign::client(Some((&key, chain)), &[b"h2"], &[&rustls::version::TLS13]);
    against_server(mesh, client)
}

fn against_server(mesh: &Mesh, mut client: Foreign) -> Option<SessionError> {
    let mut server = Side::new(Session::server(&mesh.server()).unwrap(), Outgoing::new());
    let error = client.talk(&mut server).err();
    assert_eq!(server.connected, error.is_none());
    assert_eq!(server.session.peer().is_some(), error.is_none());
    error
}

/// A server with `leaf` of `ca` answers our alice, who expects bob.
fn refused_server(mesh: &Mesh, ca: &TestCa, leaf: &Leaf) -> Option<SessionError> {
    let (key, chain) = ca.sign(leaf);
    against_client(mesh, Foreign::server(&key, chain, &[b"h2"], &[&rustls::version::TLS13]))
}

fn against_client(mesh: &Mesh, mut server: Foreign) -> Option<SessionError> {
    let mut out = Outgoing::new();
    let mut client = Side::new(Session::client(&mesh.client(), &mut out).unwrap(), out);
    let error = server.talk(&mut client).err();
    assert_eq!(client.connected, error.is_none());
    error
}

#[test]
fn certificates_by_name_of_the_reason() {
    let mesh = Mesh::new();
    let stranger = TestCa::new("root");
    let check = |what: &str, ca: &TestCa, change: &dyn Fn(&mut Leaf), want: Option<Refusal>| {
        let of = |uri: &str| {
            let mut leaf = Leaf::of(uri);
            change(&mut leaf);
            leaf
        };
        let reason = |e: Option<SessionError>| e.map(|e| e.reason());
        assert_eq!(reason(refused_client(&mesh, ca, &of(ALICE))), want, "client: {what}");
        assert_eq!(reason(refused_server(&mesh, ca, &of(BOB))), want, "server: {what}");
    };
    check("good", &mesh.ca, &|_| {}, None);
    check("good, with another name beside it", &mesh.ca, &|l| l.dns_names = vec!["bob.example".into()], None);
    check("good, through an intermediate", &mesh.ca.intermediate("middle"), &|_| {}, None);
    check("in its last second", &mesh.ca, &|l| l.not_after = now(), None);
    check("expired", &mesh.ca, &|l| l.not_after = now() - Duration::from_secs(1), Some(Refusal::Expired));
    check("in its first second", &mesh.ca, &|l| l.not_before = now(), None);
    check("not yet valid", &mesh.ca, &|l| l.not_before = later(now(), 1), Some(Refusal::NotYetValid));
    check("a root of the same name", &stranger, &|_| {}, Some(Refusal::UnknownIssuer));
    check("an intermediate of it", &stranger.intermediate("middle"), &|_| {}, Some(Refusal::UnknownIssuer));
    check("no URI SAN", &mesh.ca, &|l| l.uris.clear(), Some(Refusal::NoUriSan));
    check(
        "a DNS SAN alone",
        &mesh.ca,
        &|l| (l.uris, l.dns_names) = (vec![], vec!["bob.example".into()]),
        Some(Refusal::NoUriSan),
    );
    check("two URI SANs", &mesh.ca, &|l| l.uris.push(EVE.into()), Some(Refusal::SeveralUriSans));
    check("the same twice", &mesh.ca, &|l| l.uris.push(l.uris[0].clone()), Some(Refusal::SeveralUriSans));
    check("another URI", &mesh.ca, &|l| l.uris = vec!["https://x/".into()], Some(Refusal::NotAnIdentity));
    check(
        "another SPIFFE id",
        &mesh.ca,
        &|l| l.uris = vec!["spiffe://cluster.local/node/1".into()],
        Some(Refusal::NotAnIdentity),
    );
    let of = |uri: &str, server_auth, client_auth| Leaf { server_auth, client_auth, ..Leaf::of(uri) };
    let reason = |e: Option<SessionError>| e.map(|e| e.reason());
    assert_eq!(reason(refused_client(&mesh, &mesh.ca, &of(ALICE, true, false))), Some(Refusal::WrongPurpose));
    assert_eq!(reason(refused_client(&mesh, &mesh.ca, &of(ALICE, false, true))), None);
    assert_eq!(reason(refused_server(&mesh, &mesh.ca, &of(BOB, false, true))), Some(Refusal::WrongPurpose));
    assert_eq!(reason(refused_server(&mesh, &mesh.ca, &of(BOB, true, false))), None);
}

#[test]
fn an_unexpected_server_is_named() {
    let mesh = Mesh::new();
    let error = refused_server(&mesh, &mesh.ca, &Leaf::of(EVE)).unwrap();
    let SessionError::Peer(VerifyError::Unexpected { expected, found }) = &error else { panic!("{error:?}") };
    assert_eq!((expected.only(), found), (Some(&id(BOB)), &id(EVE)));
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(text, format!("expected {BOB}, found {EVE}"));
    assert_eq!(error.reason(), Refusal::UnexpectedIdentity);
}

#[test]
fn a_server_may_be_any_of_the_expected() {
    let mesh = Mesh::new();
    let connect = |expected: Identities| {
        let client = mesh.configs().client(&mesh.alice, &expected, &mesh.ca.roots(1)).unwrap();
        Pair::new(&client, &mesh.server()).run().map_err(|(end, e)| (end, e.reason()))
    };
    assert_eq!(connect(Identities::new([id(EVE), id(BOB)])), Ok(()));
    assert_eq!(connect(Identities::new([id(EVE), id(ALICE)])), Err(("client", Refusal::UnexpectedIdentity)));
    assert_eq!(connect(Identities::new([])), Err(("client", Refusal::UnexpectedIdentity)));
    let near = ["spiffe://cluster.local/ns/default/sa/bo", "spiffe://cluster.local/ns/default/sa/bobb"];
    assert_eq!(connect(Identities::new(near.map(id))), Err(("client", Refusal::UnexpectedIdentity)));
    assert_eq!(
        connect(Identities::new([id("spiffe://other/ns/default/sa/bob")])),
        Err(("client", Refusal::UnexpectedIdentity))
    );
}

#[test]
fn a_client_is_of_our_trust_domain_or_an_alias() {
    let mesh = Mesh::new();
    let uri = "spiffe://old.example/ns/default/sa/alice";
    let error = refused_client(&mesh, &mesh.ca, &Leaf::of(uri)).unwrap();
    assert!(matches!(&error, SessionError::Peer(VerifyError::ForeignTrustDomain { found, .. }) if *found == id(uri)));
    assert_eq!(error.reason(), Refusal::OtherTrustDomain);

    let accepted = TrustDomains::new(TrustDomain::default(), ["old.example".parse().unwrap()]);
    let server = mesh.configs().server(&mesh.bob, &accepted, &mesh.ca.roots(1)).unwrap();
    let old = mesh.ca.credential(&Leaf::of(uri));
    let client = mesh.configs().client(&old, &Identities::from(id(BOB)), &mesh.ca.roots(1)).unwrap();
    let mut pair = Pair::new(&client, &server);
    pair.run().unwrap();
    assert_eq!(pair.server.session.peer().unwrap().identity, id(uri));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new();
    let client = Foreign::client(None, &[b"h2"], &[&rustls::version::TLS13]);
    let error = against_server(&mesh, client).unwrap();
    assert_eq!((error.reason(), &error), (Refusal::NoCertificate, &SessionError::NoCertificate));
}

#[test]
fn tls_1_2_is_refused() {
    let mesh = Mesh::new();
    let (key, chain) = mesh.ca.sign(&Leaf::of(ALICE));
    let client = Foreign::client(Some((&key, chain)), &[b"h2"], &[&rustls::version::TLS12]);
    assert_eq!(against_server(&mesh, client).unwrap().reason(), Refusal::NoCommonVersion);

    // A server that knows nothing newer answers our hello with an alert.
    let (key, chain) = mesh.ca.sign(&Leaf::of(BOB));
    let server = Foreign::server(&key, chain, &[b"h2"], &[&rustls::version::TLS12]);
    let error = against_client(&mesh, server).unwrap();
    assert_eq!(error, SessionError::PeerAlert(Alert(70)), "protocol_version");
}

#[test]
fn alpn_is_h2_or_nothing() {
    let mesh = Mesh::new();
    let tls13: &[_] = &[&rustls::version::TLS13];
    for alpn in [&[][..], &[b"http/1.1".as_slice()]] {
        let (key, chain) = mesh.ca.sign(&Leaf::of(ALICE));
        let error = against_server(&mesh, Foreign::client(Some((&key, chain)), alpn, tls13)).unwrap();
        assert_eq!(error, SessionError::Alpn, "client offers {alpn:?}");
        let (key, chain) = mesh.ca.sign(&Leaf::of(BOB));
        let error = against_client(&mesh, Foreign::server(&key, chain, alpn, tls13)).unwrap();
        // One that knows others says so by an alert; one that knows none agrees to none.
        let want = if alpn.is_empty() { SessionError::Alpn } else { SessionError::PeerAlert(Alert(120)) };
        assert_eq!(error, want, "server knows {alpn:?}");
    }
    let (key, chain) = mesh.ca.sign(&Leaf::of(ALICE));
    let both = Foreign::client(Some((&key, chain)), &[b"http/1.1", b"h2"], tls13);
    assert_eq!(against_server(&mesh, both), None);
}

#[test]
fn the_clock_is_the_setting_s() {
    let mesh = Mesh::new();
    mesh.time.set(later(now(), 24 * 3600));
    mesh.connected();
    mesh.time.set(later(now(), 24 * 3600 + 1));
    let (end, error) = mesh.pair().run().unwrap_err();
    assert_eq!((end, error.reason()), ("client", Refusal::Expired));
}

#[test]
fn the_refused_end_learns_it_by_alert() {
    let mesh = Mesh::new();
    let check = |change: &dyn Fn(&mut Leaf), ca: &TestCa, want: &str| {
        let mut leaf = Leaf::of(ALICE);
        change(&mut leaf);
        let alice = ca.credential(&leaf);
        let client = mesh.configs().client(&alice, &Identities::from(id(BOB)), &mesh.ca.roots(1)).unwrap();
        let mut pair = Pair::new(&client, &mesh.server());
        assert_eq!(pair.run().unwrap_err().0, "server");
        let alert = pair.server.take();
        let told = pair.client.receive(&alert).unwrap_err();
        assert_eq!(told.to_string(), format!("peer refused: {want}"));
        assert_eq!(told.reason().as_str(), format!("tls_alert_{want}"));
        assert!(pair.client.connected, "a client of TLS 1.3 is done before the server has looked at it");
    };
    check(&|l| l.not_after = now() - Duration::from_secs(1), &mesh.ca, "certificate_expired");
    check(&|_| {}, &TestCa::new("stranger"), "unknown_ca");
    check(&|l| l.uris = vec!["spiffe://other/ns/a/sa/b".into()], &mesh.ca, "certificate_unknown");
}

#[test]
fn a_stored_peer_is_verified_against_a_changed_bundle() {
    let mesh = Mesh::new();
    let pair = mesh.connected();
    let (of_client, of_server) = (pair.client.session.peer().unwrap(), pair.server.session.peer().unwrap());
    let other = TestCa::new("other");
    let check = |what: &str, roots: Vec<_>, at: SystemTime, want: Option<Refusal>| {
        let roots = Roots::new(2, roots).unwrap();
        for peer in [of_client, of_server] {
            assert_eq!(peer.verify_again(&roots, at).err().map(|e| e.refusal()), want, "{what}");
        }
    };
    let week = later(now(), 7 * 24 * 3600);
    check("the same", vec![mesh.ca.root()], now(), None);
    check("one more", vec![other.root(), mesh.ca.root()], now(), None);
    check("leaf expired since", vec![mesh.ca.root()], week, None);
    check("removed", vec![other.root()], now(), Some(Refusal::UnknownIssuer));
    check("another with the same name", vec![TestCa::new("root").root()], now(), Some(Refusal::UnknownIssuer));
    let again = mesh.ca.reissued_root("root", later(now(), 60), later(week, 60));
    check("issued again after the handshake", vec![again.clone()], week, None);
    check("that one expired", vec![again], later(week, 61), Some(Refusal::Expired));
}

#[test]
fn an_expired_root_is_no_root() {
    let mut mesh = Mesh::new();
    mesh.ca = TestCa::valid("root", now() - Duration::from_secs(1000), now() - Duration::from_secs(1));
    mesh.alice = mesh.ca.credential(&Leaf::of(ALICE));
    mesh.bob = mesh.ca.credential(&Leaf::of(BOB));
    let (end, error) = mesh.pair().run().unwrap_err();
    assert_eq!((end, error.reason()), ("client", Refusal::Expired));
}

#[test]
fn a_root_that_was_issued_again_stands_beside_its_expired_form() {
    let mut mesh = Mesh::new();
    let (past, week) = (now() - Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
    mesh.ca = TestCa::valid("root", now() - week, past);
    mesh.alice = mesh.ca.credential(&Leaf::of(ALICE));
    mesh.bob = mesh.ca.credential(&Leaf::of(BOB));
    let again = mesh.ca.reissued_root("root", now() - week, now() + week);
    let roots = Roots::new(1, vec![mesh.ca.root(), again]).unwrap();
    let client = mesh.configs().client(&mesh.alice, &Identities::from(id(BOB)), &roots).unwrap();
    let server = mesh.configs().server(&mesh.bob, &TrustDomains::new(TrustDomain::default(), []), &roots).unwrap();
    Pair::new(&client, &server).run().unwrap();
}

#[test]
fn roots_are_rotated_without_a_refused_tunnel() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let mesh = Mesh::new();
    let step = |client_ca: &TestCa, server_ca: &TestCa, roots: &Roots| {
        let (alice, bob) = (client_ca.credential(&Leaf::of(ALICE)), server_ca.credential(&Leaf::of(BOB)));
        let client = mesh.configs().client(&alice, &Identities::from(id(BOB)), roots).unwrap();
        let server = mesh.configs().server(&bob, &TrustDomains::new(TrustDomain::default(), []), roots).unwrap();
        Pair::new(&client, &server).run().map_err(|(_, e)| e.reason())
    };
    let first = old.roots(1);
    let both = first.successor(vec![old.root(), new.root()]).unwrap().unwrap();
    let last = both.successor(vec![new.root()]).unwrap().unwrap();
    assert_eq!(step(&old, &old, &first), Ok(()));
    assert_eq!(step(&new, &old, &first), Err(Refusal::UnknownIssuer));
    for (client, server) in [(&old, &old), (&new, &old), (&old, &new), (&new, &new)] {
        assert_eq!(step(client, server, &both), Ok(()));
    }
    assert_eq!(step(&new, &new, &last), Ok(()));
    assert_eq!(step(&old, &new, &last), Err(Refusal::UnknownIssuer));
}
