//! Lists in pages: an answer has a limit of bytes, and a list of a whole cluster has none.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use underpass_core::ObjectName;

use super::{Call, Client, Error};

/// Metadata of one page: with the fields of every writer an object's may be of tens of KiB.
const NAMES: u32 = 100;
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Page<T> {
    metadata: PageMetadata,
    #[serde(deserialize_with = "or_null")]
    items: Vec<T>,
}

/// An empty list of metadata is null, as Go writes one that was never made; an answer without the field is no list.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(items: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(items).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

impl Client {
    /// Everything of a list, `limit` objects a page. A page is to be of less than [`super::MAX_BYTES`].
    pub(crate) async fn pages<T: DeserializeOwned>(&self, call: Call, limit: u32) -> Result<Vec<T>, Error> {
        let call = call.with("limit", &limit.to_string());
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let call = if next.is_empty() { call.clone() } else { call.clone().with("continue", &next) };
            let page: Page<T> = self.json(&call).await?;
            all.extend(page.items);
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The names of a list, in the order of the API server. Nothing but metadata is asked for.
    pub(crate) async fn names(&self, call: Call) -> Result<Vec<ObjectName>, Error> {
        let items: Vec<Item> = self.pages(call.accept(METADATA), NAMES).await?;
        Ok(items.into_iter().map(|item| ObjectName::new(item.metadata.namespace, item.metadata.name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_null_or_empty_and_never_absent() {
        let count = |text: &str| serde_json::from_str::<Page<Item>>(text).map(|page| page.items.len()).ok();
        assert_eq!(count(r#"{"metadata": {}, "items": null}"#), Some(0));
        assert_eq!(count(r#"{"metadata": {}, "items": []}"#), Some(0));
        assert_eq!(count(r#"{"metadata": {}, "items": [{"metadata": {"name": "a"}}]}"#), Some(1));
        assert_eq!(count(r#"{"metadata": {}}"#), None);
    }
}
