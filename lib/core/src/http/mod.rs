//! Requests: which route one takes, where it goes, and what happens to it on the way. What a waypoint does with HTTP is
//! decided here, without IO; time and dice are arguments.
//!
//! ```text
//! VirtualServices, DestinationRules --compile--> Routes, Clusters of a Service's port     (when one of them changes)
//! Routes, RequestHead, Dice --route--> Decision                                           (for each request)
//! ```
//! Beside it stand state machines, for the proxy that carries requests out: [`Tries`] of one request, the [`Breaker`] and the
//! [`Outliers`] of one cluster.
//!
//! What must hold: the compiled rules answer as the objects read, one after the other, do; and a request that no rule
//! matches goes nowhere.

mod action;
mod breaker;
mod cluster;
mod cors;
mod host;
mod matcher;
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
    breaker::{Breaker, Counted, Limits, Overflow},
    cluster::{Cluster, ClusterEndpoint, ClusterKey, ClusterPolicy, Clusters, PolicyLevel, Unresolved},
    cors::CorsHeaders,
    host::Host,
    outlier::{Health, OutlierRules, Outliers},
    pattern::{MAX_PATTERN_BYTES, ParsePatternError, Pattern, Substitution},
    request::{Dice, RequestHead, Source, Throw},
    retry::RetryPolicy,
    routes::{Compiled, Routes, compile},
    rule::{Place, Rule},
    text::{TextMatch, ValueMatch},
    tries::{Outcome, Tries},
};
pub(crate) use self::{
    cluster::service_of,
    rule::is_catch_all,
    rules_of_host::{HostRules, virtual_services},
};
