//! The access log of requests: one line of the user's format for each that ends. The same thread, queue and buffers as of
//! connections.

use std::{sync::Arc, time::Duration};

use super::{AccessLog, Buffer, Counts, Entry, LineFormat};
use crate::metrics::Registry;

/// An access log with the format of its lines.
#[derive(Debug)]
pub struct RequestLog {
    log: AccessLog,
    format: Arc<LineFormat>,
}

impl RequestLog {
    /// Lines of requests in this format go to `log`.
    #[must_use]
    pub fn new(log: AccessLog, format: LineFormat) -> Self {
        if !format.unserved().is_empty() {
            let operators = format.unserved().join(" ");
            tracing::warn!(operators, "the access log has no value for some operators");
        }
        Self { log, format: Arc::new(format) }
    }

    /// A handle for one worker.
    #[must_use]
    pub fn handle(&self) -> RequestWriter {
        RequestWriter { buffer: self.log.buffer(), format: Arc::clone(&self.format) }
    }

    /// Shows the log's metrics in `registry`.
    pub fn measure(&self, registry: &Registry) {
        self.log.measure(registry);
    }

    /// Writes what was handed over, and ends, as [`AccessLog::stop`] does.
    pub fn stop(self, limit: Duration) -> Counts {
        self.log.stop(limit)
    }
}

/// One worker's end of the access log of requests.
#[derive(Debug)]
pub struct RequestWriter {
    buffer: Buffer,
    format: Arc<LineFormat>,
}

impl RequestWriter {
    /// The format of its lines, which says what is to be kept of a request until it ends.
    #[must_use]
    pub const fn format(&self) -> &Arc<LineFormat> {
        &self.format
    }

    /// Formats a line into this worker's buffer. Never blocks; drops and counts it if the buffer and the queue are both full.
    pub fn record(&mut self, entry: &Entry<'_>) {
        let Self { buffer, format } = self;
        buffer.record(|text| format.write(text, entry));
    }

    /// Hands the lines over to be written: call it at the end of a turn. Never blocks.
    pub fn flush(&mut self) {
        self.buffer.flush();
    }
}
