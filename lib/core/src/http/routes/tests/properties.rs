//! The compiled rules answer as the objects read, one after the other, do.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    objects::{gateway_route, rule, to, virtual_service},
    *,
};
use crate::labels::Labels;

fn some_text() -> impl Strategy<Value = TextMatch> {
    let text = || "[/abA]{0,4}";
    prop_oneof![
        3 => text().prop_map(|t| TextMatch::Exact(t.into())),
        3 => text().prop_map(|t| TextMatch::Prefix(t.into())),
        1 => select(vec!["/.*", "/[ab]+", ".*", "(?i)/a.*"]).prop_map(|t| TextMatch::Regex(Pattern::parse(t).unwrap())),
    ]
}

fn some_value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![Just(ValueMatch::Present), "[ab]{0,2}".prop_map(|t| ValueMatch::Value(TextMatch::Prefix(t.into())))]
}

fn some_match() -> impl Strategy<Value = HttpMatch> {
    let values = || prop::collection::btree_map(select(vec!["x", "y"]).prop_map(Into::into), some_value(), 0..2);
    let method = prop::option::weighted(0.3, select(vec!["GET", "POST"]).prop_map(|m| TextMatch::Exact(m.into())));
    let place = (prop::option::weighted(0.2, select(vec![80_u16, 81])), prop::bool::weighted(0.1));
    let source = (prop::option::weighted(0.2, select(vec!["front", "back"])), prop::bool::weighted(0.2));
    (prop::option::weighted(0.8, some_text()), any::<bool>(), method, values(), values(), values(), place, source)
        .prop_map(
            |(
                uri,
                ignore_uri_case,
                method,
                headers,
                without_headers,
                query,
                (port, gateway),
                (namespace, labelled),
            )| HttpMatch {
                uri,
                ignore_uri_case,
                method,
                headers,
                without_headers,
                query,
                port,
                gateways: gateway.then(|| "front".into()).into_iter().collect(),
                source_namespace: namespace.map(Into::into),
                source_labels: if labelled { labels("app=web") } else { Labels::new() },
                ..HttpMatch::default()
            },
        )
}

/// Each with a subset of its own as target: the answer names the route.
fn some_routes() -> impl Strategy<Value = Vec<HttpRoute>> {
    vec(vec(some_match(), 0..3), 1..12).prop_map(|all| {
        let number = |(i, matches)| rule(matches, to(&format!("cart/r{i}")));
        all.into_iter().enumerate().map(number).collect()
    })
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    namespace: Option<&'static str>,
    labels: Option<Labels>,
}

fn some_request() -> impl Strategy<Value = Asked> {
    let headers = vec((select(vec!["x", "y"]), "[ab]{0,2}"), 0..3);
    let query = select(vec!["", "?x", "?x=a&y=b", "?y=", "?x=b&x=a"]);
    let of = prop::option::of(select(vec!["", "app=web"]).prop_map(labels));
    let path = ("[/abA]{0,5}", query).prop_map(|(path, query)| format!("/{path}{query}"));
    (select(vec!["GET", "POST"]), path, headers, select(vec![None, Some("front"), Some("back")]), of)
        .prop_map(|(method, path, headers, namespace, labels)| Asked { method, path, headers, namespace, labels })
}

/// The words of the API, read as they stand: the first route of which one match holds.
fn naive(routes: &[HttpRoute], asked: &Asked) -> Option<usize> {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let header = |name: &str| {
        let all: Vec<_> = asked.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect();
        (!all.is_empty()).then(|| all.join(","))
    };
    let parameter = |name: &str| {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
    };
    let text = |m: &TextMatch, value: &str, ignore: bool| match m {
        TextMatch::Exact(t) if ignore => value.to_ascii_lowercase() == t.to_ascii_lowercase(),
        TextMatch::Prefix(t) if ignore => value.to_ascii_lowercase().starts_with(&t.to_ascii_lowercase()),
        TextMatch::Exact(t) => value == &**t,
        TextMatch::Prefix(t) => value.starts_with(&**t),
        TextMatch::Regex(p) => p.matches(value.as_bytes()),
        TextMatch::Elements(_) => panic!("a VirtualService has none"),
    };
    let value = |m: &ValueMatch, value: Option<String>| match (m, value) {
        (_, None) => false,
        (ValueMatch::Present, Some(_)) => true,
        (ValueMatch::Value(t), Some(value)) => text(t, &value, false),
    };
    let holds = |m: &HttpMatch| {
        m.uri.as_ref().is_none_or(|uri| text(uri, path, m.ignore_uri_case))
            && m.method.as_ref().is_none_or(|method| text(method, asked.method, false))
            && m.headers.iter().all(|(name, v)| value(v, header(name)))
            && m.without_headers.iter().all(|(name, v)| !value(v, header(name)))
            && m.query.iter().all(|(name, v)| value(v, parameter(name)))
            && m.port.is_none_or(|port| port == 80)
            && m.gateways.is_empty()
            && m.source_namespace.as_deref().is_none_or(|ns| asked.namespace == Some(ns))
            && m.source_labels.iter().all(|(k, v)| asked.labels.as_ref().is_some_and(|l| l.get(k) == Some(v)))
    };
    routes.iter().position(|route| route.matches.is_empty() || route.matches.iter().any(holds))
}

proptest! {
    #[test]
    fn compiled_rules_answer_as_the_object_reads(routes in some_routes(), asked in vec(some_request(), 1..12)) {
        let (compiled, _) = compiled(vec![virtual_service("shop/v cart", routes.clone()).into()]);
        for one in asked {
            let headers: Vec<(&str, &[u8])> = one.headers.iter().map(|(name, v)| (*name, v.as_bytes())).collect();
            let source = Source { namespace: one.namespace, labels: one.labels.as_ref() };
            let head = RequestHead {
                method: one.method, scheme: "http", authority: "cart", path: &one.path, headers: &headers, port: 80, source,
            };
            let got = match route(&compiled.routes, &head, Dice(0), &mut ()).action {
                Action::Forward(f) => f.cluster.subset.as_deref().map(str::to_owned),
                Action::NotFound => None,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(got, naive(&routes, &one).map(|i| format!("r{i}")), "{:?}", one);
        }
    }
}

/// Each with a backend port of its own: the answer names the rule.
fn some_rules() -> impl Strategy<Value = Vec<RouteRule>> {
    let uri = prop_oneof![
        3 => "[/ab]{0,4}".prop_map(|t| TextMatch::Exact(format!("/{t}").into())),
        4 => "(/[ab]{1,2}){0,2}".prop_map(|t| TextMatch::Elements(if t.is_empty() { "/".into() } else { t.into() })),
        1 => select(vec!["/.*", "/[ab]+"]).prop_map(|t| TextMatch::Regex(Pattern::parse(t).unwrap())),
    ];
    let values = || {
        let value = "[ab]{0,2}".prop_map(|t| ValueMatch::Value(TextMatch::Exact(t.into())));
        prop::collection::btree_map(select(vec!["x", "y"]).prop_map(Into::into), value, 0..2)
    };
    let method = prop::option::weighted(0.3, select(vec!["GET", "POST"]).prop_map(|m| TextMatch::Exact(m.into())));
    let asked =
        (prop::option::weighted(0.9, uri), method, values(), values()).prop_map(|(uri, method, headers, query)| {
            RouteMatch { condition: HttpMatch { uri, method, headers, query, ..HttpMatch::default() }, method: None }
        });
    vec(vec(asked, 0..3), 1..6)
        .prop_map(|all| all.into_iter().map(|matches| RouteRule { matches, ..RouteRule::default() }).collect())
}

/// The words of the Gateway API, read as they stand: every match of every route that holds, and of these the one to which it
/// gives precedence. Answers route and rule.
fn naive_of_gateway<'r>(routes: &'r [GatewayRoute], asked: &Asked) -> Option<(&'r str, usize)> {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let holds = |m: &HttpMatch| {
        let uri = match &m.uri {
            None => true,
            Some(TextMatch::Exact(t)) => path == &**t,
            Some(TextMatch::Elements(t)) => {
                let first = t.split('/').filter(|e| !e.is_empty());
                let mut of_path = path.split('/').skip(1);
                first.into_iter().all(|element| of_path.next() == Some(element))
            }
            Some(TextMatch::Regex(p)) => p.matches(path.as_bytes()),
            Some(TextMatch::Prefix(_)) => panic!("a route has none"),
        };
        let text = |value: &ValueMatch, got: Option<String>| match value {
            ValueMatch::Value(TextMatch::Exact(t)) => got.as_deref() == Some(&**t),
            other => panic!("{other:?}"),
        };
        let header = |name: &str| {
            let all: Vec<_> = asked.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect();
            (!all.is_empty()).then(|| all.join(","))
        };
        let parameter = |name: &str| {
            let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
        };
        let method = |m: &TextMatch| matches!(m, TextMatch::Exact(t) if **t == *asked.method);
        uri && m.method.as_ref().is_none_or(method)
            && m.headers.iter().all(|(name, v)| text(v, header(name)))
            && m.query.iter().all(|(name, v)| text(v, parameter(name)))
    };
    let mut best = None;
    for route in routes {
        for (i, rule) in route.rules.iter().enumerate() {
            let any = [RouteMatch::default()];
            let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
            for m in matches.iter().map(|m| &m.condition).filter(|m| holds(m)) {
                let (is_exact, length) = match &m.uri {
                    Some(TextMatch::Exact(t)) => (true, t.len()),
                    Some(TextMatch::Elements(t)) if t.len() > 1 => (false, 1000 + t.len()),
                    Some(TextMatch::Regex(p)) => (false, 100 + p.as_str().len()),
                    _ => (false, 1),
                };
                let counts = (m.method.is_some(), m.headers.len(), m.query.len());
                let order = (std::cmp::Reverse((is_exact, length, counts)), route.created, &route.name, i);
                if best.as_ref().is_none_or(|(known, _)| order < *known) {
                    best = Some((order, (route.name.name(), i)));
                }
            }
        }
    }
    best.map(|(_, found)| found)
}

proptest! {
    #[test]
    fn compiled_routes_answer_as_the_objects_read(
        all in vec((some_rules(), 0_i64..3), 1..4),
        asked in vec(some_request(), 1..12),
    ) {
        let route = |(n, (rules, created)): (usize, (Vec<RouteRule>, i64))| {
            gateway_route(&format!("shop/r{n} HTTP cart @{created}"), rules)
        };
        let routes: Vec<_> = all.into_iter().enumerate().map(route).collect();
        let (compiled, _) = compiled(routes.iter().cloned().map(Into::into).collect());
        for one in asked {
            let headers: Vec<(&str, &[u8])> = one.headers.iter().map(|(name, v)| (*name, v.as_bytes())).collect();
            let source = Source { namespace: one.namespace, labels: one.labels.as_ref() };
            let head = RequestHead {
                method: one.method, scheme: "http", authority: "cart", path: &one.path, headers: &headers, port: 80, source,
            };
            let got = route_of(&compiled.routes, &head);
            prop_assert_eq!(got, naive_of_gateway(&routes, &one).map(|(name, i)| (name.to_owned(), i)), "{:?}", one);
        }
    }
}

fn route_of(routes: &Routes, head: &RequestHead<'_>) -> Option<(String, usize)> {
    let rule = route(routes, head, Dice(0), &mut ()).rule?;
    Some((rule.place.key.name.name().to_owned(), rule.place.route))
}
