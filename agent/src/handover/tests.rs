//! Both ends of a hand-over in one process: what passes, and who goes on when one of them ends at any step.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;
use underpass_net::passing::DescriptorListener;
use underpass_ztunnel::PodListeners;

use super::*;

/// Files of one test.
fn place() -> Place {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let state = std::env::temp_dir().join(format!("underpass-handover-{}-{n}", std::process::id()));
    Place::new(&state, &kernel(&state))
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

fn alone(place: &Place) -> Lock {
    match place.claim(false).unwrap() {
        Claim::Alone(lock) => lock,
        Claim::Successor(_) => panic!("nobody runs"),
    }
}

fn successor(place: &Place) -> Successor {
    match place.claim(true).unwrap() {
        Claim::Successor(successor) => successor,
        Claim::Alone(_) => panic!("one runs"),
    }
}

/// An agent that lends these, and what it is asked.
fn running(place: &Place, pods: usize) -> (Lock, mpsc::UnboundedReceiver<Ask>, Vec<std::net::SocketAddr>) {
    let lock = alone(place);
    let (asks, asked) = mpsc::unbounded_channel();
    listen(place, asks).unwrap();
    (lock, asked, (0..2 * pods).map(|_| bound().local_addr().unwrap()).collect())
}

fn lending(lock: &Lock, pods: usize) -> Lending {
    let pods = (0..pods).map(|n| PodListeners { cookie: n as u64, outbound: bound(), inbound: bound() });
    let process = underpass_net::passing::pidfd(i32::try_from(std::process::id()).unwrap()).unwrap();
    let earlier = vec![Earlier { cgroup: CgroupId(5), process }];
    Lending {
        cgroup: 7,
        earlier,
        lock: lock.again().unwrap(),
        pods: pods.collect(),
        servers: vec![bound(), bound(), bound()],
        tables: underpass_abi::VERSION,
    }
}

#[test]
fn one_agent_serves_a_node() {
    let place = place();
    let lock = alone(&place);
    let error = place.claim(false).unwrap_err().to_string();
    assert!(error.contains("another agent serves node n/1"), "{error}");
    // It runs, and does not listen yet.
    let error = place.claim(true).unwrap_err().to_string();
    assert!(error.contains("n_1.handover: it only starts, or has another --state"), "{error}");
    // Whatever its own state directory is.
    let elsewhere = Place::new(Path::new("/elsewhere"), &kernel(place.socket().parent().unwrap()));
    assert!(matches!(elsewhere.claim(false), Err(Error::Runs { .. })));
    assert!(matches!(elsewhere.claim(true), Err(Error::Unheard { .. })));
    drop(lock);
    drop(alone(&place));
}

#[test]
fn everything_passes_and_the_lock_with_it() {
    const PODS: usize = 300; // more than one message takes
    let place = place();
    let (lock, mut asked, _) = running(&place, 0);
    let names = |l: &TcpListener| l.local_addr().unwrap();
    let node = std::thread::spawn(move || {
        let Some(Ask::Lend { answer, .. }) = asked.blocking_recv() else { panic!("not asked to lend") };
        let lent = lending(&lock, PODS);
        let pods: BTreeMap<_, _> =
            lent.pods.iter().map(|p| (Cookie(p.cookie), (names(&p.outbound), names(&p.inbound)))).collect();
        let servers: Vec<_> = lent.servers.iter().map(names).collect();
        answer.send(Ok(lent)).unwrap();
        let Some(Ask::Leave(answer)) = asked.blocking_recv() else { panic!("not asked to leave") };
        drop(lock);
        answer.send(()).unwrap();
        (pods, servers)
    });
    let successor = successor(&place);
    let inherited = successor.ask().unwrap();
    successor.taken().unwrap();
    let (pods, servers) = node.join().unwrap();
    let got = inherited.listeners.iter().map(|(cookie, (out, inb))| (*cookie, (names(out), names(inb))));
    assert_eq!(got.collect::<BTreeMap<_, _>>(), pods);
    assert_eq!(inherited.servers.iter().map(names).collect::<Vec<_>>(), servers);
    // Everybody whose connections are not to be captured, and how to know when that is over.
    let before: Vec<_> = inherited.before.iter().map(|agent| agent.cgroup).collect();
    assert_eq!(before, [CgroupId(7), CgroupId(5)]);
    assert!(inherited.until < Instant::now() + APPLY - Duration::from_secs(5));
    // The one that lent it is gone; the lock is not.
    assert!(matches!(place.claim(false), Err(Error::Runs { .. })));
    drop(inherited);
    drop(alone(&place));
}

#[test]
fn a_successor_that_fails_lets_the_other_go_on() {
    let place = place();
    let (lock, mut asked, _) = running(&place, 0);
    // It says nothing, something strange, or hello from elsewhere: nobody is asked to stand still.
    drop(successor(&place));
    successor(&place).say(&Message::Taken).unwrap();
    let mut elsewhere = successor(&place);
    elsewhere.node = "n/2".into();
    let refused = elsewhere.ask().unwrap_err().to_string();
    assert_eq!(refused, "the agent that runs refuses: it runs for node n/2, not n/1");
    assert!(asked.try_recv().is_err());
    // It ends, or says something strange, after it was lent everything.
    for strange in [false, true] {
        let successor = successor(&place);
        let asking = std::thread::spawn(move || {
            let inherited = successor.ask().unwrap();
            if strange {
                successor.say(&Message::Leaving).unwrap();
            }
            drop((successor, inherited));
        });
        let Some(Ask::Lend { answer, .. }) = asked.blocking_recv() else { panic!("not asked to lend") };
        answer.send(Ok(lending(&lock, 1))).unwrap();
        assert!(matches!(asked.blocking_recv(), Some(Ask::GoOn)));
        asking.join().unwrap();
    }
    assert!(matches!(place.claim(false), Err(Error::Runs { .. })), "and it has the lock");
}

/// Both ends of a connection.
fn pair() -> (DescriptorConnection, DescriptorConnection) {
    let place = place();
    fs::create_dir_all(place.socket().parent().unwrap()).unwrap();
    let door = DescriptorListener::open(place.socket()).unwrap();
    (DescriptorConnection::connect(place.socket()).unwrap(), door.accept().unwrap())
}

#[test]
fn an_agent_that_lives_and_hangs_up_goes_on() {
    let (near, far) = pair();
    let own = i32::try_from(std::process::id()).unwrap();
    let process = underpass_net::passing::pidfd(own).unwrap();
    let successor = Successor { wire: near, node: "n".into(), process };
    drop(far);
    assert!(matches!(successor.taken(), Err(Error::Withdrawn)));
    // The twin: its process is gone.
    let (near, far) = pair();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = underpass_net::passing::pidfd(i32::try_from(child.id()).unwrap()).unwrap();
    child.wait().unwrap();
    let successor = Successor { wire: near, node: "n".into(), process };
    drop(far);
    successor.taken().unwrap();
    successor.late().unwrap();
}

#[test]
fn time_is_up_for_a_successor_only_while_the_other_one_lives() {
    let (near, _far) = pair();
    let process = underpass_net::passing::pidfd(i32::try_from(std::process::id()).unwrap()).unwrap();
    let successor = Successor { wire: near, node: "n".into(), process };
    assert!(matches!(successor.late(), Err(Error::Late)));
}

#[test]
fn an_agent_may_take_its_time_to_leave() {
    const PATIENCE: Duration = Duration::from_millis(20);
    let (near, far) = pair();
    near.set_timeout(PATIENCE).unwrap();
    let process = underpass_net::passing::pidfd(i32::try_from(std::process::id()).unwrap()).unwrap();
    let successor = Successor { wire: near, node: "n".into(), process };
    let leaving = std::thread::spawn(move || {
        assert!(matches!(hear(&far), Ok((Message::Taken, _))));
        std::thread::sleep(5 * PATIENCE); // so slow it is
        far.send(&Message::Leaving.encode(), &[]).unwrap();
    });
    successor.taken().unwrap();
    leaving.join().unwrap();
}

#[test]
fn an_agent_that_cannot_lend_says_why_and_is_asked_nothing_more() {
    let place = place();
    let (_lock, mut asked, _) = running(&place, 0);
    let successor = successor(&place);
    let asking = std::thread::spawn(move || successor.ask().unwrap_err().to_string());
    let Some(Ask::Lend { answer, .. }) = asked.blocking_recv() else { panic!("not asked to lend") };
    answer.send(Err("no descriptor".into())).unwrap();
    assert_eq!(asking.join().unwrap(), "the agent that runs refuses: no descriptor");
    assert!(asked.try_recv().is_err());
}

#[test]
fn files_have_safe_names_and_the_socket_is_roots() {
    let place = place();
    let _running = running(&place, 0);
    let name = place.socket().file_name().unwrap().to_str().unwrap();
    assert_eq!(name, "n_1.handover");
    assert_eq!(fs::metadata(place.socket()).unwrap().mode() & 0o777, 0o600);
}
