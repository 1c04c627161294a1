//! Parts of sentences about faults. Its own file because texts of a manifest stand in them, which may be long.

pub(crate) fn further(lines: &[u32]) -> String {
    const MOST: usize = 5;
    let some: Vec<_> = lines.iter().take(MOST).map(ToString::to_string).collect();
    let more = if lines.len() > MOST { " ..." } else { "" };
    match lines.len() {
        0 => String::new(),
        1 => format!(" (also in line {})", some.join("")),
        _ => format!(" (also in lines {}{more})", some.join(", ")),
    }
}

pub(crate) fn hint(meant: Option<&'static str>) -> Option<String> {
    meant.map(|m| format!(": did you mean `{m}`?"))
}

pub(crate) fn at_line(line: Option<u32>) -> String {
    line.map_or_else(String::new, |l| format!(":{l}"))
}

pub(crate) fn list(known: &[&str]) -> String {
    known.join(", ")
}

/// The beginning of a text, enough to find it: a manifest of megabytes makes no message of megabytes.
pub(crate) fn cut(text: &str) -> String {
    const MOST: usize = 80;
    let mut out: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}
