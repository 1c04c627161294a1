//! Facts of a World as resources, and back.
//!
//! [`Encoder`] follows Worlds and keeps the resources of the last one. [`Decoder`] takes changes of resources and hands
//! on changes of facts. What Istio's messages lack travels in extensions of our own, named `underpass.dev`.
//!
//! What must hold: a data plane that knows Istio's messages alone is never wider than the policies were written; a
//! World that is decoded answers every question about a connection as the one that was encoded; equal facts have
//! equal bytes, on every replica and in every release.
//!
//! What is not preserved, for the messages of a control plane of ours:
//!
//! | fact | after encoding and decoding |
//! |---|---|
//! | `NamespaceMtls` | none: folded into the workloads |
//! | `Workload::mtls` | the effective modes: `default` is its own, else its namespace's, else the mesh's; `ports` are those that differ from it |
//! | `AuthorizationPolicy::rules` | values of fields that only a waypoint judges: the fields are there, the values are not |
//! | `AuthorizationPolicy` with `targetRefs` | none: a waypoint judges it |
//! | `Waypoint` that is missing | the same; on the wire a hostname that no Service has |
//! | `Workload::owner` of a kind that is not told apart | none, where it has the name of the workload |
//! | empty names of an account, a node, a part of a locality | `default`, none, none |
//! | `Service::name` with a dot, which no Service has | the hostname |
//!
//! What a control plane of Istio's does not say is taken as follows:
//!
//! | fact | default |
//! |---|---|
//! | `enrolment` | in the mesh iff `tunnel_protocol` is HBONE, or one that is not known: then never plaintext |
//! | `account` | that of the message; none for an address of an EndpointSlice |
//! | `app`, `version` | the canonical service and revision |
//! | `endpoints` | each address with the ports of `services`; ready iff `status` is HEALTHY; weight 1, no hints |
//! | `draining`, `affinity`, `waypoint_optional`, `external` | no |
//! | `by` of a mutual TLS mode | the PeerAuthentication in the name of the converted policy, or the policy itself |
//! | `Scope::Selector` | without labels: the workloads name the policy |
//! | a service of another hostname than Kubernetes' | the hostname is its name |
//! | not served | see `proto/workload.proto`; ranges of addresses are passed over |
//!
//! A workload of another trust domain is served under its account in this one, and reported: its certificate proves
//! another identity, so that calls of it are refused, and not sent in plaintext.
//!
//! Policies. Istio's message carries what L4 judges, stricter where it cannot carry it: an ALLOW rule with fields of L7 is
//! left out, a DENY rule widened to its L4 part. Names of the mesh's own trust domain are written out. A dry run is a
//! DENY without rules there, because older data planes enforce what they do not know to be one. Where this is not the
//! policy itself, [`PolicyExtension`](crate::contract::underpass::v1::PolicyExtension) has it, and an agent that
//! cannot read that takes the stricter one.
//!
//! STRICT is encoded as istiod does: a workload names `istio_converted_static_strict` of the root namespace, or
//! `converted_peer_authentication_NAME` of its own, where its ports differ. NAME is the PeerAuthentication of its first
//! port that does. Where workloads differ in what one NAME means to them, all but one name it with a hash behind.

mod decode;
mod encode;
mod extension;
mod names;

pub use decode::{Decoded, Decoder};
pub use encode::Encoder;

#[cfg(test)]
mod tests;
