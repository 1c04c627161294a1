//! A cluster as it is at one moment: nodes, workloads, webhooks, policies of the network. For commands that look at all of it before an
//! installation and after one, and write nothing.
//!
//! * [`objects`], [`network_policy`]: what is read of each kind.
//! * [`kinds`]: objects of kinds that the mesh does not serve, as they are.
//! * [`selector`]: which labels a selector means.

pub mod kinds;
pub mod network_policy;
pub mod objects;
pub mod selector;

use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use underpass_core::ObjectName;

use self::{
    network_policy::NetworkPolicy,
    objects::{ConfigMap, Labelled, Node, PodSeen, WebhookConfiguration, Workload},
};
use crate::{
    client::{Call, Client, Collection, Error, is_name},
    write::{ROOT_CONFIG_MAP, ROOT_KEY},
};

/// Objects of one page: of some tens of KiB each, with the fields of every writer.
const OBJECTS: u32 = 50;

/// The version of an API server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerVersion {
    major: String,
    minor: String,
    /// For people: `v1.30.2`.
    pub git_version: String,
}

impl ServerVersion {
    /// Major and minor; none: it says no numbers. Some providers write `30+`.
    #[must_use]
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
        Some((number(&self.major)?, number(&self.minor)?))
    }
}

/// One action on one kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action<'a> {
    /// `create` ...
    pub verb: &'a str,
    /// The group of the API; empty: the core's.
    pub group: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// The namespace; none: of the cluster, or of every namespace.
    pub namespace: Option<&'a str>,
}

#[derive(Deserialize)]
struct AccessReview {
    status: AccessReviewStatus,
}

#[derive(Deserialize)]
struct AccessReviewStatus {
    allowed: bool,
}

impl Client {
    /// The version of the API server.
    ///
    /// # Errors
    /// Where it gives no good answer.
    pub async fn server_version(&self) -> Result<ServerVersion, Error> {
        self.json(&Call::get("/version".to_owned())).await
    }

    /// Whether the client's user may do this.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn may(&self, action: Action<'_>) -> Result<bool, Error> {
        let Action { verb, group, resource, namespace } = action;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace}},
        });
        let call = Call::new(Method::POST, Collection::ACCESS_REVIEWS.all()).json(&review)?;
        self.json::<AccessReview>(&call).await.map(|review| review.status.allowed)
    }

    /// Every node.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.survey(Collection::NODES, None).await
    }

    /// Every namespace, with its labels.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn namespaces(&self) -> Result<Vec<Labelled>, Error> {
        self.survey(Collection::NAMESPACES, None).await
    }

    /// The Deployments of a namespace, or of all.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn deployments(&self, namespace: Option<&str>) -> Result<Vec<Workload>, Error> {
        self.survey(Collection::DEPLOYMENTS, namespace).await
    }

    /// The DaemonSets of a namespace, or of all.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn daemon_sets(&self, namespace: Option<&str>) -> Result<Vec<Workload>, Error> {
        self.survey(Collection::DAEMON_SETS, namespace).await
    }

    /// The webhooks that change objects.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn mutating_webhooks(&self) -> Result<Vec<WebhookConfiguration>, Error> {
        self.survey(Collection::MUTATING_WEBHOOKS, None).await
    }

    /// The webhooks that judge objects.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn validating_webhooks(&self) -> Result<Vec<WebhookConfiguration>, Error> {
        self.survey(Collection::VALIDATING_WEBHOOKS, None).await
    }

    /// The pods of a namespace, or of all.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn pods(&self, namespace: Option<&str>) -> Result<Vec<PodSeen>, Error> {
        self.survey(Collection::PODS, namespace).await
    }

    /// The NetworkPolicies of a namespace, or of all.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn network_policies(&self, namespace: Option<&str>) -> Result<Vec<NetworkPolicy>, Error> {
        self.survey(Collection::NETWORK_POLICIES, namespace).await
    }

    /// The ConfigMaps of every namespace that have the roots of a mesh, ours or another one.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn root_config_maps(&self) -> Result<Vec<ConfigMap>, Error> {
        let call = Call::get(Collection::CONFIG_MAPS.all());
        self.pages(call.with("fieldSelector", &format!("metadata.name={ROOT_CONFIG_MAP}")), OBJECTS).await
    }

    /// A ConfigMap; none: it does not exist.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn config_map(&self, name: &ObjectName) -> Result<Option<ConfigMap>, Error> {
        for part in [name.namespace(), name.name()] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        match self.json(&Call::get(Collection::CONFIG_MAPS.one(name.namespace(), name.name()))).await {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a Secret is there. Its contents are not asked for.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn has_secret(&self, name: &ObjectName) -> Result<bool, Error> {
        self.has(Collection::SECRETS, name).await
    }

    /// Whether a Service is there.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn has_service(&self, name: &ObjectName) -> Result<bool, Error> {
        self.has(Collection::SERVICES, name).await
    }

    async fn has(&self, collection: Collection, name: &ObjectName) -> Result<bool, Error> {
        if !is_name(name.namespace()) {
            return Err(Error::Name { name: name.namespace().into() });
        }
        let call = Call::get(collection.within(name.namespace()));
        let names = self.names(call.with("fieldSelector", &format!("metadata.name={}", name.name()))).await?;
        Ok(names.iter().any(|found| found.name() == name.name()))
    }

    async fn survey<T: DeserializeOwned>(
        &self,
        collection: Collection,
        namespace: Option<&str>,
    ) -> Result<Vec<T>, Error> {
        let path = match namespace {
            None => collection.all(),
            Some(namespace) if is_name(namespace) => collection.within(namespace),
            Some(namespace) => return Err(Error::Name { name: namespace.into() }),
        };
        self.pages(Call::get(path), OBJECTS).await
    }
}

impl ConfigMap {
    /// The roots of a mesh, certificates in PEM; empty: it has none.
    #[must_use]
    pub fn roots(&self) -> &str {
        self.data.get(ROOT_KEY).map(String::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_providers_write_them() {
        let check = |minor: &str, want| {
            let version = json!({"major": "1", "minor": minor, "gitVersion": "v"});
            assert_eq!(serde_json::from_value::<ServerVersion>(version).unwrap().numbers(), want, "{minor}");
        };
        check("30", Some((1, 30)));
        check("29+", Some((1, 29)));
        check("", None);
    }
}
