//! A mesh under load while agents of two versions follow each other, and the version that counts.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::hammer::{self, Hammer, Struck},
    mesh::{AgentVersion, Mesh},
    testbed::{Actor, Capture, Exit, Lab, wait::wait_until},
};

use crate::{
    NODE,
    support::{Family, PORT, WORLD, ensure_hidden, load::Load},
};

/// a2 takes nothing in plaintext.
pub(super) const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a2, namespace: mesh}
spec:
  selector: {matchLabels: {app: a2}}
  mtls: {mode: STRICT}
";

/// A mesh under load, and what must not come about meanwhile.
pub(super) struct Scene {
    pub(super) mesh: Mesh,
    pub(super) wire: Capture,
    pub(super) load: Load,
    pub(super) stranger: Actor<Struck>,
}

impl Scene {
    /// With an agent of this version on node-1.
    pub(super) fn new(lab: &Lab, version: AgentVersion, options: &[&str]) -> Result<Self> {
        let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD), ("strict.yaml", STRICT)])?;
        mesh.options(options);
        mesh.start_on("node-2")?;
        mesh.agent_version(version);
        mesh.start_on(NODE)?;
        let wire = mesh.bed.capture_wire(NODE)?;
        let load = Load::begin(&mesh, lab)?;
        let to = Family::ALL
            .into_iter()
            .map(|family| family.to(mesh.bed.pod("mesh/a2")?, PORT))
            .collect::<Result<Vec<_>>>()?;
        let order = Hammer::new(to, "PLAINTEXT", load.until());
        let stranger = hammer::start(&mesh.bed.app("out/o1")?, order)?;
        let mut scene = Self { mesh, wire, load, stranger };
        scene.load.goes_on()?;
        Ok(scene)
    }

    /// The version whose tables count, by the marker; and those that have tables.
    pub(super) fn versions(&self) -> Result<(u32, BTreeSet<u32>)> {
        let pins = self.mesh.bed.lab().pins(NODE);
        let version = |name: &str| name.strip_prefix('v').and_then(|number| number.parse().ok());
        let marker = fs::read_link(pins.join("current"))?;
        let marker = marker.to_str().and_then(version).with_context(|| format!("marker {}", marker.display()))?;
        let mut tables = BTreeSet::new();
        for entry in fs::read_dir(&pins)? {
            tables.extend(version(&entry?.file_name().to_string_lossy()));
        }
        Ok((marker, tables))
    }

    /// This version's tables count, and there are no others.
    pub(super) fn is_of(&self, version: AgentVersion) -> Result<bool> {
        let version = version.tables();
        Ok(self.versions()? == (version, BTreeSet::from([version])))
    }

    /// An agent of this version takes over, undisturbed.
    pub(super) fn take_over(&mut self, version: AgentVersion) -> Result<()> {
        self.mesh.agent_version(version);
        let mut before = self.mesh.take_over(NODE)?;
        wait_until("its version alone to have tables", || self.is_of(version))?;
        ensure!(before.wait()? == Exit::Code(0), "{}", before.log()?);
        Ok(())
    }

    /// An agent starts where none runs.
    pub(super) fn start(&mut self, version: AgentVersion) -> Result<()> {
        self.mesh.agent_version(version);
        self.mesh.start_on(NODE)?;
        ensure!(self.is_of(version)?, "{:?}", self.versions()?);
        Ok(())
    }

    /// Every connection that failed was one that `allowed` allows; nothing was in the clear.
    pub(super) fn end(self, allowed: impl Fn(&str) -> bool) -> Result<()> {
        let Self { mesh, wire, load, stranger } = self;
        let (answered, failed) = load.end()?;
        ensure!(answered > 60 && failed.keys().all(|what| allowed(what)), "{answered} answered, {failed:?}");
        let (answered, refused) = stranger.join()?;
        ensure!(answered == 0 && !refused.is_empty(), "{answered} plaintext connections reached a2: {refused:?}");
        ensure!(wire.contains(b"OUTSIDE")?, "the capture sees nothing");
        for secret in ["HAMMERED", "OPEN", "THERE", "BACK"] {
            ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", secret)?;
        }
        Ok(())
    }

    /// An agent starts that knows the tables that count.
    pub(super) fn start_next(&mut self) -> Result<()> {
        self.start(self.counting()?)
    }

    /// The version whose tables count: that of the agent that runs, after a take-over has come to its end.
    pub(super) fn counting(&self) -> Result<AgentVersion> {
        let (marker, _) = self.versions()?;
        let known = [AgentVersion::This, AgentVersion::Next].into_iter().find(|version| version.tables() == marker);
        known.with_context(|| format!("version {marker} counts"))
    }
}
