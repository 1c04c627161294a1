//! Everything that can be wrong, with the line that its author reads: file, line, document, object, field, reason.
//! Every case stands between two good documents, which are always served.

mod documents;
mod gateway_routes;
mod gateways;
mod metadata;
mod pods;
mod policies;
mod routes;
mod rules;
mod services;

use expect_test::Expect;

use crate::{Shelf, lines};

const BEFORE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: before}\n---\n";
const AFTER: &str = "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: after}\n";

#[track_caller]
fn check(text: &str, expect: &Expect) {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("dir/a.yaml", &format!("{BEFORE}{text}{AFTER}"))]);
    for name in ["before", "after"] {
        assert!(shelf.sources().namespace(name).is_some(), "{name} is lost: {text}\n{}", lines(&update));
    }
    expect.assert_eq(&lines(&update));
}

/// A policy with this spec.
#[track_caller]
fn policy(spec: &str, expect: &Expect) {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: prod\n";
    check(&format!("{head}spec:\n{spec}"), expect);
}
