//! Every crate inherits the workspace's lints: a rule that one crate never hears of is no rule.

use super::Finding;
use super::sources::Source;

pub(crate) fn check(source: &Source) -> Option<Finding> {
    if source.path.rsplit('/').next() != Some("Cargo.toml") {
        return None;
    }
    let manifest: toml::Table = match source.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return Some(format!("{}: {error}", source.path)),
    };
    // A workspace of its own (the kernel programs, fuzz targets) has nothing to inherit.
    let inherits = |lints: &toml::Value| lints.get("workspace").and_then(toml::Value::as_bool) == Some(true);
    let fails = manifest.contains_key("package")
        && !manifest.contains_key("workspace")
        && !manifest.get("lints").is_some_and(inherits);
    fails.then(|| format!("{}: no `[lints] workspace = true`", source.path))
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    #[test]
    fn a_member_inherits_lints() {
        for (path, text, passes) in [
            ("lib/a/Cargo.toml", "[package]\nname = 'a'\n[lints]\nworkspace = true\n", true),
            ("lib/a/Cargo.toml", "[package]\nname = 'a'\n", false),
            ("lib/a/Cargo.toml", "[package]\nname = 'a'\n[lints.rust]\nunsafe_code = 'allow'\n", false),
            ("lib/a/Cargo.toml", "[package\n", false),
            ("ebpf/programs/Cargo.toml", "[workspace]\n[package]\nname = 'a'\n", true),
            ("Cargo.toml", "[workspace]\nmembers = []\n", true),
            ("deny.toml", "x = 1\n", true),
        ] {
            assert_eq!(check(&source(path, text)).is_none(), passes, "{path}: {text}");
        }
    }
}
