//! Pods that come and go for long, and what is left of them in the agent.

use std::fs;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{http, socket::Dial},
    mesh::Mesh,
    testbed::{Lab, describe::PodSpec, wait::wait_until},
};

use super::{
    support::{Family, PORT, load::Load, passing_pod, tables},
    up,
};

/// The resources of an agent and the kernel for pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Census {
    pins: usize,
    entries: usize,
    listeners: usize,
    attested: usize,
    /// But those of tunnels, which close when they have been idle for minutes.
    descriptors: usize,
    /// But those that write answers of the admin API, which end when they have been idle for seconds.
    threads: usize,
    certificates: usize,
    devices: usize,
}

impl Census {
    fn take(mesh: &mut Mesh) -> Result<Self> {
        let pid = mesh.agent("node-1")?.pid();
        let count = |path: &str| -> Result<usize> { Ok(fs::read_dir(path).with_context(|| path.to_owned())?.count()) };
        let kernel = tables(mesh, "node-1")?;
        let dump = mesh.admin("node-1", "/config_dump")?;
        Ok(Self {
            pins: kernel.pods()?.len(),
            entries: kernel.contents()?.len(),
            listeners: kernel.listeners()?.len(),
            attested: kernel.attested()?,
            descriptors: count(&format!("/proc/{pid}/fd"))?.saturating_sub(tunnels(mesh, "node-1")?),
            threads: threads(pid)?,
            certificates: dump["certificates"].as_array().map_or(0, Vec::len),
            devices: mesh.bed.node("node-1")?.shell()?.run("ip", &["-o", "link"])?.lines().count(),
        })
    }

    /// Nothing here is more than there.
    fn is_within(&self, other: &Self) -> bool {
        let counts = |c: &Self| {
            [c.pins, c.entries, c.listeners, c.attested, c.descriptors, c.threads, c.certificates, c.devices]
        };
        counts(self).into_iter().zip(counts(other)).all(|(here, there)| here <= there)
    }
}

/// The number of threads of a process that are not of its runtime's pool.
fn threads(pid: i32) -> Result<usize> {
    let folder = format!("/proc/{pid}/task");
    let all = fs::read_dir(&folder).with_context(|| folder.clone())?;
    // One that ends meanwhile is none.
    let names = all.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    Ok(names.filter(|name| name.trim_end() != "tokio-rt-worker").count())
}

/// The number of open tunnels of a node's agent, in both directions.
fn tunnels(mesh: &Mesh, node: &str) -> Result<usize> {
    let text = mesh.bed.node(node)?.shell()?.act(http::fetch, "http://127.0.0.1:15020/metrics".to_owned())?;
    let open = text.lines().filter(|line| line.starts_with("underpass_tunnels_open{"));
    open.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<usize>()?)).sum()
}

/// By the hundred, with connections: by the end of their sandboxes, and by leaving the mesh first. Nothing is left of them.
pub(crate) fn pods_that_come_and_go(lab: &Lab) -> Result<()> {
    const ROUNDS: usize = 8;
    const PODS: usize = 25;
    let mut mesh = up(lab, &["--release-drain", "1"])?;
    let mut load = Load::begin(&mesh, lab)?;
    load.goes_on()?;
    load.end()?;
    let before = Census::take(&mut mesh)?;
    let mut load = Load::begin(&mesh, lab)?;
    for round in 0..ROUNDS {
        let of = |mode: &str| (0..PODS).map(|i| passing_pod(round, i, mode)).collect::<Result<Vec<_>>>();
        let text = |pods: &[(PodSpec, String)]| pods.iter().map(|(_, text)| text.as_str()).collect::<String>();
        let pods = of("ambient")?;
        let specs: Vec<PodSpec> = pods.iter().map(|(spec, _)| spec.clone()).collect();
        mesh.bed.add_pods(&specs)?;
        mesh.edit("passing.yaml", Some(&text(&pods)))?;
        let pinned = |mesh: &Mesh| -> Result<usize> { Ok(tables(mesh, "node-1")?.listeners()?.len()) };
        wait_until("all to be enrolled", || Ok(pinned(&mesh)? == before.listeners + 2 * PODS))?;
        let names: Vec<String> = specs.iter().map(PodSpec::full_name).collect();
        for (name, family) in names.iter().zip(Family::ALL) {
            let talk =
                mesh.call(name, Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("PASSING"))?.answered()?;
            ensure!(talk.who()?.peer.ip() == talk.local.ip().to_canonical(), "{name}: {talk:?}");
        }
        let during = Census::take(&mut mesh)?;
        ensure!(!during.is_within(&before) && during.certificates > before.certificates, "{during:?}");
        if round % 2 == 0 {
            mesh.edit("passing.yaml", Some(&text(&of("none")?)))?;
            wait_until("all to be released", || Ok(pinned(&mesh)? == before.listeners))?;
        }
        names.iter().try_for_each(|name| mesh.bed.remove_pod(name))?;
        mesh.edit("passing.yaml", None)?;
        load.goes_on()?;
    }
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "others noticed: {failed:?}");
    let mut now = before.clone();
    wait_until("everything to be as before", || {
        now = Census::take(&mut mesh)?;
        Ok(now.is_within(&before))
    })
    .with_context(|| format!("before {before:?}, now {now:?}"))?;
    println!("before {before:?}, after {now:?}");
    Ok(())
}
