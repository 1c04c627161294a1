//! Instances of waypoints, which stand beside what files have.

use expect_test::{Expect, expect};
use underpass_core::{objects::Change, provision::instance, testing::name};
use underpass_door::Update;

use crate::{Shelf, lines};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: shop}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: w, namespace: shop}\nspec: {selector: {app: w}, ports: [{port: 15008}]}\n";

fn node(name: &str, range: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, annotations: {{underpass.dev/waypoint-range: \"{range}\"}}}}\n"
    )
}

fn changes(update: &Update) -> Vec<String> {
    let say = |c: &Change| match c {
        Change::Put(object) => format!("+{}", object.key()),
        Change::Remove(key) => format!("-{key}"),
    };
    update.batch.changes.iter().map(say).collect()
}

#[test]
fn instances_come_and_go_with_what_they_follow_from() {
    let mut shelf = Shelf::new();
    let range = node("n1", "10.9.1.0/30");
    let all = [("g.yaml", GATEWAY), ("n.yaml", range.as_str())];
    let update = shelf.put(&all);
    assert_eq!(changes(&update), ["+Node n1", "+Gateway shop/w", "+Pod shop/w", "+Service shop/w"]);
    assert_eq!(changes(&shelf.put(&all)), [""; 0]);
    assert!(instance(shelf.sources(), &name("shop/w")).is_some());
    // A Service that a file has takes the place of the one that was derived, and the pod goes.
    let with = [("g.yaml", GATEWAY), ("n.yaml", range.as_str()), ("s.yaml", SERVICE)];
    assert_eq!(changes(&shelf.put(&with)), ["+Service shop/w", "-Pod shop/w"]);
    assert!(instance(shelf.sources(), &name("shop/w")).is_none());
    // One that is broken does so as well: whose instances it means is unknown.
    let broken = SERVICE.replace("15008", "0");
    let bad = [("g.yaml", GATEWAY), ("n.yaml", range.as_str()), ("s.yaml", broken.as_str())];
    let mut fresh = Shelf::new();
    assert_eq!(changes(&fresh.put(&bad)), ["+Node n1", "+Gateway shop/w"]);
    assert_eq!(changes(&shelf.put(&all)), ["+Pod shop/w", "+Service shop/w"]);
    let update = shelf.put(&[("g.yaml", GATEWAY)]);
    assert_eq!(changes(&update), ["-Node n1", "-Pod shop/w", "-Service shop/w"]);
    assert_eq!(changes(&shelf.put(&[])), ["-Gateway shop/w"]);
}

#[test]
fn ranges_of_nodes() {
    #[track_caller]
    fn check(range: &str, expect: &Expect) {
        expect.assert_eq(&lines(&Shelf::new().put(&[("n.yaml", &node("n1", range))])));
    }
    check("10.9.1.0/24", &expect![[""]]);
    check("10.9.1.0/24, fd09::/64", &expect![[""]]);
    check("10.9.1.7", &expect![[""]]);
    check(
        "ten",
        &expect![[r#"
        error: n.yaml:3: document 1: Node n1: metadata.annotations[underpass.dev/waypoint-range]: `ten` is neither an IP address nor a CIDR (not served)
    "#]],
    );
    check(
        "",
        &expect![[r#"
        error: n.yaml:3: document 1: Node n1: metadata.annotations[underpass.dev/waypoint-range]: `` is neither an IP address nor a CIDR (not served)
    "#]],
    );
    check(
        "10.9.1.0/24,10.9.2.0/24",
        &expect![[r#"
        error: n.yaml:3: document 1: Node n1: metadata.annotations[underpass.dev/waypoint-range]: `10.9.2.0/24` is a second range of this address family: write one of each (not served)
    "#]],
    );
    check(
        "127.0.0.0/8",
        &expect![[r#"
        error: n.yaml:3: document 1: Node n1: metadata.annotations[underpass.dev/waypoint-range]: 127.0.0.0 cannot be the address of a pod, a node or a service (not served)
    "#]],
    );
    check(
        "0.0.0.0/0",
        &expect![[r#"
        error: n.yaml:3: document 1: Node n1: metadata.annotations[underpass.dev/waypoint-range]: 0.0.0.0 cannot be the address of a pod, a node or a service (not served)
    "#]],
    );
}
