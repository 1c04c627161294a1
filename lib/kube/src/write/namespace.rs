//! Namespaces and their labels: one is made where it is absent, or deleted with all that is in it, and one label is set as `kubectl label`
//! sets it: a value that is there already is another's decision, and is only replaced on demand.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use serde::Deserialize;
use serde_json::json;
use underpass_core::ObjectName;

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
    /// The labels of a namespace; none: there is no such namespace.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn namespace_labels(&self, name: &str) -> Result<Option<BTreeMap<String, Arc<str>>>, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        match self.json::<Namespace>(&Call::get(Collection::NAMESPACES.named(name))).await {
            Ok(found) => Ok(Some(found.metadata.labels)),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a namespace with these labels; false: it was there by then, and is left as it is.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn make_namespace(&self, name: &str, labels: &[[&str; 2]]) -> Result<bool, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        let labels: BTreeMap<_, _> = labels.iter().map(|[key, value]| (key, value)).collect();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let call = Call::new(Method::POST, Collection::NAMESPACES.all()).with("fieldManager", FIELD_MANAGER);
        match self.json::<serde::de::IgnoredAny>(&call.json(&object)?).await {
            Ok(_) => Ok(true),
            Err(e) if e.status() == Some(409) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Begins to delete a namespace, with all that is in it.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn delete_namespace(&self, name: &str) -> Result<(), Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        self.delete(Collection::NAMESPACES.named(name)).await
    }

    /// The namespaces with this label and value, by name.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn namespaces_labelled(&self, key: &str, value: &str) -> Result<Vec<ObjectName>, Error> {
        let call = Call::get(Collection::NAMESPACES.all()).with("labelSelector", &format!("{key}={value}"));
        self.names(call).await
    }

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
