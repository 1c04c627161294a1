//! Metrics of the control plane, and the list of all of its families, from which `docs/control-metrics.md` is written.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use underpass_telemetry::metrics::{Family, Registry, Samples, process};
use underpass_xds::{
    resource::ResourceKind,
    server::{Counters, Phase},
};

use crate::{
    admission,
    ca::{callers, issuer, source::Newest},
    leader, status,
};

static BUILD: Family = Family::gauge("underpass_build_info", "Version of the build; always 1.", &["version"]);
static STREAMS: Family = Family::gauge(
    "underpass_xds_streams",
    "Open delta streams, by state: opening has not been sent everything yet, behind has changes to come, current has none.",
    &["state"],
);
static OPENED: Family = Family::counter("underpass_xds_streams_opened_total", "Delta streams that were opened.", &[]);
static CLOSED: Family = Family::counter(
    "underpass_xds_streams_closed_total",
    "Delta streams that the control plane refused or closed, by reason.",
    &["reason"],
);
static RESPONSES: Family = Family::counter("underpass_xds_responses_total", "Responses that were sent.", &["type"]);
static RESOURCES: Family =
    Family::counter("underpass_xds_resources_total", "Resources that were sent, removals included.", &["type"]);
static BYTES: Family = Family::counter("underpass_xds_response_bytes_total", "Encoded bytes of responses.", &["type"]);
static REFUSED: Family = Family::counter(
    "underpass_xds_responses_refused_total",
    "Responses that a client refused (NACK); its log and that of the control plane have the reason.",
    &["type"],
);
static EXPIRY: Family = Family::gauge(
    "underpass_ca_not_after_seconds",
    "The end of the CA's validity, with all that certifies it, in seconds since the epoch.",
    &[],
);

/// The families of this room.
const FAMILIES: &[&Family] = &[&BUILD];
const XDS: &[&Family] = &[&STREAMS, &OPENED, &CLOSED, &RESPONSES, &RESOURCES, &BYTES, &REFUSED];
const CA: &[&Family] = &[&EXPIRY];

/// All families of the control plane, by subject.
#[must_use]
pub fn groups() -> Vec<(&'static str, &'static [&'static Family])> {
    vec![
        ("xDS", XDS),
        ("Callers", callers::FAMILIES),
        ("Certificates", issuer::FAMILIES),
        ("The CA", CA),
        ("The leader", leader::FAMILIES),
        ("Status of policies", status::FAMILIES),
        ("Admission", admission::FAMILIES),
        ("World", underpass_keeper::FAMILIES),
        ("The process", FAMILIES),
        ("The process, by Prometheus' common names", process::FAMILIES),
    ]
}

/// Measures the process, its streams and its CA.
pub fn measure(registry: &Registry, counters: &Arc<Counters>, authority: Newest) {
    registry.gauge(&BUILD).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    process::measure(registry);
    let counters = Arc::clone(counters);
    registry.collect(XDS, move |samples| streams(&counters, samples));
    registry.collect(CA, move |samples| {
        let not_after: SystemTime = authority.borrow().not_after();
        let seconds = not_after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        samples.add(&EXPIRY, &[], seconds);
    });
}

fn streams(counters: &Counters, samples: &mut Samples) {
    for (phase, name) in [(Phase::Opening, "opening"), (Phase::Behind, "behind"), (Phase::Current, "current")] {
        samples.add(&STREAMS, &[name], counters.streams(phase));
    }
    samples.add(&OPENED, &[], counters.opened());
    for (reason, count) in [
        ("turned_away", counters.turned_away()),
        ("unanswered", counters.unanswered()),
        ("malformed", counters.malformed()),
    ] {
        samples.add(&CLOSED, &[reason], count);
    }
    for (kind, name) in [(ResourceKind::Address, "address"), (ResourceKind::Authorization, "authorization")] {
        let sent = counters.sent(kind);
        samples.add(&RESPONSES, &[name], sent.responses);
        samples.add(&RESOURCES, &[name], sent.resources.saturating_add(sent.removals));
        samples.add(&BYTES, &[name], sent.bytes);
        samples.add(&REFUSED, &[name], sent.refused);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use underpass_telemetry::metrics;

    use super::*;

    const HEAD: &str = "# Metrics of the control plane\n\n\
        Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-control --lib metrics`.\n\n\
        `underpass-control` serves them at `http://POD:15014/metrics` (`--monitoring-address`). Counters start at 0 with the \
        process.\n";

    #[test]
    fn the_reference_is_current() {
        expect_file!["../../docs/control-metrics.md"].assert_eq(&format!("{HEAD}{}", metrics::markdown(&groups())));
    }
}
