//! What the definitions say about each field beside its type: a text for `kubectl explain`, and what an API server refuses.
//! What Istio's definitions accept is accepted, so that no object depends on whose definitions a cluster has; all else that is
//! wrong with an object is the converter's to say.
//!
//! A path has `[]` for the entries of a list and `{}` for the values of a map.

use serde_json::{Map, Value, json};

/// A field: its path, its text, and further keywords of its schema.
pub(super) type Row = (String, &'static str, Value);

/// The longest value of a label.
const LABEL: u32 = 63;
/// The longest DNS name.
const DNS: u32 = 253;
/// The most rules, and sources of a rule. The cost of what is checked in CEL is bounded by them.
const RULES: u32 = 512;

/// The fields of an AuthorizationPolicy.
pub(super) fn authorization_policy() -> Vec<Row> {
    let one_scope = "[has(self.selector), has(self.targetRef), has(self.targetRefs)].filter(is, is).size() <= 1";
    let mut rows = vec![
        row(
            "spec",
            "Who may talk to the selected workloads, and how.",
            rule(one_scope, "selector, targetRef and targetRefs exclude one another"),
        ),
        row(
            "spec.targetRefs",
            "Gateways, waypoints or services that the policy is for, instead of workloads.",
            json!({"maxItems": 16}),
        ),
        row("spec.targetRefs[]", "A gateway, a waypoint or a service.", json!({"required": ["kind", "name"]})),
        row(
            "spec.targetRef",
            "The only gateway, waypoint or service that the policy is for.",
            json!({"required": ["kind", "name"]}),
        ),
        row(
            "spec.action",
            "What becomes of a connection or request that a rule matches; ALLOW by default.",
            json!({"enum": ["ALLOW", "DENY", "AUDIT", "CUSTOM"]}),
        ),
        row(
            "spec.provider",
            "The external authorizer of action CUSTOM.",
            json!({
                "type": "object",
                "properties": {"name": {"type": "string", "description": "Its name in the settings of the mesh."}},
            }),
        ),
        row(
            "spec.rules",
            "One of them has to match. Without any an ALLOW allows nothing, and a DENY denies nothing.",
            json!({"maxItems": RULES}),
        ),
        plain(
            "spec.rules[]",
            "Matches where one of from, one of to and all of when match; a part that is missing matches always.",
        ),
        row("spec.rules[].from", "Sources, one of which has to match.", json!({"maxItems": RULES})),
        plain("spec.rules[].from[]", "A source."),
        row(
            "spec.rules[].from[].source",
            "The caller; all of its fields have to match.",
            rule(
                "!(has(self.serviceAccounts) || has(self.notServiceAccounts)) || \
             !(has(self.principals) || has(self.notPrincipals) || has(self.namespaces) || has(self.notNamespaces))",
                "serviceAccounts and notServiceAccounts exclude principals, notPrincipals, namespaces and notNamespaces",
            ),
        ),
        plain("spec.rules[].to", "Operations, one of which has to match."),
        plain("spec.rules[].to[]", "An operation."),
        plain("spec.rules[].to[].operation", "What is called; all of its fields have to match."),
        plain("spec.rules[].when", "Conditions, all of which have to match."),
        row("spec.rules[].when[]", "A condition.", json!({"required": ["key"]})),
        plain(
            "spec.rules[].when[].key",
            "An attribute: source.ip, source.namespace, source.principal, source.serviceAccount, destination.ip, destination.port; others need a waypoint.",
        ),
    ];
    rows.extend(selector());
    rows.extend(target("spec.targetRef"));
    rows.extend(target("spec.targetRefs[]"));
    let lists = |at: &str, names: &[(&str, [&'static str; 2])], rows: &mut Vec<Row>| {
        for (name, [text, not_text]) in names {
            let mut start = name.chars();
            let capital = start.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(start).collect::<String>();
            for (name, text) in [((*name).to_owned(), *text), (format!("not{capital}"), *not_text)] {
                let is_accounts = name.ends_with("erviceAccounts");
                let (list, entry) = if is_accounts {
                    (json!({"maxItems": 16}), json!({"maxLength": 320}))
                } else {
                    (json!({}), json!({}))
                };
                rows.push((format!("{at}.{name}[]"), "", entry));
                rows.push((format!("{at}.{name}"), text, list));
            }
        }
    };
    lists("spec.rules[].from[].source", SOURCE, &mut rows);
    lists("spec.rules[].to[].operation", OPERATION, &mut rows);
    // Its lists are `values` and `notValues` of one key.
    lists("spec.rules[].when[]", CONDITION, &mut rows);
    rows
}

/// A list, and the list of what must not match.
type Lists = &'static [(&'static str, [&'static str; 2])];

const SOURCE: Lists = &[
    (
        "principals",
        ["Identities, TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT; `*` stands at one end.", "Identities that do not match."],
    ),
    (
        "requestPrincipals",
        [
            "Identities of JWTs, ISSUER/SUBJECT; needs a waypoint.",
            "Identities of JWTs that do not match; needs a waypoint.",
        ],
    ),
    ("namespaces", ["Namespaces of callers.", "Namespaces that do not match."]),
    (
        "serviceAccounts",
        ["Service accounts, NAMESPACE/NAME, or NAME of the policy's namespace.", "Service accounts that do not match."],
    ),
    (
        "ipBlocks",
        ["Addresses, or blocks of them (CIDR), that the connection comes from.", "Addresses that do not match."],
    ),
    (
        "remoteIpBlocks",
        [
            "Addresses of the client as a proxy before a gateway names it; needs a waypoint.",
            "Such addresses that do not match; needs a waypoint.",
        ],
    ),
    ("trustDomains", ["Trust domains of callers.", "Trust domains that do not match."]),
];

const OPERATION: Lists = &[
    ("hosts", ["Hosts of HTTP requests; needs a waypoint.", "Hosts that do not match; needs a waypoint."]),
    ("ports", ["Ports of the workload, as text.", "Ports that do not match."]),
    ("methods", ["Methods of HTTP requests; needs a waypoint.", "Methods that do not match; needs a waypoint."]),
    ("paths", ["Paths of HTTP requests; needs a waypoint.", "Paths that do not match; needs a waypoint."]),
];

const CONDITION: Lists = &[("values", ["Values, one of which has to match.", "Values, none of which may match."])];

/// The fields of a PeerAuthentication.
pub(super) fn peer_authentication() -> Vec<Row> {
    let has_labels = "!has(self.portLevelMtls) || \
                      (has(self.selector) && has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0)";
    let ports = rule("self.all(port, int(port) >= 1 && int(port) <= 65535)", "a key is a port, 1 to 65535");
    let ports = with("minProperties", 1, ports);
    let mode = || json!({"enum": ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]});
    let text = "STRICT: mutual TLS alone; PERMISSIVE: plaintext as well; DISABLE: plaintext; UNSET: as the namespace or the mesh has it.";
    let mut rows = vec![
        row(
            "spec",
            "Which connections the selected workloads accept.",
            rule(has_labels, "portLevelMtls needs a selector with matchLabels"),
        ),
        plain("spec.mtls", "Mutual TLS of all ports that portLevelMtls does not name."),
        row("spec.mtls.mode", text, mode()),
        row("spec.portLevelMtls", "Mutual TLS by port of the workload.", ports),
        plain("spec.portLevelMtls{}", "Mutual TLS of this port."),
        row("spec.portLevelMtls{}.mode", text, mode()),
    ];
    rows.extend(selector());
    rows
}

fn selector() -> [Row; 4] {
    let labels = rule("self.all(key, key.size() > 0 && !key.contains('*'))", "a key is not empty and has no `*`");
    let labels = with("maxProperties", 4096, labels);
    let value = with("maxLength", LABEL, rule("!self.contains('*')", "a value has no `*`"));
    [
        plain(
            "spec.selector",
            "The workloads; without it all of the namespace, and in the root namespace all of the mesh.",
        ),
        row("spec.selector.matchLabels", "Labels that a workload has, all of them.", labels),
        row("spec.selector.matchLabels{}", "", value),
        // Of both kinds, beside spec.
        plain("", "A policy of the mesh."),
    ]
}

fn target(at: &str) -> [Row; 4] {
    let group = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$";
    let field = |name: &str, text, more| (format!("{at}.{name}"), text, more);
    let namespace = with("maxLength", DNS, rule("self == ''", "another namespace cannot be named"));
    [
        field(
            "group",
            "The API group of the kind; empty: of Kubernetes' own.",
            json!({"maxLength": DNS, "pattern": group}),
        ),
        field(
            "kind",
            "Gateway, GatewayClass, Service or ServiceEntry.",
            json!({"minLength": 1, "maxLength": LABEL, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}),
        ),
        field("name", "The name of the object.", json!({"minLength": 1, "maxLength": DNS})),
        field("namespace", "The policy's own; left out.", namespace),
    ]
}

fn row(path: &str, text: &'static str, more: Value) -> Row {
    (path.to_owned(), text, more)
}

fn plain(path: &str, text: &'static str) -> Row {
    row(path, text, Value::Object(Map::new()))
}

/// A condition in CEL. Its message is all that a user sees of it.
fn rule(rule: &str, message: &str) -> Value {
    json!({"x-kubernetes-validations": [{"rule": rule, "message": message}]})
}

/// One more keyword, with its number.
fn with(keyword: &str, number: u32, mut schema: Value) -> Value {
    if let Some(keywords) = schema.as_object_mut() {
        keywords.insert(keyword.to_owned(), json!(number));
    }
    schema
}
