//! Descriptions for people.

use std::fmt::Write as _;

use serde::Serialize;
use underpass_telemetry::admin::view::{Backend, PodDescription, Policy, PortMtls, ServiceDescription};

use crate::{
    output::{Colour, one_line},
    table::{Cell, Table, Tone, list},
};

/// Said of a pod outside the mesh, also where policies select it.
const NOT_EVALUATED: &str = "no policy is evaluated for a pod that is not in the mesh";

/// Lines of a subject and what is said of it.
struct Lines {
    out: String,
    colour: Colour,
}

impl Lines {
    fn say(&mut self, what: &str, tone: Tone, says: &str) {
        let what = self.colour.faint(&format!("{what:<14}"));
        let _ = writeln!(self.out, "{what}{}", tone.paint(self.colour, &one_line(says))); // a String takes all
    }
}

pub(super) fn pod(p: &PodDescription, colour: Colour) -> String {
    let mut lines = Lines { out: String::new(), colour };
    let w = &p.workload;
    let node = w.node.as_deref().unwrap_or("no node");
    lines.say("pod", Tone::Plain, &format!("{}/{} on {node} ({})", w.namespace, w.name, list(&w.addresses)));
    let (tone, word) = if w.in_mesh { (Tone::Good, "yes") } else { (Tone::Bad, "no") };
    lines.say("in the mesh", tone, &format!("{word}: {}", w.because));
    if let Some(state) = &w.state {
        let tone = if state.problem.is_some() { Tone::Bad } else { Tone::Plain };
        let problem = state.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        lines.say("on its node", tone, &format!("{}{problem}", state.state));
    }
    if p.host_network {
        lines.say("network", Tone::Plain, "its node's: connections to its addresses are connections to the node");
    }
    lines.say("identity", Tone::Plain, w.identity.as_deref().unwrap_or("none: it is not in the mesh"));
    lines.say("ready", if w.ready { Tone::Good } else { Tone::Bad }, if w.ready { "yes" } else { "no" });
    if let Some(waypoint) = &p.waypoint {
        lines.say("waypoint", Tone::Plain, waypoint);
    }
    let mut title = "services";
    for backend in &p.services {
        lines.say(title, Tone::Plain, &service_line(backend));
        title = "";
    }
    if p.services.is_empty() {
        lines.say("services", Tone::Plain, "none: it is the backend of no service");
    }
    mtls(&mut lines, p);
    judged_by(&mut lines, &p.policies);
    if !w.in_mesh && !p.policies.is_empty() {
        lines.say("", Tone::Bad, NOT_EVALUATED);
    }
    lines.out
}

fn service_line(backend: &Backend) -> String {
    let ports = backend.ports.iter().map(|(port, target)| match port == target {
        true => port.to_string(),
        false => format!("{port}->{target}"),
    });
    let ports = if backend.ports.is_empty() { "none of its ports is this pod's".to_owned() } else { list(ports) };
    let ready = if backend.ready { "" } else { " (not ready)" };
    format!("{}: {ports}{ready}", backend.service)
}

fn mtls(lines: &mut Lines, p: &PodDescription) {
    let says = |mtls: &PortMtls| {
        let by = mtls
            .by
            .as_ref()
            .map_or_else(|| "no PeerAuthentication applies".to_owned(), |by| format!("PeerAuthentication {by}"));
        format!("{}, {} ({by})", mtls.mode, accepts(mtls))
    };
    let other = if p.ports.is_empty() { "" } else { "other ports: " };
    lines.say("mutual TLS", Tone::Plain, &format!("{other}{}", says(&p.mtls)));
    for (port, mtls) in &p.ports {
        lines.say("", Tone::Plain, &format!("port {port}: {}", says(mtls)));
    }
}

fn accepts(mtls: &PortMtls) -> &'static str {
    if mtls.mode == "STRICT" { "mutual TLS only" } else { "mutual TLS and plaintext" }
}

fn judged_by(lines: &mut Lines, policies: &[Policy]) {
    let mut title = "policies";
    for p in policies {
        let dry_run = if p.dry_run { " (dry run)" } else { "" };
        let rules = if p.rules == 1 { "1 rule".to_owned() } else { format!("{} rules", p.rules) };
        lines.say(
            title,
            Tone::Plain,
            &format!("{}{dry_run} {}/{}: {}, {rules}", p.action, p.namespace, p.name, p.scope),
        );
        title = "";
        p.notes.iter().for_each(|note| lines.say("", Tone::Bad, &format!("  {note}")));
    }
    if policies.is_empty() {
        lines.say(title, Tone::Plain, "no AuthorizationPolicy selects it: every caller is allowed");
    }
}

pub(super) fn service(s: &ServiceDescription, colour: Colour) -> String {
    let mut lines = Lines { out: String::new(), colour };
    let service = &s.service;
    let addresses = if service.vips.is_empty() { service.r#type.clone() } else { list(&service.vips) };
    lines.say("service", Tone::Plain, &format!("{}/{} ({addresses})", service.namespace, service.name));
    lines.say("host", Tone::Plain, &service.host);
    let (tone, word) = if service.in_mesh { (Tone::Good, "yes") } else { (Tone::Plain, "no: none of its pods is") };
    lines.say("in the mesh", tone, word);
    let ports = service.ports.iter().map(|p| match p.target == p.port.to_string() {
        true => p.port.to_string(),
        false => format!("{}->{}", p.port, p.target),
    });
    lines.say("ports", Tone::Plain, &list(ports));
    if let Some(waypoint) = &service.waypoint {
        lines.say("waypoint", Tone::Plain, waypoint);
    }
    let ready = service.endpoints.iter().filter(|e| e.ready).count();
    lines.say("endpoints", Tone::Plain, &format!("{ready} of {} ready", service.endpoints.len()));
    for one in &s.pods {
        lines.out.push('\n');
        lines.out += &pod(one, colour);
    }
    lines.out
}

/// A policy that selects a pod.
#[derive(Debug, Serialize)]
pub(super) struct Judging<'a> {
    /// Else it is not evaluated for this pod.
    in_mesh: bool,
    #[serde(flatten)]
    policy: &'a Policy,
}

pub(super) fn judging(p: &PodDescription) -> Vec<Judging<'_>> {
    p.policies.iter().map(|policy| Judging { in_mesh: p.workload.in_mesh, policy }).collect()
}

pub(super) fn policies(p: &PodDescription, colour: Colour) -> String {
    let mut table = Table::new(&["ACTION", "POLICY", "APPLIES TO", "RULES", "NEEDS WAYPOINT", "NOTES"]);
    let in_mesh = p.workload.in_mesh;
    for p in &p.policies {
        let dry_run = if p.dry_run { " (dry run)" } else { "" };
        table.row(vec![
            Cell::from(format!("{}{dry_run}", p.action)),
            Cell::from(format!("{}/{}", p.namespace, p.name)),
            Cell::from(&p.scope),
            Cell::from(p.rules.to_string()),
            Cell::new(p.needs_waypoint.join(", "), Tone::Bad),
            Cell::from(p.notes.join("; ")),
        ]);
    }
    let mut out = table.text(colour, "no AuthorizationPolicy selects it: every caller is allowed");
    if !in_mesh {
        out += &format!("{}\n", Tone::Bad.paint(colour, NOT_EVALUATED));
    }
    out
}

/// What one port of a pod accepts.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    pod: String,
    /// The service that leads to it, namespace/name:port; none: its other ports.
    service: Option<String>,
    /// The pod's port; none: every other one.
    port: Option<u16>,
    in_mesh: bool,
    #[serde(flatten)]
    mtls: PortMtls,
}

/// The ports that services lead to, those that a PeerAuthentication names, and all others.
pub(super) fn ports(pods: &[PodDescription]) -> Vec<Checked> {
    let mut all = Vec::new();
    for p in pods {
        let pod = format!("{}/{}", p.workload.namespace, p.workload.name);
        let mut check = |service: Option<String>, port: Option<u16>| {
            let mtls = port.map_or(&p.mtls, |port| p.mtls_of(port)).clone();
            all.push(Checked { pod: pod.clone(), service, port, in_mesh: p.workload.in_mesh, mtls });
        };
        let served =
            p.services.iter().flat_map(|s| s.ports.iter().map(move |(port, target)| (&s.service, port, target)));
        let served: Vec<_> = served.collect();
        for (service, port, target) in &served {
            check(Some(format!("{service}:{port}")), Some(**target));
        }
        for port in p.ports.keys().filter(|port| served.iter().all(|(.., target)| target != port)) {
            check(None, Some(*port));
        }
        check(None, None);
    }
    all
}

pub(super) fn ports_table(all: &[Checked], colour: Colour) -> String {
    let mut table = Table::new(&["POD", "PORT", "SERVICE", "MODE", "ACCEPTS", "POLICY"]);
    for one in all {
        let (mode, accepts) = match one.in_mesh {
            true => (one.mtls.mode.as_str(), accepts(&one.mtls)),
            false => ("", "plaintext: it is not in the mesh"),
        };
        table.row(vec![
            Cell::from(&one.pod),
            Cell::from(one.port.map_or_else(|| "others".to_owned(), |port| port.to_string())),
            Cell::from(one.service.as_deref().unwrap_or_default()),
            Cell::new(mode, if mode == "STRICT" { Tone::Good } else { Tone::Plain }),
            Cell::from(accepts),
            Cell::from(one.mtls.by.as_deref().unwrap_or_default()),
        ]);
    }
    table.text(colour, "no pods")
}
