//! Counts by policy, of what decides nothing: dry runs and audits. Touched for what such a policy matches alone, which is little.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use underpass_core::{
    ObjectName, World,
    world::{Action, AuthorizationPolicy},
};

use super::Gone;

/// Namespace and name of all policies beyond the limit.
const OVERFLOW: &str = "overflow";

#[derive(Debug, Default)]
struct Count {
    count: u64,
    gone: Gone,
}

/// The counts of all policies of one sort.
#[derive(Debug)]
pub struct PolicyCounts {
    most: usize,
    keep_gone: Duration,
    is_counted: fn(&AuthorizationPolicy) -> bool,
    policies: HashMap<ObjectName, Count>,
}

impl PolicyCounts {
    /// Of what dry runs would have denied, for at most so many policies; the counts of one that is gone are kept for so long.
    #[must_use]
    pub fn of_dry_runs(most: usize, keep_gone: Duration) -> Self {
        Self::new(most, keep_gone, |policy| policy.dry_run)
    }

    /// Of what policies with action AUDIT match.
    #[must_use]
    pub fn of_audits(most: usize, keep_gone: Duration) -> Self {
        Self::new(most, keep_gone, |policy| policy.action == Action::Audit && !policy.dry_run)
    }

    fn new(most: usize, keep_gone: Duration, is_counted: fn(&AuthorizationPolicy) -> bool) -> Self {
        Self { most, keep_gone, is_counted, policies: HashMap::new() }
    }

    /// Counts one connection, or one request, for each of these.
    pub fn count(&mut self, policies: &[ObjectName]) {
        for policy in policies {
            let has_room = self.policies.len() < self.most || self.policies.contains_key(policy);
            let policy = if has_room { policy.clone() } else { ObjectName::new(OVERFLOW, OVERFLOW) };
            let count = self.policies.entry(policy).or_default();
            count.count += 1;
            count.gone.end();
        }
    }

    /// Drops those of policies that are gone, or of this sort no more, once they have been shown for long enough.
    pub fn sweep(&mut self, world: &World, now: Instant) {
        self.policies.retain(|policy, count| {
            let is_counted = world.policy(policy).is_some_and(|policy| (self.is_counted)(policy));
            count.gone.stays(is_counted, self.keep_gone, now)
        });
    }

    /// The count of each policy.
    #[must_use]
    pub fn list(&self) -> Vec<(ObjectName, u64)> {
        self.policies.iter().map(|(policy, count)| (policy.clone(), count.count)).collect()
    }
}
