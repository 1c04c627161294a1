//! What a route of HTTP does with a request beside leading it somewhere: rewriting, time, retries, faults, copies, CORS,
//! headers.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{
    http::Substitution,
    objects::{
        Abort, AbortWith, CorsPolicy, Delay, Fault as Injected, HeaderChanges, HeaderOperations, HttpPolicy, HttpRetry,
        HttpRewrite, Mirror, PathRewrite, RetryCondition, RetryOn, Share,
    },
};

use super::{
    Faults,
    traffic_value::{self as value, malformed},
    virtual_service::{destination, target},
};
use crate::{Fault, RouteFault, path::At, shapes};

/// gRPC's statuses, by their numbers (grpc/doc/statuscodes.md).
const GRPC: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const PREFLIGHTS: &[&str] = &["UNSPECIFIED", "FORWARD", "IGNORE"];

pub(super) fn policy(s: &shapes::HttpRoute, at: &At<'_>, faults: &mut Faults) -> HttpPolicy {
    HttpPolicy {
        rewrite: s.rewrite.as_ref().and_then(|rewrite| self::rewrite(rewrite, &at.field("rewrite"), faults)),
        timeout: value::limit(s.timeout.as_ref(), &at.field("timeout"), faults),
        retries: s.retries.as_ref().and_then(|retries| self::retries(retries, &at.field("retries"), faults)),
        fault: s.fault.as_ref().map(|fault| self::fault(fault, &at.field("fault"), faults)),
        mirrors: mirrors(s, at, faults),
        cors: s.cors_policy.as_ref().map(|cors| self::cors(cors, &at.field("corsPolicy"), faults)),
        headers: headers(s.headers.as_ref(), at, faults),
    }
}

fn rewrite(s: &shapes::HttpRewrite, at: &At<'_>, faults: &mut Faults) -> Option<HttpRewrite> {
    if *s == shapes::HttpRewrite::default() {
        faults.push(at, RouteFault::OneOf { of: "uri, authority and uriRegexRewrite" }.into());
    }
    let uri = s.uri.as_ref().filter(|uri| !uri.is_empty());
    let path = match (uri, &s.uri_regex_rewrite) {
        (Some(_), Some(_)) => {
            faults.push(&at.field("uriRegexRewrite"), Fault::Exclusive { other: "uri" });
            None
        }
        (Some(uri), None) => value::some_head_text(Some(uri), &at.field("uri"), faults).map(PathRewrite::Matched),
        (None, Some(regex)) => {
            let read = Substitution::parse(&regex.r#match, &regex.rewrite);
            let read = read.map_err(value::pattern_fault(&regex.r#match));
            faults.check(&at.field("uriRegexRewrite"), read).map(PathRewrite::Regex)
        }
        (None, None) => None,
    };
    Some(HttpRewrite { path, authority: value::some_head_text(s.authority.as_ref(), &at.field("authority"), faults) })
}

fn retries(s: &shapes::HttpRetry, at: &At<'_>, faults: &mut Faults) -> Option<HttpRetry> {
    const MAX_ATTEMPTS: u32 = 1000;
    let attempts = value::number(Some(s.attempts.unwrap_or(0)), 0, MAX_ATTEMPTS, &at.field("attempts"), faults);
    let on = s.retry_on.as_deref().filter(|on| !on.trim().is_empty());
    Some(HttpRetry {
        per_try_timeout: value::limit(s.per_try_timeout.as_ref(), &at.field("perTryTimeout"), faults).flatten(),
        on: on.map(|text| retry_on(text, &at.field("retryOn"), faults)),
        backoff: value::limit(s.backoff.as_ref(), &at.field("backoff"), faults).flatten(),
        avoids_previous: s.retry_ignore_previous_hosts.unwrap_or(true),
        remote_localities: s.retry_remote_localities.unwrap_or(false),
        attempts: attempts?,
    })
}

/// Conditions and statuses, with commas between them.
fn retry_on(text: &str, at: &At<'_>, faults: &mut Faults) -> RetryOn {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match (word.parse::<RetryCondition>(), word.parse::<u16>()) {
            (Ok(condition), _) => on.conditions.push(condition),
            (_, Ok(status @ 100..=599)) => {
                on.statuses.push(status);
                on.conditions.push(RetryCondition::RetriableStatusCodes);
            }
            _ => faults.push(at, Fault::Value { found: word.into(), known: RetryCondition::NAMES }),
        }
    }
    on.conditions.sort_unstable();
    on.conditions.dedup();
    on.statuses.sort_unstable();
    on.statuses.dedup();
    on
}

fn fault(s: &shapes::HttpFault, at: &At<'_>, faults: &mut Faults) -> Injected {
    Injected {
        delay: s.delay.as_ref().and_then(|delay| self::delay(delay, &at.field("delay"), faults)),
        abort: s.abort.as_ref().and_then(|abort| self::abort(abort, &at.field("abort"), faults)),
    }
}

/// As in Istio nothing is delayed or aborted where no percentage is said.
fn delay(s: &shapes::FaultDelay, at: &At<'_>, faults: &mut Faults) -> Option<Delay> {
    if s.exponential_delay.is_some() {
        let instead = "nothing is delayed by it, in Istio neither: write fixedDelay";
        faults.push(&at.field("exponentialDelay"), Fault::FieldNotServed { instead });
        return None;
    }
    let (time_at, old_at) = (at.field("fixedDelay"), at.field("percent"));
    let text = faults.check(&time_at, s.fixed_delay.as_ref().ok_or(Fault::Missing));
    let time = value::some_duration(text, &time_at, faults);
    let old = value::number(s.percent, 0, 100, &old_at, faults).and_then(|n| Share::of_percent(f64::from(n)));
    let share = value::share(s.percentage.as_ref(), at, faults).or(old).unwrap_or(Share(0));
    Some(Delay { time: time?, share })
}

fn abort(s: &shapes::FaultAbort, at: &At<'_>, faults: &mut Faults) -> Option<Abort> {
    let share = value::share(s.percentage.as_ref(), at, faults).unwrap_or(Share(0));
    if s.http2_error.is_some() {
        let instead = "nothing is aborted by it, in Istio neither: write httpStatus or grpcStatus";
        faults.push(&at.field("http2Error"), Fault::FieldNotServed { instead });
        return None;
    }
    let with = match (s.http_status, s.grpc_status.as_deref().filter(|s| !s.is_empty())) {
        (Some(_), Some(_)) => {
            faults.push(&at.field("grpcStatus"), Fault::Exclusive { other: "httpStatus" });
            return None;
        }
        (Some(status), None) => {
            let status = value::number(Some(status), 200, 599, &at.field("httpStatus"), faults)?;
            AbortWith::Status(u16::try_from(status).ok()?)
        }
        (None, Some(status)) => {
            let number = GRPC.iter().position(|name| *name == status).or_else(|| status.parse().ok());
            let number = number.filter(|n| *n < GRPC.len()).and_then(|n| u8::try_from(n).ok());
            let unknown = Fault::Value { found: status.into(), known: GRPC };
            AbortWith::Grpc(faults.check(&at.field("grpcStatus"), number.ok_or(unknown))?)
        }
        (None, None) => {
            faults.push(at, RouteFault::OneOf { of: "httpStatus and grpcStatus" }.into());
            return None;
        }
    };
    Some(Abort { with, share })
}

fn mirrors(s: &shapes::HttpRoute, at: &At<'_>, faults: &mut Faults) -> Vec<Mirror> {
    let mut all = Vec::new();
    let at_mirrors = at.field("mirrors");
    if s.mirror.is_some() && !s.mirrors.is_empty() {
        faults.push(&at_mirrors, Fault::Exclusive { other: "mirror" });
    }
    if let Some(mirror) = &s.mirror {
        let old = value::number(s.mirror_percent, 0, 100, &at.field("mirrorPercent"), faults);
        let old = old.and_then(|n| Share::of_percent(f64::from(n)));
        let new = s.mirror_percentage.as_ref().map(|p| {
            let share =
                Share::of_percent(p.value).ok_or_else(|| malformed(&p.value.to_string(), "a percentage from 0 to 100"));
            faults.check(&at.field("mirrorPercentage").field("value"), share).unwrap_or(Share(0))
        });
        let target = destination(mirror, &at.field("mirror"), faults);
        all.extend(target.map(|target| Mirror { target, share: new.or(old).unwrap_or(Share::ALL) }));
    }
    for (i, mirror) in s.mirrors.iter().enumerate() {
        let at = at_mirrors.index(i);
        let share = value::share(mirror.percentage.as_ref(), &at, faults).unwrap_or(Share::ALL);
        all.extend(target(mirror.destination.as_ref(), &at, faults).map(|target| Mirror { target, share }));
    }
    all
}

fn cors(s: &shapes::CorsPolicy, at: &At<'_>, faults: &mut Faults) -> CorsPolicy {
    let origins_at = at.field("allowOrigins");
    let mut allow_origins: Vec<_> = (s.allow_origins.iter().enumerate())
        .filter_map(|(i, one)| value::text(Some(one), &origins_at.index(i), faults))
        .collect();
    // The older field: whole origins, or `*`, which is any.
    allow_origins.extend(s.allow_origin.iter().map(|origin| match origin.as_str() {
        "*" => underpass_core::http::TextMatch::Prefix("".into()),
        exact => underpass_core::http::TextMatch::Exact(exact.into()),
    }));
    let texts = |all: &[String], name: &'static str, faults: &mut Faults| -> Vec<Arc<str>> {
        let at = at.field(name);
        all.iter().enumerate().filter_map(|(i, text)| faults.check(&at.index(i), value::head_text(text))).collect()
    };
    let unmatched = [("UNSPECIFIED", false), ("FORWARD", false), ("IGNORE", true)];
    let unmatched_at = at.field("unmatchedPreflights");
    let max_age = s.max_age.as_ref().and_then(|text| faults.check(&at.field("maxAge"), value::duration(text)));
    CorsPolicy {
        allow_origins,
        allow_methods: texts(&s.allow_methods, "allowMethods", faults),
        allow_headers: texts(&s.allow_headers, "allowHeaders", faults),
        expose_headers: texts(&s.expose_headers, "exposeHeaders", faults),
        max_age,
        allow_credentials: s.allow_credentials.unwrap_or(false),
        answers_unmatched: value::word(s.unmatched_preflights.as_ref(), &unmatched, PREFLIGHTS, &unmatched_at, faults)
            .unwrap_or_default(),
    }
}

pub(super) fn headers(s: Option<&shapes::Headers>, at: &At<'_>, faults: &mut Faults) -> HeaderOperations {
    let at = at.field("headers");
    let changes = |s: Option<&shapes::HeaderOperations>, at: &At<'_>, faults: &mut Faults| {
        let Some(s) = s else { return HeaderChanges::default() };
        let pairs = |all: &BTreeMap<String, String>, at: &At<'_>, faults: &mut Faults| -> Vec<(Arc<str>, Arc<str>)> {
            let mut read = Vec::new();
            for (name, text) in all {
                let at = at.field(name);
                let name = faults.check(&at, value::header_name(name));
                read.extend(name.zip(faults.check(&at, value::head_text(text))));
            }
            read
        };
        let removed_at = at.field("remove");
        let removed = s.remove.iter().enumerate();
        HeaderChanges {
            set: pairs(&s.set, &at.field("set"), faults),
            add: pairs(&s.add, &at.field("add"), faults),
            remove: removed
                .filter_map(|(i, name)| faults.check(&removed_at.index(i), value::header_name(name)))
                .collect(),
        }
    };
    HeaderOperations {
        request: changes(s.and_then(|s| s.request.as_ref()), &at.field("request"), faults),
        response: changes(s.and_then(|s| s.response.as_ref()), &at.field("response"), faults),
    }
}
