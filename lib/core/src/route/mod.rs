//! The route of a captured connection: service -> endpoint -> HBONE, plaintext, or refused. Pure: the random number is
//! an argument.

mod balance;
mod endpoint;
mod hop;
mod service;
mod waypoint;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

pub(crate) use self::balance::mix;
pub use self::hop::{Authority, Destination, Hop, HopKind};
use crate::{
    Identities, Kind, ObjectKey, ObjectName, Reason, World,
    addr::HBONE_PORT,
    trace::{Stage, Trace},
    world::{Addressed, Locality, Service, Workload},
};

/// The plan for a captured connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Plan {
    /// A stream of a tunnel to the next hop.
    Hbone {
        /// Its destination.
        destination: Destination,
        /// The next hop.
        hop: Hop,
    },
    /// A plain connection: the chosen endpoint of a service is not in the mesh, or is the calling pod itself.
    Plain {
        /// Its destination.
        destination: Destination,
    },
    /// The application's socket is reset.
    Refuse {
        /// The service whose VIP was called.
        service: Option<ObjectName>,
        /// Why.
        reason: Reason,
    },
}

/// The caller of a service, as far as the choice of an endpoint depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// Its address, of the family of the call: what `sessionAffinity: ClientIP` goes by.
    pub address: IpAddr,
    /// Its node, where that is known: what is local to it.
    pub node: Option<&'a str>,
    /// The node's locality, as far as it is known: what is near to it.
    pub locality: Option<&'a Locality>,
}

impl<'a> Caller<'a> {
    /// A pod that calls `to`.
    #[must_use]
    pub fn of(source: &'a Workload, to: IpAddr) -> Self {
        // Without an address of this family it cannot call; any will do.
        let address = source.addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4()).unwrap_or(to);
        Self { address, node: source.node.as_deref(), locality: Some(&*source.locality) }
    }
}

/// The destination of a call of `to` (canonical), in the mesh or not. `roll` is a random number: it chooses among
/// equals.
///
/// # Errors
/// The reason why there is none.
pub fn resolve(
    world: &World,
    caller: &Caller<'_>,
    to: SocketAddr,
    roll: u64,
    trace: &mut impl Trace,
) -> Result<Destination, Reason> {
    match world.addressed(to.ip()) {
        Addressed::Workload(w) => Ok(Destination { target: to, workload: Some(Arc::clone(w)), service: None }),
        // Where a Service shares an address with the rest of the world, its ports are all that is its own there.
        Addressed::Service(s) if s.is_external(to.ip()) && s.port(to.port()).is_none() => {
            Ok(Destination { target: to, workload: None, service: None })
        }
        Addressed::Service(s) => service::choose(world, s, caller, to, roll, trace),
        Addressed::Ambiguous(_) => Err(Reason::AmbiguousAddress),
        // Captured all the same where the kernel's table has no room for the whole mesh, or had the address a moment
        // ago.
        Addressed::Unknown => Ok(Destination { target: to, workload: None, service: None }),
    }
}

/// Plans the connection of a captured socket of `source` to `to` (canonical). `roll` is a random number.
#[must_use]
pub fn plan(world: &World, source: &Workload, to: SocketAddr, roll: u64, trace: &mut impl Trace) -> Plan {
    let service = service_at(world, to.ip());
    let key = service.map(|s| ObjectKey::new(Kind::Service, s.name.clone()));
    let caller = Caller::of(source, to.ip());
    let destination = match through_waypoint(world, source, &caller, to, roll, trace) {
        Ok(Some(plan)) => return plan,
        Ok(None) => resolve(world, &caller, to, roll, trace),
        Err(reason) => Err(reason),
    };
    match destination {
        Ok(destination) => {
            if destination.service.is_some() {
                trace.say(Stage::Route, key.as_ref(), || format!("{to} -> endpoint {}", describe(&destination)));
            }
            carried(world, source, destination, trace)
        }
        Err(reason) => {
            trace.say(Stage::Route, key.as_ref(), || format!("{to} is refused: {reason}"));
            Plan::Refuse { service: service.map(|s| s.name.clone()), reason }
        }
    }
}

fn service_at(world: &World, ip: IpAddr) -> Option<&Arc<Service>> {
    match world.addressed(ip) {
        Addressed::Service(s) => Some(s),
        _ => None,
    }
}

/// The plan of a call that is to pass a waypoint. None: it is not, or may go past it.
fn through_waypoint(
    world: &World,
    source: &Workload,
    caller: &Caller<'_>,
    to: SocketAddr,
    roll: u64,
    trace: &mut impl Trace,
) -> Result<Option<Plan>, Reason> {
    let Some(wanted) = waypoint::wanted(world, source, to) else { return Ok(None) };
    let Some(hop) = wanted.hop(world, caller, to, roll, trace)? else { return Ok(None) };
    trace.say(Stage::Route, None, || wanted.says(&hop));
    Ok(Some(Plan::Hbone { destination: wanted.destination(world, to), hop }))
}

/// Every plan that some random number leads to, in the order of the endpoints.
#[must_use]
pub fn plans(world: &World, source: &Workload, to: SocketAddr) -> Vec<Plan> {
    let caller = Caller::of(source, to.ip());
    if let Some(wanted) = waypoint::wanted(world, source, to) {
        match wanted.hops(world, &caller, to) {
            Ok(Some(hops)) => {
                let to_each = |hop| Plan::Hbone { destination: wanted.destination(world, to), hop };
                return hops.into_iter().map(to_each).collect();
            }
            Ok(None) => {}
            Err(_) => return vec![plan(world, source, to, 0, &mut ())],
        }
    }
    let outcomes = service_at(world, to.ip()).and_then(|s| service::outcomes(world, s, &caller, to).ok());
    match outcomes {
        Some(destinations) => destinations.into_iter().map(|d| carried(world, source, d, &mut ())).collect(),
        None => vec![plan(world, source, to, 0, &mut ())],
    }
}

/// The plan of a connection whose destination is known.
fn carried(world: &World, source: &Workload, destination: Destination, trace: &mut impl Trace) -> Plan {
    let target = destination.target;
    match &destination.workload {
        // A service that led back to its caller: no tunnel can be opened from a pod to itself, and none is needed.
        Some(w) if w.uid == source.uid => {
            trace.say(Stage::Route, None, || format!("plaintext to {target}: it is the pod itself"));
            Plan::Plain { destination }
        }
        Some(w) if let Some(hop) = to_workload(world, w, target) => {
            let Hop { address, identities, .. } = &hop;
            trace.say(Stage::Route, None, || {
                format!("HBONE to {address} for {}, expecting {identities}", describe(&destination))
            });
            Plan::Hbone { destination, hop }
        }
        _ => {
            trace.say(Stage::Route, None, || format!("plaintext to {target}: it is not in the mesh"));
            Plan::Plain { destination }
        }
    }
}

/// The workload's own node, where it is in the mesh.
fn to_workload(world: &World, workload: &Workload, target: SocketAddr) -> Option<Hop> {
    let identity = world.identity(workload).filter(|_| workload.is_enrolled())?;
    Some(Hop {
        kind: HopKind::Workload,
        address: SocketAddr::new(target.ip(), HBONE_PORT),
        identities: Identities::from(identity.clone()),
        authority: Authority::Address(target),
    })
}

fn describe(destination: &Destination) -> String {
    match &destination.workload {
        Some(w) => format!("{} ({})", destination.target, w.name),
        None => destination.target.to_string(),
    }
}

#[cfg(test)]
mod tests;
