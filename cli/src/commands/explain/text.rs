//! An explanation for people: the answer in one line, then the steps, aligned.

use std::fmt::Write as _;

use underpass_core::explain::{Answer, Behind, Explanation, Path};

use crate::output::{Colour, one_line};

pub(super) fn write(e: &Explanation, colour: Colour) -> String {
    let mut out = headline(e, colour);
    out.push('\n');
    let objects: Vec<_> =
        e.steps.iter().map(|s| s.object.as_ref().map(ToString::to_string).unwrap_or_default()).collect();
    let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let stage_width = widest(&mut e.steps.iter().map(|s| s.stage.as_str().len()));
    let object_width = widest(&mut objects.iter().map(|o| o.chars().count()));
    let mut last = "";
    for (step, object) in e.steps.iter().zip(&objects) {
        let stage = step.stage.as_str();
        // A stage is named once: its other steps stand below.
        let shown = if stage == last { "" } else { stage };
        last = stage;
        let stage = colour.faint(&format!("{shown:stage_width$}"));
        let _ = writeln!(out, "  {stage}  {:object_width$}  {}", one_line(object), one_line(&step.says));
    }
    out.push_str(&behind(e));
    out
}

/// The fields that the route of a request or connection follows from, each with its file and line.
fn behind(e: &Explanation) -> String {
    let objects = e.http.iter().flat_map(|http| &http.objects).chain(e.tcp.iter().flat_map(|tcp| &tcp.objects));
    let located = objects.filter_map(|one| Some((one, one.place.as_ref()?)));
    let line =
        |(one, place): (&Behind, &String)| format!("  {}: {} {}\n", one_line(place), one.object, one_line(&one.field));
    let lines: String = located.map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn headline(e: &Explanation, colour: Colour) -> String {
    let word = match e.verdict {
        Answer::Allow => colour.green("allowed"),
        Answer::Deny => colour.red("denied"),
    };
    let policy = e.policy.as_ref().map_or_else(String::new, |p| format!(", policy {p}"));
    let line = format!(": {} (path {}{policy})", e.reason, path_word(e.path));
    format!("{word}{}\n", one_line(&line))
}

/// As in JSON.
const fn path_word(path: Path) -> &'static str {
    match path {
        Path::Untouched => "untouched",
        Path::Hbone => "hbone",
        Path::Passthrough => "passthrough",
        Path::Plaintext => "plaintext",
        Path::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        Kind, ObjectKey, ObjectName,
        trace::{Stage, Step},
    };

    use super::*;

    #[test]
    fn every_path_is_called_as_in_json() {
        for path in [Path::Untouched, Path::Hbone, Path::Passthrough, Path::Plaintext, Path::Refused] {
            assert_eq!(serde_json::to_value(path).unwrap(), path_word(path));
        }
    }

    #[test]
    fn columns_are_aligned_and_coloured_on_demand() {
        let name = ObjectName::new("default", "a");
        let step = |stage, object, says: &str| Step { stage, object, says: says.into() };
        let e = Explanation {
            source: String::new(),
            destination: String::new(),
            path: Path::Hbone,
            verdict: Answer::Deny,
            policy: Some(name.clone()),
            reason: "denied".into(),
            steps: vec![
                step(Stage::Capture, None, "one"),
                step(Stage::Authorization, Some(ObjectKey::new(Kind::AuthorizationPolicy, name)), "two\nallowed"),
                step(Stage::Authorization, None, "three"),
            ],
            http: None,
            tcp: None,
        };
        let object = "AuthorizationPolicy default/a";
        let (blank, space) = (" ".repeat(object.len()), " ".repeat("authorization".len()));
        let want = format!(
            "denied: denied (path hbone, policy default/a)\n\n  capture        {blank}  one\n  authorization  {object}  two\\nallowed\n  {space}  {blank}  three\n"
        );
        assert_eq!(write(&e, Colour::Never), want);
        let coloured = write(&e, Colour::Always);
        assert!(coloured.starts_with("\u{1b}[31;1mdenied\u{1b}[0m: denied"), "{coloured}");
        let plain = coloured.replace("\u{1b}[31;1m", "").replace("\u{1b}[2m", "").replace("\u{1b}[0m", "");
        assert_eq!(plain, want);
    }
}
