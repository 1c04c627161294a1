//! The bounded queue between the workers and the one writer. Its own file because the bound, the count of dropped lines and
//! the order of shutdown are decided here and nowhere else.
//!
//! What must hold: a worker never waits for the writer, only for the few instructions under the lock; every line that
//! was recorded is counted once, as written or as dropped; lines that were handed over before the end are written.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Empty buffers kept for the next hand-over.
const MAX_SPARE: usize = 16;

/// Whole lines.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) text: String,
    pub(super) lines: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer: lines wait, or the queue is closed. Wakes the thread that stops it: the writer has finished.
    changed: Condvar,
    max_bytes: usize,
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Batch>,
    /// Waiting or being written.
    bytes: usize,
    spare: Vec<String>,
    phase: Phase,
}

/// `Open -> Closing -> Finished`: closing takes nothing new and writes what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    Closing,
    Finished,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            max_bytes,
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// No invariant spans a panic, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lines out of `batch` if there is room; else they stay there. After the end they are dropped.
    pub(super) fn offer(&self, batch: &mut Batch) -> bool {
        self.push(batch, self.max_bytes)
    }

    /// Takes the last lines of a worker, room or not: there are as many such batches as workers.
    pub(super) fn offer_last(&self, batch: &mut Batch) {
        self.push(batch, usize::MAX);
    }

    fn push(&self, batch: &mut Batch, max_bytes: usize) -> bool {
        if batch.lines == 0 {
            return true;
        }
        let mut state = self.lock();
        if state.phase != Phase::Open {
            drop(state);
            self.dropped.fetch_add(batch.lines, Relaxed);
            batch.lines = 0;
            batch.text.clear();
            return true;
        }
        let bytes = state.bytes.saturating_add(batch.text.len());
        // An empty queue takes a batch of any size: otherwise one that is larger than the queue would wait for ever.
        if bytes > max_bytes && state.bytes > 0 {
            return false;
        }
        state.bytes = bytes;
        let text = state.spare.pop().unwrap_or_default();
        state.waiting.push_back(std::mem::replace(batch, Batch { text, lines: 0 }));
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Waits for batches; none after the end, when nothing is left.
    pub(super) fn take(&self) -> Option<VecDeque<Batch>> {
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() {
                return Some(std::mem::take(&mut state.waiting));
            }
            if state.phase != Phase::Open {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a batch's room back, after `written` of its lines were written.
    pub(super) fn done(&self, mut batch: Batch, written: u64) {
        let mut state = self.lock();
        self.written.fetch_add(written, Relaxed);
        self.dropped.fetch_add(batch.lines.saturating_sub(written), Relaxed);
        state.bytes = state.bytes.saturating_sub(batch.text.len());
        if state.spare.len() < MAX_SPARE {
            batch.text.clear();
            state.spare.push(batch.text);
        }
    }

    /// Takes nothing new from now on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Marks the writer as finished.
    pub(super) fn finish(&self) {
        self.lock().phase = Phase::Finished;
        self.changed.notify_all();
    }

    /// Waits until the writer has finished; false where it has not within `limit`: lines that wait are dropped.
    pub(super) fn wait_finished(&self, limit: Duration) -> bool {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), limit, |s| s.phase != Phase::Finished)
            .unwrap_or_else(PoisonError::into_inner);
        if state.phase == Phase::Finished {
            return true;
        }
        let left = std::mem::take(&mut state.waiting);
        state.bytes = state.bytes.saturating_sub(left.iter().map(|b| b.text.len()).sum());
        self.dropped.fetch_add(left.iter().map(|b| b.lines).sum(), Relaxed);
        false
    }
}
