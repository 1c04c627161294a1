//! The ConfigMap of each namespace that has the roots of the mesh, under the name that Istio's components know. Made
//! where it is absent and kept where it is ours; one of another owner is only reported, since a mesh that was there
//! before must not lose its root.
//!
//! An absent one is created rather than applied, because an apply would take over what another owner has just made.
//! Ours is applied with the version that was read, so that an owner who came in between is seen.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{APPLY, ATTEMPTS, FIELD_MANAGER, MANAGED_BY};
use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// Its name.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// The key of the roots, certificates in PEM.
pub const ROOT_KEY: &str = "root-cert.pem";

/// What became of the wish to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootConfigMap {
    /// It has the roots now.
    Written,
    /// It had them already.
    Unchanged,
    /// It is another owner's, and has these roots; none: it has no such key.
    Foreign {
        /// The roots, as they are there.
        roots: Option<String>,
    },
    /// The namespace does not exist, or is being deleted.
    NamespaceGone,
}

#[derive(Deserialize)]
struct ConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Client {
    /// Writes the roots, certificates in PEM, into a namespace.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn put_roots(&self, namespace: &str, roots: &str) -> Result<RootConfigMap, Error> {
        if !is_name(namespace) {
            return Err(Error::Name { name: namespace.into() });
        }
        let mut attempt = 1;
        loop {
            match self.try_put_roots(namespace, roots).await {
                Err(e) if matches!(e.status(), Some(404 | 409)) && attempt < ATTEMPTS => {
                    attempt = attempt.saturating_add(1);
                }
                done => return done,
            }
        }
    }

    /// 409: another writer was first. 404: it was deleted in between.
    async fn try_put_roots(&self, namespace: &str, roots: &str) -> Result<RootConfigMap, Error> {
        let path = Collection::CONFIG_MAPS.one(namespace, ROOT_CONFIG_MAP);
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ROOT_CONFIG_MAP, "namespace": namespace, "labels": {MANAGED_BY: FIELD_MANAGER}},
            "data": {ROOT_KEY: roots},
        });
        let found: ConfigMap = match self.json(&Call::get(path.clone())).await {
            Ok(found) => found,
            Err(e) if e.status() == Some(404) => {
                let call = Call::new(Method::POST, Collection::CONFIG_MAPS.within(namespace));
                let call = call.with("fieldManager", FIELD_MANAGER).json(&object)?;
                return match self.text(&call, MAX_BYTES).await {
                    Ok(_) => Ok(RootConfigMap::Written),
                    Err(e) if is_namespace_gone(&e) => Ok(RootConfigMap::NamespaceGone),
                    Err(e) => Err(e),
                };
            }
            Err(e) => return Err(e),
        };
        let is_ours = found.metadata.labels.is_some_and(|l| l.get(MANAGED_BY).is_some_and(|by| by == FIELD_MANAGER));
        let has = found.data.unwrap_or_default().remove(ROOT_KEY);
        if !is_ours {
            return Ok(RootConfigMap::Foreign { roots: has });
        }
        if has.as_deref() == Some(roots) {
            return Ok(RootConfigMap::Unchanged);
        }
        let mut object = object;
        if let Some(metadata) = object.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), found.metadata.resource_version.into());
        }
        let call = Call::new(Method::PATCH, path).with("fieldManager", FIELD_MANAGER).with("force", "true");
        self.text(&call.body(APPLY, &object)?, MAX_BYTES).await?;
        Ok(RootConfigMap::Written)
    }
}

/// The answers to a creation in a namespace that is gone, or on its way.
fn is_namespace_gone(error: &Error) -> bool {
    match error {
        Error::Answered { status, .. } => {
            status.code == 404 || (status.code == 403 && status.has_cause("NamespaceTerminating"))
        }
        _ => false,
    }
}
