//! AuthorizationPolicies: validated, every value parsed, and a fact as they are. How they are judged is
//! [`crate::authz`].

use std::sync::Arc;

use serde::Serialize;

use super::policy_target::{PolicyTarget, TargetKind};
use crate::{ObjectName, authz::Rule, labels::Labels};

/// The workloads that a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// All of its namespace; of the mesh, where it stands in the root namespace.
    Namespace,
    /// Those with these labels: of its namespace, or anywhere, where it stands in the root namespace.
    Selector(Labels),
    /// Requests to or through what it names, at its waypoint; never judged at L4.
    Targets(Vec<PolicyTarget>),
}

/// The action of a matching policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// What it matches may pass; where any ALLOW policy applies, nothing else may.
    Allow,
    /// What it matches may not pass, even where an ALLOW policy matches too.
    Deny,
    /// What it matches may pass only where an external authorizer has allowed it, which a waypoint asks.
    Custom,
    /// What it matches is counted at a waypoint. It decides nothing.
    Audit,
}

impl Action {
    /// As written in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Custom => "CUSTOM",
            Self::Audit => "AUDIT",
        }
    }

    /// At L4 what it matches may not pass: nothing asks there.
    #[must_use]
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Deny | Self::Custom)
    }

    /// The effect of a value that never matches; `is_not`: it stands among those that must not match.
    pub(crate) const fn with_nothing(self, is_not: bool) -> &'static str {
        match (self, is_not) {
            (Self::Allow, false) => "it allows no connection",
            (Self::Deny, false) => "it denies no connection, and the traffic that it should block is allowed",
            (Self::Allow, true) => "it keeps no connection out",
            (Self::Custom, false) => "its provider is asked about nothing",
            (Self::Deny | Self::Custom, true) => "it exempts no connection",
            (Self::Audit, false) => "it counts nothing",
            (Self::Audit, true) => "it leaves nothing out of its count",
        }
    }
}

/// `security.istio.io AuthorizationPolicy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorizationPolicy {
    /// namespace/name.
    pub name: ObjectName,
    /// The workloads that it applies to.
    pub scope: Scope,
    /// Its action.
    pub action: Action,
    /// The external authorizer, of action CUSTOM alone.
    pub provider: Option<Arc<str>>,
    /// Any rule that matches is a match; none (`spec: {}`) never matches.
    pub rules: Vec<Rule>,
    /// `istio.io/dry-run: "true"`: what it would deny is recorded and counted, never refused.
    pub dry_run: bool,
}

/// A field that only a waypoint can judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaypointField {
    /// Its path: `spec.rules[0].to[0].operation.methods`.
    pub field: String,
    /// Its name, or the attribute that a condition asks for.
    pub name: Arc<str>,
}

impl AuthorizationPolicy {
    /// It names this object of its own namespace, or of none, in `targetRefs`.
    #[must_use]
    pub fn has_target(&self, kind: TargetKind, name: &str) -> bool {
        self.targets().iter().any(|target| target.kind == kind && &*target.name == name)
    }

    /// What it names in `targetRefs`.
    #[must_use]
    pub fn targets(&self) -> &[PolicyTarget] {
        match &self.scope {
            Scope::Targets(targets) => targets,
            Scope::Namespace | Scope::Selector(_) => &[],
        }
    }

    /// Every field that needs a waypoint, in order: the whole of `spec.targetRefs`, or what asks for HTTP.
    #[must_use]
    pub fn waypoint_fields(&self) -> Vec<WaypointField> {
        if let Scope::Targets(_) = self.scope {
            return vec![WaypointField { field: "spec.targetRefs".into(), name: "targetRefs".into() }];
        }
        let mut fields = Vec::new();
        if matches!(self.action, Action::Custom | Action::Audit) {
            fields.push(WaypointField { field: "spec.action".into(), name: self.action.as_str().into() });
        }
        for (i, rule) in self.rules.iter().enumerate() {
            fields.extend(rule.waypoint_fields(&format!("spec.rules[{i}]")));
        }
        fields
    }
}

impl Rule {
    /// The fields of this rule, which stands at `at`, that need a waypoint.
    pub(crate) fn waypoint_fields(&self, at: &str) -> Vec<WaypointField> {
        let mut fields = Vec::new();
        let mut push = |field: String, name: &str| fields.push(WaypointField { field, name: name.into() });
        for (i, source) in self.from.iter().enumerate() {
            source.l7_fields().for_each(|name| push(format!("{at}.from[{i}].source.{name}"), name));
        }
        for (i, operation) in self.to.iter().enumerate() {
            operation.l7_fields().for_each(|name| push(format!("{at}.to[{i}].operation.{name}"), name));
        }
        for (i, condition) in self.when.iter().enumerate() {
            condition.l7_key().iter().for_each(|key| push(format!("{at}.when[{i}].key"), key));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Condition, L7Condition, Match, Operation, OperationL7, Source, SourceL7, StringMatch};

    fn fields(scope: Scope, rules: Vec<Rule>) -> Vec<String> {
        let (name, action) = (ObjectName::new("a", "b"), Action::Allow);
        let policy = AuthorizationPolicy { name, scope, action, provider: None, rules, dry_run: false };
        policy.waypoint_fields().into_iter().map(|f| format!("{} {}", f.field, f.name)).collect()
    }

    #[test]
    fn each_field_is_where_it_stands() {
        let l4 = Rule { from: vec![Source::default()], to: Vec::new(), when: Vec::new() };
        assert_eq!(fields(Scope::Namespace, vec![l4.clone()]), [""; 0]);
        let text = StringMatch::parse;
        let lists = |not: bool| match not {
            false => Match { values: vec![text("x")], not_values: Vec::new() },
            true => Match { values: Vec::new(), not_values: vec![text("x")] },
        };
        let source = SourceL7 { request_principals: lists(false), ..SourceL7::default() };
        let source = Source { l7: source.boxed(), ..Source::default() };
        let operation = OperationL7 { methods: lists(false), hosts: lists(true), ..OperationL7::default() };
        let operation = Operation { l7: operation.boxed(), ..Operation::default() };
        let header = L7Condition::RequestHeader("X-a".parse().unwrap(), lists(false));
        let rule = Rule {
            from: vec![Source::default(), source],
            to: vec![operation],
            when: vec![Condition::L7(header.into())],
        };
        assert_eq!(
            fields(Scope::Namespace, vec![l4.clone(), rule.clone()]),
            [
                "spec.rules[1].from[1].source.requestPrincipals requestPrincipals",
                "spec.rules[1].to[0].operation.notHosts notHosts",
                "spec.rules[1].to[0].operation.methods methods",
                "spec.rules[1].when[0].key request.headers[X-a]",
            ]
        );
        let targets = vec![PolicyTarget::new(TargetKind::Gateway, "w")];
        assert_eq!(fields(Scope::Targets(targets), vec![rule]), ["spec.targetRefs targetRefs"]);
    }
}
