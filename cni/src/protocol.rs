//! The question of the plugin to the agent, and the answer: one packet each, JSON, over a connection of a Unix socket of the kind
//! SEQPACKET. With [`Request::Add`] comes the descriptor of the sandbox's network namespace, because the agent may not see the
//! file. Both sides live on one node and may be of different versions: unknown fields are ignored, an unknown request is refused.

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The longest message, in bytes.
pub const LONGEST: usize = 64 * 1024;
/// The time within which an agent answers a request.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// A pod, as the runtime names it in CNI_ARGS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
    /// K8S_POD_UID.
    pub uid: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A sandbox that has its addresses and no process yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// CNI_CONTAINERID.
    pub container: String,
    /// Its pod.
    pub pod: PodName,
    /// CNI_NETNS: the file of its network namespace on the node.
    pub netns: PathBuf,
    /// The addresses that the plugins before gave it: of the interfaces inside the sandbox.
    pub addresses: Vec<IpAddr>,
}

/// A request to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Capture this pod, where it is in the mesh. With the descriptor of its network namespace.
    Add(Sandbox),
    /// The sandbox of this container ends.
    Delete {
        /// CNI_CONTAINERID.
        container: String,
    },
    /// Of all sandboxes that this node ever had, these are left.
    Keep {
        /// Their containers.
        containers: Vec<String>,
    },
    /// Whether the agent captures pods.
    Status,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done: the pod is captured, the sandbox forgotten, the agent works.
    Done,
    /// The pod is not in the mesh.
    Outside,
    /// It cannot be done; another try may succeed.
    Refused {
        /// The reason, for people.
        why: String,
    },
}

/// Sends a message as one packet, with a descriptor.
///
/// # Errors
/// The socket's; EMSGSIZE for one of more than [`LONGEST`] bytes.
pub fn send<T: Serialize>(socket: &OwnedFd, message: &T, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST {
        return Err(Errno::EMSGSIZE.into());
    }
    let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let carried = [ControlMessage::ScmRights(&descriptors)];
    let carried = if descriptors.is_empty() { &[][..] } else { &carried };
    sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(&bytes)], carried, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives a message, and the descriptor that came with it; none at the end of the connection.
///
/// # Errors
/// The socket's, or InvalidData for bytes that are no message.
pub fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut room = cmsg_space!([RawFd; 1]);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for carried in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = carried {
            fds.into_iter().for_each(|fd| descriptor = Some(owned(fd)));
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(bytes.get(..length).unwrap_or_default())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((message, descriptor)))
}

#[allow(unsafe_code, reason = "a descriptor that the kernel has just made for this process")]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: recvmsg made it, and nothing else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn a_descriptor_comes_with_its_message() {
        let (plugin, agent) = pair();
        let sandbox = Sandbox {
            container: "c".into(),
            pod: PodName { namespace: "shop".into(), name: "a".into(), uid: "u".into() },
            netns: "/run/netns/x".into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        };
        let request = Request::Add(sandbox);
        send(&plugin, &request, Some(File::open("/dev/null").unwrap().as_fd())).unwrap();
        send(&plugin, &Request::Status, None).unwrap();
        let (received, descriptor) = receive::<Request>(&agent).unwrap().unwrap();
        assert_eq!((received, descriptor.is_some()), (request, true));
        assert!(matches!(receive::<Request>(&agent), Ok(Some((Request::Status, None)))));
        drop(plugin);
        assert!(receive::<Request>(&agent).unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (plugin, agent) = pair();
        send(&plugin, &"garbage", None).unwrap();
        assert_eq!(receive::<Request>(&agent).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let why = "x".repeat(LONGEST);
        assert_eq!(
            send(&plugin, &Answer::Refused { why }, None).unwrap_err().raw_os_error(),
            Some(Errno::EMSGSIZE as i32)
        );
        // A field of a later version.
        send(&plugin, &serde_json::json!({ "delete": { "container": "c", "later": 1 } }), None).unwrap();
        assert!(matches!(receive::<Request>(&agent), Ok(Some((Request::Delete { .. }, None)))));
    }
}
