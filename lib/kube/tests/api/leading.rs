//! A lease between two candidates, and conditions of a policy, as they are asked of an API server.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use underpass_core::{Kind, ObjectName};
use underpass_kube::{
    Election, Leadership,
    write::{Condition, Conditioned, PutConditions, Statuses},
};

use crate::fake::{DEADLINE, Fake, Reply, Seen};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/mesh/leases";

/// Keeps one lease, as an API server does. While it is `down`, nothing is answered.
fn lease_server(down: &Arc<AtomicBool>) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let (down, kept) = (Arc::clone(down), Mutex::new((0, None::<Value>)));
    move |seen| {
        if down.load(Ordering::Relaxed) {
            return Reply::refuse(503, "ServiceUnavailable", json!({}));
        }
        let mut kept = kept.lock().unwrap();
        let (version, lease) = &mut *kept;
        let is_current =
            |lease: &Value| lease["metadata"]["resourceVersion"] == seen.body["metadata"]["resourceVersion"];
        let mut next = match (seen.what.split_once(' ').unwrap(), lease.as_ref()) {
            (("GET", _), Some(lease)) => return Reply::json(lease),
            (("POST", LEASES), None) => seen.body.clone(),
            (("PATCH", _), Some(found)) if is_current(found) => {
                let mut found = found.clone();
                let (spec, patch) = (found["spec"].as_object_mut().unwrap(), seen.body["spec"].as_object().unwrap());
                spec.extend(patch.clone());
                found
            }
            (("POST" | "PATCH", _), Some(_)) => return Reply::refuse(409, "Conflict", json!({})),
            _ => return Reply::refuse(404, "NotFound", json!({})),
        };
        *version += 1;
        next["metadata"]["resourceVersion"] = json!(version.to_string());
        Reply::json(lease.insert(next))
    }
}

/// One that takes part, and what ends that.
async fn candidate(fake: &Fake, name: &str) -> (Leadership, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let election = Election::new(fake.client().await, ObjectName::new("mesh", "control"), name);
    let (stop, stopping) = watch::channel(false);
    (election.leadership(), stop, tokio::spawn(election.run(stopping)))
}

#[tokio::test]
async fn a_lease_goes_from_one_to_the_next() {
    let down = Arc::default();
    let fake = Fake::start(lease_server(&down)).await;
    let (mut a, stop, ended) = candidate(&fake, "a").await;
    assert!(!a.is_held());
    timeout(DEADLINE, a.acquired()).await.unwrap();
    let (mut b, _keep, _) = candidate(&fake, "b").await;
    stop.send_replace(true);
    timeout(DEADLINE, async { tokio::join!(a.lost(), ended) }).await.unwrap().1.unwrap();
    timeout(DEADLINE, b.acquired()).await.unwrap();
    assert!(b.is_held() && !a.is_held());
    let holders: Vec<_> =
        fake.seen().iter().filter_map(|s| Some(s.body["spec"]["holderIdentity"].as_str()?.to_owned())).collect();
    let [first, freed, last] = &holders[..] else { panic!("{holders:?}") };
    assert!(first.starts_with("a_") && freed.is_empty() && last.starts_with("b_"), "{holders:?}");
}

#[tokio::test]
async fn who_cannot_renew_gives_way_and_comes_back() {
    let down = Arc::<AtomicBool>::default();
    let fake = Fake::start(lease_server(&down)).await;
    let (mut a, _stop, _) = candidate(&fake, "a").await;
    timeout(DEADLINE, a.acquired()).await.unwrap();
    down.store(true, Ordering::Relaxed);
    timeout(DEADLINE, a.lost()).await.unwrap();
    assert!(!a.is_held());
    down.store(false, Ordering::Relaxed);
    timeout(DEADLINE, a.acquired()).await.unwrap();
}

/// As where its namespace is absent: asked for again after a pause, and never held.
#[tokio::test]
async fn a_lease_that_cannot_be_made_is_not_asked_for_at_once() {
    let fake = Fake::start(|_: &Seen| Reply::refuse(404, "NotFound", json!({}))).await;
    let (a, _stop, _) = candidate(&fake, "a").await;
    let second = || fake.seen().iter().filter(|seen| seen.what.starts_with("POST")).count() == 2;
    let began = Instant::now();
    while !second() {
        assert!(began.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2) && !a.is_held());
    assert_eq!(fake.seen().len(), 4);
}

fn policy(version: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "a", "uid": "u", "resourceVersion": version, "generation": 2},
        "spec": {},
        "status": {"conditions": [{"type": "Theirs", "status": "True"}]},
    })
}

/// The outcome of setting a condition where the write is answered so, and the object `is_there`; and the write.
async fn put(write: fn() -> Reply, is_there: bool) -> (PutConditions, Seen) {
    let fake = Fake::start(move |seen: &Seen| match (seen.what.starts_with("PATCH"), is_there) {
        (true, _) => write(),
        (false, true) => Reply::json(&policy("8")),
        (false, false) => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let found = Conditioned::read(Kind::AuthorizationPolicy, &policy("7").to_string()).unwrap();
    let condition = Condition { r#type: "Accepted", is_true: true, reason: "Accepted", message: "m".into() };
    let change = found.change(&["Accepted"], &[condition], SystemTime::UNIX_EPOCH).unwrap().unwrap();
    let outcome = fake.client().await.put_conditions(&change).await.unwrap();
    (outcome, fake.seen()[0].clone())
}

#[tokio::test]
async fn conditions_are_set_in_the_version_that_was_read() {
    let (outcome, write) = put(|| Reply::json(&policy("8")), true).await;
    assert_eq!(outcome, PutConditions::Written);
    assert_eq!(write.what, "PATCH /apis/security.istio.io/v1/namespaces/a/authorizationpolicies/p/status");
    assert_eq!((&*write.content_type, &*write.query), ("application/merge-patch+json", "fieldManager=underpass"));
    assert_eq!(write.body["metadata"], json!({"uid": "u", "resourceVersion": "7"}));
    let ours = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "m", "observedGeneration": 2,
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    });
    assert_eq!(write.body["status"], json!({"conditions": [{"type": "Theirs", "status": "True"}, ours]}));
    let (outcome, _) = put(|| Reply::refuse(409, "Conflict", json!({})), true).await;
    assert_eq!(outcome, PutConditions::Conflict);
    let (outcome, _) = put(|| Reply::refuse(404, "NotFound", json!({})), true).await;
    assert_eq!(outcome, PutConditions::NoStatus);
    let (outcome, _) = put(|| Reply::refuse(404, "NotFound", json!({})), false).await;
    assert_eq!(outcome, PutConditions::Gone);
}

#[tokio::test]
async fn policies_are_followed_with_their_status() {
    let (watch, reply) = Reply::lines(&[json!({"type": "MODIFIED", "object": policy("9")})]);
    let reply = Mutex::new(Some(reply));
    let fake = Fake::start(move |seen: &Seen| match seen.is_watch() {
        true => reply.lock().unwrap().take().unwrap_or_else(|| Reply::stream().1),
        false => Reply::json(&json!({"metadata": {"resourceVersion": "7"}, "items": [policy("7")]})),
    })
    .await;
    let (client, (sender, mut changes)) = (fake.client().await, tokio::sync::mpsc::channel(1));
    let following = tokio::spawn(async move { client.follow_conditions(Kind::AuthorizationPolicy, sender).await });
    let mut next = async || timeout(DEADLINE, changes.recv()).await.unwrap().unwrap();
    let read = |version| Conditioned::read(Kind::AuthorizationPolicy, &policy(version).to_string()).unwrap();
    assert_eq!(next().await, Statuses::All(Kind::AuthorizationPolicy, vec![read("7")]));
    assert_eq!(next().await, Statuses::One(Box::new(read("9"))));
    crate::fake::send(&watch, &[json!({"type": "DELETED", "object": policy("10")})]);
    assert_eq!(next().await, Statuses::Gone(read("10").claim.key));
    following.abort();
}
