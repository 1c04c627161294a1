//! Webhooks of others that are asked about policies. Where the Service of one does not exist, the API server refuses
//! every policy that it is asked about: so Istio's base chart leaves it, once it is upgraded in a cluster without
//! istiod.

use std::collections::BTreeMap;

use underpass_core::ObjectName;
use underpass_kube::{
    Client,
    survey::objects::{Reach, Webhook, WebhookConfiguration},
};
use underpass_telemetry::admin::view::Level;

use super::findings::Finding;

const GROUP: &str = "security.istio.io";
const PLURALS: [&str; 2] = ["authorizationpolicies", "peerauthentications"];

/// A configuration whose webhook cannot answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    configuration: String,
    /// It does not exist.
    service: ObjectName,
    refused: Reach,
}

impl Unanswered {
    /// Of this level where it is about every policy; one that is about some is a warning.
    pub(super) fn finding(&self, level: Level) -> Finding {
        let Self { configuration, service, refused } = self;
        let (level, refused) = match refused {
            Reach::All => (level, "every policy is refused"),
            Reach::Some => (Level::Warning, "policies that it selects are refused"),
        };
        let found = format!("it has the API server ask Service {service}, which does not exist: {refused}");
        let remedy = format!(
            "install what it belongs to, or kubectl delete validatingwebhookconfiguration {configuration}; \
             Istio's base chart makes none with --set defaultRevision="
        );
        Finding::new(level, format!("ValidatingWebhookConfiguration {configuration}"), found, &remedy)
    }
}

/// Those of these configurations; a Service that cannot be asked for is a finding.
pub(super) async fn unanswered(
    client: &Client,
    all: &[WebhookConfiguration],
    findings: &mut Vec<Finding>,
) -> Vec<Unanswered> {
    let mut unanswered = Vec::new();
    for one in needed(all) {
        match client.has_service(&one.service).await {
            Ok(true) => {}
            Ok(false) => unanswered.push(one),
            Err(e) => {
                let right = format!("list services in namespace {}", one.service.namespace());
                findings.push(Finding::unasked(format!("Service {}", one.service), &e, &right));
            }
        }
    }
    unanswered
}

/// The Services without which policies do not go in, each of a configuration once.
fn needed(all: &[WebhookConfiguration]) -> Vec<Unanswered> {
    let mut needed = BTreeMap::new();
    for (one, webhook) in all.iter().flat_map(|one| one.webhooks.iter().map(move |webhook| (one, webhook))) {
        if let (Some(service), Some(reach)) = (&webhook.client_config.service, refusable(webhook)) {
            let refused = needed.entry((&one.metadata.name, service.object())).or_insert(reach);
            *refused = reach.max(*refused);
        }
    }
    let unanswered =
        |((name, service), refused): ((&String, _), _)| Unanswered { configuration: name.clone(), service, refused };
    needed.into_iter().map(unanswered).collect()
}

/// The policies that are refused where this one does not answer; none: no policy is.
fn refusable(webhook: &Webhook) -> Option<Reach> {
    let reach = PLURALS.iter().filter_map(|plural| webhook.reach(GROUP, plural)).max();
    reach.filter(|_| !webhook.may_be_silent())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const EVERY: &str = "Error: w istio-system/istiod: every policy is refused";
    const SELECTED: &str = "Warning: w istio-system/istiod: policies that it selects are refused";

    fn check(webhooks: Value, expected: &[&str]) {
        let all = json!([{"metadata": {"name": "w"}, "webhooks": webhooks}]);
        let all: Vec<WebhookConfiguration> = serde_json::from_value(all).unwrap();
        let shown = |one: Unanswered| {
            let Finding { level, found, .. } = one.finding(Level::Error);
            let (_, refused) = found.rsplit_once(": ").unwrap();
            format!("{level:?}: {} {}: {refused}", one.configuration, one.service)
        };
        let needed: Vec<String> = needed(&all).into_iter().map(shown).collect();
        assert_eq!(needed, expected, "{all:?}");
    }

    #[test]
    fn those_that_policies_depend_on() {
        let at = json!({"service": {"namespace": "istio-system", "name": "istiod", "path": "/validate"}});
        let check = |policy: Value, groups: Value, resources: Value, at: &Value, expected: &[&str]| {
            let webhook = json!({"name": "v", "clientConfig": at, "failurePolicy": policy, "rules": [
                {"apiGroups": ["apps"], "resources": ["*"], "operations": ["*"]},
                {"apiGroups": groups, "resources": resources, "operations": ["*"]},
            ]});
            check(json!([webhook]), expected);
        };
        let ours = || json!(["networking.istio.io", "security.istio.io"]);
        check(json!("Fail"), ours(), json!(["*"]), &at, &[EVERY]);
        check(Value::Null, json!(["*"]), json!(["*/*"]), &at, &[EVERY]);
        check(json!("Fail"), ours(), json!(["peerauthentications"]), &at, &[EVERY]);
        check(json!("Ignore"), ours(), json!(["*"]), &at, &[]);
        check(json!("Fail"), json!(["networking.istio.io"]), json!(["*"]), &at, &[]);
        check(json!("Fail"), ours(), json!(["requestauthentications"]), &at, &[]);
        check(json!("Fail"), ours(), json!(["*"]), &json!({"url": "https://example.com"}), &[]);
    }

    /// As the API server gives it: it writes the selectors that select everything.
    fn istios() -> Value {
        json!({
            "name": "validation.istio.io", "failurePolicy": "Fail", "matchPolicy": "Equivalent",
            "clientConfig": {"service": {"namespace": "istio-system", "name": "istiod", "path": "/validate", "port": 443}},
            "rules": [{
                "apiGroups": ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"],
                "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"], "scope": "*",
            }],
            "namespaceSelector": {}, "objectSelector": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        })
    }

    #[test]
    fn one_that_is_asked_about_some_policies_is_a_warning() {
        let with = |path: &str, value: Value| {
            let mut webhook = istios();
            let (parent, field) = path.rsplit_once('/').unwrap();
            webhook.pointer_mut(parent).unwrap()[field] = value;
            webhook
        };
        let of_revision =
            json!({"matchExpressions": [{"key": "istio.io/rev", "operator": "In", "values": ["default"]}]});
        let of_revision = || with("/objectSelector", of_revision.clone());
        check(json!([istios()]), &[EVERY]);
        check(json!([of_revision()]), &[SELECTED]);
        check(json!([with("/namespaceSelector", json!({"matchLabels": {"team": "a"}}))]), &[SELECTED]);
        check(json!([with("/matchConditions", json!([{"name": "c", "expression": "true"}]))]), &[SELECTED]);
        check(json!([with("/rules/0/operations", json!(["CREATE", "DELETE"]))]), &[SELECTED]);
        check(json!([with("/rules/0/operations", json!(["UPDATE"]))]), &[SELECTED]);
        check(json!([with("/rules/0/operations", json!(["DELETE", "CONNECT"]))]), &[]);
        check(json!([with("/rules/0/scope", json!("Namespaced"))]), &[EVERY]);
        check(json!([with("/rules/0/scope", json!("Cluster"))]), &[]);
        check(json!([of_revision(), istios()]), &[EVERY]);
        check(json!([istios(), of_revision()]), &[EVERY]);
    }
}
