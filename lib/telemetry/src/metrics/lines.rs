//! Families of very many series with very many labels, written straight as text 0.0.4 (prometheus.io, exposition formats).
//! The crate `prometheus` wants every label of every sample as two strings of its own: for the traffic of 10,000 pairs of
//! workloads these are two million, 120 MiB and half a second at every scrape.

use std::fmt::{Display, Write as _};

use super::{Family, Kind};

/// The text that families are written to.
#[derive(Debug)]
pub struct Lines(pub(super) String);

impl Lines {
    /// Begins a family: the samples that follow are of it.
    pub fn family(&mut self, family: &Family) {
        let (name, help, kind) = (family.name(), family.help(), family.kind().as_str());
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One series, which is written once: its label values, in the order of the family's labels, and its value.
    pub fn sample(&mut self, family: &Family, labels: &[&str], value: impl Display) {
        self.series(family, "", labels, None, value);
    }

    /// One series of a histogram, which is written once: how many observations were up to each bound and above the one before,
    /// how many above all bounds, and the sum of what was observed.
    pub fn histogram(&mut self, family: &Family, labels: &[&str], counts: &[u64], sum: impl Display) {
        let bounds = match family.kind() {
            Kind::Histogram(bounds) => bounds,
            _ => &[],
        };
        debug_assert_eq!(bounds.len() + 1, counts.len(), "{}: a count for each bound", family.name());
        let mut count = 0_u64;
        for (n, more) in counts.iter().enumerate() {
            count = count.saturating_add(*more);
            match bounds.get(n) {
                Some(bound) => self.series(family, "_bucket", labels, Some(bound), count),
                None => self.series(family, "_bucket", labels, Some(&"+Inf"), count),
            }
        }
        self.series(family, "_sum", labels, None, sum);
        self.series(family, "_count", labels, None, count);
    }

    fn series(
        &mut self,
        family: &Family,
        suffix: &str,
        labels: &[&str],
        bound: Option<&dyn Display>,
        value: impl Display,
    ) {
        debug_assert_eq!(family.labels().len(), labels.len(), "{}: a value for each label", family.name());
        self.0.push_str(family.name());
        self.0.push_str(suffix);
        let mut next = '{';
        for (name, value) in family.labels().iter().zip(labels) {
            self.0.push(std::mem::replace(&mut next, ','));
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.escape(value);
            self.0.push('"');
        }
        if let Some(bound) = bound {
            let _ = write!(self.0, "{}le=\"{bound}\"", std::mem::replace(&mut next, ','));
        }
        let end = if next == ',' { "}" } else { "" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// The backslash, the quote and the line feed of a value, and nothing else.
    fn escape(&mut self, value: &str) {
        for part in value.split_inclusive(['\\', '"', '\n']) {
            let plain = part.trim_end_matches(['\\', '"', '\n']);
            self.0.push_str(plain);
            match part.strip_prefix(plain) {
                Some("\n") => self.0.push_str("\\n"),
                Some("\\") => self.0.push_str("\\\\"),
                Some("\"") => self.0.push_str("\\\""),
                _ => {}
            }
        }
    }
}
