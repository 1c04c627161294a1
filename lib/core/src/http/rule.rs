//! Rules: each is one way to match a route of a VirtualService or of the Gateway API, and what follows then.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{BrokenRef, ClusterKey, RequestHead, RetryPolicy, TextMatch, matcher::PathKey};
use crate::{
    Kind, ObjectKey,
    objects::{
        CorsPolicy, DirectResponse, ExportTo, Fault, HeaderOperations, HttpMatch, HttpRedirect, HttpRewrite, Share,
    },
};

/// A place in a VirtualService or a route of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The object.
    pub key: ObjectKey,
    /// The position in `spec.http`, or `spec.rules`.
    pub route: usize,
    /// The position in its `match`, or `matches`; none: it has no such list.
    pub condition: Option<usize>,
}

impl Place {
    /// The object.
    #[must_use]
    pub fn object(&self) -> ObjectKey {
        self.key.clone()
    }

    /// The field of the whole route.
    #[must_use]
    pub fn field(&self) -> String {
        let list = if self.key.kind == Kind::VirtualService { "http" } else { "rules" };
        format!("spec.{list}[{}]", self.route)
    }
}

impl fmt::Display for Place {
    /// The field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field())?;
        let list = if self.key.kind == Kind::VirtualService { "match" } else { "matches" };
        self.condition.map_or(Ok(()), |condition| write!(f, ".{list}[{condition}]"))
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The place of what is done.
    pub place: Place,
    /// The place that delegates to it.
    pub through: Option<Place>,
    /// The route's own name.
    pub name: Option<Arc<str>>,
    /// All of these must hold: the delegating route's, and its own. Ports and gateways are dealt with.
    pub(super) conditions: Vec<HttpMatch>,
    /// The position of its object among the sources of all rules.
    pub(super) source: usize,
    /// What is done. Rules of one route share it.
    pub(super) route: Arc<Route>,
}

/// What is done with a request that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) action: RouteAction,
    pub(super) rewrite: Option<HttpRewrite>,
    pub(super) timeout: Option<Duration>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) fault: Option<Fault>,
    pub(super) mirrors: Vec<(ClusterKey, Share)>,
    pub(super) cors: Option<CorsPolicy>,
    pub(super) headers: HeaderOperations,
    /// It is refused in gRPC's way, where a backend does not exist.
    pub(super) is_grpc: bool,
}

/// The end of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteAction {
    /// To one of these, by weight. Where the sum is 0, which only routes of the Gateway API have, to none.
    Forward(Vec<Weighted>),
    Redirect(HttpRedirect),
    Respond(DirectResponse),
}

/// One of several clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weighted {
    /// Or why requests of this share are refused.
    pub(super) cluster: Result<ClusterKey, BrokenRef>,
    pub(super) weight: u32,
    pub(super) headers: HeaderOperations,
}

/// An object whose rules are among the routes of a host, and the callers that they are for.
#[derive(Clone, Debug)]
pub(super) struct RuleSource {
    pub(super) object: ObjectKey,
    /// The namespaces that see it.
    pub(super) export_to: ExportTo,
    /// Namespaces that have routes of their own, in the place of these.
    pub(super) except: Arc<[Arc<str>]>,
}

/// The callers that the rules of an object are for.
#[derive(Clone, Copy)]
pub(super) struct ForCallers<'a> {
    pub(super) only: &'a ExportTo,
    pub(super) except: &'a Arc<[Arc<str>]>,
}

impl ForCallers<'_> {
    pub(super) fn source(&self, object: ObjectKey) -> RuleSource {
        RuleSource { object, export_to: self.only.clone(), except: Arc::clone(self.except) }
    }
}

impl RuleSource {
    /// A sender of this namespace is one that it is for.
    pub(super) fn is_for(&self, namespace: Option<&str>) -> bool {
        let is_except = || self.except.iter().any(|one| Some(&**one) == namespace);
        self.export_to.includes(self.object.name.namespace(), namespace) && !is_except()
    }
}

impl Rule {
    /// All of its conditions hold.
    pub(super) fn holds(&self, head: &RequestHead<'_>) -> bool {
        self.conditions.iter().all(|condition| holds(condition, head))
    }

    /// The condition on the path by which it is found: the innermost that can be one.
    pub(super) fn path_key(&self) -> PathKey {
        let of = |condition: &HttpMatch| match &condition.uri {
            Some(TextMatch::Exact(path)) if !condition.ignore_uri_case => Some(PathKey::Exact(Arc::clone(path))),
            Some(TextMatch::Elements(path)) if &**path == "/" => None,
            Some(TextMatch::Prefix(path) | TextMatch::Elements(path)) if !condition.ignore_uri_case => {
                Some(PathKey::Prefix(Arc::clone(path)))
            }
            _ => None,
        };
        self.conditions.iter().rev().find_map(of).unwrap_or(PathKey::Any)
    }

    /// Every request matches.
    pub(super) fn is_catch_all(&self) -> bool {
        self.conditions.iter().all(is_catch_all)
    }

    /// The elements of the path that its condition asks for; the root where it asks for none.
    pub(super) fn elements(&self) -> &str {
        match self.path_condition().and_then(|condition| condition.uri.as_ref()) {
            Some(TextMatch::Elements(elements)) => elements,
            _ => "/",
        }
    }

    /// The innermost condition on the path, which says what `rewrite.uri` replaces.
    pub(super) fn path_condition(&self) -> Option<&HttpMatch> {
        self.conditions.iter().rev().find(|condition| condition.uri.is_some())
    }
}

/// Nothing is asked for, or a path that all requests have.
pub(crate) fn is_catch_all(condition: &HttpMatch) -> bool {
    let all = match &condition.uri {
        None => true,
        Some(TextMatch::Prefix(prefix)) => matches!(&**prefix, "" | "/"),
        Some(TextMatch::Elements(elements)) => &**elements == "/",
        Some(TextMatch::Regex(pattern)) => pattern.as_str() == ".*",
        Some(TextMatch::Exact(_)) => false,
    };
    let texts = [&condition.scheme, &condition.method, &condition.authority];
    all && texts.into_iter().all(Option::is_none)
        && condition.headers.is_empty()
        && condition.without_headers.is_empty()
        && condition.query.is_empty()
        && condition.source_labels.is_empty()
        && condition.source_namespace.is_none()
}

/// All of one condition but its port and gateways.
pub(super) fn holds(condition: &HttpMatch, head: &RequestHead<'_>) -> bool {
    let text = |text: &Option<TextMatch>, value: &str| text.as_ref().is_none_or(|text| text.matches(value.as_bytes()));
    let path = head.path_alone().as_bytes();
    let uri = condition.uri.as_ref().is_none_or(|uri| match condition.ignore_uri_case {
        true => uri.matches_ignoring_case(path),
        false => uri.matches(path),
    });
    let namespace = || condition.source_namespace.as_deref().is_none_or(|ns| head.source.namespace == Some(ns));
    uri && text(&condition.method, head.method)
        && text(&condition.scheme, head.scheme)
        && text(&condition.authority, head.authority)
        && condition.headers.iter().all(|(name, value)| value.matches(head.header(name).as_deref()))
        && !condition.without_headers.iter().any(|(name, value)| value.matches(head.header(name).as_deref()))
        && condition.query.iter().all(|(name, value)| value.matches(head.parameter(name).map(str::as_bytes)))
        && head.source.has(&condition.source_labels)
        && namespace()
}
