//! Pods in the real kernel: found by uid, set up in their namespaces, captured, handed off, released, purged. Level kernel.
//!
//! The agent's lower half (pods, tables, data path) runs for real, a stand-in takes the place of the tunnel: it describes outgoing
//! connections, and hands incoming ones to the application as the client.

#[path = "pods/agent.rs"]
mod agent;
#[path = "pods/enrolment.rs"]
mod enrolment;
#[path = "pods/release.rs"]
mod release;
#[path = "pods/setup.rs"]
mod setup;
#[path = "pods/steering.rs"]
mod steering;
#[path = "pods/tunnel.rs"]
mod tunnel;

use enrolment::{
    a_mesh_that_does_not_fit_into_the_kernel, addresses_without_end_concern_one_pod, an_impostor_is_not_the_sandbox,
    cgroups_as_the_cgroupfs_driver_lays_them_out, sandboxes_are_waited_for, secondary_addresses_are_kept_current,
    what_it_costs, what_leaves_an_enrolled_pod, what_reaches_an_enrolled_pod,
};
use release::{
    a_released_pod_is_as_it_was, a_sandbox_that_ends_leaves_nothing, an_agent_that_comes_back_finds_everything,
    cleanup_needs_no_world, pods_that_left_while_no_agent_ran_are_released, release_waits_for_open_connections,
    what_a_failed_successor_took_down_is_put_right,
};
use steering::{
    a_pod_that_is_called_leaves, an_agent_that_comes_back_goes_on_with_a_release, what_a_pod_opened_keeps_it_steered,
    what_a_successor_did_to_a_pod_in_release_is_put_right, what_waits_for_an_agent_is_carried_although_its_pod_leaves,
};

underpass_tests::scenarios! {
    what_leaves_an_enrolled_pod,
    what_reaches_an_enrolled_pod,
    a_mesh_that_does_not_fit_into_the_kernel,
    a_released_pod_is_as_it_was,
    release_waits_for_open_connections,
    a_pod_that_is_called_leaves,
    what_a_pod_opened_keeps_it_steered,
    an_agent_that_comes_back_goes_on_with_a_release,
    what_a_successor_did_to_a_pod_in_release_is_put_right,
    what_waits_for_an_agent_is_carried_although_its_pod_leaves,
    a_sandbox_that_ends_leaves_nothing,
    an_impostor_is_not_the_sandbox,
    secondary_addresses_are_kept_current,
    addresses_without_end_concern_one_pod,
    an_agent_that_comes_back_finds_everything,
    what_a_failed_successor_took_down_is_put_right,
    pods_that_left_while_no_agent_ran_are_released,
    cleanup_needs_no_world,
    sandboxes_are_waited_for,
    cgroups_as_the_cgroupfs_driver_lays_them_out,
    what_it_costs,
}
