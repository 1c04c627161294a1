//! The agent's word with a waypoint that it has started as its child, and back: over a pair of sockets that keep messages apart.
//! Here and not in either program, because both ends have to be of one mind.
//!
//! ```text
//! agent                                   child
//! begin, credentials ------------------>  reads the manifests, serves once it has a World
//!                    <------------------  serving
//! credentials, mesh  ------------------>  goes by them                  (any number of times)
//! drain              ------------------>  accepts no more
//!                    <------------------  drained; ends
//! ```
//! The end of the agent's end is a drain as well: without an agent no certificate is renewed.

mod message;

use std::{io, os::fd::OwnedFd};

use underpass_core::Identity;
use underpass_net::passing::{AsyncConnection, DescriptorConnection};
use zeroize::Zeroizing;

pub use self::message::{Begin, CredentialsText, FromChild, PROTOCOL, ToChild};

/// The descriptor by which a child inherits its [`ChildEnd`].
pub const CONTROL_FD: i32 = 3;
/// The descriptor by which a child inherits the listener that it accepts from.
pub const LISTENER_FD: i32 = 4;

/// The reason why a message cannot be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("cannot {operation} the control socket")]
    Io {
        /// A verb and what follows it, such as `read from`.
        operation: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The other end is of another version.
    #[error(
        "the other process speaks protocol {found} of waypoints, not {PROTOCOL}: agent and waypoint are of two versions"
    )]
    Protocol {
        /// The other one's.
        found: u32,
    },
    /// What has come is no message.
    #[error("{bytes} bytes that are no message (line {line}, column {column})")]
    Message {
        /// Their number.
        bytes: usize,
        /// The line, from 1, where reading ended.
        line: usize,
        /// The column in it.
        column: usize,
    },
    /// A message that is too long, or has a path that is no Unicode.
    #[error("cannot write the message")]
    Unsendable {
        /// The reason.
        source: serde_json::Error,
    },
    /// Credentials that cannot be read.
    #[error("cannot read the credentials of the waypoint")]
    Credentials {
        /// The reason.
        source: underpass_identity::Error,
    },
    /// Another identity's certificate.
    #[error("the certificate is that of {found}, not of {expected}")]
    Identity {
        /// Its identity.
        found: Identity,
        /// The child's.
        expected: Identity,
    },
}

/// The agent's end. Dropped, the child drains and ends. Belongs to the runtime in which it was made.
#[derive(Debug)]
pub struct AgentEnd(AsyncConnection);

/// The child's end. Belongs to the runtime in which it was made.
#[derive(Debug)]
pub struct ChildEnd(AsyncConnection);

impl AgentEnd {
    /// This end, and the one for the child, which inherits it as [`CONTROL_FD`]; here it closes with an exec.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> Result<(Self, OwnedFd), Error> {
        let (own, child) = DescriptorConnection::pair().map_err(failed("make"))?;
        Ok((Self(AsyncConnection::new(own).map_err(failed("watch"))?), child.into()))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The child is gone, or the message cannot be sent.
    pub async fn send(&self, message: &ToChild) -> Result<(), Error> {
        self.0.send(&message.encode()?).await.map_err(failed("write to"))
    }

    /// The next message; none where the child is gone. Dropped before it completes, nothing is lost.
    ///
    /// # Errors
    /// What has come is no message.
    pub async fn receive(&self) -> Result<Option<FromChild>, Error> {
        received(&self.0).await?.map(|bytes| FromChild::decode(&bytes)).transpose()
    }
}

impl ChildEnd {
    /// The end that was inherited.
    ///
    /// # Errors
    /// It is no socket.
    pub fn new(inherited: OwnedFd) -> Result<Self, Error> {
        AsyncConnection::new(inherited.into()).map(Self).map_err(failed("watch"))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The agent is gone.
    pub async fn send(&self, message: FromChild) -> Result<(), Error> {
        self.0.send(&message.encode()?).await.map_err(failed("write to"))
    }

    /// The next message; none where the agent is gone. Dropped before it completes, nothing is lost.
    ///
    /// # Errors
    /// What has come is no message, or of another protocol.
    pub async fn receive(&self) -> Result<Option<ToChild>, Error> {
        received(&self.0).await?.map(|bytes| ToChild::decode(&bytes)).transpose()
    }
}

/// The bytes of the next message, which may have a key in them.
async fn received(socket: &AsyncConnection) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    Ok(socket.receive().await.map_err(failed("read from"))?.map(Zeroizing::new))
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_in_their_order_and_the_end_is_seen() {
        let (agent, child) = AgentEnd::pair().unwrap();
        let child = ChildEnd::new(child).unwrap();
        agent.send(&ToChild::Mesh(Default::default())).await.unwrap();
        agent.send(&ToChild::Drain).await.unwrap();
        assert_eq!(child.receive().await.unwrap(), Some(ToChild::Mesh(Default::default())));
        child.send(FromChild::Serving { version: 1 }).await.unwrap();
        assert_eq!(agent.receive().await.unwrap(), Some(FromChild::Serving { version: 1 }));
        // With one message unread, either end sees the other's.
        drop(child);
        assert_eq!(agent.receive().await.unwrap(), None);
        assert!(matches!(agent.send(&ToChild::Drain).await, Err(Error::Io { operation: "write to", .. })));

        let (agent, child) = AgentEnd::pair().unwrap();
        let child = ChildEnd::new(child).unwrap();
        agent.send(&ToChild::Drain).await.unwrap();
        drop(agent);
        assert_eq!(child.receive().await.unwrap(), Some(ToChild::Drain), "what was said counts");
        assert_eq!(child.receive().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let (agent, child) = AgentEnd::pair().unwrap();
        let child = ChildEnd::new(child).unwrap();
        let (sent, read) = tokio::join!(
            async {
                for version in 0..5_000 {
                    child.send(FromChild::Serving { version }).await.unwrap();
                }
            },
            async {
                for expect in 0..5_000 {
                    assert_eq!(agent.receive().await.unwrap(), Some(FromChild::Serving { version: expect }));
                }
            }
        );
        assert_eq!((sent, read), ((), ()));
    }

    #[tokio::test]
    async fn what_is_no_socket_is_refused() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(ChildEnd::new(file).is_err());
    }
}
