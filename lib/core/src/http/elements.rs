//! The elements of a path that a prefix of the Gateway API matched, and others in their place: of redirects and rewrites
//! alike.

use super::RequestHead;

/// The request's path with its query, where the elements `matched` have become `new`: `/api/x` is `/v1/x`, never `/v1x`.
pub(super) fn replaced(head: &RequestHead<'_>, matched: &str, new: &str) -> String {
    let path = head.path_alone();
    let rest = path.get(matched.trim_end_matches('/').len()..).unwrap_or_default();
    let path = match [new.trim_end_matches('/'), rest].concat() {
        empty if empty.is_empty() => "/".to_owned(),
        rooted if rooted.starts_with('/') => rooted,
        other => format!("/{other}"),
    };
    head.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::{super::Source, *};

    #[test]
    fn elements_in_the_place_of_others() {
        for (path, matched, new, expect) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "", "/"),
            ("/foo?q=/foo", "/foo", "/a", "/a?q=/foo"),
            ("/foo", "/", "/a", "/a/foo"),
            ("/", "/", "/a", "/a/"),
            ("/foo", "/foo", "a", "/a"),
        ] {
            let source = Source::default();
            let head =
                RequestHead { method: "GET", scheme: "http", authority: "a", path, headers: &[], port: 80, source };
            assert_eq!(replaced(&head, matched, new), expect, "{path} {matched} {new}");
        }
    }
}
