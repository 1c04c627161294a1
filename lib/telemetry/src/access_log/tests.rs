//! Lines from a worker to their reader: order, loss, and the end.

use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc},
};

use underpass_core::testing;

use super::*;

/// Long enough for any machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

fn connection(id: u64) -> Connection {
    Connection { id, ..testing::connection("10.0.0.1:1", "10.0.0.2:2") }
}

/// A reader that reads one write per permit; each write is announced before it waits.
struct Gated {
    arrived: mpsc::Sender<()>,
    permits: mpsc::Receiver<()>,
    took: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.arrived.send(());
        self.permits.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.took.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Gate {
    arrived: mpsc::Receiver<()>,
    permits: mpsc::Sender<()>,
    took: Arc<Mutex<Vec<u8>>>,
}

impl Gate {
    fn ids(&self) -> Vec<u64> {
        ids(&String::from_utf8(self.took.lock().unwrap().clone()).unwrap())
    }

    fn open(&self) {
        for _ in 0..1000 {
            let _ = self.permits.send(());
        }
    }
}

fn ids(text: &str) -> Vec<u64> {
    let id = |line: &str| line.split_once("connection=").unwrap().1.split_once(' ').unwrap().0.parse().unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(id).collect()
}

fn gated(settings: &Settings) -> (AccessLog, Gate) {
    let (arrived_sender, arrived) = mpsc::channel();
    let (permits, permits_receiver) = mpsc::channel();
    let took = Arc::new(Mutex::new(Vec::new()));
    let sink = Gated { arrived: arrived_sender, permits: permits_receiver, took: Arc::clone(&took) };
    (AccessLog::start_with(settings, sink).unwrap(), Gate { arrived, permits, took })
}

#[test]
fn lines_of_many_workers_are_all_written_by_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog::start(&Settings { target: Target::File(path.clone()), ..Settings::default() }).unwrap();
    let worker = |first: u64, mut writer: Writer| {
        std::thread::spawn(move || {
            for id in first..first + 2500 {
                writer.record(&connection(id));
                if id % 7 == 0 {
                    writer.flush();
                }
            }
        })
    };
    let workers: Vec<_> = (0..4).map(|n| worker(n * 2500, log.handle())).collect();
    workers.into_iter().for_each(|w| w.join().unwrap());
    assert_eq!(log.stop(DEADLINE), Counts { written: 10_000, dropped: 0 });

    let found = ids(&std::fs::read_to_string(&path).unwrap());
    for n in 0..4 {
        let of_worker: Vec<_> = found.iter().copied().filter(|id| id / 2500 == n).collect();
        assert!(of_worker.is_sorted(), "a worker's lines keep their order");
    }
    let mut sorted = found;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn a_flushed_line_arrives_without_an_end() {
    let (log, gate) = gated(&Settings::default());
    let mut writer = log.handle();
    writer.record(&connection(1));
    writer.flush();
    gate.arrived.recv_timeout(DEADLINE).unwrap();
    gate.open();
    assert_eq!(log.stop(DEADLINE), Counts { written: 1, dropped: 0 });
    assert_eq!(gate.ids(), [1]);
}

#[test]
fn a_full_queue_drops_counts_and_never_blocks() {
    let one_line = {
        let mut text = String::new();
        line::write(&mut text, Format::Text, &connection(1));
        text.len()
    };
    // The buffer counts as full with two lines, the queue takes two such buffers.
    let settings = Settings { buffer_bytes: 2 * one_line, queue_bytes: 4 * one_line, ..Settings::default() };
    let (log, gate) = gated(&settings);
    let mut writer = log.handle();
    writer.record(&connection(1));
    writer.record(&connection(2));
    writer.flush();
    gate.arrived.recv_timeout(DEADLINE).unwrap(); // the thread holds 1 and 2 and is stuck; this thread must not be
    for id in 3..10 {
        writer.record(&connection(id));
        writer.flush();
    }
    // 1, 2 are being written; 3, 4 wait; 5, 6 are the worker's own; 7, 8 and 9 found no room.
    assert_eq!(log.counts(), Counts { written: 0, dropped: 3 });
    drop(writer); // the last lines of a worker find room
    gate.open();
    assert_eq!(log.stop(DEADLINE), Counts { written: 6, dropped: 3 });
    assert_eq!(gate.ids(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn room_comes_back_when_lines_were_written() {
    let (log, gate) = gated(&Settings { buffer_bytes: 1, queue_bytes: 1, ..Settings::default() });
    gate.open();
    let mut writer = log.handle();
    for id in 0..20 {
        writer.record(&connection(id));
        writer.flush();
        gate.arrived.recv_timeout(DEADLINE).unwrap();
        let since = Instant::now();
        while log.counts().written <= id {
            assert!(since.elapsed() < DEADLINE, "{:?}", log.counts());
            std::thread::yield_now();
        }
    }
    assert_eq!(log.stop(DEADLINE), Counts { written: 20, dropped: 0 });
}

#[test]
fn a_reader_that_stopped_reading_does_not_hold_up_the_end() {
    let (log, gate) = gated(&Settings::default());
    let mut writer = log.handle();
    writer.record(&connection(1));
    writer.flush();
    gate.arrived.recv_timeout(DEADLINE).unwrap();
    writer.record(&connection(2));
    writer.flush();
    assert_eq!(log.stop(Duration::from_millis(1)), Counts { written: 0, dropped: 1 });
}

#[test]
fn after_the_end_lines_are_dropped_and_counted() {
    let (log, gate) = gated(&Settings::default());
    gate.open();
    let queue = Arc::clone(&log.queue);
    let mut writer = log.handle();
    writer.record(&connection(1));
    log.stop(DEADLINE);
    writer.record(&connection(2));
    writer.flush();
    drop(writer);
    assert_eq!(queue.dropped.load(Relaxed), 2);
    assert_eq!(gate.ids(), Vec::<u64>::new());
}

#[test]
fn a_broken_pipe_costs_lines_and_nothing_else() {
    let (log, gate) = gated(&Settings::default());
    drop(gate.permits);
    let mut writer = log.handle();
    writer.record(&connection(1));
    writer.flush();
    gate.arrived.recv_timeout(DEADLINE).unwrap();
    writer.record(&connection(2));
    drop(writer);
    assert_eq!(log.stop(DEADLINE), Counts { written: 0, dropped: 2 });
}

#[test]
fn a_target_that_panics_does_not_hold_up_the_end() {
    struct Panics;
    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("by intention")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = AccessLog::start_with(&Settings::default(), Panics).unwrap();
    let mut writer = log.handle();
    writer.record(&connection(1));
    writer.flush();
    let since = Instant::now();
    log.stop(DEADLINE);
    assert!(since.elapsed() < DEADLINE);
}

#[test]
fn warnings_about_losses_are_rate_limited() {
    let start = Instant::now();
    let mut losses = Losses { reported: 0, last: None };
    let mut told = |dropped, at: Duration| {
        losses.warn(dropped, None, start + at);
        losses.reported
    };
    assert_eq!(told(0, Duration::ZERO), 0);
    assert_eq!(told(1, Duration::ZERO), 1);
    assert_eq!(told(5, WARN_EVERY / 2), 1);
    assert_eq!(told(6, WARN_EVERY), 6);
}

#[test]
fn a_target_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/access.log");
    let error = AccessLog::start(&Settings { target: Target::File(path.clone()), ..Settings::default() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot open the access log {}: No such file or directory (os error 2)", path.display())
    );
}

#[test]
fn a_file_is_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let settings = Settings { format: Format::Json, target: Target::File(path.clone()), ..Settings::default() };
    for id in 0..2 {
        let log = AccessLog::start(&settings).unwrap();
        log.handle().record(&connection(id));
        drop(log); // an end without `stop` writes as well
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let read = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["connection"].as_u64().unwrap();
    assert_eq!(text.lines().map(read).collect::<Vec<_>>(), [0, 1]);
}
