//! Dry-run denials, by policy. Touched for what such a policy would have denied alone, which is little.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use underpass_core::{ObjectName, World};

use super::Gone;

/// Namespace and name of all policies beyond the limit.
const OVERFLOW: &str = "overflow";

#[derive(Debug, Default)]
struct Denials {
    count: u64,
    gone: Gone,
}

/// The denials of all dry-run policies.
#[derive(Debug)]
pub struct DryRuns {
    most: usize,
    keep_gone: Duration,
    policies: HashMap<ObjectName, Denials>,
}

impl DryRuns {
    /// Of at most so many policies; those of one that is gone are kept for so long.
    #[must_use]
    pub fn new(most: usize, keep_gone: Duration) -> Self {
        Self { most, keep_gone, policies: HashMap::new() }
    }

    /// Counts one connection, or one request, that these would have denied.
    pub fn deny(&mut self, by: &[ObjectName]) {
        for policy in by {
            let has_room = self.policies.len() < self.most || self.policies.contains_key(policy);
            let policy = if has_room { policy.clone() } else { ObjectName::new(OVERFLOW, OVERFLOW) };
            let denials = self.policies.entry(policy).or_default();
            denials.count += 1;
            denials.gone.end();
        }
    }

    /// Drops those of policies that are gone, or are no dry runs any more, once they have been shown for long enough.
    pub fn sweep(&mut self, world: &World, now: Instant) {
        self.policies.retain(|policy, denials| {
            let is_tried = world.policy(policy).is_some_and(|policy| policy.dry_run);
            denials.gone.stays(is_tried, self.keep_gone, now)
        });
    }

    /// The denials of each policy.
    #[must_use]
    pub fn list(&self) -> Vec<(ObjectName, u64)> {
        self.policies.iter().map(|(policy, denials)| (policy.clone(), denials.count)).collect()
    }
}
