//! The wall clock, and waiting for it. Certificates go by the wall clock, and it jumps: it is set, or the machine
//! was suspended. A sleep counts another clock, and would go on as if nothing had happened; the kernel's timer on the wall
//! clock ends as soon as that is set, and at once after a suspend that was longer (timerfd_create(2),
//! `TFD_TIMER_CANCEL_ON_SET`). A file of its own because it is the only place that knows the timer.

use std::{
    io,
    os::fd::AsFd as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use tokio::net::unix::pipe::Receiver;

/// The sleep where the timer fails, which no kernel does: the time is looked at again after this.
const WITHOUT_TIMER: Duration = Duration::from_secs(1);

/// The clock of the certificates.
pub(super) struct Clock(Source);

enum Source {
    Wall(Timer),
    /// A test's, which it sets as it likes.
    #[cfg(test)]
    Manual(tokio::sync::watch::Receiver<SystemTime>),
}

impl Clock {
    /// The clock of the machine. To be called on a runtime.
    ///
    /// # Errors
    /// Where there is no descriptor left.
    pub(super) fn wall() -> io::Result<Self> {
        Timer::new().map(|timer| Self(Source::Wall(timer)))
    }

    /// A clock that shows the sender's time.
    #[cfg(test)]
    pub(super) fn manual(time: tokio::sync::watch::Receiver<SystemTime>) -> Self {
        Self(Source::Manual(time))
    }

    /// Now.
    pub(super) fn now(&self) -> SystemTime {
        match &self.0 {
            Source::Wall(_) => SystemTime::now(),
            #[cfg(test)]
            Source::Manual(time) => *time.borrow(),
        }
    }

    /// Completes when it is `at`, or sooner: as soon as the clock is set, in either direction. The caller looks what time it
    /// is. May be dropped and called again at any time.
    pub(super) async fn reached(&mut self, at: SystemTime) {
        match &mut self.0 {
            Source::Wall(timer) => {
                if timer.reached(at).await.is_err() {
                    tokio::time::sleep(WITHOUT_TIMER).await;
                }
            }
            #[cfg(test)]
            Source::Manual(time) => {
                if *time.borrow_and_update() < at {
                    time.changed().await.expect("the test holds the clock");
                }
            }
        }
    }
}

/// The kernel's timer on the wall clock.
struct Timer {
    timer: TimerFd,
    /// The same timer, read as the runtime reads a pipe: eight bytes, or an error.
    expiry: Receiver,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let expiry = Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, expiry })
    }

    /// Completes at `at`, or as soon as the clock is set.
    async fn reached(&self, at: SystemTime) -> io::Result<()> {
        // A time of zero would take the timer away.
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().max(Duration::from_nanos(1));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        // Where the clock was set since the timer was, that is reported once: here, or by a read.
        match self.timer.set(Expiration::OneShot(TimeSpec::from_duration(at)), flags) {
            Ok(()) => {}
            Err(Errno::ECANCELED) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        loop {
            self.expiry.readable().await?;
            match self.expiry.try_read(&mut [0; size_of::<u64>()]) {
                // What was readable of the time before is not any more.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() != Some(Errno::ECANCELED as i32) => return Err(error),
                Ok(_) | Err(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let in_time = async { tokio::time::timeout(Duration::from_secs(30), test).await };
        runtime.block_on(in_time).expect("the test ends in time");
    }

    #[test]
    fn a_time_is_waited_for_and_one_that_is_past_is_not() {
        run(async {
            let mut clock = Clock::wall().unwrap();
            for at in [UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH, clock.now() - Duration::from_secs(3600)] {
                clock.reached(at).await;
            }
            for _ in 0..3 {
                let at = clock.now() + Duration::from_millis(20);
                clock.reached(at).await;
                assert!(clock.now() >= at, "the clock was not set");
            }
        });
    }

    #[test]
    fn a_wait_that_was_given_up_leaves_nothing_behind() {
        run(async {
            let mut clock = Clock::wall().unwrap();
            // Given up before it was reached, and after.
            let far = clock.now() + Duration::from_secs(3600);
            assert!(tokio::time::timeout(Duration::ZERO, clock.reached(far)).await.is_err());
            let near = clock.now() + Duration::from_millis(1);
            let _ = tokio::time::timeout(Duration::ZERO, clock.reached(near)).await; // perhaps it was late
            while clock.now() <= near {
                tokio::task::yield_now().await;
            }
            let next = clock.now() + Duration::from_millis(20);
            clock.reached(next).await;
            assert!(clock.now() >= next, "the one before does not count");
        });
    }

    #[test]
    fn the_timer_is_on_the_clock_that_can_be_set_and_says_when_it_is() {
        run(async {
            let mut clock = Clock::wall().unwrap();
            let at = clock.now() + Duration::from_secs(3600);
            assert!(tokio::time::timeout(Duration::ZERO, clock.reached(at)).await.is_err());
            let Source::Wall(timer) = &clock.0 else { panic!("the wall clock") };
            let shown =
                std::fs::read_to_string(format!("/proc/self/fdinfo/{}", timer.timer.as_fd().as_raw_fd())).unwrap();
            let field = |name: &str| {
                let line = shown.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{shown}"));
                line.trim().to_owned()
            };
            // CLOCK_REALTIME; TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET (proc_pid_fdinfo(5)).
            assert_eq!((field("clockid:").as_str(), field("settime flags:").as_str()), ("0", "03"));
        });
    }
}
