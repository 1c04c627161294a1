//! The roots by which an API server knows the mesh's admission webhook, in a ValidatingWebhookConfiguration that the chart makes.
//! That one entry's `caBundle` is ours; all else of it, and whether it is there, is its owner's.

use http::Method;
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::json;

use super::FIELD_MANAGER;
use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// The name of the entry.
pub const POLICY_WEBHOOK: &str = "policies.underpass.dev";

/// A patch that names entries of lists by their names.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What became of the wish to write the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaBundle {
    /// It has them now.
    Written,
    /// It had them already.
    Unchanged,
    /// There is no such configuration, or it has no such entry.
    Absent,
}

#[derive(Deserialize)]
struct Configuration {
    metadata: Metadata,
    #[serde(default)]
    webhooks: Vec<Webhook>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    name: String,
    client_config: ClientConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientConfig {
    ca_bundle: Option<ByteString>,
}

impl Client {
    /// Writes the roots, certificates in PEM, into the entry [`POLICY_WEBHOOK`] of a ValidatingWebhookConfiguration.
    ///
    /// # Errors
    /// Where the API server gives no good answer. 409: another writer was in between.
    pub async fn put_ca_bundle(&self, configuration: &str, roots: &str) -> Result<CaBundle, Error> {
        if !is_name(configuration) {
            return Err(Error::Name { name: configuration.into() });
        }
        let path = Collection::VALIDATING_WEBHOOKS.named(configuration);
        let found: Configuration = match self.json(&Call::get(path.clone())).await {
            Ok(found) => found,
            Err(e) if e.status() == Some(404) => return Ok(CaBundle::Absent),
            Err(e) => return Err(e),
        };
        let Some(entry) = found.webhooks.into_iter().find(|webhook| webhook.name == POLICY_WEBHOOK) else {
            return Ok(CaBundle::Absent);
        };
        if entry.client_config.ca_bundle.is_some_and(|ByteString(has)| has == roots.as_bytes()) {
            return Ok(CaBundle::Unchanged);
        }
        let patch = json!({
            // A configuration that was changed in between is looked at again.
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "webhooks": [{"name": POLICY_WEBHOOK, "clientConfig": {"caBundle": ByteString(roots.as_bytes().to_vec())}}],
        });
        let call = Call::new(Method::PATCH, path).with("fieldManager", FIELD_MANAGER).body(STRATEGIC, &patch)?;
        match self.text(&call, MAX_BYTES).await {
            Ok(_) => Ok(CaBundle::Written),
            Err(e) if e.status() == Some(404) => Ok(CaBundle::Absent),
            Err(e) => Err(e),
        }
    }
}
