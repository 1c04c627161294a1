//! The whole tunnel of a node on loopback: carried, refused, judged again and recorded connections.

mod drain;
mod homes;
mod limits;
mod mesh;
mod rejudge;
mod waypoints;
mod worlds;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh::{Mesh, at, authority, converse, cookie, identity, ip, is_reset, issue, run, talk};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};
use underpass_core::{
    Identities, TrustDomain,
    addr::HBONE_PORT,
    authz::{Match, PrincipalMatch, Rule, Source},
    objects::Object,
    testing::{name, peer_authentication, policy, service},
    world::{Action, MeshSettings},
};
use underpass_hbone::{Connect, Headers};
use underpass_identity::{
    Roots,
    testing::{Leaf, TestCa},
};
use underpass_net::{
    budget::{Budget, Share},
    buffer::Buffers,
    socket::reset_on_close,
    tls::Configs,
    tunnel::{Charge, EarlyData, Ended, Memory, Settings, Tunnel, TunnelEnd},
};
use underpass_proxy::credentials::Credentials;
use underpass_ztunnel::sockets::Ends;

const IN: (&str, &str) = ("direction", "inbound");
const OUT: (&str, &str) = ("direction", "outbound");

/// A policy about what `pod` may not, or alone may, do.
fn about(full_name: &str, action: Action, pod: &str) -> Object {
    let principal = PrincipalMatch::parse(&format!("cluster.local/ns/default/sa/{pod}"));
    let principals = Match { values: vec![principal], not_values: Vec::new() };
    let from = vec![Source { principals, ..Source::default() }];
    policy(full_name, action, vec![Rule { from, ..Rule::default() }]).into()
}

fn check(line: &Value, fields: &[(&str, &str)]) {
    for (key, value) in fields {
        assert_eq!(line[*key], **value, "{key}: {line}");
    }
}

#[test]
fn a_connection_is_carried_and_written_down_at_both_ends() {
    run(async {
        let mesh = Mesh::new([about("default/only-a", Action::Allow, "a")]);
        mesh.echo(at("b", 80)).await;
        let payload = vec![7; 300_000];
        assert!(converse(&mut mesh.captured("a", at("b", 80)), &payload).await == payload);
        let both = [
            ("path", "hbone"),
            ("reason", "finished"),
            ("source_workload", "a"),
            ("source_namespace", "default"),
            ("source_identity", &identity("a").to_string()),
            ("destination_address", "10.0.0.2:80"),
            ("destination_workload", "b"),
            ("destination_identity", &identity("b").to_string()),
        ];
        let outbound = mesh.line(&[OUT]).await;
        let inbound = mesh.line(&[IN]).await;
        for line in [&outbound, &inbound] {
            check(line, &both);
            assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&300_000.into(), &300_000.into()), "{line}");
        }
        check(&outbound, &[("source_address", "10.0.0.1:50000")]);
        check(&inbound, &[("policy", "default/only-a")]);
        assert!(outbound.get("policy").is_none());
        assert_eq!(mesh.stop().len(), 2, "and nothing else");
    });
}

#[test]
fn a_denied_connection_names_its_policy() {
    run(async {
        let mesh = Mesh::new([about("default/not-a", Action::Deny, "a")]);
        mesh.echo(at("b", 80)).await;
        is_reset(&mut mesh.captured("a", at("b", 80))).await;
        assert_eq!(converse(&mut mesh.captured("c", at("b", 80)), b"hello").await, b"hello");
        let denied = mesh.line(&[IN, ("source_workload", "a")]).await;
        check(&denied, &[("reason", "denied"), ("policy", "default/not-a")]);
        let refused = mesh.line(&[OUT, ("source_workload", "a")]).await;
        check(&refused, &[("reason", "refused"), ("reason_detail", "refused with status 401")]);
        check(&mesh.line(&[IN, ("source_workload", "c")]).await, &[("reason", "finished")]);
    });
}

#[test]
fn a_change_of_policy_ends_exactly_what_it_denies() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let (mut a, mut c) = (mesh.captured("a", at("b", 80)), mesh.captured("c", at("b", 80)));
        talk(&mut a).await;
        talk(&mut c).await;
        mesh.change(|batch| batch.put(about("default/unrelated", Action::Deny, "other"))).await;
        talk(&mut a).await;
        mesh.change(|batch| batch.put(about("default/late", Action::Deny, "a"))).await;
        is_reset(&mut a).await;
        let line = mesh.line(&[IN]).await;
        check(&line, &[("source_workload", "a"), ("reason", "denied"), ("policy", "default/late")]);
        check(&mesh.line(&[OUT]).await, &[("source_workload", "a"), ("reason", "server_reset")]);
        talk(&mut c).await;
        assert_eq!(converse(&mut c, b"").await, b"");
    });
}

#[test]
fn streams_of_a_peer_are_answered() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([about("default/not-c", Action::Deny, "c")]);
        mesh.echo(at("b", 80)).await;
        for (from, authority, expect, reason) in [
            ("a", "10.0.0.2:80", Ended::Finished, "finished"),
            ("a", "10.0.0.2:81", Ended::Refused(503), "connect_failed"),
            ("a", "10.0.0.2:15008", Ended::Refused(503), "not_served_here"),
            ("a", "10.0.0.3:80", Ended::Refused(400), "not_served_here"),
            ("a", "127.0.0.1:80", Ended::Refused(400), "not_served_here"),
            ("a", "b.default.svc.cluster.local:80", Ended::Refused(400), "not_served_here"),
            ("c", "10.0.0.2:80", Ended::Refused(401), "denied"),
        ] {
            let tunnel = tunnel(&mesh, from);
            let ended = ask(&tunnel, authority).await;
            assert_eq!(ended, expect, "{from} asks for {authority}");
            if reason != "not_served_here" {
                mesh.line(&[IN, ("reason", reason), ("source_workload", from)]).await;
            }
            tunnel.end(TunnelEnd::Closed);
        }
        mesh.lines(4, &[IN, ("reason", "not_served_here")]).await;
    }));
}

/// Another node's tunnel to b, with the certificate of `from`.
fn tunnel(mesh: &Mesh, from: &str) -> Tunnel {
    tunnel_with(mesh, from, &mesh.credentials.borrow())
}

fn tunnel_with(mesh: &Mesh, from: &str, credentials: &Credentials) -> Tunnel {
    tunnel_over(from, mesh.arrived(at(from, 41_000), "b", at("b", HBONE_PORT)), credentials)
}

fn tunnel_over(from: &str, socket: TcpStream, credentials: &Credentials) -> Tunnel {
    let mut configs = Configs::new(underpass_net::tls::Settings::default()).expect("configs");
    let expected = Identities::from(identity("b"));
    let config = configs.client(&credentials.own[&identity(from)], &expected, &credentials.roots).expect("config");
    Tunnel::client(socket.into(), &config, &Settings::default(), &Buffers::default(), charge()).expect("begun")
}

/// The charge of a tunnel without limits.
fn charge() -> Charge {
    let share = Share::new(&Budget::new(1 << 30), usize::MAX);
    Charge { permit: share.permit(), memory: Memory::new(share) }
}

/// Opens a stream, and sends nothing on it.
async fn ask(tunnel: &Tunnel, authority: &str) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let mut app = TcpStream::connect(listener.local_addr().expect("name")).await.expect("connected");
    let (socket, _) = listener.accept().await.expect("accepted");
    app.shutdown().await.expect("ended");
    let stream = tunnel.open(&Connect { authority: authority.into(), headers: Headers::new() }).expect("opened");
    stream.run(&Rc::new(socket), &Arc::default(), &mut EarlyData::default()).await
}

#[test]
fn a_refused_certificate_is_recorded() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([]);
        let folder = tempfile::tempdir().expect("folder");
        // A certificate of another root; the client takes the server's all the same.
        let mut forged = issue(&authority(folder.path()), 1);
        forged.roots = Arc::clone(&mesh.credentials.borrow().roots);
        let ended = ask(&tunnel_with(&mesh, "a", &forged), "10.0.0.2:80").await;
        let Ended::Tunnel(TunnelEnd::Tls(failure)) = ended else { panic!("{ended:?}") };
        assert_eq!(failure.to_string(), "peer refused: unknown_ca");
        let line = mesh.line(&[IN]).await;
        check(&line, &[("reason", "tls_unknown_issuer"), ("refused_by", "us"), ("path", "hbone")]);
        check(&line, &[("destination_address", "10.0.0.2:15008"), ("identity_expected", "trust domain cluster.local")]);
        assert!(line.get("source_identity").is_none() && line.get("identity_found").is_none(), "{line}");
    }));
}

#[test]
fn a_refused_handshake_is_told_at_both_ends() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        // c answers at b's address.
        let Credentials { roots, mut own } = issue(&mesh.authority, 1);
        let of_c = Arc::clone(&own[&identity("c")]);
        own.insert(identity("b"), of_c);
        mesh.credentials.send_replace(Arc::new(Credentials { roots, own }));
        mesh.ztunnel.caught_up().await;
        is_reset(&mut mesh.captured("a", at("b", 80))).await;
        let (b, c) = (identity("b").to_string(), identity("c").to_string());
        let line = mesh.line(&[OUT, ("reason", "tls_unexpected_identity")]).await;
        check(&line, &[("refused_by", "us"), ("identity_found", &c), ("identity_expected", &b)]);
        let detail = format!("the peer's certificate was refused: expected {b}, found {c}");
        check(&line, &[("reason_detail", &detail), ("source_workload", "a"), ("destination_workload", "b")]);
        // The other end is told by an alert, and no more.
        let line = mesh.line(&[IN, ("reason", "tls_alert_certificate_unknown")]).await;
        check(&line, &[("refused_by", "peer"), ("reason_detail", "peer refused: certificate_unknown")]);
        check(&line, &[("source_workload", "a"), ("destination_workload", "b")]);
        assert!(line.get("identity_found").is_none() && line.get("identity_expected").is_none(), "{line}");
        // The twin: b itself.
        mesh.credentials.send_replace(Arc::new(issue(&mesh.authority, 1)));
        mesh.ztunnel.caught_up().await;
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
        check(&mesh.line(&[OUT, ("reason", "finished")]).await, &[("destination_identity", &b)]);
        mesh.lines(1, &[("refused_by", "us")]).await;
        // And without a log.
        let known = mesh.ztunnel.connections().refusals().list();
        let mut words: Vec<_> =
            known.iter().filter_map(|one| Some((one.last.reason.as_ref()?.as_str(), one.times))).collect();
        words.sort_unstable();
        assert_eq!(words, [("tls_alert_certificate_unknown", 1), ("tls_unexpected_identity", 1)]);
    });
}

#[test]
fn a_workload_of_another_mesh_is_named() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([]);
        // The same CA, another trust domain: what a client shows that follows other settings.
        let uri = "spiffe://elsewhere.org/ns/default/sa/a";
        let shown = shown_as(&mesh, uri).await;
        let ended = ask(&tunnel_with(&mesh, "a", &shown), "10.0.0.2:80").await;
        assert!(matches!(ended, Ended::Tunnel(TunnelEnd::Tls(_))), "{ended:?}");
        let line = mesh.line(&[IN]).await;
        check(&line, &[("reason", "tls_other_trust_domain"), ("refused_by", "us"), ("identity_found", uri)]);
        check(&line, &[("identity_expected", "trust domain cluster.local"), ("source_workload", "a")]);
        assert!(line.get("source_identity").is_none(), "it has not proved to be that: {line}");
    }));
}

/// What a peer shows at a's address that is `uri`, by a CA that the mesh trusts from now on as well.
async fn shown_as(mesh: &Mesh, uri: &str) -> Credentials {
    let foreign = Leaf { not_after: SystemTime::now() + Duration::from_secs(60), ..Leaf::of(uri) };
    let ca = TestCa::new("root");
    let own = issue(&mesh.authority, 2);
    let both = [own.roots.certificates(), ca.roots(2).certificates()].concat();
    let roots = Arc::new(Roots::new(2, both).expect("bundle"));
    mesh.credentials.send_replace(Arc::new(Credentials { roots: Arc::clone(&roots), own: own.own }));
    mesh.ztunnel.caught_up().await;
    Credentials { roots, own: BTreeMap::from([(identity("a"), Arc::new(ca.credential(&foreign)))]) }
}

#[test]
fn no_source_is_believed_that_is_not_the_pods() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let home = mesh.homes["a"];
        // The listener's own address, which an application can reach from inside; a source that is another pod's.
        for (from, to) in [
            (at("a", 50_000), SocketAddr::new(ip("a"), home.outbound.port())),
            (at("a", 50_000), "127.0.0.1:80".parse().unwrap()),
            (at("c", 50_000), at("b", 80)),
        ] {
            let socket = mesh.switch.connect(home.outbound, Ends { from, to }).expect("connected");
            is_reset(&mut TcpStream::from_std(socket).expect("registered")).await;
        }
        mesh.lines(3, &[OUT, ("reason", "bad_source"), ("path", "none")]).await;
        // And towards a pod: what cannot be remote, and its own address.
        for from in ["127.0.0.1:9", "10.0.0.2:9", "224.0.0.1:9"] {
            is_reset(&mut mesh.arrived(from.parse().unwrap(), "b", at("b", 80))).await;
        }
        mesh.lines(3, &[IN, ("reason", "bad_source"), ("path", "plaintext")]).await;
        is_reset(&mut mesh.arrived(at("z", 9), "b", at("c", 80))).await;
        check(&mesh.line(&[("reason", "not_served_here")]).await, &[("destination_address", "10.0.0.3:80")]);
    });
}

#[test]
fn plaintext_is_judged_too() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let mut open = mesh.arrived(at("z", 9), "b", at("b", 80));
        talk(&mut open).await;
        assert_eq!(converse(&mut mesh.arrived(at("z", 9), "b", at("b", 80)), b"hello").await, b"hello");
        let line = mesh.line(&[IN]).await;
        check(&line, &[("path", "plaintext"), ("reason", "finished"), ("source_workload", "z")]);
        assert!(line.get("source_identity").is_none());
        mesh.change(|batch| batch.put(peer_authentication("default/strict - STRICT"))).await;
        is_reset(&mut open).await;
        is_reset(&mut mesh.arrived(at("z", 9), "b", at("b", 80))).await;
        for line in mesh.lines(2, &[IN, ("reason", "plaintext_refused")]).await {
            check(&line, &[("policy", "default/strict")]);
        }
        // Mutual TLS passes.
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
    });
}

#[test]
fn plaintext_ends_as_it_ends() {
    run(async {
        let mesh = Mesh::new([]);
        let application = mesh.application(at("b", 80)).await;
        for (client_resets, stalled) in [(true, false), (false, false), (true, true), (false, true)] {
            let mut client = mesh.arrived(at("z", 9), "b", at("b", 80));
            let (mut server, _) = application.accept().await.expect("accepted");
            // A half-close travels, and does not end the other half.
            if !stalled {
                client.shutdown().await.expect("ended");
                assert_eq!(server.read(&mut [0]).await.expect("the end"), 0);
                server.write_u8(1).await.expect("sent");
                assert_eq!(client.read_u8().await.expect("heard"), 1);
            } else {
                fill(&client).await;
                fill(&server).await;
            }
            let reason = if client_resets { "client_reset" } else { "server_reset" };
            let (resets, mut other) = if client_resets { (client, server) } else { (server, client) };
            reset_on_close(&resets, true);
            drop(resets);
            mesh.line(&[IN, ("reason", reason)]).await;
            if stalled || !client_resets {
                is_reset(&mut other).await;
            } else {
                // It has read the end before.
                while other.try_write(&[0]).is_ok() {
                    tokio::task::yield_now().await;
                }
            }
            mesh.clear();
        }
    });
}

/// Writes until nothing more goes, for good: the other end is not read.
async fn fill(socket: &TcpStream) {
    let block = vec![7; 64 << 10];
    let mut quiet = 0;
    while quiet < 20 {
        match socket.try_write(&block) {
            Ok(_) => quiet = 0,
            Err(_) => quiet += 1,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn services_lead_to_endpoints_inside_and_outside_the_mesh() {
    run(async {
        let mesh = Mesh::new([
            service("default/inside app=b 10.96.0.1 8080=80").into(),
            service("default/outside app=z 10.96.0.2 8080=80").into(),
            service("default/empty app=none 10.96.0.3 8080=80").into(),
        ]);
        mesh.echo(at("b", 80)).await;
        mesh.echo(at("z", 80)).await;
        let vip = |n: u8| SocketAddr::from(([10, 96, 0, n], 8080));
        for (n, path, destination, service) in
            [(1, "hbone", "10.0.0.2:80", "default/inside"), (2, "passthrough", "10.0.0.9:80", "default/outside")]
        {
            assert_eq!(converse(&mut mesh.captured("a", vip(n)), b"hello").await, b"hello");
            let line = mesh.line(&[OUT, ("service", service)]).await;
            check(&line, &[("path", path), ("destination_address", destination), ("reason", "finished")]);
            let (host, vip) = (format!("{}.default.svc.cluster.local", &service[8..]), vip(n).to_string());
            check(&line, &[("service_host", &host), ("vip", &vip)]);
        }
        is_reset(&mut mesh.captured("a", vip(3))).await;
        let refused = [("reason", "no_endpoint"), ("vip", "10.96.0.3:8080"), ("destination_address", "10.96.0.3:8080")];
        check(&mesh.line(&[("service", "default/empty")]).await, &refused);
        // What the World does not know is outside the mesh: it was captured because the kernel's table has no room for it.
        let outside = "10.5.5.5:80".parse().unwrap();
        mesh.echo(outside).await;
        assert_eq!(converse(&mut mesh.captured("a", outside), b"hello").await, b"hello");
        let line = mesh.line(&[OUT, ("path", "passthrough"), ("destination_address", "10.5.5.5:80")]).await;
        check(&line, &[("reason", "finished")]);
        assert!(["service", "service_host", "vip"].iter().all(|key| line.get(*key).is_none()), "{line}");
        // Nor has a call of a pod's own address any of them.
        mesh.clear();
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
        let line = mesh.line(&[OUT]).await;
        assert!(["service_host", "vip"].iter().all(|key| line.get(*key).is_none()), "{line}");
    });
}

#[test]
fn a_next_hop_without_a_listener() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.switch.close(at("b", HBONE_PORT));
        is_reset(&mut mesh.captured("a", at("b", 80))).await;
        check(&mesh.line(&[OUT]).await, &[("reason", "unreachable"), ("path", "hbone")]);
    });
}

#[test]
fn a_root_that_is_removed_ends_connections() {
    run(async {
        // One worker: another one would see the tunnel end before it looks itself.
        let mesh = Mesh::with([], |settings| settings.workers = NonZeroUsize::MIN);
        mesh.echo(at("b", 80)).await;
        let mut app = mesh.captured("a", at("b", 80));
        talk(&mut app).await;
        // The same roots again, with new certificates: nothing happens.
        mesh.credentials.send_replace(Arc::new(issue(&mesh.authority, 2)));
        mesh.ztunnel.caught_up().await;
        talk(&mut app).await;
        let folder = tempfile::tempdir().expect("folder");
        mesh.credentials.send_replace(Arc::new(issue(&authority(folder.path()), 3)));
        mesh.ztunnel.caught_up().await;
        is_reset(&mut app).await;
        mesh.lines(2, &[("reason", "identity")]).await;
        // The new ones serve.
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
    });
}

#[test]
fn without_a_certificate_nothing_is_said() {
    run(async {
        let mesh = Mesh::new([]);
        let none = Credentials { own: BTreeMap::new(), roots: Arc::new(mesh.authority.roots(2).expect("roots")) };
        mesh.credentials.send_replace(Arc::new(none));
        mesh.ztunnel.caught_up().await;
        is_reset(&mut mesh.captured("a", at("b", 80))).await;
        check(&mesh.line(&[OUT]).await, &[("reason", "no_certificate")]);
    });
}

#[test]
fn an_expired_certificate_opens_nothing_and_cuts_nothing() {
    for (whose, from, line) in [("a", "a", OUT), ("b", "c", IN)] {
        run(async {
            let mesh = Mesh::new([]);
            mesh.echo(at("b", 80)).await;
            let mut open = mesh.captured("a", at("b", 80));
            talk(&mut open).await;
            let Credentials { roots, mut own } = issue(&mesh.authority, 1);
            let second = Duration::from_secs(1);
            let then = SystemTime::now() - 5 * second;
            let expired = mesh.authority.credential(&identity(whose), second, then).expect("issued");
            own.insert(identity(whose), Arc::new(expired));
            mesh.credentials.send_replace(Arc::new(Credentials { roots, own }));
            mesh.ztunnel.caught_up().await;
            is_reset(&mut mesh.captured(from, at("b", 80))).await;
            mesh.line(&[line, ("reason", "no_certificate")]).await;
            talk(&mut open).await;
            // Renewed, it serves again.
            mesh.credentials.send_replace(Arc::new(issue(&mesh.authority, 1)));
            mesh.ztunnel.caught_up().await;
            assert_eq!(converse(&mut mesh.captured(from, at("b", 80)), b"hello").await, b"hello");
        });
    }
}

#[test]
fn at_the_end_everything_is_written_down() {
    run(async {
        // One worker: another one's pods would see the tunnel end before they are told.
        let mesh = Mesh::with([], |settings| settings.workers = NonZeroUsize::MIN);
        mesh.echo(at("b", 80)).await;
        let mut apps = Vec::new();
        for _ in 0..20 {
            let mut app = mesh.captured("a", at("b", 80));
            talk(&mut app).await;
            apps.push(app);
        }
        let open = mesh.ztunnel.connections().list().await;
        assert_eq!(open.len(), 40);
        assert!(open.iter().all(|c| c.reason.is_none() && c.bytes_received == 1), "{open:?}");
        let lines = tokio::task::spawn_blocking(|| mesh.stop()).await.expect("no panic");
        assert_eq!(lines.len(), 40);
        assert!(lines.iter().all(|line| line["reason"] == "drain"), "{lines:?}");
        for app in &mut apps {
            is_reset(app).await;
        }
    });
}

#[test]
fn an_alias_of_the_trust_domain_counts_from_the_world_that_has_it() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let shown = shown_as(&mesh, "spiffe://old.example/ns/default/sa/a").await;
        let old: TrustDomain = "old.example".parse().expect("a trust domain");
        let asks = async || ask(&tunnel_with(&mesh, "a", &shown), "10.0.0.2:80").await;
        assert!(matches!(asks().await, Ended::Tunnel(TunnelEnd::Tls(_))), "a stranger");
        mesh.line(&[IN, ("reason", "tls_other_trust_domain")]).await;
        let aliased = MeshSettings { trust_domain_aliases: vec![old], ..MeshSettings::default() };
        mesh.settings(aliased).await;
        assert_eq!(asks().await, Ended::Finished);
        mesh.settings(MeshSettings::default()).await;
        assert!(matches!(asks().await, Ended::Tunnel(TunnelEnd::Tls(_))), "a stranger again");
    }));
}
