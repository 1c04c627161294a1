//! What is shown of dry-run denials ([`underpass_proxy::series::PolicyCounts`]).

use underpass_core::ObjectName;
use underpass_telemetry::metrics::{Family, Lines};

pub(super) static DENIALS: Family = Family::counter(
    "underpass_dry_run_denials_total",
    "Connections that a dry-run policy would have denied when they were opened.",
    &["namespace", "policy"],
);

pub(super) fn show(denials: &[(ObjectName, u64)], lines: &mut Lines) {
    lines.family(&DENIALS);
    for (policy, count) in denials {
        lines.sample(&DENIALS, &[policy.namespace(), policy.name()], count);
    }
}
