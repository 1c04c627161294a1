//! Kubernetes and Istio objects as users write them: only the fields that the mesh reads, as text and numbers, nothing
//! validated. [`crate::convert`] does that. They can be read from a manifest ([`crate::yaml::from_tree`]) and from the
//! JSON of an API server alike.
//!
//! Fields of Kubernetes' own kinds that are not here are ignored. In a policy an unknown field is
//! an error, because a misspelled one would widen it.

mod core;
mod destination_rule;
mod gateway;
mod gateway_api;
mod istio;
mod mesh_config;
mod request_authentication;
mod virtual_service;

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

pub use self::{
    core::{
        Container, ContainerPort, Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Handler,
        HandlerTarget, Lifecycle, LoadBalancerIngress, LoadBalancerStatus, Named, Namespace, Node, NodeAddress,
        NodeStatus, ObjectReference, Pod, PodCondition, PodIp, PodSpec, PodStatus, Service, ServicePort, ServiceSpec,
        ServiceStatus,
    },
    destination_rule::*,
    gateway::{AllowedRoutes, Gateway, GatewaySpec, LabelExpression, LabelSelector, Listener, RouteNamespaces},
    gateway_api::*,
    istio::{
        AuthorizationPolicy, AuthorizationPolicySpec, Condition, From, MutualTls, Operation, PeerAuthentication,
        PeerAuthenticationSpec, PolicyTargetReference, Provider, Rule, Source, To, WorkloadSelector,
    },
    mesh_config::*,
    request_authentication::*,
    virtual_service::*,
};

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// `name`.
    pub name: String,
    /// `namespace`; missing: `default`.
    pub namespace: Option<String>,
    /// `uid`.
    pub uid: Option<String>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `creationTimestamp`, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// `deletionTimestamp`, RFC 3339: the object is terminating.
    pub deletion_timestamp: Option<String>,
    /// `ownerReferences`.
    pub owner_references: Vec<OwnerReference>,
}

/// An entry of `ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// `kind`.
    pub kind: String,
    /// `name`.
    pub name: String,
    /// `controller`: it made the object, and keeps it.
    pub controller: bool,
}

/// A number, or text: `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// `8080`.
    Int(i64),
    /// `"http"`.
    Text(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = IntOrString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or text")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(n))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<IntOrString, E> {
                // no port is that large: the converter says so
                Ok(IntOrString::Int(i64::try_from(n).unwrap_or(i64::MAX)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::Text(text.to_owned()))
            }
        }
        d.deserialize_any(Either)
    }
}
