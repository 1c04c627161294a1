//! The kernel log: the decisions as the programs of a build with `log` write them, read from the ring that aya-log's macros fill.
//!
//! Its own file so that nothing else knows of that library. What must hold: the order of the numbers is that in which
//! `underpass_programs::log` writes them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use underpass_abi::{Cookie, Counter};

use crate::error::Result;

/// One decision and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Hook and event of the decision.
    pub counter: Counter,
    /// Pod of the namespace; 0 where a packet does not tell it.
    pub pod: Cookie,
    /// Opener of the connection; none where the kernel has not chosen its address yet.
    pub source: Option<SocketAddr>,
    /// Destination of the connection; none where it is not known yet.
    pub destination: Option<SocketAddr>,
}

/// A record that no program of this build writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse the record {0:?} of the kernel log: the programs of another build wrote it")]
pub struct Unreadable(String);

/// A record of a program: a decision, where it can be parsed.
pub type LogRecord = std::result::Result<Decision, Unreadable>;

/// The decisions, as they come. Readable when there are some.
pub struct KernelLog {
    ring: EbpfLogger<Handler>,
    handler: Handler,
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelLog").finish_non_exhaustive()
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl KernelLog {
    pub(crate) fn open(programs: &mut Ebpf) -> Result<Self> {
        let handler = Handler::default();
        Ok(Self { ring: EbpfLogger::init_with_logger(programs, handler.clone())?, handler })
    }

    /// Each record goes to `write`, the first that is given here, as soon as it is read: nothing is kept, however fast they come.
    #[must_use]
    pub fn writing(self, write: fn(LogRecord)) -> Self {
        self.handler.0.get_or_init(|| write);
        self
    }

    /// Reads until there is no more.
    pub fn read(&mut self) {
        self.ring.flush();
    }
}

/// Takes the place of a program's logger: aya-log knows no other way to hand records on.
#[derive(Clone, Debug, Default)]
struct Handler(Arc<OnceLock<fn(LogRecord)>>);

impl Log for Handler {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        if let Some(write) = self.0.get() {
            write(decision(&text).ok_or(Unreadable(text)));
        }
    }

    fn flush(&self) {}
}

/// Slot, cookie, source, its port, destination, its port.
fn decision(text: &str) -> Option<Decision> {
    let mut fields = text.split(' ');
    let slot: usize = fields.next()?.parse().ok()?;
    let pod = Cookie(fields.next()?.parse().ok()?);
    let mut end = || {
        let ip: IpAddr = fields.next()?.parse().ok()?;
        let port: u16 = fields.next()?.parse().ok()?;
        let known = !ip.is_unspecified() || port != 0;
        Some(known.then_some(SocketAddr::new(ip.to_canonical(), port)))
    };
    let (source, destination) = (end()?, end()?);
    let counter = *Counter::ALL.get(slot)?;
    fields.next().is_none().then_some(Decision { counter, pod, source, destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_decision() {
        let check = |text: &str, expected: Option<Decision>| assert_eq!(decision(text), expected, "{text}");
        let address = |text: &str| Some(text.parse().expect("an address"));
        let captured = Counter::ConnectCaptured.slot();
        let decided = |source, destination| {
            Some(Decision { counter: Counter::ConnectCaptured, pod: Cookie(7), source, destination })
        };
        let v4 = format!("{captured} 7 :: 0 ::ffff:10.0.0.2 80");
        check(&v4, decided(None, address("10.0.0.2:80")));
        let v6 = format!("{captured} 7 fd00::1 40000 fd00::2 80");
        check(&v6, decided(address("[fd00::1]:40000"), address("[fd00::2]:80")));
        check(&format!("{captured} 7 :: 0 :: 0"), decided(None, None));
        check(&format!("{v6} 1"), None);
        check("9999 7 :: 0 :: 0", None);
        check("", None);
        check("2 7 :: 0 ::", None);
        check("2 7 :: 0 10.0.0.2.3 80", None);
    }
}
