//! Connections made inside a pod: to its application, with the client's address as source, and to the outside as the pod.

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

use crate::{accept::is_exhausted, worker::Worker, worker_pod::WorkerPod};

/// A socket that is reset when it is closed, by its options, unless the connection has ended in order: also where the process
/// dies, the other end must not take that for an orderly end of stream.
#[derive(Debug)]
pub(crate) struct ResettingSocket {
    socket: Rc<TcpStream>,
    /// Its own.
    _permit: Permit,
}

impl ResettingSocket {
    pub(crate) fn new(socket: TcpStream, permit: Permit) -> Self {
        Self { socket: Rc::new(socket), _permit: permit }
    }

    /// Closes it in order where the connection finished.
    pub(crate) fn ended(&self, reason: &Reason) {
        if *reason == Reason::Finished {
            socket::reset_on_close(&*self.socket, false);
        }
    }
}

impl Deref for ResettingSocket {
    type Target = Rc<TcpStream>;
    fn deref(&self) -> &Rc<TcpStream> {
        &self.socket
    }
}

/// Connects to the application of `pod` at `target` as `client`.
pub(crate) async fn connect(
    worker: &Worker,
    pod: &WorkerPod,
    permit: Permit,
    client: IpAddr,
    target: SocketAddr,
) -> Result<ResettingSocket, Reason> {
    let open_with = |options: &Options| worker.settings.sockets.to_application(&pod.netns, client, target, options);
    open(worker, pod, permit, Role::ToApplication, open_with).await
}

/// Opens a plain connection from inside the pod, and its address `from`, to a peer outside the mesh.
pub(crate) async fn connect_plain(
    worker: &Worker,
    pod: &WorkerPod,
    permit: Permit,
    from: IpAddr,
    target: SocketAddr,
) -> Result<ResettingSocket, Reason> {
    let open_with = |options: &Options| worker.settings.sockets.to_outside(&pod.netns, from, target, options);
    open(worker, pod, permit, Role::ToOutside, open_with).await
}

async fn open(
    worker: &Worker,
    pod: &WorkerPod,
    permit: Permit,
    role: Role,
    begin: impl FnOnce(&Options) -> io::Result<Opening>,
) -> Result<ResettingSocket, Reason> {
    let failed = |error: &io::Error| {
        tracing::debug!(pod = %pod.name, ?role, %error, "connect failed");
        failure(error, Reason::ConnectFailed)
    };
    let opening = begin(&worker.settings.options(role)).map_err(|error| failed(&error))?;
    match tokio::time::timeout(worker.settings.tunnel.handshake, established(opening)).await {
        Err(_) => Err(Reason::Timeout),
        Ok(Err(error)) => Err(failed(&error)),
        Ok(Ok(socket)) => Ok(ResettingSocket::new(socket, permit)),
    }
}

/// The reason of a socket that was not opened: the limit where descriptors are used up, else `other`.
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
