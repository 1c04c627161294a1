//! The filters of routes of the Gateway API: of a rule, and of one of its backends, which has fewer. A filter that is not
//! served is an error by its name: a request must not pass without it.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{
    http::{Pattern, TextMatch},
    objects::{
        CorsPolicy, HeaderChanges, HeaderOperations, HttpRedirect, HttpRewrite, PathRewrite, RedirectPort, RouteMirror,
        Share,
    },
};

use super::{
    Faults, gateway_route, syntax,
    traffic_value::{self as value, malformed},
};
use crate::{Fault, RouteFault, path::At, shapes};

const FILTERS: &[&str] =
    &["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "CORS"];
const OF_BACKENDS: &[&str] = &["RequestHeaderModifier", "ResponseHeaderModifier"];
const OF_GRPC: &[&str] = &["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror"];
const PATHS: &[&str] = &["ReplaceFullPath", "ReplacePrefixMatch"];
const ORIGIN: &str = "an origin: `*`, or http:// or https:// and a host, which may begin with `*.`, and perhaps a port";
/// Those that lead a client elsewhere (RFC 9110, 15.4), as the API lists them.
const REDIRECT_CODES: [i64; 5] = [301, 302, 303, 307, 308];
/// The API's default of `maxAge`.
const MAX_AGE_S: i64 = 5;

/// What the filters of a rule come to.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) headers: HeaderOperations,
    pub(super) mirrors: Vec<RouteMirror>,
    pub(super) redirect: Option<HttpRedirect>,
    pub(super) rewrite: Option<HttpRewrite>,
    pub(super) cors: Option<CorsPolicy>,
}

/// Where filters stand, which says those that can.
#[derive(Clone, Copy)]
pub(super) enum Of {
    HttpRule,
    GrpcRule,
    Backend,
}

impl Of {
    const fn known(self) -> &'static [&'static str] {
        match self {
            Self::HttpRule => FILTERS,
            Self::GrpcRule => OF_GRPC,
            Self::Backend => OF_BACKENDS,
        }
    }
}

/// `filters`; `namespace` is the route's.
pub(super) fn filters(
    all: &[shapes::HttpRouteFilter],
    of: Of,
    namespace: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Filters {
    let mut read = Filters::default();
    let mut before: Vec<&str> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let at = at.index(i);
        if !of.known().contains(&one.r#type.as_str()) {
            let missing = one.r#type.is_empty().then_some(Fault::Missing);
            let unknown = || Fault::Value { found: one.r#type.as_str().into(), known: of.known() };
            faults.push(&at.field("type"), missing.unwrap_or_else(unknown));
            continue;
        }
        if one.r#type != "RequestMirror" && before.contains(&one.r#type.as_str()) {
            faults.push(&at.field("type"), RouteFault::DuplicateName { name: one.r#type.as_str().into() }.into());
        }
        before.push(&one.r#type);
        filter(one, namespace, &at, faults, &mut read);
    }
    if read.redirect.is_some() && read.rewrite.is_some() {
        faults.push(at, Fault::Exclusive { other: "RequestRedirect" });
    }
    read
}

/// One whose type is known: it has the field of its type, and no other.
fn filter(s: &shapes::HttpRouteFilter, namespace: &str, at: &At<'_>, faults: &mut Faults, read: &mut Filters) {
    let fields = [
        ("RequestHeaderModifier", "requestHeaderModifier", s.request_header_modifier.is_some()),
        ("ResponseHeaderModifier", "responseHeaderModifier", s.response_header_modifier.is_some()),
        ("RequestMirror", "requestMirror", s.request_mirror.is_some()),
        ("RequestRedirect", "requestRedirect", s.request_redirect.is_some()),
        ("URLRewrite", "urlRewrite", s.url_rewrite.is_some()),
        ("CORS", "cors", s.cors.is_some()),
        ("ExternalAuth", "externalAuth", s.external_auth.is_some()),
        ("ExtensionRef", "extensionRef", s.extension_ref.is_some()),
    ];
    for (of_type, field, is_set) in fields {
        match (of_type == s.r#type, is_set) {
            (true, false) => faults.push(&at.field(field), Fault::Missing),
            (false, true) => faults.push(&at.field(field), Fault::Exclusive { other: "type" }),
            _ => {}
        }
    }
    if let Some(changes) = &s.request_header_modifier {
        read.headers.request = self::changes(changes, &at.field("requestHeaderModifier"), faults);
    }
    if let Some(changes) = &s.response_header_modifier {
        read.headers.response = self::changes(changes, &at.field("responseHeaderModifier"), faults);
    }
    if let Some(mirror) = &s.request_mirror {
        read.mirrors.extend(self::mirror(mirror, namespace, &at.field("requestMirror"), faults));
    }
    if let Some(redirect) = &s.request_redirect {
        read.redirect = self::redirect(redirect, &at.field("requestRedirect"), faults);
    }
    if let Some(rewrite) = &s.url_rewrite {
        let at = at.field("urlRewrite");
        let path = rewrite.path.as_ref().and_then(|path| path_modifier(path, &at.field("path"), faults));
        read.rewrite = Some(HttpRewrite { path, authority: hostname(rewrite.hostname.as_ref(), &at, faults) });
    }
    if let Some(cors) = &s.cors {
        read.cors = Some(self::cors(cors, &at.field("cors"), faults));
    }
}

fn changes(s: &shapes::HeaderModifier, at: &At<'_>, faults: &mut Faults) -> HeaderChanges {
    let pairs = |all: &[shapes::HttpHeader], at: &At<'_>, faults: &mut Faults| {
        // Of several entries for one name the first counts.
        let mut read: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
        for (i, one) in all.iter().enumerate() {
            let at = at.index(i);
            let name = faults.check(&at.field("name"), value::header_name(&one.name));
            let text = faults.check(&at.field("value"), value::head_text(&one.value));
            if let Some((name, text)) = name.zip(text) {
                read.entry(name).or_insert(text);
            }
        }
        read.into_iter().collect::<Vec<_>>()
    };
    let removed_at = at.field("remove");
    let removed = s.remove.iter().enumerate();
    HeaderChanges {
        set: pairs(&s.set, &at.field("set"), faults),
        add: pairs(&s.add, &at.field("add"), faults),
        remove: removed.filter_map(|(i, n)| faults.check(&removed_at.index(i), value::header_name(n))).collect(),
    }
}

fn mirror(s: &shapes::RequestMirror, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<RouteMirror> {
    let backend_at = at.field("backendRef");
    let backend = faults.check(&backend_at, s.backend_ref.as_ref().ok_or(Fault::Missing));
    let to = backend.and_then(|backend| gateway_route::backend(backend, namespace, &backend_at, faults));
    let percent = value::number(s.percent, 0, 100, &at.field("percent"), faults);
    let percent = percent.and_then(|percent| Share::of_percent(f64::from(percent)));
    let fraction_at = at.field("fraction");
    if s.percent.is_some() && s.fraction.is_some() {
        faults.push(&fraction_at, Fault::Exclusive { other: "percent" });
    }
    let fraction = s.fraction.as_ref().and_then(|fraction| self::fraction(fraction, &fraction_at, faults));
    Some(RouteMirror { to: to?, share: percent.or(fraction).unwrap_or(Share::ALL) })
}

fn fraction(s: &shapes::Fraction, at: &At<'_>, faults: &mut Faults) -> Option<Share> {
    let most = i32::MAX.unsigned_abs();
    let numerator = faults.check(&at.field("numerator"), s.numerator.ok_or(Fault::Missing));
    let bound = value::number(Some(s.denominator.unwrap_or(100)), 1, most, &at.field("denominator"), faults)?;
    let numerator = value::number(numerator, 0, bound, &at.field("numerator"), faults)?;
    let millionths = u64::from(numerator).saturating_mul(u64::from(Share::ALL.0)).checked_div(u64::from(bound))?;
    u32::try_from(millionths).ok().map(Share)
}

fn redirect(s: &shapes::RequestRedirect, at: &At<'_>, faults: &mut Faults) -> Option<HttpRedirect> {
    let scheme = s.scheme.as_deref().filter(|scheme| !scheme.is_empty());
    if let Some(scheme) = scheme.filter(|scheme| !matches!(*scheme, "http" | "https")) {
        faults.push(&at.field("scheme"), Fault::Value { found: scheme.into(), known: &["http", "https"] });
    }
    let code = s.status_code.unwrap_or(302);
    let status = REDIRECT_CODES.contains(&code).then_some(code).and_then(|code| u16::try_from(code).ok());
    let bad_code = || malformed(&code.to_string(), "one of 301, 302, 303, 307 and 308");
    let status = faults.check(&at.field("statusCode"), status.ok_or_else(bad_code));
    // Without one the port is the scheme's, where that is said, else the called one.
    let otherwise = if scheme.is_some() { RedirectPort::ProtocolDefault } else { RedirectPort::Called };
    let port = value::port(s.port, &at.field("port"), faults).map_or(otherwise, RedirectPort::Number);
    let path = s.path.as_ref().and_then(|path| path_modifier(path, &at.field("path"), faults));
    let (uri, prefix) = match path {
        Some(PathRewrite::Elements(prefix)) => (None, Some(prefix)),
        Some(PathRewrite::Full(uri)) => (Some(uri), None),
        _ => (None, None),
    };
    let authority = hostname(s.hostname.as_ref(), at, faults);
    Some(HttpRedirect { uri, prefix, authority, port, scheme: scheme.map(Arc::from), status: status? })
}

fn hostname(text: Option<&String>, at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    let text = text.filter(|text| !text.is_empty())?;
    faults.check(&at.field("hostname"), syntax::dns_subdomain(text))
}

fn path_modifier(s: &shapes::PathModifier, at: &At<'_>, faults: &mut Faults) -> Option<PathRewrite> {
    let (field, text, other, other_is_set) = match s.r#type.as_str() {
        "ReplaceFullPath" => {
            ("replaceFullPath", &s.replace_full_path, "replacePrefixMatch", s.replace_prefix_match.is_some())
        }
        "ReplacePrefixMatch" => {
            ("replacePrefixMatch", &s.replace_prefix_match, "replaceFullPath", s.replace_full_path.is_some())
        }
        found => {
            faults.push(&at.field("type"), Fault::Value { found: found.into(), known: PATHS });
            return None;
        }
    };
    if other_is_set {
        faults.push(&at.field(other), Fault::Exclusive { other: "type" });
    }
    let text = faults.check(&at.field(field), text.as_deref().ok_or(Fault::Missing))?;
    let text = faults.check(&at.field(field), value::head_text(text))?;
    Some(if field == "replaceFullPath" { PathRewrite::Full(text) } else { PathRewrite::Elements(text) })
}

fn cors(s: &shapes::CorsFilter, at: &At<'_>, faults: &mut Faults) -> CorsPolicy {
    let origins_at = at.field("allowOrigins");
    let origins = s.allow_origins.iter().enumerate();
    let texts = |all: &[String], name: &'static str, faults: &mut Faults| -> Vec<Arc<str>> {
        let at = at.field(name);
        if all.len() > 1 && all.iter().any(|text| text == "*") {
            faults.push(&at, malformed("*", "alone: beside it no other entry means anything"));
        }
        all.iter().enumerate().filter_map(|(i, text)| faults.check(&at.index(i), value::head_text(text))).collect()
    };
    let age =
        value::number(Some(s.max_age.unwrap_or(MAX_AGE_S)), 1, i32::MAX.unsigned_abs(), &at.field("maxAge"), faults);
    CorsPolicy {
        allow_origins: origins.filter_map(|(i, text)| faults.check(&origins_at.index(i), origin(text))).collect(),
        allow_methods: texts(&s.allow_methods, "allowMethods", faults),
        allow_headers: texts(&s.allow_headers, "allowHeaders", faults),
        expose_headers: texts(&s.expose_headers, "exposeHeaders", faults),
        max_age: age.map(|age| std::time::Duration::from_secs(age.into())),
        allow_credentials: s.allow_credentials.unwrap_or(false),
        answers_unmatched: true,
    }
}

/// As the API has it: a star stands for any number of labels to the left.
fn origin(text: &str) -> Result<TextMatch, Fault> {
    let bad = || malformed(text, ORIGIN);
    if text == "*" {
        return Ok(TextMatch::Prefix("".into()));
    }
    let (scheme, rest) =
        text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https")).ok_or_else(bad)?;
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    port.map(|port| syntax::port_text(port).map_err(|_| bad())).transpose()?;
    let below = host.strip_prefix('*');
    let name = below.map_or(host, |end| end.strip_prefix('.').unwrap_or("*"));
    if host != "*" && syntax::dns_subdomain(name).is_err() {
        return Err(bad());
    }
    let Some(end) = below else { return Ok(TextMatch::Exact(text.into())) };
    let end = [end, &port.map_or_else(String::new, |port| format!(":{port}"))].concat().replace('.', r"\.");
    Pattern::parse(&format!("{scheme}://[^/:]+{end}")).map(TextMatch::Regex).map_err(value::pattern_fault(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let check = |text: &str, good: &[&str], bad: &[&str]| {
            let origin = origin(text).unwrap();
            let wrong = good
                .iter()
                .filter(|o| !origin.matches(o.as_bytes()))
                .chain(bad.iter().filter(|o| origin.matches(o.as_bytes())));
            assert_eq!(wrong.collect::<Vec<_>>(), [""; 0].iter().collect::<Vec<_>>(), "{text}");
        };
        check("*", &["https://a", "null"], &[]);
        check(
            "https://a.example",
            &["https://a.example"],
            &["http://a.example", "https://b.a.example", "https://a.example:80"],
        );
        check(
            "https://*.a.example:8443",
            &["https://x.a.example:8443", "https://y.x.a.example:8443"],
            &["https://a.example:8443", "https://x.a.example", "https://xa.example:8443", "https://x.aXexample:8443"],
        );
        check("http://*", &["http://a", "http://a.b"], &["https://a", "http://a:80"]);
        for text in ["a.example", "ftp://a", "https://", "https://a:0", "https://a/", "https://*a", "https://a.*", "**"]
        {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
