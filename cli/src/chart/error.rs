//! Errors on the way from a user's values to a release.

use std::{io, path::PathBuf};

/// The reason why the chart is not installed, rendered or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChartError {
    /// The directory for Helm.
    #[error("cannot write the chart for helm: {path}: {source}", path = path.display())]
    Unpack { path: PathBuf, source: io::Error },
    /// A file of values.
    #[error("cannot read the values in {path}: {source}", path = path.display())]
    Unread { path: PathBuf, source: io::Error },
    /// It is no YAML.
    #[error("{file}: {cause}")]
    Yaml { file: String, cause: String },
    /// It is another kind of document.
    #[error("{file}: is {is}; a file of values, or one IstioOperator of install.istio.io/v1alpha1, is expected")]
    Document { file: String, is: String },
    /// A field of an IstioOperator, or a key of `--set`.
    #[error("{file}: {path}: {problem}")]
    Field { file: String, path: String, problem: String },
    /// There is no such profile.
    #[error("{of}: there is no profile {name:?}; there are: {known}")]
    Profile { of: String, name: String, known: String },
    /// An option of istioctl's without a meaning here.
    #[error("{option} has no meaning here: {instead}")]
    Option { option: &'static str, instead: &'static str },
    /// Helm is not there.
    #[error(
        "cannot run {program}: {source}; this command installs with Helm, 3.14 or later: https://helm.sh/docs/intro/install, or \
         --helm PATH names one that is elsewhere"
    )]
    NoHelm { program: String, source: io::Error },
    /// Helm is too old, or another program.
    #[error(
        "{program} is {said:?}; this command installs with Helm, 3.14 or later: https://helm.sh/docs/intro/install"
    )]
    OtherHelm { program: String, said: String },
    /// Helm failed; it has said why.
    #[error("helm {action} failed ({status}){help}")]
    Helm { action: &'static str, status: String, help: String },
    /// Helm's list of releases.
    #[error("what helm lists cannot be read: {cause}")]
    List { cause: String },
    /// The mesh is there as another release.
    #[error(
        "Underpass is installed in this cluster as release {name} of namespace {namespace}, and one release serves a cluster; {help}"
    )]
    Elsewhere { name: String, namespace: String, help: String },
    /// There is nothing to upgrade or to remove.
    #[error("no release of Underpass is in namespace {namespace}; {help}")]
    Absent { namespace: String, help: &'static str },
    /// Agents' pods would be refused.
    #[error(
        "namespace {namespace} has the label pod-security.kubernetes.io/enforce={level}, which forbids the agents' pods; where that \
         may change: kubectl label --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=privileged"
    )]
    PodSecurity { namespace: String, level: String },
    /// What is rendered.
    #[error("what helm renders cannot be read: {cause}")]
    Rendered { cause: String },
}
