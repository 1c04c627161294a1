//! A network namespace that an agent makes for a waypoint, and the cable to it. Level kernel: needs root, and no mesh.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use underpass_net::{netns::Netns, socket::waypoint_listener};
use underpass_tests::testbed::{Lab, wait::wait_until};

underpass_tests::scenarios! {
    it_carries_both_families,
    it_goes_with_the_last_descriptor,
}

const PORT: u16 = 15008;
const DEVICE: &str = "upw0";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Address there, address here, and the next hop from there.
const FAMILIES: [[&str; 3]; 2] = [["10.9.1.7", "10.0.0.1", "169.254.1.1"], ["fd09::7", "fd00::1", "fe80::1"]];

/// Two namespaces with a cable between them, in use.
fn cabled() -> Result<[Netns; 2]> {
    let all = [Netns::create()?, Netns::create()?];
    let [here, there] = &all;
    here.add_cable(DEVICE, there, "eth0")?;
    for (netns, device) in [(here, "lo"), (there, "lo"), (here, DEVICE), (there, "eth0")] {
        netns.set_up(device)?;
    }
    Ok(all)
}

fn it_carries_both_families(_: &Lab) -> Result<()> {
    let [here, there] = cabled()?;
    ensure!(here.add_cable(DEVICE, &there, "eth1").is_err(), "of one name there is one device");
    let listener = waypoint_listener(&there, PORT)?;
    listener.set_nonblocking(false)?;
    for [ip, own, gateway] in FAMILIES {
        let ip: IpAddr = ip.parse()?;
        there.add_address("eth0", ip)?;
        there.set_default_route(gateway.parse()?, "eth0")?;
        here.add_address("lo", own.parse()?)?;
        // A route can be set again.
        here.set_host_route(ip, DEVICE)?;
        here.set_host_route(ip, DEVICE)?;
        let mut client = here.enter(|| TcpStream::connect_timeout(&(ip, PORT).into(), TIMEOUT))?.context(ip)?;
        let (mut server, peer) = listener.accept()?;
        ensure!(peer.ip().to_canonical() == own.parse::<IpAddr>()?, "{peer}");
        client.write_all(b"x")?;
        server.read_exact(&mut [0])?;
    }
    ensure!(here.remove_device(DEVICE)? && !here.remove_device(DEVICE)?);
    Ok(())
}

fn it_goes_with_the_last_descriptor(_: &Lab) -> Result<()> {
    let [here, there] = cabled()?;
    let listener = waypoint_listener(&there, PORT)?;
    let [[ip, own, gateway], _] = FAMILIES;
    let ip: IpAddr = ip.parse()?;
    there.add_address("eth0", ip)?;
    there.set_default_route(gateway.parse()?, "eth0")?;
    here.add_address("lo", own.parse()?)?;
    here.set_host_route(ip, DEVICE)?;
    drop(there);
    let has_device =
        || here.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev").map(|all| all.contains(DEVICE)));
    // A socket keeps the namespace: what has gone would not answer.
    let mut client = here.enter(|| TcpStream::connect_timeout(&(ip, PORT).into(), TIMEOUT))??;
    client.write_all(b"x")?;
    drop((client, listener));
    wait_until("the device is gone", || Ok(!has_device()??))
}
