//! One request to the agent of the node, and its answer, within a time. An agent that does not answer for any reason is one
//! kind of error, with the reason for people: what follows from it is not decided here.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket,
            sockopt::{ReceiveTimeout, SendTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::protocol::{self, Answer, Request};

/// The time that a request without weight may take: the end of a sandbox does not wait for it.
pub const TELLS_WITHIN: Duration = Duration::from_secs(2);

/// The time within which the next agent answers, once one has hung up: it hands its node over, or is started again.
pub const NEXT_AGENT_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The socket, or an answer that is none.
    #[error("{}", words(.0))]
    Io(#[from] io::Error),
    /// The agent closed the connection without one.
    #[error("it hung up")]
    HungUp,
    /// The time is over.
    #[error("no answer within {0:?}")]
    TimeOut(Duration),
}

/// The error as the kernel's manual calls it, without its number.
fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

/// Asks again after an agent has hung up, until the next one answers or its time is over.
///
/// # Errors
/// No answer: the first one's, where it did not hang up, or the last one's.
pub fn again(ask: impl Fn() -> Result<Answer, NoAnswer>, within: Duration) -> Result<Answer, NoAnswer> {
    let mut answer = ask();
    if matches!(answer, Err(NoAnswer::HungUp)) {
        let began = Instant::now();
        while answer.is_err() && began.elapsed() < within {
            std::thread::sleep(PAUSE);
            answer = ask();
        }
    }
    answer
}

/// Sends a request, with a descriptor, and waits for the answer.
///
/// # Errors
/// No answer within the time.
pub fn ask(path: &Path, request: &Request, with: Option<BorrowedFd<'_>>, within: Duration) -> Result<Answer, NoAnswer> {
    let began = Instant::now();
    let asked = || -> io::Result<Option<Answer>> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        // It counts for connect() as well: an agent that accepts nothing has a full backlog.
        setsockopt(&socket, SendTimeout, &time(within))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        protocol::send(&socket, request, with)?;
        answer(&socket, within.saturating_sub(began.elapsed()))
    };
    match asked() {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(NoAnswer::HungUp),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(NoAnswer::TimeOut(within)),
        Err(e) => Err(NoAnswer::Io(e)),
    }
}

fn answer(socket: &OwnedFd, within: Duration) -> io::Result<Option<Answer>> {
    setsockopt(socket, ReceiveTimeout, &time(within))?;
    Ok(protocol::receive(socket)?.map(|(answer, _)| answer))
}

/// As the kernel takes it, where nothing means for ever.
fn time(within: Duration) -> TimeVal {
    TimeVal::microseconds(i64::try_from(within.as_micros()).unwrap_or(i64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    const SHORTLY: Duration = Duration::from_millis(50);

    #[test]
    fn after_one_that_hung_up_the_next_agent_is_asked() {
        let refused = || NoAnswer::Io(io::ErrorKind::ConnectionRefused.into());
        let check = |answers: Vec<Result<Answer, NoAnswer>>, within, left: usize, expected: Option<Answer>| {
            let answers = std::cell::RefCell::new(answers.into_iter());
            let got = again(|| answers.borrow_mut().next().unwrap_or(Err(NoAnswer::HungUp)), within);
            assert_eq!((got.ok(), answers.into_inner().count()), (expected, left));
        };
        let done = || Some(Answer::Done);
        let long = Duration::from_secs(600);
        check(vec![Ok(Answer::Done), Ok(Answer::Outside)], long, 1, done());
        check(vec![Err(refused()), Ok(Answer::Done)], long, 1, None);
        check(vec![Err(NoAnswer::HungUp), Err(refused()), Err(NoAnswer::HungUp), Ok(Answer::Done)], long, 0, done());
        check(vec![Err(NoAnswer::HungUp), Ok(Answer::Done)], Duration::ZERO, 1, None);
        check(vec![], SHORTLY, 0, None);
    }

    fn error(path: &Path) -> String {
        ask(path, &Request::Status, None, SHORTLY).unwrap_err().to_string()
    }

    #[test]
    fn an_agent_that_does_not_answer_is_told_from_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        assert_eq!(error(&path), "No such file or directory");
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert_eq!(error(&path), "Connection refused");
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        // The first is in the backlog and waits for an answer, the others for the backlog.
        for _ in 0..3 {
            assert_eq!(error(&path), "no answer within 50ms");
        }
        drop(listener);
        assert_eq!(error(&path), "Connection refused");
        assert_eq!(error(Path::new(&format!("/{}", "x".repeat(200)))), "File name too long");
    }
}
