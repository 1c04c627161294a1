//! Secrets: made once by whichever replica is first, read, watched, and exchanged as a whole.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use http::Method;
use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde::{Deserialize, de::Error as _};
use serde_json::json;
use tokio::sync::mpsc;
use underpass_config::json::NoObject;
use underpass_core::ObjectName;
use zeroize::Zeroizing;

use super::{ATTEMPTS, FIELD_MANAGER, MANAGED_BY, MERGE};
use crate::{
    client::{Call, Client, Collection, Error, MAX_BYTES, is_name},
    door::{
        follow::{Beside, News, Target, follow},
        list_watch::Output,
    },
};

/// Values by key.
type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// A Secret of the cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// When [`Client::exchange_secret`] wrote it last, else when it was made.
    pub changed: SystemTime,
    /// Its values, decoded.
    pub data: Data,
}

/// A Secret to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewSecret {
    /// Its name.
    pub name: ObjectName,
    /// `type`: `Opaque`, or one that a user of it knows.
    pub r#type: String,
    /// Its values.
    pub data: Data,
}

/// The annotation with the time of the last exchange of values.
const CHANGED: &str = "underpass.dev/changed";

/// What became of the wish to make a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is ours.
    Created(Secret),
    /// It was there already, made by another replica or by a user.
    Found(Secret),
}

/// What is known about a watched Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchedSecret {
    /// It is this; none: it does not exist.
    Is(Option<Secret>),
    /// It cannot be read; what was said before still counts.
    Failing(Arc<str>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Secret");
        all.field("name", &self.name).field("resource_version", &self.resource_version);
        all.field("keys", &self.data.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("NewSecret");
        all.field("name", &self.name).field("keys", &self.data.keys()).finish_non_exhaustive()
    }
}

impl Secret {
    fn read(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Shape {
            metadata: Metadata,
            data: Option<BTreeMap<String, ByteString>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            namespace: String,
            name: String,
            resource_version: Arc<str>,
            creation_timestamp: Option<Time>,
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        let Shape { metadata, data } = serde_json::from_str(text)?;
        let data = data.unwrap_or_default().into_iter().map(|(key, ByteString(value))| (key, Zeroizing::new(value)));
        let name = ObjectName::new(metadata.namespace, metadata.name);
        // One that cannot be read is no reason to take the values for older than they are.
        let changed = metadata.annotations.get(CHANGED).map(|at| {
            let unreadable =
                |e| serde_json::Error::custom(format_args!("annotation {CHANGED}: {at:?} is no time: {e}"));
            at.parse::<Timestamp>().map_err(unreadable)
        });
        let changed = changed.transpose()?.or(metadata.creation_timestamp.map(|Time(at)| at));
        let changed = changed.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
        Ok(Self { name, resource_version: metadata.resource_version, changed, data: data.collect() })
    }
}

impl Client {
    /// A Secret; none: it does not exist.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn secret(&self, name: &ObjectName) -> Result<Option<Secret>, Error> {
        if !is_name(name.namespace()) || !is_name(name.name()) {
            return Ok(None);
        }
        let call = Call::get(Collection::SECRETS.one(name.namespace(), name.name()));
        match self.text(&call, MAX_BYTES).await {
            Ok(text) => Secret::read(&text).map(Some).map_err(|e| call.unreadable(&e)),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a Secret, unless it exists: of several replicas that do this at once, all have the same one afterwards.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn create_or_get_secret(&self, new: &NewSecret) -> Result<Made, Error> {
        let (namespace, name) = (new.name.namespace(), new.name.name());
        for part in [namespace, name] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        let data: BTreeMap<_, _> = new.data.iter().map(|(key, value)| (key, ByteString(value.to_vec()))).collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED_BY: FIELD_MANAGER}},
            "type": new.r#type,
            "data": data,
        });
        let call = Call::new(Method::POST, Collection::SECRETS.within(namespace));
        let call = call.with("fieldManager", FIELD_MANAGER).json(&object)?;
        let mut attempt = 1;
        loop {
            match self.text(&call, MAX_BYTES).await {
                Ok(text) => return Secret::read(&text).map(Made::Created).map_err(|e| call.unreadable(&e)),
                Err(e) if e.status() == Some(409) => {
                    if let Some(found) = self.secret(&new.name).await? {
                        return Ok(Made::Found(found));
                    }
                    // Deleted meanwhile.
                    if attempt == ATTEMPTS {
                        return Err(e);
                    }
                    attempt = attempt.saturating_add(1);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes all of these values at once, and `now`; none: the key goes. Other keys stay.
    ///
    /// # Errors
    /// Where the API server gives no good answer; 409: another writer was in between.
    pub async fn exchange_secret(
        &self,
        secret: &Secret,
        values: &[(&str, Option<&str>)],
        now: SystemTime,
    ) -> Result<Secret, Error> {
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        let data: BTreeMap<_, _> = values.iter().map(|(key, text)| (key, text.map(value))).collect();
        let changed = Timestamp::try_from(now).unwrap_or_default().to_string();
        let metadata = json!({"resourceVersion": secret.resource_version, "annotations": {CHANGED: changed}});
        let call = Call::new(Method::PATCH, Collection::SECRETS.one(secret.name.namespace(), secret.name.name()));
        let call =
            call.with("fieldManager", FIELD_MANAGER).body(MERGE, &json!({"metadata": metadata, "data": data}))?;
        let text = self.text(&call, MAX_BYTES).await?;
        Secret::read(&text).map_err(|e| call.unreadable(&e))
    }

    /// Reads a Secret and every change of it, for as long as it is polled.
    pub async fn watch_secret(&self, name: ObjectName, mut hand_on: impl FnMut(WatchedSecret)) {
        let target = Target {
            paths: vec![Collection::SECRETS.within(name.namespace())],
            field_selector: Some(format!("metadata.name={}", name.name())),
            ..Target::new(
                &[],
                |text| Secret::read(text).map_err(|e| NoObject { reason: e.to_string().into() }),
                |header| ObjectName::new(header.namespace.as_deref().unwrap_or_default(), &*header.name),
            )
        };
        let (sender, mut news) = mpsc::channel(1);
        let reading = follow(self.clone(), target, (), sender, Beside::nothing());
        let mut last = None;
        let telling = async {
            while let Some(((), News { outputs, health, .. })) = news.recv().await {
                let is_it = |secret: &Secret| secret.name == name;
                let said = outputs.into_iter().map(|output| match output {
                    Output::Replaced(all) => WatchedSecret::Is(all.into_iter().find(is_it)),
                    Output::Put(secret) => WatchedSecret::Is(Some(secret).filter(is_it)),
                    Output::Removed(_) | Output::Absent => WatchedSecret::Is(None),
                });
                let failing = health.error.map(|(cause, _)| WatchedSecret::Failing(cause));
                for said in said.chain(failing) {
                    if last.as_ref() != Some(&said) {
                        hand_on(said.clone());
                        last = Some(said);
                    }
                }
            }
        };
        tokio::join!(reading, telling);
    }
}
