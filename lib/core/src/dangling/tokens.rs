//! RequestAuthentications that check no token, policies that ask for a token which nothing checks, and targets of
//! both that do not exist.

use crate::{
    ObjectName,
    dangling::{Known, Level, Say},
    objects::RequestAuthentication,
    world::{AuthorizationPolicy, PolicyTarget, Scope, TargetKind},
};

impl Known<'_> {
    pub(super) fn request_authentication(&self, r: &RequestAuthentication, say: Say<'_>) {
        let namespace = r.name.namespace();
        match &r.scope {
            Scope::Selector(selector) if self.selects_nothing(namespace, selector) => {
                let of = if namespace == self.root() { "of the mesh".to_owned() } else { format!("of {namespace}") };
                let says = format!("selects none of the pods {of}: it checks no token (IST0127)");
                say(Level::Warning, "spec.selector", says);
            }
            Scope::Targets(targets) => self.targets_of_policy(namespace, targets, "no token is checked for it", say),
            Scope::Namespace | Scope::Selector(_) => {}
        }
    }

    /// Objects of the policy's namespace that it names and that are not there.
    pub(super) fn targets_of_policy(&self, namespace: &str, targets: &[PolicyTarget], effect: &str, say: Say<'_>) {
        let knows_services = self.model.sources().services().any(|s| s.name.namespace() == namespace);
        for (i, target) in targets.iter().enumerate() {
            let at = format!("spec.targetRefs[{i}]");
            let is_there = || self.model.sources().service(&ObjectName::new(namespace, &target.name)).is_some();
            match target.kind {
                TargetKind::Service if knows_services && !is_there() => {
                    let says = format!("Service {namespace}/{} does not exist: {effect} (IST0101)", target.name);
                    say(Level::Warning, &at, says);
                }
                TargetKind::GatewayClass if namespace != self.root() => {
                    let says = format!(
                        "a GatewayClass is named in the root namespace alone, {}: here it has no effect",
                        self.root()
                    );
                    say(Level::Warning, &at, says);
                }
                TargetKind::Service | TargetKind::ServiceEntry | TargetKind::Gateway | TargetKind::GatewayClass => {}
            }
        }
    }

    /// Only a RequestAuthentication has tokens checked: without one no request has a principal or a claim.
    pub(super) fn unchecked_tokens(&self, p: &AuthorizationPolicy, say: Say<'_>) {
        let (namespace, root) = (p.name.namespace(), self.root());
        let is_in_reach = |of: &str| namespace == root || of == namespace || of == root;
        let is_checked = self.model.sources().request_authentications().any(|r| is_in_reach(r.name.namespace()));
        if is_checked || !(self.namespaces.contains(namespace) || namespace == root) || self.pods.is_empty() {
            return;
        }
        for (i, rule) in p.rules.iter().enumerate() {
            for field in rule.waypoint_fields(&format!("spec.rules[{i}]")) {
                let asks = field.name.ends_with("equestPrincipals") || field.name.starts_with("request.auth.");
                if asks {
                    let says = format!(
                        "no RequestAuthentication has tokens checked here: to {} every request is one without a token",
                        field.name
                    );
                    say(Level::Warning, &field.field, says);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authz::{Condition, L7Condition, Rule, Source, SourceL7, StringMatch},
        dangling::dangling,
        objects::{Object, Service},
        testing::{ambient, any_of, gateway, labels, model, policy, request_authentication, service},
        world::Action,
    };

    fn said(objects: Vec<Object>) -> Vec<String> {
        let s = Service { labels: labels("istio.io/use-waypoint=w"), ..service("default/s app=a - 80") };
        let base = [ambient("default/a", "10.0.0.1", "app=a").into(), s.into(), gateway("default/w").into()];
        let remarks = dangling(&model(base.into_iter().chain(objects)), Vec::new(), Vec::new());
        remarks.into_iter().map(|r| format!("{} {}: {}", r.finding.object, r.finding.field, r.finding.says)).collect()
    }

    #[test]
    fn tokens_that_nothing_checks() {
        let l7 = SourceL7 { request_principals: any_of([StringMatch::parse("*")]), ..SourceL7::default() };
        let source = Source { l7: l7.boxed(), ..Source::default() };
        let header = L7Condition::RequestHeader("x".parse().unwrap(), any_of([StringMatch::parse("*")]));
        let presenter = L7Condition::RequestPresenter(any_of([StringMatch::parse("*")]));
        let when = [header, presenter].map(|condition| Condition::L7(condition.into())).into();
        let rule = Rule { from: vec![source], to: Vec::new(), when };
        let asks = |full_name: &str| Object::from(policy(full_name, Action::Allow, vec![rule.clone()]));
        let check = |objects: Vec<Object>, is_said: bool| {
            let says = |field: &str, name: &str| {
                format!(
                    "AuthorizationPolicy default/p spec.rules[0].{field}: no RequestAuthentication has tokens checked here: to {name} \
                     every request is one without a token"
                )
            };
            let want = [
                says("from[0].source.requestPrincipals", "requestPrincipals"),
                says("when[1].key", "request.auth.presenter"),
            ];
            assert_eq!(said(objects), if is_said { &want[..] } else { &[] });
        };
        check(vec![asks("default/p")], true);
        check(vec![asks("default/p"), request_authentication("other/r - i").into()], true);
        check(vec![asks("default/p"), request_authentication("default/r - i").into()], false);
        check(vec![asks("default/p"), request_authentication("istio-system/r - i").into()], false);
        // nothing is known of the namespace
        check(vec![asks("unknown/p")], false);
        check(vec![policy("default/p", Action::Allow, vec![Rule::default()]).into()], false);
    }

    #[test]
    fn what_does_not_exist() {
        let targets = |kind, n: &str| Scope::Targets(vec![PolicyTarget::new(kind, n)]);
        let check = |full_name: &str, scope: Scope, expect: Option<&str>| {
            let policy = policy(full_name, Action::Allow, vec![Rule::default()]);
            let policy = AuthorizationPolicy { scope: scope.clone(), ..policy };
            let tokens = RequestAuthentication { scope, ..request_authentication(&format!("{full_name} - i")) };
            let got = said(vec![policy.into(), tokens.into()]);
            let line = |kind: &str, says: &str| format!("{kind} {full_name} spec.targetRefs[0]: {says}");
            let want: Vec<_> = match expect {
                None => Vec::new(),
                Some(says) => {
                    let (of_policy, of_tokens) = says.split_once('|').unwrap_or((says, says));
                    vec![line("AuthorizationPolicy", of_policy), line("RequestAuthentication", of_tokens)]
                }
            };
            assert_eq!(got, want);
        };
        check("default/p", targets(TargetKind::Service, "s"), None);
        let says = "Service default/t does not exist: the policy has no effect on it (IST0101)|Service default/t does not exist: no \
                    token is checked for it (IST0101)";
        check("default/p", targets(TargetKind::Service, "t"), Some(says));
        check("other/p", targets(TargetKind::Service, "t"), None);
        check("default/p", targets(TargetKind::Gateway, "w"), None);
        check("istio-system/p", targets(TargetKind::GatewayClass, "c"), None);
        let says = "a GatewayClass is named in the root namespace alone, istio-system: here it has no effect";
        check("default/p", targets(TargetKind::GatewayClass, "c"), Some(says));
        assert_eq!(
            said(vec![request_authentication("default/r app=b i").into()]),
            [
                "RequestAuthentication default/r spec.selector: selects none of the pods of default: it checks no token (IST0127)"
            ]
        );
        assert_eq!(said(vec![request_authentication("default/r app=a i").into()]), [""; 0]);
    }
}
