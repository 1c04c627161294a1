//! The two text formats: Prometheus' 0.0.4 (prometheus.io, exposition formats) and OpenMetrics 1.0.0, which a scraper
//! asks for by `Accept` (RFC 9110, 12.5.1).

use std::fmt::Write as _;

use super::{Distribution, Family, Kind, Samples, Value};

/// A format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposition {
    /// What everything reads.
    #[default]
    Text,
    /// What newer scrapers prefer.
    OpenMetrics,
}

const MICROSECONDS_PER_SECOND: u32 = 1_000_000;

impl Exposition {
    /// What an `Accept` header asks for; text where it prefers neither.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
        let (mut text, mut open) = (0.0_f32, 0.0_f32);
        for range in header.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
            let weight = weight.unwrap_or(0.0);
            match media.as_str() {
                "application/openmetrics-text" => open = open.max(weight),
                "text/plain" | "text/*" | "*/*" => text = text.max(weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of an answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// All samples.
    #[must_use]
    pub fn write(self, samples: &Samples) -> String {
        let mut out = String::new();
        for (family, series) in samples.families.values().filter(|(_, series)| !series.is_empty()) {
            self.describe(&mut out, family);
            for (labels, value) in series {
                match (value, family.kind()) {
                    (Value::Distribution(d), Kind::Histogram(bounds)) => {
                        distribution(&mut out, family.name(), labels.as_str(), bounds, d);
                    }
                    (value, _) => sample(&mut out, family.name(), labels.as_str(), &number(value)),
                }
            }
        }
        if self == Self::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    fn describe(self, out: &mut String, family: &Family) {
        let name = match self {
            Self::Text => family.name(),
            Self::OpenMetrics => family.stem(),
        };
        line(out, format_args!("# HELP {name} {}", family.help()));
        line(out, format_args!("# TYPE {name} {}", family.kind().as_str()));
        if let (Self::OpenMetrics, Some(unit)) = (self, family.unit()) {
            line(out, format_args!("# UNIT {name} {unit}"));
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn sample(out: &mut String, name: &str, labels: &str, value: &str) {
    if labels.is_empty() {
        line(out, format_args!("{name} {value}"));
    } else {
        line(out, format_args!("{name}{{{labels}}} {value}"));
    }
}

fn distribution(out: &mut String, name: &str, labels: &str, bounds_us: &[u64], d: &Distribution) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut count = 0_u64;
    let bounds = bounds_us.iter().map(|us| seconds(*us)).chain(std::iter::once("+Inf".to_owned()));
    for (bound, n) in bounds.zip(&d.buckets) {
        count = count.saturating_add(*n);
        line(out, format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"));
    }
    sample(out, &format!("{name}_sum"), labels, &seconds(d.sum_us));
    sample(out, &format!("{name}_count"), labels, &count.to_string());
}

/// Exact, and with a point: OpenMetrics wants bounds that look like floats.
fn seconds(us: u64) -> String {
    let per = u64::from(MICROSECONDS_PER_SECOND);
    let text = format!("{}.{:06}", us / per, us % per);
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

fn number(value: &Value) -> String {
    match value {
        Value::Count(n) => n.to_string(),
        Value::Level(n) => n.to_string(),
        Value::Real(n) if n.is_nan() => "NaN".to_owned(),
        Value::Real(n) if n.is_infinite() => (if *n > 0.0 { "+Inf" } else { "-Inf" }).to_owned(),
        Value::Real(n) => n.to_string(),
        // A distribution under a family that is none: its count.
        Value::Distribution(d) => d.buckets.iter().sum::<u64>().to_string(),
    }
}
