//! The addresses of a node's pods. The testbed's network walks on through its range; here it is one that gives the
//! lowest free address, so that a new pod has the one of the pod that went last.

use std::{fs, io::ErrorKind, time::Duration};

use anyhow::{Context, Result};
use underpass_tests::{
    installed::Installed,
    testbed::{Actor, Io},
};

/// Where the plugin host-local keeps the addresses that are given: a file for each, by its name.
const GIVEN: &str = "/var/lib/cni/networks/testbed";
/// Between two times that it forgets which one it gave last.
const PAUSE: Duration = Duration::from_millis(2);

/// From now on, until the actor is dropped.
pub(crate) fn lowest_first(mesh: &Installed, node: &str) -> Result<Actor<()>> {
    let mut forgetting = mesh.cluster.machine(node)?.service("addresses")?.spawn(forget, ())?;
    forgetting.event::<()>()?;
    Ok(forgetting)
}

/// Has host-local begin each search at the beginning of its range.
fn forget((): (), io: &mut Io) -> Result<()> {
    let forget_once = || {
        ["last_reserved_ip.0", "last_reserved_ip.1"].iter().try_for_each(|name| {
            match fs::remove_file(format!("{GIVEN}/{name}")) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("remove {name}"))
                }
                _ => Ok(()),
            }
        })
    };
    forget_once()?;
    io.send(&())?;
    while !io.is_told(PAUSE)? {
        forget_once()?;
    }
    Ok(())
}

/// Whether a pod of the node has an address, by the word of the plugin.
pub(crate) fn is_given(mesh: &Installed, node: &str, address: &str) -> Result<bool> {
    mesh.cluster.machine(node)?.service("addresses")?.act(is_there, format!("{GIVEN}/{address}"))
}

fn is_there(path: String) -> Result<bool> {
    fs::exists(&path).context(path)
}
