//! Routes of HTTP in a VirtualService: conditions on requests, and where they go.

use std::sync::Arc;

use underpass_core::{
    ObjectName,
    objects::{DirectResponse, HttpAction, HttpMatch, HttpRedirect, HttpRoute, RedirectPort},
};

use super::{
    Faults, http_policy, meta, syntax,
    traffic_value::{self as value, malformed},
    virtual_service::{target, weighted},
};
use crate::{Fault, RouteFault, path::At, shapes};

/// What `headers` of a match cannot ask for, as in Istio: these parts of a request have fields of their own.
const NO_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];
const DERIVED: &[&str] = &["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"];
/// Those that lead a client elsewhere (RFC 9110, 15.4) and that Envoy sends.
const REDIRECT_CODES: [i64; 5] = [301, 302, 303, 307, 308];
/// Of a direct response, as in Istio: it is held in memory.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// One route; `namespace` is the VirtualService's.
pub(super) fn route(s: &shapes::HttpRoute, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<HttpRoute> {
    let matches_at = at.field("match");
    let mut matches = Vec::new();
    for (i, one) in s.r#match.iter().enumerate() {
        matches.extend(condition(one, &matches_at.index(i), faults));
    }
    let policy = http_policy::policy(s, at, faults);
    let action = action(s, namespace, at, faults);
    let name = s.name.as_deref().filter(|n| !n.is_empty()).map(Arc::from);
    (matches.len() == s.r#match.len()).then_some(())?;
    Some(HttpRoute { name, matches, action: action?, policy })
}

fn action(s: &shapes::HttpRoute, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<HttpAction> {
    const ALL: &str = "route, redirect, directResponse and delegate";
    let set = [
        ("route", !s.route.is_empty()),
        ("redirect", s.redirect.is_some()),
        ("directResponse", s.direct_response.is_some()),
        ("delegate", s.delegate.is_some()),
    ];
    let mut set = set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name);
    match (set.next(), set.next()) {
        (None, _) => faults.push(at, RouteFault::OneOf { of: ALL }.into()),
        (Some(other), Some(second)) => faults.push(&at.field(second), Fault::Exclusive { other }),
        (Some(_), None) => {}
    }
    if let Some(redirect) = &s.redirect {
        return self::redirect(redirect, &at.field("redirect"), faults).map(HttpAction::Redirect);
    }
    if let Some(response) = &s.direct_response {
        return direct_response(response, &at.field("directResponse"), faults).map(HttpAction::Respond);
    }
    if let Some(delegate) = &s.delegate {
        let at = at.field("delegate");
        let name = faults.check(&at.field("name"), syntax::dns_subdomain(&delegate.name));
        let namespace = delegate.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
        let namespace = faults.check(&at.field("namespace"), syntax::dns_label(namespace));
        return Some(HttpAction::Delegate(ObjectName::new(namespace?, name?)));
    }
    let at = at.field("route");
    let mut read = Vec::new();
    for (i, one) in s.route.iter().enumerate() {
        let at = at.index(i);
        let headers = http_policy::headers(one.headers.as_ref(), &at, faults);
        read.push((target(one.destination.as_ref(), &at, faults), one.weight, headers));
    }
    weighted(read.into_iter(), &at, faults).map(HttpAction::Forward)
}

fn condition(s: &shapes::HttpMatch, at: &At<'_>, faults: &mut Faults) -> Option<HttpMatch> {
    let labels = meta::label_map(&s.source_labels, &at.field("sourceLabels"), faults);
    let text = |shape: Option<&shapes::StringMatch>, name: &'static str, faults: &mut Faults| {
        value::text(shape, &at.field(name), faults)
    };
    let mut headers = s.headers.clone();
    for name in NO_HEADERS {
        if headers.remove(name).is_some() {
            let instead = "the name is of another field of the match, and asks for no header: it is ignored";
            faults.push(&at.field("headers").field(name), Fault::FieldNotServed { instead });
        }
    }
    let namespace = s.source_namespace.as_deref().filter(|n| !n.is_empty());
    let source_namespace =
        namespace.and_then(|text| faults.check(&at.field("sourceNamespace"), syntax::dns_label(text)));
    let gateways = value::gateways(&s.gateways, &at.field("gateways"), faults);
    let some = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(Arc::from);
    Some(HttpMatch {
        name: some(&s.name),
        uri: text(s.uri.as_ref(), "uri", faults),
        ignore_uri_case: s.ignore_uri_case,
        scheme: text(s.scheme.as_ref(), "scheme", faults),
        method: text(s.method.as_ref(), "method", faults),
        authority: text(s.authority.as_ref(), "authority", faults),
        headers: value::values(&headers, &at.field("headers"), faults, value::header_name),
        without_headers: value::values(&s.without_headers, &at.field("withoutHeaders"), faults, value::header_name),
        query: value::values(&s.query_params, &at.field("queryParams"), faults, |name| match name {
            "" => Err(Fault::EmptyValue),
            name => Ok(name.into()),
        }),
        port: value::port(s.port, &at.field("port"), faults),
        source_labels: labels?,
        source_namespace,
        gateways,
        stat_prefix: some(&s.stat_prefix),
    })
}

fn redirect(s: &shapes::HttpRedirect, at: &At<'_>, faults: &mut Faults) -> Option<HttpRedirect> {
    let derived =
        [("FROM_PROTOCOL_DEFAULT", RedirectPort::ProtocolDefault), ("FROM_REQUEST_PORT", RedirectPort::Called)];
    let derived = value::word(s.derive_port.as_ref(), &derived, DERIVED, &at.field("derivePort"), faults);
    if s.port.is_some() && s.derive_port.is_some() {
        faults.push(&at.field("derivePort"), Fault::Exclusive { other: "port" });
    }
    let port = value::port(s.port, &at.field("port"), faults).map(RedirectPort::Number);
    let code = s.redirect_code.filter(|code| *code != 0).unwrap_or(301);
    let code = REDIRECT_CODES.contains(&code).then_some(code).and_then(|code| u16::try_from(code).ok());
    let bad_code = || malformed(&s.redirect_code.unwrap_or(0).to_string(), "one of 301, 302, 303, 307 and 308");
    let status = faults.check(&at.field("redirectCode"), code.ok_or_else(bad_code));
    if let Some(scheme) = s.scheme.as_deref().filter(|s| !matches!(*s, "" | "http" | "https")) {
        faults.push(&at.field("scheme"), malformed(scheme, "one of http and https"));
    }
    Some(HttpRedirect {
        uri: value::some_head_text(s.uri.as_ref(), &at.field("uri"), faults),
        prefix: None,
        authority: value::some_head_text(s.authority.as_ref(), &at.field("authority"), faults),
        port: port.or(derived).unwrap_or_default(),
        scheme: s.scheme.as_deref().filter(|s| !s.is_empty()).map(Arc::from),
        status: status?,
    })
}

fn direct_response(s: &shapes::DirectResponse, at: &At<'_>, faults: &mut Faults) -> Option<DirectResponse> {
    let status_at = at.field("status");
    let status = faults.check(&status_at, s.status.ok_or(Fault::Missing));
    let status = value::number(status, 200, 599, &status_at, faults).and_then(|n| u16::try_from(n).ok());
    let at = at.field("body");
    let body = match s.body.as_ref().map(|body| (&body.string, &body.bytes)) {
        None => Vec::new(),
        Some((Some(text), None)) => text.as_bytes().to_vec(),
        Some((None, Some(text))) => faults.check(&at.field("bytes"), value::base64(text))?,
        Some((None, None)) => {
            faults.push(&at, RouteFault::OneOf { of: "string and bytes" }.into());
            Vec::new()
        }
        Some((Some(_), Some(_))) => {
            faults.push(&at.field("bytes"), Fault::Exclusive { other: "string" });
            Vec::new()
        }
    };
    if body.len() > MAX_BODY_BYTES {
        faults.push(&at, Fault::FileTooLarge { max: 1024 * 1024 });
    }
    Some(DirectResponse { status: status?, body: body.into() })
}
