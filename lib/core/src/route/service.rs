//! From a service's VIP and port to one endpoint.

use std::{net::SocketAddr, sync::Arc};

use super::{Hop, balance, endpoint::candidates_of};
use crate::{
    Reason, World,
    world::{Endpoint, Service},
};

/// Chooses an endpoint for a call of `to`, the service's VIP and a port.
pub(super) fn choose(world: &World, service: &Service, to: SocketAddr, roll: u64) -> Result<Hop, Reason> {
    let all = candidates(world, service, to)?;
    let (endpoint, target) = balance::pick(&all, roll).ok_or(Reason::NoEndpoint)?;
    Ok(Hop {
        target: *target,
        workload: endpoint.workload.as_ref().map(Arc::clone),
        service: Some(service.name.clone()),
    })
}

/// The endpoints that a call of `to` may go to, with the address and port to use.
pub(super) fn candidates<'a>(
    world: &'a World,
    service: &Service,
    to: SocketAddr,
) -> Result<Vec<(&'a Endpoint, SocketAddr)>, Reason> {
    if service.external_name.is_some() {
        return Err(Reason::ExternalName);
    }
    let port = service.ports.iter().find(|p| p.port == to.port()).ok_or(Reason::UnknownPort)?;
    let candidates = candidates_of(world.endpoints(&service.name), port, to.ip());
    if candidates.is_empty() { Err(Reason::NoEndpoint) } else { Ok(candidates) }
}
