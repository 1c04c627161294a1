//! Waiting on facts. Every wait of a scenario ends at the scenario's one deadline, so that none needs a duration of
//! its own, and says what it was waiting for.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// The time of one scenario on an ordinary machine, unless `UNDERPASS_TEST_DEADLINE_S` says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The variable that sets it, in seconds before slowness.
pub(super) const DEADLINE_S: &str = "UNDERPASS_TEST_DEADLINE_S";

/// The time by which a wait gives up before the runner, so that the scenario can still say what was missing; a quarter of
/// a short deadline.
const MARGIN: Duration = Duration::from_secs(5);

/// The interval between two looks at a fact.
const POLL: Duration = Duration::from_millis(2);

static END: OnceLock<Instant> = OnceLock::new();

/// The slowness of this machine, as a factor: `UNDERPASS_SLOW`, 4 in an emulated one. Multiplies deadlines.
#[must_use]
pub fn slowness() -> u32 {
    std::env::var("UNDERPASS_SLOW").ok().and_then(|v| v.parse().ok()).unwrap_or(1).max(1)
}

/// The deadline of one scenario as seen by its runner.
#[must_use]
pub fn deadline() -> Duration {
    let set = std::env::var(DEADLINE_S).ok().and_then(|v| v.parse().ok()).map(Duration::from_secs);
    set.unwrap_or(DEADLINE) * slowness()
}

/// From now on waits of this process end when the scenario's time is over.
pub(super) fn start(deadline: Duration) {
    END.get_or_init(|| Instant::now() + deadline - (MARGIN * slowness()).min(deadline / 4));
}

/// The rest of the scenario's time. Never zero: some calls take zero for "forever".
#[must_use]
pub fn remaining() -> Duration {
    let end = *END.get_or_init(|| Instant::now() + deadline());
    end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// Waits until `look` finds something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if remaining() <= Duration::from_millis(1) {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until `fact` is true.
pub fn wait_until(what: &str, mut fact: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(fact()?.then_some(())))
}
