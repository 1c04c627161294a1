//! Judging again: changes meet open connections of every sort, and connections that are being opened, at every stage.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener as Listener, TcpStream as Opening},
    num::NonZeroUsize,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, socket as new_socket,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::LocalSet,
};
use underpass_core::{
    ObjectKey, ObjectName,
    addr::HBONE_PORT,
    objects::{Object, Service},
    testing::{ambient, labels, name, peer_authentication, policy, service},
    world::Action,
};
use underpass_net::{
    netns::Netns,
    socket::options::Options,
    tunnel::{Ended, Tunnel, TunnelEnd},
};
use underpass_ztunnel::sockets::{Ends, Sockets};

use crate::{
    IN, OUT, about, ask, check, cookie,
    mesh::{Mesh, account, at, ip, is_reset, run, talk},
    tunnel_over,
};

/// The pod as it is, with another account.
fn renamed(pod: &str, account: &str) -> Object {
    let mut w = ambient(&format!("default/{pod}"), &ip(pod).to_string(), "");
    w.service_account = account.into();
    w.into()
}

const VIP_OF_B: ([u8; 4], u16) = ([10, 96, 0, 1], 8080);
const VIP_OF_Z: ([u8; 4], u16) = ([10, 96, 0, 2], 8080);

fn services(waypoint: &str) -> [Object; 2] {
    let of = |text| Object::from(Service { labels: labels(waypoint), ..service(text) });
    [of("default/b app=b 10.96.0.1 8080=80"), of("default/z app=z 10.96.0.2 8080=80")]
}

/// Connections: of a and of c to b, of both to b's service, of a to the service of z, which is outside; of z to b.
const SORTS: [&str; 6] = ["a", "c", "a by service", "c by service", "a to z", "z"];

async fn open(mesh: &Mesh) -> Vec<TcpStream> {
    let (b, z) = (SocketAddr::from(VIP_OF_B), SocketAddr::from(VIP_OF_Z));
    let mut all = vec![
        mesh.captured("a", at("b", 80)),
        mesh.captured("c", at("b", 80)),
        mesh.captured("a", b),
        mesh.captured("c", b),
        mesh.captured("a", z),
        mesh.arrived(at("z", 9), "b", at("b", 80)),
    ];
    for app in &mut all {
        talk(app).await;
    }
    all
}

/// After `changes`, exactly the named connections are reset; `lines` are what the log says about it, and nothing else.
async fn ends(what: &str, changes: Vec<Object>, gone: Option<ObjectKey>, named: &[&str], lines: &[&[(&str, &str)]]) {
    // One worker: when it stops, another one's connections would end before they are told.
    let mesh = Mesh::with(services(""), |settings| settings.workers = NonZeroUsize::MIN);
    for pod in ["b", "z"] {
        mesh.echo(at(pod, 80)).await;
    }
    let mut open = open(&mesh).await;
    let listed = mesh.ztunnel.connections().len();
    mesh.change(|batch| {
        changes.into_iter().for_each(|object| batch.put(object));
        gone.into_iter().for_each(|key| batch.remove(key));
    })
    .await;
    for (sort, app) in SORTS.iter().zip(&mut open) {
        match named.contains(sort) {
            true => is_reset(app).await,
            false => talk(app).await,
        }
    }
    for line in lines {
        mesh.line(line).await;
    }
    // Both ends of every one of them, and no other.
    let both = named.iter().map(|sort| if matches!(*sort, "a to z" | "z") { 1 } else { 2 }).sum::<usize>();
    mesh.open(listed - both).await;
    let written = tokio::task::spawn_blocking(|| mesh.stop()).await.expect("no panic");
    let (drained, ended): (Vec<_>, Vec<_>) = written.iter().partition(|line| line["reason"] == "drain");
    assert_eq!((ended.len(), drained.len()), (both, listed - both), "{what}: {ended:#?}");
}

#[test]
fn every_change_ends_what_it_denies_and_nothing_else() {
    let denied: &[(&str, &str)] = &[IN, ("source_workload", "a"), ("reason", "denied"), ("policy", "default/p")];
    let to_b = SocketAddr::from(([10, 0, 0, 2], 80)).to_string();
    let direct = |reason: &'static str| [OUT, ("reason", reason), ("destination_address", &*to_b)];
    run(async {
        let deny = |who| vec![about("default/p", Action::Deny, who)];
        ends("DENY of another", deny("other"), None, &[], &[]).await;
        let mesh_wide = policy("istio-system/p", Action::Allow, vec![]).into();
        let all_in = ["a", "c", "a by service", "c by service", "z"];
        let by = [IN, ("source_workload", "z"), ("reason", "not_allowed"), ("policy", "istio-system/p")];
        ends("ALLOW without rules", vec![mesh_wide], None, &all_in, &[&by]).await;
        let strict = || Object::from(peer_authentication("default/s - STRICT"));
        let plaintext = [("reason", "plaintext_refused"), ("policy", "default/s")];
        ends("STRICT", vec![strict()], None, &["z"], &[&[&[IN], &plaintext[..]].concat()]).await;
        // The destination has come into the mesh, and its node has never seen this connection.
        let z = || Object::from(ambient("default/z", &ip("z").to_string(), ""));
        ends("z comes in", vec![z()], None, &[], &[]).await;
        let out = [&[OUT, ("path", "passthrough")], &plaintext[..]].concat();
        ends("z comes in, STRICT", vec![z(), strict()], None, &["a to z", "z"], &[&out]).await;
        let missing = [OUT, ("service", "default/z"), ("reason", "waypoint_missing")];
        let by_service = ["a by service", "c by service", "a to z"];
        ends("a waypoint", services("istio.io/use-waypoint=w").into(), None, &by_service, &[&missing]).await;
        ends("no endpoint", vec![service("default/b app=none 10.96.0.1 8080=80").into()], None, &[], &[]).await;
        let [of_b, _] = services("").map(|s| s.key());
        ends("no service", vec![], Some(of_b), &[], &[]).await;
    });
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let (mut a, mut c) = (mesh.captured("a", at("b", 80)), mesh.captured("c", at("b", 80)));
        talk(&mut a).await;
        talk(&mut c).await;
        mesh.change(|batch| batch.put(about("default/p", Action::Deny, "a"))).await;
        is_reset(&mut a).await;
        mesh.line(denied).await;
        // A pod that has another identity now loses the connections of its first one.
        mesh.change(|batch| batch.put(renamed("c", "x"))).await;
        is_reset(&mut c).await;
        mesh.line(&[&direct("identity")[..], &[("source_workload", "c")]].concat()).await;
        // Its node knows it as the first still; and then not any more.
        is_reset(&mut mesh.captured("c", at("b", 80))).await;
        mesh.line(&direct("unknown_pod")).await;
        mesh.ztunnel.rename(cookie("c"), account("x"));
        mesh.ztunnel.caught_up().await;
        is_reset(&mut mesh.captured("c", at("b", 80))).await;
        mesh.line(&direct("no_certificate")).await;
    });
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let (mut a, mut c) = (mesh.captured("a", at("b", 80)), mesh.captured("c", at("b", 80)));
        talk(&mut a).await;
        talk(&mut c).await;
        // a's object is gone: nothing is known of it any more. Then b has another identity.
        let key = Object::from(ambient("default/a", "10.0.0.1", "")).key();
        mesh.change(|batch| batch.remove(key)).await;
        is_reset(&mut a).await;
        mesh.line(&direct("pod_gone")).await;
        talk(&mut c).await;
        mesh.change(|batch| batch.put(renamed("b", "x"))).await;
        is_reset(&mut c).await;
        mesh.line(&direct("identity")).await;
    });
}

/// A wire towards b's 15008 on which bytes can be held back.
struct Wire {
    /// The number of bytes that may pass.
    limit: watch::Sender<usize>,
    /// The number of bytes that have passed.
    passed: watch::Receiver<usize>,
}

impl Wire {
    /// A tunnel of `from` over a new wire.
    async fn new(mesh: &Mesh, from: &str, limit: usize) -> (Self, Tunnel) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("name")).await.expect("connected");
        let (near, _) = listener.accept().await.expect("accepted");
        let far = mesh.arrived(at(from, 41_000), "b", at("b", HBONE_PORT));
        let (sender, mut limits) = watch::channel(limit);
        let (told, passed) = watch::channel(0);
        tokio::spawn(async move {
            let ((mut from_client, mut to_client), (mut from_pod, mut to_pod)) = (near.into_split(), far.into_split());
            let there = async {
                let mut done = 0;
                let mut buffer = vec![0; 16 << 10];
                loop {
                    let Ok(most) = limits.wait_for(|limit| *limit > done).await.map(|limit| *limit - done) else {
                        return;
                    };
                    let most = most.min(buffer.len());
                    let Ok(n @ 1..) = from_client.read(&mut buffer[..most]).await else { return };
                    if to_pod.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                    done += n;
                    told.send_replace(done);
                }
            };
            tokio::join!(there, tokio::io::copy(&mut from_pod, &mut to_client))
        });
        (Self { limit: sender, passed }, tunnel_over(from, client, &mesh.credentials.borrow()))
    }

    /// Waits until as much has passed as may.
    async fn is_held(&mut self) {
        let limit = *self.limit.borrow();
        self.passed.wait_for(|passed| *passed >= limit).await.expect("the wire is there");
    }

    fn open(&self) {
        self.limit.send_replace(usize::MAX);
    }
}

#[test]
fn a_change_meets_a_tunnel_at_every_stage_of_its_opening() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        // What a tunnel and one CONNECT send until the answer is there.
        let (wire, tunnel) = Wire::new(&mesh, "a", usize::MAX).await;
        assert_eq!(ask(&tunnel, "10.0.0.2:80").await, Ended::Finished);
        let whole = *wire.passed.borrow();
        mesh.line(&[IN, ("reason", "finished")]).await;
        assert!(whole > 1000, "hello, certificate, preface and CONNECT: {whole}");
        let key = about("default/late", Action::Deny, "a").key();
        // Nothing has arrived; within the hello; behind it; within the certificate; within HTTP/2.
        for (cut, who) in [0, 1, 100, 300, 600, 900, whole - 60].into_iter().flat_map(|cut| [(cut, "a"), (cut, "c")]) {
            mesh.clear();
            let (mut wire, tunnel) = Wire::new(&mesh, "a", cut).await;
            let changed = async {
                wire.is_held().await;
                mesh.change(|batch| batch.put(about("default/late", Action::Deny, who))).await;
                wire.open();
            };
            let (ended, ()) = tokio::join!(ask(&tunnel, "10.0.0.2:80"), changed);
            let line = mesh.line(&[IN]).await;
            if who == "a" {
                assert_eq!(ended, Ended::Refused(401), "after {cut} bytes");
                check(&line, &[("reason", "denied"), ("policy", "default/late"), ("source_workload", "a")]);
            } else {
                assert_eq!(ended, Ended::Finished, "after {cut} bytes");
                check(&line, &[("reason", "finished")]);
            }
            mesh.change(|batch| batch.remove(key.clone())).await;
            tunnel.end(TunnelEnd::Closed);
        }
    }));
}

/// Sockets whose connections to applications do not open until they are let: the backlog is full, and nothing accepts.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn Sockets>,
    application: SocketAddr,
}

impl Sockets for Slow {
    fn ends(&self, accepted: &TcpStream) -> std::io::Result<Ends> {
        self.inner.ends(accepted)
    }

    fn to_application(&self, _: &Netns, _: IpAddr, _: SocketAddr, _: &Options) -> std::io::Result<Opening> {
        begin(self.application)
    }

    fn to_outside(&self, _: &Netns, _: IpAddr, _: SocketAddr, _: &Options) -> std::io::Result<Opening> {
        begin(self.application)
    }

    fn to_next_hop(&self, pod: &Netns, from: IpAddr, next: SocketAddr, options: &Options) -> std::io::Result<Opening> {
        self.inner.to_next_hop(pod, from, next, options)
    }
}

fn begin(to: SocketAddr) -> std::io::Result<Opening> {
    let fd: OwnedFd = new_socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(fd.into()),
        Err(e) => Err(e.into()),
    }
}

#[test]
fn a_change_meets_a_connection_whose_application_has_not_answered() {
    run(async {
        let application = Listener::bind("127.0.0.1:0").expect("bound");
        listen(&application, Backlog::new(0).expect("a backlog")).expect("listening");
        let address = application.local_addr().expect("name");
        let filler = std::net::TcpStream::connect(address).expect("connected");
        let mesh = Mesh::with(services(""), |settings| {
            settings.sockets = Arc::new(Slow { inner: Arc::clone(&settings.sockets), application: address });
        });
        let mut apps = [
            mesh.captured("a", at("b", 80)),
            mesh.captured("c", at("b", 80)),
            mesh.captured("a", VIP_OF_Z.into()),
            mesh.arrived(at("z", 9), "b", at("b", 80)),
        ];
        let [a, c, a_to_z, z] = &mut apps;
        // Both ends of two, and one each: all are registered, and none has its application.
        mesh.open(6).await;
        // Judged and told nothing yet: the caller gets its answer.
        mesh.change(|batch| batch.put(about("default/late", Action::Deny, "a"))).await;
        is_reset(a).await;
        let line = mesh.line(&[IN]).await;
        check(&line, &[("source_workload", "a"), ("reason", "denied"), ("policy", "default/late")]);
        check(&mesh.line(&[OUT]).await, &[("reason", "refused"), ("reason_detail", "refused with status 401")]);
        mesh.change(|batch| batch.put(peer_authentication("default/strict - STRICT"))).await;
        is_reset(z).await;
        mesh.line(&[IN, ("reason", "plaintext_refused"), ("policy", "default/strict")]).await;
        let [_, of_z] = services("istio.io/use-waypoint=w");
        mesh.change(|batch| batch.put(of_z)).await;
        is_reset(a_to_z).await;
        mesh.line(&[OUT, ("path", "passthrough"), ("reason", "waypoint_missing")]).await;
        // The twin: c was allowed all the time, and has its connection as soon as there is room.
        let accepted = tokio::task::spawn_blocking(move || {
            application.set_nonblocking(false).expect("option");
            let (first, _) = application.accept().expect("the one that filled it");
            let (served, _) = application.accept().expect("c's");
            (first, served, application)
        });
        let (_first, served, _application) = accepted.await.expect("no panic");
        drop(filler);
        served.set_nonblocking(true).expect("option");
        let mut served = TcpStream::from_std(served).expect("registered");
        c.write_u8(7).await.expect("sent");
        assert_eq!(served.read_u8().await.expect("heard"), 7);
    });
}

#[test]
fn a_change_meets_a_tunnel_that_is_being_opened_by_its_source() {
    run(async {
        for (changed, reason) in [("c", None), ("a", Some("identity")), ("b", Some("identity"))] {
            let mesh = Mesh::with([], |settings| settings.tunnel.handshake = Duration::from_secs(3600));
            // A next hop that takes its time.
            let next = mesh.application(at("b", HBONE_PORT)).await;
            let mut app = mesh.captured("a", at("b", 80));
            let (mut tunnel, _) = next.accept().await.expect("accepted");
            tunnel.read_u8().await.expect("it begins");
            mesh.change(|batch| batch.put(renamed(changed, "x"))).await;
            match reason {
                Some(reason) => {
                    is_reset(&mut app).await;
                    check(&mesh.line(&[OUT]).await, &[("reason", reason), ("path", "hbone")]);
                }
                None => {
                    let open = mesh.ztunnel.connections().len();
                    assert_eq!(open, 1, "it goes on");
                    let read = app.try_read(&mut [0]).expect_err("nothing to read");
                    assert_eq!(read.kind(), ErrorKind::WouldBlock);
                }
            }
        }
    });
}

#[test]
fn catching_up_waits_for_the_world() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.workers = 4.try_into().expect("not zero"));
        for n in 0..200 {
            let published = mesh.publish(|batch| batch.put(about("default/p", Action::Deny, ["a", "c"][n % 2])));
            assert_eq!(mesh.ztunnel.caught_up().await, Some(published), "change {n}");
        }
    });
}

#[test]
fn a_policy_that_flips_under_load_leaves_nothing_open_and_cuts_nothing_else() {
    const FLIPS: usize = 30;
    const CALLERS: usize = 40;
    run(async {
        let mesh = Rc::new(Mesh::new([]));
        mesh.echo(at("b", 80)).await;
        let mut always = Vec::new();
        for _ in 0..CALLERS {
            let mut app = mesh.captured("c", at("b", 80));
            talk(&mut app).await;
            always.push(app);
        }
        // Callers of a never stop calling, and keep what they get until it breaks.
        let (stop, stopped) = watch::channel(false);
        let calling = LocalSet::new();
        let answered = Rc::new(std::cell::Cell::new(0usize));
        for _ in 0..CALLERS {
            let (mesh, stopped, answered) = (Rc::clone(&mesh), stopped.clone(), Rc::clone(&answered));
            calling.spawn_local(async move {
                while !*stopped.borrow() {
                    let mut app = mesh.captured("a", at("b", 80));
                    while !*stopped.borrow() && app.write_u8(1).await.is_ok() && app.read_u8().await.is_ok() {
                        answered.set(answered.get() + 1);
                    }
                }
            });
        }
        let key = about("default/flips", Action::Deny, "a").key();
        calling
            .run_until(async {
                for _ in 0..FLIPS {
                    let before = answered.get();
                    while answered.get() < before + CALLERS {
                        tokio::task::yield_now().await;
                    }
                    mesh.change(|batch| batch.put(about("default/flips", Action::Deny, "a"))).await;
                    // Connections that the change denies are cancelled before callers are told that it holds; and none comes.
                    while open_of(&mesh, "default/a").await > 0 {
                        tokio::task::yield_now().await;
                    }
                    mesh.change(|batch| batch.remove(key.clone())).await;
                }
                mesh.change(|batch| batch.put(about("default/flips", Action::Deny, "a"))).await;
                stop.send_replace(true);
            })
            .await;
        calling.await;
        for app in &mut always {
            talk(app).await;
        }
        assert_eq!(open_of(&mesh, "default/a").await, 0);
        drop(always);
        let mesh = Rc::into_inner(mesh).expect("no other owner");
        let lines = tokio::task::spawn_blocking(|| mesh.stop()).await.expect("no panic");
        let inbound = |of: &str| {
            lines.iter().filter(|l| l["direction"] == "inbound" && l["source_workload"] == of).collect::<Vec<_>>()
        };
        let of_a = inbound("a");
        let denied: Vec<_> = of_a.iter().filter(|line| line["reason"] == "denied").collect();
        assert!(
            denied.len() > FLIPS && denied.iter().all(|line| line["policy"] == "default/flips"),
            "{}",
            denied.len()
        );
        let cut = denied.iter().filter(|line| line["bytes_received"].as_u64() > Some(0)).count();
        assert!(cut > FLIPS, "open ones too: {cut}");
        let strange =
            of_a.iter().find(|line| !matches!(line["reason"].as_str(), Some("denied" | "client_reset" | "finished")));
        assert!(strange.is_none(), "{strange:?}");
        assert!(inbound("c").iter().all(|line| line["reason"] != "denied"));
    });
}

/// Inbound connections of a pod that are open.
async fn open_of(mesh: &Mesh, pod: &str) -> usize {
    let open = mesh.ztunnel.connections().list().await;
    let of = |name: &ObjectName| {
        open.iter()
            .filter(|c| {
                c.direction == underpass_core::connection::Direction::Inbound
                    && c.source.workload.as_ref().is_some_and(|w| w.name == *name)
            })
            .count()
    };
    of(&name(pod))
}
