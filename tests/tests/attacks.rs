//! End to end: attacks of root inside a pod, a neighbour or a stranger on enrolment, capture, guard and hand-off, in
//! IPv4, IPv6 and IPv4 by IPv6 sockets. Level kernel.
//!
//! What must hold: every attack has a twin, the same from a pod that is not in the mesh or without what stops it, which
//! succeeds, so that the test can fail; and the kernel's counter says that it was this rule that stopped it.

#[path = "attacks/enrolment.rs"]
mod enrolment;
#[path = "attacks/guard.rs"]
mod guard;
#[path = "attacks/inbound.rs"]
mod inbound;
#[path = "attacks/outbound.rs"]
mod outbound;
mod support;

use enrolment::{
    an_impostor_is_not_the_pod, listeners_by_their_own_ports, listeners_cannot_be_joined,
    only_the_agents_cgroup_is_the_agent,
};
use guard::{
    a_captured_socket_without_its_mark, raw_segments_do_not_leave, rules_and_routes_flushed,
    sockets_older_than_the_enrolment,
};
use inbound::{
    a_client_may_use_the_tunnels_port, addresses_that_are_not_the_pods, marks_do_not_cross, playing_the_hand_off,
    sources_of_no_client,
};
use outbound::{
    bound_to_a_device, captured_with_any_options, foreign_programs_that_rewrite, multipath_is_refused,
    out_of_the_mesh_is_untouched, sources_before_connect, the_agents_own_sockets, the_pod_itself_is_untouched,
    udp_is_left_alone,
};

underpass_tests::scenarios! {
    listeners_cannot_be_joined,
    listeners_by_their_own_ports,
    only_the_agents_cgroup_is_the_agent,
    an_impostor_is_not_the_pod,
    captured_with_any_options,
    sources_before_connect,
    bound_to_a_device,
    multipath_is_refused,
    foreign_programs_that_rewrite,
    out_of_the_mesh_is_untouched,
    the_pod_itself_is_untouched,
    the_agents_own_sockets,
    udp_is_left_alone,
    a_captured_socket_without_its_mark,
    rules_and_routes_flushed,
    raw_segments_do_not_leave,
    sockets_older_than_the_enrolment,
    playing_the_hand_off,
    marks_do_not_cross,
    addresses_that_are_not_the_pods,
    sources_of_no_client,
    a_client_may_use_the_tunnels_port,
}
