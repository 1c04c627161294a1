//! The link between the nodes. It begins as a bridge in the lab's namespace; the first time a test asks for a delay, a
//! loss or a cut, its ports leave the bridge for a thread that carries the frames (netem is not in every kernel).
//!
//! The thread carries packets as the kernel has them, before segmentation (PACKET_VNET_HDR), so that bulk traffic costs
//! a copy per 64 KiB and not per 1500 bytes.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::EventFd,
        socket::{MsgFlags, recv, send},
        time::TimeSpec,
    },
};

use super::{
    lab::{Lab, Site},
    netns,
    node::Node,
    sys,
};

/// include/uapi/linux/if_packet.h
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// Length of struct virtio_net_hdr, which stands before the frame.
const VNET_HEADER: usize = 10;
/// The longest frame with that header, with room.
const BUFFER: usize = 68 << 10;
/// Frames that one port may deliver before the others have their turn.
const TURN: usize = 64;
const SOCKET_BYTES: i32 = 64 << 20;

/// The treatment of frames from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Their delay.
    pub delay: Duration,
    /// None arrives.
    pub cut: bool,
    /// Of so many one is lost; 0: none.
    pub lose_every: u32,
}

/// The link. Stops when dropped.
#[derive(Debug)]
pub struct Fabric {
    lab: Lab,
    nodes: Vec<String>,
    shared: Arc<Shared>,
    carrier: OnceLock<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// By sending, then receiving node.
    paths: Mutex<Vec<Vec<Path>>>,
    /// Written when the thread is to stop.
    stop: EventFd,
}

impl Fabric {
    /// Connects the nodes by a bridge.
    pub(super) fn connect(lab: &Lab, nodes: &[Node]) -> Result<Self> {
        let mut commands = vec![
            "link add fabric type bridge mcast_snooping 0 stp_state 0".to_owned(),
            "link set fabric addrgenmode none up".into(),
        ];
        for (n, node) in nodes.iter().enumerate() {
            let (mac, pid) = (node.mac(), node.holder_pid());
            commands.push(format!("link add n{n} type veth peer name eth0 address {mac} netns {pid}"));
            // Without an address of its own a port says nothing, so that all frames are the nodes'.
            commands.push(format!("link set n{n} addrgenmode none master fabric up"));
        }
        netns::configure(&lab.here(), &commands).context("connect the nodes")?;
        let paths = Mutex::new(vec![vec![Path::default(); nodes.len()]; nodes.len()]);
        let shared = Arc::new(Shared { paths, stop: EventFd::new()? });
        let nodes = nodes.iter().map(|n| n.spec().name.clone()).collect();
        Ok(Self { lab: lab.clone(), nodes, shared, carrier: OnceLock::new() })
    }

    fn index(&self, node: &str) -> Result<usize> {
        self.nodes.iter().position(|n| n == node).with_context(|| format!("no node {node}"))
    }

    /// The lab's end of a node's device.
    pub fn device(&self, node: &str) -> Result<String> {
        Ok(format!("n{}", self.index(node)?))
    }

    /// Every frame takes this long, in each direction.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        self.shape(|path| path.delay = delay)
    }

    /// Nothing passes any more.
    pub fn cut(&self) -> Result<()> {
        self.shape(|path| path.cut = true)
    }

    /// Everything passes, at once.
    pub fn heal(&self) -> Result<()> {
        self.shape(|path| *path = Path::default())
    }

    /// Changes all paths.
    pub fn shape(&self, change: impl Fn(&mut Path)) -> Result<()> {
        self.carry()?;
        self.shared.paths().iter_mut().flatten().for_each(change);
        Ok(())
    }

    /// Sets what happens to frames from one node to another.
    pub fn set(&self, from: &str, to: &str, path: Path) -> Result<()> {
        let (from, to) = (self.index(from)?, self.index(to)?);
        self.carry()?;
        if let Some(slot) = self.shared.paths().get_mut(from).and_then(|row| row.get_mut(to)) {
            *slot = path;
        }
        Ok(())
    }

    /// From now on the thread carries frames, not the bridge.
    fn carry(&self) -> Result<()> {
        if self.carrier.get().is_some() {
            return Ok(());
        }
        let here = self.lab.here();
        let devices: Vec<_> = (0..self.nodes.len()).map(|n| format!("n{n}")).collect();
        let ports = devices.iter().map(|d| open_port(&here, d)).collect::<Result<Vec<_>>>()?;
        let leave: Vec<_> = devices.iter().map(|d| format!("link set {d} nomaster")).collect();
        netns::configure(&here, &leave)?;
        let shared = Arc::clone(&self.shared);
        let run = move || {
            if let Err(e) = Carrier::new(ports, &shared).run() {
                eprintln!("the link has failed: {e}");
            }
        };
        let thread = std::thread::Builder::new().name("link".into()).spawn(run)?;
        self.carrier.set(thread).map_err(|_| anyhow!("the link was shaped from two threads at once"))
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.carrier.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn paths(&self) -> MutexGuard<'_, Vec<Vec<Path>>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_port(site: &Site, device: &str) -> Result<OwnedFd> {
    let port = netns::packet_socket(site, device)?;
    let set = |level, name, value: i32| sys::set_option(port.as_fd(), level, name, &value.to_ne_bytes());
    set(libc::SOL_PACKET, PACKET_VNET_HDR, 1).context("PACKET_VNET_HDR")?;
    set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1).context("PACKET_IGNORE_OUTGOING")?;
    set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, SOCKET_BYTES).context("SO_RCVBUFFORCE")?;
    set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SOCKET_BYTES).context("SO_SNDBUFFORCE")?;
    Ok(port)
}

/// A frame under way: when it is due, its number (frames that are due at once leave in order), to whom, bytes.
type Due = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Carrier<'a> {
    ports: Vec<OwnedFd>,
    shared: &'a Shared,
    /// Behind which port an address was last seen.
    learnt: HashMap<[u8; 6], usize>,
    under_way: BinaryHeap<Due>,
    number: u64,
}

impl<'a> Carrier<'a> {
    fn new(ports: Vec<OwnedFd>, shared: &'a Shared) -> Self {
        Self { ports, shared, learnt: HashMap::new(), under_way: BinaryHeap::new(), number: 0 }
    }

    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if self.wait()? {
                return Ok(());
            }
            for from in 0..self.ports.len() {
                self.receive(from, &mut buffer)?;
            }
            let now = Instant::now();
            while self.under_way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                if let Some(Reverse((_, _, to, frame))) = self.under_way.pop() {
                    self.deliver(to, &frame);
                }
            }
        }
    }

    /// Until a frame has come or is due; true when it is time to stop.
    fn wait(&self) -> io::Result<bool> {
        let mut watched: Vec<_> = self.ports.iter().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)).collect();
        watched.push(PollFd::new(self.shared.stop.as_fd(), PollFlags::POLLIN));
        let next = self.under_way.peek().map(|Reverse((due, ..))| due.saturating_duration_since(Instant::now()));
        match ppoll(&mut watched, next.map(TimeSpec::from_duration), None) {
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
            Ok(_) => Ok(watched.last().and_then(PollFd::revents).is_some_and(|e| !e.is_empty())),
        }
    }

    fn receive(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..TURN {
            let Some(port) = self.ports.get(from) else { return Ok(()) };
            let length = match recv(port.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            let frame = buffer.get(..length).unwrap_or_default();
            let mac = |at: usize| frame.get(VNET_HEADER + at..VNET_HEADER + at + 6)?.try_into().ok();
            let (Some(destination), Some(source)) = (mac(0), mac(6)) else { continue };
            self.learnt.insert(source, from);
            match self.learnt.get(&destination) {
                Some(&to) => self.carry(from, to, frame),
                None => (0..self.ports.len()).for_each(|to| self.carry(from, to, frame)),
            }
        }
        Ok(())
    }

    fn carry(&mut self, from: usize, to: usize, frame: &[u8]) {
        let Some(path) = self.shared.paths().get(from).and_then(|row| row.get(to)).copied() else { return };
        self.number += 1;
        let lost = path.lose_every > 0 && self.number.is_multiple_of(path.lose_every.into());
        if from == to || path.cut || lost {
            return;
        }
        // All go through the queue, so that a shortened delay reorders no more than a real path would.
        self.under_way.push(Reverse((Instant::now() + path.delay, self.number, to, frame.to_vec())));
    }

    /// A full device loses frames as a real one does.
    fn deliver(&self, to: usize, frame: &[u8]) {
        if let Some(port) = self.ports.get(to) {
            let _ = send(port.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }
}
