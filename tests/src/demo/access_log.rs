//! Lines of the access log, as both demos show them.

use serde_json::Value;

use super::screen::Screen;

/// A field of a line as text; `-` where it is absent.
pub(crate) fn field<'a>(line: &'a Value, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or("-")
}

/// Prints a line of a node's log as a table.
pub(crate) fn print_line(screen: &Screen, node: &str, line: &Value) {
    let (direction, path) = (field(line, "direction"), field(line, "path"));
    screen.does(&format!("access log of {node}: {direction}, {path}"));
    let row = |name: &str, text: &str| screen.quote(&format!("{name:<12} {text}"));
    for end in ["source", "destination"] {
        let of = |key: &str| field(line, &format!("{end}_{key}"));
        row(end, &format!("{}/{} at {}", of("namespace"), of("workload"), of("address")));
        row("", if of("identity") == "-" { "no identity" } else { of("identity") });
    }
    let number = |key: &str| line.get(key).map_or_else(|| "-".to_owned(), ToString::to_string);
    let (there, back, took) = (number("bytes_received"), number("bytes_sent"), number("duration_ms"));
    row("service", field(line, "service"));
    row("carried", &format!("{there} bytes there, {back} back, in {took} ms"));
    row("reason", &format!("{}, policy {}", field(line, "reason"), field(line, "policy")));
}
