//! `underpass status`: is all well with this node's agent, and if not, what is it?

use std::fmt::Write as _;

use underpass_telemetry::admin::view::Status;

use crate::{
    args,
    error::CliError,
    measure,
    output::{self, Colour, Output, one_line},
    show,
    source::Asked,
    table::list,
};

pub(crate) fn run(args: &args::Status) -> Result<Output, CliError> {
    let agent = Asked::new(&args.agent)?;
    show::run(args.shown, |look| {
        let status: Status = agent.get("/status")?;
        let now = show::unix_s();
        let code = if is_well(&status, now) { output::OK } else { output::NO };
        Ok(Output { code, ..look.render(&status, |_, colour| text(&status, now, colour))? })
    })
}

/// Ready, every pod gets on, every manifest is served as it is written, no certificate has expired, and
/// the authority that renews them is there.
pub(super) fn is_well(status: &Status, now: u64) -> bool {
    status.waiting.is_empty()
        && status.pods.problems.is_empty()
        && status.problems.errors == 0
        && status.authority_error.is_none()
        && status.first_expiry_unix_s.is_none_or(|expiry| now < expiry)
}

pub(super) fn text(status: &Status, now: u64, colour: Colour) -> String {
    let mut out = String::new();
    let mut say = |what: &str, says: &str| {
        let _ = writeln!(out, "{}{says}", colour.faint(&format!("{what:<14}")));
    };
    let up = measure::duration(now.saturating_sub(status.started_unix_s));
    say("agent", &format!("{} on {}, up {up}", one_line(&status.version), one_line(&status.node)));
    match status.waiting.as_slice() {
        [] => say("ready", &colour.green("yes")),
        waiting => {
            say("ready", &colour.red("no"));
            waiting.iter().for_each(|gate| say("", &one_line(&format!("{}: {}", gate.part, gate.reason))));
        }
    }
    let objects = status.objects.iter().map(|(kind, n)| format!("{n} {kind}"));
    say("World", &format!("version {}: {}", status.world, or_none(list(objects))));
    let pods = status.pods.by_state.iter().map(|(state, n)| format!("{n} {state}"));
    say("pods", &or_none(list(pods)));
    for (pod, problem) in &status.pods.problems {
        say("", &colour.red(&one_line(&format!("{pod}: {problem}"))));
    }
    say("certificates", &certificates(status, now, colour));
    status.authority_error.iter().for_each(|why| say("", &colour.red(&one_line(why))));
    say("connections", &format!("{} open", status.connections));
    let p = &status.problems;
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (errors, warnings) = (counted(p.errors, "error"), counted(p.warnings, "warning"));
    let counts = format!("{errors}, {warnings}, {} not served yet", p.notices);
    say("manifests", &if p.errors > 0 { colour.red(&counts) } else { counts });
    p.first.iter().for_each(|problem| say("", &one_line(problem)));
    out
}

fn certificates(status: &Status, now: u64, colour: Colour) -> String {
    match status.first_expiry_unix_s {
        None => "none".to_owned(),
        Some(expiry) if expiry <= now => colour.red(&format!("{}, one of them has expired", status.certificates)),
        Some(expiry) => {
            format!("{}, the first expires in {}", status.certificates, measure::duration(expiry.saturating_sub(now)))
        }
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
