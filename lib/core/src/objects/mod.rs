//! Objects: what users write, validated, of Kubernetes and Istio, as far as the mesh reads it. Doors make them,
//! [`crate::resolve`] turns them into the facts of a [`World`](crate::World); no decision about a connection looks at
//! one.

mod batch;
mod namespace;
mod node;
mod peer_authentication;
mod pod;
mod service;

pub use batch::{Batch, Change, Object};
pub use namespace::Namespace;
pub use node::{AGENT_NOT_READY, Node};
pub use peer_authentication::{Created, MtlsMode, PeerAuthentication};
pub use pod::{ContainerPort, DEFAULT_WEIGHT, OwnProxy, Phase, Pod};
pub use service::{EndpointSlice, Service, SliceEndpoint, SlicePort};
