//! What an installation or an upgrade is going to do, in words: before the question, and after the work.

use std::cmp::Ordering;

use crate::{
    chart::{
        RELEASE, VERSION,
        helm::Before,
        profiles,
        release::{Release, compare},
        values::Values,
    },
    output::one_line,
};

/// What is going to be done.
pub(super) struct Plan<'a> {
    /// The release that is there.
    pub(super) found: Option<&'a Release>,
    /// How a user knows the cluster.
    pub(super) cluster: &'a str,
    pub(super) namespace: &'a str,
    pub(super) values: &'a Values,
    pub(super) before: Before,
}

impl Plan<'_> {
    /// What a user should know before the answer.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.first()];
        if let Some(Release { status, version }) = self.found {
            if compare(VERSION, version) == Some(Ordering::Less) {
                lines.push(format!("{VERSION} is EARLIER than {version}, which is installed."));
            }
            if status != "deployed" {
                lines.push(format!("The last change of the release did not end well: it is {}.", one_line(status)));
            }
            if status.starts_with("pending-") {
                let way_out = match &**status {
                    // There is no earlier revision.
                    "pending-install" => format!("underpass uninstall -i {}", one_line(self.namespace)),
                    _ => format!("helm rollback {RELEASE} -n {}", one_line(self.namespace)),
                };
                lines.push(format!(
                    "Helm takes no other change until that one has ended; if its helm is gone: {way_out}"
                ));
            }
            lines.push(match self.before {
                Before::Kept => "Values that are not given now stay as they are.".to_owned(),
                Before::Forgotten => {
                    "Values that are not given now become the chart's own; underpass upgrade keeps them.".to_owned()
                }
            });
        } else if !self.values.names_hub {
            lines.push(format!(
                "The image is localhost/underpass:{VERSION}, unless global.tag says otherwise: --set global.hub=REGISTRY names \
                 another registry."
            ));
        }
        lines
    }

    fn first(&self) -> String {
        let profile = match (self.values.profile, self.found, self.before) {
            (Some(name), _, _) => format!(" (profile {name})"),
            (None, Some(_), Before::Kept) => String::new(),
            (None, _, _) => format!(" (profile {})", profiles::DEFAULT),
        };
        let place = format!("namespace {} of {}", one_line(self.namespace), one_line(self.cluster));
        match self.found {
            None => format!("This will install Underpass {VERSION}{profile} into {place}."),
            Some(found) if found.version == VERSION => {
                format!("This will apply Underpass {VERSION}{profile} again in {place}.")
            }
            Some(found) => {
                let from = one_line(&found.version);
                format!("This will upgrade Underpass {from} to {VERSION}{profile} in {place}.")
            }
        }
    }

    /// What has been done, and what comes next.
    pub(super) fn outcome(&self, is_ready: bool) -> String {
        let state = if is_ready { "and ready" } else { "not waited for: underpass status shows how it fares" };
        match self.found {
            None => format!(
                "Underpass {VERSION} is installed {state}.\nNext: underpass label namespace NAME puts the pods of a namespace into the mesh, \
                 without a restart.\n"
            ),
            Some(_) => format!("Underpass {VERSION} is applied {state}.\n"),
        }
    }
}

/// Where to look when Helm has failed.
pub(super) fn after_a_failure(namespace: &str) -> String {
    let namespace = one_line(namespace);
    format!(
        "; see kubectl get pods,events -n {namespace}; what ran before runs on, and the same command can be given again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(found: Option<(&str, &str)>, values: &Values, before: Before) -> Vec<String> {
        let found = found.map(|(version, status)| Release { version: version.into(), status: status.into() });
        let plan = Plan { found: found.as_ref(), cluster: "context kind", namespace: "mesh", values, before };
        plan.lines()
    }

    #[test]
    fn the_question_says_what_where_and_which_values() {
        let with_hub = Values { names_hub: true, ..Values::default() };
        let demo = Values { profile: Some("demo"), ..Values::default() };
        assert_eq!(
            lines(None, &with_hub, Before::Forgotten),
            [format!("This will install Underpass {VERSION} (profile default) into namespace mesh of context kind.")]
        );
        let first = lines(None, &demo, Before::Forgotten);
        assert!(first[0].contains("(profile demo)") && first[1].contains("localhost/underpass"), "{first:?}");
        let kept = "Values that are not given now stay as they are.";
        assert_eq!(
            lines(Some(("0.0.9", "deployed")), &with_hub, Before::Kept),
            [
                format!("This will upgrade Underpass 0.0.9 to {VERSION} in namespace mesh of context kind.").as_str(),
                kept
            ]
        );
        let again = lines(Some((VERSION, "failed")), &Values::default(), Before::Forgotten);
        assert!(
            again[0].starts_with(&format!("This will apply Underpass {VERSION} (profile default) again")),
            "{again:?}"
        );
        assert!(again[1].contains("it is failed") && again[2].contains("underpass upgrade keeps them"), "{again:?}");
        let pending = |status| lines(Some((VERSION, status)), &Values::default(), Before::Kept).remove(2);
        assert!(pending("pending-upgrade").ends_with("helm rollback underpass -n mesh"));
        assert!(pending("pending-install").ends_with("underpass uninstall -i mesh"));
        let down = lines(Some(("99.0.0", "deployed")), &with_hub, Before::Kept);
        assert_eq!(down[1], format!("{VERSION} is EARLIER than 99.0.0, which is installed."));
    }

    #[test]
    fn the_outcome_says_what_comes_next() {
        let values = Values::default();
        let plan = |found| Plan { found, cluster: "c", namespace: "mesh", values: &values, before: Before::Forgotten };
        let installed = plan(None).outcome(true);
        assert!(
            installed.contains("is installed and ready") && installed.contains("underpass label namespace"),
            "{installed}"
        );
        let release = Release { version: VERSION.into(), status: "deployed".into() };
        assert!(plan(Some(&release)).outcome(false).contains("is applied not waited for"));
        assert!(after_a_failure("mesh").contains("-n mesh"));
    }
}
