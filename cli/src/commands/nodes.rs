//! `underpass status` of a cluster: a row for each node, then every problem with its node.

use std::sync::Arc;

use serde::Serialize;
use underpass_kube::pods::ComponentPod;
use underpass_telemetry::admin::view::Status;

use super::status;
use crate::{
    agents::{AgentPod, Every, Fleet},
    args::Shown,
    error::CliError,
    measure,
    output::{self, Colour, Output, one_line},
    show,
    table::{Cell, Table, Tone, list},
};

/// The agent of one node.
#[derive(Debug, Serialize)]
pub(super) struct NodeStatus {
    pub(super) node: Arc<str>,
    /// Its pod, namespace/name.
    pub(super) agent: String,
    /// The image that its object names.
    pub(super) image: Arc<str>,
    /// What the kubelet says of it.
    pub(super) ready: bool,
    /// What it says of itself; none: it gave no answer.
    pub(super) status: Option<Status>,
    /// Why there is no answer.
    pub(super) error: Option<String>,
}

impl NodeStatus {
    pub(super) fn all(every: Every<Status>) -> Vec<Self> {
        every.0.into_iter().map(|(agent, said)| Self::new(agent, said)).collect()
    }

    fn new(AgentPod { node, pod }: AgentPod, said: Result<Status, CliError>) -> Self {
        let ready = pod.is_ready();
        let ComponentPod { name, image, .. } = pod;
        let (status, error) = match said {
            Ok(status) => (Some(status), None),
            Err(e) => (None, Some(e.to_string())),
        };
        Self { node, agent: name.to_string(), image, ready, status, error }
    }

    fn is_well(&self, now: u64) -> bool {
        self.ready && self.status.as_ref().is_some_and(|status| status::is_well(status, now))
    }
}

pub(super) fn run(fleet: &Fleet, shown: Shown) -> Result<Output, CliError> {
    show::run(shown, |style| {
        let all = NodeStatus::all(fleet.every("/status")?);
        let now = show::unix_s();
        let code = if all.iter().all(|node| node.is_well(now)) { output::OK } else { output::NO };
        Ok(Output { code, ..style.render(&all, |wide, colour| text(&all, now, wide, colour))? })
    })
}

pub(super) fn text(all: &[NodeStatus], now: u64, wide: bool, colour: Colour) -> String {
    let head = ["NODE", "READY", "VERSION", "UP", "PODS", "CONNECTIONS", "CERTIFICATES", "CONTROL PLANE", "PROBLEMS"];
    let mut table = Table::new(&[&head[..], if wide { &["AGENT", "IMAGE", "WORLD"] } else { &[] }].concat());
    let mut problems = String::new();
    for node in all {
        let said = problems_of(node, now);
        let is_ready = node.ready && node.status.as_ref().is_some_and(|status| status.waiting.is_empty());
        let mut row = vec![
            Cell::from(&*node.node),
            Cell::new(if is_ready { "yes" } else { "no" }, if is_ready { Tone::Good } else { Tone::Bad }),
        ];
        row.extend(match &node.status {
            None => std::iter::repeat_n(Cell::from(""), 6).collect(),
            Some(status) => numbers(status, now),
        });
        row.push(Cell::new(said.len().to_string(), if said.is_empty() { Tone::Plain } else { Tone::Bad }));
        if wide {
            let world = node.status.as_ref().map(|status| status.world.to_string());
            row.extend([Cell::from(&node.agent), Cell::from(&*node.image), Cell::from(world.unwrap_or_default())]);
        }
        table.row(row);
        let of = match &node.status {
            Some(_) => format!("{}:", one_line(&node.node)),
            None => "no answer:".to_owned(),
        };
        for problem in said {
            problems += &format!("{} {}\n", colour.red(&of), one_line(&problem));
        }
    }
    table.text(colour, "no agents") + &problems
}

fn numbers(status: &Status, now: u64) -> Vec<Cell> {
    let pods = status.pods.by_state.iter().map(|(state, n)| format!("{n} {state}"));
    let (tone, link) = match &status.control_plane {
        Some(control_plane) => super::proxy_status::word(control_plane),
        None => (Tone::Plain, ""),
    };
    vec![
        Cell::from(&status.version),
        Cell::from(measure::duration(now.saturating_sub(status.started_unix_s))),
        Cell::from(list(pods)),
        Cell::from(status.connections.to_string()),
        Cell::from(status.certificates.to_string()),
        Cell::new(link, tone),
    ]
}

/// A line each.
pub(super) fn problems_of(node: &NodeStatus, now: u64) -> Vec<String> {
    let Some(status) = &node.status else { return node.error.iter().cloned().collect() };
    let mut all: Vec<String> = status.waiting.iter().map(|gate| format!("{}: {}", gate.part, gate.reason)).collect();
    if !node.ready && all.is_empty() {
        all.push("its pod is not ready by the kubelet's word".to_owned());
    }
    all.extend(status.pods.problems.iter().map(|(pod, problem)| format!("{pod}: {problem}")));
    if status.first_expiry_unix_s.is_some_and(|expiry| expiry <= now) {
        all.push("a certificate has expired".to_owned());
    }
    if status.certificates_not_yet_valid > 0 {
        all.push(format!("{} certificates are not valid yet", status.certificates_not_yet_valid));
    }
    all.extend(status.authority_error.iter().cloned());
    all.extend(status.problems.first.iter().cloned());
    let hidden = status.problems.errors.saturating_sub(status.problems.first.len());
    if hidden > 0 {
        all.push(format!("{hidden} more errors"));
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use expect_test::expect;
    use underpass_telemetry::admin::view::{ControlPlane, Gate, PodCount, ProblemCount};

    use super::*;

    pub(crate) fn status(node: &str) -> Status {
        Status {
            version: "1.2.3".into(),
            node: node.into(),
            started_unix_s: 1_000,
            world: 7,
            objects: std::collections::BTreeMap::new(),
            waiting: Vec::new(),
            pods: PodCount { by_state: [("enrolled".to_owned(), 2)].into(), ..PodCount::default() },
            connections: 3,
            certificates: 2,
            certificates_missing: 0,
            certificates_not_yet_valid: 0,
            first_expiry_unix_s: Some(9_000),
            authority_error: None,
            problems: ProblemCount::default(),
            control_plane: Some(ControlPlane {
                link: ControlPlane::CONNECTED.into(),
                since_unix_s: Some(1_100),
                complete: true,
                version: Some(4_711),
                applied_unix_s: Some(1_190),
                ..ControlPlane::default()
            }),
            waypoints: Vec::new(),
        }
    }

    pub(crate) fn node(name: &str, status: Option<Status>) -> NodeStatus {
        NodeStatus {
            node: name.into(),
            agent: format!("mesh/agent-of-{name}"),
            image: "localhost/underpass:1".into(),
            ready: status.is_some(),
            error: status.is_none().then(|| format!("node {name}: agent mesh/agent-of-{name}: no answer; see logs")),
            status,
        }
    }

    #[test]
    fn each_node_has_a_row_and_each_problem_its_node() {
        let mut unwell = status("n-2");
        unwell.waiting = vec![Gate { part: "certificates".into(), reason: "one is missing".into() }];
        unwell.pods.problems.insert("shop/cart".into(), "no sandbox\n".into());
        unwell.problems = ProblemCount { errors: 3, first: vec!["error: x".into()], ..ProblemCount::default() };
        unwell.control_plane = Some(ControlPlane { link: ControlPlane::LOST.into(), ..ControlPlane::default() });
        let all = vec![node("n-1", Some(status("n-1"))), node("n-2", Some(unwell)), node("n-3", None)];
        expect![[r#"
            NODE  READY  VERSION  UP          PODS        CONNECTIONS  CERTIFICATES  CONTROL PLANE  PROBLEMS
            n-1   yes    1.2.3    3 min 20 s  2 enrolled  3            2             connected      0
            n-2   no     1.2.3    3 min 20 s  2 enrolled  3            2             lost           4
            n-3   no     -        -           -           -            -             -              1
            n-2: certificates: one is missing
            n-2: shop/cart: no sandbox\n
            n-2: error: x
            n-2: 2 more errors
            no answer: node n-3: agent mesh/agent-of-n-3: no answer; see logs
        "#]]
        .assert_eq(&text(&all, 1_200, false, Colour::Never));
        let is_well = |node: &NodeStatus| node.is_well(1_200);
        assert_eq!(all.iter().map(is_well).collect::<Vec<_>>(), [true, false, false]);
        // by the kubelet's word alone
        let unready = NodeStatus { ready: false, ..node("n-1", Some(status("n-1"))) };
        assert!(!unready.is_well(1_200));
        assert_eq!(problems_of(&unready, 1_200), ["its pod is not ready by the kubelet's word"]);
    }
}
