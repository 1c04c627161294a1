//! Packet capture on any device of any site. What a test says about the wire ("no byte of this was on it") it says
//! about frames seen here.
//!
//! What must hold: an answer of "it was not there" is given only when no frame was lost; otherwise it is an error.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        socket::{LinkAddr, recvfrom},
    },
};

use super::{
    lab::Site,
    netns,
    packet::{self, Segment},
    sys, wait,
};

/// Bytes of frames that are kept; what comes later counts as lost.
const KEPT_BYTES: usize = 256 << 20;
/// The socket's buffer: room for the frames between two reads.
const SOCKET_BYTES: i32 = 64 << 20;
/// The longest frame: 64 KiB of unsegmented packet and its Ethernet header, with room.
const FRAME_BYTES: usize = 66 << 10;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it was read.
    pub at: SystemTime,
    /// It left by the device (from the point of view of the namespace where the device is).
    pub outgoing: bool,
    /// From the destination MAC on. Large packets may stand here as they were before segmentation, checksums as they
    /// are before the device computes them.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The TCP segment or UDP datagram in it.
    #[must_use]
    pub fn segment(&self) -> Option<Segment<'_>> {
        packet::parse(&self.bytes)
    }
}

/// A capture that runs until it is dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    stop: EventFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<Frame>,
    bytes: usize,
    lost: u64,
}

impl Capture {
    /// Captures on `device` at `site`. Everything that passes after the return is seen.
    pub fn start(site: &Site, device: &str) -> Result<Self> {
        let socket = netns::packet_socket(site, device)?;
        let size = SOCKET_BYTES.to_ne_bytes();
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size).context("SO_RCVBUFFORCE")?;
        let shared = Arc::new(Shared { socket, stop: EventFd::new()?, state: Mutex::default() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("capture-{device}")).spawn(move || theirs.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// All frames so far.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        Ok(self.shared.drained()?.frames.clone())
    }

    /// The number of segments so far that match.
    pub fn count(&self, mut like: impl FnMut(&Segment<'_>) -> bool) -> Result<usize> {
        let state = self.shared.drained()?;
        let count = state.frames.iter().filter_map(Frame::segment).filter(|s| like(s)).count();
        ensure!(count > 0 || state.lost == 0, "{} frames were lost: what was not seen may have been there", state.lost);
        Ok(count)
    }

    /// These bytes have passed: within a frame, or across the frames of one direction of a connection.
    pub fn contains(&self, needle: &[u8]) -> Result<bool> {
        let state = self.shared.drained()?;
        let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
        let found = state.frames.iter().any(|f| has(&f.bytes)) || streams(&state.frames).values().any(|s| has(s));
        ensure!(found || state.lost == 0, "{} frames were lost: what was not seen may have been there", state.lost);
        Ok(found)
    }

    /// Waits for a segment like this.
    pub fn wait_for(&self, what: &str, mut like: impl FnMut(&Segment<'_>) -> bool) -> Result<Frame> {
        let mut seen = 0;
        wait::wait_for(what, || {
            let state = self.shared.drained()?;
            let new = state.frames.get(seen..).unwrap_or_default();
            seen = state.frames.len();
            Ok(new.iter().find(|f| f.segment().is_some_and(|s| like(&s))).cloned())
        })
    }

    /// Forgets what was seen, and what was lost.
    pub fn clear(&self) -> Result<()> {
        *self.shared.drained()? = State::default();
        Ok(())
    }

    /// Writes what was seen as a pcap file with nanoseconds (draft-ietf-opsawg-pcap: magic 0xa1b23c4d).
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut file = BufWriter::new(file);
        const ETHERNET: u32 = 1;
        const VERSION_2_4: u32 = 2 | 4 << 16; // two 16-bit words
        for word in [0xa1b2_3c4d, VERSION_2_4, 0, 0, FRAME_BYTES as u32, ETHERNET] {
            file.write_all(&word.to_le_bytes())?;
        }
        for frame in &self.shared.drained()?.frames {
            let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let length = frame.bytes.len() as u32;
            for word in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
                file.write_all(&word.to_le_bytes())?;
            }
            file.write_all(&frame.bytes)?;
        }
        file.flush().with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut ready = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            let [_, stopped] = ready.map(|r| r.revents().is_some_and(|e| !e.is_empty()));
            if stopped || self.drained().is_err() {
                return;
            }
        }
    }

    /// The state, once everything that the socket holds is in it: all that passed before the call is seen.
    fn drained(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let outgoing = from.is_some_and(|f| f.pkttype() == libc::PACKET_OUTGOING);
                    state.add(outgoing, buffer.get(..length).unwrap_or_default());
                }
                Err(Errno::EAGAIN) => break,
                // The device went down or away: nothing more will come, which is no error of what came.
                Err(Errno::ENETDOWN | Errno::ENODEV) => break,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e).context("read captured frames"),
            }
        }
        // struct tpacket_stats: packets and drops since it was last asked for.
        const PACKET_STATISTICS: i32 = 6;
        let [.., a, b, c, d] = sys::option_bytes::<8>(self.socket.as_fd(), libc::SOL_PACKET, PACKET_STATISTICS)?;
        state.lost += u64::from(u32::from_ne_bytes([a, b, c, d]));
        Ok(state)
    }
}

impl State {
    fn add(&mut self, outgoing: bool, bytes: &[u8]) {
        if self.bytes + bytes.len() > KEPT_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += bytes.len();
        self.frames.push(Frame { at: SystemTime::now(), outgoing, bytes: bytes.to_vec() });
    }
}

/// The bytes of every direction of every connection, in the order in which they passed.
fn streams(frames: &[Frame]) -> BTreeMap<(SocketAddr, SocketAddr), Vec<u8>> {
    let mut streams: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    for segment in frames.iter().filter_map(Frame::segment) {
        streams.entry((segment.source, segment.destination)).or_default().extend_from_slice(segment.payload);
    }
    streams
}
