//! A gauge that falls with a guard, whatever ends the task that holds it.

use prometheus::IntGauge;

/// One of what a gauge counts; dropped, it is one less.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    /// One more.
    #[must_use]
    pub fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}
