//! Connections made inside a pod: to its application, with the client's address as source, and to others as the pod.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream as Opening},
    ops::Deref,
    rc::Rc,
};

use tokio::net::TcpStream;
use underpass_core::Reason;
use underpass_net::{
    budget::Permit,
    socket::{
        self, established,
        options::{Options, Role},
    },
};

use crate::{accept::is_exhausted, served::Served, worker::Worker};

/// A connection that is reset when it is closed, by its socket's options, unless it has come to its end in order: whatever
/// closes it, the end of the process among them, the other end must not take it for an orderly end of stream.
#[derive(Debug)]
pub(crate) struct Carried {
    socket: Rc<TcpStream>,
    /// What it counts for.
    _permit: Permit,
}

impl Carried {
    pub(crate) fn new(socket: TcpStream, permit: Permit) -> Self {
        Self { socket: Rc::new(socket), _permit: permit }
    }

    /// It ended for this reason.
    pub(crate) fn ended(&self, reason: &Reason) {
        if *reason == Reason::Finished {
            socket::reset_on_close(&*self.socket, false);
        }
    }
}

impl Deref for Carried {
    type Target = Rc<TcpStream>;
    fn deref(&self) -> &Rc<TcpStream> {
        &self.socket
    }
}

/// Connects to the application of `pod` at `target` as `client`.
pub(crate) async fn connect(
    worker: &Worker,
    pod: &Served,
    permit: Permit,
    client: IpAddr,
    target: SocketAddr,
) -> Result<Carried, Reason> {
    let open_with = |options: &Options| worker.settings.sockets.to_application(&pod.netns, client, target, options);
    open(worker, permit, Role::ToApplication, open_with).await
}

/// A plain connection from inside the pod, and its address `from`, to somebody outside the mesh.
pub(crate) async fn connect_plain(
    worker: &Worker,
    pod: &Served,
    permit: Permit,
    from: IpAddr,
    target: SocketAddr,
) -> Result<Carried, Reason> {
    let open_with = |options: &Options| worker.settings.sockets.to_outside(&pod.netns, from, target, options);
    open(worker, permit, Role::ToOutside, open_with).await
}

async fn open(
    worker: &Worker,
    permit: Permit,
    role: Role,
    begin: impl FnOnce(&Options) -> io::Result<Opening>,
) -> Result<Carried, Reason> {
    let failed = |error: &io::Error| {
        tracing::debug!(%error, "connect");
        failure(error, Reason::ConnectFailed)
    };
    let opening = begin(&worker.settings.options(role)).map_err(|error| failed(&error))?;
    match tokio::time::timeout(worker.settings.tunnel.handshake, established(opening)).await {
        Err(_) => Err(Reason::Timeout),
        Ok(Err(error)) => Err(failed(&error)),
        Ok(Ok(socket)) => Ok(Carried::new(socket, permit)),
    }
}

/// Why a socket did not come about: for want of descriptors, or for the `other` reason.
pub(crate) fn failure(error: &io::Error, other: Reason) -> Reason {
    if is_exhausted(error) { Reason::Limit } else { other }
}

#[cfg(test)]
mod tests {
    use underpass_net::system::SystemError;

    use super::*;

    #[test]
    fn a_pod_whose_ports_cannot_be_read_for_want_of_descriptors_is_at_its_limit() {
        const EMFILE: i32 = 24;
        const EACCES: i32 = 13;
        for (number, reason) in [(EMFILE, Reason::Limit), (EACCES, Reason::ConnectFailed)] {
            let source = io::Error::from_raw_os_error(number);
            let ports =
                SystemError::Sysctl { operation: "read", object: "net.ipv4.ip_local_port_range".into(), source };
            assert_eq!(failure(&ports.into(), Reason::ConnectFailed), reason);
        }
    }
}
