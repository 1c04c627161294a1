//! Notifications of a service manager (sd_notify(3)): `READY=1` when the pods are captured, `STOPPING=1` when the agent begins to
//! end. Without `NOTIFY_SOCKET` there are none.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The socket of a service manager.
#[derive(Debug, Default)]
pub struct Notify(Option<SocketAddr>);

impl Notify {
    /// The one that `NOTIFY_SOCKET` names: a path, or with `@` before it an abstract name.
    #[must_use]
    pub fn new(socket: Option<&OsStr>) -> Self {
        let address = socket.map(|socket| match socket.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(socket),
        });
        Self(address.and_then(|address| match address {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!(%error, ?socket, "invalid NOTIFY_SOCKET");
                None
            }
        }))
    }

    /// Reports that the pods of this node are captured.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Reports that the agent begins to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, state: &str) {
        let Some(address) = &self.0 else { return };
        let sent = || -> io::Result<usize> { UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), address) };
        if let Err(error) = sent() {
            tracing::warn!(%error, state, "notifying the service manager failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_systemd_reads() {
        let name = format!("underpass-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, socket) in [(by_path, path.as_os_str()), (by_name, OsStr::new(&format!("@{name}")))] {
            let notify = Notify::new(Some(socket));
            notify.ready();
            notify.stopping();
            let mut buffer = [0; 64];
            for expected in ["READY=1", "STOPPING=1"] {
                let n = manager.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..n], expected.as_bytes());
            }
        }
        std::fs::remove_file(&path).unwrap();
        // Without a variable, or without a service manager, nothing happens.
        Notify::new(None).ready();
        Notify::new(Some(path.as_os_str())).ready();
    }
}
