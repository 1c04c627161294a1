//! Who listens where an agent will: read from /proc, so that no port is taken for a look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// The name of an agent's process.
const AGENT: &str = "underpass-agent";
/// `TCP_LISTEN` (net/tcp_states.h), as /proc/net/tcp writes it.
const LISTEN: &str = "0A";

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    inode: u64,
}

/// A process that listens where an agent will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The agent's address.
    pub(super) wanted: SocketAddr,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Its name; none: no process that is visible has the socket.
    pub(super) name: Option<String>,
}

/// Those that are in the way of these addresses, without agents, below `/proc` of this network namespace.
///
/// # Errors
/// The table of sockets cannot be read. Without IPv6 the kernel has none for it.
pub(super) fn holders(proc: &Path, wanted: &[SocketAddr]) -> io::Result<Vec<Holder>> {
    let mut listening = parse(&fs::read_to_string(proc.join("net/tcp"))?);
    match fs::read_to_string(proc.join("net/tcp6")) {
        Ok(table) => listening.extend(parse(&table)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let in_the_way = |wanted: SocketAddr| listening.iter().filter(move |one| collide(wanted, one.address));
    let found: Vec<_> = wanted.iter().flat_map(|wanted| in_the_way(*wanted).map(|one| (*wanted, *one))).collect();
    let names = names(proc, &found.iter().map(|(_, one)| one.inode).collect());
    let holder = |(wanted, one): (SocketAddr, Listening)| {
        let name = names.get(&one.inode).cloned();
        Holder { wanted, address: one.address, name }
    };
    Ok(found.into_iter().map(holder).filter(|holder| holder.name.as_deref() != Some(AGENT)).collect())
}

/// The listening sockets of a table: `sl local_address rem_address st ... inode`.
fn parse(table: &str) -> Vec<Listening> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        if *state != LISTEN {
            return None;
        }
        let (ip, port) = local.split_once(':')?;
        let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
        Some(Listening { address, inode: inode.parse().ok()? })
    };
    table.lines().filter_map(row).collect()
}

/// An address is words of 32 bits in the byte order of the machine, each of 8 digits.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (to, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                to.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Two sockets cannot listen there: of one port, and one address or every address. `[::]` is every address of IPv4 as well, unless its
/// socket says otherwise, which no table tells.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let is_every = |a: IpAddr, b: IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() == b.port() && (a.ip() == b.ip() || is_every(a.ip(), b.ip()) || is_every(b.ip(), a.ip()))
}

/// The names of the processes that have these sockets.
fn names(proc: &Path, inodes: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    if inodes.is_empty() {
        return names;
    }
    // A process that ends meanwhile has none.
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let is_number = process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        let descriptors = if is_number { fs::read_dir(process.path().join("fd")).ok() } else { None };
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let inode =
                target.to_string_lossy().strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                names.insert(inode, name.trim().to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn tables_are_read() {
        const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 0100007F:3A98 0100007F:1000 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   2: 00000000000000000000000001000000:3AAC 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 103 1
";
        let of = |address: &str, inode| Listening { address: address.parse().unwrap(), inode };
        if cfg!(target_endian = "little") {
            assert_eq!(parse(TABLE), [of("127.0.0.1:15000", 101), of("[::1]:15020", 103)]);
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_is_no_empty_one() {
        let proc = tempfile::tempdir().unwrap();
        let found = || holders(proc.path(), &[]);
        assert!(found().is_err(), "there is no table at all");
        fs::create_dir(proc.path().join("net")).unwrap();
        fs::write(proc.path().join("net/tcp"), "").unwrap();
        assert_eq!(found().unwrap(), [], "a kernel without IPv6");
        fs::create_dir(proc.path().join("net/tcp6")).unwrap();
        assert!(found().is_err());
    }

    #[test]
    fn every_address_is_also_this_one() {
        let check = |a: &str, b: &str, expected| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((collide(a, b), collide(b, a)), (expected, expected), "{a} {b}");
        };
        check("127.0.0.1:1", "127.0.0.1:1", true);
        check("127.0.0.1:1", "127.0.0.1:2", false);
        check("127.0.0.1:1", "10.0.0.1:1", false);
        check("0.0.0.0:1", "10.0.0.1:1", true);
        check("[::]:1", "10.0.0.1:1", true);
        check("[::]:1", "0.0.0.0:1", true);
        check("0.0.0.0:1", "[::1]:1", false);
        check("127.0.0.1:1", "[::1]:1", false);
    }

    #[test]
    fn a_holder_is_named_by_its_process() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let found = holders(Path::new("/proc"), &[taken, address]).unwrap();
        let own = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
        assert_eq!(found, [Holder { wanted: address, address, name: Some(own) }]);
    }
}
