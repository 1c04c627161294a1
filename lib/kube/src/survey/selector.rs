//! Selectors of labels (`meta/v1 LabelSelector`): an empty one selects everything.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A selector: all of its requirements hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    match_labels: Labels,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// It selects an object with these labels.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.holds(labels.get(&expression.key)))
    }

    /// It selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Expression {
    fn holds(&self, value: Option<&String>) -> bool {
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => is_listed,
            Operator::NotIn => !is_listed, // also where the label is absent
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// As `kubectl --selector` takes it; an empty one: `every one`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let expressions = self.match_expressions.iter().map(|Expression { key, operator, values }| match operator {
            Operator::In => format!("{key} in ({})", values.join(",")),
            Operator::NotIn => format!("{key} notin ({})", values.join(",")),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
        });
        let all: Vec<String> = labels.chain(expressions).collect();
        f.write_str(if all.is_empty() { "every one".to_owned() } else { all.join(",") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn all_requirements_hold() {
        let check = |selector: Value, labels: Value, expected: bool| {
            let parsed: Selector = serde_json::from_value(selector.clone()).unwrap();
            let of: Labels = serde_json::from_value(labels.clone()).unwrap();
            assert_eq!(parsed.selects(&of), expected, "{selector} {labels}");
        };
        let by = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        check(json!({}), json!({}), true);
        check(json!({"matchLabels": {"a": "1"}}), json!({"a": "1", "b": "2"}), true);
        check(json!({"matchLabels": {"a": "1", "b": "1"}}), json!({"a": "1", "b": "2"}), false);
        check(by("In", json!(["1", "2"])), json!({"a": "2"}), true);
        check(by("In", json!(["1"])), json!({}), false);
        check(by("NotIn", json!(["1"])), json!({}), true);
        check(by("NotIn", json!(["1"])), json!({"a": "1"}), false);
        check(by("Exists", json!([])), json!({"a": ""}), true);
        check(by("DoesNotExist", json!([])), json!({"a": ""}), false);
        check(
            json!({"matchLabels": {"b": "2"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}),
            json!({"b": "2"}),
            false,
        );
    }

    #[test]
    fn selectors_in_text() {
        let text = |selector: Value| serde_json::from_value::<Selector>(selector).unwrap().to_string();
        assert_eq!(text(json!({})), "every one");
        let expressions =
            json!([{"key": "b", "operator": "NotIn", "values": ["1", "2"]}, {"key": "c", "operator": "DoesNotExist"}]);
        assert_eq!(text(json!({"matchLabels": {"a": "1"}, "matchExpressions": expressions})), "a=1,b notin (1,2),!c");
    }
}
