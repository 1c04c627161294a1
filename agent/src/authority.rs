//! `underpass-agent ca`: the operator's command for the embedded CA. The agents need no notice: each of them looks at the state
//! directory itself. A room of its own because it is another program than the agent, and only shares its file.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand};
use underpass_core::TrustDomain;
use underpass_identity::{
    Error,
    rotation::{
        Phase, Status,
        directory::{self as rotation, NOTICED_AFTER},
    },
};

/// Shows the embedded certificate authority, or replaces its root in three steps: `prepare`, `activate`, `retire`.
///
/// No connection fails if each step has its time: until every agent has noticed the step before, and no certificate of the old
/// root is in use any more. A step that comes too early is refused.
#[derive(Debug, Parser)]
#[command(name = "underpass-agent ca", version)]
pub struct Command {
    #[command(subcommand)]
    step: Step,
}

#[derive(Clone, Debug, Subcommand)]
enum Step {
    /// Shows the roots, and the step of a rotation.
    Status(Location),
    /// Makes a new root, which every agent trusts from now on; the old one goes on signing.
    Prepare(Location),
    /// Lets the new root sign; the old one stays trusted. Every agent renews its certificates at once.
    Activate(Early),
    /// Stops trusting the old root. Connections whose peer was verified by it are reset.
    Retire {
        #[command(flatten)]
        early: Early,
        /// The longest --certificate-lifetime of any agent: the time after `activate` for which the old root may be in use.
        #[arg(long, env = "UNDERPASS_CERTIFICATE_LIFETIME", value_name = "DURATION", default_value = "24h", value_parser = crate::config::lifetime)]
        certificate_lifetime: Duration,
    },
}

#[derive(Clone, Debug, Args)]
struct Location {
    /// The state directory of the agents.
    #[arg(long, env = "UNDERPASS_STATE", value_name = "DIR", default_value = "/var/lib/underpass")]
    state: PathBuf,
    /// The trust domain of the mesh.
    #[arg(long, env = "UNDERPASS_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
}

#[derive(Clone, Debug, Args)]
struct Early {
    #[command(flatten)]
    location: Location,
    /// Skip the wait for every agent to notice the step before, where you have checked that yourself.
    #[arg(long)]
    now: bool,
}

impl Command {
    /// Parses the command line, where it is this command's.
    #[must_use]
    pub fn parse_own(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<Self, clap::Error>> {
        let program = arguments.next()?;
        let first = arguments.next()?;
        (first == "ca").then(|| Self::try_parse_from(std::iter::once(program).chain(arguments)))
    }

    /// Runs the command, and prints its result.
    #[must_use]
    pub fn run(self, now: SystemTime) -> ExitCode {
        match self.step.take(now) {
            Ok(status) => {
                print!("{}", text(&status, now));
                ExitCode::SUCCESS
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                eprintln!("underpass-agent ca: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Step {
    fn take(self, now: SystemTime) -> Result<Status, Error> {
        let dir = |location: &Location| crate::certs::directory(&location.state);
        let wait = |early: &Early, wait: Duration| if early.now { Duration::ZERO } else { wait };
        match self {
            Self::Status(location) => rotation::status(&dir(&location), &location.trust_domain, now),
            Self::Prepare(location) => rotation::prepare(&dir(&location), &location.trust_domain, now),
            Self::Activate(early) => {
                let settled = wait(&early, NOTICED_AFTER);
                rotation::activate(&dir(&early.location), &early.location.trust_domain, now, settled)
            }
            Self::Retire { early, certificate_lifetime } => {
                let settled = wait(&early, certificate_lifetime);
                rotation::retire(&dir(&early.location), &early.location.trust_domain, now, settled)
            }
        }
    }
}

fn text(status: &Status, now: SystemTime) -> String {
    let mut text = String::new();
    let since = now.duration_since(status.since).unwrap_or_default().as_secs();
    let phase = match status.phase {
        Phase::Steady => "steady".to_owned(),
        phase => format!("{phase} {since} s ago"),
    };
    // Writing to a String does not fail.
    let _ = writeln!(text, "{phase}: {}", status.phase.next_step());
    for (role, root) in &status.roots {
        let days = root.not_after().duration_since(now).unwrap_or_default().as_secs() / (24 * 3600);
        let _ = writeln!(text, "{:<5}  {}  valid for {days} more days", role.as_str(), root.serial());
    }
    text
}

#[cfg(test)]
mod tests {
    use underpass_identity::Authority;

    use super::*;

    fn run(arguments: &[&str], state: &std::path::Path, later: Duration) -> Result<String, String> {
        let location = ["--state", state.to_str().unwrap()];
        let all = ["underpass-agent", "ca"].iter().chain(arguments).chain(&location).map(OsString::from);
        let command = Command::parse_own(all).expect("ours").map_err(|e| e.to_string())?;
        let now = SystemTime::now() + later;
        command.step.take(now).map(|status| text(&status, now)).map_err(|e| e.to_string())
    }

    fn check(result: Result<String, String>, says: &[&str]) {
        let text = result.unwrap_or_else(|error| error);
        assert!(says.iter().all(|word| text.contains(word)), "{says:?}: {text}");
    }

    #[test]
    fn a_rotation_as_an_operator_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let (state, none) = (folder.path(), Duration::ZERO);
        check(run(&["status"], state, none), &["cannot inspect"]);
        Authority::open(&state.join("ca"), &TrustDomain::default(), SystemTime::now()).unwrap();
        check(run(&["status"], state, none), &["steady: `prepare` begins one", "signs", "valid for 3649 more days"]);
        check(run(&["activate"], state, none), &["no rotation is at this step: `prepare` begins one"]);
        check(run(&["prepare"], state, none), &["prepared 0 s ago: next is `activate`", "signs", "next "]);
        check(run(&["prepare"], state, none), &["a rotation is under way: next is `activate`"]);
        check(run(&["activate"], state, none), &["too early: wait for 10 more seconds"]);
        check(run(&["activate"], state, NOTICED_AFTER), &["next is `retire`", "signs", "old "]);
        check(run(&["retire"], state, Duration::from_secs(86_000)), &["too early: wait for"]);
        check(run(&["retire", "--now"], state, none), &["steady"]);
        check(run(&["prepare"], state, none), &["prepared"]);
        check(run(&["activate", "--now"], state, none), &["activated"]);
        check(run(&["retire", "--certificate-lifetime", "60"], state, Duration::from_secs(61)), &["steady"]);
        check(run(&["retire", "--trust-domain", "other.org"], state, none), &["trust domain", "other.org"]);
    }

    #[test]
    fn other_command_lines_are_the_agents() {
        for arguments in [&["underpass-agent"][..], &["underpass-agent", "--node", "ca"], &[]] {
            assert!(Command::parse_own(arguments.iter().map(OsString::from)).is_none());
        }
        check(run(&["rotate"], std::path::Path::new("/"), Duration::ZERO), &["rotate", "Usage"]);
    }
}
