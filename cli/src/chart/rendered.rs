//! What Helm renders, as manifests that kubectl applies: hooks are left out, which Helm alone would run in their order, and what they
//! would do before an installation is there instead: the definitions of the mesh's kinds, and the namespace.

use serde_json::Value;
use underpass_config::definitions::Definition;

use super::{ChartError, POD_SECURITY};

/// The annotation of hooks.
const HOOK: &str = "helm.sh/hook";
/// The Job that applies the definitions, where they are asked for.
const APPLIES_DEFINITIONS: &str = "underpass-crds";

/// Manifests in the order in which they are applied: the namespace, the definitions where the values ask for them, the rest.
pub(crate) fn manifests(rendered: &str, namespace: &str, definitions: &[Definition]) -> Result<String, ChartError> {
    let [key, value] = POD_SECURITY;
    let mut text = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace:?}\n  labels:\n    {key}: {value}\n"
    );
    let (mut objects, mut asks_for_definitions) = (String::new(), false);
    for document in documents(rendered) {
        let object: Value = serde_saphyr::from_str(document).map_err(|e| {
            let cause = e.to_string().lines().next().unwrap_or_default().to_owned();
            ChartError::Rendered { cause }
        })?;
        if object.is_null() {
            continue;
        }
        if object["metadata"]["annotations"][HOOK].is_null() {
            objects += &format!("---\n{}\n", document.trim_end());
        } else if object["kind"] == "Job" && object["metadata"]["name"] == APPLIES_DEFINITIONS {
            asks_for_definitions = true;
        }
    }
    if asks_for_definitions {
        for definition in definitions {
            let yaml = serde_saphyr::to_string(&definition.object)
                .map_err(|e| ChartError::Rendered { cause: e.to_string() })?;
            text += &format!("---\n{}\n", yaml.trim_end());
        }
    }
    Ok(text + &objects)
}

/// The values without an effect that the chart's notes name; none: there are no notes. `release` is what Helm says as JSON.
pub(crate) fn without_effect(release: &str) -> Option<Vec<String>> {
    let release: Value = serde_json::from_str(release).ok()?;
    let notes = release["info"]["notes"].as_str()?;
    let part = notes.split_once("have no effect in Underpass:\n").map_or("", |(_, part)| part);
    let lines = part.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with("  "));
    Some(lines.map(|line| line.trim().to_owned()).collect())
}

/// The documents of a text. Inside of one no line is `---`: texts in it are indented.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let start = text.strip_prefix("---\n").unwrap_or(text);
    start.split("\n---\n")
}

#[cfg(test)]
mod tests {
    use underpass_config::definitions;

    use super::*;

    const RENDERED: &str = "---
# Source: underpass/templates/a.yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  text: |
    ---
    b
---
# Source: underpass/templates/crds.yaml
apiVersion: batch/v1
kind: Job
metadata: {name: underpass-crds, annotations: {helm.sh/hook: pre-install}}
---
# nothing
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: underpass-cleanup, annotations: {helm.sh/hook: post-delete}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: underpass-agent}
";

    fn names(text: &str) -> Vec<String> {
        let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        all.iter().filter_map(|o| o["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    #[test]
    fn hooks_are_left_out_and_what_they_do_comes_first() {
        let all = definitions::all();
        let text = manifests(RENDERED, "mesh", &all).unwrap();
        let [first, second] = all.each_name();
        assert_eq!(names(&text), ["mesh", first, second, "a", "underpass-agent"]);
        assert!(text.contains("pod-security.kubernetes.io/enforce: privileged"), "{text}");
        assert!(text.contains("  text: |\n    ---\n    b\n"), "{text}");
        let without = RENDERED.replace("name: underpass-crds", "name: other");
        assert_eq!(names(&manifests(&without, "mesh", &all).unwrap()), ["mesh", "a", "underpass-agent"]);
        assert_eq!(names(&manifests("", "1234", &[]).unwrap()), ["1234"], "a name that looks like a number is a text");
    }

    #[test]
    fn values_without_effect_are_read_from_the_notes() {
        let notes = "Installed.\n\nThese values have no effect in Underpass:\n\n  a.b\n  c\n\nThe lines\n  d";
        let of = |notes: &str| without_effect(&serde_json::json!({"info": {"notes": notes}}).to_string());
        assert_eq!(of(notes).unwrap(), ["a.b", "c"]);
        assert_eq!(of("Installed.").unwrap(), <[String; 0]>::default());
        assert_eq!(without_effect("not JSON"), None);
        // The chart's own words.
        let text = super::super::file("templates/NOTES.txt").unwrap();
        assert!(text.contains("\nThese values have no effect in Underpass:\n"), "{text}");
    }

    trait EachName {
        fn each_name(&self) -> [&str; 2];
    }

    impl EachName for Vec<Definition> {
        fn each_name(&self) -> [&str; 2] {
            [&self[0].name, &self[1].name]
        }
    }
}
