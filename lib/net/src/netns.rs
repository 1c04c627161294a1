//! Network namespaces: opening, entering and reading them, and making one. A pod is its namespace, and a [`Netns`] holds one open.
//!
//! What must hold: nothing runs on a thread that is inside a namespace but the closure it was entered for. A thread that
//! cannot leave again ends the process, because its next system call would happen in the pod.

mod link;
mod route;
mod spawn;
mod watch;

use std::{
    cell::{Cell, OnceCell},
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage},
};

use crate::{
    socket::PortPool,
    system::{self, SystemError},
};

pub use route::{Family, Rule};
pub use watch::AddressWatch;

/// An open network namespace. It lives as long as this handle does, and with it the pod's devices.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    cookie: u64,
    ports: OnceLock<PortPool>,
}

/// An address of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address; never a v4-mapped one.
    pub address: IpAddr,
    /// The device that it is on.
    pub device: String,
}

thread_local! {
    /// The namespace that this thread belongs to.
    static HOME: OnceCell<Netns> = const { OnceCell::new() };
    /// The thread is inside another one now.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Netns {
    /// The namespace that the calling thread is in.
    pub fn own() -> Result<Self, SystemError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let opened = File::open(path)
            .and_then(|file| Ok(Self { file: file.into(), cookie: cookie_here()?, ports: OnceLock::new() }));
        opened.map_err(|source| failed("open", path.display(), source))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self, SystemError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// The namespace that a path names: a process's, or one that is bound to a file.
    pub fn open(path: &Path) -> Result<Self, SystemError> {
        let file = File::open(path).map_err(|source| failed("open", path.display(), source))?;
        Self::from_fd(file.into())
    }

    /// The namespace that a descriptor names.
    pub fn from_fd(file: OwnedFd) -> Result<Self, SystemError> {
        let cookie = on_thread(file.as_fd(), cookie_here)
            .and_then(|asked| asked)
            .map_err(|source| failed("read the cookie of", "behind a descriptor", source))?;
        Ok(Self { file, cookie, ports: OnceLock::new() })
    }

    /// SO_NETNS_COOKIE: its name to the kernel programs, never reused while the machine runs.
    #[must_use]
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The ports that the tunnel uses towards this namespace's applications; read from its settings once.
    pub(crate) fn ports(&self) -> Result<&PortPool, SystemError> {
        match self.ports.get() {
            Some(ports) => Ok(ports),
            None => {
                let pool = PortPool::of(self)?;
                Ok(self.ports.get_or_init(|| pool))
            }
        }
    }

    /// Runs `f` inside, on a thread made for it that ends with it: for what takes long.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, SystemError> {
        on_thread(self.as_fd(), f).map_err(|source| failed("enter", self.cookie, source))
    }

    /// Runs `f` inside, on the calling thread, which has left again when this returns or unwinds: two system calls.
    /// Only for what does not block. Entering one namespace from within another is refused.
    pub fn enter_here<T>(&self, f: impl FnOnce() -> T) -> Result<T, SystemError> {
        if INSIDE.get() {
            let source = io::Error::other("this thread is inside another namespace");
            return Err(failed("enter", self.cookie, source));
        }
        HOME.with(|home| {
            let home = match home.get() {
                Some(home) => home,
                None => {
                    let own = Self::own()?;
                    home.get_or_init(|| own)
                }
            };
            if home.cookie == self.cookie {
                return Ok(f());
            }
            setns(self, CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter", self.cookie, e.into()))?;
            let _leave = Leave::to(home);
            Ok(f())
        })
    }

    /// The addresses of the namespace, of every device, tentative ones included; sorted.
    pub fn addresses(&self) -> Result<Vec<LocalAddress>, SystemError> {
        let listed = self.enter_here(|| -> io::Result<Vec<LocalAddress>> {
            let addresses = getifaddrs()?.filter_map(|interface| {
                let address = ip_of(&interface.address?)?;
                // An IPv4 address may have a label of its own, which begins with the device's name.
                let device = interface.interface_name.split(':').next().unwrap_or_default().to_owned();
                Some(LocalAddress { address, device })
            });
            Ok(addresses.collect())
        })?;
        let mut addresses = listed.map_err(|source| failed("list the addresses of", self.cookie, source))?;
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    /// Reads a setting of the namespace: `net.ipv4.tcp_fwmark_accept`. Names are paths below /proc/sys with dots.
    pub fn sysctl(&self, name: &str) -> Result<String, SystemError> {
        let read = self.enter_here(|| std::fs::read_to_string(sysctl_path(name)))?;
        let text = read.map_err(|source| SystemError::Sysctl { operation: "read", object: name.into(), source })?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes a setting of the namespace.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), SystemError> {
        let written = self.enter_here(|| std::fs::write(sysctl_path(name), value))?;
        written.map_err(|source| SystemError::Sysctl { operation: "write", object: name.into(), source })
    }

    /// True if the namespace has this setting: IPv6 may be absent from the kernel.
    pub fn has_sysctl(&self, name: &str) -> Result<bool, SystemError> {
        self.enter_here(|| Path::new(&sysctl_path(name)).exists())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The guard of a thread inside a namespace: dropped, the thread is back in its own.
struct Leave<'a>(&'a Netns);

impl<'a> Leave<'a> {
    fn to(home: &'a Netns) -> Self {
        INSIDE.set(true);
        Self(home)
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Err(e) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot leave a pod's network namespace: {e}"); // nothing else may run on this thread
            std::process::abort();
        }
        INSIDE.set(false);
    }
}

fn failed(operation: &'static str, object: impl ToString, source: io::Error) -> SystemError {
    SystemError::Namespace { operation, object: object.to_string(), source }
}

/// Runs `f` in a namespace on a thread of its own.
fn on_thread<T: Send>(namespace: BorrowedFd<'_>, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let ended = std::thread::scope(|scope| {
        let inside = move || -> io::Result<T> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(f())
        };
        Ok::<_, io::Error>(std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside)?.join())
    })?;
    match ended {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The cookie of the calling thread's namespace.
fn cookie_here() -> io::Result<u64> {
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    system::netns_cookie(&socket)
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    match address.family()? {
        AddressFamily::Inet => Some(IpAddr::V4(address.as_sockaddr_in()?.ip())),
        AddressFamily::Inet6 => Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())),
        _ => None,
    }
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_entered_without_privileges() {
        let own = Netns::own().expect("own namespace");
        assert_ne!(own.cookie(), 0);
        assert_eq!(own.enter_here(|| 7).expect("entered"), 7);
        assert_eq!(Netns::own().expect("again").cookie(), own.cookie());
        let addresses = own.addresses().expect("addresses");
        assert!(addresses.iter().any(|a| a.address.is_loopback() && a.device == "lo"), "{addresses:?}");
        assert!(own.has_sysctl("net.ipv4.ip_local_port_range").expect("asked"));
        assert!(!own.has_sysctl("net.ipv4.no_such_setting").expect("asked"));
    }

    #[test]
    fn an_error_names_operation_and_object() {
        let e = Netns::open(Path::new("/proc/0/ns/net")).expect_err("no such process");
        assert!(e.to_string().starts_with("open network namespace /proc/0/ns/net: "), "{e}");
        assert_eq!(e.kernel_error().kind(), io::ErrorKind::NotFound);
        let e = Netns::own().expect("own").sysctl("net.ipv4.no_such_setting").expect_err("no such setting");
        assert!(e.to_string().starts_with("read sysctl net.ipv4.no_such_setting: "), "{e}");
    }
}
