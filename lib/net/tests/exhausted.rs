//! A process without descriptors: a socket that cannot be opened says so by the kernel's errno, from every step. Its own
//! target, because the limit is the process's: nothing else runs beside it.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, TcpListener},
    os::fd::AsRawFd as _,
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use underpass_net::{
    netns::Netns,
    socket::{
        from_pod,
        options::{Keepalive, Options, Role},
        to_application,
    },
    system::errno,
};

#[test]
fn without_descriptors_the_number_says_so() {
    let application = TcpListener::bind("127.0.0.1:0").expect("bound");
    let target = application.local_addr().expect("name");
    let client = IpAddr::from(Ipv4Addr::LOCALHOST);
    let pod = Netns::own().expect("own namespace");
    let options = |role| Options::of(role, Keepalive::default());
    let to_application = || to_application(&pod, client, target, 0, &options(Role::ToApplication)).map(drop);
    let to_outside = || from_pod(&pod, client, target, &options(Role::ToOutside)).map(drop);

    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("asked");
    let next = File::open("/dev/null").expect("opened").as_raw_fd() as u64; // closed again: the lowest that is free
    setrlimit(Resource::RLIMIT_NOFILE, next, most).expect("set");
    let (pool, outside) = (to_application().expect_err("no descriptor"), to_outside().expect_err("no descriptor"));
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("set");
    // The pod's ports are read from a file; a socket is made without one.
    assert!(pool.to_string().contains("ip_local_port_range") || pool.to_string().contains("namespace"), "{pool}");
    assert_eq!(errno(&pool), Some(Errno::EMFILE as i32), "{pool}");
    assert_eq!(errno(&outside), Some(Errno::EMFILE as i32), "{outside}");

    to_outside().expect("there are descriptors again");
    // Without the right to another's address; as root it works.
    let _ = to_application().inspect_err(|e| assert_ne!(errno(e), Some(Errno::EMFILE as i32), "{e}"));
}
