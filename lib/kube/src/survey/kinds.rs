//! Objects of kinds that the mesh does not serve, as the API server writes them: of a group and kind, in whichever
//! version it has.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::OBJECTS;
use crate::client::{Call, Client, Error, is_name};

/// What a group has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: Version,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

/// What a version of a group has.
#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    /// The plural; `PLURAL/status` for a part of it.
    name: String,
    kind: String,
}

/// The objects of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// `virtualservices.networking.istio.io`.
    pub name: String,
    /// Each with its `apiVersion` and `kind`, or why they cannot be read.
    pub objects: Result<Vec<Value>, Error>,
}

impl Client {
    /// The objects of these kinds of a group, in every namespace: each kind once, in the version that the API server
    /// prefers where that has it. A group or a kind that the API server does not have is left out.
    ///
    /// # Errors
    /// Where the API server does not say what the group has.
    pub async fn objects_of(&self, group: &str, kinds: &[&str]) -> Result<Vec<Listed>, Error> {
        if !is_name(group) {
            return Err(Error::Name { name: group.into() });
        }
        let found: Group = match self.json(&Call::get(format!("/apis/{group}"))).await {
            Ok(found) => found,
            Err(e) if e.status() == Some(404) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut left: BTreeSet<&str> = kinds.iter().copied().collect();
        let mut all = Vec::new();
        for Version { version } in std::iter::once(found.preferred_version).chain(found.versions) {
            if left.is_empty() {
                break;
            }
            if !is_name(&version) {
                return Err(Error::Name { name: version.as_str().into() });
            }
            let root = format!("/apis/{group}/{version}");
            let has: Resources = self.json(&Call::get(root.clone())).await?;
            for Resource { name, kind } in has.resources {
                if !is_name(&name) || !left.remove(&*kind) {
                    continue;
                }
                let objects = self.pages::<Value>(Call::get(format!("{root}/{name}")), OBJECTS).await;
                let api_version = format!("{group}/{version}");
                let named =
                    |objects: Vec<Value>| objects.into_iter().map(|one| named(one, &api_version, &kind)).collect();
                all.push(Listed { name: format!("{name}.{group}"), objects: objects.map(named) });
            }
        }
        Ok(all)
    }
}

/// The objects of a list do not always say what they are.
fn named(mut object: Value, api_version: &str, kind: &str) -> Value {
    if let Some(fields) = object.as_object_mut() {
        for (field, value) in [("apiVersion", api_version), ("kind", kind)] {
            fields.entry(field).or_insert_with(|| value.into());
        }
    }
    object
}
