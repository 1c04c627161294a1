//! The access log: one line per connection, from [`underpass_core::Connection`], and at a waypoint one per request, in a
//! [format](LineFormat) of the user's.
//!
//! Not a tracing event: a worker formats lines into a buffer of its own, hands the buffer over at the end of a turn, and
//! one thread writes. No lock is taken while a line is formatted, nothing on the data path waits for a disk or a pipe,
//! and dropped lines are counted.
//!
//! ```text
//! worker: Writer::record -> own buffer --flush--> [queue, bounded in bytes] -> thread -> stdout or file
//! ```

mod escape;
mod format;
mod line;
mod queue;
mod requests;
mod sink;
mod time;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use queue::{Batch, Queue};
use sink::Sink;
use underpass_core::Connection;

pub use self::{
    format::{Entry, Kept, LineFormat, LineFormatError, LineFormatProblem, RequestParts},
    requests::{RequestLog, RequestWriter},
    sink::Target,
};

use crate::{
    Format,
    metrics::{Family, Registry},
};

static LINES: Family = Family::counter(
    "underpass_access_log_lines_total",
    "Lines of the access log, by result: written, or dropped because the queue was full or a write failed.",
    &["result"],
);

/// The metric families of this module.
pub const FAMILIES: &[&Family] = &[&LINES];

/// Shortest time between two warnings about dropped lines.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Longest time that dropping an [`AccessLog`] waits for a reader that has stopped reading.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The reason why the access log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file.
    #[error("cannot open the access log {path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot write the access log to standard output: {source}")]
    Stdout {
        /// The cause.
        source: io::Error,
    },
    /// The thread that writes.
    #[error("cannot start the thread that writes the access log: {source}")]
    Thread {
        /// The cause.
        source: io::Error,
    },
}

/// The settings of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Text or JSON, of the lines of connections.
    pub format: Format,
    /// Standard output or a file.
    pub target: Target,
    /// A worker's buffer; when it is full and the queue is too, lines are dropped. Default 64 KiB.
    pub buffer_bytes: usize,
    /// The queue: lines handed over and not written yet. Default 8 MiB.
    pub queue_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, target: Target::Stdout, buffer_bytes: 64 << 10, queue_bytes: 8 << 20 }
    }
}

/// The numbers of written and dropped lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Written.
    pub written: u64,
    /// Dropped: the queue was full, the write failed, or the line came after the end.
    pub dropped: u64,
}

/// The access log: owns the thread that writes.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<Queue>,
    format: Format,
    buffer_bytes: usize,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// Where the target cannot be opened or the thread not started.
    pub fn start(settings: &Settings) -> Result<Self, AccessLogError> {
        let out = settings.target.open()?;
        Self::start_with(settings, out).map_err(|source| AccessLogError::Thread { source })
    }

    fn start_with(settings: &Settings, out: impl io::Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(settings.queue_bytes));
        let shared = Arc::clone(&queue);
        let thread =
            std::thread::Builder::new().name("access-log".into()).spawn(move || run(&shared, Sink::new(out)))?;
        let buffer_bytes = settings.buffer_bytes;
        Ok(Self { queue, format: settings.format, buffer_bytes, thread: Some(thread) })
    }

    /// A handle for one worker.
    #[must_use]
    pub fn handle(&self) -> Writer {
        Writer { buffer: self.buffer(), format: self.format }
    }

    fn buffer(&self) -> Buffer {
        Buffer { queue: Arc::clone(&self.queue), buffer_bytes: self.buffer_bytes, batch: Batch::default() }
    }

    /// The numbers of written and dropped lines so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { written: self.queue.written.load(Relaxed), dropped: self.queue.dropped.load(Relaxed) }
    }

    /// Shows its metrics in `registry`, for as long as that lasts.
    pub fn measure(&self, registry: &Registry) {
        let queue = Arc::clone(&self.queue);
        registry.collect(FAMILIES, move |samples| {
            samples.add(&LINES, &["written"], queue.written.load(Relaxed));
            samples.add(&LINES, &["dropped"], queue.dropped.load(Relaxed));
        });
    }

    /// Writes everything that was handed over, and ends. A [`Writer`] hands over when it is flushed or dropped; what it
    /// still records after this is dropped and counted. Waits at most `limit` for a target that does not take more.
    pub fn stop(mut self, limit: Duration) -> Counts {
        self.end(limit);
        self.counts()
    }

    fn end(&mut self, limit: Duration) {
        let Some(thread) = self.thread.take() else { return };
        self.queue.close();
        if self.queue.wait_finished(limit) {
            // It has finished; a panic of the thread was printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.end(STOP_LIMIT);
    }
}

/// One worker's end of the access log.
#[derive(Debug)]
pub struct Writer {
    buffer: Buffer,
    format: Format,
}

impl Writer {
    /// Formats the connection's line into this worker's buffer. Never blocks; drops and counts the line if the buffer
    /// and the queue are both full.
    pub fn record(&mut self, connection: &Connection) {
        let format = self.format;
        self.buffer.record(|text| line::write(text, format, connection));
    }

    /// Hands the lines over to be written: call it at the end of a turn. Never blocks; if the queue is full the lines
    /// stay here for the next time.
    pub fn flush(&mut self) {
        self.buffer.flush();
    }
}

/// The lines of one worker until they are handed over, which they are at the latest when it is dropped.
#[derive(Debug)]
struct Buffer {
    queue: Arc<Queue>,
    buffer_bytes: usize,
    batch: Batch,
}

impl Buffer {
    /// Has `write` append what is recorded: whole lines, one or several.
    fn record(&mut self, write: impl FnOnce(&mut String)) {
        if self.batch.text.len() >= self.buffer_bytes && !self.queue.offer(&mut self.batch) {
            self.queue.dropped.fetch_add(1, Relaxed);
            return;
        }
        let before = self.batch.text.len();
        write(&mut self.batch.text);
        let written = self.batch.text.get(before..).unwrap_or_default();
        self.batch.lines += written.bytes().filter(|byte| *byte == b'\n').count() as u64;
    }

    fn flush(&mut self) {
        self.queue.offer(&mut self.batch);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.queue.offer_last(&mut self.batch);
    }
}

/// The guard that marks the thread as finished, also after a panic, so that [`AccessLog::stop`] does not wait in vain.
struct Finish<'a>(&'a Queue);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.finish();
    }
}

fn run(queue: &Queue, mut sink: Sink<impl io::Write>) {
    let _finish = Finish(queue);
    let mut losses = Losses { reported: 0, last: None };
    while let Some(batches) = queue.take() {
        let mut failure = None;
        for batch in batches {
            let (written, result) = sink.write(&batch.text);
            failure = result.err().or(failure);
            queue.done(batch, written);
        }
        losses.warn(queue.dropped.load(Relaxed), failure.as_ref(), Instant::now());
    }
}

/// Rate-limited warnings about dropped lines.
struct Losses {
    reported: u64,
    last: Option<Instant>,
}

impl Losses {
    fn warn(&mut self, dropped: u64, failure: Option<&io::Error>, now: Instant) {
        let due = self.last.is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
        if dropped > self.reported && due {
            let lines = dropped - self.reported;
            match failure {
                Some(error) => tracing::warn!(lines, total = dropped, %error, "access log lines dropped"),
                None => tracing::warn!(lines, total = dropped, "access log lines dropped"),
            }
            (self.reported, self.last) = (dropped, Some(now));
        }
    }
}

#[cfg(test)]
mod tests;
