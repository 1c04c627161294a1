//! End to end: the view of a mesh's applications, and the packets between the nodes. Level kernel: needs root, the kernel programs
//! and the agent. Every behaviour has its failing twin: without the mesh, or with a peer outside of it.
//!
//! Policies are in policy.rs.

#[path = "mesh/destinations.rs"]
mod destinations;
#[path = "mesh/faults.rs"]
mod faults;
#[path = "mesh/operation.rs"]
mod operation;
#[path = "mesh/setup.rs"]
mod setup;
#[path = "mesh/streams.rs"]
mod streams;

use destinations::{
    a_service_may_lead_to_its_caller, addresses_are_as_without_a_mesh, capture_follows_the_label,
    destinations_outside_the_mesh_are_untouched, endpoints_outside_the_mesh_are_passed_through,
    services_lead_to_target_ports,
};
use faults::{a_node_without_an_agent_is_unreachable, a_slow_link, every_wait_has_an_end, no_application_listens};
use operation::{
    certificates_are_renewed_under_traffic, connections_are_listed_while_they_are_open,
    ready_when_the_manifests_are_applied, two_lines_tell_all_about_a_connection,
};
use streams::{
    a_reset_after_the_end_of_a_half_travels, bulk_to_a_slow_reader_takes_bounded_memory, halves_close_on_their_own,
    many_connections, resets_travel, servers_may_speak_first, single_bytes_arrive,
    stalled_streams_do_not_hold_up_others,
};

underpass_tests::scenarios! {
    capture_follows_the_label,
    addresses_are_as_without_a_mesh,
    services_lead_to_target_ports,
    a_service_may_lead_to_its_caller,
    endpoints_outside_the_mesh_are_passed_through,
    destinations_outside_the_mesh_are_untouched,
    halves_close_on_their_own,
    resets_travel,
    a_reset_after_the_end_of_a_half_travels,
    servers_may_speak_first,
    single_bytes_arrive,
    bulk_to_a_slow_reader_takes_bounded_memory,
    stalled_streams_do_not_hold_up_others,
    many_connections,
    no_application_listens,
    a_node_without_an_agent_is_unreachable,
    every_wait_has_an_end,
    a_slow_link,
    two_lines_tell_all_about_a_connection,
    connections_are_listed_while_they_are_open,
    certificates_are_renewed_under_traffic,
    ready_when_the_manifests_are_applied,
}
