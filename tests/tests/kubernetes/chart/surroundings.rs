//! What the chart gives to others in the cluster where it is asked: policies of the network, and monitors for Prometheus.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    helm::{Helm, Objects, at},
    values,
};

/// The rules of Prometheus that the chart brings.
const ALERTS: &str = include_str!("../../../../deploy/helm/underpass/files/alerts.yaml");
const CONTROL: &str = "underpass-control";
const AGENT: &str = "underpass-agent";

/// Every port of the control plane is open, to every source but where the user says whose metrics are.
pub(crate) fn a_network_policy_closes_no_port() -> Result<()> {
    let helm = Helm::new()?;
    ensure!(helm.render(values::NONE)?.one("NetworkPolicy", CONTROL).is_err(), "not asked for");
    let check = |values: &str, metrics_from: Value| -> Result<()> {
        let objects = helm.render(values)?;
        let policy = objects.one("NetworkPolicy", CONTROL)?;
        let selector = at(policy, "spec.podSelector.matchLabels");
        let pods = objects.one("Deployment", CONTROL)?;
        ensure!(*selector == *at(pods, "spec.selector.matchLabels"), "{policy}");
        let mut open = BTreeSet::new();
        for rule in policy["spec"]["ingress"].as_array().context("rules")? {
            for port in rule["ports"].as_array().context("ports")? {
                let name = port["port"].as_str().context("a name")?;
                let from = if name == "http-monitoring" { &metrics_from } else { &Value::Null };
                ensure!(rule["from"] == *from && port["protocol"] == "TCP", "{rule}");
                open.insert(name);
            }
        }
        let container = objects.container("Deployment", CONTROL)?;
        let ports = container["ports"].as_array().into_iter().flatten().filter_map(|port| port["name"].as_str());
        ensure!(open == ports.collect(), "{open:?} of {container}");
        ensure!(policy["spec"]["egress"] == json!([{}]), "{policy}");
        Ok(())
    };
    check("networkPolicy: {enabled: true}", Value::Null)?;
    check("global: {networkPolicy: {enabled: true}}", Value::Null)?;
    let from = json!([{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]);
    check(&format!("networkPolicy: {{enabled: true, metricsFrom: {from}}}"), from)?;
    let misspelt = helm.text("networkPolicy: {metricsFrom: [{podSelectors: {}}]}").err().context("it is taken")?;
    ensure!(format!("{misspelt:#}").contains("podSelectors"), "{misspelt:#}");
    Ok(())
}

/// Annotations and monitors name the port on which an agent serves its metrics, and select what there is.
pub(crate) fn prometheus_is_told_the_agents_own_port() -> Result<()> {
    const MONITORED: &str =
        "monitoring: {serviceMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}}";
    let helm = Helm::new()?;
    let none = helm.render(values::NONE)?;
    ensure!(none.one("ServiceMonitor", CONTROL).is_err() && none.one("PodMonitor", AGENT).is_err(), "not asked for");
    for (address, port) in [("", "15020"), ("0.0.0.0:16020", "16020"), ("[::1]:99", "99")] {
        let setting =
            if address.is_empty() { "{}".to_owned() } else { json!({"metrics-address": address}).to_string() };
        let objects = helm.render(&format!("{MONITORED}\nagent: {{settings: {setting}}}"))?;
        let agent = at(objects.one("DaemonSet", AGENT)?, "spec.template.metadata");
        ensure!(agent["annotations"]["prometheus.io/port"] == port, "{agent}");

        let monitor = objects.one("PodMonitor", AGENT)?;
        ensure!(monitor["metadata"]["labels"]["release"] == "prometheus", "{monitor}");
        let selector = at(monitor, "spec.selector.matchLabels").as_object().context("a selector")?;
        ensure!(selector.iter().all(|(key, value)| agent["labels"][key] == *value), "{monitor}");
        let [endpoint] = &monitor["spec"]["podMetricsEndpoints"].as_array().context("endpoints")?[..] else {
            anyhow::bail!("{monitor}")
        };
        ensure!(endpoint["interval"] == "15s", "{endpoint}");
        let rules = endpoint["relabelings"].as_array().context("rules")?;
        let of_container = rules.iter().find(|rule| rule["action"] == "keep").context("one target of each pod")?;
        ensure!(of_container["regex"] == objects.container("DaemonSet", AGENT)?["name"], "{of_container}");
        let addresses: Vec<_> = rules.iter().filter(|rule| rule["targetLabel"] == "__address__").collect();
        let given: BTreeSet<_> = addresses.iter().filter_map(|rule| rule["replacement"].as_str()).collect();
        let expected = [format!("$1:{port}"), format!("[$1]:{port}")];
        ensure!(given == expected.iter().map(String::as_str).collect(), "{addresses:?}");
    }
    of_control(&helm.render(MONITORED)?)?;

    // A user's own annotation stands beside the chart's, and takes none of its place.
    let twice = helm.text("agent: {podAnnotations: {underpass.dev/settings: mine, prometheus.io/port: '1'}}")?;
    let annotations = Objects::parse(&twice)?;
    let annotations = at(annotations.one("DaemonSet", AGENT)?, "spec.template.metadata.annotations").clone();
    ensure!(
        annotations["underpass.dev/settings"] != "mine" && annotations["prometheus.io/port"] == "1",
        "{annotations}"
    );
    ensure!(twice.matches("underpass.dev/settings:").count() == 1, "{twice}");
    Ok(())
}

/// The object has the rules that users without the operator read as a file.
pub(crate) fn alerts_are_those_of_the_file() -> Result<()> {
    const ASKED: &str = "monitoring: {prometheusRule: {enabled: true, labels: {release: prometheus}}}";
    let helm = Helm::new()?;
    ensure!(helm.render(values::NONE)?.one("PrometheusRule", "underpass").is_err(), "not asked for");
    let objects = helm.render(ASKED)?;
    let rules = objects.one("PrometheusRule", "underpass")?;
    ensure!(rules["metadata"]["labels"]["release"] == "prometheus", "{rules}");
    let file: Value = serde_saphyr::from_str(ALERTS)?;
    ensure!(rules["spec"] == file, "{rules}");
    Ok(())
}

fn of_control(objects: &Objects) -> Result<()> {
    let monitor = objects.one("ServiceMonitor", CONTROL)?;
    ensure!(monitor["metadata"]["labels"]["release"] == "prometheus", "{monitor}");
    let service = objects.one("Service", CONTROL)?;
    let selector = at(monitor, "spec.selector.matchLabels").as_object().context("a selector")?;
    ensure!(selector.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value), "{monitor}");
    let port = &monitor["spec"]["endpoints"][0]["port"];
    let ports = service["spec"]["ports"].as_array().context("ports")?;
    ensure!(ports.iter().any(|one| one["name"] == *port && one["port"] == 15014), "{port} of {service}");
    Ok(())
}
