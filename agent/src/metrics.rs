//! What the agent measures that no room of its own counts, and the list of everything that is measured, from which
//! `docs/metrics.md` is written.
//!
//! A family stands beside what it measures; its room lists it in `FAMILIES`, and [`groups`] names the rooms.

use std::sync::Arc;

use tokio::sync::watch;
use underpass_core::{Kind, World};
use underpass_telemetry::metrics::{Family, Registry};

static BUILD: Family = Family::gauge("underpass_build_info", "Always 1; which build this is.", &["version"]);
static VERSION: Family =
    Family::gauge("underpass_world_version", "The version of the newest World; it restarts with the agent.", &[]);
static OBJECTS: Family = Family::gauge("underpass_world_objects", "Objects of the newest World.", &["kind"]);

/// The families of this room.
const FAMILIES: &[&Family] = &[&BUILD, &VERSION, &OBJECTS];

/// Everything that the agent measures, by what it is about.
#[must_use]
pub fn groups() -> Vec<(&'static str, &'static [&'static Family])> {
    vec![("The agent", FAMILIES)]
}

/// Measures the process and the World.
pub fn measure(registry: &Registry, world: watch::Receiver<Arc<World>>) {
    registry.collect(move |samples| {
        samples.add(&BUILD, &[env!("CARGO_PKG_VERSION")], 1_i64);
        let world = Arc::clone(&world.borrow());
        samples.add(&VERSION, &[], world.version().0);
        Kind::ALL.iter().for_each(|kind| samples.add(&OBJECTS, &[kind.as_str()], 0_u64));
        world.objects().keys().for_each(|key| samples.add(&OBJECTS, &[key.kind.as_str()], 1_u64));
    });
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use underpass_telemetry::metrics;

    use super::*;

    const HEAD: &str = "# Metrics\n\n\
        Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-agent --lib metrics`.\n\n\
        The agent serves them at `http://NODE:15020/metrics` (`--metrics-address`), and under `/stats/prometheus`, as \
        Prometheus' text\nor as OpenMetrics, whichever is asked for. Counters start at 0 with the process.\n";

    #[test]
    fn the_reference_is_current() {
        expect_file!["../../docs/metrics.md"].assert_eq(&format!("{HEAD}{}", metrics::markdown(&groups())));
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut names: Vec<_> = groups().iter().flat_map(|(_, all)| *all).map(|family| family.name()).collect();
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
