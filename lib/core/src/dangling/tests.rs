//! Remarks, and above all objects without any.

use super::*;
use crate::{
    Few,
    authz::{Condition, Match, Operation, PrincipalMatch, Rule, Source, StringMatch},
    objects::{ContainerPort, Namespace, OwnProxy, Phase},
    testing::{ambient, labels, model, name, peer_authentication, pod, policy, service},
    world::{Action, AuthorizationPolicy, MeshSettings, Scope},
};

fn of(model: &Model, planned: Vec<Pod>, accounts: &[&str]) -> String {
    let remarks = dangling(model, planned, accounts.iter().map(|a| name(a)));
    let line = |Remark { level, finding: f }: Remark| {
        let mark = if level == Level::Notice { "~ " } else { "" };
        format!("{mark}{} {}: {}\n", f.object.name, f.field, f.says)
    };
    remarks.into_iter().map(line).collect()
}

fn said(objects: Vec<Object>) -> String {
    of(&model(objects), Vec::new(), &[])
}

fn namespace(name: &str, mode: &str) -> Object {
    let labels = if mode.is_empty() { Labels::new() } else { labels(&format!("istio.io/dataplane-mode={mode}")) };
    Namespace { labels, ..crate::testing::namespace(name) }.into()
}

fn is<T>(texts: &[&str], parse: impl Fn(&str) -> T) -> Match<T> {
    Match { values: texts.iter().map(|t| parse(t)).collect(), not_values: Vec::new() }
}

fn is_not<T>(texts: &[&str], parse: impl Fn(&str) -> T) -> Match<T> {
    Match { values: Vec::new(), not_values: texts.iter().map(|t| parse(t)).collect() }
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn principals(texts: &[&str]) -> Rule {
    from(Source { principals: is(texts, PrincipalMatch::parse), ..Source::default() })
}

fn namespaces(texts: &[&str]) -> Rule {
    from(Source { namespaces: is(texts, StringMatch::parse), ..Source::default() })
}

fn to(ports: &[u16]) -> Rule {
    let ports = Match { values: ports.to_vec(), not_values: Vec::new() };
    Rule { to: vec![Operation { ports, l7: None }], ..Rule::default() }
}

/// About pods with this label.
fn about(app: &str, policy: AuthorizationPolicy) -> Object {
    AuthorizationPolicy { scope: Scope::Selector(labels(app)), ..policy }.into()
}

#[test]
fn selectors() {
    let wrong = || Object::from(service("default/s app=b 10.96.0.1 80"));
    let pod_a = || Object::from(ambient("default/a", "10.0.0.1", ""));
    assert_eq!(
        said(vec![wrong(), pod_a()]),
        "default/s spec.selector: selects none of the pods of default: connections have no endpoint\n"
    );
    // A deployment will make them; of another namespace nothing is known; nothing at all is known.
    assert_eq!(of(&model([wrong(), pod_a()]), vec![pod("default/b", "")], &[]), "");
    assert_eq!(said(vec![wrong(), pod("other/a", "10.0.0.1").into()]), "");
    assert_eq!(said(vec![wrong()]), "");

    let scoped = |name: &str, action| about("app=b", policy(name, action, vec![Rule::default()]));
    assert_eq!(
        said(vec![scoped("default/p", Action::Allow), pod_a()]),
        "default/p spec.selector: selects none of the pods of default: it has no effect\n"
    );
    assert_eq!(
        said(vec![scoped("default/p", Action::Deny), pod_a()]),
        "default/p spec.selector: selects none of the pods of default: it denies no connection, and the traffic that it should block is allowed\n"
    );
    let root = || scoped("istio-system/p", Action::Allow);
    assert!(said(vec![root(), pod_a()]).contains("of the mesh"));
    assert_eq!(said(vec![root(), pod_a(), ambient("other/b", "10.0.0.2", "").into()]), "");
}

#[test]
fn peer_authentications_of_the_same_pods() {
    let p = |text: &str| Object::from(peer_authentication(text));
    assert_eq!(
        said(vec![p("default/a - STRICT"), p("default/b - PERMISSIVE @5")]),
        "default/a : default/b selects the same pods and takes precedence: this one has no effect\n"
    );
    assert_eq!(said(vec![p("default/a - STRICT"), p("other/b - STRICT"), p("default/c app=a STRICT")]), "");
}

/// The remarks about a policy beside default/a, whose namespace is the only one that is declared.
fn about_caller(action: Action, rule: Rule) -> String {
    let policy = policy("default/p", action, vec![rule]);
    let objects = [namespace("default", "ambient"), pod("default/a", "10.0.0.1").into(), policy.into()];
    of(&model(objects), Vec::new(), &["default/nightly"])
}

#[test]
fn unknown_callers() {
    let principal = |text: &str| about_caller(Action::Allow, principals(&[text]));
    for fits in [
        "cluster.local/ns/default/sa/a",
        "*",
        "*/sa/b",
        "cluster.local/ns/default/*",
        "cluster.local/ns/default/sa/a*",
        "cluster.local/ns/d*",
        "cluster*",
        // its ServiceAccount is there; its pods come at night
        "cluster.local/ns/default/sa/nightly",
        "cluster.local/ns/default/sa/night*",
    ] {
        assert_eq!(principal(fits), "", "{fits}");
    }
    assert_eq!(
        principal("cluster.local/ns/default/sa/b"),
        "default/p spec.rules[0].from[0].source.principals[0]: no pod of default has service account `b`: it allows no connection\n"
    );
    for (text, says) in [
        ("cluster.local/ns/defualt/sa/a", "no namespace `defualt` is known"),
        ("cluster.local/ns/defualt/*", "no namespace `defualt` is known"),
        ("cluster.local/ns/defualt/sa/a*", "no namespace `defualt` is known"),
        ("cluster.local/ns/default/sa/b*", "no pod of default has a service account `b*`"),
        ("other.org/ns/default/sa/a", "names another trust domain than cluster.local"),
        ("other.org/*", "names another trust domain than cluster.local"),
    ] {
        assert!(principal(text).contains(says), "{text}: {}", principal(text));
    }
    let namespace = |text: &str| about_caller(Action::Allow, namespaces(&[text]));
    for fits in ["default", "*", "def*", "*ault"] {
        assert_eq!(namespace(fits), "", "{fits}");
    }
    assert!(namespace("defualt").contains("no namespace `defualt` is known: it allows no connection"));
    assert!(namespace("defu*").contains("no known namespace has such a name: it allows no connection"));
}

#[test]
fn effect_on_the_policy() {
    let not = |action| {
        let namespaces = is_not(&["defualt"], StringMatch::parse);
        let principals = is(&["*"], PrincipalMatch::parse);
        about_caller(action, from(Source { namespaces, principals, ..Source::default() }))
    };
    assert!(about_caller(Action::Deny, namespaces(&["defualt"])).contains("it denies no connection, and the traffic"));
    assert!(
        not(Action::Allow)
            .contains("source.notNamespaces[0]: no namespace `defualt` is known: it keeps no connection out")
    );
    assert!(not(Action::Deny).contains("it exempts no connection"));
}

#[test]
fn other_namespaces_may_be_in_other_files() {
    let p = policy("default/p", Action::Deny, vec![principals(&["cluster.local/ns/x/sa/y"]), namespaces(&["x", "x*"])]);
    assert_eq!(said(vec![p.into(), ambient("default/a", "10.0.0.1", "").into()]), "");
}

#[test]
fn cluster_local_stands_for_the_trust_domain() {
    let settings = MeshSettings { trust_domain: "acme.example".parse().unwrap(), ..MeshSettings::default() };
    let rule = principals(&["cluster.local/ns/default/sa/a", "acme.example/ns/default/sa/a"]);
    let objects = [ambient("default/a", "10.0.0.1", "").into(), policy("default/p", Action::Allow, vec![rule]).into()];
    let mut model = Model::empty(settings);
    model.apply(&objects.into_iter().collect());
    assert_eq!(
        of(&model, Vec::new(), &[]),
        "~ default/p spec.rules[0].from[0].source.principals[0]: `cluster.local` stands for the mesh's own trust domain, acme.example\n"
    );
}

#[test]
fn policies_of_undeclared_namespaces() {
    let all = |more: Object| said(vec![namespace("shop", "ambient"), pod("shop/till", "10.0.0.1").into(), more]);
    let deny = |name| Object::from(policy(name, Action::Deny, vec![Rule::default()]));
    assert_eq!(
        all(deny("default/shut")),
        "default/shut metadata.namespace: no namespace `default` is declared, and no pod is in it: it denies no connection, \
         and the traffic that it should block is allowed\n"
    );
    assert!(all(peer_authentication("default/s - STRICT").into()).contains("no namespace `default` is declared"));
    assert_eq!(all(deny("shop/shut")), "");
    assert_eq!(all(deny("istio-system/shut")), "", "the root namespace is for policies alone");
    // another directory's files declare namespaces
    assert_eq!(said(vec![ambient("shop/till", "10.0.0.1", "").into(), deny("default/shut")]), "");
}

#[test]
fn policies_about_pods_outside_the_mesh() {
    let deny = || about("app=x", policy("sys/shut", Action::Deny, vec![Rule::default()]));
    let check = |change: fn(&mut Pod), strict: &str, denies: &str| {
        let mut w = ambient("sys/x", "10.0.0.1", "");
        change(&mut w);
        let strict_policy = peer_authentication("sys/strict app=x STRICT");
        let got = |policy: Object| said(vec![policy, Object::from(w.clone())]);
        let says = |got: &str, field: &str| got.lines().filter(|l| l.starts_with(field)).collect::<String>();
        let (s, d) = (got(strict_policy.into()), got(deny()));
        let (s, d) = (says(&s, "sys/strict"), says(&d, "sys/shut"));
        assert!(s.contains(strict) && s.is_empty() == strict.is_empty(), "{s}");
        assert!(d.contains(denies) && d.is_empty() == denies.is_empty(), "{d}");
    };
    check(|_| {}, "", "");
    check(|w| w.addresses = Few::new(), "", "");
    check(
        |w| w.host_network = true,
        "no plaintext is refused",
        "selects only pods of the host network, where no policy is enforced",
    );
    check(
        |w| drop(w.labels.remove("istio.io/dataplane-mode")),
        "selects only pods outside the mesh",
        "outside the mesh",
    );
    // its sidecar judges, and refuses what the mesh sends it
    check(|w| w.proxy = Some(OwnProxy::Sidecar), "callers from the mesh arrive in plaintext there", "");
}

/// The remarks about the ports of a policy about default/a, which declares 8080 behind a Service's 80.
fn about_ports(action: Action, ports: &[u16], change: impl FnOnce(&mut Pod)) -> String {
    let mut a = ambient("default/a", "10.0.0.1", "");
    a.ports = vec![ContainerPort { name: "http".into(), port: 8080 }, ContainerPort { name: "".into(), port: 9090 }];
    change(&mut a);
    let service = service("default/s app=a 10.96.0.1 80=http 81=7070");
    said(vec![a.into(), service.into(), about("app=a", policy("default/p", action, vec![to(ports)]))])
}

#[test]
fn ports_of_services_are_no_ports_of_pods() {
    assert_eq!(about_ports(Action::Deny, &[8080, 9090, 7070], |_| {}), "");
    assert_eq!(
        about_ports(Action::Deny, &[8080, 80], |_| {}),
        "default/p spec.rules[0].to[0].operation.ports[1]: 80 is a port of Service default/s, whose target port is 8080: \
         policies match target ports, and it denies no connection, and the traffic that it should block is allowed; write 8080\n"
    );
    assert!(about_ports(Action::Allow, &[81], |_| {}).contains("it allows no connection; write 7070"));
    // a pod may listen where it says nothing about
    assert_eq!(
        about_ports(Action::Deny, &[5432], |_| {}),
        "~ default/p spec.rules[0].to[0].operation.ports[0]: no selected pod declares port 5432; declared: 8080, 9090. If \
         none listens there, it denies no connection, and the traffic that it should block is allowed\n"
    );
    assert_eq!(about_ports(Action::Deny, &[5432], |w| w.ports.clear()), "");
}

#[test]
fn rules_that_allow_plaintext() {
    let check = |rule: Rule, mode: &str, expect: &str| {
        let objects = vec![
            ambient("default/a", "10.0.0.1", "").into(),
            peer_authentication(&format!("default/m - {mode}")).into(),
            policy("default/p", Action::Allow, vec![rule.clone()]).into(),
        ];
        let got = said(objects);
        let field = got.split(':').next().unwrap_or_default();
        assert_eq!(field, expect, "{rule:?} {mode}: {got}");
        assert!(expect.is_empty() || got.contains("plaintext"), "{got}");
    };
    let not = || Source { namespaces: is_not(&["default"], StringMatch::parse), ..Source::default() };
    let at = "default/p spec.rules[0].from[0].source";
    check(from(not()), "PERMISSIVE", at);
    check(from(not()), "STRICT", "");
    check(from(Source { principals: is(&["*"], PrincipalMatch::parse), ..not() }), "PERMISSIVE", "");
    check(from(Source { ip_blocks: is(&["10.0.0.0/8"], |t| t.parse().unwrap()), ..not() }), "PERMISSIVE", "");
    let when = |m| vec![Condition::SourcePrincipal(m)];
    check(Rule { when: when(is(&["*"], PrincipalMatch::parse)), ..from(not()) }, "PERMISSIVE", "");
    let never = is_not(&["cluster.local/ns/default/*"], PrincipalMatch::parse);
    check(Rule { when: when(never), ..Rule::default() }, "PERMISSIVE", "default/p spec.rules[0].when");
    check(Rule::default(), "PERMISSIVE", "");
    check(to(&[80]), "PERMISSIVE", "");
}

#[test]
fn pods_in_and_out_of_the_mesh_for_odd_reasons() {
    let check = |mode: &str, change: fn(&mut Pod), expect: &str| {
        let mut w = pod("edge/w", "10.0.0.1");
        change(&mut w);
        let got = said(vec![namespace("edge", mode), w.into()]);
        assert!(got.contains(expect) && got.is_empty() == expect.is_empty(), "{got}");
    };
    let opt_out = |w: &mut Pod| w.labels.extend(labels("sidecar.istio.io/inject=false"));
    check("ambient", |_| {}, "");
    check("ambient", opt_out, "metadata.labels[sidecar.istio.io/inject]: keeps the pod out of the mesh");
    check(
        "ambient",
        |w| w.annotations = labels("sidecar.istio.io/inject=false"),
        "metadata.annotations[sidecar.istio.io/inject]",
    );
    check("", opt_out, "");
    check("ambient", |w| w.host_network = true, "");
    let asks = |w: &mut Pod| w.labels.extend(labels("istio.io/dataplane-mode=ambient"));
    check("", asks, "");
    check(
        "",
        |w| *w = Pod { host_network: true, ..ambient("edge/w", "10.0.0.1", "") },
        "despite this label: it uses the host network",
    );
    check(
        "",
        |w| *w = Pod { proxy: Some(OwnProxy::Sidecar), ..ambient("edge/w", "10.0.0.1", "") },
        "it has an Istio sidecar",
    );
    check(
        "ambient",
        |w| w.proxy = Some(OwnProxy::Gateway),
        "~ edge/w : the pod is not in the mesh, although namespace edge enrols its pods: it is an Istio gateway",
    );
    check(
        "",
        |w| *w = Pod { proxy: Some(OwnProxy::Gateway), ..ambient("edge/w", "10.0.0.1", "") },
        "~ edge/w metadata.labels[istio.io/dataplane-mode]: an Istio gateway",
    );
    // another pod has its address
    let ended = Pod { phase: Phase::Terminal, ..pod("edge/w", "10.0.0.1") };
    assert!(
        said(vec![ended.clone().into(), pod("edge/x", "10.0.0.1").into()]).contains("10.0.0.1 now belongs to edge/x")
    );
    assert_eq!(said(vec![ended.into()]), "");
}

#[test]
fn entries_in_plaintext() {
    let check = |change: fn(&mut Service), mode: &str, told: bool| {
        let mut s = service("default/s app=a 10.96.0.1 80=8080");
        change(&mut s);
        let a = ambient("default/a", "10.0.0.1", "");
        let got = said(vec![a.into(), s.into(), peer_authentication(&format!("default/m - {mode}")).into()]);
        assert_eq!(got.contains("externalIPs, load balancer or node ports arrive in plaintext"), told, "{got}");
        assert_eq!(got.is_empty(), !told, "{got}");
    };
    check(|s| s.external.push([198, 51, 100, 7].into()), "STRICT", true);
    check(|s| s.node_ports = [(80, 30080)].into(), "STRICT", true);
    check(|s| s.node_ports = [(80, 30080)].into(), "PERMISSIVE", false);
    check(|_| {}, "STRICT", false);
}
