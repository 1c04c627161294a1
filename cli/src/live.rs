//! The objects of a cluster as they are now: one list of each kind that is asked for.

use underpass_core::Kind;
use underpass_door::Update;
use underpass_kube::{Client, Door, Selection};

use crate::error::CliError;

/// All objects of these kinds, with their problems.
pub(crate) async fn objects(client: &Client, kinds: impl IntoIterator<Item = Kind>) -> Result<Update, CliError> {
    let selections = kinds.into_iter().map(|kind| match kind {
        Kind::Namespace => Selection::namespaces(),
        kind => Selection::all(kind),
    });
    let door = Door::new(client.clone(), selections.collect());
    door.read().await.map_err(|source| CliError::Unread { source })
}
