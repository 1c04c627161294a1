//! Helm as a program, and what it renders as objects.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
pub(crate) use underpass_tests::installed::CHART;
use underpass_tests::testbed::{Site, kubernetes};

/// The namespace of the release.
pub(crate) const NAMESPACE: &str = "mesh-system";
/// The variable by which `cargo xtask` names the program.
const PROGRAM: &str = "UNDERPASS_HELM";

/// The number of the next folder: each Helm has its own.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Helm with a folder of its own, which goes with it.
#[derive(Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    folder: PathBuf,
    /// Where it runs, with the kubeconfig of a cluster; none: here, without a cluster.
    cluster: Option<(Site, PathBuf)>,
}

impl Helm {
    /// Without a cluster.
    pub(crate) fn new() -> Result<Self> {
        let program = std::env::var_os(PROGRAM)
            .with_context(|| format!("{PROGRAM} names Helm: run `cargo xtask test kubernetes`"))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Below target: what a killed run leaves goes with it.
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("underpass-helm-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self { program: program.into(), cluster: None, folder })
    }

    /// At this site, with the cluster of this kubeconfig.
    pub(crate) fn of(site: Site, kubeconfig: &Path) -> Result<Self> {
        let mut helm = Self::new()?;
        helm.cluster = Some((site, kubeconfig.to_owned()));
        Ok(helm)
    }

    /// Its standard output; an error with its standard error unless it succeeds.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        if let Some((site, kubeconfig)) = &self.cluster {
            return kubernetes::helm(&self.program, site, kubeconfig, arguments);
        }
        // Nothing of the user's own.
        let homes = kubernetes::helm_homes(&self.folder);
        let program = self.program.to_string_lossy();
        let mut all: Vec<&str> =
            homes.iter().map(String::as_str).chain(["KUBECONFIG=/nonexistent", &*program]).collect();
        all.extend(arguments);
        let output = Command::new("env").args(&all).output().context("start env")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {arguments:?} ended with {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A file of values.
    pub(crate) fn file(&self, values: &str) -> Result<String> {
        let path = self.folder.join(format!("values-{}.yaml", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, values).with_context(|| format!("write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// What these values render to, as text.
    pub(crate) fn text(&self, values: &str) -> Result<String> {
        self.run(&["template", "underpass", CHART, "--namespace", NAMESPACE, "--values", &self.file(values)?])
    }

    /// What these values render to.
    pub(crate) fn render(&self, values: &str) -> Result<Objects> {
        Objects::parse(&self.text(values)?)
    }

    /// What Helm says to a user who installs with these values.
    pub(crate) fn notes(&self, values: &str) -> Result<String> {
        let values = self.file(values)?;
        let install = ["install", "underpass", CHART, "--namespace", NAMESPACE, "--values", &values];
        let said = self.run(&[&install[..], &["--dry-run=client"]].concat())?;
        said.split_once("\nNOTES:\n").map(|(_, notes)| notes.to_owned()).with_context(|| format!("no notes: {said}"))
    }
}

impl Drop for Helm {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Objects as they are rendered.
#[derive(Debug)]
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Objects {
    /// Reads YAML documents.
    pub(crate) fn parse(yaml: &str) -> Result<Self> {
        let all: Vec<Value> = serde_saphyr::from_multiple(yaml).with_context(|| yaml.to_owned())?;
        Ok(Self(all.into_iter().filter(|object| !object.is_null()).collect()))
    }

    /// The object of this kind and name.
    pub(crate) fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.0.iter().find(is).with_context(|| format!("no {kind} {name}"))
    }

    /// It is no part of the release.
    pub(crate) fn is_hook(object: &Value) -> bool {
        !object["metadata"]["annotations"]["helm.sh/hook"].is_null()
    }

    /// The hooks of this moment of a release.
    pub(crate) fn hooks<'a>(&'a self, when: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["metadata"]["annotations"]["helm.sh/hook"] == when)
    }

    /// Those that have pods.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|object| object["spec"]["template"]["spec"].is_object())
    }

    /// The only container of a workload that stays.
    pub(crate) fn container(&self, kind: &str, name: &str) -> Result<&Value> {
        Ok(&self.one(kind, name)?["spec"]["template"]["spec"]["containers"][0])
    }
}

/// The field at this path of names.
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, name| &value[name])
}

/// All containers of a pod's spec.
pub(crate) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten())
}

/// Strings of a list.
pub(crate) fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// The paths that a container is told of: by its command, arguments and environment, and by its probes.
pub(crate) fn paths(container: &Value) -> Vec<String> {
    let probes =
        ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| strings(&container[probe]["exec"]["command"]));
    let variables = container["env"].as_array().into_iter().flatten();
    let variables = variables.filter_map(|variable| variable["value"].as_str().map(str::to_owned));
    let all = [strings(&container["command"]), strings(&container["args"])].into_iter().chain(probes).flatten();
    let values = all.chain(variables).map(|text| match text.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => value.to_owned(),
        _ => text,
    });
    values.filter(|value| value.starts_with('/')).collect()
}
