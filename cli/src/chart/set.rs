//! `--set` as Istio's users write it: paths of an IstioOperator become those of the chart's values, and everything else stays as it
//! is, in Helm's own syntax.
//!
//! ```text
//! values.global.imagePullPolicy=Always,components.cni.enabled=false   ->   global.imagePullPolicy=Always,cni.enabled=false
//! ```

use super::{
    operator::Bad,
    places::{GATEWAYS, PLACES, is_always, is_image},
};

/// A `--set` for Helm, where something of it is left, and a line for each key without an effect.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) set: Option<String>,
    pub(super) notes: Vec<String>,
    /// The profile that it names.
    pub(super) profile: Option<String>,
    /// It names the registry of the image.
    pub(super) names_hub: bool,
}

/// What one `--set` asks for.
pub(super) fn map(text: &str) -> Result<Mapped, Bad> {
    let mut mapped = Mapped::default();
    let mut kept = Vec::new();
    for part in parts(text) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match place(key, value)? {
            Key::At(here) => {
                match &*here {
                    "profile" => mapped.profile = Some(value.to_owned()),
                    "global.hub" => mapped.names_hub = true,
                    _ => {}
                }
                kept.push(format!("{here}{}", part.get(key.len()..).unwrap_or_default()));
            }
            Key::Nowhere(why) => mapped.notes.push(format!("{key}: {why}")),
            Key::Nothing => {}
        }
    }
    mapped.set = (!kept.is_empty()).then(|| kept.join(","));
    Ok(mapped)
}

enum Key {
    /// This key of the chart's values.
    At(String),
    /// It has no effect.
    Nowhere(&'static str),
    /// It asks for what is there anyway.
    Nothing,
}

fn place(key: &str, value: &str) -> Result<Key, Bad> {
    let field = key.strip_prefix("spec.").unwrap_or(key);
    if is_image(field) {
        let problem = "names Istio's image; global.hub and global.tag name this mesh's".to_owned();
        return Err(Bad { path: key.to_owned(), problem });
    }
    if let Some(here) = field.strip_prefix("values.") {
        return Ok(Key::At(here.to_owned()));
    }
    if !field.starts_with("components.") {
        return Ok(Key::At(field.to_owned()));
    }
    let rest = |of: &str| field.strip_prefix(of).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    if let Some((place, rest)) = PLACES.iter().find_map(|place| Some((place, rest(place.field)?))) {
        return Ok(Key::At(format!("{}{rest}", place.value)));
    }
    if GATEWAYS.iter().any(|gateways| rest(gateways).is_some()) {
        return Ok(Key::Nowhere("not installed: there are no gateways here"));
    }
    Ok(if is_always(field) && value == "true" { Key::Nothing } else { Key::Nowhere("has no effect here") })
}

/// The assignments of one `--set`: at commas that are not escaped, and not in a list `{a,b}`.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut is_escaped, mut in_list, mut is_at_value) = (0, false, false, false);
    for (at, c) in text.char_indices() {
        let was_at_value = std::mem::take(&mut is_at_value);
        match c {
            _ if std::mem::take(&mut is_escaped) => {}
            '\\' => is_escaped = true,
            '=' if !in_list => is_at_value = true,
            '{' if was_at_value => in_list = true,
            '}' => in_list = false,
            ',' if !in_list => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_istio_are_those_of_the_chart() {
        let check = |text: &str, want: Option<&str>, notes: &[&str]| {
            let got = map(text).unwrap();
            assert_eq!(got.set.as_deref(), want, "{text}");
            assert_eq!(got.notes, notes, "{text}");
        };
        let same = |text: &str| check(text, Some(text), &[]);
        same("profile=demo");
        same("meshConfig.trustDomain=a.b");
        same("agent.tolerations[0].operator=Exists,global.hub=h");
        same(r"a.b\,c=d\,e,f={g,h},i=j=k");
        same("no-value");
        check("values.pilot.resources.requests.cpu=1", Some("pilot.resources.requests.cpu=1"), &[]);
        check("spec.values.a=b,spec.meshConfig.c=d", Some("a=b,meshConfig.c=d"), &[]);
        check("components.cni.enabled=true", Some("cni.enabled=true"), &[]);
        check("spec.components.pilot.k8s.replicaCount=3", Some("control.replicas=3"), &[]);
        check("components.ztunnel.k8s.tolerations[0].key=a", Some("agent.tolerations[0].key=a"), &[]);
        check("components.pilot.enabled=true,components.base.enabled=true", None, &[]);
        let none = "has no effect here";
        check("components.pilot.k8s.resourcesX=1", None, &[&format!("components.pilot.k8s.resourcesX: {none}")]);
        check(
            "components.pilot.enabled=false,a=b,components.cni.namespace=x",
            Some("a=b"),
            &[&format!("components.pilot.enabled: {none}"), &format!("components.cni.namespace: {none}")],
        );
        check(
            "components.ingressGateways[0].enabled=true",
            None,
            &["components.ingressGateways[0].enabled: not installed: there are no gateways here"],
        );
    }

    #[test]
    fn what_names_the_image_is_told_apart() {
        assert!(map("global.hub=registry.example").unwrap().names_hub);
        assert!(!map("global.hubs=registry.example").unwrap().names_hub);
        for istio in ["hub=docker.io/istio", "spec.tag=1.24", "a=b,values.global.hub=x"] {
            let bad = map(istio).unwrap_err();
            assert!(bad.problem.contains("global.hub"), "{istio}: {bad:?}");
        }
        assert_eq!(map("spec.profile=demo").unwrap().profile.as_deref(), Some("demo"));
    }
}
