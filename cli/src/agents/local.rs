//! An agent that is reached directly, by its socket or its address.

use serde::de::DeserializeOwned;
use underpass_telemetry::admin::{Client, Target};

use crate::error::CliError;

/// An agent that answers.
pub(crate) struct Local {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Local {
    pub(super) fn new(target: Target) -> Result<Self, CliError> {
        Ok(Self { runtime: runtime()?, client: Client::new(target) })
    }

    /// The answer to `GET path`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.runtime.block_on(self.client.json(path)).map_err(CliError::from)
    }

    /// Requests an action: `POST path`.
    pub(crate) fn post(&self, path: &str) -> Result<(), CliError> {
        self.runtime.block_on(self.client.post(path)).map_err(CliError::from)
    }

    pub(crate) fn set_log_level(&self, level: &str) -> Result<(), CliError> {
        self.runtime.block_on(self.client.set_log_level(level)).map_err(CliError::from)
    }
}

/// What requests run on.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| CliError::Runtime { source })
}
