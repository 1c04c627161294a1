//! This process as the kernel sees it: CPU time by thread, memory, and whether anything still works. Its own file because a
//! change is carried out by many threads, of which none says when it is really done.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_gettime},
    unistd::gettid,
};

/// Within this, or never.
const DEADLINE: Duration = Duration::from_secs(600);

/// A thread of this process and the CPU time that it has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub tid: i32,
    /// As it calls itself, at most 15 bytes.
    pub name: String,
    /// So far.
    pub cpu: Duration,
    asleep: bool,
}

/// Every thread but the one that asks, by number. One that ends meanwhile is left out.
pub fn others() -> Result<Vec<Thread>> {
    let own = gettid().as_raw();
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task").context("list threads")? {
        let tid: i32 = entry.context("list threads")?.file_name().to_string_lossy().parse().context("a thread")?;
        if tid != own {
            threads.extend(thread(tid));
        }
    }
    threads.sort_by_key(|thread| thread.tid);
    Ok(threads)
}

/// From proc_pid_stat(5): `pid (name) state ...`.
fn thread(tid: i32) -> Option<Thread> {
    let stat = fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    Some(Thread { tid, name, cpu: cpu(clock_of(tid))?, asleep: rest.trim_start().starts_with('S') })
}

/// The clock of a thread's CPU time, as pthread_getcpuclockid(3) makes it: the thread's number negated, CPUCLOCK_PERTHREAD_MASK and
/// CPUCLOCK_SCHED (linux/posix-timers.h).
const fn clock_of(tid: i32) -> ClockId {
    ClockId::from_raw((!tid << 3) | 4 | 2)
}

fn cpu(clock: ClockId) -> Option<Duration> {
    let time = clock_gettime(clock).ok()?;
    Some(Duration::from_nanos(time.num_nanoseconds().try_into().ok()?))
}

/// Waits until every other thread sleeps and none has used CPU time between two looks: what was asked for is done, with what
/// comes after it. Answers the threads then.
///
/// # Errors
/// Where that is never so.
pub fn settle() -> Result<Vec<Thread>> {
    let began = Instant::now();
    let mut before = Vec::new();
    loop {
        let now = others()?;
        if now == before && now.iter().all(|thread| thread.asleep) {
            return Ok(now);
        }
        ensure!(began.elapsed() < DEADLINE, "threads that never sleep: {now:?}");
        before = now;
        // Leaves the processor to what is waited for.
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Now: VmRSS.
    pub now: u64,
    /// At most, so far: VmHWM.
    pub peak: u64,
}

/// Of this process, from proc_pid_status(5).
///
/// # Errors
/// Where the kernel does not say.
pub fn resident() -> Result<Resident> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let field = |name: &str| -> Result<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = value.and_then(|value| value.split_whitespace().next());
        let kib: u64 = value.with_context(|| format!("no {name}"))?.parse().context("a number")?;
        Ok(kib * 1024)
    };
    Ok(Resident { now: field("VmRSS")?, peak: field("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_is_charged_for_what_it_does_and_waited_for() {
        let (go, gone) = mpsc::channel::<()>();
        let (done, is_done) = mpsc::channel();
        let worker = std::thread::Builder::new().name("busy".into()).spawn(move || {
            let tid = gettid().as_raw();
            done.send(tid).expect("heard");
            gone.recv().expect("told");
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(20) {}
            done.send(tid).expect("heard");
            gone.recv().expect_err("the end");
        });
        let tid = is_done.recv().expect("it runs");
        let cpu = || others().expect("listed").into_iter().find(|t| t.tid == tid).map(|t| (t.name, t.cpu));
        let (name, before) = cpu().expect("it runs");
        go.send(()).expect("it listens");
        is_done.recv().expect("it worked");
        let (_, after) = cpu().expect("it runs");
        assert_eq!(name, "busy");
        assert!(after > before, "{before:?} {after:?}");
        drop(go);
        worker.expect("started").join().expect("no panic");
    }

    #[test]
    fn memory_is_read() {
        let resident = resident().expect("read");
        assert!(resident.now > 0 && resident.peak >= resident.now, "{resident:?}");
    }
}
