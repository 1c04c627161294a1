//! The rights that an installation needs: one row for each kind of the chart's objects, asked of the API server for the user of the
//! kubeconfig.

use underpass_kube::{Client, client::Error, survey::Action};

use super::super::findings::Finding;
use crate::agents::at_once;

/// What Helm does with every object of a release.
const VERBS: [&str; 4] = ["get", "create", "patch", "delete"];

/// What it does with its records of the release, which are Secrets.
const OF_RECORDS: [&str; 5] = ["get", "list", "create", "update", "delete"];
/// And with those of other namespaces: one release serves a cluster, so `underpass install` looks for another.
const OF_ALL_RECORDS: [&str; 1] = ["list"];

/// A kind of the chart's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    group: &'static str,
    resource: &'static str,
    /// It is in the namespace of the installation.
    is_namespaced: bool,
}

impl Row {
    fn verbs(&self) -> &'static [&'static str] {
        match *self {
            RECORDS => &OF_RECORDS,
            ALL_RECORDS => &OF_ALL_RECORDS,
            _ => &VERBS,
        }
    }
}

const fn row(group: &'static str, resource: &'static str, is_namespaced: bool) -> Row {
    Row { group, resource, is_namespaced }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Helm's records of the release.
const RECORDS: Row = row("", "secrets", true);
/// Those of every namespace.
const ALL_RECORDS: Row = row("", "secrets", false);

const ROWS: &[Row] = &[
    row("", "namespaces", false),
    RECORDS,
    ALL_RECORDS,
    row("", "configmaps", true),
    row("", "serviceaccounts", true),
    row("", "services", true),
    row("apps", "daemonsets", true),
    row("apps", "deployments", true),
    row("batch", "jobs", true),
    row("policy", "poddisruptionbudgets", true),
    row(RBAC, "roles", true),
    row(RBAC, "rolebindings", true),
    row(RBAC, "clusterroles", false),
    row(RBAC, "clusterrolebindings", false),
    row(ADMISSION, "validatingwebhookconfigurations", false),
    row(ADMISSION, "validatingadmissionpolicies", false),
    row(ADMISSION, "validatingadmissionpolicybindings", false),
];

/// What the user may not do with a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    row: Row,
    namespace: String,
    verbs: Vec<&'static str>,
}

/// Asks about every row.
pub(super) async fn read(client: &Client, namespace: &str, findings: &mut Vec<Finding>) -> Vec<Denied> {
    let questions = ROWS.iter().flat_map(|row| row.verbs().iter().map(|verb| (*row, *verb)));
    let answers = at_once(questions, |(row, verb)| {
        let (client, namespace) = (client.clone(), namespace.to_owned());
        async move {
            let namespace = row.is_namespaced.then_some(&*namespace);
            let action = Action { verb, group: row.group, resource: row.resource, namespace };
            (row, verb, client.may(action).await)
        }
    });
    sorted(answers.await, namespace, findings)
}

/// The rows with a verb that is denied, in their order; of failures the first, because all of them say the same.
fn sorted(
    answers: Vec<(Row, &'static str, Result<bool, Error>)>,
    namespace: &str,
    findings: &mut Vec<Finding>,
) -> Vec<Denied> {
    let is_denied =
        |row: &Row, verb: &str| answers.iter().any(|(r, v, said)| r == row && *v == verb && *said == Ok(false));
    if let Some(e) = answers.iter().find_map(|(_, _, said)| said.as_ref().err()) {
        findings.push(Finding::unasked("your rights", e, "create selfsubjectaccessreviews"));
    }
    let denied = |row: &Row| {
        let verbs: Vec<_> = row.verbs().iter().copied().filter(|verb| is_denied(row, verb)).collect();
        (!verbs.is_empty()).then(|| Denied { row: *row, namespace: namespace.to_owned(), verbs })
    };
    ROWS.iter().filter_map(denied).collect()
}

pub(super) fn findings(denied: &[Denied]) -> Vec<Finding> {
    let one = |denied: &Denied| {
        let Denied { row: Row { group, resource, is_namespaced }, namespace, verbs } = denied;
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let place = match *is_namespaced {
            true => format!(" in namespace {namespace}"),
            false if denied.row == ALL_RECORDS => " in every namespace".to_owned(),
            false => String::new(),
        };
        let found = format!("you may not {} {resource}{group}{place}", verbs.join(", "));
        Finding::error("your rights", found, "install with the rights of a cluster's administrator (cluster-admin)")
    };
    denied.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    /// Kinds that are made on demand alone (`networkPolicy.enabled`, `monitoring.*.enabled`).
    const ON_DEMAND: [&str; 4] = ["NetworkPolicy", "ServiceMonitor", "PodMonitor", "PrometheusRule"];

    /// `apiVersion` and `kind` of every object of the chart's templates.
    fn kinds() -> BTreeSet<(String, String)> {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/underpass/templates");
        let files = fs::read_dir(chart).unwrap().flatten().map(|entry| entry.path());
        let mut kinds = BTreeSet::new();
        for file in files.filter(|file| file.extension().is_some_and(|ending| ending == "yaml")) {
            let (mut group, text) = (String::new(), fs::read_to_string(&file).unwrap());
            for line in text.lines() {
                if let Some(version) = line.strip_prefix("apiVersion: ") {
                    group = version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
                } else if let Some(kind) = line.strip_prefix("kind: ") {
                    kinds.insert((group.clone(), kind.to_owned()));
                }
            }
        }
        kinds
    }

    #[test]
    fn every_kind_of_the_chart_is_asked_about_and_no_other() {
        let plural = |kind: &str| match kind.to_lowercase() {
            kind if kind.ends_with('y') => format!("{}ies", kind.trim_end_matches('y')),
            kind => format!("{kind}s"),
        };
        let wanted = kinds().into_iter().filter(|(_, kind)| !ON_DEMAND.contains(&&**kind));
        let mut wanted: BTreeSet<(String, String)> = wanted.map(|(group, kind)| (group, plural(&kind))).collect();
        wanted.insert((String::new(), "secrets".to_owned()));
        let asked = ROWS.iter().map(|row| (row.group.to_owned(), row.resource.to_owned())).collect();
        assert_eq!(wanted, asked);
    }

    #[test]
    fn what_is_denied_is_named_by_kind() {
        let (roles, sets) = (row(RBAC, "clusterroles", false), row("apps", "daemonsets", true));
        let failed = || Err(Error::Name { name: "x".into() });
        let answers = vec![
            (roles, "patch", Ok(false)),
            (roles, "create", Ok(false)),
            (roles, "get", Ok(true)),
            (sets, "delete", Ok(false)),
            (sets, "get", failed()),
            (RECORDS, "update", Ok(false)),
            (ALL_RECORDS, "list", Ok(false)),
            (sets, "create", failed()),
        ];
        let mut unasked = Vec::new();
        let denied = sorted(answers, "mesh", &mut unasked);
        assert_eq!(unasked.len(), 1, "{unasked:?}");
        let found: Vec<String> = findings(&denied).into_iter().map(|f| f.found).collect();
        assert_eq!(
            found,
            [
                "you may not update secrets in namespace mesh",
                "you may not list secrets in every namespace",
                "you may not delete daemonsets.apps in namespace mesh",
                "you may not create, patch clusterroles.rbac.authorization.k8s.io",
            ]
        );
    }
}
