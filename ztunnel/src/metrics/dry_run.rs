//! Dry-run denials, by policy. Touched for denied connections alone, which are few.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use underpass_core::{ObjectName, World};
use underpass_telemetry::metrics::{Family, Lines};

use super::{OVERFLOW, Settings, gone::Gone};

pub(super) static DENIALS: Family = Family::counter(
    "underpass_dry_run_denials_total",
    "Connections that a dry-run policy would have denied when they were opened.",
    &["namespace", "policy"],
);

#[derive(Debug, Default)]
struct Denials {
    count: u64,
    gone: Gone,
}

/// The denials of all dry-run policies.
#[derive(Debug)]
pub(super) struct DryRuns {
    most: usize,
    keep_gone: Duration,
    policies: HashMap<ObjectName, Denials>,
}

impl DryRuns {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { most: settings.most_series, keep_gone: settings.keep_gone, policies: HashMap::new() }
    }

    /// Counts one connection that these would have denied.
    pub(super) fn deny(&mut self, by: &[ObjectName]) {
        for policy in by {
            let has_room = self.policies.len() < self.most || self.policies.contains_key(policy);
            let policy = if has_room { policy.clone() } else { ObjectName::new(OVERFLOW, OVERFLOW) };
            let denials = self.policies.entry(policy).or_default();
            denials.count += 1;
            denials.gone.end();
        }
    }

    /// Drops those of policies that are gone, or are no dry runs any more, once they have been shown for long enough.
    pub(super) fn sweep(&mut self, world: &World, now: Instant) {
        self.policies.retain(|policy, denials| {
            let is_tried = world.policy(policy).is_some_and(|policy| policy.dry_run);
            denials.gone.stays(is_tried, self.keep_gone, now)
        });
    }

    pub(super) fn list(&self) -> Vec<(ObjectName, u64)> {
        self.policies.iter().map(|(policy, denials)| (policy.clone(), denials.count)).collect()
    }
}

pub(super) fn show(denials: &[(ObjectName, u64)], lines: &mut Lines) {
    lines.family(&DENIALS);
    for (policy, count) in denials {
        lines.sample(&DENIALS, &[policy.namespace(), policy.name()], count);
    }
}
