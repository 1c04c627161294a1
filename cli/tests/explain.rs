//! The command as users run it: its output, its exit status, and that broken input is told and no more.

mod support;

use std::process::Stdio;

use expect_test::{Expect, expect};

use support::{command, shown};

fn underpass(args: &[&str]) -> std::process::Output {
    command(args).output().unwrap()
}

fn check(args: &[&str], want: &Expect) {
    want.assert_eq(&shown(&underpass(args)));
}

fn explain(args: &[&str], want: &Expect) {
    check(&[&["explain", "-f", "mesh"], args].concat(), want);
}

#[test]
fn allowed_through_the_tunnel() {
    explain(
        &["shop/web", "cart:80"],
        &expect![[r#"
        exit 0
        allowed: allowed by shop/cart-callers (path hbone, policy shop/cart-callers)

          resolve                                                     source is pod shop/web (10.0.1.2)
                                                                      destination is service cart.shop.svc.cluster.local (10.96.0.10), port 80
          enrolment            Pod shop/web                           in the mesh: namespace label istio.io/dataplane-mode
          capture                                                     the kernel hands the connection to the tunnel
          route                Service shop/cart                      10.96.0.10:80 -> endpoint 10.0.2.2:8080 (shop/cart)
                                                                      HBONE to 10.0.2.2:15008 for 10.0.2.2:8080 (shop/cart), expecting spiffe://cluster.local/ns/shop/sa/cart
          peer-authentication  PeerAuthentication shop/strict         port 8080 accepts mutual TLS only
          authorization        AuthorizationPolicy shop/cart-callers  ALLOW matches
    "#]],
    );
}

#[test]
fn the_same_connection_by_other_names() {
    let answers: Vec<_> =
        ["cart:80", "cart.shop:80", "cart.shop.svc.cluster.local:80", "shop/cart:8080", "10.0.2.2:8080"]
            .iter()
            .map(|to| underpass(&["explain", "-f", "mesh", "10.0.1.2", to]).status.code())
            .collect();
    assert_eq!(answers, [Some(0); 5]);
}

#[test]
fn denied_by_a_policy() {
    explain(
        &["shop/web", "shop/cart:9090"],
        &expect![[r#"
            exit 2
            denied: not_allowed (path hbone, policy shop/cart-callers)

              resolve                                                     source is pod shop/web (10.0.1.2)
                                                                          destination is pod shop/cart (10.0.2.2), port 9090
              enrolment            Pod shop/web                           in the mesh: namespace label istio.io/dataplane-mode
                                   Pod shop/cart                          in the mesh: namespace label istio.io/dataplane-mode
              capture                                                     the kernel hands the connection to the tunnel
              route                                                       HBONE to 10.0.2.2:15008 for 10.0.2.2:9090 (shop/cart), expecting spiffe://cluster.local/ns/shop/sa/cart
              peer-authentication  PeerAuthentication shop/strict         port 9090 accepts mutual TLS only
              authorization        AuthorizationPolicy shop/cart-callers  ALLOW does not match: not_allowed
        "#]],
    );
}

#[test]
fn denied_in_plaintext() {
    explain(
        &["legacy/old", "cart.shop:80"],
        &expect![[r#"
            exit 2
            denied: plaintext_refused (path plaintext, policy shop/strict)

              resolve                                              source is pod legacy/old (10.0.1.9)
                                                                   destination is service cart.shop.svc.cluster.local (10.96.0.10), port 80
              enrolment            Pod legacy/old                  not in the mesh: no label of the pod or its namespace enrols it
              capture                                              not captured: the source is not in the mesh
              route                                                10.96.0.10:80 leads to 10.0.2.2:8080
              capture                                              the connection arrives in plaintext, and the destination's node hands it to the tunnel
              peer-authentication  PeerAuthentication shop/strict  port 8080 accepts mutual TLS only
        "#]],
    );
}

#[test]
fn left_alone() {
    explain(
        &["shop/web", "192.0.2.1:443"],
        &expect![[r#"
        exit 0
        allowed: the mesh does not touch this connection (path untouched)

          resolve                  source is pod shop/web (10.0.1.2)
                                   destination is 192.0.2.1, port 443
          enrolment  Pod shop/web  in the mesh: namespace label istio.io/dataplane-mode
          capture                  not captured: 192.0.2.1 is not in the mesh
    "#]],
    );
}

#[test]
fn as_json() {
    explain(
        &["-o", "json", "shop/web", "shop/cart:9090"],
        &expect![[r#"
            exit 2
            {
              "source": "pod shop/web (10.0.1.2)",
              "destination": "pod shop/cart (10.0.2.2) port 9090",
              "path": "hbone",
              "verdict": "deny",
              "policy": "shop/cart-callers",
              "reason": "not_allowed",
              "steps": [
                {
                  "stage": "resolve",
                  "says": "source is pod shop/web (10.0.1.2)"
                },
                {
                  "stage": "resolve",
                  "says": "destination is pod shop/cart (10.0.2.2), port 9090"
                },
                {
                  "stage": "enrolment",
                  "object": "Pod shop/web",
                  "says": "in the mesh: namespace label istio.io/dataplane-mode"
                },
                {
                  "stage": "enrolment",
                  "object": "Pod shop/cart",
                  "says": "in the mesh: namespace label istio.io/dataplane-mode"
                },
                {
                  "stage": "capture",
                  "says": "the kernel hands the connection to the tunnel"
                },
                {
                  "stage": "route",
                  "says": "HBONE to 10.0.2.2:15008 for 10.0.2.2:9090 (shop/cart), expecting spiffe://cluster.local/ns/shop/sa/cart"
                },
                {
                  "stage": "peer-authentication",
                  "object": "PeerAuthentication shop/strict",
                  "says": "port 9090 accepts mutual TLS only"
                },
                {
                  "stage": "authorization",
                  "object": "AuthorizationPolicy shop/cart-callers",
                  "says": "ALLOW does not match: not_allowed"
                }
              ]
            }
        "#]],
    );
}

#[test]
fn settings_of_the_mesh_count() {
    explain(
        &["--trust-domain", "prod.example.org", "shop/web", "cart:80"],
        &expect![[r#"
            exit 0
            allowed: allowed by shop/cart-callers (path hbone, policy shop/cart-callers)

              resolve                                                     source is pod shop/web (10.0.1.2)
                                                                          destination is service cart.shop.svc.cluster.local (10.96.0.10), port 80
              enrolment            Pod shop/web                           in the mesh: namespace label istio.io/dataplane-mode
              capture                                                     the kernel hands the connection to the tunnel
              route                Service shop/cart                      10.96.0.10:80 -> endpoint 10.0.2.2:8080 (shop/cart)
                                                                          HBONE to 10.0.2.2:15008 for 10.0.2.2:8080 (shop/cart), expecting spiffe://prod.example.org/ns/shop/sa/cart
              peer-authentication  PeerAuthentication shop/strict         port 8080 accepts mutual TLS only
              authorization        AuthorizationPolicy shop/cart-callers  ALLOW matches
        "#]],
    );
    let code = |args: &[&str]| underpass(&[&["explain", "-f", "mesh"], args].concat()).status.code();
    assert_eq!(code(&["--cluster-domain=example.org", "shop/web", "cart.shop.svc.example.org:80"]), Some(0));
    assert_eq!(code(&["--cluster-domain=example.org", "shop/web", "cart.shop.svc.cluster.local:80"]), Some(1));
    // With the policies' namespace as root namespace, a selector selects in every namespace.
    assert_eq!(code(&["shop/web", "stock/cart:9090"]), Some(0));
    assert_eq!(code(&["--root-namespace=shop", "shop/web", "stock/cart:9090"]), Some(2));
}

#[test]
fn names_that_name_nothing() {
    explain(
        &["shop/unknown", "cart:80"],
        &expect![[r#"
        exit 1
        ! error: cannot explain: source "shop/unknown": no pod of that name, and it is not an address; write namespace/pod or an IP address
    "#]],
    );
    explain(
        &["shop/web", "nothing:80"],
        &expect![[r#"
        exit 1
        ! error: cannot explain: destination "nothing": no pod or service of that name, and it is not an address; write namespace/pod, a service's name or host, or an IP address
    "#]],
    );
    explain(
        &["shop/web\n\u{1b}[31m", "cart:80"],
        &expect![[r#"
        exit 1
        ! error: cannot explain: source "shop/web\n\u{1b}[31m": no pod of that name, and it is not an address; write namespace/pod or an IP address
    "#]],
    );
}

#[test]
fn ports_that_are_none() {
    for destination in ["cart", "cart:", "cart:0", "cart:65536", "cart:http", "fd00::1:80", ":80"] {
        let output = underpass(&["explain", "-f", "mesh", "shop/web", destination]);
        assert_eq!(output.status.code(), Some(1), "{destination}");
        assert!(output.stdout.is_empty(), "{destination}");
        assert!(
            String::from_utf8_lossy(&output.stderr).starts_with("error: cannot explain: destination"),
            "{destination}"
        );
    }
}

#[test]
fn directories_that_are_none() {
    check(
        &["explain", "-f", "missing", "shop/web", "cart:80"],
        &expect![[r#"
        exit 1
        ! error: cannot read the manifests in missing: No such file or directory (os error 2)
    "#]],
    );
    let empty = tempfile::tempdir().unwrap();
    let output = underpass(&["explain", "-f", empty.path().to_str().unwrap(), "10.0.0.1", "10.0.0.2:80"]);
    assert_eq!(output.status.code(), Some(1), "a directory without a manifest is a wrong one");
    let output = underpass(&["explain", "-f", "mesh", "10.99.0.1", "10.99.0.2:80"]);
    assert_eq!(output.status.code(), Some(0), "two addresses that no mesh knows");
}

#[test]
fn problems_are_told_and_the_answer_is_given() {
    check(
        &["explain", "-f", "broken", "shop/web", "10.0.2.2:80"],
        &expect![[r#"
            exit 0
            allowed: neither end is in the mesh (path untouched)

              resolve                  source is pod shop/web (10.0.1.2)
                                       destination is 10.0.2.2, port 80
              enrolment  Pod shop/web  not in the mesh: no label of the pod or its namespace enrols it
              capture                  not captured: the source is not in the mesh
            ! error: broken.yaml:9: document 2: Pod shop/cart: status.podIPs[0].ip: `10.0.2.999` is not an IP address (not served)
            ! error: broken.yaml:15: document 3: AuthorizationPolicy shop/typo: spec.rulez: unknown field: did you mean `rules`? (connections to what it selects are refused until it is fixed)
            ! error: broken.yaml:17: document 4: is not valid YAML: unclosed bracket '[' (not served)
            ! warning: PeerAuthentication istio-system/some: spec.selector: a PeerAuthentication of the root namespace with a selector is ignored
        "#]],
    );
}

#[test]
fn wrong_usage_is_no_answer() {
    check(
        &["explain", "-f", "mesh", "-o", "xml", "shop/web", "cart:80"],
        &expect![[r#"
            exit 1
            ! error: invalid value 'xml' for '--output <OUTPUT>'
            !   [possible values: text, wide, json, yaml]
            !
            !   tip: a similar value exists: 'yaml'
            !
            ! For more information, try '--help'.
        "#]],
    );
    assert_eq!(underpass(&[]).status.code(), Some(1));
}

#[test]
fn help_tells_the_exit_status() {
    check(
        &["explain", "--help"],
        &expect![[r#"
            exit 0
            Explain what happens to a connection, step by step, and which object decides.

            Asks the same functions that decide about connections: of the source pod's node, or with -f of a directory of manifests, which needs no cluster, no agent and no root.

            Usage: underpass explain [OPTIONS] <SOURCE> <DESTINATION:PORT>

            Options:
              -f, --filename <DIR>
                      Answer from this directory of manifests, or one file, instead of from an agent

              -h, --help
                      Print help (see a summary with '-h')

              -V, --version
                      Print version

            Where to ask:
                  --agent <TARGET>
                      One agent's admin API: unix:PATH, or ADDRESS:PORT for read-only access; also the variable UNDERPASS_AGENT.

                      Without it the agent of this node is asked where there is one (/run/underpass/admin.sock), else the agents of the cluster.

                  --node <NODE>
                      The cluster's agent on this node alone

              -c, --kubeconfig <FILE>
                      The kubeconfig; by default the files of KUBECONFIG, else ~/.kube/config

                  --context <NAME>
                      A context of the kubeconfig; by default its current one

              -i, --system-namespace <NAMESPACE>
                      The namespace of the mesh's own pods; by default underpass-system

                      [alias: --istioNamespace]

            The mesh, for answers without an agent:
                  --root-namespace <NAMESPACE>
                      The namespace of mesh-wide policy

                      [default: istio-system]

                  --trust-domain <DOMAIN>
                      The trust domain of its identities

                      [default: cluster.local]

                  --trust-domain-aliases <DOMAIN>
                      Trust domains that count as the mesh's own

                  --cluster-domain <DOMAIN>
                      The DNS suffix of its services

                      [default: cluster.local]

                  --path-normalization <MODE>
                      How far waypoints normalise paths: NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES

                      [default: BASE]

              -n, --namespace <NAMESPACE>
                      The namespace of a SOURCE that names none; by default the kubeconfig's, else `default`

                  --sni <NAME>
                      The server name that a connection of TLS asks for, by which routes of `tls` and TLSRoutes of the files (-f) choose

              -o, --output <OUTPUT>
                      Format of the answer

                      Possible values:
                      - text: For people
                      - wide: For people, with more columns
                      - json: For programs
                      - yaml: For programs

                      [default: text]

              <DESTINATION:PORT>
                      The destination: namespace/pod, a service's name or host, or an address ([..] around IPv6), and the port

              <SOURCE>
                      The source: namespace/pod, pod, or an address

            A request:
                  --method <METHOD>
                      Explain a request as well, by the routes of the files (-f), of VirtualServices and of the Gateway API: its method

                  --path <PATH>
                      Its path, with its query

                  --header <NAME=VALUE>
                      A header of it; may be given more than once

                  --authority <HOST[:PORT]>
                      Its authority; by default the destination as it is written

            Exit status: 0 the connection is allowed, 2 it is denied, 1 there is no answer.
            Problems of the manifests go to standard error, one per line.

            Examples:
              underpass explain -f deploy/samples/bookinfo bookinfo/productpage-v1 reviews:9080
              underpass explain -f mesh/ 10.0.1.7 shop/cart:8080 -o json
              underpass explain -f mesh/ shop/web cart:80 --path /api/v2/x --header end-user=jason
        "#]],
    );
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let mut child = command(&["explain", "-f", "mesh", "shop/web", "cart:80"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Policies may select a pod outside the mesh: nothing is judged there.
#[test]
fn policies_of_a_pod_outside_are_not_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    let pod = |name: &str, mode: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{istio.io/dataplane-mode: {mode}}}}}\nspec: {{nodeName: n-1}}\nstatus: {{phase: Running, podIPs: [{{ip: 10.0.0.{}}}]}}\n---\n",
            name.len()
        )
    };
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nothing, namespace: shop}\nspec: {}\n";
    std::fs::write(&file, pod("in", "ambient") + &pod("out", "none") + deny).unwrap();
    let run = |name: &str, format: &str| {
        underpass(&["x", "authz", "check", name, "-n", "shop", "-o", format, "-f", file.to_str().unwrap()])
    };
    expect![[r#"
        exit 0
        ACTION  POLICY        APPLIES TO  RULES  NEEDS WAYPOINT  NOTES
        ALLOW   shop/nothing  namespace   0      -               -
    "#]]
    .assert_eq(&shown(&run("in", "text")));
    expect![[r#"
        exit 0
        ACTION  POLICY        APPLIES TO  RULES  NEEDS WAYPOINT  NOTES
        ALLOW   shop/nothing  namespace   0      -               -
        no policy is evaluated for a pod that is not in the mesh
    "#]]
    .assert_eq(&shown(&run("out", "text")));
    for (name, in_mesh) in [("in", true), ("out", false)] {
        let said: serde_json::Value = serde_json::from_slice(&run(name, "json").stdout).unwrap();
        assert_eq!((&said[0]["in_mesh"], &said[0]["name"]), (&in_mesh.into(), &"nothing".into()), "{said}");
    }
}
