//! Helm as a program: what it is asked, and its run. Flags are those that Helm 3.14 and Helm 4 have alike.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::process::Command;

use super::{ChartError, RELEASE, values::Values};

/// The earliest Helm with every flag that is used here.
const EARLIEST: (u64, u64) = (3, 14);
/// The first major version whose `--dry-run=client` asks no cluster.
const NOTES_WITHOUT_CLUSTER: u64 = 4;
/// The Kubernetes that is rendered for, where no cluster is asked: the earliest that the chart takes. A Helm may take an earlier one by itself.
const KUBERNETES: &str = "1.30.0";
/// By these Helm would go to another cluster than the one that was asked about.
const CLUSTER_VARIABLES: [&str; 9] = [
    "HELM_KUBEAPISERVER",
    "HELM_KUBEASGROUPS",
    "HELM_KUBEASUSER",
    "HELM_KUBECAFILE",
    "HELM_KUBECONTEXT",
    "HELM_KUBEINSECURE_SKIP_TLS_VERIFY",
    "HELM_KUBETLS_SERVER_NAME",
    "HELM_KUBETOKEN",
    "HELM_NAMESPACE",
];

/// Helm, for one release of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    /// Its major version.
    major: u64,
    /// The kubeconfig, where one is named.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Its context, where there is one.
    pub(crate) context: Option<String>,
    /// The namespace of the release.
    pub(crate) namespace: String,
}

/// What becomes of the values of the release that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// They count, under those that are given.
    Kept,
    /// They are forgotten.
    Forgotten,
}

/// How a change is carried out.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Until when is waited, as `5m0s`; none: not at all.
    pub(crate) wait: Option<String>,
    /// Whether the chart's hooks run.
    pub(crate) hooks: bool,
}

impl Helm {
    /// Helm by its path, or as it is found by its name; it says which version it is.
    pub(crate) async fn find(
        program: &Path,
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
        namespace: &str,
    ) -> Result<Self, ChartError> {
        let helm = Self { program: program.to_owned(), major: 0, kubeconfig, context, namespace: namespace.to_owned() };
        let shown = program.to_string_lossy().into_owned();
        let output = helm.command(&["version".into(), "--short".into()]).output().await;
        let output = output.map_err(|source| ChartError::NoHelm { program: shown.clone(), source })?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match version(&said) {
            Some(version) if output.status.success() && version >= EARLIEST => Ok(Self { major: version.0, ..helm }),
            _ => Err(ChartError::OtherHelm { program: shown, said }),
        }
    }

    /// Arguments that list every release of the cluster as JSON.
    pub(crate) fn list() -> Vec<OsString> {
        let states = ["--deployed", "--failed", "--pending", "--uninstalling"];
        let all = ["list", "--all-namespaces", "--max", "0", "--output", "json"];
        all.into_iter().chain(states).map(OsString::from).collect()
    }

    /// Arguments that install the chart, or upgrade to it.
    pub(crate) fn apply(chart: &Path, layers: &[PathBuf], values: &Values, before: Before, way: &Way) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["upgrade", "--install", RELEASE].map(OsString::from).into();
        all.push(chart.into());
        all.push(match before {
            Before::Kept => "--reset-then-reuse-values".into(),
            Before::Forgotten => "--reset-values".into(),
        });
        way.push(&mut all);
        push_values(&mut all, layers, values);
        all
    }

    /// The same with nothing changed: what would be applied is printed.
    pub(crate) fn try_out(chart: &Path, layers: &[PathBuf], values: &Values, before: Before) -> Vec<OsString> {
        let way = Way { wait: None, hooks: true };
        let mut all = Self::apply(chart, layers, values, before, &way);
        all.push("--dry-run=server".into());
        all
    }

    /// Arguments that render the chart without a cluster.
    pub(crate) fn template(chart: &Path, layers: &[PathBuf], values: &Values) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["template", RELEASE].map(OsString::from).into();
        all.push(chart.into());
        all.extend(["--skip-tests", "--kube-version", KUBERNETES].map(OsString::from));
        push_values(&mut all, layers, values);
        all
    }

    /// Arguments that answer, as JSON, what a user is told who installs with these values. None: this Helm would ask a cluster for it, and
    /// be it the wrong one.
    pub(crate) fn notes(&self, chart: &Path, layers: &[PathBuf], values: &Values) -> Option<Vec<OsString>> {
        if self.major < NOTES_WITHOUT_CLUSTER {
            return None;
        }
        let mut all: Vec<OsString> = ["install", RELEASE].map(OsString::from).into();
        all.push(chart.into());
        all.extend(["--dry-run=client", "--output", "json"].map(OsString::from));
        push_values(&mut all, layers, values);
        Some(all)
    }

    /// Arguments that remove the release.
    pub(crate) fn uninstall(way: &Way) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["uninstall", RELEASE].map(OsString::from).into();
        way.push(&mut all);
        all
    }

    /// Runs Helm; its standard output. It says itself why it fails.
    pub(crate) async fn read(&self, action: &'static str, arguments: &[OsString]) -> Result<String, ChartError> {
        let output = self.command(arguments).stderr(Stdio::inherit()).output().await;
        let output = output.map_err(|source| self.unstarted(source))?;
        succeeded(action, output.status, String::new)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same where an answer is not needed: none, where it fails.
    pub(crate) async fn try_read(&self, arguments: &[OsString]) -> Option<String> {
        let output = self.command(arguments).stderr(Stdio::null()).output().await.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts Helm with the standard output and error of this command.
    pub(crate) fn start(&self, arguments: &[OsString]) -> Result<tokio::process::Child, ChartError> {
        self.command(arguments).spawn().map_err(|source| self.unstarted(source))
    }

    fn unstarted(&self, source: std::io::Error) -> ChartError {
        ChartError::NoHelm { program: self.program.to_string_lossy().into_owned(), source }
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(self.place()).stdin(Stdio::null());
        for variable in CLUSTER_VARIABLES {
            command.env_remove(variable);
        }
        command
    }

    /// Arguments that name the cluster and the namespace.
    fn place(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["--namespace".into(), self.namespace.clone().into()];
        if let Some(path) = &self.kubeconfig {
            all.extend(["--kubeconfig".into(), path.into()]);
        }
        if let Some(context) = &self.context {
            all.extend(["--kube-context".into(), context.into()]);
        }
        all
    }
}

impl Way {
    fn push(&self, all: &mut Vec<OsString>) {
        if let Some(timeout) = &self.wait {
            all.extend(["--wait".into(), "--timeout".into(), timeout.into()]);
        }
        if !self.hooks {
            all.push("--no-hooks".into());
        }
    }
}

fn push_values(all: &mut Vec<OsString>, layers: &[PathBuf], values: &Values) {
    for layer in layers {
        all.extend(["--values".into(), layer.into()]);
    }
    for set in &values.sets {
        all.extend(["--set".into(), set.into()]);
    }
}

/// An error unless it succeeded; `help` says what to look at.
pub(crate) fn succeeded(
    action: &'static str,
    status: ExitStatus,
    help: impl FnOnce() -> String,
) -> Result<(), ChartError> {
    match status.success() {
        true => Ok(()),
        false => Err(ChartError::Helm { action, status: status.to_string(), help: help() }),
    }
}

/// Major and minor of what `helm version --short` says: `v3.14.2+gc309b6f`, `v4.3`.
fn version(said: &str) -> Option<(u64, u64)> {
    let mut numbers = said.strip_prefix('v')?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[OsString]) -> String {
        arguments.iter().map(|one| one.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn values() -> Values {
        Values { sets: vec!["a=b".into(), "c=d,e=f".into()], ..Values::default() }
    }

    #[test]
    fn arguments_of_a_change() {
        let way = Way { wait: Some("5m0s".into()), hooks: true };
        let layers = ["/t/0.yaml".into(), "/t/1.yaml".into()];
        assert_eq!(
            line(&Helm::apply(Path::new("/t/underpass"), &layers, &values(), Before::Forgotten, &way)),
            "upgrade --install underpass /t/underpass --reset-values --wait --timeout 5m0s --values /t/0.yaml --values /t/1.yaml \
             --set a=b --set c=d,e=f"
        );
        let way = Way { wait: None, hooks: false };
        assert_eq!(
            line(&Helm::apply(Path::new("/t/underpass"), &[], &Values::default(), Before::Kept, &way)),
            "upgrade --install underpass /t/underpass --reset-then-reuse-values --no-hooks"
        );
        let tried = line(&Helm::try_out(Path::new("/t/underpass"), &layers, &values(), Before::Kept));
        assert!(tried.contains("--dry-run=server") && !tried.contains("--wait"), "{tried}");
        assert_eq!(line(&Helm::uninstall(&way)), "uninstall underpass --no-hooks");
        assert_eq!(
            line(&Helm::template(Path::new("/t/underpass"), &layers[..1], &values())),
            "template underpass /t/underpass --skip-tests --kube-version 1.30.0 --values /t/0.yaml --set a=b --set c=d,e=f"
        );
    }

    #[test]
    fn what_is_rendered_for_is_what_the_chart_takes() {
        let chart = super::super::file("Chart.yaml").unwrap();
        assert!(chart.contains(&format!("kubeVersion: \">={KUBERNETES}-0\"")), "{chart}");
    }

    #[test]
    fn the_cluster_is_the_one_that_was_asked_about() {
        let helm = Helm {
            program: "helm".into(),
            major: 3,
            kubeconfig: Some("/k".into()),
            context: Some("kind".into()),
            namespace: "mesh".into(),
        };
        let notes = |helm: &Helm| helm.notes(Path::new("/t/underpass"), &[], &values()).is_some();
        assert!(!notes(&helm) && notes(&Helm { major: 4, ..helm.clone() }), "Helm 3 would ask a cluster");
        let command = helm.command(&Helm::list());
        let all: Vec<OsString> = command.as_std().get_args().map(OsString::from).collect();
        let all = line(&all);
        assert!(all.ends_with("--namespace mesh --kubeconfig /k --kube-context kind"), "{all}");
        let removed = |name: &str| command.as_std().get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(removed("HELM_KUBECONTEXT") && removed("HELM_KUBETOKEN"));
        let nowhere = Helm { kubeconfig: None, context: None, ..helm };
        assert_eq!(line(&nowhere.place()), "--namespace mesh");
    }

    #[test]
    fn versions_of_helm() {
        assert_eq!(version("v4.3"), Some((4, 3)));
        assert_eq!(version("v3.14.2+gc309b6f"), Some((3, 14)));
        assert_eq!(version("Client: v2.17.0"), None);
        assert!(version("v3.9.4").unwrap() < EARLIEST && version("v10.0.0").unwrap() > EARLIEST);
    }
}
