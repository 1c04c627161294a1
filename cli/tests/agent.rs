//! The command against an agent: the admin server that agents have, with answers that are known.

mod support;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use underpass_core::{
    testing::{ambient, pod, service, world},
    world::Object,
};
use underpass_telemetry::admin::{
    Limits, Listener, Method, Request, Response, Router, Server, StatusCode,
    view::{self, Certificate, Gate, PodCount, PodState, ProblemCount, Status},
};

use support::{command, shown};

const HOUR: u64 = 3600;

/// A running agent's admin server, the runtime that it runs on, and where its socket is.
struct Agent {
    server: Server,
    runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Agent {
    fn start(router: Router) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::unix(&directory.path().join("admin.sock")).unwrap();
        let server = runtime.block_on(async { listener.serve(router, Limits::default()).unwrap() });
        Self { server, runtime, _directory: directory }
    }

    fn address(&self) -> String {
        self.server.target().to_string()
    }

    /// What the command says when it asks this agent; the address, which differs from run to run, as `AGENT`.
    fn check(&self, args: &[&str], want: &Expect) {
        let address = self.address();
        let output = command(args).env("UNDERPASS_AGENT", &address).output().unwrap();
        want.assert_eq(&shown(&output).replace(&address, "AGENT"));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _entered = self.runtime.enter(); // the server's task ends on its own runtime
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn get(router: Router, path: &'static str, answer: impl Fn() -> Value + Send + Sync + 'static) -> Router {
    router.route(Method::GET, path, move |_| std::future::ready(Response::json(&answer())))
}

fn answers(router: Router, path: &'static str, answer: Value) -> Router {
    get(router, path, move || answer.clone())
}

fn healthy() -> Status {
    Status {
        version: "9.9.9".into(),
        node: "node-1".into(),
        started_unix_s: now() - 25 * HOUR,
        world: 12,
        objects: [("Pod".to_owned(), 3), ("Service".to_owned(), 1)].into(),
        waiting: Vec::new(),
        pods: PodCount { by_state: [("enrolled".to_owned(), 2)].into(), problems: Default::default() },
        connections: 4,
        certificates: 2,
        first_expiry_unix_s: Some(now() + 5 * HOUR + 30),
        authority_error: None,
        problems: ProblemCount { warnings: 1, ..ProblemCount::default() },
    }
}

fn status(change: impl FnOnce(&mut Status)) -> Agent {
    let mut status = healthy();
    change(&mut status);
    Agent::start(answers(Router::new(), "/status", serde_json::to_value(status).unwrap()))
}

#[test]
fn all_is_well() {
    status(|_| {}).check(
        &["status"],
        &expect![[r#"
            exit 0
            agent         9.9.9 on node-1, up 1 d 1 h
            ready         yes
            World         version 12: 3 Pod, 1 Service
            pods          2 enrolled
            certificates  2, the first expires in 5 h
            connections   4 open
            manifests     0 errors, 1 warning, 0 not served yet
        "#]],
    );
}

#[test]
fn what_is_not_well_is_said() {
    let broken = status(|s| {
        s.waiting = vec![Gate { part: "pods".into(), reason: "the manifests are not applied yet".into() }];
        s.pods.by_state.insert("waiting".into(), 1);
        s.pods.problems.insert("shop/cart".into(), "no sandbox\u{1b}[2J".into());
        s.first_expiry_unix_s = Some(now() - 70);
        s.problems.errors = 1;
        s.problems.first = vec!["error: a.yaml:3: Pod shop/x: spec: broken".into()];
    });
    broken.check(
        &["status"],
        &expect![[r#"
            exit 2
            agent         9.9.9 on node-1, up 1 d 1 h
            ready         no
                          pods: the manifests are not applied yet
            World         version 12: 3 Pod, 1 Service
            pods          2 enrolled, 1 waiting
                          shop/cart: no sandbox\u{1b}[2J
            certificates  2, one of them has expired
            connections   4 open
            manifests     1 error, 1 warning, 0 not served yet
                          error: a.yaml:3: Pod shop/x: spec: broken
        "#]],
    );
    // each alone is enough
    let unwell: [fn(&mut Status); 5] = [
        |s| s.authority_error = Some("the authority is locked".into()),
        |s| s.waiting = vec![Gate { part: "pods".into(), reason: "later".into() }],
        |s| drop(s.pods.problems.insert("shop/cart".into(), "no sandbox".into())),
        |s| s.first_expiry_unix_s = Some(1),
        |s| s.problems.errors = 1,
    ];
    for change in unwell {
        let agent = status(change);
        let output = command(&["status", "-o", "json"]).env("UNDERPASS_AGENT", agent.address()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    }
}

fn objects() -> Vec<Object> {
    vec![
        ambient("shop/cart-1", "10.0.2.2 fd00::2", "app=cart").into(),
        ambient("shop/web", "10.0.1.2", "app=web").into(),
        pod("legacy/old", "10.0.2.9").into(),
        service("shop/cart app=cart 10.96.0.10,fd96::10 80=8080 9090").into(),
        service("shop/lost app=lost 10.96.0.12 80").into(),
    ]
}

fn of_world() -> Agent {
    let world = world(objects());
    let mut workloads = view::workloads(&world);
    for w in workloads.iter_mut().filter(|w| w.namespace == "shop") {
        let problem = (w.name == "web").then(|| "its address is not there".to_owned());
        w.state = Some(PodState { state: if problem.is_some() { "waiting" } else { "enrolled" }.into(), problem });
    }
    let router = answers(Router::new(), "/workloads", serde_json::to_value(workloads).unwrap());
    let router = answers(router, "/services", serde_json::to_value(view::services(&world)).unwrap());
    let router = answers(router, "/policies", serde_json::to_value(view::policies(&world)).unwrap());
    Agent::start(router.route(Method::GET, "/explain", move |request: Request| {
        let asked = |key| request.query(key).unwrap_or_default().to_owned();
        let explained = underpass_core::explain::explain(&world, &asked("source"), &asked("destination"));
        std::future::ready(match explained {
            Ok(explanation) => Response::json(&explanation),
            Err(unknown) => Response::error(StatusCode::NOT_FOUND, unknown),
        })
    }))
}

#[test]
fn workloads() {
    let agent = of_world();
    agent.check(
        &["workloads"],
        &expect![[r#"
        exit 0
        NAMESPACE  NAME    NODE    ADDRESSES          READY  MESH  STATE
        legacy     old     node-1  10.0.2.9           yes    no    -
        shop       cart-1  node-1  10.0.2.2, fd00::2  yes    yes   enrolled
        shop       web     node-1  10.0.1.2           yes    yes   waiting
    "#]],
    );
    agent.check(&["workloads", "-n", "shop", "-o", "wide"], &expect![[r#"
        exit 0
        NAMESPACE  NAME    NODE    ADDRESSES          READY  MESH  STATE     BECAUSE                            IDENTITY                                  PROBLEM
        shop       cart-1  node-1  10.0.2.2, fd00::2  yes    yes   enrolled  pod label istio.io/dataplane-mode  spiffe://cluster.local/ns/shop/sa/cart-1  -
        shop       web     node-1  10.0.1.2           yes    yes   waiting   pod label istio.io/dataplane-mode  spiffe://cluster.local/ns/shop/sa/web     its address is not there
    "#]]);
    agent.check(
        &["workloads", "-n", "none"],
        &expect![[r#"
        exit 0
        no pods
    "#]],
    );
}

#[test]
fn services() {
    of_world().check(&["services", "-o", "wide"], &expect![[r#"
        exit 0
        NAMESPACE  NAME  TYPE       ADDRESSES             PORTS           READY  MESH  TRAFFIC  WAYPOINT  HOST                         ENDPOINTS
        shop       cart  ClusterIP  10.96.0.10, fd96::10  80->8080, 9090  1/1    yes   -        -         cart.shop.svc.cluster.local  shop/cart-1
        shop       lost  ClusterIP  10.96.0.12            80              0/0    no    -        -         lost.shop.svc.cluster.local  -
    "#]]);
    of_world().check(
        &["services", "-n", "shop", "-o", "yaml"],
        &expect![[r#"
            exit 0
            - namespace: shop
              name: cart
              host: cart.shop.svc.cluster.local
              type: ClusterIP
              vips:
              - "10.96.0.10"
              - fd96::10
              ports:
              - name: p80
                port: 80
                target: "8080"
              - name: p9090
                port: 9090
                target: "9090"
              endpoints:
              - addresses:
                - "10.0.2.2"
                - fd00::2
                workload: shop/cart-1
                ready: true
                draining: false
                weight: 1
                node: node-1
                zone: null
                in_mesh: true
              in_mesh: true
              waypoint: null
              traffic: []
            - namespace: shop
              name: lost
              host: lost.shop.svc.cluster.local
              type: ClusterIP
              vips:
              - "10.96.0.12"
              ports:
              - name: p80
                port: 80
                target: "80"
              endpoints: []
              in_mesh: false
              waypoint: null
              traffic: []
        "#]],
    );
}

#[test]
fn explain_by_the_world_of_the_agent() {
    let agent = of_world();
    agent.check(&["explain", "shop/web", "cart:80"], &expect![[r#"
        exit 0
        allowed: no policy forbids it (path hbone)

          resolve                                 source is pod shop/web (10.0.1.2)
                                                  destination is service cart.shop.svc.cluster.local (10.96.0.10), port 80
          enrolment            Pod shop/web       in the mesh: pod label istio.io/dataplane-mode
          capture                                 the kernel hands the connection to the tunnel
          route                Service shop/cart  10.96.0.10:80 -> endpoint 10.0.2.2:8080 (shop/cart-1)
                                                  HBONE to 10.0.2.2:15008 for 10.0.2.2:8080 (shop/cart-1), expecting spiffe://cluster.local/ns/shop/sa/cart-1
          peer-authentication                     no policy says otherwise: port 8080 takes mutual TLS and plaintext
          authorization                           no ALLOW policy applies: allowed
    "#]]);
    agent.check(&["explain", "shop/nobody", "cart:80"], &expect![[r#"
        exit 1
        ! error: source "shop/nobody": no pod of that name, and it is not an address; write namespace/pod or an IP address
    "#]]);
}

#[test]
fn certificates() {
    let certificate = |name: &str, state: &str, left: i64| Certificate {
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}"),
        state: state.into(),
        serial: Some("1f".into()),
        not_before_unix_s: Some(now() - 12 * HOUR),
        not_after_unix_s: Some(now().saturating_add_signed(left)),
        issuer: Some("2a".into()),
        error: (state != "valid").then(|| "the authority is locked".into()),
    };
    let missing = Certificate {
        serial: None,
        not_before_unix_s: None,
        not_after_unix_s: None,
        issuer: None,
        ..certificate("new", "missing", 0)
    };
    let (late, over) = (certificate("late", "failing", 7_830), certificate("over", "expired", -7_830));
    let all = [certificate("fresh", "valid", 43_230), late, over, missing];
    let agent = Agent::start(answers(Router::new(), "/certificates", serde_json::to_value(&all).unwrap()));
    agent.check(
        &["certificates"],
        &expect![[r#"
            exit 0
            IDENTITY                                 STATE    EXPIRES
            spiffe://cluster.local/ns/shop/sa/fresh  valid    in 12 h
            spiffe://cluster.local/ns/shop/sa/late   failing  in 2 h 10 min
            spiffe://cluster.local/ns/shop/sa/over   expired  2 h 10 min ago
            spiffe://cluster.local/ns/shop/sa/new    missing  -
        "#]],
    );
    agent.check(
        &["certificates", "-o", "wide"],
        &expect![[r#"
            exit 0
            IDENTITY                                 STATE    EXPIRES         ISSUED    SERIAL  ISSUER  PROBLEM
            spiffe://cluster.local/ns/shop/sa/fresh  valid    in 12 h         12 h ago  1f      2a      -
            spiffe://cluster.local/ns/shop/sa/late   failing  in 2 h 10 min   12 h ago  1f      2a      the authority is locked
            spiffe://cluster.local/ns/shop/sa/over   expired  2 h 10 min ago  12 h ago  1f      2a      the authority is locked
            spiffe://cluster.local/ns/shop/sa/new    missing  -               -         -       -       the authority is locked
        "#]],
    );
}

fn connection(id: u64, micros: u64, received: u64, sent: u64) -> Value {
    json!({
        "id": id, "direction": "outbound", "path": if id == 3 { "passthrough" } else { "hbone" },
        "source": { "address": "10.0.1.2:40000", "workload": "shop/web", "identity": "spiffe://cluster.local/ns/shop/sa/web" },
        "destination": { "address": "[fd00::2]:8080", "workload": if id == 3 { Value::Null } else { json!("shop/cart-1") }, "identity": null },
        "service": if id == 3 { Value::Null } else { json!("shop/cart") }, "vip": if id == 3 { Value::Null } else { json!("10.96.0.10:80") }, "bytes_received": received, "bytes_sent": sent,
        "opened_unix_ms": 0, "duration_us": micros, "policy": "shop/cart-viewer", "reason": null, "world": 3, "later": true,
    })
}

#[test]
fn connections_and_which_of_them() {
    let all = json!([connection(1, 4_000_000, 100, 2048), connection(3, 61_000_000, 0, 0)]);
    let agent = Agent::start(answers(Router::new(), "/connections", all));
    agent.check(
        &["connections"],
        &expect![[r#"
        exit 0
        ID  DIRECTION  PATH         SOURCE          DESTINATION       SERVICE    OPEN       RECEIVED  SENT
        1   outbound   hbone        shop/web:40000  shop/cart-1:8080  shop/cart  4 s        100 B     2.0 KiB
        3   outbound   passthrough  shop/web:40000  [fd00::2]:8080    -          1 min 1 s  0 B       0 B
    "#]],
    );
    agent.check(&["connections", "--service", "shop/cart", "-o", "wide"], &expect![[r#"
        exit 0
        ID  DIRECTION  PATH   SOURCE          DESTINATION       SERVICE    OPEN  RECEIVED  SENT     VIP            SOURCE IDENTITY                        POLICY
        1   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  4 s   100 B     2.0 KiB  10.96.0.10:80  spiffe://cluster.local/ns/shop/sa/web  shop/cart-viewer
    "#]]);
    agent.check(
        &["connections", "--pod", "shop/cart-1", "-o", "json"],
        &expect![[r#"
            exit 0
            [
              {
                "id": 1,
                "direction": "outbound",
                "path": "hbone",
                "source": {
                  "address": "10.0.1.2:40000",
                  "workload": "shop/web",
                  "identity": "spiffe://cluster.local/ns/shop/sa/web"
                },
                "destination": {
                  "address": "[fd00::2]:8080",
                  "workload": "shop/cart-1",
                  "identity": null
                },
                "service": "shop/cart",
                "vip": "10.96.0.10:80",
                "bytes_received": 100,
                "bytes_sent": 2048,
                "duration_us": 4000000,
                "policy": "shop/cart-viewer",
                "received_per_s": null,
                "sent_per_s": null
              }
            ]
        "#]],
    );
    agent.check(
        &["connections", "--pod", "shop/nobody"],
        &expect![[r#"
        exit 0
        no open connections
    "#]],
    );
}

#[test]
fn one_is_closed() {
    let agent = Agent::start(Router::new().route(Method::POST, "/connections/close", async |request: Request| {
        match request.query("id") {
            Some("7") => Response::json(&json!({ "closed": 7 })),
            other => Response::error(StatusCode::NOT_FOUND, format!("no connection {other:?}")),
        }
    }));
    agent.check(
        &["connections", "close", "7"],
        &expect![[r#"
        exit 0
        connection 7 is closed
    "#]],
    );
    agent.check(
        &["connections", "close", "8"],
        &expect![[r#"
        exit 1
        ! error: no connection Some("8")
    "#]],
    );
    agent.check(
        &["connections", "close", "all"],
        &expect![[r#"
        exit 1
        ! error: invalid value 'all' for '<ID>': invalid digit found in string
        !
        ! For more information, try '--help'.
    "#]],
    );
    // on loopback an agent only shows
    let listener = Listener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
    let looks = agent.runtime.block_on(async { listener.serve(Router::new(), Limits::default()).unwrap() });
    let target = looks.target().to_string();
    let output = command(&["connections", "close", "7", "--agent", &target]).output().unwrap();
    expect![[r#"
        exit 1
        ! error: POST /connections/close?id=7 on LOOPBACK: 403 Forbidden: loopback is shared with pods that use the host's network: changes are made over the unix socket
    "#]].assert_eq(&shown(&output).replace(&target, "LOOPBACK"));
}

#[test]
fn watching_shows_rates_from_the_second_look_on() {
    let looks = Arc::new(AtomicU64::new(0));
    let agent = Agent::start(get(Router::new(), "/connections", move || {
        let n = looks.fetch_add(1, Relaxed);
        // 1 MiB and 512 KiB a second; another one comes with the second look
        let mut all = vec![connection(1, 1_000_000 + n * 1_000_000, n << 20, n << 19)];
        all.extend((n > 0).then(|| connection(2, 500_000, 2 << 20, 0)));
        Value::Array(all)
    }));
    let mut watching = command(&["connections", "--watch=0.1"]);
    let mut watching = watching.env("UNDERPASS_AGENT", agent.address()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(|line| line.unwrap().trim_end().to_owned());
    let seen: Vec<_> = lines.take(6).collect();
    watching.kill().unwrap();
    watching.wait().unwrap();
    expect![[r#"
        ID  DIRECTION  PATH   SOURCE          DESTINATION       SERVICE    OPEN  RECEIVED  SENT  RECEIVED/S  SENT/S
        1   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  1 s   0 B       0 B   -           -

        ID  DIRECTION  PATH   SOURCE          DESTINATION       SERVICE    OPEN  RECEIVED  SENT       RECEIVED/S  SENT/S
        2   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  0 s   2.0 MiB   0 B        4.0 MiB/s   0 B/s
        1   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  2 s   1.0 MiB   512.0 KiB  1.0 MiB/s   512.0 KiB/s
    "#]].assert_eq(&(seen.join("\n") + "\n"));
}

#[test]
fn the_level_of_the_log() {
    let level = Arc::new(std::sync::Mutex::new("info".to_owned()));
    let (show, set) = (Arc::clone(&level), level);
    let router = get(Router::new(), "/logging", move || json!({ "level": *show.lock().unwrap() }));
    let agent = Agent::start(router.route(Method::PUT, "/logging", move |request: Request| {
        *set.lock().unwrap() = request.query("level").unwrap().to_owned();
        std::future::ready(Response::json(&json!({})))
    }));
    agent.check(
        &["log"],
        &expect![[r#"
        exit 0
        info
    "#]],
    );
    agent.check(
        &["log", "warn,underpass_net=debug"],
        &expect![[r#"
        exit 0
        warn,underpass_net=debug
    "#]],
    );
    agent.check(&["log", "loud"], &expect![[r#"
        exit 1
        ! error: invalid value 'loud' for '[LEVEL]': log filter: "loud" is neither LEVEL nor TARGET=LEVEL, with off, error, warn, info, debug or trace as LEVEL
        !
        ! For more information, try '--help'.
    "#]]);
    agent.check(
        &["log"],
        &expect![[r#"
        exit 0
        warn,underpass_net=debug
    "#]],
    );
}

#[test]
fn errors_say_what_to_do_next() {
    // nobody listens
    let address = Agent::start(Router::new()).address();
    let output = command(&["status"]).env("UNDERPASS_AGENT", &address).output().unwrap();
    expect![[r#"
        exit 1
        ! error: cannot connect to AGENT: No such file or directory (os error 2); does an agent run on this node? --agent names another address, and many commands take -f DIR
    "#]].assert_eq(&shown(&output).replace(&address, "AGENT"));
    // something else, or something older
    Agent::start(Router::new()).check(&["workloads"], &expect![[r#"
        exit 1
        ! error: GET /workloads on AGENT: 404 Not Found: no /workloads here; GET / lists what there is; is this an Underpass agent of this version?
    "#]]);
    Agent::start(answers(Router::new(), "/workloads", json!({ "a": 1 }))).check(&["workloads"], &expect![[r#"
        exit 1
        ! error: GET /workloads on AGENT: unexpected JSON: invalid type: map, expected a sequence at line 1 column 0; is this an Underpass agent of this version?
    "#]]);
    let refuses = Router::new()
        .route(Method::GET, "/policies", async |_| Response::error(StatusCode::SERVICE_UNAVAILABLE, "not now"));
    Agent::start(refuses).check(
        &["policies"],
        &expect![[r#"
        exit 1
        ! error: GET /policies on AGENT: 503 Service Unavailable: not now
    "#]],
    );
    Agent::start(Router::new()).check(
        &["status", "--agent", "nowhere"],
        &expect![[r#"
            exit 1
            ! error: invalid value 'nowhere' for '--agent <TARGET>': write ADDRESS:PORT, such as 127.0.0.1:15000, or unix:PATH
            !
            ! For more information, try '--help'.
        "#]],
    );
}

#[test]
fn the_manual_and_completion() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = command(&["man", pages.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let page = std::fs::read_to_string(pages.join("underpass-explain.1")).unwrap();
    assert!(page.contains("SOURCE") && page.contains(".TH"), "{page}");
    assert!(String::from_utf8_lossy(&command(&["man"]).output().unwrap().stdout).contains("underpass\\-explain(1)"));
    for (shell, word) in [("bash", "_underpass()"), ("zsh", "#compdef underpass"), ("fish", "complete -c underpass")] {
        let output = command(&["completion", shell]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{shell}");
    }
    assert_eq!(command(&["completion", "cmd"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn settings_are_told_with_who_says_so() {
    let setting = |name: &str, values: &[&str], source: &str, live| view::Setting {
        name: name.into(),
        values: values.iter().map(ToString::to_string).collect(),
        source: source.into(),
        live,
    };
    let mut settings = view::Settings {
        file: Some("/etc/u.yaml".into()),
        settings: vec![
            setting("node", &["node-1"], "environment NODE_NAME", false),
            setting("cgroup-root", &[], "default", false),
            setting("trust-domain-aliases", &["a.b", "c.d"], "flag", false),
            setting("release-drain", &["1m\u{1b}[2J"], "/etc/u.yaml:3", true),
        ],
        ..view::Settings::default()
    };
    let agent = |settings: &view::Settings| {
        Agent::start(answers(Router::new(), "/config", serde_json::to_value(settings).unwrap()))
    };
    agent(&settings).check(
        &["config"],
        &expect![[r#"
        exit 0
        SETTING               VALUE        SOURCE                 LIVE
        node                  node-1       environment NODE_NAME  -
        cgroup-root           -            default                -
        trust-domain-aliases  a.b, c.d     flag                   -
        release-drain         1m\u{1b}[2J  /etc/u.yaml:3          live
    "#]],
    );
    settings.needs_restart = vec![
        view::PendingSetting { name: "workers".into(), values: vec!["2".into()], source: "/etc/u.yaml:4".into() },
        view::PendingSetting { name: "access-log".into(), values: Vec::new(), source: "default".into() },
    ];
    settings.problem = Some("settings:\n  - /etc/u.yaml:3: release-drain: \"soon\": no\u{1b}[2J".into());
    let agent = agent(&settings);
    agent.check(
        &["config", "--changed"],
        &expect![[r#"
        exit 2
        SETTING               VALUE        SOURCE                 LIVE
        node                  node-1       environment NODE_NAME  -
        trust-domain-aliases  a.b, c.d     flag                   -
        release-drain         1m\u{1b}[2J  /etc/u.yaml:3          live
        needs a restart: workers is to be 2 (/etc/u.yaml:4)
        needs a restart: access-log is to be not set (default)
        not served: /etc/u.yaml as it is now; what held before holds on:
          - /etc/u.yaml:3: release-drain: "soon": no\u{1b}[2J
    "#]],
    );
    let output = command(&["config", "-o", "json"]).env("UNDERPASS_AGENT", agent.address()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(serde_json::from_slice::<view::Settings>(&output.stdout).unwrap(), settings);
}
