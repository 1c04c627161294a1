//! One label of one namespace, as `kubectl label` sets it: a value that is there already is another's decision, and is only replaced on
//! demand.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{FIELD_MANAGER, MERGE};
use crate::client::{Call, Client, Collection, Error, is_name};

/// What became of the wish to change a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labelled {
    /// It is changed.
    Changed,
    /// It was as wished.
    Already,
    /// It has another value, and was not to be replaced.
    Kept {
        /// The value.
        value: Arc<str>,
    },
    /// There is no such namespace.
    Gone,
}

#[derive(Deserialize)]
struct Namespace {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, Arc<str>>,
}

impl Client {
    /// Sets a label of a namespace, or removes it (`value` is none). Another value is replaced with `overwrite` alone.
    ///
    /// # Errors
    /// Where the API server gives no good answer; 409 where another writer was in between.
    pub async fn label_namespace(
        &self,
        name: &str,
        key: &str,
        value: Option<&str>,
        overwrite: bool,
    ) -> Result<Labelled, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        let path = Collection::NAMESPACES.named(name);
        let found: Namespace = match self.json(&Call::get(path.clone())).await {
            Ok(found) => found,
            Err(e) if e.status() == Some(404) => return Ok(Labelled::Gone),
            Err(e) => return Err(e),
        };
        let Metadata { resource_version, labels } = found.metadata;
        match labels.get(key) {
            before if before.map(|before| &**before) == value => return Ok(Labelled::Already),
            Some(before) if value.is_some() && !overwrite => return Ok(Labelled::Kept { value: Arc::clone(before) }),
            _ => {}
        }
        let patch = json!({"metadata": {"resourceVersion": resource_version, "labels": {key: value}}});
        let call = Call::new(Method::PATCH, path).with("fieldManager", FIELD_MANAGER).body(MERGE, &patch)?;
        self.json::<serde::de::IgnoredAny>(&call).await.map(|_| Labelled::Changed)
    }
}
