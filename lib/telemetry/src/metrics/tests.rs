//! Tests of the registry: values in, text out; a scrape over a real socket is in `tests/metrics.rs`.

use std::sync::{Arc, Mutex};

use expect_test::{Expect, expect};

use super::*;

static CALLS: Family = Family::counter("test_calls_total", "Calls.", &["reason", "side"]);
static OPEN: Family = Family::gauge("test_open", "Open now.", &[]);
static TOOK: Family = Family::histogram("test_took_seconds", "How long it took.", &["side"], &[0.001, 2.5]);
static PARTS: Family = Family::gauge("test_parts", "Parts.", &["part"]);

fn check(registry: &Registry, want: &Expect) {
    want.assert_eq(&registry.text());
}

#[test]
fn every_kind() {
    let registry = Registry::default();
    let calls = registry.counter(&CALLS);
    calls.with_label_values(&["b", "out"]).inc_by(41);
    calls.with_label_values(&["a", "in"]).inc();
    registry.gauge(&OPEN).with_label_values::<&str>(&[]).add(-3);
    let took = registry.histogram(&TOOK).with_label_values(&["in"]);
    [0.000_001, 0.001, 0.001_001, 3.0].into_iter().for_each(|seconds| took.observe(seconds));
    let _parts = registry.gauge(&PARTS);
    check(
        &registry,
        &expect![[r#"
            # HELP test_calls_total Calls.
            # TYPE test_calls_total counter
            test_calls_total{reason="a",side="in"} 1
            test_calls_total{reason="b",side="out"} 41
            # HELP test_open Open now.
            # TYPE test_open gauge
            test_open -3
            # HELP test_took_seconds How long it took.
            # TYPE test_took_seconds histogram
            test_took_seconds_bucket{side="in",le="0.001"} 2
            test_took_seconds_bucket{side="in",le="2.5"} 3
            test_took_seconds_bucket{side="in",le="+Inf"} 4
            test_took_seconds_sum{side="in"} 3.002002
            test_took_seconds_count{side="in"} 4
        "#]],
    );
}

#[test]
fn a_histogram_is_written_as_one_that_is_owned() {
    let (owned, written) = (Registry::default(), Registry::default());
    let took = owned.histogram(&TOOK).with_label_values(&["in"]);
    [0.000_001, 0.001, 0.001_001, 3.0].into_iter().for_each(|seconds| took.observe(seconds));
    written.write(&[&TOOK], |lines| {
        lines.family(&TOOK);
        lines.histogram(&TOOK, &["in"], &[2, 1, 1], 3.002_002);
    });
    assert_eq!(written.text(), owned.text());
}

#[test]
fn owners_are_added_up_and_their_counts_outlive_them() {
    let registry = Registry::default();
    let handles: Vec<_> = (1..=3).map(|n| (n, registry.counter(&CALLS).with_label_values(&["a", "in"]))).collect();
    std::thread::scope(|scope| {
        for (n, handle) in &handles {
            scope.spawn(move || (0..1000).for_each(|_| handle.inc_by(*n)));
        }
    });
    drop(handles);
    registry.counter(&CALLS).with_label_values(&["b", "in"]).inc();
    for level in [2, -5] {
        registry.gauge(&OPEN).with_label_values::<&str>(&[]).set(level);
    }
    for seconds in [0.5, 0.000_5, 10.0] {
        registry.histogram(&TOOK).with_label_values(&["in"]).observe(seconds);
    }
    check(
        &registry,
        &expect![[r#"
            # HELP test_calls_total Calls.
            # TYPE test_calls_total counter
            test_calls_total{reason="a",side="in"} 6000
            test_calls_total{reason="b",side="in"} 1
            # HELP test_open Open now.
            # TYPE test_open gauge
            test_open -3
            # HELP test_took_seconds How long it took.
            # TYPE test_took_seconds histogram
            test_took_seconds_bucket{side="in",le="0.001"} 1
            test_took_seconds_bucket{side="in",le="2.5"} 2
            test_took_seconds_bucket{side="in",le="+Inf"} 3
            test_took_seconds_sum{side="in"} 10.5005
            test_took_seconds_count{side="in"} 3
        "#]],
    );
}

#[test]
fn a_gauge_falls_with_its_guard() {
    let open = Registry::default().gauge(&OPEN).with_label_values::<&str>(&[]);
    let guards = (GaugeGuard::of(&open), GaugeGuard::of(&open));
    assert_eq!(open.get(), 2);
    drop(guards.0);
    assert_eq!(open.get(), 1);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _guard = guards.1;
        panic!("by intention");
    }));
    assert_eq!(open.get(), 0);
}

#[test]
fn a_collector_is_read_at_the_scrape_and_its_series_go_with_their_source() {
    let registry = Registry::default();
    let parts = Arc::new(Mutex::new(vec!["a", "b", "a"]));
    let source = Arc::clone(&parts);
    registry.collect(&[&PARTS, &OPEN], move |samples| {
        source.lock().unwrap().iter().for_each(|part| samples.add(&PARTS, &[part], 7_u64));
    });
    check(
        &registry,
        &expect![[r#"
            # HELP test_parts Parts.
            # TYPE test_parts gauge
            test_parts{part="a"} 14
            test_parts{part="b"} 7
        "#]],
    );
    parts.lock().unwrap().clear();
    check(&registry, &expect![""]);
}

#[test]
#[should_panic(expected = "metric test_open: Duplicate metrics collector registration attempted")]
fn two_collectors_of_one_family_are_a_mistake() {
    let registry = Registry::default();
    (0..2).for_each(|_| registry.collect(&[&OPEN], |_| ()));
}

#[test]
fn values_are_escaped_and_cannot_make_lines_or_labels() {
    let registry = Registry::default();
    registry.collect(&[&CALLS], |samples| samples.add(&CALLS, &["a\"} 1\nevil 2", "back\\slash"], 1_u64));
    check(
        &registry,
        &expect![[r#"
            # HELP test_calls_total Calls.
            # TYPE test_calls_total counter
            test_calls_total{reason="a\"} 1\nevil 2",side="back\\slash"} 1
        "#]],
    );
}

#[test]
fn families_written_directly_are_the_same_text() {
    let values: [[&str; 2]; 4] = [["a\"} 1\nevil 2", "back\\slash"], ["", "x"], ["\\\"\n\n", "\\"], ["ü", "y z"]];
    let (collected, written) = (Registry::default(), Registry::default());
    collected.collect(&[&CALLS, &OPEN], move |samples| {
        samples.add(&OPEN, &[], -7_i64);
        values.iter().for_each(|labels| samples.add(&CALLS, labels, 1_u64));
    });
    written.write(&[&CALLS, &OPEN], move |lines| {
        lines.family(&CALLS);
        values.iter().for_each(|labels| lines.sample(&CALLS, labels, 1));
        lines.family(&OPEN);
        lines.sample(&OPEN, &[], -7);
    });
    let sorted = |registry: &Registry| {
        let mut lines: Vec<_> = registry.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&written), sorted(&collected));
}

#[test]
fn reference() {
    expect![[r#"

        ## Calls

        | name | type | labels | meaning |
        |---|---|---|---|
        | `test_calls_total` | counter | `reason` `side` | Calls. |
        | `test_open` | gauge | - | Open now. |
    "#]]
    .assert_eq(&markdown(&[("Calls", &[&OPEN, &CALLS])]));
}
