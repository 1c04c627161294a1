//! The registry as a table of what goes in and what comes out; a scrape over a real socket is in `tests/metrics.rs`.

use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;

static CALLS: Family = Family::counter("test_calls_total", "Calls.", &["side", "reason"]);
static OPEN: Family = Family::gauge("test_open", "Open now.", &[]);
static TOOK: Family = Family::histogram("test_took_seconds", "How long it took.", &["side"], &[1_000, 2_500_000]);
static SENT: Family = Family::counter("test_sent_bytes_total", "Bytes.", &[]);

fn check(registry: &Registry, exposition: Exposition, want: &Expect) {
    want.assert_eq(&exposition.write(&registry.gather()));
}

#[test]
fn both_formats() {
    let registry = Registry::default();
    let calls = registry.counter(&CALLS);
    calls.with(&["in", "a"]).inc();
    calls.with(&["out", "b"]).add(41);
    registry.gauge(&OPEN).with(&[]).add(-3);
    let took = registry.histogram(&TOOK).with(&["in"]);
    [1, 1_000, 1_001, 3_000_000].into_iter().for_each(|us| took.observe(Duration::from_micros(us)));
    registry.counter(&SENT).with(&[]).add(u64::MAX);
    check(
        &registry,
        Exposition::Text,
        &expect![[r#"
            # HELP test_calls_total Calls.
            # TYPE test_calls_total counter
            test_calls_total{side="in",reason="a"} 1
            test_calls_total{side="out",reason="b"} 41
            # HELP test_open Open now.
            # TYPE test_open gauge
            test_open -3
            # HELP test_sent_bytes_total Bytes.
            # TYPE test_sent_bytes_total counter
            test_sent_bytes_total 18446744073709551615
            # HELP test_took_seconds How long it took.
            # TYPE test_took_seconds histogram
            test_took_seconds_bucket{side="in",le="0.001"} 2
            test_took_seconds_bucket{side="in",le="2.5"} 3
            test_took_seconds_bucket{side="in",le="+Inf"} 4
            test_took_seconds_sum{side="in"} 3.002002
            test_took_seconds_count{side="in"} 4
        "#]],
    );
    check(
        &registry,
        Exposition::OpenMetrics,
        &expect![[r#"
            # HELP test_calls Calls.
            # TYPE test_calls counter
            test_calls_total{side="in",reason="a"} 1
            test_calls_total{side="out",reason="b"} 41
            # HELP test_open Open now.
            # TYPE test_open gauge
            test_open -3
            # HELP test_sent_bytes Bytes.
            # TYPE test_sent_bytes counter
            # UNIT test_sent_bytes bytes
            test_sent_bytes_total 18446744073709551615
            # HELP test_took_seconds How long it took.
            # TYPE test_took_seconds histogram
            # UNIT test_took_seconds seconds
            test_took_seconds_bucket{side="in",le="0.001"} 2
            test_took_seconds_bucket{side="in",le="2.5"} 3
            test_took_seconds_bucket{side="in",le="+Inf"} 4
            test_took_seconds_sum{side="in"} 3.002002
            test_took_seconds_count{side="in"} 4
            # EOF
        "#]],
    );
}

#[test]
fn owners_are_added_up_and_their_counts_outlive_them() {
    let registry = Registry::default();
    let handles: Vec<_> = (1..=3).map(|n| (n, registry.counter(&CALLS).with(&["in", "a"]))).collect();
    std::thread::scope(|scope| {
        for (n, handle) in &handles {
            scope.spawn(move || (0..1000).for_each(|_| handle.add(*n)));
        }
    });
    drop(handles);
    assert_eq!(registry.gather().value(&CALLS, &["in", "a"]), Some(&Value::Count(6000)));
    assert_eq!(registry.gather().value(&CALLS, &["in", "b"]), None);

    let [first, second] = [(); 2].map(|()| registry.histogram(&TOOK).with(&["in"]));
    first.observe(Duration::from_micros(10));
    second.observe(Duration::from_secs(10));
    let sum = Distribution { buckets: vec![1, 0, 1], sum_us: 10_000_010 };
    assert_eq!(registry.gather().value(&TOOK, &["in"]), Some(&Value::Distribution(sum)));
}

#[test]
fn a_gauge_falls_with_its_guard() {
    let registry = Registry::default();
    let open = registry.gauge(&OPEN).with(&[]);
    let level = || registry.gather().value(&OPEN, &[]).cloned();
    let held = (open.hold(), open.hold());
    assert_eq!(level(), Some(Value::Level(2)));
    drop(held.0);
    assert_eq!(level(), Some(Value::Level(1)));
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = held.1;
        panic!("by intention");
    }));
    assert_eq!(level(), Some(Value::Level(0)));
}

#[test]
fn what_is_collected_is_read_at_the_scrape_and_goes_with_its_source() {
    let registry = Registry::default();
    let names = std::sync::Arc::new(std::sync::Mutex::new(vec!["a"]));
    let source = std::sync::Arc::clone(&names);
    registry.collect(move |samples| {
        samples.declare(&CALLS);
        source.lock().unwrap().iter().for_each(|name| samples.add(&CALLS, &["in", name], 7_u64));
    });
    registry.counter(&CALLS).with(&["in", "a"]).add(2);
    assert_eq!(registry.gather().value(&CALLS, &["in", "a"]), Some(&Value::Count(9)));
    names.lock().unwrap()[0] = "b";
    let samples = registry.gather();
    assert_eq!(samples.value(&CALLS, &["in", "a"]), Some(&Value::Count(2)));
    assert_eq!(samples.value(&CALLS, &["in", "b"]), Some(&Value::Count(7)));
}

#[test]
fn values_are_escaped_and_cannot_make_lines_or_labels() {
    let registry = Registry::default();
    registry.counter(&CALLS).with(&["a\"} 1\nevil 2", "back\\slash"]).inc();
    check(
        &registry,
        Exposition::Text,
        &expect![[r#"
            # HELP test_calls_total Calls.
            # TYPE test_calls_total counter
            test_calls_total{side="a\"} 1\nevil 2",reason="back\\slash"} 1
        "#]],
    );
}

#[test]
fn numbers() {
    for (value, want) in [
        (Value::from(0_u64), "0"),
        (Value::from(-1_i64), "-1"),
        (Value::from(0.25), "0.25"),
        (Value::from(1e21), "1000000000000000000000"),
        (Value::from(f64::NAN), "NaN"),
        (Value::from(f64::INFINITY), "+Inf"),
        (Value::from(f64::NEG_INFINITY), "-Inf"),
    ] {
        let mut samples = Samples::default();
        samples.add(&OPEN, &[], value);
        let text = Exposition::Text.write(&samples);
        assert_eq!(text.lines().last(), Some(format!("test_open {want}").as_str()));
    }
}

#[test]
fn a_family_without_series_is_declared_and_not_written() {
    let registry = Registry::default();
    let _calls = registry.counter(&CALLS);
    let samples = registry.gather();
    assert_eq!(samples.families().map(Family::name).collect::<Vec<_>>(), ["test_calls_total"]);
    assert_eq!(Exposition::Text.write(&samples), "");
    assert_eq!(Exposition::OpenMetrics.write(&samples), "# EOF\n");
}

#[test]
fn the_format_that_is_asked_for() {
    let check = |accept: &str, want| assert_eq!(Exposition::accepted(accept), want, "{accept:?}");
    check("", Exposition::Text);
    check("*/*", Exposition::Text);
    check("text/html,application/xhtml+xml;q=0.9", Exposition::Text);
    check("text/plain;version=0.0.4", Exposition::Text);
    check("application/openmetrics-text", Exposition::OpenMetrics);
    check("Application/OpenMetrics-Text; version=1.0.0; q=0.5, text/plain;q=0.4", Exposition::OpenMetrics);
    check("application/openmetrics-text;q=0.4,text/plain;q=0.5", Exposition::Text);
    check("application/openmetrics-text;q=0", Exposition::Text);
    check("application/openmetrics-text;q=x", Exposition::Text);
    // What Prometheus 2.42 sends.
    check(
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        Exposition::OpenMetrics,
    );
}

#[test]
fn units_and_reference() {
    assert_eq!([&CALLS, &OPEN, &TOOK, &SENT].map(Family::unit), [None, None, Some("seconds"), Some("bytes")]);
    expect![[r#"

        ## Calls

        | name | type | labels | what it tells |
        |---|---|---|---|
        | `test_calls_total` | counter | `side` `reason` | Calls. |
        | `test_open` | gauge | - | Open now. |
    "#]]
    .assert_eq(&markdown(&[("Calls", &[&OPEN, &CALLS])]));
}
