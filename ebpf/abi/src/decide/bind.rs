//! bind(): the port of an application is the application's.
//!
//! What the tunnel accepts for a pod has the port that the other end asked for as its own: that of a server elsewhere, or of an
//! application here that does not listen (yet). The kernel refuses it to an application that binds it without SO_REUSEADDR, as
//! it would not without a mesh. So the option is lent to the application's socket for as long as it is bound and neither listens
//! nor connects: the tunnel's sockets have it too, and two sockets that have it do not conflict. Taken back, the option of the
//! socket, and of the sockets that it accepts, is as the application chose.
//!
//! What must hold: a socket that has the option by its application's choice keeps it.

use super::Tables;
use crate::addr::{Cookie, Port};
use crate::flow::{Flow, Kind, PROTOCOL_TCP, TYPE_STREAM};

/// The socket of a bind() call.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Its network namespace.
    pub pod: Cookie,
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// Its protocol.
    pub protocol: u32,
    /// The port that is asked for; 0: any.
    pub port: Port,
    /// SO_REUSEADDR of the application's choice.
    pub reuses: bool,
    /// Content of its storage.
    pub known: Option<Flow>,
}

/// The new content of the socket's storage where SO_REUSEADDR is lent to it. A socket that is bound and not connected has no
/// decision, so there the port means this and nothing else.
#[inline(always)]
#[must_use]
pub fn lend(tables: &impl Tables, socket: &Binding) -> Option<Flow> {
    let any = Port::from_host(0);
    let is_tcp = socket.kind == TYPE_STREAM && socket.protocol == PROTOCOL_TCP;
    if !is_tcp || socket.reuses || socket.port == any || tables.phase(socket.pod).is_none() {
        return None;
    }
    let known = socket.known.unwrap_or(Flow::bare(socket.pod, Kind::NONE));
    (known.kind == Kind::NONE).then_some(Flow { port: socket.port, ..known })
}

/// The new content of the storage of a socket that had SO_REUSEADDR lent, and now listens or connects.
#[inline(always)]
#[must_use]
pub fn take_back(known: Flow) -> Option<Flow> {
    let none = Port::from_host(0);
    (known.kind == Kind::NONE && known.port != none).then_some(Flow { port: none, ..known })
}
