//! Layers of values: maps are merged, everything else is replaced, as Helm does.

use serde_json::{Map, Value};

/// Lays `over` on `into`.
pub(super) fn overlay(into: &mut Value, over: Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                overlay(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over,
    }
}

/// Puts a value at a path of names, `a.b.c`.
pub(super) fn put(into: &mut Value, path: &str, value: Value) {
    let nested = path.rsplit('.').fold(value, |value, name| Value::Object(Map::from_iter([(name.to_owned(), value)])));
    overlay(into, nested);
}

/// Puts into `into` what is absent there.
pub(super) fn fill(into: &mut Value, from: &Value) {
    let (Value::Object(into), Value::Object(from)) = (into, from) else { return };
    for (key, value) in from {
        match into.get_mut(key) {
            Some(there) => fill(there, value),
            None => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn maps_are_merged_and_lists_replaced() {
        let mut values = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        overlay(&mut values, json!({"a": {"c": [3]}, "d": {"e": 2}}));
        assert_eq!(values, json!({"a": {"b": 1, "c": [3]}, "d": {"e": 2}}));
        put(&mut values, "a.f.g", json!(true));
        assert_eq!(values["a"], json!({"b": 1, "c": [3], "f": {"g": true}}));
        fill(&mut values, &json!({"a": {"b": 7, "h": 8}, "i": {}}));
        assert_eq!(values["a"]["b"], 1);
        assert_eq!((&values["a"]["h"], &values["i"]), (&json!(8), &json!({})));
    }
}
