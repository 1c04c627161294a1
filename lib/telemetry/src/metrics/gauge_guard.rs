//! A guard of a gauge, so that the gauge falls however the task ends that has the guard.

use prometheus::IntGauge;

/// One unit of a gauge: dropped, the gauge falls by one.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    /// Raises the gauge by one.
    #[must_use]
    pub fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
