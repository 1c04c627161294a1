//! Listeners of an API and their audience: a unix socket for its owner, loopback for this machine, any address for all.
//!
//! What must hold: changes are requested over the unix socket alone. Loopback is shared with every pod of the node that uses
//! the host's network.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use http::{HeaderMap, Method, header};

use super::{AdminError, Target};

/// The clients that a listener admits, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// The user of this program, and root, by the kernel's word on the peer. Everything.
    Owner {
        /// The user of this program.
        uid: u32,
    },
    /// Programs of this machine that address it as such: a browser that a foreign DNS name has led here sends that name in
    /// `Host`, and is refused (DNS rebinding). Reading alone.
    Local,
    /// Every client that can reach the address.
    Any,
}

impl Audience {
    /// # Errors
    /// The reason of the refusal.
    pub(super) fn admits(self, method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
        match self {
            Self::Local if !is_local_host(headers) => {
                Err("the Host of a request must be localhost or a loopback address")
            }
            Self::Local if !method.is_safe() => {
                Err("loopback is shared with pods that use the host's network: changes are made over the unix socket")
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// A bound address, not served yet.
#[derive(Debug)]
pub struct Listener {
    bound: Bound,
    audience: Audience,
}

/// The two paths of a unix socket: where it is made, and where it is published. Dropped, it is removed, unless another process
/// has put another socket there.
#[derive(Debug)]
pub(super) struct SocketFile {
    aside: PathBuf,
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        for name in [&self.aside, &self.path] {
            if fs::symlink_metadata(name).is_ok_and(|found| found.ino() == self.inode) {
                let _ = fs::remove_file(name);
            }
        }
    }
}

/// A unix socket that listens at a temporary path, until it is published.
#[derive(Debug)]
#[must_use = "no client finds it until it is published"]
pub struct Unpublished {
    aside: PathBuf,
    path: PathBuf,
}

impl Unpublished {
    /// Publishes the socket: clients that connect from now on get this one. An older one is replaced, in one step: its server
    /// goes on with the connections that it has, and gets no more.
    ///
    /// # Errors
    /// Where the directory cannot be written.
    pub fn publish(self) -> Result<(), AdminError> {
        let Self { aside, path } = self;
        fs::rename(aside, &path).map_err(|source| AdminError::Listen { target: Target::Unix(path), source })
    }
}

impl Listener {
    /// For the admin API, in full: a socket at `path` that its owner and root may connect to. Its directory is made
    /// where it is missing. A socket that is there is replaced, as [`Unpublished::publish`] does.
    ///
    /// # Errors
    /// Where the directory or the socket cannot be made.
    pub fn unix(path: &Path) -> Result<Self, AdminError> {
        let (listener, unpublished) = Self::unix_aside(path)?;
        unpublished.publish()?;
        Ok(listener)
    }

    /// The same at a temporary path, `NAME.PID.new` in the same directory, because another process may still serve at `path`.
    ///
    /// # Errors
    /// Where the directory or the socket cannot be made.
    pub fn unix_aside(path: &Path) -> Result<(Self, Unpublished), AdminError> {
        let failed = |source| AdminError::Listen { target: Target::Unix(path.to_owned()), source };
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(directory) = directory {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&aside); // of a process that had this pid before
        let socket = UnixListener::bind(&aside).map_err(failed)?;
        let ready = || {
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
            socket.set_nonblocking(true)?;
            fs::symlink_metadata(&aside)
        };
        let made = ready().map_err(|e| {
            let _ = fs::remove_file(&aside);
            failed(e)
        })?;
        let unpublished = Unpublished { aside: aside.clone(), path: path.to_owned() };
        let file = SocketFile { aside, path: path.to_owned(), inode: made.ino() };
        let listener = Self { bound: Bound::Unix(socket, file), audience: Audience::Owner { uid: made.uid() } };
        Ok((listener, unpublished))
    }

    /// For the reading part of the admin API.
    ///
    /// # Errors
    /// Where `address` is no loopback address, is taken or is not ours.
    pub fn loopback(address: SocketAddr) -> Result<Self, AdminError> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(AdminError::NotLoopback { address });
        }
        Self::bind(address, Audience::Local)
    }

    /// For routes that every client may use: readiness, metrics.
    ///
    /// # Errors
    /// Where `address` is taken or not ours.
    pub fn any(address: SocketAddr) -> Result<Self, AdminError> {
        Self::bind(address, Audience::Any)
    }

    fn bind(address: SocketAddr, audience: Audience) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Listen { target: Target::Tcp(address), source };
        let socket = TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { bound: Bound::Tcp(socket, address), audience })
    }

    /// The same on a listening socket that was taken over from another process. It is bound anew where that listens at another
    /// address.
    ///
    /// # Errors
    /// As [`Listener::loopback`].
    pub fn loopback_on(address: SocketAddr, socket: Option<TcpListener>) -> Result<Self, AdminError> {
        match Self::inherited(address, socket, Audience::Local) {
            Some(listener) if address.ip().to_canonical().is_loopback() => Ok(listener),
            _ => Self::loopback(address),
        }
    }

    /// As [`Listener::loopback_on`], for routes that every client may use.
    ///
    /// # Errors
    /// As [`Listener::any`].
    pub fn any_on(address: SocketAddr, socket: Option<TcpListener>) -> Result<Self, AdminError> {
        Self::inherited(address, socket, Audience::Any).map_or_else(|| Self::any(address), Ok)
    }

    fn inherited(address: SocketAddr, socket: Option<TcpListener>, audience: Audience) -> Option<Self> {
        let socket = socket.filter(|socket| socket.local_addr().is_ok_and(|is| is == address))?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { bound: Bound::Tcp(socket, address), audience })
    }

    /// A duplicate of its socket, where it is one of TCP: for a process that takes over.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn socket(&self) -> io::Result<Option<TcpListener>> {
        match &self.bound {
            Bound::Tcp(socket, _) => socket.try_clone().map(Some),
            Bound::Unix(..) => Ok(None),
        }
    }

    /// Its address, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub fn target(&self) -> Target {
        match &self.bound {
            Bound::Tcp(_, address) => Target::Tcp(*address),
            Bound::Unix(_, file) => Target::Unix(file.path.clone()),
        }
    }

    pub(super) const fn audience(&self) -> Audience {
        self.audience
    }

    /// Registers it with the current runtime.
    pub(super) fn into_socket(self) -> io::Result<Socket> {
        Ok(match (self.bound, self.audience) {
            (Bound::Tcp(socket, _), _) => Socket::Tcp(tokio::net::TcpListener::from_std(socket)?),
            (Bound::Unix(socket, file), Audience::Owner { uid }) => {
                Socket::Unix { socket: tokio::net::UnixListener::from_std(socket)?, owner: uid, _file: file }
            }
            (Bound::Unix(..), _) => return Err(io::ErrorKind::InvalidInput.into()),
        })
    }
}

/// A listening socket of the runtime's.
pub(super) enum Socket {
    Tcp(tokio::net::TcpListener),
    Unix { socket: tokio::net::UnixListener, owner: u32, _file: SocketFile },
}

/// An accepted connection.
pub(super) enum Stream {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl Socket {
    /// Accepts the next connection of a client that may connect.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        loop {
            match self {
                Self::Tcp(socket) => {
                    let (stream, peer) = socket.accept().await?;
                    return Ok(Stream::Tcp(stream, peer));
                }
                Self::Unix { socket, owner, .. } => {
                    let (stream, _) = socket.accept().await?;
                    // The file's mode has the same effect, but not for a process that was passed a descriptor.
                    let peer = stream.peer_cred()?.uid();
                    if peer == 0 || peer == *owner {
                        return Ok(Stream::Unix(stream));
                    }
                    tracing::warn!(uid = peer, "admin connection refused: neither root nor the owner");
                }
            }
        }
    }
}

/// True for a `Host` that names this machine, and without one (HTTP/1.0): every browser sends it.
fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => true,
        (Some(host), None) => host.to_str().is_ok_and(is_local),
        (Some(_), Some(_)) => false,
    }
}

fn is_local(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().to_canonical().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_mean_this_machine() {
        for (host, want) in [
            ("localhost", true),
            ("LocalHost:15000", true),
            ("127.0.0.1", true),
            ("127.0.0.1:15000", true),
            ("127.9.9.9:1", true),
            ("[::1]", true),
            ("[::1]:15000", true),
            ("[::ffff:127.0.0.1]:15000", true),
            ("", false),
            ("localhost.example.org", false),
            ("example.org:15000", false),
            ("localhost:x", false),
            ("127.0.0.1.example.org", false),
            ("10.0.0.1:15000", false),
            ("[::]:15000", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_local(host), want, "{host:?}");
        }
    }
}
