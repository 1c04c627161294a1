//! What routes of the Gateway API ask of a request: path, method, headers and query, or a method of gRPC, which is a path.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{
    http::{Pattern, TextMatch, ValueMatch},
    objects::{GrpcMethod, HttpMatch, RouteMatch},
};

use super::{
    Faults,
    traffic_value::{self as value, malformed},
};
use crate::{Fault, RouteFault, path::At, shapes};

const PATHS: &[&str] = &["Exact", "PathPrefix", "RegularExpression"];
const TEXTS: &[&str] = &["Exact", "RegularExpression"];
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const PATH: &str = "a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have";
const GRPC_NAME: &str = "a name of gRPC: letters, digits, _ and, of a service, dots between them";
/// Of the header that every request has under another name in HTTP/2.
const HOST: &str = "host";

/// An entry of `matches` of an HTTPRoute.
pub(super) fn http(s: &shapes::HttpRouteMatch, at: &At<'_>, faults: &mut Faults) -> RouteMatch {
    let method = s.method.as_deref().and_then(|method| {
        let unknown = || Fault::Value { found: method.into(), known: METHODS };
        let known = METHODS.iter().find(|known| **known == method);
        faults.check(&at.field("method"), known.ok_or_else(unknown)).map(|known| TextMatch::Exact((*known).into()))
    });
    let mut condition = with_headers(&s.headers, at, faults);
    condition.uri = s.path.as_ref().and_then(|one| path(one, &at.field("path"), faults));
    condition.method = method;
    let query = |name: &str| match name {
        "" => Err(Fault::Missing),
        name => Ok(name.into()),
    };
    condition.query = values(&s.query_params, &at.field("queryParams"), faults, query);
    RouteMatch { condition, method: None }
}

/// An entry of `matches` of a GRPCRoute.
pub(super) fn grpc(s: &shapes::GrpcRouteMatch, at: &At<'_>, faults: &mut Faults) -> RouteMatch {
    let mut condition = with_headers(&s.headers, at, faults);
    let mut method = None;
    if let Some(one) = &s.method {
        condition.uri = grpc_path(one, &at.field("method"), faults);
        let some = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(Arc::from);
        method = Some(GrpcMethod { service: some(&one.service), method: some(&one.method) });
    }
    RouteMatch { condition, method }
}

fn path(s: &shapes::TypedMatch, at: &At<'_>, faults: &mut Faults) -> Option<TextMatch> {
    let text = s.value.as_deref().unwrap_or("/");
    let value_at = at.field("value");
    match s.r#type.as_deref().unwrap_or("PathPrefix") {
        "RegularExpression" => pattern(text, &value_at, faults),
        "Exact" => faults.check(&value_at, plain_path(text)).map(|text| TextMatch::Exact(text.into())),
        "PathPrefix" => {
            let text = faults.check(&value_at, plain_path(text))?;
            let trimmed = text.trim_end_matches('/');
            Some(TextMatch::Elements(if trimmed.is_empty() { "/".into() } else { trimmed.into() }))
        }
        other => {
            faults.push(&at.field("type"), Fault::Value { found: other.into(), known: PATHS });
            None
        }
    }
}

/// As the API's own definition asks it of a path that is no expression.
fn plain_path(text: &str) -> Result<&str, Fault> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&b);
    let has = |part: &str| text.contains(part);
    let escapes = text.split('%').skip(1).all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2);
    let is_good = text.starts_with('/')
        && text.bytes().all(is_part)
        && escapes
        && !["//", "/./", "/../", "%2f", "%2F"].into_iter().any(has)
        && !text.ends_with("/.")
        && !text.ends_with("/..");
    if is_good { Ok(text) } else { Err(malformed(text, PATH)) }
}

fn pattern(text: &str, at: &At<'_>, faults: &mut Faults) -> Option<TextMatch> {
    faults.check(at, Pattern::parse(text).map_err(value::pattern_fault(text))).map(TextMatch::Regex)
}

/// The headers of a match; of several entries for one name the first counts.
fn with_headers(all: &[shapes::NamedMatch], at: &At<'_>, faults: &mut Faults) -> HttpMatch {
    let mut headers = values(all, &at.field("headers"), faults, value::header_name);
    let authority = match headers.remove(HOST) {
        Some(ValueMatch::Value(text)) => Some(text),
        Some(ValueMatch::Present) | None => None,
    };
    HttpMatch { headers, authority, ..HttpMatch::default() }
}

fn values(
    all: &[shapes::NamedMatch],
    at: &At<'_>,
    faults: &mut Faults,
    name: impl Fn(&str) -> Result<Arc<str>, Fault>,
) -> BTreeMap<Arc<str>, ValueMatch> {
    let mut read = BTreeMap::new();
    for (i, one) in all.iter().enumerate() {
        let at = at.index(i);
        let name = match one.name.as_str() {
            "" => Err(Fault::Missing),
            text => name(text),
        };
        let name = faults.check(&at.field("name"), name);
        let value_at = at.field("value");
        let text = one.value.as_deref().filter(|text| !text.is_empty()).ok_or(Fault::Missing);
        let text = faults.check(&value_at, text);
        let value = match one.r#type.as_deref().unwrap_or("Exact") {
            "Exact" => text.map(|text| TextMatch::Exact(text.into())),
            "RegularExpression" => text.and_then(|text| pattern(text, &value_at, faults)),
            other => {
                faults.push(&at.field("type"), Fault::Value { found: other.into(), known: TEXTS });
                None
            }
        };
        if let Some((name, value)) = name.zip(value) {
            read.entry(name).or_insert(ValueMatch::Value(value));
        }
    }
    read
}

/// `/service/method`, as gRPC puts it (grpc/doc/PROTOCOL-HTTP2.md, "Requests").
fn grpc_path(s: &shapes::GrpcMethodMatch, at: &At<'_>, faults: &mut Faults) -> Option<TextMatch> {
    let some = |text: &'_ Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(str::to_owned);
    let (service, method) = (some(&s.service), some(&s.method));
    if service.is_none() && method.is_none() {
        faults.push(at, RouteFault::OneOf { of: "service and method" }.into());
        return None;
    }
    match s.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => {
            let mut is_good = true;
            for (field, text) in [("service", &service), ("method", &method)] {
                let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (b == b'.' && field == "service");
                if let Some(text) = text.as_deref().filter(|text| !text.bytes().all(is_name)) {
                    faults.push(&at.field(field), malformed(text, GRPC_NAME));
                    is_good = false;
                }
            }
            is_good.then_some(())?;
            match (service, method) {
                (Some(service), Some(method)) => Some(TextMatch::Exact(format!("/{service}/{method}").into())),
                (Some(service), None) => Some(TextMatch::Prefix(format!("/{service}/").into())),
                (None, Some(method)) => pattern(&format!("/[^/]+/{method}"), at, faults),
                (None, None) => None,
            }
        }
        "RegularExpression" => {
            // Each alone first: a group that one leaves open must not reach into the other.
            let mut part = |field: &'static str, text: Option<String>| match text {
                None => Some("[^/]+".to_owned()),
                Some(text) => pattern(&text, &at.field(field), faults).map(|_| format!("(?:{text})")),
            };
            let (service, method) = (part("service", service), part("method", method));
            pattern(&format!("/{}/{}", service?, method?), at, faults)
        }
        other => {
            faults.push(&at.field("type"), Fault::Value { found: other.into(), known: TEXTS });
            None
        }
    }
}
