//! Istio's workload xDS and certificate API, client and server.
//!
//! * [`resource`]: resources, of which both ends of a stream speak: a kind, a name, a version, bytes.
//! * [`contract`]: the messages, compiled from `proto/`.
//! * `facts`: facts of a World to resources and back.
//! * [`server`], `client`: the two ends of a delta stream (xDS v3, `DeltaAggregatedResources`), each a state machine
//!   without IO and a thin shell of gRPC around it.
//! * `certificates`: `istio.v1.auth.IstioCertificateService`, both ends.
//! * [`versions`]: what a client has applied, which a control plane must know to be followed.
//! * [`access`]: callers and refusals, common to both services.

pub mod access;
pub mod certificates;
pub mod client;
pub mod connect;
pub mod contract;
pub mod facts;
pub mod resource;
pub mod server;
#[cfg(test)]
mod testing;
pub mod versions;
mod wire;
