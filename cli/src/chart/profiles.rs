//! The chart's profiles: their names, what each is for, and the values that each leads to.

use serde_json::Value;

use super::{ChartError, FILES, file, merge::fill};

/// The profile of a user who names none.
pub(crate) const DEFAULT: &str = "default";
/// Istio's name for a mesh without sidecars, which this one is.
const AMBIENT: &str = "ambient";

/// A profile, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Its name.
    pub(crate) name: &'static str,
    /// The values that it gives, with a comment at their head.
    text: &'static str,
}

/// All of them, by name.
pub(crate) fn all() -> impl Iterator<Item = Profile> {
    FILES.iter().filter_map(|(path, text)| {
        let name = path.strip_prefix("files/profile-")?.strip_suffix(".yaml")?;
        Some(Profile { name, text })
    })
}

/// The profile of a name that `of` (a file, an option) gives.
pub(crate) fn named(of: &str, name: &str) -> Result<Profile, ChartError> {
    let meant = if name.is_empty() || name == AMBIENT { DEFAULT } else { name };
    all().find(|profile| profile.name == meant).ok_or_else(|| ChartError::Profile {
        of: of.to_owned(),
        name: name.to_owned(),
        known: all().map(|profile| profile.name).collect::<Vec<_>>().join(", "),
    })
}

impl Profile {
    /// The first sentence of its file.
    pub(crate) fn purpose(self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix('#'));
        let comment = lines.map(str::trim).collect::<Vec<_>>().join(" ");
        comment.split_once(". ").map_or(comment.as_str(), |(first, _)| first).trim_end_matches('.').to_owned()
    }

    /// The chart's values, with this profile's where they leave something out.
    pub(crate) fn values(self) -> Result<Value, ChartError> {
        let mut values = read("values.yaml", file("values.yaml").unwrap_or_default())?;
        fill(&mut values, &read(self.name, self.text)?);
        if let Some(profile) = values.get_mut("profile") {
            *profile = self.name.into();
        }
        Ok(values)
    }
}

fn read(of: &str, text: &str) -> Result<Value, ChartError> {
    serde_saphyr::from_str(text).map_err(|e| ChartError::Yaml { file: of.to_owned(), cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_is_listed_with_its_purpose() {
        let all: Vec<_> = all().map(|profile| (profile.name, profile.purpose())).collect();
        let expected = [
            ("default", "Two replicas of the control plane, and pods of the mesh that start captured"),
            ("demo", "A trial in a small cluster: one replica, and little asked for"),
            ("minimal", "The fewest rights on nodes"),
        ];
        assert_eq!(all, expected.map(|(name, purpose)| (name, purpose.to_owned())));
    }

    #[test]
    fn values_are_the_charts_and_the_profiles() {
        let of = |name: &str| named("--profile", name).unwrap().values().unwrap();
        let demo = of("demo");
        assert_eq!((&demo["profile"], &demo["control"]["replicas"]), (&json!("demo"), &json!(1)));
        assert_eq!(demo["control"]["resources"]["requests"]["memory"], "64Mi");
        assert_eq!(demo["agent"]["drainSeconds"], 30);
        assert_eq!(
            of("minimal")["cni"],
            json!({
                "enabled": false, "binDir": "/opt/cni/bin", "confDir": "/etc/cni/net.d", "netnsDir": "/var/run/netns",
                "excludeNamespaces": ["kube-system"],
            })
        );
        assert_eq!(of("ambient"), of("default"));
        assert_eq!(of(""), of("default"));
    }

    #[test]
    fn an_unknown_one_is_an_error_with_the_known_ones() {
        for unknown in ["empty", "openshift", "Demo", "default "] {
            let error = named("a.yaml", unknown).unwrap_err().to_string();
            assert_eq!(error, format!("a.yaml: there is no profile {unknown:?}; there are: default, demo, minimal"));
        }
    }
}
