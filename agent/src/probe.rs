//! The probes of a container: is this very process alive, and is it the ready agent of its node? Asked by `underpass-agent probe`
//! over a socket that no other process shares, because the ports of the node and the admin socket answer for whichever agent
//! serves it, and around a take-over that is another one.
//!
//! What must hold: an agent that was taken over from is ready until it is asked to end. A DaemonSet's controller deletes a pod that
//! is not ready at once, and goes on to the next node although the successor's may never become ready.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::{Parser, ValueEnum};
use http::{Method, StatusCode};
use underpass_telemetry::admin::{Client, ClientError, Readiness, Response, Router, Target};

/// The path of liveness.
const LIVE: &str = "/healthz/live";
/// The path of readiness.
const READY: &str = "/healthz/ready";
/// The time for an answer: less than a probe's own, so that its end has a reason.
const ANSWER: Duration = Duration::from_secs(4);

/// Asks the agent of this container whether it is alive or ready, and answers by its exit status.
///
/// Alive: the process answers. Ready: it serves its node, and every part is ready, or another agent has taken over from it and it is
/// not asked to end; else the parts that are not ready are named.
#[derive(Debug, Parser)]
#[command(name = "underpass-agent probe", version)]
pub struct Command {
    /// The question.
    question: Question,
    /// The agent's --probe-socket.
    #[arg(long, env = "UNDERPASS_PROBE_SOCKET", value_name = "PATH")]
    socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    Live,
    Ready,
}

/// No answer, or a bad one.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The agent does not answer, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The agent takes too long.
    #[error("no answer from {} within {} s", socket.display(), ANSWER.as_secs())]
    Late {
        /// The probe socket.
        socket: PathBuf,
    },
    /// A runtime for the question.
    #[error("cannot start a runtime")]
    Runtime(#[source] std::io::Error),
}

impl Command {
    /// Parses the command line, where it is this command's.
    #[must_use]
    pub fn parse_own(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<Self, clap::Error>> {
        let program = arguments.next()?;
        let first = arguments.next()?;
        (first == "probe").then(|| Self::try_parse_from(std::iter::once(program).chain(arguments)))
    }

    /// Asks, and says on standard error why the answer is no.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.ask() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("underpass-agent probe: {:#}", anyhow::Error::new(failure));
                ExitCode::FAILURE
            }
        }
    }

    fn ask(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
        let path = match self.question {
            Question::Live => LIVE,
            Question::Ready => READY,
        };
        let client = Client::new(Target::Unix(self.socket.clone()));
        let asked = runtime.block_on(async { tokio::time::timeout(ANSWER, client.text(path)).await });
        asked.map_err(|_| Failure::Late { socket: self.socket })?.map(drop).map_err(Failure::from)
    }
}

/// Whether a successor serves the node of this agent, which is not asked to end yet.
#[derive(Clone, Debug, Default)]
pub struct Succeeded(Arc<AtomicBool>);

impl Succeeded {
    /// Changes it.
    pub fn set(&self, succeeded: bool) {
        self.0.store(succeeded, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The routes of the probe socket.
#[must_use]
pub fn routes(readiness: &Readiness, succeeded: &Succeeded) -> Router {
    let live = || std::future::ready(Response::json(&serde_json::json!({ "live": true })));
    let (readiness, succeeded) = (readiness.clone(), succeeded.clone());
    let waiting = move || if succeeded.is_set() { Vec::new() } else { readiness.waiting() };
    let router = Router::new().route(Method::GET, LIVE, move |_| live());
    router.route(Method::GET, READY, move |_| std::future::ready(ready(&waiting())))
}

/// Readiness in one line, which a kubelet shows.
fn ready(waiting: &[(&'static str, String)]) -> Response {
    if waiting.is_empty() {
        return Response::json(&serde_json::json!({ "ready": true }));
    }
    let parts: Vec<_> = waiting.iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
    Response::error(StatusCode::SERVICE_UNAVAILABLE, format_args!("not ready: {}", parts.join("; ")))
}
