//! The conditions of a policy. Pure: what the door has made of it in, conditions out. They depend on the object alone: not on
//! which pods there are, so that a pod that comes or goes costs no write.
//!
//! | condition | of | says |
//! |---|---|---|
//! | `Accepted` | both kinds | it is valid; or each field that is not, and what holds meanwhile |
//! | `ZtunnelAccepted` | AuthorizationPolicies | what the agents of the nodes enforce of it, under Istio's name and reasons |
//! | `WaypointAccepted` | AuthorizationPolicies with targets | that there is no waypoint, under Istio's name |

use underpass_core::{
    objects::Object,
    resolve::Finding,
    world::{Action, AuthorizationPolicy, Scope, WaypointField},
};
use underpass_door::{Effect, Fault, Path};
use underpass_kube::write::Condition;

/// The types of our conditions.
pub(super) const TYPES: [&str; 3] = [ACCEPTED, BY_AGENTS, BY_WAYPOINT];

const ACCEPTED: &str = "Accepted";
/// Istio's name for what enforces L4 policies.
const BY_AGENTS: &str = "ZtunnelAccepted";
/// As Istio's.
const BY_WAYPOINT: &str = "WaypointAccepted";

// Istio's reasons.
const GOOD: &str = "Accepted";
const INVALID: &str = "Invalid";
const UNSUPPORTED: &str = "UnsupportedValue";
const NOT_BOUND: &str = "AncestorNotBound";

/// Who enforces.
const ENFORCED: &str = "enforced by the agents of the nodes of the selected pods";
/// The longest list in a message, in bytes; Kubernetes' own conditions have 32 KiB at most.
const LONGEST: usize = 8 << 10;

/// What the door has made of a policy.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing<'a> {
    /// It is served.
    Good {
        /// The policy.
        object: &'a Object,
        /// What is surprising about it.
        findings: &'a [Finding],
        /// The door's warnings.
        warnings: &'a [(&'a Path, &'a Fault)],
    },
    /// It cannot be served as it is.
    Broken {
        /// It is an AuthorizationPolicy.
        is_authorization: bool,
        /// Its errors and warnings.
        faults: &'a [(&'a Path, &'a Fault)],
        /// What holds meanwhile.
        effect: Effect,
    },
}

/// The conditions of a policy; none of another kind of object.
pub(super) fn conditions(standing: Standing<'_>) -> Vec<Condition> {
    match standing {
        Standing::Good { object: Object::AuthorizationPolicy(policy), findings, warnings } => {
            let fields = policy.waypoint_fields();
            let is_known = |finding: &&Finding| fields.iter().any(|f| f.field == finding.field);
            let others = findings.iter().filter(|finding| !is_known(finding));
            let accepted = condition(ACCEPTED, true, GOOD, accepted(effect_of(policy), others, warnings));
            vec![accepted, by_whom(policy, &fields)]
        }
        Standing::Good { object: Object::PeerAuthentication(_), findings, warnings } => {
            vec![condition(ACCEPTED, true, GOOD, accepted(ENFORCED, findings.iter(), warnings))]
        }
        Standing::Good { .. } => Vec::new(),
        Standing::Broken { is_authorization, faults, effect } => {
            let says = list(faults.iter().map(|(field, fault)| said(&field.to_string(), &fault.to_string())));
            let mut all = vec![condition(ACCEPTED, false, INVALID, format!("{says} ({effect})"))];
            if is_authorization {
                all.push(condition(BY_AGENTS, false, INVALID, meanwhile(effect).to_owned()));
            }
            all
        }
    }
}

fn condition(r#type: &'static str, is_true: bool, reason: &'static str, message: String) -> Condition {
    Condition { r#type, is_true, reason, message }
}

/// What becomes of a valid policy.
const fn effect_of(policy: &AuthorizationPolicy) -> &'static str {
    match policy {
        AuthorizationPolicy { scope: Scope::Targets(_), .. } => "valid, and without effect: there is no waypoint",
        AuthorizationPolicy { dry_run: true, .. } => {
            "a dry run, judged by the agents of the nodes of the selected pods: what it would deny is recorded, and nothing is refused"
        }
        AuthorizationPolicy { action: Action::Audit, .. } => {
            "valid, and without effect: there is no waypoint that counts"
        }
        _ => ENFORCED,
    }
}

fn accepted<'a>(effect: &str, findings: impl Iterator<Item = &'a Finding>, warnings: &[(&Path, &Fault)]) -> String {
    let findings = findings.map(|finding| said(&finding.field, &finding.says));
    let warnings = warnings.iter().map(|(field, fault)| said(&field.to_string(), &fault.to_string()));
    match list(findings.chain(warnings)) {
        none if none.is_empty() => effect.to_owned(),
        some => format!("{effect}, but: {some}"),
    }
}

fn by_whom(policy: &AuthorizationPolicy, fields: &[WaypointField]) -> Condition {
    if let Scope::Targets(targets) = &policy.scope {
        let says = format!(
            "there is no waypoint of {}: the policy has no effect",
            list(std::iter::once(targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
        );
        return condition(BY_WAYPOINT, false, NOT_BOUND, says);
    }
    if fields.is_empty() {
        return condition(BY_AGENTS, true, GOOD, effect_of(policy).to_owned());
    }
    let named = |field: &WaypointField| match field.field.ends_with(&*field.name) {
        true => field.field.clone(),
        false => format!("{} ({})", field.field, field.name),
    };
    let stricter = match policy.action {
        Action::Allow => "an ALLOW rule with one of them allows nothing",
        Action::Deny => "a DENY rule with one of them denies every connection that its other fields match",
        Action::Custom => "no provider is asked, and every connection that its other fields match is denied",
        Action::Audit => "nothing is counted",
    };
    let fields = list(fields.iter().map(named));
    let says = format!("{}, but only a waypoint can judge {fields}: {stricter}", effect_of(policy));
    condition(BY_AGENTS, true, UNSUPPORTED, says)
}

/// What the agents do about a broken policy.
const fn meanwhile(effect: Effect) -> &'static str {
    match effect {
        Effect::Absent => "nothing of it is enforced: it is not valid",
        Effect::LastGood => {
            "the agents of the nodes of the selected pods enforce its last good version: it is not valid"
        }
        Effect::Closed => {
            "the agents of the nodes of the pods that it selects refuse all connections to them: it is not valid"
        }
    }
}

fn said(field: &str, says: &str) -> String {
    if field.is_empty() { says.to_owned() } else { format!("{field}: {says}") }
}

/// The entries in one line, as many as there is room for. Control characters are escaped: names in a policy are anything.
fn list(entries: impl Iterator<Item = String>) -> String {
    let (mut line, mut left) = (String::new(), 0_usize);
    for entry in entries {
        if line.len().saturating_add(entry.len()) > LONGEST && !line.is_empty() {
            left = left.saturating_add(1);
            continue;
        }
        if !line.is_empty() {
            line.push_str("; ");
        }
        for c in entry.chars() {
            if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
        }
    }
    if left > 0 {
        line.push_str(&format!("; and {left} more"));
    }
    line
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use underpass_core::{
        authz::Rule,
        testing::{by_method, model, peer_authentication, policy},
        world::{PolicyTarget, TargetKind},
    };

    use super::*;

    fn show(all: &[Condition]) -> String {
        assert!(all.iter().all(|c| TYPES.contains(&c.r#type)), "{all:?}");
        let line = |c: &Condition| format!("{} {} {}: {}\n", c.r#type, c.is_true, c.reason, c.message);
        all.iter().map(line).collect()
    }

    /// Of an object that is served, with the findings about it.
    #[track_caller]
    fn good(object: impl Into<Object>, expect: Expect) {
        let object = object.into();
        let model = model([object.clone()]);
        let findings = model.sources().findings_of(&object.key());
        expect.assert_eq(&show(&conditions(Standing::Good { object: &object, findings, warnings: &[] })));
    }

    fn methods() -> Rule {
        Rule { to: vec![by_method("GET")], ..Rule::default() }
    }

    fn of_rules(action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
        policy("a/p", action, rules)
    }

    #[test]
    fn policies_of_agents() {
        good(
            of_rules(Action::Allow, vec![Rule::default()]),
            expect![[r#"
            Accepted true Accepted: enforced by the agents of the nodes of the selected pods
            ZtunnelAccepted true Accepted: enforced by the agents of the nodes of the selected pods
        "#]],
        );
        good(
            of_rules(Action::Allow, vec![Rule::default(), methods()]),
            expect![[r#"
            Accepted true Accepted: enforced by the agents of the nodes of the selected pods
            ZtunnelAccepted true UnsupportedValue: enforced by the agents of the nodes of the selected pods, but only a waypoint can judge spec.rules[1].to[0].operation.methods: an ALLOW rule with one of them allows nothing
        "#]],
        );
        good(
            of_rules(Action::Deny, vec![methods()]),
            expect![[r#"
            Accepted true Accepted: enforced by the agents of the nodes of the selected pods
            ZtunnelAccepted true UnsupportedValue: enforced by the agents of the nodes of the selected pods, but only a waypoint can judge spec.rules[0].to[0].operation.methods: a DENY rule with one of them denies every connection that its other fields match
        "#]],
        );
        good(
            of_rules(Action::Deny, Vec::new()),
            expect![[r#"
            Accepted true Accepted: enforced by the agents of the nodes of the selected pods, but: spec.rules: no rules: this policy denies nothing
            ZtunnelAccepted true Accepted: enforced by the agents of the nodes of the selected pods
        "#]],
        );
        good(
            AuthorizationPolicy { dry_run: true, ..of_rules(Action::Deny, vec![methods()]) },
            expect![[r#"
            Accepted true Accepted: a dry run, judged by the agents of the nodes of the selected pods: what it would deny is recorded, and nothing is refused
            ZtunnelAccepted true UnsupportedValue: a dry run, judged by the agents of the nodes of the selected pods: what it would deny is recorded, and nothing is refused, but only a waypoint can judge spec.rules[0].to[0].operation.methods: a DENY rule with one of them denies every connection that its other fields match
        "#]],
        );
    }

    #[test]
    fn policies_of_waypoints() {
        let scope = Scope::Targets(vec![
            PolicyTarget::new(TargetKind::Gateway, "w"),
            PolicyTarget::new(TargetKind::Service, "s"),
        ]);
        good(
            AuthorizationPolicy { scope, ..of_rules(Action::Allow, vec![methods()]) },
            expect![[r#"
            Accepted true Accepted: valid, and without effect: there is no waypoint
            WaypointAccepted false AncestorNotBound: there is no waypoint of Gateway w, Service s: the policy has no effect
        "#]],
        );
    }

    #[test]
    fn mutual_tls() {
        for (text, expect) in [
            (
                "a/p app=x STRICT",
                expect![[r#"
                Accepted true Accepted: enforced by the agents of the nodes of the selected pods
            "#]],
            ),
            (
                "a/p - DISABLE 80=STRICT",
                expect![[r#"
                Accepted true Accepted: enforced by the agents of the nodes of the selected pods, but: spec.mtls.mode: DISABLE is served as PERMISSIVE: mutual TLS is always accepted; spec.portLevelMtls: port-level modes need a selector: they are ignored
            "#]],
            ),
            (
                "istio-system/p app=x STRICT",
                expect![[r#"
                Accepted true Accepted: enforced by the agents of the nodes of the selected pods, but: spec.selector: a PeerAuthentication of the root namespace with a selector is ignored
            "#]],
            ),
        ] {
            good(peer_authentication(text), expect);
        }
    }

    #[test]
    fn warnings_are_told() {
        let (field, fault) = (Path::parse("metadata.label"), Fault::NewerField);
        let object = of_rules(Action::Allow, vec![Rule::default()]).into();
        let standing = Standing::Good { object: &object, findings: &[], warnings: &[(&field, &fault)] };
        expect![[r#"
            Accepted true Accepted: enforced by the agents of the nodes of the selected pods, but: metadata.label: unknown field, probably of a newer version of its API: ignored
            ZtunnelAccepted true Accepted: enforced by the agents of the nodes of the selected pods
        "#]].assert_eq(&show(&conditions(standing)));
    }

    #[test]
    fn broken_ones() {
        let (action, from, none) = (Path::parse("spec.action"), Path::parse("spec.rules[0].from"), Path::default());
        let unknown = Fault::Value { found: "BLOCK".into(), known: &["ALLOW", "DENY"] };
        let faults = [(&action, &unknown), (&from, &Fault::EmptyList), (&none, &Fault::Missing)];
        let check = |is_authorization, effect, expect: Expect| {
            expect.assert_eq(&show(&conditions(Standing::Broken { is_authorization, faults: &faults, effect })));
        };
        check(
            true,
            Effect::LastGood,
            expect![[r#"
            Accepted false Invalid: spec.action: `BLOCK` is not one of ALLOW, DENY; spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values; is missing (the last good version stays served)
            ZtunnelAccepted false Invalid: the agents of the nodes of the selected pods enforce its last good version: it is not valid
        "#]],
        );
        check(
            true,
            Effect::Closed,
            expect![[r#"
            Accepted false Invalid: spec.action: `BLOCK` is not one of ALLOW, DENY; spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values; is missing (connections to what it selects are refused until it is fixed)
            ZtunnelAccepted false Invalid: the agents of the nodes of the pods that it selects refuse all connections to them: it is not valid
        "#]],
        );
        check(
            true,
            Effect::Absent,
            expect![[r#"
            Accepted false Invalid: spec.action: `BLOCK` is not one of ALLOW, DENY; spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values; is missing (not served)
            ZtunnelAccepted false Invalid: nothing of it is enforced: it is not valid
        "#]],
        );
        check(
            false,
            Effect::Closed,
            expect![[r#"
            Accepted false Invalid: spec.action: `BLOCK` is not one of ALLOW, DENY; spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values; is missing (connections to what it selects are refused until it is fixed)
        "#]],
        );
    }

    #[test]
    fn a_message_has_a_limit_and_one_line() {
        let long = "x".repeat(LONGEST);
        let entries = [long.as_str(), "b", "c"].map(str::to_owned);
        assert_eq!(list(entries.into_iter()), format!("{long}; and 2 more"));
        assert_eq!(list(["a\n\u{1b}b".to_owned(), "c".to_owned()].into_iter()), "a\\n\\u{1b}b; c");
        assert_eq!(list(std::iter::empty()), "");
    }
}
