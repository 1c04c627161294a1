//! The objects of a cluster as they are now: one list of each kind that the mesh reads.

use underpass_core::Kind;
use underpass_door::Update;
use underpass_kube::{Client, Door, Selection};

use crate::error::CliError;

/// All objects, with their problems.
pub(crate) async fn objects(client: &Client) -> Result<Update, CliError> {
    let selections = Kind::ALL.into_iter().map(|kind| match kind {
        Kind::Namespace => Selection::namespaces(),
        kind => Selection::all(kind),
    });
    let door = Door::new(client.clone(), selections.collect());
    door.read().await.map_err(|source| CliError::Unread { source })
}
