//! What agents wrote while something happened, also those that have been replaced meanwhile.

use std::{
    collections::btree_map::{BTreeMap, Entry},
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::testbed::Kubernetes;

/// In the access log: a connection that the applications have ended.
const IN_ORDER: &str = "\"reason\":\"finished\"";

/// The logs of the agents of a cluster from a moment on. A kubelet removes those of a container that has gone; open files
/// outlive that.
#[derive(Debug)]
pub struct AgentLogs {
    /// Where the kubelets of the nodes keep the logs of pods.
    directories: Vec<PathBuf>,
    /// By their inodes: a file that has grown gets another name.
    open: BTreeMap<u64, (String, File)>,
}

impl AgentLogs {
    /// From now on, those of the agents that run; of later ones from their beginning on.
    pub fn from_now(cluster: &Kubernetes) -> Result<Self> {
        let directories = cluster.machines().iter().map(|machine| machine.logs_of_pods()).collect();
        let mut logs = Self { directories, open: BTreeMap::new() };
        logs.open_new(SeekFrom::End(0))?;
        Ok(logs)
    }

    /// The lines of each agent, after the name of its pod, without those of connections that have ended in order. For
    /// that the access log must be JSON. Every line is given once.
    pub fn lines(&mut self) -> Result<String> {
        self.open_new(SeekFrom::Start(0))?;
        let mut lines = String::new();
        for (name, file) in self.open.values_mut() {
            let mut text = String::new();
            file.read_to_string(&mut text).with_context(|| format!("read the log of {name}"))?;
            for line in text.lines().filter(|line| !line.contains(IN_ORDER)) {
                lines += &format!("{name} {line}\n");
            }
        }
        Ok(lines)
    }

    /// Opens the logs that are not open yet.
    fn open_new(&mut self, from: SeekFrom) -> Result<()> {
        for pods in &self.directories {
            for pod in entries(pods)?.iter().filter(|pod| is_agent(pod)) {
                for path in entries(&pod.join("agent"))? {
                    let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.ino(), file)));
                    let (inode, mut file) = match opened {
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        opened => opened.with_context(|| format!("open {}", path.display()))?,
                    };
                    if let Entry::Vacant(new) = self.open.entry(inode) {
                        file.seek(from)?;
                        new.insert((named(pod), file));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.with_context(|| format!("read {}", directory.display())),
    }
}

/// The name of a pod's directory, `NAMESPACE_NAME_UID`, is an agent's.
fn is_agent(pod: &Path) -> bool {
    pod.file_name().is_some_and(|name| name.to_string_lossy().contains("_underpass-agent-"))
}

/// The name of the pod that has this directory.
fn named(pod: &Path) -> String {
    let name = pod.file_name().unwrap_or_default().to_string_lossy();
    name.split('_').nth(1).unwrap_or(&name).to_owned()
}
