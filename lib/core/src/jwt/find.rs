//! Which rules count for a request, and where its tokens stand.

use std::sync::Arc;

use crate::{
    ObjectName,
    authz::WaypointTargets,
    http::RequestHead,
    labels::{Labels, selects},
    objects::{JwtRule, RequestAuthentication, TokenSource},
    resolve::Sources,
    world::{MeshSettings, PolicyTarget, Scope, TargetKind},
};

/// The usual places (RFC 6750, 2.1 and 2.3), of a rule that names none.
const BEARER: (&str, &str) = ("authorization", "Bearer ");
const PARAM: &str = "access_token";

/// The rules of RequestAuthentications that name the Service, the Gateway or its GatewayClass, by name of the object.
#[must_use]
pub fn rules_at_waypoint<'s>(
    sources: &'s Sources,
    settings: &MeshSettings,
    targets: &WaypointTargets<'_>,
) -> Vec<&'s JwtRule> {
    let is_named = |policy: &RequestAuthentication, target: &PolicyTarget| {
        let namespace = policy.name.namespace();
        let is = |name: &ObjectName| name.namespace() == namespace && name.name() == &*target.name;
        match target.kind {
            TargetKind::Service => targets.service.is_some_and(is),
            TargetKind::Gateway => is(targets.gateway),
            TargetKind::GatewayClass => namespace == &*settings.root_namespace && *target.name == *targets.class,
            TargetKind::ServiceEntry => false,
        }
    };
    rules(sources, |policy| match &policy.scope {
        Scope::Targets(named) => named.iter().any(|target| is_named(policy, target)),
        Scope::Namespace | Scope::Selector(_) => false,
    })
}

/// The rules of RequestAuthentications that select a workload by its labels, its namespace or the mesh.
#[must_use]
pub fn rules_at_endpoint<'s>(
    sources: &'s Sources,
    settings: &MeshSettings,
    namespace: &str,
    labels: &Labels,
) -> Vec<&'s JwtRule> {
    rules(sources, |policy| {
        let of = policy.name.namespace();
        let is_in_reach = of == namespace || of == &*settings.root_namespace;
        match &policy.scope {
            Scope::Namespace => is_in_reach,
            Scope::Selector(selector) => is_in_reach && selects(selector, labels),
            Scope::Targets(_) => false,
        }
    })
}

/// The rules of RequestAuthentications that select workloads, whichever.
#[must_use]
pub fn rules_that_select(sources: &Sources) -> Vec<&JwtRule> {
    rules(sources, |policy| !matches!(policy.scope, Scope::Targets(_)))
}

fn rules(sources: &Sources, counts: impl Fn(&RequestAuthentication) -> bool) -> Vec<&JwtRule> {
    sources.request_authentications().filter(|policy| counts(policy)).flat_map(|policy| &policy.rules).collect()
}

/// The place of a token in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// A header.
    Header(Arc<str>),
    /// A parameter of the query.
    Param(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

/// A token in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken<'h> {
    /// Its text, which nothing has read yet.
    pub text: &'h str,
    /// Where it stands.
    pub place: TokenPlace,
    /// The rules that look there, by their position.
    pub rules: Vec<usize>,
}

/// The tokens of a request that some rule looks for, each once, in the order of the rules and of their places.
#[must_use]
pub fn find<'h>(rules: &[&JwtRule], head: &RequestHead<'h>) -> Vec<FoundToken<'h>> {
    let mut all: Vec<FoundToken<'h>> = Vec::new();
    let mut add = |rule: usize, text: &'h str, place: TokenPlace| match all
        .iter_mut()
        .find(|known| known.text == text && known.place == place)
    {
        Some(known) if known.rules.contains(&rule) => {}
        Some(known) => known.rules.push(rule),
        None => all.push(FoundToken { text, place, rules: vec![rule] }),
    };
    for (at, rule) in rules.iter().enumerate() {
        if rule.places.is_empty() {
            in_header(head, BEARER.0, BEARER.1).for_each(|text| add(at, text, TokenPlace::Header(BEARER.0.into())));
            head.parameter(PARAM).into_iter().for_each(|text| add(at, text, TokenPlace::Param(PARAM.into())));
        }
        for place in &rule.places {
            match place {
                TokenSource::Header { name, prefix } => {
                    in_header(head, name, prefix).for_each(|text| add(at, text, TokenPlace::Header(Arc::clone(name))))
                }
                TokenSource::Param(name) => {
                    let found = head.parameter(name);
                    found.into_iter().for_each(|text| add(at, text, TokenPlace::Param(Arc::clone(name))));
                }
                TokenSource::Cookie(name) => {
                    in_cookies(head, name).for_each(|text| add(at, text, TokenPlace::Cookie(Arc::clone(name))));
                }
            }
        }
    }
    all
}

/// Where tokens stand that some rule which looks there keeps from the application, be they good or not: what is written down
/// about the request shows none of them.
#[must_use]
pub fn withheld(rules: &[&JwtRule], head: &RequestHead<'_>) -> Vec<TokenPlace> {
    let is_kept = |at: &usize| rules.get(*at).is_some_and(|rule| !rule.forward_original_token);
    find(rules, head).into_iter().filter(|found| found.rules.iter().any(is_kept)).map(|found| found.place).collect()
}

/// The rule for a token, by the issuer that it names: of those that look where it stands. None: no rule knows it.
#[must_use]
pub fn rule_of(rules: &[&JwtRule], found: &FoundToken<'_>, issuer: &str) -> Option<usize> {
    found.rules.iter().copied().find(|at| rules.get(*at).is_some_and(|rule| &*rule.issuer == issuer))
}

fn texts<'h>(head: &RequestHead<'h>, name: &str) -> impl Iterator<Item = &'h str> {
    let values = head.headers.iter().filter(move |(known, _)| *known == name);
    values.filter_map(|(_, value)| std::str::from_utf8(value).ok())
}

/// A scheme has no case (RFC 9110, 11.1).
fn in_header<'h>(head: &RequestHead<'h>, name: &str, prefix: &str) -> impl Iterator<Item = &'h str> {
    texts(head, name).filter_map(move |text| {
        let (start, token) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(token.trim()).filter(|token| !token.is_empty())
    })
}

/// RFC 6265, 4.2.1.
fn in_cookies<'h>(head: &RequestHead<'h>, name: &str) -> impl Iterator<Item = &'h str> {
    let pairs = texts(head, "cookie").flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(known, value)| *known == name && !value.is_empty()).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::Source,
        objects::Object,
        testing::{labels, model, name, request_authentication},
    };

    fn rule(issuer: &str, places: Vec<TokenSource>) -> JwtRule {
        let of = request_authentication(&format!("default/x - {issuer}"));
        JwtRule { places, ..of.rules[0].clone() }
    }

    #[test]
    fn places_of_tokens() {
        let header = |name: &str, prefix: &str| TokenSource::Header { name: name.into(), prefix: prefix.into() };
        let (usual, cookie) = (rule("a", vec![]), rule("b", vec![TokenSource::Cookie("t".into())]));
        let own =
            rule("c", vec![header("x-jwt", ""), header("authorization", "Token "), TokenSource::Param("t".into())]);
        let check = |rules: &[&JwtRule], path: &str, headers: &[(&str, &str)], expect: &[&str]| {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let (method, scheme, authority) = ("GET", "http", "a");
            let source = Source::default();
            let head = RequestHead { method, scheme, authority, path, headers: &headers, port: 80, source };
            let found: Vec<_> =
                find(rules, &head).iter().map(|f| format!("{} {:?} {:?}", f.text, f.place, f.rules)).collect();
            assert_eq!(found, expect, "{path} {headers:?}");
        };
        check(&[&usual], "/", &[], &[]);
        check(&[&usual], "/", &[("authorization", "bearer  a.b.c")], &["a.b.c Header(\"authorization\") [0]"]);
        check(&[&usual], "/", &[("authorization", "Basic x"), ("cookie", "t=a")], &[]);
        check(&[&usual], "/", &[("authorization", "Bearer ")], &[]);
        check(&[&usual], "/?access_token=a", &[], &["a Param(\"access_token\") [0]"]);
        // a header that is there twice: both are found, and both have to be good
        check(
            &[&usual],
            "/",
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            &["a Header(\"authorization\") [0]", "b Header(\"authorization\") [0]"],
        );
        check(&[&own], "/", &[("authorization", "Bearer a")], &[]);
        check(
            &[&own],
            "/?t=1",
            &[("authorization", "Token 2"), ("x-jwt", "3")],
            &["3 Header(\"x-jwt\") [0]", "2 Header(\"authorization\") [0]", "1 Param(\"t\") [0]"],
        );
        check(&[&cookie], "/", &[("cookie", "a=b; t=\"x\"; tt=y")], &["x Cookie(\"t\") [0]"]);
        check(
            &[&usual, &cookie, &usual],
            "/",
            &[("cookie", "t=1"), ("authorization", "Bearer 2")],
            &["2 Header(\"authorization\") [0, 2]", "1 Cookie(\"t\") [1]"],
        );
    }

    #[test]
    fn tokens_that_are_kept_from_the_application() {
        let places = || vec![TokenSource::Param("t".into()), TokenSource::Cookie("s".into())];
        let (keeps, passes) = (rule("a", places()), JwtRule { forward_original_token: true, ..rule("b", places()) });
        let check = |rules: &[&JwtRule], path: &str, expect: &[TokenPlace]| {
            let headers: [(&str, &[u8]); 1] = [("cookie", b"s=no token")];
            let (method, scheme, authority) = ("GET", "http", "a");
            let source = Source::default();
            let head = RequestHead { method, scheme, authority, path, headers: &headers, port: 80, source };
            assert_eq!(withheld(rules, &head), expect, "{path}");
        };
        let (param, cookie) = (TokenPlace::Param("t".into()), TokenPlace::Cookie("s".into()));
        check(&[&keeps], "/?t=x", &[param.clone(), cookie.clone()]);
        check(&[&keeps], "/?u=x", std::slice::from_ref(&cookie));
        check(&[&passes], "/?t=x", &[]);
        check(&[&passes, &keeps], "/?t=x", &[param, cookie]);
        check(&[], "/?t=x", &[]);
    }

    #[test]
    fn the_rule_of_an_issuer() {
        let (a, b) = (rule("a", vec![]), rule("b", vec![]));
        let found =
            |rules: &[usize]| FoundToken { text: "x", place: TokenPlace::Param("t".into()), rules: rules.into() };
        assert_eq!(rule_of(&[&a, &b, &a], &found(&[0, 1, 2]), "a"), Some(0));
        assert_eq!(rule_of(&[&a, &b], &found(&[0, 1]), "b"), Some(1));
        assert_eq!(rule_of(&[&a, &b], &found(&[0]), "b"), None);
        assert_eq!(rule_of(&[&a, &b], &found(&[0, 1]), "c"), None);
    }

    #[test]
    fn rules_that_count() {
        let targets = |kind, target: &str| Scope::Targets(vec![PolicyTarget::new(kind, target)]);
        let of =
            |text: &str, scope: Scope| Object::from(RequestAuthentication { scope, ..request_authentication(text) });
        let model = model([
            of("default/s - service", targets(TargetKind::Service, "a")),
            of("other/s - elsewhere", targets(TargetKind::Service, "a")),
            of("default/g - gateway", targets(TargetKind::Gateway, "w")),
            of("istio-system/c - class", targets(TargetKind::GatewayClass, "istio-waypoint")),
            of("default/c - no-class", targets(TargetKind::GatewayClass, "istio-waypoint")),
            request_authentication("default/n - namespace").into(),
            request_authentication("other/n - other").into(),
            request_authentication("default/w app=a workload").into(),
            request_authentication("default/v app=b no-workload").into(),
            request_authentication("istio-system/m - mesh").into(),
            request_authentication("istio-system/w app=a anywhere").into(),
        ]);
        let issuers = |rules: Vec<&JwtRule>| rules.iter().map(|rule| rule.issuer.to_string()).collect::<Vec<_>>();
        let (service, gateway) = (name("default/a"), name("default/w"));
        let at = WaypointTargets { service: Some(&service), gateway: &gateway, class: "istio-waypoint" };
        let settings = MeshSettings::default();
        let at_waypoint = rules_at_waypoint(model.sources(), &settings, &at);
        assert_eq!(issuers(at_waypoint), ["gateway", "service", "class"]);
        let at_endpoint = rules_at_endpoint(model.sources(), &settings, "default", &labels("app=a"));
        assert_eq!(issuers(at_endpoint), ["namespace", "workload", "mesh", "anywhere"]);
        let all = issuers(rules_that_select(model.sources()));
        assert_eq!(all, ["namespace", "no-workload", "workload", "mesh", "anywhere", "other"]);
    }
}
