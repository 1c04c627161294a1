//! The decision about one request: the first rule that it matches, and what follows. Pure; dice are an argument, and each
//! step can be recorded.

use std::{borrow::Cow, time::Duration};

use super::{
    ClusterKey, CorsHeaders, Dice, RequestHead, RetryPolicy, Routes, Throw,
    cors::{self, Cors},
    elements,
    redirect::location,
    rule::{Route, RouteAction, Rule, Weighted},
};
use crate::{
    objects::{Abort, AbortWith, HeaderOperations, HttpRewrite, PathRewrite, Share},
    trace::{Stage, Trace},
};

/// What is to be done with a request.
#[derive(Clone, Debug)]
pub struct Decision<'r> {
    /// The rule that it matches; none: none of them, or no object with rules is for its sender.
    pub rule: Option<&'r Rule>,
    /// It waits so long first: an injected fault.
    pub delay: Option<Duration>,
    /// Then this.
    pub action: Action<'r>,
}

/// The end of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'r> {
    /// It goes to a cluster.
    Forward(Forward<'r>),
    /// The client is led elsewhere.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// `Location`.
        location: String,
        /// Changes to the response's headers.
        headers: &'r HeaderOperations,
    },
    /// It is answered here.
    Respond(Respond<'r>),
    /// No rule matches: 404.
    NotFound,
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward<'r> {
    /// Where it goes.
    pub cluster: &'r ClusterKey,
    /// The path with its query, where it is rewritten.
    pub path: Option<String>,
    /// The authority, where it is rewritten.
    pub authority: Option<&'r str>,
    /// Changes to headers, in the order in which they are made: the target's, then the route's.
    pub headers: Vec<&'r HeaderOperations>,
    /// The limit of the whole request, retries included.
    pub timeout: Option<Duration>,
    /// Whether it is tried again; none: never.
    pub retry: Option<&'r RetryPolicy>,
    /// Clusters that get a copy each.
    pub mirrors: Vec<&'r ClusterKey>,
    /// Added to the response: it is for another origin.
    pub cors: CorsHeaders,
}

/// An answer without an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond<'r> {
    /// The status.
    pub status: u16,
    /// `grpc-status`, of an answer in gRPC's way.
    pub grpc_status: Option<u8>,
    /// The body.
    pub body: Cow<'r, [u8]>,
    /// Changes to the response's headers; none of an injected fault.
    pub headers: Option<&'r HeaderOperations>,
    /// Headers of the answer: of a preflight.
    pub cors: CorsHeaders,
    /// It is an injected fault.
    pub is_fault: bool,
}

/// Decides about a request.
pub fn route<'r>(routes: &'r Routes, head: &RequestHead<'_>, dice: Dice, trace: &mut impl Trace) -> Decision<'r> {
    let Some(rule) = routes.find(head) else { return without_rule(routes, head, trace) };
    trace.say(Stage::Http, Some(&rule.place.key), || says(rule));
    let cors = match rule.route.cors.as_ref().map(|policy| cors::decide(policy, head)) {
        Some(Cors::Preflight(headers)) => {
            trace.say(Stage::Http, Some(&rule.place.key), || {
                format!("{}: a preflight of CORS is answered at once", rule.place.field())
            });
            return Decision { rule: Some(rule), delay: None, action: respond_preflight(headers) };
        }
        Some(Cors::Passes(headers)) => headers,
        None => Vec::new(),
    };
    let delay = delay(&rule.route, dice, trace);
    let action = match aborted(&rule.route, dice) {
        Some(abort) => {
            trace.say(Stage::Http, Some(&rule.place.key), || {
                format!("{}.fault.abort: it is aborted", rule.place.field())
            });
            respond_aborted(abort)
        }
        None => act(rule, head, cors, dice, trace),
    };
    Decision { rule: Some(rule), delay, action }
}

/// The Service itself, where no object with rules is for the sender; else none of their rules matches.
fn without_rule<'r>(routes: &'r Routes, head: &RequestHead<'_>, trace: &mut impl Trace) -> Decision<'r> {
    let action = if routes.is_routed(head) {
        trace.say(Stage::Http, None, || {
            let all: Vec<_> = routes.objects_for(head).map(ToString::to_string).collect();
            format!("no route of {} matches: 404", all.join(", "))
        });
        Action::NotFound
    } else {
        trace.say(Stage::Http, None, || {
            "no VirtualService and no route is for this request: any endpoint of the Service".into()
        });
        Action::Forward(Forward {
            cluster: &routes.own,
            path: None,
            authority: None,
            headers: Vec::new(),
            timeout: None,
            retry: Some(&routes.own_retry),
            mirrors: Vec::new(),
            cors: Vec::new(),
        })
    };
    Decision { rule: None, delay: None, action }
}

fn act<'r>(
    rule: &'r Rule,
    head: &RequestHead<'_>,
    cors: CorsHeaders,
    dice: Dice,
    trace: &mut impl Trace,
) -> Action<'r> {
    let route = &*rule.route;
    match &route.action {
        RouteAction::Forward(targets) => forward(rule, targets, head, cors, dice, trace),
        RouteAction::Redirect(redirect) => {
            let location = location(redirect, head, rule.elements());
            Action::Redirect { status: redirect.status, location, headers: &route.headers }
        }
        RouteAction::Respond(response) => Action::Respond(Respond {
            status: response.status,
            grpc_status: None,
            body: Cow::Borrowed(&response.body),
            headers: Some(&route.headers),
            cors,
            is_fault: false,
        }),
    }
}

fn forward<'r>(
    rule: &'r Rule,
    targets: &'r [Weighted],
    head: &RequestHead<'_>,
    cors: CorsHeaders,
    dice: Dice,
    trace: &mut impl Trace,
) -> Action<'r> {
    let route = &*rule.route;
    let Some(target) = by_weight(targets, |target| target.weight, dice) else {
        trace.say(Stage::Http, Some(&rule.place.key), || {
            format!("{}: no backend has a weight: it is refused", rule.place.field())
        });
        return refused(route, cors);
    };
    if targets.len() > 1 {
        trace.say(Stage::Http, Some(&rule.place.key), || {
            let total: u64 = targets.iter().map(|t| u64::from(t.weight)).sum();
            let all: Vec<_> = targets.iter().map(|t| format!("{} {}/{total}", name(t), t.weight)).collect();
            format!("by weight one of {}: {}", all.join(", "), name(target))
        });
    }
    let cluster = match &target.cluster {
        Ok(cluster) => cluster,
        Err(broken) => {
            trace
                .say(Stage::Http, Some(&rule.place.key), || format!("{}: {broken}: it is refused", rule.place.field()));
            return refused(route, cors);
        }
    };
    let mirrors =
        (0_u16..).zip(&route.mirrors).filter(|(number, (_, share))| hits(*share, dice, Throw::Mirror(*number)));
    let headers = [&target.headers, &route.headers].into_iter().filter(|operations| !operations.is_empty());
    Action::Forward(Forward {
        cluster,
        path: route.rewrite.as_ref().and_then(|rewrite| rewritten(rewrite, rule, head)),
        authority: route.rewrite.as_ref().and_then(|rewrite| rewrite.authority.as_deref()),
        headers: headers.collect(),
        timeout: route.timeout,
        retry: route.retry.as_ref(),
        mirrors: mirrors.map(|(_, (cluster, _))| cluster).collect(),
        cors,
    })
}

/// As the Gateway API says it of a backend that does not exist.
fn refused(route: &Route, cors: CorsHeaders) -> Action<'_> {
    const UNAVAILABLE: u8 = 14;
    let (status, grpc_status) = if route.is_grpc { (200, Some(UNAVAILABLE)) } else { (500, None) };
    let body = Cow::Borrowed(&[][..]);
    Action::Respond(Respond { status, grpc_status, body, headers: Some(&route.headers), cors, is_fault: false })
}

fn name(target: &Weighted) -> String {
    target.cluster.as_ref().map_or_else(ToString::to_string, ToString::to_string)
}

/// One of the targets, as likely as its weight; one of weight 0 never.
pub(super) fn by_weight<T>(targets: &[T], weight: impl Fn(&T) -> u32, dice: Dice) -> Option<&T> {
    let total: u64 = targets.iter().map(|target| u64::from(weight(target))).sum();
    if total == 0 {
        return None;
    }
    let mut left = dice.below(Throw::Target, total);
    targets.iter().find(|target| {
        let weight = u64::from(weight(target));
        let found = left < weight;
        left = left.saturating_sub(weight);
        found
    })
}

fn hits(share: Share, dice: Dice, throw: Throw) -> bool {
    dice.below(throw, u64::from(Share::ALL.0)) < u64::from(share.0)
}

/// The path with its query: a prefix that matched is replaced, a whole path that matched is replaced whole, and where no
/// path was asked for it is the `/` at its beginning.
fn rewritten(rewrite: &HttpRewrite, rule: &Rule, head: &RequestHead<'_>) -> Option<String> {
    use super::TextMatch;
    let path = head.path_alone();
    let new = match rewrite.path.as_ref()? {
        PathRewrite::Elements(new) => return Some(elements::replaced(head, rule.elements(), new)),
        PathRewrite::Full(new) => new.to_string(),
        PathRewrite::Regex(substitution) => substitution.apply(path),
        PathRewrite::Matched(new) => match rule.path_condition().and_then(|condition| condition.uri.as_ref()) {
            Some(TextMatch::Exact(_) | TextMatch::Regex(_)) => new.to_string(),
            Some(TextMatch::Prefix(prefix) | TextMatch::Elements(prefix)) => {
                format!("{new}{}", path.get(prefix.len()..).unwrap_or_default())
            }
            None => format!("{new}{}", path.strip_prefix('/').unwrap_or(path)),
        },
    };
    // What is left of an empty path is the root: a path begins with a slash.
    let slash = if new.starts_with('/') || path == "*" { "" } else { "/" };
    Some(match head.query() {
        Some(query) => format!("{slash}{new}?{query}"),
        None => format!("{slash}{new}"),
    })
}

fn delay(route: &Route, dice: Dice, trace: &mut impl Trace) -> Option<Duration> {
    let delay = route.fault.as_ref()?.delay?;
    hits(delay.share, dice, Throw::Delay).then(|| {
        trace.say(Stage::Http, None, || format!("fault.delay: it waits {:?} first", delay.time));
        delay.time
    })
}

fn aborted(route: &Route, dice: Dice) -> Option<&Abort> {
    let abort = route.fault.as_ref()?.abort.as_ref()?;
    hits(abort.share, dice, Throw::Abort).then_some(abort)
}

/// As Envoy words it.
fn respond_aborted(abort: &Abort) -> Action<'static> {
    const BODY: &[u8] = b"fault filter abort";
    let (status, grpc_status) = match abort.with {
        AbortWith::Status(status) => (status, None),
        AbortWith::Grpc(status) => (200, Some(status)),
    };
    let body = if grpc_status.is_some() { &[][..] } else { BODY };
    let body = Cow::Borrowed(body);
    Action::Respond(Respond { status, grpc_status, body, headers: None, cors: Vec::new(), is_fault: true })
}

const fn respond_preflight(cors: CorsHeaders) -> Action<'static> {
    let body: Cow<'static, [u8]> = Cow::Borrowed(&[]);
    Action::Respond(Respond { status: 200, grpc_status: None, body, headers: None, cors, is_fault: false })
}

fn says(rule: &Rule) -> String {
    let name = rule.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let conditions: Vec<_> = rule.conditions.iter().map(super::words::condition).filter(|c| !c.is_empty()).collect();
    let matches = match conditions.is_empty() {
        true => "every request".to_owned(),
        false => conditions.join(", and "),
    };
    let through =
        rule.through.as_ref().map_or_else(String::new, |place| format!(", delegated to by {} {place}", place.object()));
    format!("{}{name} matches: {matches}{through}", rule.place)
}
