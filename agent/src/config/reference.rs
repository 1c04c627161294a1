//! The settings for people: docs/settings.md, and the settings in effect as a file for `--config`.

use std::fmt::Write as _;

use super::{load::Effective, table::rows};

const HEAD: &str = "\
# Settings

Generated from the table in `agent/src/config.rs`; a test keeps it current (`UPDATE_EXPECT=1` rewrites it).

Every setting of `underpass-agent` is a flag (`--release-drain 1m`), an environment variable (`UNDERPASS_RELEASE_DRAIN=1m`)
and a key of the YAML file that `--config` or `UNDERPASS_CONFIG` names (`release-drain: 1m`). The flag overrules the
variable, the variable the file, the file the default. An empty variable is not set. A list is separated by commas, or a
list in the file. A duration is a number of seconds, or numbers with units: `30`, `30s`, `1h30m`, `500ms`, `7d`.

All problems of all sources are reported at once, with their origins, and the agent does not start.
`underpass-agent --print-config` prints the settings and the origin of each; `underpass config` asks a running agent.

The file is read again on SIGHUP, and within two seconds after it changed. Settings marked *live* follow it; a change of
another one is reported and needs a restart. A file with a problem changes nothing: the previous settings stay in effect, and
the problem is in the log and in `underpass config`.

| setting | variable | value | default | live | |
|---|---|---|---|---|---|
";

/// docs/settings.md.
#[must_use]
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for row in rows() {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) };
        let defaults: Vec<_> = row.defaults.iter().map(|v| v.to_string_lossy()).collect();
        let default = if row.is_required() { "required".to_owned() } else { code(&defaults.join(",")) };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {default} | {} | {} |",
            code(&row.name),
            code(row.variable.as_deref().unwrap_or_default()),
            code(&row.value_name()),
            if row.live { "live" } else { "" },
            row.help().replace('|', "\\|"),
        );
    }
    out
}

/// The settings in effect as a file, each with its origin as a comment.
#[must_use]
pub fn yaml(settings: &[Effective]) -> String {
    let mut lines = Vec::new();
    for setting in settings {
        let values: Vec<_> = setting.values.iter().map(|v| quoted(&v.to_string_lossy())).collect();
        let line = match &*values {
            [] => format!("# {}: not set", setting.name),
            [one] => format!("{}: {one}", setting.name),
            all => format!("{}: [{}]", setting.name, all.join(", ")),
        };
        lines.push((line, setting));
    }
    let widest = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default();
    lines.iter().fold(String::new(), |out, (line, setting)| match setting.values.is_empty() {
        true => out + line + "\n",
        false => out + &format!("{line:widest$}  # {}\n", setting.origin),
    })
}

/// A scalar that YAML 1.1 reads back as this text, or as the number or truth value that is spelt so.
fn quoted(text: &str) -> String {
    const WORDS: [&str; 7] = ["y", "n", "yes", "no", "on", "off", "null"];
    let is_word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    let is_number = text.parse::<u64>().is_ok_and(|n| n.to_string() == text);
    let is_duration = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(['d', 'h', 'm', 's'])
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, 'd' | 'h' | 'm' | 's'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '=' | ',');
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') && text.chars().all(plain);
    if is_number || is_duration || (is_plain && !is_word) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
