//! No path of one machine: what is checked in must work wherever it is checked out.

use super::Finding;
use super::sources::Source;

/// Folders in which people and build machines keep checkouts. Written in halves, so that this file does not break its own rule.
const HOMES: &[&str] = &[concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// `own` is this checkout's folder.
pub(crate) fn check(source: &Source, own: &str) -> Vec<Finding> {
    let own = if own.len() > 1 { own } else { "//" }; // a checkout in `/` is in every path
    let lines = source.text.lines().zip(1..);
    let found = lines.filter_map(|(line, number)| {
        let path = HOMES.iter().copied().chain([own]).find(|path| starts_in(line, path))?;
        Some(format!("{}:{number}: a path of one machine: {path}", source.path))
    });
    found.collect()
}

/// True if an absolute path in `line` starts with `path`; `a/b/c` and a URL's path are not absolute.
fn starts_in(line: &str, path: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "-_./})$*]".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(inside))
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    #[test]
    fn absolute_paths_of_a_machine_are_found() {
        for home in HOMES {
            for (line, passes) in [
                (format!("read(\"{home}me/file\")"), false),
                (format!("PATH={home}bin"), false),
                (format!("{home}x"), false),
                (format!("https://example.org{home}x"), true),
                (format!("relative{home}x"), true),
                (format!("$HERE{home}x"), true),
            ] {
                assert_eq!(check(&source("a.md", &line), "/elsewhere").is_empty(), passes, "{line}");
            }
        }
    }

    #[test]
    fn the_checkouts_own_folder_is_found() {
        assert_eq!(
            check(&source("a.sh", "x\ncd /opt/checkout/lib"), "/opt/checkout"),
            ["a.sh:2: a path of one machine: /opt/checkout"]
        );
        assert!(check(&source("a.sh", "cat /etc/hosts"), "/").is_empty());
    }
}
