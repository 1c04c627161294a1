//! `underpass-control self-test`: the server and the callers of `helm test`, which shows in the user's cluster that the mesh refuses what it has
//! to, and carries the rest.
//!
//! The server has two ports. A policy guards one: mutual TLS alone, of one identity. The other takes every call. A caller looks at both, so that
//! neither a refusal nor an answer can have another cause: what is refused at one port is answered at the other by the same process.
//!
//! What must hold: an answer is the server's own, not that of another program at its port; silence is no refusal; and it ends in time with the reason of
//! the last look.

use std::{ffi::OsString, io, net::Ipv6Addr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::config::seconds;

/// The first argument of this command.
const NAME: &str = "self-test";
/// What a caller says; a server says it back.
const WORDS: &[u8] = b"underpass self-test\n";
/// The longest time for one call.
const CALL: Duration = Duration::from_secs(5);
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// The value of the annotation `ambient.istio.io/redirection` of a captured pod.
const CAPTURED: &str = "enabled";

/// The parts of `helm test`. The chart runs them in pods of their own.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-control self-test", bin_name = "underpass-control self-test", version)]
pub struct Command {
    #[command(subcommand)]
    part: Part,
}

#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// Answers calls at two ports, both of which are open before the first call is answered.
    Serve {
        /// The port that a policy guards.
        #[arg(long, value_name = "PORT")]
        guarded: u16,
        /// The port that takes every call.
        #[arg(long, value_name = "PORT")]
        open: u16,
    },
    /// Calls the server at both ports until what it sees is what its role must see.
    ///
    /// Exit status: 0, it is; 1, it was not in time, and the last reason is named.
    Call(Call),
}

/// One caller.
#[derive(Clone, Debug, Args)]
struct Call {
    /// Who calls.
    #[arg(long = "as", value_name = "ROLE")]
    role: Role,
    /// The port that a policy guards.
    #[arg(long, value_name = "HOST:PORT")]
    guarded: String,
    /// The port that takes every call.
    #[arg(long, value_name = "HOST:PORT")]
    open: String,
    /// A file with the value of this pod's annotation ambient.istio.io/redirection.
    #[arg(long, value_name = "FILE")]
    redirection: PathBuf,
    /// The longest time until it sees what it must, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    timeout: Duration,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// In the mesh, of the identity that the policy allows: answered at both ports.
    Allowed,
    /// In the mesh, of another identity: refused at the guarded port.
    Denied,
    /// Outside the mesh, without TLS: refused at the guarded port.
    Outside,
}

/// What became of one call.
#[derive(Debug)]
enum Reply {
    /// The server's own answer.
    Answered,
    /// A connection that was refused, or ended without an answer.
    Refused(io::Error),
    /// Neither in time, or the name of the server is not known.
    None(io::Error),
}

/// What a caller sees at once, in this order.
#[derive(Debug)]
struct Look {
    /// The value of its pod's annotation.
    redirection: String,
    /// The replies at the open port, the guarded one, and the open one again.
    open: Reply,
    guarded: Reply,
    open_again: Reply,
}

/// Why a role does not see what it must.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(
        "this pod is not in the mesh: its annotation ambient.istio.io/redirection is {0:?}. Is a ready agent on its node?"
    )]
    NotCaptured(String),
    #[error("this pod is in the mesh, though its label istio.io/dataplane-mode is none")]
    Captured,
    #[error("{port}, which takes every call, does not answer")]
    Unanswered { port: String, source: io::Error },
    #[error(
        "{0}, which a policy guards, answers: the policies are not in force on the server's node, or it is not in the mesh"
    )]
    Unguarded(String),
    #[error("{port}, which a policy guards, refuses the identity that the policy allows")]
    AllowedRefused { port: String, source: io::Error },
    #[error("{port}, which a policy guards, neither answers nor refuses: does something else drop the packets?")]
    Silent { port: String, source: io::Error },
}

/// A part that failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A runtime for the calls.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// The server.
    #[error("cannot serve port {port}")]
    Serve { port: u16, source: io::Error },
    /// The file of the annotation.
    #[error("cannot read {path}", path = .path.display())]
    Redirection { path: PathBuf, source: io::Error },
    /// The last reason, when the time was over.
    #[error("{role}: not within {} s", .timeout.as_secs())]
    Late { role: &'static str, timeout: Duration, source: Reason },
}

impl Command {
    /// Parses the command line, where it is this command's.
    #[must_use]
    pub fn parse_own(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<Self, clap::Error>> {
        let program = arguments.next()?;
        let first = arguments.next()?;
        (first == NAME).then(|| Self::try_parse_from(std::iter::once(program).chain(arguments)))
    }

    /// Serves without an end, or calls; says on standard output what came of it.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.map_err(Failure::Runtime).and_then(|runtime| runtime.block_on(self.part.run())) {
            Ok(seen) => {
                println!("{seen}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("underpass-control self-test: {}", crate::chain(&failure));
                ExitCode::FAILURE
            }
        }
    }
}

impl Part {
    async fn run(&self) -> Result<String, Failure> {
        match self {
            Self::Serve { guarded, open } => serve(*guarded, *open).await.map(|never| match never {}),
            Self::Call(call) => call.until_seen().await,
        }
    }
}

/// Answers at both ports.
async fn serve(guarded: u16, open: u16) -> Result<std::convert::Infallible, Failure> {
    let bind = async |port: u16| {
        // Of both families where the node has both.
        let all = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
            bound => bound,
        };
        all.map_err(|source| Failure::Serve { port, source })
    };
    let (guarded, open) = (bind(guarded).await?, bind(open).await?);
    loop {
        let accepted = tokio::select! { one = guarded.accept() => one, one = open.accept() => one };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(timeout(CALL, answer(stream)))),
            // Too many descriptors: those that are open end in time.
            Err(_) => sleep(LOOK).await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut said = [0; WORDS.len()];
    stream.read_exact(&mut said).await?;
    stream.write_all(&said).await?;
    stream.shutdown().await
}

impl Call {
    /// Looks until it sees what it must, and says what.
    async fn until_seen(&self) -> Result<String, Failure> {
        let until = Instant::now() + self.timeout;
        loop {
            let reason = match self.role.judge(&self.look().await?, self) {
                Ok(seen) => return Ok(seen),
                Err(reason) => reason,
            };
            if Instant::now() >= until {
                return Err(Failure::Late { role: self.role.name(), timeout: self.timeout, source: reason });
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self) -> Result<Look, Failure> {
        let redirection = std::fs::read_to_string(&self.redirection);
        let redirection =
            redirection.map_err(|source| Failure::Redirection { path: self.redirection.clone(), source })?;
        Ok(Look {
            redirection: redirection.trim().to_owned(),
            open: reply(&self.open).await,
            guarded: reply(&self.guarded).await,
            open_again: reply(&self.open).await,
        })
    }
}

/// What becomes of a call to a port.
async fn reply(port: &str) -> Reply {
    match timeout(CALL, call(port)).await {
        Ok(reply) => reply,
        Err(_) => {
            Reply::None(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CALL.as_secs())))
        }
    }
}

async fn call(port: &str) -> Reply {
    let addresses: Vec<_> = match tokio::net::lookup_host(port).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Reply::None(error),
    };
    let talk = async {
        let mut stream = TcpStream::connect(&addresses[..]).await?;
        stream.write_all(WORDS).await?;
        let mut heard = [0; WORDS.len()];
        stream.read_exact(&mut heard).await?;
        if heard == WORDS { Ok(()) } else { Err(io::Error::other("another program answers")) }
    };
    match talk.await {
        Ok(()) => Reply::Answered,
        Err(error) if is_refusal(error.kind()) => Reply::Refused(error),
        Err(error) => Reply::None(error),
    }
}

/// Whether an error says that the other end was reached and does not want the call.
fn is_refusal(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Outside => "outside",
        }
    }

    /// What this role has seen, in words, or why it is not what it must see.
    fn judge(self, look: &Look, call: &Call) -> Result<String, Reason> {
        match (self, look.redirection == CAPTURED) {
            (Self::Allowed | Self::Denied, false) => return Err(Reason::NotCaptured(look.redirection.clone())),
            (Self::Outside, true) => return Err(Reason::Captured),
            _ => {}
        }
        for open in [&look.open, &look.open_again] {
            if let Reply::Refused(error) | Reply::None(error) = open {
                return Err(Reason::Unanswered { port: call.open.clone(), source: copy(error) });
            }
        }
        let port = call.guarded.clone();
        match (self, &look.guarded) {
            (_, Reply::None(error)) => Err(Reason::Silent { port, source: copy(error) }),
            (Self::Allowed, Reply::Answered) => {
                Ok("allowed: the identity that the policy names is answered where plaintext is refused".to_owned())
            }
            (Self::Allowed, Reply::Refused(error)) => Err(Reason::AllowedRefused { port, source: copy(error) }),
            (Self::Denied, Reply::Refused(error)) => {
                Ok(format!("denied: another identity is refused ({error}), and answered where no policy asks for one"))
            }
            (Self::Outside, Reply::Refused(error)) => {
                Ok(format!("outside: plaintext is refused ({error}), and answered where no policy forbids it"))
            }
            (Self::Denied | Self::Outside, Reply::Answered) => Err(Reason::Unguarded(port)),
        }
    }
}

/// An error of this kind and text.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_as(role: Role, guarded: &str, open: &str, redirection: &str) -> Call {
        Call {
            role,
            guarded: guarded.to_owned(),
            open: open.to_owned(),
            redirection: redirection.into(),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn each_role_must_see_both_ports() {
        let answered = || Reply::Answered;
        let refused = || Reply::Refused(io::ErrorKind::ConnectionReset.into());
        let silent = || Reply::None(io::ErrorKind::TimedOut.into());
        let check = |role, redirection: &str, [open, guarded, open_again]: [Reply; 3], expected: &str| {
            let look = Look { redirection: redirection.to_owned(), open, guarded, open_again };
            let said = match role_judges(role, &look) {
                Ok(seen) => format!("ok {seen}"),
                Err(reason) => reason.to_string(),
            };
            assert!(said.contains(expected), "{look:?}: {said}");
        };
        for (role, redirection) in [(Role::Allowed, "enabled"), (Role::Denied, "enabled"), (Role::Outside, "")] {
            // Without a network, and where it goes in between, a refusal says nothing.
            check(role, redirection, [refused(), refused(), refused()], "which takes every call, does not answer");
            check(role, redirection, [answered(), refused(), silent()], "which takes every call, does not answer");
            check(role, redirection, [answered(), silent(), answered()], "neither answers nor refuses");
        }
        check(Role::Allowed, "enabled", [answered(), answered(), answered()], "ok allowed");
        check(Role::Allowed, "enabled", [answered(), refused(), answered()], "refuses the identity");
        check(Role::Allowed, "", [answered(), answered(), answered()], "is not in the mesh");
        check(Role::Denied, "enabled", [answered(), refused(), answered()], "ok denied");
        check(Role::Denied, "enabled", [answered(), answered(), answered()], "not in force");
        // Plaintext is refused as well: by STRICT, not for its identity.
        check(Role::Denied, "", [answered(), refused(), answered()], "is not in the mesh");
        check(Role::Outside, "", [answered(), refused(), answered()], "ok outside");
        check(Role::Outside, "", [answered(), answered(), answered()], "not in force");
        check(Role::Outside, "enabled", [answered(), refused(), answered()], "is in the mesh");
    }

    fn role_judges(role: Role, look: &Look) -> Result<String, Reason> {
        role.judge(look, &call_as(role, "server:1", "server:2", ""))
    }

    #[tokio::test]
    async fn only_the_servers_own_answer_counts() {
        let listener = || async {
            let bound = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = bound.local_addr().unwrap().to_string();
            (bound, address)
        };
        let (server, address) = listener().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                answer(stream).await.unwrap();
            }
        });
        assert!(matches!(reply(&address).await, Reply::Answered));
        // It accepts, and ends.
        let (ends, address) = listener().await;
        tokio::spawn(async move { while ends.accept().await.is_ok() {} });
        assert!(matches!(reply(&address).await, Reply::Refused(_)));
        // It says something else.
        let (other, address) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = other.accept().await {
                stream.write_all(&[b'x'; WORDS.len()]).await.unwrap();
            }
        });
        let said = reply(&address).await;
        assert!(!matches!(said, Reply::Answered), "{said:?}");
        let (closed, address) = listener().await;
        drop(closed);
        assert!(matches!(reply(&address).await, Reply::Refused(_)));
        assert!(matches!(reply("no-such-host.invalid:1").await, Reply::None(_)));
    }

    #[tokio::test]
    async fn it_ends_in_time_with_the_last_reason() {
        let file = std::env::temp_dir().join(format!("underpass-self-test-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let path = file.to_str().unwrap();
        let call = call_as(Role::Denied, "no-such-host.invalid:1", "no-such-host.invalid:2", path);
        let failure = call.until_seen().await.unwrap_err();
        assert!(matches!(failure, Failure::Late { source: Reason::NotCaptured(_), .. }), "{failure:?}");
        std::fs::write(&file, "enabled\n").unwrap();
        let failure = call.until_seen().await.unwrap_err();
        assert!(matches!(failure, Failure::Late { source: Reason::Unanswered { .. }, .. }), "{failure:?}");
        std::fs::remove_file(&file).unwrap();
        let failure = call.until_seen().await.unwrap_err();
        assert!(matches!(failure, Failure::Redirection { .. }), "{failure:?}");
    }
}
