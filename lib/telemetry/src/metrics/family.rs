//! What a metric is called and what it means. Families are `static`s: a name that Prometheus would not take, a counter
//! that does not end in `_total` or an empty help does not compile.

/// What the values of a family do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations up to each of these bounds, in microseconds; the family is in seconds.
    Histogram(&'static [u64]),
}

impl Kind {
    /// As written behind `# TYPE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric with all of its series.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
}

impl Family {
    /// A counter; `name` ends in `_total`.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        assert!(ends_with(name, "_total"), "the name of a counter ends in _total");
        Self::new(name, help, Kind::Counter, labels)
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        assert!(!ends_with(name, "_total"), "the name of a gauge does not end in _total");
        Self::new(name, help, Kind::Gauge, labels)
    }

    /// A histogram of durations; `name` ends in `_seconds`, the bounds are microseconds and grow.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds_us: &'static [u64],
    ) -> Self {
        assert!(ends_with(name, "_seconds"), "the name of a histogram of durations ends in _seconds");
        let mut i = 1;
        while i < bounds_us.len() {
            assert!(bounds_us[i - 1] < bounds_us[i], "the bounds of a histogram grow");
            i += 1;
        }
        Self::new(name, help, Kind::Histogram(bounds_us), labels)
    }

    const fn new(name: &'static str, help: &'static str, kind: Kind, labels: &'static [&'static str]) -> Self {
        assert!(is_name(name), "a metric's name is lower case letters, digits and _");
        assert!(is_plain(help), "a metric's help is one line without quotes and backslashes");
        let mut i = 0;
        while i < labels.len() {
            assert!(is_name(labels[i]), "a label's name is lower case letters, digits and _");
            i += 1;
        }
        Self { name, help, kind, labels }
    }

    /// Its whole name: `underpass_tunnels_opened_total`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it measures, in one sentence.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }

    /// What its values do.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The names of its labels, in the order of their values.
    #[must_use]
    pub const fn labels(&self) -> &'static [&'static str] {
        self.labels
    }

    /// Its unit, which its name ends with (before `_total`).
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let stem = self.stem();
        ["seconds", "bytes"].into_iter().find(|unit| stem.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
    }

    /// Its name as OpenMetrics describes it: without a counter's `_total`.
    pub(super) fn stem(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            _ => self.name,
        }
    }
}

/// `[a-z_][a-z0-9_]*`: what Prometheus takes, without what it takes for others' sake.
const fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'a'..=b'z' | b'_' => {}
            b'0'..=b'9' if i > 0 => {}
            _ => return false,
        }
        i += 1;
    }
    !bytes.is_empty()
}

/// Needs no escape in either format.
const fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if matches!(bytes[i], b'\n' | b'"' | b'\\') {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty()
}

const fn ends_with(text: &str, end: &str) -> bool {
    let (text, end) = (text.as_bytes(), end.as_bytes());
    if text.len() <= end.len() {
        return false;
    }
    let mut i = 0;
    while i < end.len() {
        if text[text.len() - end.len() + i] != end[i] {
            return false;
        }
        i += 1;
    }
    true
}
