//! The mesh's own kinds at a real API server: their definitions, and their admission by the control plane. Level kubernetes; no agents.

#[path = "resources/admission.rs"]
mod admission;
#[path = "resources/definitions.rs"]
mod definitions;
#[path = "resources/guide.rs"]
mod guide;

underpass_tests::scenarios! {
    definitions::are_applied_where_they_are_ours,
    definitions::take_what_istios_take,
    guide::goes_in_in_its_order,
    admission::refuses_what_the_door_would_not_serve,
}
