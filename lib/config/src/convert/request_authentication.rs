//! RequestAuthentications: issuers, their keys, and where tokens stand. A rule that cannot be read is an error of the
//! object: without it the tokens of its issuer would be refused, or be no reason to refuse a request.

use std::{collections::BTreeSet, sync::Arc};

use underpass_core::{
    Kind,
    jwt::{Jwk, JwkText, Jwks},
    objects::{ClaimHeader, JwtRule, KeySource, RequestAuthentication, TokenSource},
};

use super::{
    Converted, Faults, Rejected, meta,
    policy::{self, ScopeShape},
    traffic_value::{self as value, malformed},
};
use crate::{Fault, RouteFault, path::At, shapes};

/// The most keys of one issuer.
const MAX_KEYS: usize = 100;
const URL: &str = "an http or https URL";
const KEY_SET: &str = "a JSON Web Key set: {\"keys\": [...]}";

/// `security.istio.io RequestAuthentication`.
///
/// # Errors
/// All of its faults.
pub fn request_authentication(
    shape: &shapes::RequestAuthentication,
) -> Result<Converted<RequestAuthentication>, Rejected> {
    let mut faults = Faults::default();
    let (spec, at) = (&shape.spec, At::ROOT.field("spec"));
    let name = meta::object_name(Kind::RequestAuthentication, &shape.metadata, &mut faults);
    meta::labels(&shape.metadata, &mut faults);
    let namespace = name.as_ref().map_or("", |n| n.namespace());
    let scope = ScopeShape {
        selector: spec.selector.as_ref(),
        target: spec.target_ref.as_ref(),
        targets: spec.target_refs.as_ref(),
    };
    let scope = policy::scope(&scope, namespace, &at, &mut faults);
    let list = at.field("jwtRules");
    let rules = spec.jwt_rules.iter().enumerate();
    let rules: Vec<_> = rules.map(|(i, rule)| self::rule(rule, &list.index(i), &mut faults)).collect();
    let object = || {
        Some(RequestAuthentication {
            name: name.clone()?,
            scope: scope?,
            rules: rules.into_iter().collect::<Option<_>>()?,
        })
    };
    let object = object();
    faults.finish(object)
}

fn rule(s: &shapes::JwtRule, at: &At<'_>, faults: &mut Faults) -> Option<JwtRule> {
    if s.issuer.is_empty() {
        faults.push(&at.field("issuer"), Fault::Missing);
    }
    let payload = s.output_payload_to_header.as_ref().filter(|name| !name.is_empty());
    let payload_header = payload.and_then(|name| faults.check(&at.field("outputPayloadToHeader"), output_header(name)));
    let claim_headers = claim_headers(s, at, faults);
    let keys = keys(s, at, faults);
    let timeout = value::some_duration(s.timeout.as_ref(), &at.field("timeout"), faults);
    Some(JwtRule {
        issuer: s.issuer.as_str().into(),
        audiences: texts(s.audiences.as_ref(), &at.field("audiences"), faults),
        places: places(s, at, faults),
        forward_original_token: s.forward_original_token.unwrap_or(false),
        payload_header,
        claim_headers,
        timeout: timeout.unwrap_or(JwtRule::TIMEOUT),
        space_delimited: texts(s.space_delimited_claims.as_ref(), &at.field("spaceDelimitedClaims"), faults),
        keys: keys?,
    })
}

/// Texts that must not be empty, in a list that, where it is there, must not be either.
fn texts(all: Option<&Vec<String>>, at: &At<'_>, faults: &mut Faults) -> Vec<Arc<str>> {
    let Some(all) = all else { return Vec::new() };
    if all.is_empty() {
        faults.push(at, Fault::EmptyList);
    }
    let mut texts = Vec::new();
    for (i, text) in all.iter().enumerate() {
        match text.is_empty() {
            true => faults.push(&at.index(i), Fault::EmptyValue),
            false => texts.push(text.as_str().into()),
        }
    }
    texts
}

fn keys(s: &shapes::JwtRule, at: &At<'_>, faults: &mut Faults) -> Option<KeySource> {
    let there = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (there(&s.jwks), there(&s.jwks_uri)) {
        (Some(_), Some(_)) => {
            faults.push(&at.field("jwks"), Fault::Exclusive { other: "jwksUri" });
            None
        }
        (Some(text), None) => key_set(&text, &at.field("jwks"), faults).map(KeySource::Inline),
        (None, Some(uri)) => faults.check(&at.field("jwksUri"), url(&uri)).map(KeySource::Uri),
        (None, None) => Some(KeySource::Discovery),
    }
}

fn url(text: &str) -> Result<Arc<str>, Fault> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_good = rest.is_some_and(|rest| {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        !host.is_empty() && !host.contains('@') && rest.bytes().all(|b| b.is_ascii_graphic())
    });
    if is_good { Ok(text.into()) } else { Err(malformed(text, URL)) }
}

#[derive(serde::Deserialize)]
struct KeySet {
    keys: Vec<JwkText>,
}

fn key_set(text: &str, at: &At<'_>, faults: &mut Faults) -> Option<Jwks> {
    let set: KeySet = faults.check(at, serde_json::from_str(text).map_err(|_| malformed(text, KEY_SET)))?;
    if set.keys.len() > MAX_KEYS {
        faults.push(at, RouteFault::TooManyEntries { max: MAX_KEYS }.into());
        return None;
    }
    let (mut keys, mut is_good) = (Vec::new(), true);
    for (index, key) in set.keys.iter().enumerate() {
        match Jwk::parse(key) {
            Ok(key) => keys.extend(key),
            Err(fault) => {
                is_good = false;
                faults.push(at, RouteFault::Key { index, fault }.into());
            }
        }
    }
    if keys.is_empty() && is_good {
        faults.push(at, RouteFault::NoKey.into());
        return None;
    }
    Some(keys.into_iter().collect())
}

fn places(s: &shapes::JwtRule, at: &At<'_>, faults: &mut Faults) -> Vec<TokenSource> {
    let mut places = Vec::new();
    let headers_at = at.field("fromHeaders");
    if s.from_headers.as_ref().is_some_and(Vec::is_empty) {
        faults.push(&headers_at, Fault::EmptyList);
    }
    for (i, header) in s.from_headers.iter().flatten().enumerate() {
        let at = headers_at.index(i);
        let name = faults.check(&at.field("name"), value::header_name(&header.name));
        let prefix = header.prefix.as_deref().unwrap_or_default();
        let prefix = faults.check(&at.field("prefix"), value::head_text(prefix));
        places.extend(name.zip(prefix).map(|(name, prefix)| TokenSource::Header { name, prefix }));
    }
    places.extend(texts(s.from_params.as_ref(), &at.field("fromParams"), faults).into_iter().map(TokenSource::Param));
    let cookies = texts(s.from_cookies.as_ref(), &at.field("fromCookies"), faults);
    places.extend(cookies.into_iter().map(TokenSource::Cookie));
    places
}

fn claim_headers(s: &shapes::JwtRule, at: &At<'_>, faults: &mut Faults) -> Vec<ClaimHeader> {
    let at = at.field("outputClaimToHeaders");
    let (mut headers, mut names) = (Vec::new(), BTreeSet::new());
    for (i, one) in s.output_claim_to_headers.iter().flatten().enumerate() {
        let at = at.index(i);
        let header = faults.check(&at.field("header"), output_header(&one.header));
        let claim: Vec<Arc<str>> = one.claim.split('.').map(Arc::from).collect();
        if claim.iter().any(|name| name.is_empty()) {
            let fault = if one.claim.is_empty() {
                Fault::Missing
            } else {
                malformed(&one.claim, "names with dots between them")
            };
            faults.push(&at.field("claim"), fault);
        }
        if header.as_ref().is_some_and(|header| !names.insert(Arc::clone(header))) {
            faults.push(&at.field("header"), RouteFault::DuplicateName { name: one.header.as_str().into() }.into());
        }
        headers.extend(header.map(|header| ClaimHeader { header, claim }));
    }
    headers
}

/// Not one by which a request is led, or its body read.
fn output_header(name: &str) -> Result<Arc<str>, Fault> {
    let lower = value::header_name(name)?;
    let is_framing =
        matches!(&*lower, "host" | "content-length" | "transfer-encoding" | "connection" | "te" | "upgrade");
    if is_framing || lower.starts_with(':') {
        return Err(malformed(name, "the name of a header that says nothing about the message itself"));
    }
    Ok(lower)
}
