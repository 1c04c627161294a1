//! Where a node stands: what carries its tables out, how its sockets are opened, who tells it about its pods. The kernel, for
//! an agent of a cluster; memory and loopback, for a whole agent in a test. Its own file because [`crate::node`] is the same
//! above both.

use std::path::PathBuf;

use tokio::sync::mpsc;
use underpass_abi::Marks;
use underpass_loader::{Kernel, KernelLog};

use crate::{pods::Event, preflight::Claimed, reports::Counters};

/// Where a node stands.
#[derive(Debug)]
pub struct Place<D> {
    /// Carries out the tables.
    pub path: D,
    /// What it counts.
    pub counters: Counters,
    /// What it says of each decision, where it says it.
    pub kernel_log: Option<KernelLog>,
    /// The tunnel, with the sockets that it opens.
    pub tunnel: underpass_ztunnel::Settings,
    /// The cgroup2 directory below which the kubelet keeps this node's pods.
    pub cgroup_root: PathBuf,
    /// The bits of the firewall mark.
    pub marks: Marks,
    /// What happens to pods: whoever has the sender can tell of some.
    pub events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

impl Place<Kernel> {
    /// On this machine's kernel. From here on what is captured stays captured, and reaches the listeners that are taken over.
    ///
    /// # Errors
    /// Where the programs cannot be attached.
    pub fn kernel(settings: &underpass_loader::Settings, claim: &Claimed) -> Result<Self, underpass_loader::Error> {
        let mut path = match claim {
            Claimed::Alone(_) => Kernel::attach(settings)?,
            Claimed::From(_, inherited) => Kernel::take_over(settings, inherited.tables, &inherited.keys())?,
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
