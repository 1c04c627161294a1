//! A pod: a sandbox process that holds its network and mount namespaces and is its oldest process, and a cgroup per
//! container, laid out as the kubelet and containerd do.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

use super::{
    actor::{Actor, Io},
    cgroup,
    child::{Isolation, RUN},
    describe::{PodSpec, ServiceSpec, Subnet},
    lab::{Lab, Site},
    netns,
    node::Node,
};

/// What a pod has its own version of, so that names resolve to what the description says and to nothing else. The
/// second need not be there: without one, the resolver asks 127.0.0.1, where no server answers.
pub(super) const RESOLVER_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    lab: Lab,
    number: usize,
    cgroup: PathBuf,
    driver: cgroup::Driver,
    sandbox: Actor<()>,
}

/// The first state of a sandbox.
#[derive(Serialize, Deserialize)]
struct Sandbox {
    directory: PathBuf,
    own_network: bool,
}

impl Pod {
    /// Starts the sandbox. The device is added by [`Node`]'s and the pod's own commands.
    pub(super) fn begin(node: &Node, spec: &PodSpec, number: usize, services: &[ServiceSpec]) -> Result<Self> {
        let (lab, driver) = (node.lab().clone(), node.spec().driver);
        let cgroup = node.cgroup().join(driver.pod(spec.qos, &spec.uid));
        let own = cgroup.join(driver.container(&container_id(spec, "sandbox")));
        lab.make_cgroup(&own)?;
        write_resolver_files(spec, number, services)?;
        let network_of = spec.host_network.then(|| node.holder_pid());
        let site = Site::new(&lab, Isolation { cgroup: Some(own), network_of, ..Isolation::default() });
        let beginning = Sandbox { directory: directory(number), own_network: !spec.host_network };
        let sandbox = site.spawn(run_sandbox, beginning)?;
        Ok(Self { spec: spec.clone(), lab, number, cgroup, driver, sandbox })
    }

    /// Waits until its namespaces are there.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.sandbox.event().with_context(|| format!("sandbox of {}", self.spec.full_name()))
    }

    /// The commands that give the node its end of the pod's device.
    pub(super) fn node_commands(&self) -> Vec<String> {
        let (n, mac) = (self.number, netns::mac(MAC_GROUP, self.number));
        let mut commands = vec![
            format!("link add v{n} type veth peer name eth0 address {mac} netns {}", self.sandbox.pid()),
            format!("link set v{n} master br0 up"),
        ];
        for address in self.spec.addresses.iter().chain(&self.spec.extra_addresses) {
            commands.push(format!("neigh replace {address} lladdr {mac} dev br0 nud permanent"));
        }
        commands
    }

    /// The commands that configure the pod's end, once the node's are done.
    pub(super) fn commands(&self, subnets: &[Subnet], bridge_mac: &str) -> Vec<String> {
        let mut commands = vec!["link set lo up".into()];
        for address in self.spec.addresses.iter().chain(&self.spec.extra_addresses) {
            let Some(subnet) = subnets.iter().find(|s| s.net.contains(address)) else { continue };
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            commands.push(format!("addr add {address}/{} dev eth0{nodad}", subnet.net.prefix_len()));
        }
        commands.push("link set eth0 up".into());
        for subnet in subnets {
            let Some(own) = self.spec.addresses.iter().find(|a| a.is_ipv4() == subnet.gateway.is_ipv4()) else {
                continue;
            };
            let everywhere = if own.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            commands.push(format!("route add {everywhere} via {} dev eth0 src {own}", subnet.gateway));
            commands.push(format!("neigh replace {} lladdr {bridge_mac} dev eth0 nud permanent", subnet.gateway));
        }
        commands
    }

    /// Its specification.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Its address of the family; an error where it has none.
    pub fn address(&self, ipv4: bool) -> Result<IpAddr> {
        let found = self.spec.addresses.iter().find(|a| a.is_ipv4() == ipv4).copied();
        found.with_context(|| format!("{} has no such address", self.spec.full_name()))
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Result<IpAddr> {
        self.address(true)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Result<IpAddr> {
        self.address(false)
    }

    /// The MAC address of its device.
    #[must_use]
    pub fn mac(&self) -> String {
        netns::mac(MAC_GROUP, self.number)
    }

    /// The node's end of its device.
    #[must_use]
    pub fn node_device(&self) -> String {
        format!("v{}", self.number)
    }

    /// The pod's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The sandbox process, in the scenario's PID namespace.
    #[must_use]
    pub fn sandbox_pid(&self) -> i32 {
        self.sandbox.pid()
    }

    /// A container, with a cgroup that is made when it is first asked for.
    pub fn container(&self, name: &str) -> Result<Site> {
        let cgroup = self.cgroup.join(self.driver.container(&container_id(&self.spec, name)));
        self.lab.make_cgroup(&cgroup)?;
        let pid = Some(self.sandbox_pid());
        Ok(Site::new(
            &self.lab,
            Isolation { cgroup: Some(cgroup), network_of: pid, mounts_of: pid, ..Isolation::default() },
        ))
    }

    /// The container `app`.
    pub fn app(&self) -> Result<Site> {
        self.container("app")
    }

    /// The pod's namespaces without a cgroup of its own, for the testbed's own work there.
    pub(super) fn outside(&self) -> Site {
        Site::new(&self.lab, Isolation { network_of: Some(self.sandbox_pid()), ..Isolation::default() })
    }

    /// The services are these now: rewrites its /etc/hosts.
    pub(super) fn set_services(&self, services: &[ServiceSpec]) -> Result<()> {
        write_resolver_files(&self.spec, self.number, services)
    }

    /// Ends every process of the pod and removes its cgroup, as the kubelet does when the pod is deleted.
    pub(super) fn remove(self) -> Result<()> {
        cgroup::kill(&self.cgroup)?;
        drop(self.sandbox);
        cgroup::remove(&self.cgroup)
    }
}

/// Third octet of the MAC addresses of pods.
const MAC_GROUP: u8 = 2;

fn directory(number: usize) -> PathBuf {
    Path::new(RUN).join("pods").join(number.to_string())
}

/// Written in place: what is mounted in the pod is the file, not its name.
fn write_resolver_files(spec: &PodSpec, number: usize, services: &[ServiceSpec]) -> Result<()> {
    let directory = directory(number);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("hosts"), hosts(spec, services))?;
    // A resolver without a server, so that an unknown name fails at once.
    fs::write(directory.join("resolv.conf"), "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")?;
    Ok(())
}

fn hosts(spec: &PodSpec, services: &[ServiceSpec]) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    for address in &spec.addresses {
        text += &format!("{address} {}\n", spec.name);
    }
    for service in services {
        let (name, namespace) = (&service.name, &service.namespace);
        let short = if *namespace == spec.namespace { format!(" {name}") } else { String::new() };
        for address in &service.addresses {
            let qualified = format!("{name}.{namespace}");
            text += &format!("{address} {qualified}.svc.cluster.local {qualified}.svc {qualified}{short}\n");
        }
    }
    text
}

/// The pause container: makes the namespaces and holds them.
fn run_sandbox(sandbox: Sandbox, io: &mut Io) -> Result<()> {
    nix::sys::prctl::set_name(c"pause")?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    for file in RESOLVER_FILES.into_iter().filter(|f| Path::new(f).exists()) {
        let own = sandbox.directory.join(Path::new(file).file_name().unwrap_or_default());
        mount(Some(&own), file, none, MsFlags::MS_BIND, none).with_context(|| format!("mount over {file}"))?;
    }
    if sandbox.own_network {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        netns::write_settings(false)?;
    }
    io.send(&())?;
    io.wait_for_end()
}

/// A container id as container runtimes make them: 64 hexadecimal digits; here the same in every run.
fn container_id(spec: &PodSpec, container: &str) -> String {
    hex_of(&[&spec.uid, container])
}

/// 64 hexadecimal digits that follow from the words (FNV-1a with four offsets; nothing secret hangs on it).
pub(super) fn hex_of(words: &[&str]) -> String {
    (0..4_u64)
        .map(|salt| {
            let bytes = words.iter().flat_map(|w| w.bytes().chain([0]));
            let hash = bytes.fold(0xcbf2_9ce4_8422_2325 ^ (salt << 32), |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            format!("{hash:016x}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_as_in_a_cluster() {
        let pod = PodSpec::new("shop", "cart", "n", &["10.0.0.5"]).expect("pod");
        let service = |namespace: &str, name: &str, vip: &str| ServiceSpec {
            namespace: namespace.into(),
            name: name.into(),
            addresses: vec![vip.parse().expect("address")],
            has_vips: true,
            ports: Vec::new(),
        };
        let text = hosts(&pod, &[service("shop", "db", "10.96.0.1"), service("other", "db", "10.96.0.2")]);
        assert!(text.contains("10.96.0.1 db.shop.svc.cluster.local db.shop.svc db.shop db\n"), "{text}");
        assert!(text.contains("10.96.0.2 db.other.svc.cluster.local db.other.svc db.other\n"), "{text}");
        assert!(text.contains("10.0.0.5 cart\n"), "{text}");
    }

    #[test]
    fn container_ids_are_64_digits_and_differ() {
        assert_eq!(hex_of(&["a", "b"]).len(), 64);
        assert_ne!(hex_of(&["a", "b"]), hex_of(&["ab", ""]));
    }
}
