//! What Helm says is installed: the mesh's release, or one that is in its way.

use std::cmp::Ordering;

use serde::Deserialize;

use super::{ChartError, RELEASE};

/// The release of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// The version that it runs.
    pub(crate) version: String,
    /// `deployed`, `failed`, `pending-upgrade` ...
    pub(crate) status: String,
}

/// A line of `helm list -o json`.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    namespace: String,
    status: String,
    /// Name and version: `underpass-0.1.0`.
    chart: String,
    #[serde(default)]
    app_version: String,
}

impl Listed {
    /// The version of our chart; none: it is another one.
    fn version(&self) -> Option<&str> {
        let version = self.chart.strip_prefix(RELEASE)?.strip_prefix('-')?;
        let is_version = version.starts_with(|c: char| c.is_ascii_digit());
        is_version.then_some(if self.app_version.is_empty() { version } else { &self.app_version })
    }
}

/// The mesh's release in this namespace, by Helm's list of all releases; none: there is none in the cluster.
///
/// # Errors
/// Where it is there by another name, or in another namespace.
pub(crate) fn find(listed: &str, namespace: &str) -> Result<Option<Release>, ChartError> {
    let all: Vec<Listed> = serde_json::from_str(listed).map_err(|e| ChartError::List { cause: e.to_string() })?;
    let mut found = None;
    for one in all {
        let Some(version) = one.version().map(str::to_owned) else { continue };
        if (&*one.name, &*one.namespace) == (RELEASE, namespace) {
            found = Some(Release { version, status: one.status });
            continue;
        }
        let Listed { name, namespace, .. } = one;
        let help = match name == RELEASE {
            true => format!("--system-namespace {namespace} names it"),
            false => format!("it was named by helm: helm upgrade {name}, helm uninstall {name}, with -n {namespace}"),
        };
        return Err(ChartError::Elsewhere { name, namespace, help });
    }
    Ok(found)
}

/// The order of two versions (`1.2.3`, `1.2.3-rc.1`), where both are versions. What is behind a `-` comes before the version without it.
pub(crate) fn compare(a: &str, b: &str) -> Option<Ordering> {
    let parse = |text: &str| -> Option<(Vec<u64>, bool)> {
        let text = text.split('+').next()?;
        let (numbers, is_release) = text.split_once('-').map_or((text, true), |(numbers, _)| (numbers, false));
        Some((numbers.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?, is_release))
    };
    Some(parse(a)?.cmp(&parse(b)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed(all: &[(&str, &str, &str)]) -> String {
        let one = |(name, namespace, chart): &(&str, &str, &str)| json!({"name": name, "namespace": namespace, "revision": "1", "status": "deployed", "chart": chart, "app_version": ""});
        serde_json::Value::from_iter(all.iter().map(one)).to_string()
    }

    #[test]
    fn the_release_is_found_by_its_chart() {
        let other = ("istiod", "istio-system", "istiod-1.24.0");
        let alike = ("underpass", "web", "underpass-site-1.0.0");
        let ours = ("underpass", "underpass-system", "underpass-0.1.0");
        let find = |all: &[_]| find(&listed(all), "underpass-system");
        assert_eq!(find(&[]).unwrap(), None);
        assert_eq!(find(&[other, alike]).unwrap(), None);
        let found = find(&[other, ours, alike]).unwrap().unwrap();
        assert_eq!(found, Release { version: "0.1.0".into(), status: "deployed".into() });
        let error = find(&[("underpass", "mesh", "underpass-0.1.0")]).unwrap_err().to_string();
        assert!(error.contains("namespace mesh") && error.contains("--system-namespace mesh"), "{error}");
        let error = find(&[ours, ("mesh", "underpass-system", "underpass-0.1.0")]).unwrap_err().to_string();
        assert!(error.contains("release mesh") && error.contains("helm upgrade mesh"), "{error}");
        assert!(super::find("not JSON", "a").is_err());
    }

    #[test]
    fn versions_have_an_order() {
        for (a, b, order) in [
            ("0.1.0", "0.1.0", Ordering::Equal),
            ("0.10.0", "0.9.9", Ordering::Greater),
            ("1.0.0-rc.1", "1.0.0", Ordering::Less),
            ("1.0.0+build", "1.0.0", Ordering::Equal),
        ] {
            assert_eq!(compare(a, b), Some(order), "{a} {b}");
        }
        assert_eq!(compare("0.1.0", "testbed"), None);
    }
}
