//! Fields of a rule that only a waypoint can judge. Their own file because their values are not names of the mesh: they
//! are taken as Istio takes them, a star inside is a star, and what no request can have is refused.

use std::sync::Arc;

use underpass_core::authz::{ClaimPath, L7Condition, OperationL7, SourceL7, StringMatch};

use super::{Faults, syntax, value::Lists};
use crate::{Fault, hint::nearest, path::At, shapes};

/// The keys of `when` that L4 judges, and those that only a waypoint can. A key with `[` takes a name in brackets.
const WHEN_KEYS: &[&str] = &[
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "remote.ip",
    "connection.sni",
    "request.headers[",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[",
    "experimental.envoy.filters.",
];

/// The part of a source.
pub(super) fn source(s: &shapes::Source, at: &At<'_>, faults: &mut Faults) -> Option<Box<SourceL7>> {
    let request_principals = Lists {
        names: ("requestPrincipals", "notRequestPrincipals"),
        values: s.request_principals.as_ref(),
        not_values: s.not_request_principals.as_ref(),
    };
    let remote_ip_blocks = Lists {
        names: ("remoteIpBlocks", "notRemoteIpBlocks"),
        values: s.remote_ip_blocks.as_ref(),
        not_values: s.not_remote_ip_blocks.as_ref(),
    };
    let l7 = SourceL7 {
        request_principals: request_principals.read(at, faults, pattern),
        remote_ip_blocks: remote_ip_blocks.read(at, faults, syntax_of(syntax::cidr)),
    };
    l7.boxed()
}

/// The part of an operation.
pub(super) fn operation(o: &shapes::Operation, at: &At<'_>, faults: &mut Faults) -> Option<Box<OperationL7>> {
    let hosts = Lists { names: ("hosts", "notHosts"), values: o.hosts.as_ref(), not_values: o.not_hosts.as_ref() };
    let methods =
        Lists { names: ("methods", "notMethods"), values: o.methods.as_ref(), not_values: o.not_methods.as_ref() };
    let paths = Lists { names: ("paths", "notPaths"), values: o.paths.as_ref(), not_values: o.not_paths.as_ref() };
    let host = |text: &str, at: &At<'_>, faults: &mut Faults| pattern(&text.to_ascii_lowercase(), at, faults);
    let path = |text: &str| text.parse().map_err(|reason| Fault::PathTemplate { found: text.into(), reason });
    let l7 = OperationL7 {
        hosts: hosts.read(at, faults, host),
        methods: methods.read(at, faults, pattern),
        paths: paths.read(at, faults, syntax_of(path)),
    };
    l7.boxed()
}

/// A condition with a key that L4 does not judge.
///
/// # Errors
/// The fault of the key.
pub(super) fn condition(key: &str, lists: &Lists<'_>, at: &At<'_>, faults: &mut Faults) -> Result<L7Condition, Fault> {
    Ok(match key {
        "remote.ip" => L7Condition::RemoteIp(lists.read(at, faults, syntax_of(syntax::cidr))),
        "connection.sni" => L7Condition::ConnectionSni(lists.read(at, faults, pattern)),
        "request.auth.principal" => L7Condition::RequestPrincipal(lists.read(at, faults, pattern)),
        "request.auth.audiences" => L7Condition::RequestAudiences(lists.read(at, faults, pattern)),
        "request.auth.presenter" => L7Condition::RequestPresenter(lists.read(at, faults, pattern)),
        _ => return named(key, lists, at, faults),
    })
}

/// A condition with a name inside its key.
fn named(key: &str, lists: &Lists<'_>, at: &At<'_>, faults: &mut Faults) -> Result<L7Condition, Fault> {
    if let Some(name) = in_brackets(key, "request.headers[") {
        let name = name.parse().map_err(|reason| Fault::HeaderName { found: name.into(), reason })?;
        return Ok(L7Condition::RequestHeader(name, lists.read(at, faults, pattern)));
    }
    if let Some(path) = in_brackets(key, "request.auth.claims[").and_then(ClaimPath::parse) {
        return Ok(L7Condition::RequestClaim(path, lists.read(at, faults, pattern)));
    }
    if key.strip_prefix("experimental.envoy.filters.").is_some_and(|name| !name.is_empty()) {
        let values = lists.read(at, faults, |text, _, _| Some(Arc::from(text)));
        return Ok(L7Condition::EnvoyFilter { key: key.into(), values });
    }
    Err(Fault::WhenKey { found: key.into(), meant: nearest(key, WHEN_KEYS.iter().copied()) })
}

fn in_brackets<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(']')).filter(|name| !name.is_empty())
}

fn pattern(text: &str, _: &At<'_>, _: &mut Faults) -> Option<StringMatch> {
    Some(StringMatch::parse(text))
}

fn syntax_of<T>(parse: impl Fn(&str) -> Result<T, Fault>) -> impl Fn(&str, &At<'_>, &mut Faults) -> Option<T> {
    move |text, at, faults| faults.check(at, parse(text))
}
