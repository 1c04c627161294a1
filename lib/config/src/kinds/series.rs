//! Metrics in dashboards and alerts that Underpass does not have. Found in the text of objects of other kinds: such a
//! rule stays valid, and silently never fires.

/// Prefixes of names, and the replacement or reason.
pub(crate) const ABSENT: &[(&str, &str)] = &[
    ("envoy_", "does not exist here, as there is no Envoy"),
    ("istio_request", "counts HTTP requests, which need a waypoint; connections are in istio_tcp_*"),
    ("istio_response", "counts HTTP responses, which need a waypoint; bytes are in istio_tcp_*"),
    ("istio_agent_", "is a metric of Istio's agent; those of Underpass's agent are underpass_*"),
    ("istio_build", "is a metric of Istio"),
    ("istiod_", "is a metric of Istio's control plane"),
    ("pilot_", "is a metric of Istio's control plane"),
    ("galley_", "is a metric of Istio's control plane"),
    ("citadel_", "is a metric of Istio's control plane"),
];

/// The text about a name, if there is no such metric.
pub(crate) fn absent(name: &str) -> Option<&'static str> {
    ABSENT.iter().find(|(start, _)| name.starts_with(start) && name.len() > start.len()).map(|(_, says)| *says)
}

/// Every such name in a text, with its line from 0: each name where it stands first. Comments count for nothing.
pub(crate) fn mentioned(text: &str) -> Vec<(u32, &str, &'static str)> {
    let mut found: Vec<(u32, &str, &'static str)> = Vec::new();
    for (line, i) in text.lines().zip(0_u32..).filter(|(l, _)| !l.trim_start().starts_with('#')) {
        for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))) {
            if let Some(says) = absent(word).filter(|_| !found.iter().any(|(_, w, _)| *w == word)) {
                found.push((i, word, says));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_expressions() {
        let text = "expr: |\n  sum(rate(istio_requests_total{a=\"b\"}[5m])) / envoy_x\n# envoy_y\n  envoy_x + istio_tcp_sent_bytes_total\n  my_envoy_z envoy_\n";
        let names: Vec<_> = mentioned(text).into_iter().map(|(line, name, _)| (line, name)).collect();
        assert_eq!(names, [(1, "istio_requests_total"), (1, "envoy_x")]);
    }
}
