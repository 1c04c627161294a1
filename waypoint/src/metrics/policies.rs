//! What is shown of policies that decide nothing ([`underpass_proxy::series::PolicyCounts`]).

use underpass_core::ObjectName;
use underpass_telemetry::metrics::{Family, Lines};

pub(super) static DENIALS: Family = Family::counter(
    "underpass_waypoint_dry_run_denials_total",
    "Requests that a dry-run policy would have denied, each once by policy.",
    &["namespace", "policy"],
);
pub(super) static AUDITS: Family = Family::counter(
    "underpass_waypoint_audited_requests_total",
    "Requests that a policy with action AUDIT matches, each once by policy.",
    &["namespace", "policy"],
);

pub(super) fn show(family: &'static Family, counts: &[(ObjectName, u64)], lines: &mut Lines) {
    lines.family(family);
    for (policy, count) in counts {
        lines.sample(family, &[policy.namespace(), policy.name()], count);
    }
}
