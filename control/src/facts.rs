//! The followers of the World: its resources on the wire, and the placement of accounts. On a thread of their own, because
//! many resources take their time.

use std::io;

use tokio::sync::watch;
use underpass_keeper::{Newest, supervision::on_thread};
use underpass_xds::{facts::Encoder, resource::Resources};

use crate::placed::Placed;

/// What follows from the newest World. Empty until there is one.
#[derive(Debug)]
pub struct Followed {
    /// Its resources; none: there is no World yet.
    pub resources: watch::Receiver<Option<Resources>>,
    /// The accounts of each node's pods.
    pub placed: watch::Receiver<Placed>,
}

/// Follows the World. `door` is the door whose source's versions go with the resources: those of exactly this World,
/// and later ones that brought no change.
///
/// # Errors
/// No thread can be started.
pub fn follow(
    mut newest: watch::Receiver<Newest>,
    door: &'static str,
) -> io::Result<(Followed, impl Future<Output = ()> + Send + use<>)> {
    let (resources, followed) = watch::channel(None);
    let (placement, placed) = watch::channel(Placed::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let ended = on_thread("facts", move || {
        runtime.block_on(async move {
            let (mut encoder, mut places) = (Encoder::new(), Placed::default());
            let mut finished = newest.borrow().world.clone();
            while newest.changed().await.is_ok() {
                let Newest { world: now, reports } = newest.borrow_and_update().clone();
                // A version can come before the first World: there are no policies in that one.
                if now.version().0 == 0 {
                    continue;
                }
                let versions = reports.get(door).map(|report| report.versions.clone()).unwrap_or_default();
                encoder.follow(&finished, &now);
                places.follow(&finished, &now);
                finished = now;
                placement.send_replace(places.clone());
                let source = versions.newest().map(|newest| newest.to_string().into()).unwrap_or_default();
                resources.send_replace(Some(Resources { source, versions, ..encoder.resources().clone() }));
            }
        });
    })?;
    Ok((Followed { resources: followed, placed }, ended))
}
