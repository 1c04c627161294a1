//! The one replica that leads: what only one of them may do is done by the holder of a lease. Facts and certificates are
//! served by all.

use std::future::pending;

use tokio::sync::{oneshot, watch};
use underpass_core::ObjectName;
use underpass_kube::{Client, Election, Leadership};
use underpass_telemetry::metrics::{Family, Registry};

/// The lease, in the namespace of the control plane.
const LEASE: &str = "underpass-control";

static LEADER: Family = Family::gauge("underpass_leader", "1 on the replica that leads, 0 on the others.", &[]);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&LEADER];

/// The end of the election.
#[derive(Debug)]
pub struct Released(oneshot::Receiver<()>);

impl Released {
    /// Waits until the lease is free for another replica, or cannot be freed.
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

/// Takes part in the election until `stopping` is true, for as long as the answered task is polled; that never ends.
pub fn elect(
    client: Client,
    namespace: &str,
    registry: &Registry,
    stopping: watch::Receiver<bool>,
) -> (Leadership, Released, impl Future<Output = ()> + Send + use<>) {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let election = Election::new(client, ObjectName::new(namespace, LEASE), host.as_deref().unwrap_or("control"));
    let leadership = election.leadership();
    let measured = leadership.clone();
    registry.collect(FAMILIES, move |samples| samples.add(&LEADER, &[], u64::from(measured.is_held())));
    let (sender, released) = oneshot::channel();
    let running = async move {
        election.run(stopping).await;
        drop(sender);
        pending::<()>().await;
    };
    (leadership, Released(released), running)
}
