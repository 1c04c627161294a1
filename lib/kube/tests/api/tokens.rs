//! Tokens: those that callers show, and the client's own where it is refused.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::mpsc;
use underpass_core::ObjectName;
use underpass_kube::{
    Client,
    client::Error,
    review::{Refusal, ReviewError},
};

use crate::fake::{DEADLINE, Fake, Reply, Seen};

#[tokio::test]
async fn tokens_are_reviewed_for_their_audience() {
    let fake = Fake::start(|seen: &Seen| {
        let spec = &seen.body["spec"];
        let status = match spec["token"].as_str() {
            Some("good") => json!({"authenticated": true, "audiences": spec["audiences"], "user": {"username": "system:serviceaccount:a:b", "uid": "u"}}),
            Some("down") => return Reply::refuse(500, "InternalError", json!({})),
            _ => json!({"error": "invalid bearer token"}),
        };
        Reply::of(201, json!({"kind": "TokenReview", "spec": spec, "status": status}))
    })
    .await;
    let client = fake.client().await;
    let caller = client.review("good", "istio-ca").await.unwrap();
    assert_eq!(caller.service_account, ObjectName::new("a", "b"));
    let refused = |cause: &str| Err(ReviewError::Refused(Refusal::NotAuthenticated { cause: cause.into() }));
    assert_eq!(client.review("bad", "istio-ca").await, refused("invalid bearer token"));
    assert_eq!(client.review("", "istio-ca").await, refused("it is empty"));
    let failed = client.review("down", "istio-ca").await.unwrap_err();
    assert!(matches!(failed, ReviewError::Failed(_)), "{failed}");
    assert!(!format!("{failed} {failed:?}").contains("down"), "{failed:?}");
    let seen = fake.seen();
    assert_eq!(seen.len(), 3, "an empty token is not asked about");
    assert_eq!(seen[0].what, "POST /apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(seen[0].body["spec"], json!({"token": "good", "audiences": ["istio-ca"]}));
}

/// Asks until it is answered; each refusal on the way is one of a token.
async fn until_accepted(client: &Client) {
    let ask = async {
        loop {
            match client.service_accounts().await {
                Ok(_) => return,
                refusal => refused(refusal),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ask).await.expect("in time");
}

fn refused(answer: Result<Vec<ObjectName>, Error>) {
    let error = answer.unwrap_err();
    assert_eq!(error.status(), Some(401), "{error}");
}

/// Without the minute after which its file would be read anyway.
#[tokio::test]
async fn a_refused_token_is_read_again() {
    let fake = Fake::start(|seen: &Seen| match seen.authorization.as_str() {
        "Bearer new" => Reply::json(&json!({"items": [], "metadata": {}})),
        _ => Reply::refuse(401, "Unauthorized", json!({})),
    })
    .await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, "old").unwrap();
    let client = fake.client_with_token(&file).await;
    refused(client.service_accounts().await);
    std::fs::remove_file(&file).unwrap();
    refused(client.service_accounts().await);
    std::fs::write(&file, "new").unwrap();
    until_accepted(&client).await;
    let mut sent: Vec<_> = fake.seen().into_iter().map(|seen| seen.authorization).collect();
    sent.dedup();
    assert_eq!(sent, ["Bearer old", "Bearer new"]);
}

/// Many requests are under way with the old token: the refusal of one renews the connection, and those of the others
/// find another one.
#[tokio::test]
async fn one_refused_token_makes_one_connection() {
    let (sender, mut held) = mpsc::unbounded_channel();
    let fake = Fake::start(move |seen: &Seen| match seen.authorization.as_str() {
        "Bearer third" => Reply::json(&json!({"items": [], "metadata": {}})),
        "Bearer second" => Reply::refuse(401, "Unauthorized", json!({})),
        _ => {
            let (release, reply) = Reply::refuse(401, "Unauthorized", json!({})).held();
            sender.send(release).unwrap();
            reply
        }
    })
    .await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, "old").unwrap();
    let client = Arc::new(fake.client_with_token(&file).await);
    let mut under_way = tokio::task::JoinSet::new();
    let mut releases = Vec::new();
    for _ in 0..3 {
        let client = Arc::clone(&client);
        under_way.spawn(async move { client.service_accounts().await });
        releases.push(tokio::time::timeout(DEADLINE, held.recv()).await.expect("in time").unwrap());
    }
    std::fs::write(&file, "second").unwrap();
    drop(releases.pop());
    refused(under_way.join_next().await.unwrap().unwrap());
    // Where a clone may connect anew, so may the client itself.
    std::fs::write(&file, "third").unwrap();
    until_accepted(&Client::clone(&client)).await;
    drop(releases);
    while let Some(answer) = under_way.join_next().await {
        refused(answer.unwrap());
    }
    refused(client.service_accounts().await);
    assert_eq!(fake.seen().last().unwrap().authorization, "Bearer second");
}

/// It asks a person, or costs money: it runs for a user's command, and not for each refusal.
#[tokio::test]
async fn a_refusal_runs_no_plugin() {
    let fake = Fake::start(|_: &Seen| Reply::refuse(401, "Unauthorized", json!({}))).await;
    let home = tempfile::tempdir().unwrap();
    let runs = home.path().join("runs");
    let version = "client.authentication.k8s.io/v1";
    let credential = json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": "of-a-plugin"}});
    let script = format!("echo run >>'{}'; echo '{credential}'", runs.display());
    let plugin = json!({"apiVersion": version, "command": "sh", "args": ["-c", script], "interactiveMode": "Never"});
    let client = fake.client_of_user(json!({"exec": plugin})).await;
    let before = std::fs::read(&runs).unwrap();
    refused(client.service_accounts().await);
    refused(client.service_accounts().await);
    assert_eq!(std::fs::read(&runs).unwrap(), before);
    assert!(fake.seen().iter().all(|seen| seen.authorization == "Bearer of-a-plugin"));
}
