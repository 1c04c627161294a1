//! The definitions of the mesh's kinds (CustomResourceDefinitions): applied where they are absent or ours, and removed where they
//! are ours. Those of another owner, Istio above all, are used as they are.
//!
//! An absent one is applied without force, because an owner who came in between is a conflict then. Ours is applied with the
//! version that was read, for the same reason.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use underpass_config::definitions::{Definition, VERSION, VERSION_ANNOTATION};
use underpass_core::{Kind, ObjectName};

use super::{APPLY, ATTEMPTS, FIELD_MANAGER, MANAGED_BY};
use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// Labels by which an owner says who it is, where it is not the usual one.
const OWNERS: [&str; 4] = [MANAGED_BY, "chart", "release", "app"];

/// A definition as a cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDefinition {
    /// Its Kubernetes uid.
    pub uid: Arc<str>,
    /// Who it belongs to; none: to us.
    pub owner: Option<Arc<str>>,
    /// The [`VERSION`] of ours that it has; 0: of none.
    pub version: u32,
    /// The versions of its API that are served.
    pub served: Vec<String>,
    /// Whether objects of it can be written.
    pub state: DefinitionState,
    resource_version: String,
}

/// Whether objects of a definition can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefinitionState {
    /// They can.
    Established,
    /// They cannot yet. The text: what the API server says about it, or nothing.
    Waiting(Arc<str>),
    /// It is being deleted, with all of its objects.
    Deleting,
}

/// What became of the wish to apply one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppliedDefinition {
    /// It was absent.
    Created,
    /// It was another one of ours.
    Updated,
    /// It was like this already.
    Unchanged,
    /// It is ours, of a later version than this program's, and stays.
    Later {
        /// Its version.
        version: u32,
    },
    /// It is another owner's, and stays.
    Foreign {
        /// Who it belongs to.
        owner: Arc<str>,
        /// The versions of its API that are served.
        served: Vec<String>,
    },
    /// It is being deleted; once it is gone it can be applied.
    Deleting,
}

impl fmt::Display for AppliedDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Updated => f.write_str("updated"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Later { version } => {
                write!(f, "left: version {version} is later than {VERSION}, which this program has")
            }
            Self::Foreign { owner, served } => write!(f, "left: it is of {owner}, and serves {}", served.join(", ")),
            Self::Deleting => f.write_str("being deleted"),
        }
    }
}

impl Client {
    /// A definition as it is now; none: it does not exist.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn definition(&self, name: &str) -> Result<Option<FoundDefinition>, Error> {
        match self.json::<Shape>(&Call::get(path(name)?)).await {
            Ok(found) => Ok(Some(found.into())),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Applies a definition where it is absent, or ours and not of a later version.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn apply_definition(&self, definition: &Definition) -> Result<AppliedDefinition, Error> {
        let mut attempt = 1;
        loop {
            match self.try_apply_definition(definition).await {
                Err(e) if e.status() == Some(409) && attempt < ATTEMPTS => attempt = attempt.saturating_add(1),
                done => return done,
            }
        }
    }

    /// 409: another writer was first.
    async fn try_apply_definition(&self, definition: &Definition) -> Result<AppliedDefinition, Error> {
        let path = path(&definition.name)?;
        let mut object = definition.object.clone();
        let call = Call::new(Method::PATCH, path).with("fieldManager", FIELD_MANAGER);
        let Some(found) = self.definition(&definition.name).await? else {
            self.text(&call.body(APPLY, &object)?, MAX_BYTES).await?;
            return Ok(AppliedDefinition::Created);
        };
        match found {
            FoundDefinition { owner: Some(owner), served, .. } => Ok(AppliedDefinition::Foreign { owner, served }),
            FoundDefinition { state: DefinitionState::Deleting, .. } => Ok(AppliedDefinition::Deleting),
            FoundDefinition { version, .. } if version > VERSION => Ok(AppliedDefinition::Later { version }),
            FoundDefinition { resource_version, .. } => {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".to_owned(), json!(resource_version));
                }
                let now: Shape = self.json(&call.with("force", "true").body(APPLY, &object)?).await?;
                // An apply without a difference writes nothing.
                let is_same = now.metadata.resource_version == resource_version;
                Ok(if is_same { AppliedDefinition::Unchanged } else { AppliedDefinition::Updated })
            }
        }
    }

    /// Begins to delete a definition, with all objects of its kind; false: it is gone already, or another one has its name.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn delete_definition(&self, name: &str, uid: &str) -> Result<bool, Error> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        match self.text(&Call::new(Method::DELETE, path(name)?).json(&options)?, MAX_BYTES).await {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.status(), Some(404 | 409)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The names of all objects of a kind, in the order of the API server; none where the kind is unknown to it.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn names_of(&self, kind: Kind) -> Result<Vec<ObjectName>, Error> {
        let Some(collection) = Collection::of(kind).first() else { return Ok(Vec::new()) };
        match self.names(Call::get(collection.all())).await {
            Err(e) if e.status() == Some(404) => Ok(Vec::new()),
            names => names,
        }
    }
}

fn path(name: &str) -> Result<String, Error> {
    if is_name(name) { Ok(Collection::DEFINITIONS.named(name)) } else { Err(Error::Name { name: name.into() }) }
}

#[derive(Deserialize)]
struct Shape {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Arc<str>,
    resource_version: String,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Spec {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    served: bool,
}

#[derive(Default, Deserialize)]
struct Status {
    /// null in the first moment.
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    message: Arc<str>,
}

impl From<Shape> for FoundDefinition {
    fn from(Shape { metadata, spec, status }: Shape) -> Self {
        let condition = |name: &str| status.conditions.iter().flatten().find(|condition| condition.r#type == name);
        let state = match (condition("Established"), condition("NamesAccepted")) {
            _ if metadata.deletion_timestamp.is_some() => DefinitionState::Deleting,
            (Some(established), _) if established.status == "True" => DefinitionState::Established,
            (_, Some(names)) if names.status == "False" => DefinitionState::Waiting(Arc::clone(&names.message)),
            (established, _) => {
                DefinitionState::Waiting(established.map(|e| Arc::clone(&e.message)).unwrap_or_default())
            }
        };
        let (labels, annotations) = (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default());
        let is_ours = labels.get(MANAGED_BY).is_some_and(|by| by == FIELD_MANAGER);
        let owner = (!is_ours).then(|| {
            let label = OWNERS.iter().find_map(|key| Some((key, labels.get(*key)?)));
            label.map_or_else(|| "another owner".into(), |(key, value)| format!("another owner ({key}={value})").into())
        });
        Self {
            uid: metadata.uid,
            owner,
            version: annotations.get(VERSION_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0),
            served: spec.versions.into_iter().filter(|version| version.served).map(|version| version.name).collect(),
            state,
            resource_version: metadata.resource_version,
        }
    }
}
