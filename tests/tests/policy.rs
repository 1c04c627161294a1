//! End to end: authorization policies. Level kernel: needs root, the kernel programs and the agent. Every behaviour has its
//! failing twin: what a policy refuses passes without it, and what it does not name passes with it.
//!
//! What must hold in all of them: a denied call gets a reset, and both nodes' access logs name it.

#[path = "policy/changes.rs"]
mod changes;
#[path = "policy/rules.rs"]
mod rules;
#[path = "policy/setup.rs"]
mod setup;
#[path = "policy/strangers.rs"]
mod strangers;

use changes::{
    a_change_closes_exactly_what_it_denies, a_policy_that_flips_leaves_nothing_open, a_renamed_manifest_leaves_no_gap,
    identities_follow_the_world, the_last_good_version_keeps_serving,
};
use rules::{
    a_dry_run_never_denies, every_field_allows_and_denies, plaintext_from_outside_is_judged, policies_have_a_scope,
    what_needs_a_waypoint_is_denied_and_said,
};
use strangers::{a_flood_of_strangers_does_not_keep_friends_out, strangers_at_the_tunnel_port};

underpass_tests::scenarios! {
    every_field_allows_and_denies,
    policies_have_a_scope,
    a_change_closes_exactly_what_it_denies,
    a_policy_that_flips_leaves_nothing_open,
    identities_follow_the_world,
    a_dry_run_never_denies,
    what_needs_a_waypoint_is_denied_and_said,
    plaintext_from_outside_is_judged,
    the_last_good_version_keeps_serving,
    a_renamed_manifest_leaves_no_gap,
    strangers_at_the_tunnel_port,
    a_flood_of_strangers_does_not_keep_friends_out,
}
