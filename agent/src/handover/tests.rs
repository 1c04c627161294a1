//! Both ends of a hand-over in one process: the offer that passes, and the agent that goes on when the other ends at any step.

use std::{fs, os::unix::fs::MetadataExt as _};

use tempfile::TempDir;
use tokio::sync::mpsc;
use underpass_identity::testing::{Leaf, TestCa};
use underpass_net::passing::DescriptorListener;
use underpass_ztunnel::PodListeners;

use super::*;

/// The files of one test, and the address in them.
fn address() -> (TempDir, HandoverAddress) {
    let files = tempfile::tempdir().unwrap();
    let address = HandoverAddress::new(files.path(), &kernel(files.path()));
    (files, address)
}

fn kernel(bpffs: &Path) -> underpass_loader::Settings {
    let (bpffs, marks) = (bpffs.to_owned(), underpass_abi::Marks::DEFAULT);
    underpass_loader::Settings {
        bpffs,
        instance: "n/1".into(),
        cgroup_root: PathBuf::new(),
        marks,
        mesh_entries: 1,
        log: false,
    }
}

fn bound() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn alone(address: &HandoverAddress) -> Lock {
    match address.claim(false).unwrap() {
        Claim::Alone(lock) => lock,
        Claim::Successor(_) => panic!("no agent runs"),
    }
}

fn successor(address: &HandoverAddress) -> Successor {
    match address.claim(true).unwrap() {
        Claim::Successor(successor) => successor,
        Claim::Alone(_) => panic!("an agent runs"),
    }
}

/// A running agent with its lock, and the requests that it gets.
fn running(
    address: &HandoverAddress,
    pods: usize,
) -> (Lock, mpsc::UnboundedReceiver<SuccessorRequest>, Vec<std::net::SocketAddr>) {
    let lock = alone(address);
    let (sender, requests) = mpsc::unbounded_channel();
    listen(address, sender).unwrap();
    (lock, requests, (0..2 * pods).map(|_| bound().local_addr().unwrap()).collect())
}

fn offer(lock: &Lock, pods: usize) -> OfferContents {
    let pods = (0..pods).map(|n| PodListeners { cookie: n as u64, outbound: bound(), inbound: bound() });
    let process = underpass_net::passing::pidfd(i32::try_from(std::process::id()).unwrap()).unwrap();
    let predecessors = vec![Predecessor { cgroup: CgroupId(5), process }];
    OfferContents {
        cgroup: 7,
        predecessors,
        lock: lock.try_clone().unwrap(),
        pods: pods.collect(),
        servers: vec![bound(), bound(), bound()],
        certificates: ["a", "b"].map(issued).into(),
        waypoints: vec![lent()],
        tables: underpass_abi::VERSION,
    }
}

fn lent() -> Lent {
    Lent {
        pod: ObjectName::new("shop", "w"),
        at: At { addresses: vec!["10.9.1.7".parse().unwrap()], port: 15008 },
        netns: fs::File::open("/proc/self/ns/net").unwrap().into(),
        listener: bound(),
    }
}

fn issued(account: &str) -> Issued {
    let leaf = Leaf::of(&format!("spiffe://cluster.local/ns/default/sa/{account}"));
    let credential = Arc::new(TestCa::new("root").credential(&leaf));
    let issuer = Some(credential.serial().clone()); // any will do
    Issued { credential, issuer }
}

#[test]
fn one_agent_serves_a_node() {
    let (_files, address) = address();
    let lock = alone(&address);
    let error = address.claim(false).unwrap_err().to_string();
    assert!(error.contains("another agent serves node n/1"), "{error}");
    // It runs, and does not listen yet.
    let error = address.claim(true).unwrap_err().to_string();
    assert!(error.contains("n_1.handover: it is starting, or has another --state"), "{error}");
    // With any other state directory.
    let elsewhere = HandoverAddress::new(Path::new("/elsewhere"), &kernel(address.socket().parent().unwrap()));
    assert!(matches!(elsewhere.claim(false), Err(Error::Runs { .. })));
    assert!(matches!(elsewhere.claim(true), Err(Error::Unreachable { .. })));
    drop(lock);
    drop(alone(&address));
}

#[test]
fn everything_passes_and_the_lock_with_it() {
    const PODS: usize = 300; // more than one message takes
    let (_files, address) = address();
    let (lock, mut requests, _) = running(&address, 0);
    let names = |l: &TcpListener| l.local_addr().unwrap();
    let node = std::thread::spawn(move || {
        let Some(SuccessorRequest::Offer { answer, .. }) = requests.blocking_recv() else {
            panic!("not asked for an offer")
        };
        let offer = offer(&lock, PODS);
        let pods: BTreeMap<_, _> =
            offer.pods.iter().map(|p| (Cookie(p.cookie), (names(&p.outbound), names(&p.inbound)))).collect();
        let servers: Vec<_> = offer.servers.iter().map(names).collect();
        let certificates = offer.certificates.clone();
        answer.send(Ok(offer)).unwrap();
        let Some(SuccessorRequest::Leave(answer)) = requests.blocking_recv() else { panic!("not asked to leave") };
        drop(lock);
        answer.send(()).unwrap();
        (pods, servers, certificates)
    });
    let successor = successor(&address);
    let inherited = successor.request().unwrap();
    successor.confirm().unwrap();
    let (pods, servers, certificates) = node.join().unwrap();
    let got = inherited.listeners.iter().map(|(cookie, (out, inb))| (*cookie, (names(out), names(inb))));
    assert_eq!(got.collect::<BTreeMap<_, _>>(), pods);
    assert_eq!(inherited.servers.iter().map(names).collect::<Vec<_>>(), servers);
    let texts = |all: &[Issued]| all.iter().map(|of| (of.credential.to_pem(), of.issuer.clone())).collect::<Vec<_>>();
    assert_eq!(texts(&inherited.certificates), texts(&certificates));
    // Every agent whose connections are not to be captured, until its process is gone.
    let predecessors: Vec<_> = inherited.predecessors.iter().map(|agent| agent.cgroup).collect();
    assert_eq!(predecessors, [CgroupId(7), CgroupId(5)]);
    assert!(inherited.until < Instant::now() + APPLY - Duration::from_secs(5));
    // The agent that offered it is gone; the lock is not.
    assert!(matches!(address.claim(false), Err(Error::Runs { .. })));
    drop(inherited);
    drop(alone(&address));
}

#[test]
fn a_successor_that_fails_lets_the_predecessor_resume() {
    let (_files, address) = address();
    let (lock, mut requests, _) = running(&address, 0);
    // It sends nothing, an unexpected message, or the introduction of another node's agent: the node is not asked to stand still.
    drop(successor(&address));
    successor(&address).send(&Message::Taken).unwrap();
    let mut elsewhere = successor(&address);
    elsewhere.node = "n/2".into();
    let refused = elsewhere.request().unwrap_err().to_string();
    assert_eq!(refused, "the running agent refuses the take-over: it runs for node n/2, not n/1");
    assert!(requests.try_recv().is_err());
    // It ends, or sends an unexpected message, after the whole offer.
    for strange in [false, true] {
        let successor = successor(&address);
        let asking = std::thread::spawn(move || {
            let inherited = successor.request().unwrap();
            if strange {
                successor.send(&Message::Leaving).unwrap();
            }
            drop((successor, inherited));
        });
        let Some(SuccessorRequest::Offer { answer, .. }) = requests.blocking_recv() else {
            panic!("not asked for an offer")
        };
        answer.send(Ok(offer(&lock, 1))).unwrap();
        assert!(matches!(requests.blocking_recv(), Some(SuccessorRequest::Resume)));
        asking.join().unwrap();
    }
    assert!(matches!(address.claim(false), Err(Error::Runs { .. })), "and it has the lock");
}

/// Both ends of a connection.
fn pair() -> (DescriptorConnection, DescriptorConnection) {
    let (_files, address) = address();
    fs::create_dir_all(address.socket().parent().unwrap()).unwrap();
    let listener = DescriptorListener::open(address.socket()).unwrap();
    (DescriptorConnection::connect(address.socket()).unwrap(), listener.accept().unwrap())
}

#[test]
fn a_predecessor_that_lives_and_hangs_up_has_resumed() {
    let (near, far) = pair();
    let own = i32::try_from(std::process::id()).unwrap();
    let process = underpass_net::passing::pidfd(own).unwrap();
    let successor = Successor { connection: near, node: "n".into(), process };
    drop(far);
    assert!(matches!(successor.confirm(), Err(Error::Withdrawn)));
    // The twin: its process is gone.
    let (near, far) = pair();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = underpass_net::passing::pidfd(i32::try_from(child.id()).unwrap()).unwrap();
    child.wait().unwrap();
    let successor = Successor { connection: near, node: "n".into(), process };
    drop(far);
    successor.confirm().unwrap();
    successor.give_up().unwrap();
}

#[test]
fn a_successor_is_late_only_while_the_predecessor_lives() {
    let (near, _far) = pair();
    let process = underpass_net::passing::pidfd(i32::try_from(std::process::id()).unwrap()).unwrap();
    let successor = Successor { connection: near, node: "n".into(), process };
    assert!(matches!(successor.give_up(), Err(Error::Late)));
}

#[test]
fn a_predecessor_may_be_slow_to_leave() {
    const PATIENCE: Duration = Duration::from_millis(20);
    let (near, far) = pair();
    near.set_timeout(PATIENCE).unwrap();
    let process = underpass_net::passing::pidfd(i32::try_from(std::process::id()).unwrap()).unwrap();
    let successor = Successor { connection: near, node: "n".into(), process };
    let leaving = std::thread::spawn(move || {
        assert!(matches!(receive(&far), Ok((Message::Taken, _))));
        std::thread::sleep(5 * PATIENCE);
        far.send(&Message::Leaving.encode(), &[]).unwrap();
    });
    successor.confirm().unwrap();
    leaving.join().unwrap();
}

#[test]
fn an_agent_that_cannot_make_an_offer_refuses_and_gets_no_more_requests() {
    let (_files, address) = address();
    let (_lock, mut requests, _) = running(&address, 0);
    let successor = successor(&address);
    let asking = std::thread::spawn(move || successor.request().unwrap_err().to_string());
    let Some(SuccessorRequest::Offer { answer, .. }) = requests.blocking_recv() else {
        panic!("not asked for an offer")
    };
    answer.send(Err("no descriptor".into())).unwrap();
    assert_eq!(asking.join().unwrap(), "the running agent refuses the take-over: no descriptor");
    assert!(requests.try_recv().is_err());
}

#[test]
fn files_have_safe_names_and_the_socket_is_roots() {
    let (_files, address) = address();
    let _running = running(&address, 0);
    let name = address.socket().file_name().unwrap().to_str().unwrap();
    assert_eq!(name, "n_1.handover");
    assert_eq!(fs::metadata(address.socket()).unwrap().mode() & 0o777, 0o600);
}
