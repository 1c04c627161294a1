//! The rules of routes of the Gateway API: each match of each of their rules is one, and they are ordered by what they ask
//! for, across all routes of a Service's port.
//!
//! What must hold: of the rules that a request matches, the first is the one to which the API gives precedence.

use std::{cmp::Reverse, sync::Arc};

use super::{
    RetryPolicy, TextMatch, backend,
    routes::Ordered,
    rule::{ForCallers, Place, Route, RouteAction, Rule, Weighted},
};
use crate::{
    World,
    objects::{GatewayRoute, HttpMatch, RetryCondition, RetryOn, RouteMatch, RouteProtocol, RouteRetry, RouteRule},
};

/// Appends the rules of these routes, which are in order, for these callers.
pub(super) fn add(world: &World, routes: &[&Arc<GatewayRoute>], callers: &ForCallers<'_>, all: &mut Ordered) {
    let mut rules = Vec::new();
    for route in routes {
        let source = all.source(route.key(), callers);
        for (at, rule) in route.rules.iter().enumerate() {
            let done = Arc::new(done(world, route.protocol, rule));
            let one = |condition: Option<usize>, asked: Option<&RouteMatch>| {
                let rank = asked.map_or_else(Rank::default, |asked| Rank::of(route.protocol, asked));
                let rule = Rule {
                    place: Place { key: route.key(), route: at, condition },
                    through: None,
                    name: rule.name.clone(),
                    conditions: asked.map(|asked| asked.condition.clone()).into_iter().collect(),
                    source,
                    route: Arc::clone(&done),
                };
                (rank, rule)
            };
            rules.extend(rule.matches.iter().enumerate().map(|(number, asked)| one(Some(number), Some(asked))));
            rules.extend(rule.matches.is_empty().then(|| one(None, None)));
        }
    }
    // Stable: among equals the older route, then the earlier rule.
    rules.sort_by_key(|(rank, _)| Reverse(*rank));
    all.extend(rules.into_iter().map(|(_, rule)| rule));
}

/// The precedence of a match; the greater one first. The numbers of HTTPRoute are: kind of condition on the path, its
/// length, method, headers, query parameters; of GRPCRoute: length of service, of method, headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank([usize; 5]);

impl Rank {
    fn of(protocol: RouteProtocol, asked: &RouteMatch) -> Self {
        let HttpMatch { uri, method, authority, headers, query, .. } = &asked.condition;
        let headers = headers.len().saturating_add(usize::from(authority.is_some()));
        if protocol == RouteProtocol::Grpc {
            let length = |text: Option<&Arc<str>>| text.map_or(0, |text| text.chars().count());
            let of = asked.method.as_ref();
            let service = length(of.and_then(|of| of.service.as_ref()));
            return Self([service, length(of.and_then(|of| of.method.as_ref())), headers, 0, 0]);
        }
        // The API leaves the place of expressions open: before what every path has, else they would be reached by none.
        let (kind, length) = match uri {
            Some(TextMatch::Exact(path)) => (3, path.chars().count()),
            Some(TextMatch::Elements(path) | TextMatch::Prefix(path)) if path.len() > 1 => (2, path.chars().count()),
            Some(TextMatch::Regex(pattern)) => (1, pattern.as_str().chars().count()),
            Some(TextMatch::Elements(_) | TextMatch::Prefix(_)) | None => (0, 0),
        };
        Self([kind, length, usize::from(method.is_some()), headers, query.len()])
    }
}

/// What is done by a rule.
fn done(world: &World, protocol: RouteProtocol, rule: &RouteRule) -> Route {
    let target = |one: &crate::objects::Backend| Weighted {
        cluster: backend::cluster(world, &one.to),
        weight: one.weight,
        headers: one.headers.clone(),
    };
    let action = match &rule.redirect {
        Some(redirect) => RouteAction::Redirect(redirect.clone()),
        None => RouteAction::Forward(rule.backends.iter().map(target).collect()),
    };
    let retry = retry(rule);
    // Without another try the limit of one is that of all.
    let lone = rule.backend_timeout.filter(|_| retry.is_none());
    let mirrors = rule.mirrors.iter().filter_map(|m| Some((backend::cluster(world, &m.to).ok()?, m.share)));
    Route {
        action,
        rewrite: rule.rewrite.clone(),
        timeout: [rule.timeout, lone].into_iter().flatten().min(),
        retry,
        fault: None,
        mirrors: mirrors.collect(),
        cors: rule.cors.clone(),
        headers: rule.headers.clone(),
        is_grpc: protocol == RouteProtocol::Grpc,
    }
}

/// As the API says, a connection that fails is a reason for another try wherever `retry` is written.
fn retry(rule: &RouteRule) -> Option<RetryPolicy> {
    let default = RetryPolicy { per_try_timeout: rule.backend_timeout, ..RetryPolicy::mesh_default() };
    let Some(RouteRetry { codes, attempts, backoff }) = &rule.retry else { return Some(default) };
    let attempts = attempts.unwrap_or(default.attempts);
    let mut conditions = vec![RetryCondition::Reset, RetryCondition::ConnectFailure, RetryCondition::RefusedStream];
    conditions.extend((!codes.is_empty()).then_some(RetryCondition::RetriableStatusCodes));
    let on = RetryOn { conditions, statuses: codes.clone() };
    let backoff = backoff.unwrap_or(default.backoff);
    (attempts > 0).then_some(RetryPolicy { attempts, on, backoff, is_own: true, ..default })
}
