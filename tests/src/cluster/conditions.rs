//! The conditions of an object, in shapes that tests compare.

use std::collections::BTreeMap;

use serde_json::Value;

/// The conditions of an object by their types. Those of another generation than its present one are left out.
#[must_use]
pub fn by_type(object: &Value) -> BTreeMap<String, Value> {
    let generation = object["metadata"]["generation"].as_i64();
    let is_present = |c: &&Value| c["observedGeneration"].as_i64().is_none_or(|observed| Some(observed) == generation);
    let all = object["status"]["conditions"].as_array().into_iter().flatten().filter(is_present);
    all.filter_map(|c| Some((c["type"].as_str()?.to_owned(), c.clone()))).collect()
}

/// Each as `Accepted=True/Reason`, in the order of the types.
#[must_use]
pub fn short(conditions: &BTreeMap<String, Value>) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let one = |(name, c): (&String, &Value)| format!("{name}={}/{}", word(&c["status"]), word(&c["reason"]));
    conditions.iter().map(one).collect()
}
