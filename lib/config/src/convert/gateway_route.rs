//! Routes of the Gateway API: parents, rules and backends. What they ask of requests and their filters have rooms of their own
//! beside this one, as routes of connections have.

use std::{sync::Arc, time::Duration};

use underpass_core::{
    ObjectName,
    http::{Host, TextMatch},
    objects::{
        Backend, BackendRef, GatewayRoute, Limit, ParentRef, PathRewrite, Referent, RouteProtocol, RouteRetry,
        RouteRule,
    },
};

use super::{
    Converted, Faults, Rejected,
    gateway_filter::{self, Filters, Of},
    gateway_match, meta, reference_grant, syntax,
    traffic_value::{self as value, malformed},
};
use crate::{Fault, RouteFault, path::At, shapes};

const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// The most rules, matches and backends of a list. A list of a million would hold up who compiles it.
const MAX_ENTRIES: usize = 10_000;
/// As the API's definition has it.
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_ATTEMPTS: u32 = 1_000;
const DURATION: &str = "a duration of the Gateway API: whole numbers with h, m, s and ms, like 10s or 1m30s";
const ONE_PREFIX: &str =
    "possible without exactly one match, by PathPrefix: write ReplaceFullPath, or one rule for each match";

/// `gateway.networking.k8s.io HTTPRoute`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn http_route(shape: &shapes::GatewayHttpRoute) -> Result<Converted<GatewayRoute>, Rejected> {
    let spec = &shape.spec;
    let common = Common { protocol: RouteProtocol::Http, parents: &spec.parent_refs, hostnames: &spec.hostnames };
    common.route(Faults::default(), &shape.metadata, &spec.rules, http_rule)
}

/// `gateway.networking.k8s.io GRPCRoute`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn grpc_route(shape: &shapes::GatewayGrpcRoute) -> Result<Converted<GatewayRoute>, Rejected> {
    let spec = &shape.spec;
    let common = Common { protocol: RouteProtocol::Grpc, parents: &spec.parent_refs, hostnames: &spec.hostnames };
    common.route(Faults::default(), &shape.metadata, &spec.rules, grpc_rule)
}

/// What all kinds have.
pub(super) struct Common<'s> {
    pub(super) protocol: RouteProtocol,
    pub(super) parents: &'s [shapes::ParentReference],
    pub(super) hostnames: &'s [String],
}

impl Common<'_> {
    /// The whole, beside what is known to be wrong with it.
    pub(super) fn route<R>(
        &self,
        mut faults: Faults,
        metadata: &shapes::ObjectMeta,
        rules: &[R],
        read: impl Fn(&R, &str, &At<'_>, &mut Faults) -> Option<RouteRule>,
    ) -> Result<Converted<GatewayRoute>, Rejected> {
        let at = At::ROOT.field("spec");
        let name = meta::object_name(self.protocol.kind(), metadata, &mut faults);
        meta::labels(metadata, &mut faults);
        let created = meta::created(metadata, &mut faults);
        let namespace = metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let rules_at = at.field("rules");
        if !is_short(rules, &rules_at, &mut faults) {
            return faults.finish(None);
        }
        let parents_at = at.field("parentRefs");
        let parents = self.parents.iter().enumerate();
        let parents =
            parents.filter_map(|(i, one)| parent(one, namespace, &parents_at.index(i), &mut faults)).collect();
        let hosts_at = at.field("hostnames");
        let hosts = self.hostnames.iter().enumerate();
        let hostnames = hosts.filter_map(|(i, text)| faults.check(&hosts_at.index(i), hostname(text))).collect();
        let mut known: Vec<Arc<str>> = Vec::new();
        let mut all = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            let at = rules_at.index(i);
            let Some(rule) = read(rule, namespace, &at, &mut faults) else { continue };
            if let Some(name) = rule.name.as_ref().filter(|name| known.contains(name)) {
                faults.push(&at.field("name"), RouteFault::DuplicateName { name: Arc::clone(name) }.into());
            }
            known.extend(rule.name.clone());
            all.push(rule);
        }
        // As the API has it: a rule for every request, which has no backend.
        if rules.is_empty() {
            all.push(RouteRule::default());
        }
        let protocol = self.protocol;
        let object = || Some(GatewayRoute { name: name?, protocol, created: created?, parents, hostnames, rules: all });
        let object = object();
        faults.finish(object)
    }
}

pub(super) fn is_short<T>(list: &[T], at: &At<'_>, faults: &mut Faults) -> bool {
    if list.len() > MAX_ENTRIES {
        faults.push(at, RouteFault::TooManyEntries { max: MAX_ENTRIES }.into());
    }
    list.len() <= MAX_ENTRIES
}

fn hostname(text: &str) -> Result<Host, Fault> {
    match text.strip_prefix("*.") {
        None => syntax::dns_subdomain(text).map(|name| Host::parse(&name)),
        Some(_) => value::host(text),
    }
}

fn parent(s: &shapes::ParentReference, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<ParentRef> {
    let group = s.group.as_deref().unwrap_or(GATEWAY_API);
    let named = (s.kind.as_deref().unwrap_or("Gateway"), s.name.as_str(), s.namespace.as_deref());
    let target = referent(group, named, namespace, at, faults);
    let section = s.section_name.as_deref().filter(|name| !name.is_empty());
    let section = section.map(|name| faults.check(&at.field("sectionName"), syntax::dns_subdomain(name)));
    let port = s.port.map(|port| faults.check(&at.field("port"), syntax::port(port)));
    Some(ParentRef { target: target?, section: whole(section)?, port: whole(port)? })
}

/// Of a value that may be missing, and may not be broken.
fn whole<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| value.map(Some))
}

fn referent(
    group: &str,
    (kind, name, of): (&str, &str, Option<&str>),
    namespace: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<Referent> {
    let group = reference_grant::group(group, at, faults);
    let kind = reference_grant::kind(kind, at, faults);
    let name = faults.check(&at.field("name"), syntax::dns_subdomain(name));
    let of = of.filter(|n| !n.is_empty()).map(|n| faults.check(&at.field("namespace"), syntax::dns_label(n)));
    let of = of.unwrap_or_else(|| Some(namespace.into()));
    Some(Referent { group: group?, kind: kind?, name: ObjectName::new(of?, name?) })
}

/// What stands in `backendRef`.
pub(super) fn backend(
    s: &shapes::BackendObjectReference,
    namespace: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<BackendRef> {
    let named = (s.kind.as_deref().unwrap_or("Service"), s.name.as_str(), s.namespace.as_deref());
    let target = referent(s.group.as_deref().unwrap_or_default(), named, namespace, at, faults);
    let port = s.port.map(|port| faults.check(&at.field("port"), syntax::port(port)));
    let read = BackendRef { target: target?, port: whole(port)? };
    if read.port.is_none() && read.target.service().is_some() {
        faults.push(&at.field("port"), Fault::Missing);
    }
    Some(read)
}

pub(super) fn backends(
    all: &[shapes::HttpBackendRef],
    namespace: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Vec<Backend> {
    let mut read = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let at = at.index(i);
        let shape = shapes::BackendObjectReference {
            group: one.group.clone(),
            kind: one.kind.clone(),
            name: one.name.clone(),
            namespace: one.namespace.clone(),
            port: one.port,
        };
        let to = backend(&shape, namespace, &at, faults);
        let weight = value::number(Some(one.weight.unwrap_or(1)), 0, MAX_WEIGHT, &at.field("weight"), faults);
        let filters = gateway_filter::filters(&one.filters, Of::Backend, namespace, &at.field("filters"), faults);
        read.extend(to.zip(weight).map(|(to, weight)| Backend { to, weight, headers: filters.headers }));
    }
    read
}

fn http_rule(s: &shapes::HttpRouteRule, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<RouteRule> {
    let (matches_at, backends_at, filters_at) = (at.field("matches"), at.field("backendRefs"), at.field("filters"));
    if !is_short(&s.matches, &matches_at, faults) || !is_short(&s.backend_refs, &backends_at, faults) {
        return None;
    }
    let matches = s.matches.iter().enumerate();
    let matches: Vec<_> = matches.map(|(i, one)| gateway_match::http(one, &matches_at.index(i), faults)).collect();
    let Filters { headers, mirrors, redirect, rewrite, cors } =
        gateway_filter::filters(&s.filters, Of::HttpRule, namespace, &filters_at, faults);
    let backends = backends(&s.backend_refs, namespace, &backends_at, faults);
    if redirect.is_some() && !s.backend_refs.is_empty() {
        faults.push(&backends_at, Fault::Exclusive { other: "RequestRedirect" });
    }
    let replaces_prefix = redirect.as_ref().is_some_and(|redirect| redirect.prefix.is_some())
        || rewrite.as_ref().is_some_and(|rewrite| matches!(rewrite.path, Some(PathRewrite::Elements(_))));
    let is_prefix = || match &matches[..] {
        [] => true,
        [one] => matches!(one.condition.uri, None | Some(TextMatch::Elements(_))),
        _ => false,
    };
    if replaces_prefix && !is_prefix() {
        faults.push(&filters_at, malformed("ReplacePrefixMatch", ONE_PREFIX));
    }
    not_persistent(s.session_persistence.is_some(), at, faults);
    let (timeout, backend_timeout) = timeouts(s.timeouts.as_ref(), &at.field("timeouts"), faults);
    let retry = s.retry.as_ref().map(|retry| self::retry(retry, &at.field("retry"), faults));
    Some(RouteRule {
        name: rule_name(s.name.as_ref(), at, faults),
        matches,
        backends,
        redirect,
        rewrite,
        headers,
        mirrors,
        cors,
        timeout,
        backend_timeout,
        retry,
    })
}

fn grpc_rule(s: &shapes::GrpcRouteRule, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<RouteRule> {
    let (matches_at, backends_at) = (at.field("matches"), at.field("backendRefs"));
    if !is_short(&s.matches, &matches_at, faults) || !is_short(&s.backend_refs, &backends_at, faults) {
        return None;
    }
    let matches = s.matches.iter().enumerate();
    let matches = matches.map(|(i, one)| gateway_match::grpc(one, &matches_at.index(i), faults)).collect();
    let filters: Vec<shapes::HttpRouteFilter> = s.filters.iter().map(Into::into).collect();
    let Filters { headers, mirrors, .. } =
        gateway_filter::filters(&filters, Of::GrpcRule, namespace, &at.field("filters"), faults);
    let backend_refs: Vec<shapes::HttpBackendRef> = s.backend_refs.iter().map(Into::into).collect();
    let backends = backends(&backend_refs, namespace, &backends_at, faults);
    not_persistent(s.session_persistence.is_some(), at, faults);
    let name = rule_name(s.name.as_ref(), at, faults);
    Some(RouteRule { name, matches, backends, headers, mirrors, ..RouteRule::default() })
}

pub(super) fn rule_name(text: Option<&String>, at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    faults.check(&at.field("name"), syntax::dns_subdomain(text.filter(|text| !text.is_empty())?))
}

fn not_persistent(is_set: bool, at: &At<'_>, faults: &mut Faults) {
    if is_set {
        let instead = "requests of a session may go to different endpoints";
        faults.push(&at.field("sessionPersistence"), Fault::FieldNotServed { instead });
    }
}

fn timeouts(s: Option<&shapes::HttpRouteTimeouts>, at: &At<'_>, faults: &mut Faults) -> (Limit, Limit) {
    let Some(s) = s else { return (None, None) };
    let request = limit(s.request.as_ref(), &at.field("request"), faults);
    let backend = limit(s.backend_request.as_ref(), &at.field("backendRequest"), faults);
    if let Some((_, backend)) = request.zip(backend).filter(|(request, backend)| backend > request) {
        let found = format!("{backend:?}");
        faults.push(&at.field("backendRequest"), malformed(&found, "at most as long as `request`"));
    }
    (request, backend)
}

/// Zero says that there is none.
fn limit(text: Option<&String>, at: &At<'_>, faults: &mut Faults) -> Limit {
    faults.check(at, duration(text?)).filter(|duration| *duration > Duration::ZERO)
}

/// GEP-2257: up to four whole numbers of up to five digits, each with a unit.
fn duration(text: &str) -> Result<Duration, Fault> {
    let bad = || malformed(text, DURATION);
    let parts: Vec<&str> = text.split_inclusive(|c: char| c.is_ascii_alphabetic()).collect();
    let numbers = parts.iter().map(|part| part.trim_end_matches(|c: char| c.is_ascii_alphabetic()));
    let numbers: Vec<_> = numbers.filter(|number| !number.is_empty()).collect();
    let is_good = (1..=4).contains(&numbers.len())
        && numbers.iter().all(|n| n.len() <= 5 && n.bytes().all(|b| b.is_ascii_digit()))
        && !text.contains("us")
        && !text.contains("ns")
        && text.ends_with(|c: char| c.is_ascii_alphabetic());
    if is_good { value::duration(text).map_err(|_| bad()) } else { Err(bad()) }
}

fn retry(s: &shapes::HttpRouteRetry, at: &At<'_>, faults: &mut Faults) -> RouteRetry {
    let codes_at = at.field("codes");
    let codes = s.codes.iter().enumerate();
    let codes = codes.filter_map(|(i, code)| value::number(Some(*code), 400, 599, &codes_at.index(i), faults));
    let mut codes: Vec<u16> = codes.filter_map(|code| u16::try_from(code).ok()).collect();
    codes.sort_unstable();
    codes.dedup();
    RouteRetry {
        codes,
        attempts: value::number(s.attempts, 0, MAX_ATTEMPTS, &at.field("attempts"), faults),
        backoff: limit(s.backoff.as_ref(), &at.field("backoff"), faults),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expect) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("0s", Some(0)),
            ("0", None),
            ("1.5s", None),
            ("10", None),
            ("1us", None),
            ("123456s", None),
            ("1s1s1s1s1s", None),
            ("-1s", None),
            ("s", None),
            ("", None),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), expect, "{text:?}");
        }
    }
}
