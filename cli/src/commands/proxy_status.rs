//! `underpass proxy-status`: which agent has which facts, and how it fares with the control plane.

use serde::Serialize;
use underpass_telemetry::admin::view::{Behind, ControlPlane, Status};

use super::nodes::NodeStatus;
use crate::{
    agents::Agents,
    args::{Shown, Way},
    error::CliError,
    measure,
    output::{self, Colour, Output, one_line},
    show,
    table::{Cell, Table, Tone},
};

/// Which agent has which facts of the mesh, and how it fares with the control plane.
///
/// FACTS is the version that was applied: the newest resourceVersion of the control plane's API server. Agents that are connected
/// have what it has; one that is `behind` takes nothing away until its control plane has caught up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 every agent is connected and has all facts, 2 one is not, 1 there is no answer."
)]
pub(crate) struct ProxyStatus {
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    shown: Shown,
}

/// The facts of one agent.
#[derive(Debug, Serialize)]
struct Facts {
    node: String,
    /// Its pod, namespace/name; none: it was asked directly.
    agent: Option<String>,
    version: Option<String>,
    world: Option<u64>,
    objects: usize,
    control_plane: Option<ControlPlane>,
    problems: usize,
    error: Option<String>,
}

pub(crate) fn run(args: &ProxyStatus) -> Result<Output, CliError> {
    let agents = Agents::open(&args.way)?;
    show::run(args.shown, |style| {
        let all = match &agents {
            Agents::Local(agent) => vec![Facts::of(&agent.get("/status")?)],
            Agents::Cluster(fleet) => {
                NodeStatus::all(fleet.every("/status")?).into_iter().map(Facts::of_node).collect()
            }
        };
        let now = show::unix_s();
        let code = if all.iter().all(Facts::is_current) { output::OK } else { output::NO };
        Ok(Output { code, ..style.render(&all, |wide, colour| text(&all, now, wide, colour))? })
    })
}

impl Facts {
    fn of(status: &Status) -> Self {
        Self {
            node: status.node.clone(),
            agent: None,
            version: Some(status.version.clone()),
            world: Some(status.world),
            objects: status.objects.values().sum(),
            control_plane: status.control_plane.clone(),
            problems: status.problems.errors,
            error: None,
        }
    }

    fn of_node(node: NodeStatus) -> Self {
        let known = node.status.as_ref().map(Self::of);
        let unknown = || Self {
            node: String::new(),
            agent: None,
            version: None,
            world: None,
            objects: 0,
            control_plane: None,
            problems: 0,
            error: node.error,
        };
        Self { node: node.node.to_string(), agent: Some(node.agent), ..known.unwrap_or_else(unknown) }
    }

    /// It answers, has all facts, and gets more of them; an agent without a control plane reads its manifests.
    fn is_current(&self) -> bool {
        let is_current = |c: &ControlPlane| c.link == ControlPlane::CONNECTED && c.complete && c.behind.is_none();
        self.error.is_none() && self.problems == 0 && self.control_plane.as_ref().is_none_or(is_current)
    }
}

fn text(all: &[Facts], now: u64, wide: bool, colour: Colour) -> String {
    let head = ["NODE", "AGENT", "VERSION", "FACTS", "CONTROL PLANE", "LAST UPDATE", "PROBLEMS"];
    let mut table = Table::new(&[&head[..], if wide { &["WORLD", "OBJECTS"] } else { &[] }].concat());
    let mut silent = String::new();
    for one in all {
        let facts = one.control_plane.as_ref().and_then(|c| c.version).map(|version| version.to_string());
        let applied = one.control_plane.as_ref().and_then(|c| c.applied_unix_s);
        let (tone, linked) = match &one.control_plane {
            Some(control_plane) => link(control_plane, now),
            None => (Tone::Plain, String::new()),
        };
        let problems = if one.error.is_some() { "no answer".to_owned() } else { one.problems.to_string() };
        let is_bad = one.error.is_some() || one.problems > 0;
        let mut row = vec![
            Cell::from(&one.node),
            Cell::from(one.agent.as_deref().unwrap_or_default()),
            Cell::from(one.version.as_deref().unwrap_or_default()),
            Cell::from(facts.unwrap_or_default()),
            Cell::new(linked, tone),
            Cell::from(applied.map(|at| ago(at, now)).unwrap_or_default()),
            Cell::new(problems, if is_bad { Tone::Bad } else { Tone::Plain }),
        ];
        if wide {
            row.push(Cell::from(one.world.map(|world| world.to_string()).unwrap_or_default()));
            row.push(Cell::from(one.objects.to_string()));
        }
        table.row(row);
        if let Some(error) = &one.error {
            silent += &format!("{} {}\n", colour.red("no answer:"), one_line(error));
        }
    }
    table.text(colour, "no agents") + &silent
}

fn ago(at: u64, now: u64) -> String {
    format!("{} ago", measure::duration(now.saturating_sub(at)))
}

/// The state in a word.
pub(super) fn word(c: &ControlPlane) -> (Tone, &str) {
    match &*c.link {
        _ if c.behind.is_some() => (Tone::Bad, "behind"),
        ControlPlane::CONNECTED if !c.complete => (Tone::Bad, "incomplete"),
        ControlPlane::CONNECTED => (Tone::Good, ControlPlane::CONNECTED),
        other => (Tone::Bad, other),
    }
}

/// The state, since when, and why.
pub(super) fn link(c: &ControlPlane, now: u64) -> (Tone, String) {
    let (tone, word) = word(c);
    let since = c.since_unix_s.map(|since| measure::duration(now.saturating_sub(since)));
    let mut says = match (&*c.link, since) {
        (ControlPlane::LOST, Some(since)) => format!("{word} {since} ago"),
        (_, Some(since)) => format!("{word} for {since}"),
        (_, None) => word.to_owned(),
    };
    if let Some(Behind { kind, applied, known }) = &c.behind {
        says += &format!(", it knows {kind} up to version {known}, not {applied}");
    }
    if c.cached_unix_s.is_some() {
        says += ", serves kept facts";
    } else if !c.complete {
        says += ", facts are missing";
    }
    if let Some(reason) = &c.reason {
        says += &format!(": {reason}");
    }
    (tone, says)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::commands::nodes::tests::{node, status};

    fn with(change: impl FnOnce(&mut ControlPlane)) -> Facts {
        let mut status = status("n-2");
        change(status.control_plane.as_mut().unwrap());
        Facts::of_node(node("n-2", Some(status)))
    }

    #[test]
    fn each_agent_says_what_it_has() {
        let all = vec![
            Facts::of_node(node("n-1", Some(status("n-1")))),
            with(|c| {
                (c.link, c.since_unix_s) = (ControlPlane::LOST.into(), Some(1_140));
                c.reason = Some("Unavailable: refused\n".into());
            }),
            with(|c| c.behind = Some(Behind { kind: "Pod".into(), applied: 4_711, known: 4_000 })),
            with(|c| (c.complete, c.version, c.applied_unix_s) = (false, None, None)),
            with(|c| *c = ControlPlane { link: ControlPlane::CONNECTING.into(), ..ControlPlane::default() }),
            with(|c| {
                (c.link, c.since_unix_s) = (ControlPlane::LOST.into(), Some(1_140));
                (c.complete, c.applied_unix_s, c.cached_unix_s) = (false, Some(900), Some(900));
                c.reason = Some("Unavailable: refused".into());
            }),
            Facts::of_node(node("n-3", None)),
        ];
        assert_eq!(
            all.iter().map(Facts::is_current).collect::<Vec<_>>(),
            [true, false, false, false, false, false, false]
        );
        expect![[r#"
            NODE  AGENT              VERSION  FACTS  CONTROL PLANE                                                     LAST UPDATE  PROBLEMS   WORLD  OBJECTS
            n-1   mesh/agent-of-n-1  1.2.3    4711   connected for 1 min 40 s                                          10 s ago     0          7      0
            n-2   mesh/agent-of-n-2  1.2.3    4711   lost 1 min ago: Unavailable: refused\n                            10 s ago     0          7      0
            n-2   mesh/agent-of-n-2  1.2.3    4711   behind for 1 min 40 s, it knows Pod up to version 4000, not 4711  10 s ago     0          7      0
            n-2   mesh/agent-of-n-2  1.2.3    -      incomplete for 1 min 40 s, facts are missing                      -            0          7      0
            n-2   mesh/agent-of-n-2  1.2.3    -      connecting, facts are missing                                     -            0          7      0
            n-2   mesh/agent-of-n-2  1.2.3    4711   lost 1 min ago, serves kept facts: Unavailable: refused           5 min ago    0          7      0
            n-3   mesh/agent-of-n-3  -        -      -                                                                 -            no answer  -      0
            no answer: node n-3: agent mesh/agent-of-n-3: no answer; see logs
        "#]].assert_eq(&text(&all, 1_200, true, Colour::Never));
    }
}
