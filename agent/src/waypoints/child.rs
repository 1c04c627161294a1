//! One process of a waypoint: started inside its network with the two sockets that it has from the agent, spoken to by one of
//! them, and reaped.
//!
//! What must hold: a process is killed by its number only while it is not reaped, so that the number is its own.

use std::{
    ffi::OsString,
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    process::{self, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use underpass_net::{passing::ProcessEnd, system::SystemError};
use underpass_proxy::child::{self, AgentEnd, CONTROL_FD, FromChild, LISTENER_FD, ToChild};

use super::network::Network;

/// The time in which a message has room on its way: a waypoint that reads none for longer hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// The reason why a process cannot be started, or is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Start(#[from] SystemError),
    #[error("cannot watch the process")]
    Watch(#[source] io::Error),
    #[error("cannot talk to it")]
    Control(#[from] child::Error),
    #[error("it has taken no message for {} s", ANSWER.as_secs())]
    Silent,
}

impl Error {
    /// Its end of the socket is closed: how it ended says more.
    pub(super) fn is_gone(&self) -> bool {
        let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        matches!(self, Self::Control(child::Error::Io { source, .. }) if gone.contains(&source.kind()))
    }
}

/// The program, and what it is started with.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

/// A waypoint's process, and the word with it.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) process: Process,
    pub(super) control: Control,
}

/// A process that is not reaped yet.
#[derive(Debug)]
pub(super) struct Process {
    process: process::Child,
    gone: ProcessEnd,
}

/// The agent's end of the control socket.
#[derive(Debug)]
pub(super) struct Control(AgentEnd);

impl Child {
    pub(super) async fn start(program: &Program, network: Arc<Network>) -> Result<Self, Error> {
        let (control, theirs) = AgentEnd::pair()?;
        let mut command = Command::new(&program.path);
        // Readiness of the service is the agent's to notify.
        command.args(&program.arguments).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        let start = move || {
            let descriptors = [(theirs.as_fd(), CONTROL_FD), (network.listener.as_fd(), LISTENER_FD)];
            network.netns.spawn(&mut command, &descriptors)
        };
        let started = tokio::task::spawn_blocking(start).await.map_err(|e| Error::Watch(io::Error::other(e)))?;
        Ok(Self { process: Process::watch(started?)?, control: Control(control) })
    }
}

impl Process {
    fn watch(mut process: process::Child) -> Result<Self, Error> {
        let pid = i32::try_from(process.id()).map_err(io::Error::other);
        match pid.and_then(ProcessEnd::of) {
            Ok(gone) => Ok(Self { process, gone }),
            Err(error) => {
                let _ = process.kill().and_then(|()| process.wait()); // it has ended by itself
                Err(Error::Watch(error))
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end, and reaps it: how it ended. Dropped before that, nothing is lost.
    pub(super) async fn ended(&mut self) -> String {
        let gone = self.gone.ended().await;
        match gone.and_then(|()| self.process.try_wait()) {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "it cannot be waited for".to_owned(),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Waits for its end for this long, then ends it: how it ended.
    pub(super) async fn ended_within(&mut self, time: Duration) -> String {
        match tokio::time::timeout(time, self.ended()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// Ends it at once, and reaps it: how it ended.
    pub(super) async fn kill(&mut self) -> String {
        let _ = self.process.kill(); // it has ended by itself
        self.ended().await
    }
}

impl Control {
    /// Sends a message, within a limited time.
    pub(super) async fn send(&self, message: &ToChild) -> Result<(), Error> {
        match tokio::time::timeout(ANSWER, self.0.send(message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Error::Silent),
        }
    }

    /// The next message; none where the process has closed its end. Dropped before that, nothing is lost.
    pub(super) async fn receive(&self) -> Result<Option<FromChild>, Error> {
        Ok(self.0.receive().await?)
    }
}
