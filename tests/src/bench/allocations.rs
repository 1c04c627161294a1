//! An allocator that counts: the system's, with two counters in front of it. A program that wants to know declares
//! `#[global_allocator] static ALLOCATOR: Counting = Counting;`. Its own file because it is the only one of the benchmarks
//! with `unsafe` in it.
//!
//! What must hold: what a benchmark does itself is not counted ([`apart`]).

#![allow(unsafe_code, reason = "an allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ops::Sub,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's allocations are not counted.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

/// Allocations since the start of the process, of all threads that are not [`apart`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allocations {
    /// Their number. One that is made larger or smaller counts again.
    pub count: u64,
    /// Bytes, as asked for.
    pub bytes: u64,
}

impl Sub for Allocations {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { count: self.count.saturating_sub(before.count), bytes: self.bytes.saturating_sub(before.bytes) }
    }
}

/// So far; nothing where the program has another allocator.
#[must_use]
pub fn so_far() -> Allocations {
    Allocations { count: COUNT.load(Relaxed), bytes: BYTES.load(Relaxed) }
}

/// What this thread allocates from now on is not counted: it measures.
pub fn apart() {
    APART.set(true);
}

fn count(bytes: usize) {
    // A thread that ends has no locals any more, and is none of ours.
    if !APART.try_with(Cell::get).unwrap_or(true) {
        COUNT.fetch_add(1, Relaxed);
        BYTES.fetch_add(bytes as u64, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing, because the thread's local has
// neither an initializer to run nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}
