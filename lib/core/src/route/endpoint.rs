//! Which endpoints of a service can take a connection.

use std::net::{IpAddr, SocketAddr};

use crate::world::{Endpoint, ServicePort};

/// Ready endpoints that listen on `port` and have an address of the family of `vip`. Only the same family can carry
/// the client's address to the application.
pub(super) fn candidates_of<'a>(
    endpoints: &'a [Endpoint],
    port: &ServicePort,
    vip: IpAddr,
) -> Vec<(&'a Endpoint, SocketAddr)> {
    endpoints
        .iter()
        .filter(|e| e.ready)
        .filter_map(|e| Some((e, SocketAddr::new(e.address_like(vip)?, e.port(port)?))))
        .collect()
}
