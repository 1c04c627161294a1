//! The socket on which the CNI plugin asks. Threads, because the protocol is of packets with descriptors, and a request waits until
//! its pod is captured. A request that is dropped ends its connection: the plugin asks the next agent.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind, listen, setsockopt,
            shutdown, socket, sockopt,
        },
        time::TimeVal,
    },
};
use tokio::sync::{mpsc, oneshot};
use underpass_cni::protocol::{self, Answer, Request};

/// Requests that wait for an answer at once; further ones wait to be read. A node starts at most a few pods at a time.
const MOST: usize = 64;
/// The pause after a failure: descriptors or memory may come back.
const PAUSE: Duration = Duration::from_millis(200);
/// Seconds for a request to arrive on its connection.
const ARRIVES_WITHIN_S: i64 = 5;

/// A request, and where its answer goes. Dropped without one, the plugin asks the next agent.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The request.
    pub(crate) request: Request,
    /// The network namespace that came with it.
    pub(crate) netns: Option<OwnedFd>,
    /// Takes the answer.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The listening socket. Dropped, it takes no more requests.
#[derive(Debug)]
pub(crate) struct Server(Arc<OwnedFd>);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both); // ends accept
    }
}

/// Listens at this path, in place of the agent that did.
///
/// # Errors
/// The socket cannot be made, or no thread be started.
pub(crate) fn start(path: &Path) -> io::Result<(Server, mpsc::Receiver<Incoming>)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listening = Arc::new(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?);
    bind(listening.as_raw_fd(), &UnixAddr::new(&aside)?)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
    listen(&*listening, Backlog::new(i32::try_from(MOST).unwrap_or(i32::MAX))?)?;
    fs::rename(&aside, path)?;
    let (sender, incoming) = mpsc::channel(MOST);
    let of_thread = Arc::clone(&listening);
    std::thread::Builder::new().name("cni".into()).spawn(move || serve(&of_thread, &sender))?;
    Ok((Server(listening), incoming))
}

fn serve(listening: &OwnedFd, sender: &mpsc::Sender<Incoming>) {
    let waiting = Arc::new(AtomicUsize::new(0));
    loop {
        let connection = match accept(listening) {
            Ok(connection) => connection,
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => return, // shut down: the agent listens no more
            Err(error) => {
                tracing::warn!(%error, "accepting the CNI plugin failed");
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        if sender.is_closed() {
            return;
        }
        if waiting.fetch_add(1, Ordering::Relaxed) >= MOST {
            waiting.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(most = MOST, "too many requests of the CNI plugin at once: one is put off");
            continue;
        }
        let (sender, count) = (sender.clone(), Arc::clone(&waiting));
        let answering = std::thread::Builder::new().name("cni request".into()).spawn(move || {
            if let Err(error) = answer(&connection, &sender) {
                tracing::warn!(%error, "a request of the CNI plugin failed");
            }
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = answering {
            waiting.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "starting a thread for the CNI plugin failed");
        }
    }
}

fn accept(listening: &OwnedFd) -> io::Result<OwnedFd> {
    let fd = accept4(listening.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    Ok(owned(fd))
}

#[allow(unsafe_code, reason = "a descriptor that the kernel has just made for this process")]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: accept4 made it, and nothing else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn answer(connection: &OwnedFd, sender: &mpsc::Sender<Incoming>) -> io::Result<()> {
    setsockopt(connection, sockopt::ReceiveTimeout, &TimeVal::new(ARRIVES_WITHIN_S, 0))?;
    let Some((request, netns)) = protocol::receive::<Request>(connection)? else { return Ok(()) };
    let (answer, answered) = oneshot::channel();
    if sender.blocking_send(Incoming { request, netns, answer }).is_err() {
        return Ok(()); // the agent ends
    }
    match answered.blocking_recv() {
        Ok(answer) => match protocol::send(connection, &answer, None) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()), // the plugin has given up
            sent => sent,
        },
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::connect;

    use super::*;

    fn asks(path: &Path, request: &impl serde::Serialize) -> OwnedFd {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        protocol::send(&socket, request, Some(fs::File::open("/dev/null").unwrap().as_fd())).unwrap();
        socket
    }

    fn hears(socket: &OwnedFd) -> Option<Answer> {
        // A connection that ends with something unread ends by a reset.
        protocol::receive::<Answer>(socket).ok().flatten().map(|(answer, _)| answer)
    }

    #[test]
    fn a_request_is_answered_or_ends_without_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/cni.sock");
        let (server, mut incoming) = start(&path).unwrap();
        let (first, second) = (asks(&path, &Request::Status), asks(&path, &Request::Status));
        let Incoming { request, netns, answer } = incoming.blocking_recv().unwrap();
        assert_eq!((request, netns.is_some()), (Request::Status, true));
        let other = incoming.blocking_recv().unwrap();
        // Each has a connection of its own; which came first is the kernel's choice.
        answer.send(Answer::Done).unwrap();
        drop(other);
        let mut heard = [hears(&first), hears(&second)];
        heard.sort_by_key(Option::is_some);
        assert_eq!(heard, [None, Some(Answer::Done)]);
        // What is no request ends its connection, and no other.
        assert_eq!(hears(&asks(&path, &"garbage")), None);
        // Another agent takes the path; the one before is asked no more.
        let (_successor, mut of_successor) = start(&path).unwrap();
        drop(server);
        let socket = asks(&path, &Request::Status);
        of_successor.blocking_recv().unwrap().answer.send(Answer::Outside).unwrap();
        assert_eq!(hears(&socket), Some(Answer::Outside));
        assert!(incoming.blocking_recv().is_none(), "its thread has ended");
    }
}
