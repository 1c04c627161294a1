//! The followers of the World: its resources on the wire, and the placement of accounts. On a thread of their own, because
//! many resources take their time.

use std::{io, sync::Arc};

use tokio::sync::watch;
use underpass_core::World;
use underpass_keeper::{Reports, supervision::on_thread};
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

/// Follows `world`. `door` is the door whose source's version goes with the resources.
///
/// # Errors
/// No thread can be started.
pub fn follow(
    mut world: watch::Receiver<Arc<World>>,
    reports: watch::Receiver<Arc<Reports>>,
    door: &'static str,
) -> io::Result<(Followed, impl Future<Output = ()> + Send + use<>)> {
    let (resources, newest) = watch::channel(None);
    let (placement, placed) = watch::channel(Placed::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let ended = on_thread("facts", move || {
        runtime.block_on(async move {
            let (mut encoder, mut places) = (Encoder::new(), Placed::default());
            let mut finished = Arc::clone(&world.borrow());
            while world.changed().await.is_ok() {
                // Before the World: it is as new as this, or newer.
                let source = reports.borrow().get(door).and_then(|report| report.source_version.clone());
                let now = Arc::clone(&world.borrow_and_update());
                encoder.follow(&finished, &now);
                places.follow(&finished, &now);
                finished = now;
                placement.send_replace(places.clone());
                let source = source.unwrap_or_default();
                resources.send_replace(Some(Resources { source, ..encoder.resources().clone() }));
            }
        });
    })?;
    Ok((Followed { resources: newest, placed }, ended))
}
