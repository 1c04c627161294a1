//! What a check knows of a cluster.

use underpass_core::{Kind, ObjectName};
use underpass_door::Update;

use crate::{
    agents::{connect, runtime},
    args::Cluster,
    error::CliError,
    live,
};

/// Everything of a cluster that the mesh reads.
pub(super) struct Live {
    /// All objects, with their problems.
    pub(super) update: Update,
    /// Its service accounts: their pods may come later.
    pub(super) accounts: Vec<ObjectName>,
}

impl Live {
    pub(super) fn read(cluster: &Cluster) -> Result<Self, CliError> {
        runtime()?.block_on(async {
            let client = connect(cluster).await?;
            let update = live::objects(&client, Kind::ALL).await?;
            let accounts = client.service_accounts().await;
            let accounts =
                accounts.map_err(|e| CliError::api_server(e, "list service accounts of every namespace".to_owned()))?;
            Ok(Self { update, accounts })
        })
    }
}
