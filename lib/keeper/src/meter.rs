//! The metrics of the keeper. Its own thread sets every number as it changes: a scrape walks through no World.

use std::collections::BTreeMap;

use underpass_core::{
    Kind, ObjectKey,
    objects::{Batch, Change},
    resolve::{Resolved, Sources},
    world::Version,
};
use underpass_telemetry::metrics::{Family, IntCounter, IntGauge, IntGaugeVec, Registry};

use super::Report;

static VERSION: Family =
    Family::gauge("underpass_world_version", "The version of the newest World; it restarts with the process.", &[]);
static OBJECTS: Family = Family::gauge("underpass_world_objects", "Objects behind the newest World.", &["kind"]);
static FINDINGS: Family = Family::gauge(
    "underpass_world_findings",
    "Findings about objects behind the newest World: surprising fields of objects that are valid and served.",
    &[],
);
static CHANGES: Family =
    Family::counter("underpass_world_changes_total", "Objects that the keeper of the World put or removed.", &[]);
static QUEUE: Family = Family::gauge(
    "underpass_world_updates_waiting",
    "Changed objects that the keeper of the World has not taken yet; a door with 10,000 of them waits.",
    &["door"],
);
static PROBLEMS: Family = Family::gauge(
    "underpass_config_problems",
    "Reports about the newest configuration: problem is an error or a warning, notice an object that is known and not \
     served yet.",
    &["door", "kind"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&VERSION, &OBJECTS, &FINDINGS, &CHANGES, &QUEUE, &PROBLEMS];

/// The labels of a family without any.
const NONE: &[&str] = &[];

/// The metrics of the keeper.
#[derive(Debug)]
pub(super) struct Meter {
    version: IntGauge,
    objects: BTreeMap<Kind, IntGauge>,
    findings: IntGauge,
    changes: IntCounter,
    waiting: IntGaugeVec,
    problems: IntGaugeVec,
}

impl Meter {
    pub(super) fn new(registry: &Registry) -> Self {
        let of_kind = registry.gauge(&OBJECTS);
        Self {
            version: registry.gauge(&VERSION).with_label_values(NONE),
            objects: Kind::ALL.iter().map(|kind| (*kind, of_kind.with_label_values(&[kind.as_str()]))).collect(),
            findings: registry.gauge(&FINDINGS).with_label_values(NONE),
            changes: registry.counter(&CHANGES).with_label_values(NONE),
            waiting: registry.gauge(&QUEUE),
            problems: registry.gauge(&PROBLEMS),
        }
    }

    /// The gauge of pending changes of a door.
    pub(super) fn waiting(&self, door: &str) -> IntGauge {
        self.waiting.with_label_values(&[door])
    }

    pub(super) fn published(&self, version: Version) {
        self.version.set(i64::try_from(version.0).unwrap_or(i64::MAX));
    }

    pub(super) fn reported(&self, door: &str, report: &Report) {
        for (kind, all) in [("problem", &report.problems), ("notice", &report.notices)] {
            self.problems.with_label_values(&[door, kind]).set(i64::try_from(all.len()).unwrap_or(i64::MAX));
        }
    }

    /// Counts the objects after a batch, each of whose changes is about another object.
    pub(super) fn changed(&self, batch: &Batch, before: &Sources, after: &Sources) {
        self.changes.inc_by(batch.changes.len() as u64);
        for change in &batch.changes {
            let key = match change {
                Change::Put(object) => object.key(),
                Change::Remove(key) => key.clone(),
            };
            let is_there = |sources: &Sources| i64::from(sources.get(&key).is_some());
            if let Some(objects) = self.objects.get(&key.kind) {
                objects.add(is_there(after) - is_there(before));
            }
        }
    }

    /// Counts the findings about the objects that were resolved, and logs the new ones.
    pub(super) fn found(&self, resolved: &Resolved, before: &Sources, after: &Sources) {
        for object in &resolved.findings {
            self.findings.add(count(after, object) - count(before, object));
            let known = before.findings_of(object);
            for finding in after.findings_of(object).iter().filter(|finding| !known.contains(finding)) {
                tracing::warn!(object = %finding.object, field = %finding.field, finding = %finding.says, "finding about a served object");
            }
        }
    }
}

fn count(sources: &Sources, object: &ObjectKey) -> i64 {
    i64::try_from(sources.findings_of(object).len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use underpass_door::{Fault, Problem, Source};

    use super::*;

    #[test]
    fn the_newest_report_of_a_door_counts_alone() {
        let registry = Registry::default();
        let meter = Meter::new(&registry);
        let source = Source::ApiServer { resource_version: "1".into() };
        let problem = Problem::new(source, Fault::Empty { gave: false });
        for (doors, problems) in
            [(["manifests", "pods"], vec![problem.clone(), problem.clone()]), (["pods"; 2], vec![problem])]
        {
            let report = Report { problems, ..Report::default() };
            doors.into_iter().for_each(|door| meter.reported(door, &report));
        }
        let text = registry.text();
        for (door, count) in [("manifests", 2), ("pods", 1)] {
            let line = format!("underpass_config_problems{{door=\"{door}\",kind=\"problem\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
