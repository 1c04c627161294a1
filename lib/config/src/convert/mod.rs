//! Shapes to the types of core: everything is validated here and nowhere else, so that what is inside the World needs
//! no checks. A converter finds every mistake of an object, not only the first.
//!
//! What must hold: what cannot be understood is an error, never left out (an address that is dropped from a list can
//! widen a policy); and everything that comes out is canonical, so that equal objects compare equal.

mod connection_route;
mod destination_rule;
mod endpoint_slice;
mod gateway;
mod gateway_filter;
mod gateway_match;
mod gateway_route;
mod http_policy;
mod http_route;
mod l7;
mod mesh_config;
mod meta;
mod node;
mod object;
mod own_proxy;
mod owner;
mod peer_authentication;
mod pod;
mod policy;
mod probes;
mod reference_grant;
mod request_authentication;
mod rule;
mod service;
mod stand_in;
pub(crate) mod syntax;
mod traffic_policy;
mod traffic_value;
mod value;
mod virtual_service;

pub use self::{
    connection_route::{tcp_route, tls_route},
    destination_rule::destination_rule,
    endpoint_slice::endpoint_slice,
    gateway::gateway,
    gateway_route::{grpc_route, http_route},
    mesh_config::mesh_config,
    node::{namespace, node},
    object::object,
    peer_authentication::peer_authentication,
    pod::pod,
    policy::authorization_policy,
    reference_grant::reference_grant,
    request_authentication::request_authentication,
    service::service,
    virtual_service::virtual_service,
};
pub(crate) use self::{
    meta::object_name,
    object::observe,
    stand_in::{is_dry_run, stand_in},
};
use crate::{Fault, Path, Severity, path::At};

/// A fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// The field.
    pub field: Path,
    /// Its fault.
    pub fault: Fault,
}

/// An object that is good, and what its author should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// The object.
    pub object: T,
    /// Warnings only.
    pub warnings: Vec<FieldFault>,
}

/// An object that is not: at least one error, and the warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected(pub Vec<FieldFault>);

/// The faults that a converter has found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldFault>);

impl Faults {
    pub(crate) fn push(&mut self, at: &At<'_>, fault: Fault) {
        self.0.push(FieldFault { field: at.path(), fault });
    }

    /// Of a field that stands at `field` within the text that is here.
    pub(crate) fn push_below(&mut self, at: &At<'_>, field: Path, fault: Fault) {
        let path = at.path();
        let all = path.segments().iter().chain(field.segments()).cloned();
        self.0.push(FieldFault { field: all.collect(), fault });
    }

    /// The value, or a fault: nothing.
    pub(crate) fn check<T>(&mut self, at: &At<'_>, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.push(at, fault)).ok()
    }

    /// `object` is there whenever there was no error; a missing one without an error would be a mistake of the
    /// converter's, and counts as an error of the whole object.
    pub(crate) fn finish<T>(mut self, object: Option<T>) -> Result<Converted<T>, Rejected> {
        let is_bad = self.0.iter().any(|f| f.fault.severity() == Severity::Error);
        match object {
            Some(object) if !is_bad => Ok(Converted { object, warnings: self.0 }),
            _ => {
                if !is_bad {
                    self.push(&At::ROOT, Fault::Missing);
                }
                Err(Rejected(self.0))
            }
        }
    }
}
