//! The reference decision about a connect() of a pod: leave, capture or refuse. `agent/tables` compiles it into kernel
//! tables and `abi::decide` is the kernel's lookup; a property test holds the three together.
//!
//! A connection is left alone only if it certainly does not concern the mesh; all others are captured or refused.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    Kind, ObjectKey, Reason, World,
    addr::is_loopback,
    trace::{Stage, Trace},
    world::{Addressed, Workload},
};

/// The reason why the kernel leaves a connection alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaveReason {
    /// The source is not in the mesh.
    SourceNotEnrolled,
    /// Loopback, or one of the source's own addresses.
    Itself,
    /// The destination is not in the mesh: the proxy never sees it.
    DestinationNotEnrolled,
}

/// The decision about a connect().
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Capture {
    /// Nothing: as without a mesh.
    Leave(LeaveReason),
    /// The tunnel's listener gets it.
    Tunnel,
    /// connect() fails.
    Refuse(Reason),
}

/// Decides about a connect() of a process of `source` to `to` (canonical).
#[must_use]
pub fn decide(world: &World, source: &Workload, to: IpAddr, trace: &mut impl Trace) -> Capture {
    source.enrolment.trace(source, trace);
    let capture = if !source.is_enrolled() {
        Capture::Leave(LeaveReason::SourceNotEnrolled)
    } else if is_loopback(to) || source.addresses.contains(&to) {
        Capture::Leave(LeaveReason::Itself)
    } else {
        destination(world, to, trace)
    };
    trace.say(Stage::Capture, None, || match &capture {
        Capture::Leave(LeaveReason::SourceNotEnrolled) => "not captured: the source is not in the mesh".to_owned(),
        Capture::Leave(LeaveReason::Itself) => format!("not captured: {to} is the pod itself"),
        Capture::Leave(LeaveReason::DestinationNotEnrolled) => format!("not captured: {to} is not in the mesh"),
        Capture::Tunnel => "the kernel hands the connection to the tunnel".to_owned(),
        Capture::Refuse(reason) => format!("connect() fails: {reason}"),
    });
    capture
}

/// The same decision where the kernel's table has no room for every address of the mesh: unknown addresses are captured
/// as well, and the tunnel asks the World. It passes on in plaintext what is not in the mesh, and refuses what is to be
/// refused.
#[must_use]
pub fn of_full_table(capture: Capture) -> Capture {
    match capture {
        Capture::Leave(LeaveReason::DestinationNotEnrolled) => Capture::Tunnel,
        same => same,
    }
}

/// Decides about connections of any enrolled pod to `to` (except `to` itself).
#[must_use]
pub fn destination(world: &World, to: IpAddr, trace: &mut impl Trace) -> Capture {
    let leave = Capture::Leave(LeaveReason::DestinationNotEnrolled);
    match world.addressed(to) {
        Addressed::Unknown => leave,
        Addressed::Workload(w) => {
            w.enrolment.trace(w, trace);
            if w.is_enrolled() { Capture::Tunnel } else { leave }
        }
        Addressed::Service(s) if world.is_in_mesh(s) => Capture::Tunnel,
        Addressed::Service(s) => {
            let key = ObjectKey::new(Kind::Service, s.name.clone());
            trace.say(Stage::Enrolment, Some(&key), || "none of its endpoints is in the mesh".to_owned());
            leave
        }
        // Even where none of the claimants is in the mesh: one of them may be, as soon as the others are gone.
        Addressed::Ambiguous(_) => Capture::Refuse(Reason::AmbiguousAddress),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        objects::{EndpointSlice, SlicePort},
        route::{Plan, plans},
        testing::{ambient, name, pod, service, slice_endpoint, some_world, workload, world},
    };

    proptest! {
        /// A connection that is left alone could not have reached a pod of the mesh; a captured one could, or requires
        /// a waypoint.
        #[test]
        fn a_vip_is_captured_for_who_is_behind_it(world in some_world(), ip in proptest::sample::select(vec!["10.96.0.1", "10.96.0.2", "fd96::3"])) {
            let ip: IpAddr = ip.parse().unwrap();
            let Addressed::Service(s) = world.addressed(ip) else { return Ok(()) };
            let caller = workload(&pod("default/caller", "10.0.0.77 fd00::77"));
            let met = s.ports.iter().flat_map(|p| plans(&world, &caller, SocketAddr::new(ip, p.port)));
            let in_mesh = met.filter(|p| matches!(p, Plan::Hbone { .. })).count();
            match destination(&world, ip, &mut ()) {
                Capture::Leave(_) => prop_assert_eq!(in_mesh, 0),
                Capture::Tunnel => {
                    prop_assert!(s.waypoint.is_some() || world.endpoints(&s.name).any(|(w, _)| w.is_enrolled()));
                }
                Capture::Refuse(reason) => prop_assert!(false, "{reason}"),
            }
        }
    }

    #[test]
    fn any_endpoint_in_the_mesh_captures_the_vip() {
        let check = |endpoints: &str, expect: &Capture| {
            let endpoints = endpoints.split(',').filter(|e| !e.is_empty()).map(slice_endpoint).collect();
            let name = name("default/s");
            let slice = EndpointSlice {
                name: name.clone(),
                service: name,
                ports: vec![SlicePort { name: "p80".into(), port: 80 }],
                endpoints,
            };
            let w = world([
                ambient("default/m", "10.0.0.2", "").into(),
                pod("default/o", "10.0.0.3").into(),
                service("default/s - 10.96.0.1 80").into(),
                slice.into(),
            ]);
            assert_eq!(&destination(&w, "10.96.0.1".parse().unwrap(), &mut ()), expect);
        };
        let left = Capture::Leave(LeaveReason::DestinationNotEnrolled);
        check("10.0.0.3,10.0.0.2", &Capture::Tunnel);
        check("10.0.0.2 10.0.0.3", &Capture::Tunnel);
        // the API gives no meaning to more than the first
        check("10.0.0.3 10.0.0.2", &left);
        check("10.0.0.3,192.0.2.1", &left);
        check("", &left);
    }

    #[test]
    fn captures_by_source_and_destination() {
        let tunnel = Capture::Tunnel;
        let left = Capture::Leave;
        let in_mesh = service("default/m app=m 10.96.0.1 80");
        let outside = service("default/o app=o 10.96.0.2 80");
        let empty = service("default/n app=n 10.96.0.3 80");
        let w = world([
            ambient("default/a", "10.0.0.1 fd00::1", "app=a").into(),
            ambient("default/m", "10.0.0.2", "app=m").into(),
            pod("default/o", "10.0.0.3").into(),
            pod("default/o2", "10.0.0.9").into(),
            ambient("default/m2", "10.0.0.9", "app=m2").into(),
            in_mesh.into(),
            outside.into(),
            empty.into(),
        ]);
        let source = |name: &str| w.pod(&crate::ObjectName::new("default", name)).unwrap().clone();
        for (from, to, expect) in [
            ("a", "10.0.0.2", &tunnel),
            ("a", "10.96.0.1", &tunnel),
            ("a", "10.0.0.3", &left(LeaveReason::DestinationNotEnrolled)),
            ("a", "10.96.0.2", &left(LeaveReason::DestinationNotEnrolled)),
            ("a", "10.96.0.3", &left(LeaveReason::DestinationNotEnrolled)),
            ("a", "192.0.2.1", &left(LeaveReason::DestinationNotEnrolled)),
            ("a", "10.0.0.1", &left(LeaveReason::Itself)),
            ("a", "fd00::1", &left(LeaveReason::Itself)),
            ("a", "127.0.0.1", &left(LeaveReason::Itself)),
            ("a", "::", &left(LeaveReason::Itself)),
            ("a", "10.0.0.9", &Capture::Refuse(Reason::AmbiguousAddress)),
            ("o", "10.0.0.2", &left(LeaveReason::SourceNotEnrolled)),
        ] {
            assert_eq!(&decide(&w, &source(from), to.parse().unwrap(), &mut ()), expect, "{from} -> {to}");
        }
    }
}
