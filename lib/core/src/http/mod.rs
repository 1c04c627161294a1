//! Requests: which route one takes, where it goes, and what happens to it on the way. What a waypoint does with HTTP is
//! decided here, without IO; time and dice are arguments.
//!
//! ```text
//! VirtualServices, DestinationRules, routes of the Gateway API
//!   --compile--> Routes, TcpRoutes, Clusters of a Service's port (when one of them changes)
//! Routes, RequestHead, Dice --route--> Decision                  (for each request)
//! TcpRoutes, ConnectionHead, Dice --find--> TcpWay               (for each connection that is no HTTP)
//! ```
//! Beside it stand state machines, for the proxy that carries requests out: [`Tries`] of one request; the [`Balancer`], the
//! [`Breaker`] and the [`Outliers`] of one cluster; the [use](ConnectionUse) of one connection.
//!
//! What must hold: the compiled rules answer as the objects read, one after the other, do; and a request that no rule
//! matches goes nowhere.

mod action;
mod attached;
mod backend;
mod balance;
mod breaker;
mod cluster;
mod conditions;
mod connections;
mod cors;
mod elements;
mod end;
mod gateway_rules;
mod host;
mod matcher;
mod normalize;
mod outlier;
mod pattern;
mod redirect;
mod request;
mod retry;
mod routes;
mod rule;
mod rules_of_host;
mod text;
mod tries;
mod words;

pub use self::{
    action::{Action, Decision, Forward, Respond, route},
    backend::BrokenRef,
    balance::{Ask, Balancer, EndpointId, Hashed, NoEndpoint, Viewpoint, hash_of, hash_of_ip},
    breaker::{Breaker, Counted, Limits, Overflow},
    cluster::{Cluster, ClusterEndpoint, ClusterKey, ClusterPolicy, Clusters, PolicyLevel, Unresolved},
    conditions::{AcceptedReason, ParentStatus, ResolvedReason, parent_statuses},
    connections::{ConnectionRules, ConnectionUse, HttpVersion},
    cors::CorsHeaders,
    end::RequestEnd,
    host::Host,
    normalize::{PathNormalization, UnknownNormalization, Unnormalizable, normalize},
    outlier::{Health, OutlierRules, Outliers},
    pattern::{MAX_PATTERN_BYTES, ParsePatternError, Pattern, Substitution},
    request::{Dice, RequestHead, Source, Throw},
    retry::RetryPolicy,
    routes::{Compiled, ConnectionHead, Routes, TcpRoutes, TcpRule, TcpTarget, TcpWay, compile},
    rule::{Place, Rule},
    text::{TextMatch, ValueMatch},
    tries::{Outcome, Tries},
};
pub(crate) use self::{
    attached::Attached,
    cluster::service_of,
    conditions::broken as broken_backends,
    rule::is_catch_all,
    rules_of_host::{HostRules, virtual_services},
};
