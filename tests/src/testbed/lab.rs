//! The handle of a scenario: its directories, its cgroup, and the means to run things elsewhere. A [`Lab`] is the
//! scenario's own namespaces; a [`Site`] is a part of them (a pod's container, a node, the lab itself).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    actor::{self, Actor, Io},
    child::{BPFFS, Control, Isolation, RUN},
    process::{Program, Running},
};

/// The scenario's handle. Cheap to clone; usable from several threads.
#[derive(Clone, Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Control,
    directory: PathBuf,
    cgroup: PathBuf,
}

impl Lab {
    pub(super) fn new(control: Control, directory: &Path, cgroup: &Path) -> Result<Self> {
        let inner = Inner { control, directory: directory.to_owned(), cgroup: cgroup.to_owned() };
        let lab = Self { inner: Arc::new(inner) };
        super::netns::configure(&lab.here(), &["link set lo up".into()]).context("the lab's own network namespace")?;
        Ok(lab)
    }

    /// A directory on disk of this scenario alone, removed at its end. Logs are here: the runner prints them when the
    /// scenario fails.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// A directory in memory of this scenario alone.
    #[must_use]
    pub fn run_directory(&self) -> &'static Path {
        Path::new(RUN)
    }

    /// The scenario's own bpffs.
    #[must_use]
    pub fn bpffs(&self) -> &'static Path {
        Path::new(BPFFS)
    }

    /// The directory of a node's pins.
    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        self.bpffs().join("underpass/nodes").join(node)
    }

    /// The scenario's cgroup; nodes are below it.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.inner.cgroup
    }

    /// The lab itself: the network namespace of the links between nodes, no cgroup of its own.
    #[must_use]
    pub fn here(&self) -> Site {
        Site { lab: self.clone(), isolation: Isolation::default() }
    }

    /// Makes a cgroup below the scenario's, with its parents. It may exist.
    pub(super) fn make_cgroup(&self, path: &Path) -> Result<()> {
        debug_assert!(path.starts_with(self.cgroup()), "only below the scenario's own");
        std::fs::create_dir_all(path).with_context(|| format!("create cgroup {}", path.display()))
    }

    /// Makes a cgroup below the scenario's in every hierarchy of version 1 as well, with its parents: mount points, and the
    /// cgroups in them.
    pub(super) fn make_in_hierarchies(&self, path: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mount_point = super::cgroup::mount_point()?;
        let relative = path.strip_prefix(&mount_point).context("a cgroup of the scenario")?;
        let make = |hierarchy: PathBuf| {
            let made = super::cgroup::make_in_hierarchy(&hierarchy, relative)?;
            Ok((hierarchy, made))
        };
        super::cgroup::hierarchies()?.into_iter().map(make).collect()
    }
}

/// A cgroup and namespaces in which processes of a test run: a pod's container, a node, the lab itself.
#[derive(Clone, Debug)]
pub struct Site {
    lab: Lab,
    isolation: Isolation,
}

impl Site {
    pub(super) fn new(lab: &Lab, isolation: Isolation) -> Self {
        Self { lab: lab.clone(), isolation }
    }

    /// The scenario that this is a part of.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The cgroup that processes here are in; the scenario's own without one.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.isolation.cgroup.as_deref()
    }

    /// The same namespaces, in another cgroup, which is made. An attacker's choice, and how a test puts an agent
    /// beside the pods.
    pub fn in_cgroup(&self, cgroup: &Path) -> Result<Self> {
        self.lab.make_cgroup(cgroup)?;
        let isolation = Isolation { cgroup: Some(cgroup.to_owned()), ..self.isolation.clone() };
        Ok(Self { lab: self.lab.clone(), isolation })
    }

    /// The same with the files of the lab: a test's own are seen here.
    #[must_use]
    pub fn with_files_of_the_lab(&self) -> Self {
        let isolation = Isolation { mounts_of: None, ..self.isolation.clone() };
        Self { lab: self.lab.clone(), isolation }
    }

    /// The cgroup of this site in the network namespace of another.
    #[must_use]
    pub fn in_network_of(&self, other: &Self) -> Self {
        let isolation = Isolation { network_of: other.isolation.network_of, ..self.isolation.clone() };
        Self { lab: self.lab.clone(), isolation }
    }

    /// The process whose network namespace this is; none: the lab's own.
    #[must_use]
    pub fn network_of(&self) -> Option<i32> {
        self.isolation.network_of
    }

    /// Runs `function` here, in a process of its own, and returns what it returned.
    pub fn act<A, R>(&self, function: fn(A) -> Result<R>, arguments: A) -> Result<R>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        actor::start_plain(&self.lab.inner.control, &self.isolation, function, &arguments)?.join()
    }

    /// Starts `function` here; it may exchange messages with the test until it returns.
    pub fn spawn<A, R>(&self, function: fn(A, &mut Io) -> Result<R>, arguments: A) -> Result<Actor<R>>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        actor::start(&self.lab.inner.control, &self.isolation, function, &arguments)
    }

    /// Starts `function` here and does not wait: [`Actor::join`] does.
    pub fn begin<A, R>(&self, function: fn(A) -> Result<R>, arguments: A) -> Result<Actor<R>>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        actor::start_plain(&self.lab.inner.control, &self.isolation, function, &arguments)
    }

    /// Starts a program here.
    pub fn start(&self, program: &Program) -> Result<Running> {
        program.start(self)
    }

    /// Runs a program here to its end; an error unless it exits with 0. Returns its stdout.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        super::process::run(self, program, arguments)
    }
}
