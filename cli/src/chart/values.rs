//! What a user asks for, as layers of the chart's values: `--profile`, then each file in its order, then each `--set`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{ChartError, operator, places::kind, profiles, set};

/// The values of an installation.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Values")]
pub(crate) struct Given {
    /// A profile: values under those of files and --set; `underpass profile list` has them.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// A file of values of the chart, or an IstioOperator; `-` is standard input. Later ones count before earlier ones.
    #[arg(short = 'f', long, visible_alias = "values", value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// A value that counts before those of files: KEY=VALUE as helm reads it, or the path of an IstioOperator (values.KEY, components.cni.enabled).
    #[arg(short = 's', long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Refused: there are no revisions.
    #[arg(short = 'r', long, value_name = "NAME", hide = true)]
    revision: Option<String>,
    /// Refused: the chart is in the command.
    #[arg(short = 'd', long, alias = "charts", value_name = "PATH", hide = true)]
    manifests: Option<PathBuf>,
}

/// Values for Helm.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Values {
    /// Files of values, in their order.
    pub(crate) layers: Vec<String>,
    /// Arguments of `--set`, in their order.
    pub(crate) sets: Vec<String>,
    /// The profile that counts, where one is named.
    pub(crate) profile: Option<&'static str>,
    /// Something names the registry of the image.
    pub(crate) names_hub: bool,
    /// A line for each given value of Istio's installers that has no effect.
    pub(crate) notes: Vec<String>,
}

impl Given {
    /// Reads the files, and understands all of it.
    pub(crate) fn read(&self) -> Result<Values, ChartError> {
        if self.revision.is_some() {
            let instead =
                "there are no revisions; underpass upgrade replaces the agents of a node without a failed connection";
            return Err(ChartError::Option { option: "--revision", instead });
        }
        if self.manifests.is_some() {
            let instead = "the chart is in the command; helm installs another one";
            return Err(ChartError::Option { option: "--manifests", instead });
        }
        let files = self.filename.iter().map(|path| {
            let text = text(path).map_err(|source| ChartError::Unread { path: path.clone(), source })?;
            Ok((path.to_string_lossy().into_owned(), text))
        });
        Values::of(self.profile.as_deref(), files.collect::<Result<_, ChartError>>()?, &self.set)
    }
}

fn text(path: &Path) -> io::Result<String> {
    if path != Path::new("-") {
        return fs::read_to_string(path);
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

impl Values {
    /// The values of a profile, of files by name and text, and of `--set`.
    pub(crate) fn of(profile: Option<&str>, files: Vec<(String, String)>, sets: &[String]) -> Result<Self, ChartError> {
        let mut values = Self::default();
        if let Some(name) = profile {
            values.profile = Some(profiles::named("--profile", name)?.name);
            values.layers.push(json!({"profile": values.profile}).to_string());
        }
        for (file, text) in files {
            values.file(&file, text)?;
        }
        for given in sets {
            values.set(given)?;
        }
        Ok(values)
    }

    fn file(&mut self, file: &str, text: String) -> Result<(), ChartError> {
        let document = document(file, &text)?;
        let (given, layer) = if operator::is_one(&document) {
            let mapped = operator::map(&document).map_err(|bad| bad_field(file, bad))?;
            self.notes.extend(mapped.notes.iter().map(|note| format!("{file}: {note}")));
            let layer = mapped.values.to_string();
            (mapped.values, layer)
        } else {
            // As it is: Helm reads numbers and flags as its users know them.
            (document, text)
        };
        match &given["profile"] {
            Value::Null => {}
            Value::String(name) => self.profile = Some(profiles::named(file, name)?.name),
            other => {
                let problem = format!("is {}, not a text", kind(other));
                return Err(bad_field(file, operator::Bad { path: "profile".to_owned(), problem }));
            }
        }
        self.names_hub |= !given["global"]["hub"].is_null();
        self.layers.push(layer);
        Ok(())
    }

    fn set(&mut self, given: &str) -> Result<(), ChartError> {
        let mapped = set::map(given).map_err(|bad| bad_field("--set", bad))?;
        if let Some(name) = &mapped.profile {
            self.profile = Some(profiles::named("--set", name)?.name);
        }
        self.names_hub |= mapped.names_hub;
        self.notes.extend(mapped.notes.iter().map(|note| format!("--set: {note}")));
        self.sets.extend(mapped.set);
        Ok(())
    }
}

fn bad_field(file: &str, bad: operator::Bad) -> ChartError {
    ChartError::Field { file: file.to_owned(), path: bad.path, problem: bad.problem }
}

/// The one document of a file: a map of values, or an object of Kubernetes' form that is an IstioOperator. An empty file is an empty map.
fn document(file: &str, text: &str) -> Result<Value, ChartError> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| {
        let cause = e.to_string().lines().next().unwrap_or_default().to_owned();
        ChartError::Yaml { file: file.to_owned(), cause }
    })?;
    let mut all = all.into_iter().filter(|document| !document.is_null());
    let first = all.next().unwrap_or_else(|| json!({}));
    let other = |is: String| Err(ChartError::Document { file: file.to_owned(), is });
    match (&first, all.count()) {
        (Value::Object(_), 0) if operator::is_one(&first) => Ok(first),
        (Value::Object(map), 0) => match (map.get("apiVersion"), map.get("kind").and_then(Value::as_str)) {
            (Some(_), Some(kind)) => other(format!("an object of kind {kind}")),
            _ => Ok(first),
        },
        (_, 0) => other(kind(&first).to_owned()),
        (_, more) => other(format!("{} documents", more.saturating_add(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(profile: Option<&str>, files: &[&str], sets: &[&str]) -> Result<Values, ChartError> {
        let files = files.iter().enumerate().map(|(n, text)| (format!("{n}.yaml"), (*text).to_owned())).collect();
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Values::of(profile, files, &sets)
    }

    const OPERATOR: &str =
        "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: minimal, hub: docker.io/istio}\n";

    #[test]
    fn layers_are_in_the_order_in_which_they_count() {
        let plain = "# of a chart\nprofile: demo\ncontrol: {replicas: 3}\n";
        let got = of(Some("ambient"), &[plain, OPERATOR], &["components.cni.enabled=true", "a=b"]).unwrap();
        let layers = [r#"{"profile":"default"}"#, plain, r#"{"profile":"minimal"}"#];
        assert_eq!(got.layers, layers);
        assert_eq!(got.sets, ["cni.enabled=true", "a=b"]);
        assert_eq!(got.profile, Some("minimal"));
        assert_eq!(got.notes.len(), 1);
        assert!(got.notes[0].starts_with("1.yaml: spec.hub: "), "{:?}", got.notes);
        assert!(!got.names_hub, "Istio's is none of ours");
    }

    #[test]
    fn the_profile_that_counts_is_the_last_one() {
        let check = |profile, files: &[&str], sets: &[&str], want| {
            assert_eq!(of(profile, files, sets).unwrap().profile, want, "{profile:?} {files:?} {sets:?}");
        };
        check(None, &[], &[], None);
        check(None, &["a: 1"], &[], None);
        check(Some("demo"), &["a: 1"], &["b=c"], Some("demo"));
        check(Some("demo"), &["profile: minimal"], &[], Some("minimal"));
        check(Some("demo"), &["profile: minimal"], &["profile=ambient"], Some("default"));
        check(None, &["profile: ''"], &[], Some("default"));
    }

    #[test]
    fn the_registry_is_looked_for_everywhere() {
        assert!(of(None, &["global: {hub: a}"], &[]).unwrap().names_hub);
        assert!(of(None, &[], &["a=b,global.hub=a"]).unwrap().names_hub);
        assert!(!of(None, &["global: {tag: a}"], &["a=b"]).unwrap().names_hub);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let check = |profile, files: &[&str], sets: &[&str], want: &str| {
            let error = of(profile, files, sets).unwrap_err().to_string();
            assert!(error.contains(want), "{error} has no {want}");
        };
        check(Some("empty"), &[], &[], "--profile: there is no profile \"empty\"; there are: default");
        check(None, &["profile: remote"], &[], "0.yaml: there is no profile \"remote\"");
        check(None, &[], &["profile=preview"], "--set: there is no profile \"preview\"");
        check(None, &["profile: [a]"], &[], "0.yaml: profile: is a list, not a text");
        check(None, &[&OPERATOR.replace("minimal", "openshift")], &[], "0.yaml: there is no profile \"openshift\"");
        check(None, &[&OPERATOR.replace("minimal", "[]")], &[], "0.yaml: spec.profile: is a list, not a text");
        check(None, &["a: [b"], &[], "0.yaml: ");
        check(None, &["apiVersion: v1\nkind: Pod"], &[], "0.yaml: is an object of kind Pod; a file of values");
        check(None, &["- a"], &[], "0.yaml: is a list");
        check(None, &["a: 1\n---\nb: 2"], &[], "0.yaml: is 2 documents");
        check(None, &[], &["hub=docker.io/istio"], "--set: hub: names Istio's image");
        let revision = Given { revision: Some("a".into()), ..Given::default() }.read().unwrap_err().to_string();
        assert!(revision.contains("--revision") && revision.contains("underpass upgrade"), "{revision}");
        let manifests = Given { manifests: Some("a".into()), ..Given::default() }.read().unwrap_err().to_string();
        assert!(manifests.contains("--manifests") && manifests.contains("in the command"), "{manifests}");
    }

    #[test]
    fn an_empty_file_is_an_empty_layer() {
        for nothing in ["", "# nothing\n", "---\n---\n"] {
            assert_eq!(of(None, &[nothing], &[]).unwrap().layers, [nothing]);
        }
    }
}
