//! `underpass status` of one agent: its health, and its problems.

use std::fmt::Write as _;

use underpass_telemetry::admin::view::{RunningWaypoint, Status};

use super::nodes;
use crate::{
    agents::Agents,
    args,
    error::CliError,
    measure,
    output::{self, Colour, Output, one_line},
    show,
    table::{Tone, list},
};

pub(crate) fn run(args: &args::Status) -> Result<Output, CliError> {
    let agent = match Agents::open(&args.way)? {
        Agents::Local(agent) => agent,
        Agents::Cluster(fleet) => return nodes::run(&fleet, args.shown),
    };
    show::run(args.shown, |style| {
        let status: Status = agent.get("/status")?;
        let now = show::unix_s();
        let code = if is_well(&status, now) { output::OK } else { output::NO };
        Ok(Output { code, ..style.render(&status, |_, colour| text(&status, now, colour))? })
    })
}

/// Healthy: ready, no pod has a problem, every manifest is served as written, no certificate has expired or begins
/// later, the authority that renews them is there, and no waypoint of the node has ended by itself and is away.
pub(super) fn is_well(status: &Status, now: u64) -> bool {
    status.waiting.is_empty()
        && status.pods.problems.is_empty()
        && status.problems.errors == 0
        && status.authority_error.is_none()
        && status.certificates_not_yet_valid == 0
        && status.waypoints.iter().all(|waypoint| waypoint.state != RunningWaypoint::RESTARTING)
        && status.first_expiry_unix_s.is_none_or(|expiry| now < expiry)
}

pub(super) fn text(status: &Status, now: u64, colour: Colour) -> String {
    let mut out = String::new();
    let mut say = |what: &str, tone: Tone, says: &str| {
        let _ = writeln!(out, "{}{}", colour.faint(&format!("{what:<14}")), tone.paint(colour, &one_line(says)));
    };
    let up = measure::duration(now.saturating_sub(status.started_unix_s));
    say("agent", Tone::Plain, &format!("{} on {}, up {up}", status.version, status.node));
    let is_ready = status.waiting.is_empty();
    say("ready", if is_ready { Tone::Good } else { Tone::Bad }, if is_ready { "yes" } else { "no" });
    status.waiting.iter().for_each(|gate| say("", Tone::Plain, &format!("{}: {}", gate.part, gate.reason)));
    let objects = status.objects.iter().map(|(kind, n)| format!("{n} {kind}"));
    say("World", Tone::Plain, &format!("version {}: {}", status.world, or_none(list(objects))));
    let pods = status.pods.by_state.iter().map(|(state, n)| format!("{n} {state}"));
    say("pods", Tone::Plain, &or_none(list(pods)));
    status.pods.problems.iter().for_each(|(pod, problem)| say("", Tone::Bad, &format!("{pod}: {problem}")));
    for (n, waypoint) in status.waypoints.iter().enumerate() {
        let (tone, says) = waypoint_line(waypoint);
        say(if n == 0 { "waypoints" } else { "" }, tone, &says);
    }
    let (tone, certificates) = certificates(status, now);
    say("certificates", tone, &certificates);
    status.authority_error.iter().for_each(|why| say("", Tone::Bad, why));
    say("connections", Tone::Plain, &format!("{} open", status.connections));
    if let Some(control_plane) = &status.control_plane {
        let (tone, says) = super::proxy_status::link(control_plane, now);
        say("control plane", tone, &says);
    }
    let p = &status.problems;
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (errors, warnings) = (counted(p.errors, "error"), counted(p.warnings, "warning"));
    let tone = if p.errors > 0 { Tone::Bad } else { Tone::Plain };
    say("manifests", tone, &format!("{errors}, {warnings}, {} not served yet", p.notices));
    p.first.iter().for_each(|problem| say("", Tone::Plain, problem));
    out
}

fn waypoint_line(waypoint: &RunningWaypoint) -> (Tone, String) {
    let addresses = waypoint.addresses.iter().map(ToString::to_string);
    let mut says = format!("{} at {}: {}", waypoint.gateway, list(addresses), waypoint.state);
    if let Some(pid) = waypoint.pid {
        let _ = write!(says, ", pid {pid}");
    }
    if waypoint.restarts > 0 {
        let _ = write!(says, ", restarted {} times", waypoint.restarts);
    }
    if let Some(problem) = &waypoint.problem {
        let _ = write!(says, ": {problem}");
    }
    (if waypoint.state == RunningWaypoint::RESTARTING { Tone::Bad } else { Tone::Plain }, says)
}

fn certificates(status: &Status, now: u64) -> (Tone, String) {
    let (is_late, mut says) = match status.first_expiry_unix_s {
        None => (false, "none".to_owned()),
        Some(expiry) if expiry <= now => (true, format!("{}, one of them has expired", status.certificates)),
        Some(expiry) => {
            let left = measure::duration(expiry.saturating_sub(now));
            (false, format!("{}, the first expires in {left}", status.certificates))
        }
    };
    if status.certificates_missing > 0 {
        says += &format!(", {} missing", status.certificates_missing);
    }
    if status.certificates_not_yet_valid > 0 {
        says += &format!(", {} not yet valid", status.certificates_not_yet_valid);
    }
    let is_bad = is_late || status.certificates_missing > 0 || status.certificates_not_yet_valid > 0;
    (if is_bad { Tone::Bad } else { Tone::Plain }, says)
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
