//! The door before an API server with all its moods.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use underpass_core::{
    Kind,
    objects::{Batch, Change},
};
use underpass_door::{Reached, Update};
use underpass_kube::{
    Door, Selection,
    door::{Phase, Progress},
};

use crate::fake::{DEADLINE, Fake, Part, Reply, Seen, send};

/// A door that runs, and what it hands on.
struct Opened {
    updates: mpsc::UnboundedReceiver<Update>,
    progress: tokio::sync::watch::Receiver<Progress>,
    running: JoinHandle<()>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Opened {
    async fn new(fake: &Fake, selections: Vec<Selection>) -> Self {
        Self::of(Door::new(fake.client().await, selections))
    }

    fn of(door: Door) -> Self {
        let progress = door.progress();
        let (sender, updates) = mpsc::unbounded_channel();
        let running = tokio::spawn(door.run(move |update| {
            let _ = sender.send(update);
        }));
        Self { updates, progress, running }
    }

    async fn next(&mut self) -> Update {
        tokio::time::timeout(DEADLINE, self.updates.recv()).await.expect("an update in time").expect("it runs")
    }

    /// The changes of the next update that has any.
    async fn changes(&mut self) -> Vec<String> {
        loop {
            let update = self.next().await;
            if !update.batch.is_empty() {
                return show(&update.batch);
            }
        }
    }

    /// The changes of all updates until one has this change.
    async fn changes_until(&mut self, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        while !all.iter().any(|change| change == last) {
            all.extend(self.changes().await);
        }
        all
    }

    async fn progress(&mut self, is_there: impl FnMut(&Progress) -> bool) -> Progress {
        let there = tokio::time::timeout(DEADLINE, self.progress.wait_for(is_there)).await;
        there.expect("in time").expect("it runs").clone()
    }
}

fn show(batch: &Batch) -> Vec<String> {
    let change = |change: &Change| match change {
        Change::Put(object) => format!("+ {}", object.key()),
        Change::Remove(key) => format!("- {key}"),
    };
    batch.changes.iter().map(change).collect()
}

fn namespace(name: &str, version: u64, label: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version.to_string(), "labels": {"a": label}, "managedFields": [{"x": null}]}})
}

fn policy(name: &str, version: u64, rules: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
           "metadata": {"name": name, "namespace": "a", "resourceVersion": version.to_string()}, "spec": {"rules": rules}})
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: u64) -> Value {
    event("BOOKMARK", json!({"kind": "Namespace", "metadata": {"resourceVersion": version.to_string()}}))
}

fn gone() -> Value {
    event("ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}))
}

fn list(version: u64, items: &[Value], next: &str) -> Reply {
    Reply::json(&json!({"metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items}))
}

#[tokio::test]
async fn what_is_read_once_is_whole_and_not_followed() {
    let fake = Fake::start(|request: &Seen| match request.what.as_str() {
        "GET /api/v1/namespaces" if request.is_watch() => Reply::lines(&[event("ADDED", namespace("late", 9, "x"))]).1,
        "GET /api/v1/namespaces" if request.parameter("continue").is_none() => {
            list(7, &[namespace("a", 1, "x")], "more")
        }
        "GET /api/v1/namespaces" => list(7, &[namespace("b", 2, "x")], ""),
        _ => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let selections = || vec![Selection::namespaces(), Selection::all(Kind::AuthorizationPolicy)];
    let update = Door::new(fake.client().await, selections()).read().await.expect("both kinds");
    assert_eq!(show(&update.batch), ["+ Namespace a", "+ Namespace b"]);

    let fake = Fake::start(|request: &Seen| match request.what.as_str() {
        "GET /api/v1/namespaces" => list(7, &[], ""),
        _ => Reply::refuse(403, "Forbidden", json!({})),
    })
    .await;
    let unread = Door::new(fake.client().await, selections()).read().await.expect_err("policies are refused");
    assert_eq!(unread.kind, Kind::AuthorizationPolicy);
    assert!(unread.to_string().contains("403 Forbidden"), "{unread}");
}

#[tokio::test]
async fn a_kind_that_others_know_further_is_listed_anew_and_told() {
    let (open, lists, node_lists) = (Open::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    let fake = Fake::start(move |request: &Seen| match request.what.as_str() {
        _ if request.is_watch() => keep(&open, Reply::stream()),
        "GET /api/v1/namespaces" => match lists.fetch_add(1, Ordering::Relaxed) {
            0 => list(7, &[namespace("a", 1, "x")], ""),
            _ => list(12, &[namespace("a", 1, "x")], ""),
        },
        "GET /api/v1/nodes" => list(8 + 2 * node_lists.fetch_add(1, Ordering::Relaxed) as u64, &[], ""),
        _ => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let (overtaken, told) = mpsc::channel(1);
    let selections = vec![Selection::namespaces(), Selection::all(Kind::Node)];
    let mut door = Opened::of(Door::new(fake.client().await, selections).overtaken_by(told));
    let said = |update: &Update| {
        let one = |(kind, reached): (Kind, Reached)| format!("{kind} {}/{}", reached.known, reached.changed);
        let versions: Vec<_> = update.versions.iter().map(one).collect();
        format!("{} {}", show(&update.batch).join(" "), versions.join(" "))
    };
    assert_eq!(said(&door.next().await), "+ Namespace a Namespace 7/7 Node 8/8");
    // What is known already is not listed anew.
    overtaken.send([(Kind::Namespace, 11), (Kind::Node, 8)].into()).await.unwrap();
    assert_eq!(said(&door.next().await), " Namespace 12/12 Node 8/8");
    door.progress(|p| p.kinds.values().all(|health| health.phase == Phase::Watching)).await;
    overtaken.send([(Kind::Node, 9)].into()).await.unwrap();
    assert_eq!(said(&door.next().await), " Namespace 12/12 Node 10/10");
    let of = |kind: &str| fake.seen().into_iter().filter(|s| !s.is_watch() && s.what.ends_with(kind)).count();
    assert_eq!((of("namespaces"), of("nodes")), (2, 2));
}

/// Answers the n-th request, in order of arrival.
fn script(answers: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> impl Fn(&Seen) -> Reply + Send + Sync {
    let count = AtomicUsize::new(0);
    move |seen: &Seen| answers(count.fetch_add(1, Ordering::Relaxed), seen)
}

/// Senders of streams that must not end.
type Open = Arc<Mutex<Vec<mpsc::UnboundedSender<Part>>>>;

fn keep(open: &Open, (sender, reply): (mpsc::UnboundedSender<Part>, Reply)) -> Reply {
    open.lock().unwrap().push(sender);
    reply
}

#[tokio::test]
async fn pages_events_and_relists_become_differences() {
    let open = Open::default();
    let streams = Arc::clone(&open);
    let fake = Fake::start(script(move |n, _| match n {
        0 => list(10, &[namespace("a", 1, "x"), namespace("b", 2, "x")], "p2"),
        1 => list(10, &[namespace("c", 3, "x")], "p3"),
        2 => list(10, &[], ""),
        3 => keep(&streams, Reply::stream()),
        // after 410 in the stream
        4 => list(30, &[namespace("b", 2, "x"), namespace("c", 20, "y"), namespace("e", 25, "x")], ""),
        5 => Reply::refuse(410, "Expired", json!({})),
        6 => list(40, &[namespace("b", 2, "x"), namespace("c", 20, "y")], ""),
        _ => keep(&streams, Reply::lines(&[bookmark(50)])),
    }))
    .await;
    let mut door = Opened::new(&fake, vec![Selection::all(Kind::Namespace)]).await;

    let first = door.next().await;
    assert_eq!(show(&first.batch), ["+ Namespace a", "+ Namespace b", "+ Namespace c"]);
    assert_eq!((first.versions.newest(), first.problems), (Some(10), vec![]));

    // pieces of lines
    door.progress(|p| p.kinds[&Kind::Namespace].phase == Phase::Watching).await;
    let watch = loop {
        if let Some(watch) = open.lock().unwrap().first() {
            break watch.clone();
        }
        tokio::task::yield_now().await;
    };
    let text = format!("{}\n{}\n", event("MODIFIED", namespace("a", 11, "y")), event("ADDED", namespace("d", 12, "x")));
    let (head, tail) = text.split_at(text.len() - 20);
    watch.send(Part::Text(head.into())).unwrap();
    assert_eq!(door.changes().await, ["+ Namespace a"]);
    watch.send(Part::Text(tail.into())).unwrap();
    assert_eq!(door.changes().await, ["+ Namespace d"]);
    send(&watch, &[event("DELETED", namespace("d", 13, "x"))]);
    assert_eq!(door.changes().await, ["- Namespace d"]);
    send(&watch, &[bookmark(20)]);
    door.progress(|p| p.versions().newest() == Some(20)).await;

    send(&watch, &[gone()]);
    assert_eq!(door.changes().await, ["- Namespace a", "+ Namespace c", "+ Namespace e"]);
    assert_eq!(door.changes().await, ["- Namespace e"]);
    door.progress(|p| p.versions().newest() == Some(50)).await;

    let seen = fake.seen();
    let queries: Vec<_> =
        seen.iter().map(|s| s.parameter("continue").or_else(|| s.parameter("resourceVersion"))).collect();
    assert_eq!(queries, [None, Some("p2"), Some("p3"), Some("10"), None, Some("30"), None, Some("40")]);
    let watch = &seen[3];
    assert_eq!((watch.parameter("allowWatchBookmarks"), watch.is_watch()), (Some("true"), true));
    assert_eq!((seen[0].what.as_str(), seen[0].parameter("limit")), ("GET /api/v1/namespaces", Some("500")));
    assert_eq!(seen[0].user_agent, format!("underpass-test/{}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn failures_and_cuts_lose_nothing() {
    let open = Open::default();
    let streams = Arc::clone(&open);
    let fake = Fake::start(script(move |n, _| match n {
        0 => Reply::refuse(500, "InternalError", json!({})),
        1 => Reply::of(200, "{\"metadata\":{\"resourceVersion\":\"10\"},\"items\":[{"),
        2 => list(10, &[namespace("a", 1, "x")], ""),
        3 => {
            let (sender, reply) = Reply::stream();
            let (b, c) = (event("ADDED", namespace("b", 11, "x")), event("ADDED", namespace("c", 12, "x")).to_string());
            sender.send(Part::Text(format!("{b}\n{}", &c[..c.len() / 2]))).unwrap();
            keep(&streams, (sender, reply))
        }
        4 => Reply::refuse(429, "TooManyRequests", json!({"retryAfterSeconds": 1})),
        5 => keep(
            &streams,
            Reply::lines(&[
                event("ADDED", namespace("c", 12, "x")),
                json!({"type": "ADDED", "object": {"metadata": {}}}),
            ]),
        ),
        6 => keep(&streams, Reply::lines(&[event("ADDED", namespace("d", 13, "x"))])),
        _ => Reply::refuse(404, "NotFound", json!({})),
    }))
    .await;
    let mut door = Opened::new(&fake, vec![Selection::all(Kind::Namespace)]).await;

    let failing = door.progress(|p| p.kinds.get(&Kind::Namespace).is_some_and(|h| h.error.is_some())).await;
    let (cause, _) = failing.kinds[&Kind::Namespace].error.clone().unwrap();
    assert_eq!(&*cause, "GET /api/v1/namespaces: 500 InternalError: refused: InternalError");

    assert_eq!(door.changes().await, ["+ Namespace a"]);
    assert_eq!(door.changes().await, ["+ Namespace b"]);
    open.lock().unwrap()[0].send(Part::Cut).unwrap();
    // it says what is wrong for as long as it is
    let told = loop {
        let update = door.next().await;
        if let Some(problem) = update.problems.first() {
            break problem.to_string();
        }
    };
    assert_eq!(
        told,
        "error: API server: objects of kind Namespace cannot be read: GET /api/v1/namespaces: 429 TooManyRequests: refused: TooManyRequests (the last good version stays served)"
    );
    assert_eq!(door.changes_until("+ Namespace d").await, ["+ Namespace c", "+ Namespace d"]);
    door.progress(|p| p.versions().newest() == Some(13) && p.kinds[&Kind::Namespace].error.is_none()).await;
    let versions: Vec<_> =
        fake.seen().iter().filter_map(|s| s.parameter("resourceVersion").map(str::to_owned)).collect();
    assert_eq!(versions, ["10", "11", "11", "12"]);
}

#[tokio::test]
async fn a_kind_that_appears_is_read_in_the_version_that_is_served() {
    let open = Open::default();
    let polls = AtomicUsize::new(0);
    let fake = Fake::start(move |seen: &Seen| {
        let is_old = seen.what.contains("/v1beta1/");
        match &*seen.what {
            _ if seen.is_watch() => keep(&open, Reply::stream()),
            "GET /api/v1/namespaces" => list(10, &[namespace("a", 1, "x")], ""),
            _ if is_old && polls.fetch_add(1, Ordering::Relaxed) >= 2 => list(20, &[policy("p", 15, json!([{}]))], ""),
            _ => Reply::of(404, "404 page not found\n"),
        }
    })
    .await;
    let selections = vec![Selection::all(Kind::Namespace), Selection::all(Kind::AuthorizationPolicy)];
    let mut door = Opened::new(&fake, selections).await;
    let first = door.next().await;
    assert_eq!(show(&first.batch), ["+ Namespace a"]);
    let notices: Vec<_> = first.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "notice: API server: the API server does not have kind AuthorizationPolicy: its objects are read as soon as it does"
        ]
    );
    let of_policies = first.versions.of(Kind::AuthorizationPolicy);
    assert!(of_policies.is_some_and(|reached| reached.known <= 10), "{of_policies:?}");
    let second = door.next().await;
    assert_eq!((show(&second.batch), second.notices), (vec!["+ AuthorizationPolicy a/p".to_owned()], vec![]));
    assert_eq!(second.versions.of(Kind::AuthorizationPolicy), Some(Reached { known: 20, changed: 20 }));
    door.progress(|p| p.kinds[&Kind::AuthorizationPolicy].phase == Phase::Watching).await;
    let asked: Vec<_> = fake.seen().into_iter().filter(|s| s.what.contains("security")).map(|s| s.what).collect();
    assert!(asked.starts_with(&["GET /apis/security.istio.io/v1/authorizationpolicies".to_owned()]), "{asked:?}");
}

#[tokio::test]
async fn nothing_is_handed_on_before_every_kind_is_listed() {
    let (open, release) = (Open::default(), Arc::new(AtomicUsize::new(0)));
    let (streams, may) = (Arc::clone(&open), Arc::clone(&release));
    let fake = Fake::start(move |seen: &Seen| match &*seen.what {
        _ if seen.is_watch() => keep(&streams, Reply::stream()),
        "GET /api/v1/namespaces" => list(10, &[namespace("a", 1, "x")], ""),
        _ if may.load(Ordering::Relaxed) == 0 => Reply::refuse(403, "Forbidden", json!({})),
        _ => list(11, &[], ""),
    })
    .await;
    let mut door = Opened::new(&fake, vec![Selection::all(Kind::Namespace), Selection::all(Kind::Service)]).await;
    let is_there = |p: &Progress| {
        let of = |kind| p.kinds.get(&kind);
        of(Kind::Namespace).is_some_and(|h| h.phase == Phase::Watching)
            && of(Kind::Service).is_some_and(|h| h.error.is_some())
    };
    door.progress(is_there).await;
    assert!(door.updates.try_recv().is_err());
    release.store(1, Ordering::Relaxed);
    assert_eq!(show(&door.next().await.batch), ["+ Namespace a"]);
}

#[tokio::test]
async fn many_changes_are_handed_on_together() {
    const CHANGES: u64 = 1_000;
    let open = Open::default();
    let fake = Fake::start(script(move |n, _| match n {
        0 => list(10, &[], ""),
        _ => {
            let events: Vec<_> =
                (0..CHANGES).map(|i| event("ADDED", namespace(&format!("n{i}"), 11 + i, "x"))).collect();
            keep(&open, Reply::lines(&events))
        }
    }))
    .await;
    let mut door = Opened::new(&fake, vec![Selection::all(Kind::Namespace)]).await;
    let (mut updates, mut changes) = (0, 0);
    while changes < CHANGES {
        let update = door.next().await;
        changes += update.batch.changes.len() as u64;
        updates += 1;
        assert_eq!(update.versions.newest(), Some(10 + changes));
    }
    assert!(updates < 100, "{updates} updates");
}

#[tokio::test]
async fn large_objects_are_read() {
    let open = Open::default();
    let large = |name: &str, version: u64| {
        let mut object = namespace(name, version, "x");
        object["metadata"]["annotations"] = json!({"large": "\u{1}x".repeat(1 << 19)});
        object
    };
    let fake = Fake::start(script(move |n, _| match n {
        0 => list(10, &[large("a", 1), large("b", 2), large("c", 3), large("d", 4), large("e", 5)], ""),
        _ => keep(&open, Reply::lines(&[event("ADDED", large("f", 11)), event("ADDED", namespace("g", 12, "x"))])),
    }))
    .await;
    let mut door = Opened::new(&fake, vec![Selection::all(Kind::Namespace)]).await;
    assert_eq!(door.changes().await.len(), 5);
    assert_eq!(door.changes_until("+ Namespace g").await, ["+ Namespace f", "+ Namespace g"]);
}

#[tokio::test]
async fn an_agent_asks_for_what_it_needs() {
    let open = Open::default();
    let fake = Fake::start(move |seen: &Seen| match seen.is_watch() {
        true => keep(&open, Reply::stream()),
        false => list(10, &[], ""),
    })
    .await;
    let mut door = Opened::new(&fake, vec![Selection::pods_of("node-1"), Selection::namespaces()]).await;
    door.next().await;
    door.progress(|p| p.kinds.len() == 2 && p.kinds.values().all(|h| h.phase == Phase::Watching)).await;
    // the watches are on their way
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while fake.seen().len() < 4 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", fake.seen());
        tokio::task::yield_now().await;
    }
    for seen in fake.seen() {
        let forms = match seen.is_watch() {
            true => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            false => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        };
        match &*seen.what {
            "GET /api/v1/pods" => {
                assert_eq!(seen.parameter("fieldSelector"), Some("spec.nodeName%3Dnode-1"));
                assert_eq!(seen.accept, "application/json");
            }
            "GET /api/v1/namespaces" => {
                assert_eq!((seen.parameter("fieldSelector"), &*seen.accept), (None, forms));
            }
            other => panic!("{other}"),
        }
    }
}
