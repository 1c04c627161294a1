//! Waypoints: calls that go through one, and what the destination makes of the source that one names. z is the waypoint: no
//! pod of the mesh, with an identity, and this test answers for it.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{LocalSet, spawn_local},
};
use underpass_core::{
    NamedSource,
    addr::HBONE_PORT,
    authz::{Match, Rule, Source, StringMatch},
    named_source::NAMED_SOURCE_HEADER,
    objects::{Object, Pod, Service},
    spiffe::TrustDomain,
    testing::{gateway, labels, pod, policy, service},
    world::Action,
};
use underpass_hbone::{Connect, Headers};
use underpass_net::{
    buffer::Buffers,
    tls::{Configs, TrustDomains},
    tunnel::{Accepted, EarlyData, Ended, Settings, Tunnel, TunnelEnd},
};

use crate::{
    IN, OUT, about, ask, charge, check,
    mesh::{Mesh, at, converse, identity, ip, is_reset, run, talk},
    tunnel,
};

/// The Service of b, which passes the waypoint `w`, and the waypoint with its instance z.
fn objects() -> Vec<Object> {
    let of_b = Service { labels: labels("istio.io/use-waypoint=w"), ..service("default/b app=b 10.96.0.1 8080=80") };
    vec![of_b.into(), gateway("default/w").into(), service("default/w app=z 10.96.0.9 15008").into()]
}

fn vip() -> SocketAddr {
    ([10, 96, 0, 1], 8080).into()
}

/// Answers as z: what each CONNECT asks for, and by whom; it sends back what it gets.
async fn waypoint(mesh: &Mesh) -> mpsc::UnboundedReceiver<(String, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    mesh.switch.listen(at("z", HBONE_PORT), listener.local_addr().expect("name"));
    let credentials = Arc::clone(&mesh.credentials.borrow());
    let mut configs = Configs::new(underpass_net::tls::Settings::default()).expect("configs");
    let own = TrustDomains::new(TrustDomain::default(), []);
    let config = configs.server(&credentials.own[&identity("z")], &own, &credentials.roots).expect("config");
    let (sender, asked) = mpsc::unbounded_channel();
    spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accepted");
            let sender = sender.clone();
            let acceptor = Box::new(move |accepted: Accepted| {
                let authority = String::from_utf8(accepted.request.authority.clone()).expect("text");
                let _ = sender.send((authority, accepted.peer.identity.to_string()));
                drop(spawn_local(echo(accepted)));
            });
            let settings = Settings::default();
            let begun = Tunnel::server(
                socket.into(),
                &config,
                &settings,
                &Buffers::default(),
                charge(),
                Box::new(()),
                acceptor,
            );
            let (tunnel, driving) = begun.expect("begun");
            spawn_local(async move {
                driving.await;
                drop(tunnel);
            });
        }
    });
    asked
}

async fn echo(accepted: Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let application = TcpStream::connect(listener.local_addr().expect("name"));
    let (mut application, (socket, _)) = tokio::try_join!(application, listener.accept()).expect("connected");
    accepted.stream.respond(200, &Headers::new());
    spawn_local(async move {
        let (mut from, mut to) = application.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
    });
    accepted.stream.run(&Rc::new(socket), &Arc::default(), &mut EarlyData::default()).await;
}

#[test]
fn a_call_of_a_vip_with_a_waypoint_goes_there() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new(objects());
        mesh.echo(at("b", 80)).await;
        let mut asked = waypoint(&mesh).await;
        assert_eq!(converse(&mut mesh.captured("a", vip()), b"hello").await, b"hello");
        assert_eq!(asked.recv().await, Some(("10.96.0.1:8080".into(), identity("a").to_string())));
        let line = mesh.line(&[OUT]).await;
        check(&line, &[("path", "hbone"), ("reason", "finished"), ("service", "default/b"), ("vip", "10.96.0.1:8080")]);
        check(&line, &[("via", &identity("z").to_string()), ("destination_address", "10.96.0.1:8080")]);
        assert!(line.get("destination_identity").is_none(), "{line}");
        // A pod's own address is not the Service's.
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
        mesh.line(&[IN, ("source_workload", "a")]).await;
        assert!(asked.is_empty());
    }));
}

#[test]
fn without_a_waypoint_to_call_a_connection_is_reset() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new(objects());
        mesh.echo(at("b", 80)).await;
        let z = pod("default/z", &ip("z").to_string());
        mesh.change(|batch| batch.put(Pod { ready: false, ..z.clone() })).await;
        is_reset(&mut mesh.captured("a", vip())).await;
        check(
            &mesh.line(&[OUT, ("reason", "waypoint_not_ready")]).await,
            &[("service", "default/b"), ("path", "none")],
        );
        mesh.change(|batch| batch.remove(Object::from(gateway("default/w")).key())).await;
        is_reset(&mut mesh.captured("a", vip())).await;
        mesh.line(&[OUT, ("reason", "waypoint_missing")]).await;
        // Nothing answers at its address.
        mesh.change(|batch| {
            batch.put(gateway("default/w"));
            batch.put(z);
        })
        .await;
        is_reset(&mut mesh.captured("a", vip())).await;
        mesh.line(&[OUT, ("reason", "unreachable")]).await;
        // Where the Service says so, calls go past it.
        let optional = Service {
            labels: labels("istio.io/use-waypoint=gone"),
            waypoint_optional: true,
            ..service("default/b app=b 10.96.0.1 8080=80")
        };
        mesh.change(|batch| batch.put(optional)).await;
        assert_eq!(converse(&mut mesh.captured("a", vip()), b"hello").await, b"hello");
    }));
}

#[test]
fn a_connection_that_bypasses_a_waypoint_ends_when_that_attaches() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([service("default/b app=b 10.96.0.1 8080=80").into()]);
        mesh.echo(at("b", 80)).await;
        let (mut by_service, mut direct) = (mesh.captured("a", vip()), mesh.captured("c", at("b", 80)));
        for open in [&mut by_service, &mut direct] {
            talk(open).await;
        }
        mesh.change(|batch| objects().into_iter().for_each(|object| batch.put(object))).await;
        is_reset(&mut by_service).await;
        talk(&mut direct).await;
        mesh.line(&[OUT, ("source_workload", "a"), ("reason", "waypoint_bypassed")]).await;
        // Through it, connections stay, also when it goes.
        let mut asked = waypoint(&mesh).await;
        let mut through = mesh.captured("a", vip());
        talk(&mut through).await;
        assert!(asked.recv().await.is_some());
        mesh.change(|batch| batch.remove(Object::from(gateway("default/w")).key())).await;
        talk(&mut through).await;
    }));
}

/// Opens a stream to b's application that names this source, and sends nothing on it.
async fn ask_for(tunnel: &Tunnel, named: &[&str]) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let mut app = TcpStream::connect(listener.local_addr().expect("name")).await.expect("connected");
    let (socket, _) = listener.accept().await.expect("accepted");
    tokio::io::AsyncWriteExt::shutdown(&mut app).await.expect("ended");
    let headers = named.iter().map(|value| (NAMED_SOURCE_HEADER, *value)).collect();
    let stream = tunnel.open(&Connect { authority: "10.0.0.2:80".into(), headers }).expect("opened");
    stream.run(&Rc::new(socket), &Arc::default(), &mut EarlyData::default()).await
}

fn source(pod: &str) -> String {
    NamedSource { identity: identity(pod), address: at(pod, 1234) }.to_string()
}

#[test]
fn the_source_that_the_waypoint_names_is_judged() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new(objects().into_iter().chain([about("default/only-a", Action::Allow, "a")]));
        mesh.echo(at("b", 80)).await;
        let z = tunnel(&mesh, "z");
        assert_eq!(ask_for(&z, &[&source("a")]).await, Ended::Finished);
        let line = mesh.line(&[IN, ("reason", "finished")]).await;
        let (of_a, of_z) = (identity("a").to_string(), identity("z").to_string());
        check(&line, &[("source_address", "10.0.0.1:1234"), ("source_workload", "a"), ("source_identity", &of_a)]);
        check(&line, &[("via", &of_z), ("policy", "default/only-a")]);
        // Another source, none, and one that cannot be read.
        assert_eq!(ask_for(&z, &[&source("c")]).await, Ended::Refused(401));
        let line = mesh.line(&[IN, ("source_workload", "c")]).await;
        check(&line, &[("reason", "not_allowed"), ("via", &of_z)]);
        assert_eq!(ask_for(&z, &[]).await, Ended::Refused(401));
        let line = mesh.line(&[IN, ("source_workload", "z"), ("reason", "not_allowed")]).await;
        assert!(line.get("via").is_none(), "{line}");
        for unreadable in [&["a"][..], &[&source("a"), &source("a")]] {
            assert_eq!(ask_for(&z, unreadable).await, Ended::Refused(401), "{unreadable:?}");
        }
        mesh.lines(2, &[IN, ("reason", "bad_source")]).await;
        z.end(TunnelEnd::Closed);
    }));
}

#[test]
fn a_source_that_another_peer_names_is_dropped() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new(objects().into_iter().chain([about("default/only-a", Action::Allow, "a")]));
        mesh.echo(at("b", 80)).await;
        let c = tunnel(&mesh, "c");
        assert_eq!(ask_for(&c, &[&source("a")]).await, Ended::Refused(401));
        let line = mesh.line(&[IN]).await;
        check(&line, &[("source_workload", "c"), ("reason", "not_allowed"), ("source_address", "10.0.0.3:41000")]);
        assert!(line.get("via").is_none(), "{line}");
        // An ordinary pod has the waypoint's account: either could be it.
        let z = tunnel(&mesh, "z");
        assert_eq!(ask_for(&z, &[&source("a")]).await, Ended::Finished);
        mesh.change(|batch| {
            let mut shares = pod("default/shares", "10.0.0.50");
            shares.service_account = "z".into();
            batch.put(shares);
        })
        .await;
        assert_eq!(ask_for(&z, &[&source("a")]).await, Ended::Refused(401));
        let line = mesh.line(&[IN, ("source_workload", "z")]).await;
        check(&line, &[("reason", "not_allowed")]);
        [c, z].iter().for_each(|tunnel| tunnel.end(TunnelEnd::Closed));
    }));
}

#[test]
fn judging_again_goes_by_the_named_source() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new(objects());
        mesh.echo(at("b", 80)).await;
        let z = tunnel(&mesh, "z");
        let hold = async |named: String| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let mut app = TcpStream::connect(listener.local_addr().expect("name")).await.expect("connected");
            let (socket, _) = listener.accept().await.expect("accepted");
            let headers = [(NAMED_SOURCE_HEADER, named)].into_iter().collect();
            let stream = z.open(&Connect { authority: "10.0.0.2:80".into(), headers }).expect("opened");
            let ended =
                spawn_local(
                    async move { stream.run(&Rc::new(socket), &Arc::default(), &mut EarlyData::default()).await },
                );
            // Answered: one that still connects would be refused, not reset.
            talk(&mut app).await;
            (app, ended)
        };
        let ((_a, a), (_c, c)) = (hold(source("a")).await, hold(source("c")).await);
        // That of the waypoint's own namespace and account is about neither.
        mesh.change(|batch| batch.put(about("default/not-c", Action::Deny, "c"))).await;
        mesh.open(1).await;
        check(&mesh.line(&[IN]).await, &[("source_workload", "c"), ("reason", "denied"), ("policy", "default/not-c")]);
        assert!(matches!(c.await.expect("no panic"), Ended::PeerReset(_)));
        // A policy that names the waypoint exactly is about all that it carries.
        mesh.change(|batch| batch.put(about("default/not-z", Action::Deny, "z"))).await;
        mesh.open(0).await;
        check(&mesh.line(&[IN, ("source_workload", "a")]).await, &[("policy", "default/not-z")]);
        assert!(matches!(a.await.expect("no panic"), Ended::PeerReset(_)));
        let _ = ask(&z, "10.0.0.2:81").await;
        z.end(TunnelEnd::Closed);
    }));
}

#[test]
fn the_own_namespace_does_not_open_to_callers_of_another_one() {
    run(LocalSet::new().run_until(async {
        let namespaces = Match { values: vec![StringMatch::parse("default")], not_values: Vec::new() };
        let own = Rule { from: vec![Source { namespaces, ..Source::default() }], ..Rule::default() };
        let mesh = Mesh::new(objects().into_iter().chain([policy("default/own", Action::Allow, vec![own]).into()]));
        mesh.echo(at("b", 80)).await;
        let z = tunnel(&mesh, "z");
        let elsewhere = "spiffe://cluster.local/ns/other/sa/x 10.0.7.7:1";
        assert_eq!(ask_for(&z, &[elsewhere]).await, Ended::Refused(401));
        let line = mesh.line(&[IN]).await;
        check(&line, &[("source_namespace", "other"), ("reason", "not_allowed"), ("policy", "default/own")]);
        assert_eq!(ask_for(&z, &[&source("a")]).await, Ended::Finished);
        z.end(TunnelEnd::Closed);
    }));
}
