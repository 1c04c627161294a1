//! The surroundings of a node: data path, sockets of the tunnel, events of its pods. The kernel, for an agent of a cluster;
//! memory and loopback, for a whole agent in a test. Its own file because [`crate::node`] is the same above both.

use std::path::PathBuf;

use tokio::sync::mpsc;
use underpass_abi::Marks;
use underpass_loader::{Kernel, KernelLog};

use crate::{pods::Event, preflight::Claimed, reports::Counters};

/// The data path, sockets and events that a node runs on.
#[derive(Debug)]
pub struct Surroundings<D> {
    /// The data path.
    pub path: D,
    /// Its counters.
    pub counters: Counters,
    /// Its log of decisions, where its programs are the build that writes one.
    pub kernel_log: Option<KernelLog>,
    /// Settings of the tunnel, with the sockets that it opens.
    pub tunnel: underpass_ztunnel::Settings,
    /// The cgroup2 directory below which the kubelet keeps this node's pods.
    pub cgroup_root: PathBuf,
    /// The bits of the firewall mark.
    pub marks: Marks,
    /// Events of pods: by the sender a test announces pods of its own.
    pub events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

impl Surroundings<Kernel> {
    /// Those of this machine's kernel. From here on what is captured stays captured, and reaches the listeners that are taken
    /// over.
    ///
    /// # Errors
    /// Where the programs cannot be attached.
    pub fn kernel(settings: &underpass_loader::Settings, claim: &Claimed) -> Result<Self, underpass_loader::Error> {
        let mut path = match claim {
            Claimed::Alone(_) => Kernel::attach(settings)?,
            Claimed::From(_, inherited) => {
                Kernel::take_over(settings, inherited.tables, &inherited.keys(), inherited.until)?
            }
        };
        Ok(Self {
            kernel_log: path.log(),
            path,
            counters: Counters::open(settings)?,
            tunnel: underpass_ztunnel::Settings::new(settings.marks.inbound()),
            cgroup_root: settings.cgroup_root.clone(),
            marks: settings.marks,
            events: mpsc::unbounded_channel(),
        })
    }
}
