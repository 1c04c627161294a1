//! One node of a cluster: what a machine with a container runtime, a kubelet and kube-proxy would be.
//!
//! It has a network namespace (the testbed's [`Node`]), and a mount namespace and a cgroup namespace of its own: its `/etc`, `/opt`,
//! `/run`, `/var/lib`, `/var/log` and `/sys/fs/bpf` are private, and its cgroup is the root of every hierarchy. So each of its programs,
//! and the containers that they start, see a machine that is theirs. The PID namespace is the scenario's: processes of
//! other nodes are visible, which nothing here depends on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Program, Running,
        actor::{Actor, Io},
        api_server::{KUBERNETES, named},
        cgroup,
        child::Isolation,
        lab::Site,
        node::Node,
    },
    PODS, Subnets, containers,
};

/// The folder of the container runtime and its plugins.
const CONTAINERS: &str = "UNDERPASS_CONTAINERS";
/// Settings of the kernel that a kubelet writes (its setupKernelTunables), below /proc/sys.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// The address of the cluster's DNS server.
const DNS_SERVER: &str = "10.96.0.10";

/// A node that runs containers. A guard: dropped, its programs are killed; containers live on until the scenario ends.
#[derive(Debug)]
pub struct Machine {
    // In this order they are dropped.
    kubelet: Option<Running>,
    proxy: Option<Running>,
    runtime: Option<Running>,
    holder: Actor<()>,
    holder_cgroup: PathBuf,
    pub(super) node: Here,
    directory: PathBuf,
    /// Keys of the taints that it joins with.
    taints: Vec<String>,
    /// Of the kubelet and of kube-proxy, once they run.
    kubeconfigs: Option<[PathBuf; 2]>,
}

/// What its sites are made of.
#[derive(Debug)]
pub(super) struct Here {
    name: String,
    addresses: Vec<String>,
    subnets: Subnets,
    pub(super) cgroup: PathBuf,
    /// Mount points of hierarchies of version 1, and its cgroups in them.
    pub(super) hierarchies: Vec<(PathBuf, PathBuf)>,
    service: Site,
}

/// What the holder of its namespaces prepares.
#[derive(Debug, Serialize, Deserialize)]
struct Beginning {
    directory: PathBuf,
    /// Mount points of hierarchies, cgroup2's among them, and this machine's cgroups in them.
    hierarchies: Vec<(PathBuf, PathBuf)>,
    /// The cgroup of the holder.
    own: PathBuf,
}

impl Machine {
    /// Makes the namespaces. No program runs yet. `taints`: keys of those that it is to join with.
    pub(super) fn begin(node: &Node, subnets: Subnets, taints: &[&str]) -> Result<Self> {
        let (lab, name) = (node.lab(), node.spec().name.clone());
        let directory = lab.directory().join(&name);
        for part in
            ["etc/upper", "etc/work", "opt/cni/bin", "lib/kubelet", "lib/containerd", "log/pods", "log/containers"]
        {
            fs::create_dir_all(directory.join(part)).with_context(|| format!("create {part} of {name}"))?;
        }
        let hierarchies = lab.make_in_hierarchies(node.cgroup())?;
        let own = node.cgroup().join("machine");
        lab.make_cgroup(&own)?;
        let mut roots = hierarchies.clone();
        roots.push((cgroup::mount_point()?, node.cgroup().to_owned()));
        let isolation = Isolation {
            cgroup: Some(node.cgroup().to_owned()),
            hierarchies: hierarchies.iter().map(|(_, path)| path.clone()).collect(),
            network_of: Some(node.holder_pid()),
            ..Isolation::default()
        };
        let beginning = Beginning { directory: directory.clone(), hierarchies: roots, own: own.clone() };
        let mut holder = Site::new(lab, isolation).spawn(hold, beginning)?;
        holder.event::<()>().with_context(|| format!("the namespaces of {name}"))?;
        let node = Here {
            name,
            addresses: node.spec().addresses.iter().map(ToString::to_string).collect(),
            subnets,
            cgroup: node.cgroup().to_owned(),
            hierarchies,
            service: node.service("machine")?,
        };
        Ok(Self {
            kubelet: None,
            proxy: None,
            runtime: None,
            holder,
            holder_cgroup: own,
            node,
            directory,
            taints: taints.iter().map(ToString::to_string).collect(),
            kubeconfigs: None,
        })
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// Where its kubelet keeps the logs of pods, seen from outside.
    #[must_use]
    pub fn logs_of_pods(&self) -> PathBuf {
        self.directory.join("log/pods")
    }

    /// The cgroup of the process that holds its namespaces.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.holder_cgroup
    }

    /// A site on this machine as a service that it starts: its namespaces, and a cgroup of this name.
    pub fn service(&self, name: &str) -> Result<Site> {
        let lab = self.node.service.lab();
        let cgroup = self.node.cgroup.join(name);
        lab.make_cgroup(&cgroup)?;
        let holder = Some(self.holder.pid());
        let isolation = Isolation {
            cgroup: Some(cgroup),
            hierarchies: self.node.hierarchies.iter().map(|(_, path)| path.clone()).collect(),
            network_of: holder,
            mounts_of: holder,
            cgroups_of: holder,
        };
        Ok(Site::new(lab, isolation))
    }

    /// The container with this id, as a site.
    pub(super) fn container(&self, id: &str) -> Result<Site> {
        let cgroup =
            find(&self.node.cgroup.join("kubepods"), id)?.with_context(|| format!("no cgroup of container {id}"))?;
        let processes = cgroup.join("cgroup.procs");
        let text = fs::read_to_string(&processes).with_context(|| format!("read {}", processes.display()))?;
        let first = text.lines().next().and_then(|line| line.parse().ok());
        let first = Some(first.with_context(|| format!("no process in {}", cgroup.display()))?);
        let isolation = Isolation { cgroup: Some(cgroup), network_of: first, mounts_of: first, ..Isolation::default() };
        Ok(Site::new(self.node.service.lab(), isolation))
    }

    /// Installs the container runtime and the plugins of the node's network.
    pub(super) fn install_runtime(&self) -> Result<()> {
        let programs = named(CONTAINERS)?;
        for plugin in ["ptp", "host-local", "loopback"] {
            let to = self.directory.join("opt/cni/bin").join(plugin);
            fs::copy(programs.join(plugin), &to).with_context(|| format!("copy {}", to.display()))?;
        }
        let network = self.directory.join("etc/upper/cni/net.d");
        fs::create_dir_all(&network)?;
        fs::write(network.join("10-testbed.conflist"), containers::network(&self.node.subnets))?;
        fs::write(self.directory.join("containerd.toml"), containers::configuration(&programs))?;
        Ok(())
    }

    /// Starts containerd and waits until it answers.
    pub(super) fn start_runtime(&mut self) -> Result<()> {
        let programs = named(CONTAINERS)?;
        let configuration = self.directory.join("containerd.toml");
        let program = Program::new(programs.join("containerd"))
            .arg("-c")
            .arg(&configuration)
            .env("PATH", path_with(&programs)?)
            .named(&format!("containerd-{}", self.node.name));
        let runtime = self.runtime.insert(self.service("containerd")?.start(&program)?);
        runtime.wait_for_log("containerd successfully booted").map(drop)
    }

    /// Loads an image, an OCI archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let file = archive.to_string_lossy();
        self.ctr(&["images", "import", "--no-unpack", &file]).map(drop).with_context(|| format!("load {file}"))
    }

    /// Runs containerd's own client, `ctr`.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", "k8s.io"];
        all.extend(arguments);
        self.service("shell")?.run(&named(CONTAINERS)?.join("ctr").to_string_lossy(), &all)
    }

    /// Kills containerd, the kubelet and kube-proxy.
    pub(super) fn end_programs(&mut self) {
        (self.kubelet, self.proxy, self.runtime) = (None, None, None);
    }

    /// Starts what ran before.
    pub(super) fn start_programs(&mut self) -> Result<()> {
        self.start_runtime()?;
        let [kubelet, proxy] = self.kubeconfigs.clone().context("it has had no kubelet")?;
        self.start_kubelet(&kubelet, &proxy)
    }

    /// Starts the kubelet and kube-proxy.
    pub(super) fn start_kubelet(&mut self, kubelet: &Path, proxy: &Path) -> Result<()> {
        self.kubeconfigs = Some([kubelet.to_owned(), proxy.to_owned()]);
        let resolver = self.directory.join("resolv.conf");
        fs::write(&resolver, format!("nameserver {DNS_SERVER}\n"))?;
        let configuration = self.directory.join("kubelet.yaml");
        fs::write(&configuration, containers::kubelet(&resolver, DNS_SERVER, &self.taints))?;
        let programs = named(KUBERNETES)?;
        let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let program = Program::new(programs.join("kubelet"))
            .arg(file("config", &configuration))
            .arg(file("kubeconfig", kubelet))
            .arg(format!("--hostname-override={}", self.node.name))
            .arg(format!("--node-ip={}", self.node.addresses.join(",")))
            .env("PATH", path_with(&named(CONTAINERS)?)?)
            .named(&format!("kubelet-{}", self.node.name));
        self.kubelet = Some(self.service("kubelet")?.start(&program)?);
        let program = Program::new(programs.join("kube-proxy"))
            .arg(file("kubeconfig", proxy))
            .args(["--proxy-mode=nftables", &format!("--cluster-cidr={PODS}")])
            // The table of connections is the machine's, not the node's.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
            .arg(format!("--hostname-override={}", self.node.name))
            .named(&format!("kube-proxy-{}", self.node.name));
        self.proxy = Some(self.service("kube-proxy")?.start(&program)?);
        Ok(())
    }
}

/// The cgroup of this name, at any depth below another.
fn find(below: &Path, name: &str) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(below).with_context(|| format!("list {}", below.display()))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()) {
        if path.ends_with(name) {
            return Ok(Some(path));
        }
        if let Some(found) = find(&path, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// PATH with the programs of this folder first.
fn path_with(folder: &Path) -> Result<String> {
    let path = std::env::var("PATH").context("PATH")?;
    Ok(format!("{}:{path}:/usr/sbin:/sbin", folder.display()))
}

fn hold(beginning: Beginning, io: &mut Io) -> Result<()> {
    nix::sys::prctl::set_name(c"machine")?;
    // Its cgroups are now those that are to be the roots.
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).context("mount and cgroup namespaces")?;
    cgroup::enter(&beginning.own)?;
    prepare_mounts(&beginning)?;
    io.send(&())?;
    io.wait_for_end()
}

fn prepare_mounts(beginning: &Beginning) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    for (hierarchy, own) in &beginning.hierarchies {
        bind(own, hierarchy)?;
    }
    let directory = &beginning.directory;
    for (own, at) in [("opt", "/opt"), ("lib", "/var/lib"), ("log", "/var/log")] {
        bind(&directory.join(own), Path::new(at))?;
    }
    let layers = format!(
        "lowerdir=/etc,upperdir={0}/etc/upper,workdir={0}/etc/work",
        directory.to_str().context("a directory whose name is text")?
    );
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers.as_str())).context("mount /etc")?;
    let modest = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), modest, Some("mode=755")).context("mount /run")?;
    fs::create_dir_all("/run/netns")?;
    // An inherited one is another machine's.
    mount_bpffs(Path::new("/sys/fs/bpf"))?;
    keep_kernel_settings(&directory.join("settings"))?;
    // As on a machine that systemd has started: what containers mount there for the machine, or it for them, is seen on the
    // other side.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("share mounts")?;
    Ok(())
}

/// Mounts an empty bpf file system in place of one that is there.
pub(super) fn mount_bpffs(at: &Path) -> Result<()> {
    let _ = umount2(at, MntFlags::MNT_DETACH); // fails where there is none
    let modest = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("bpf"), at, Some("bpf"), modest, Some("mode=700")).with_context(|| format!("mount {}", at.display()))
}

/// A kubelet sets these for its node, and no namespace has them of its own: what it writes goes into files.
fn keep_kernel_settings(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for setting in SETTINGS {
        let (own, at) = (folder.join(setting.replace('/', ".")), Path::new("/proc/sys").join(setting));
        fs::copy(&at, &own).with_context(|| format!("copy {}", at.display()))?;
        bind(&own, &at)?;
    }
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let mounted = mount(Some(from), to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none);
    mounted.with_context(|| format!("mount {} at {}", from.display(), to.display()))
}
