//! Webhooks of others that are asked about policies. Where the Service of one does not exist, the API server refuses every policy: so Istio's
//! base chart leaves it, once it is upgraded in a cluster without istiod.

use std::collections::BTreeSet;

use underpass_core::ObjectName;
use underpass_kube::{Client, survey::objects::WebhookConfiguration};
use underpass_telemetry::admin::view::Level;

use super::findings::Finding;

const GROUP: &str = "security.istio.io";
const PLURALS: [&str; 2] = ["authorizationpolicies", "peerauthentications"];

/// A configuration whose webhook cannot answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unanswered {
    configuration: String,
    /// It does not exist.
    service: ObjectName,
}

impl Unanswered {
    pub(super) fn finding(&self, level: Level) -> Finding {
        let Self { configuration, service } = self;
        let found =
            format!("it has the API server ask Service {service}, which does not exist: every policy is refused");
        let remedy = format!(
            "install what it belongs to, or kubectl delete validatingwebhookconfiguration {configuration}; Istio's base chart makes \
             none with --set defaultRevision="
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

/// The Services without which no policy goes in.
fn needed(all: &[WebhookConfiguration]) -> BTreeSet<Unanswered> {
    let webhooks = all.iter().flat_map(|one| one.webhooks.iter().map(move |webhook| (one, webhook)));
    let is_needed = webhooks.filter(|(_, webhook)| {
        !webhook.may_be_silent() && PLURALS.iter().any(|plural| webhook.is_asked_about(GROUP, plural))
    });
    let by_service = is_needed.filter_map(|(one, webhook)| {
        let service = webhook.client_config.service.as_ref()?.object();
        Some(Unanswered { configuration: one.metadata.name.clone(), service })
    });
    by_service.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn those_that_policies_depend_on() {
        let check = |webhook: Value, expected: &[&str]| {
            let all = json!([{"metadata": {"name": "w"}, "webhooks": [webhook]}]);
            let all: Vec<WebhookConfiguration> = serde_json::from_value(all).unwrap();
            let needed: Vec<String> = needed(&all).into_iter().map(|one| one.service.to_string()).collect();
            assert_eq!(needed, expected, "{all:?}");
        };
        let at = json!({"service": {"namespace": "istio-system", "name": "istiod", "path": "/validate"}});
        let webhook = |policy: Value, groups: Value, resources: Value, at: &Value| {
            json!({"name": "v", "clientConfig": at, "failurePolicy": policy,
                "rules": [{"apiGroups": ["apps"], "resources": ["*"]}, {"apiGroups": groups, "resources": resources}]})
        };
        let ours = || json!(["networking.istio.io", "security.istio.io"]);
        let istiod = ["istio-system/istiod"];
        check(webhook(json!("Fail"), ours(), json!(["*"]), &at), &istiod);
        check(webhook(Value::Null, json!(["*"]), json!(["*/*"]), &at), &istiod);
        check(webhook(json!("Fail"), ours(), json!(["peerauthentications"]), &at), &istiod);
        check(webhook(json!("Ignore"), ours(), json!(["*"]), &at), &[]);
        check(webhook(json!("Fail"), json!(["networking.istio.io"]), json!(["*"]), &at), &[]);
        check(webhook(json!("Fail"), ours(), json!(["requestauthentications"]), &at), &[]);
        check(webhook(json!("Fail"), ours(), json!(["*"]), &json!({"url": "https://example.com"})), &[]);
    }
}
