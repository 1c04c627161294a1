//! Our client and our server.

use std::time::Duration;

use underpass_xds::{
    client::{Link, Progress},
    resource::ResourceKind,
    server::{Limits, Phase},
};

use crate::support::{Agent, Server, resource, resources, token, within};

#[tokio::test(start_paused = true)]
async fn an_agent_follows_the_newest_resources() {
    let first = resources("1", [resource("a", "1"), resource("b", "1")], [resource("p", "1")]);
    let server = Server::new(first.clone());
    let token = token("agent\n");
    let mut agent = Agent::new(&server.pipe, Some(token.path().into()));
    agent.has(&first).await;
    assert_eq!(server.tokens.seen(), ["agent"]);
    let second = resources("2", [resource("a", "2"), resource("c", "1")], [resource("q", "1")]);
    server.resources.send_replace(second.clone());
    agent.has(&second).await;
    let empty = resources("3", [], []);
    server.resources.send_replace(empty.clone());
    agent.has(&empty).await;
    within("all is answered", async {
        while server.counters.streams(Phase::Current) != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let sent = server.counters.sent(ResourceKind::Address);
    assert_eq!((sent.responses, sent.resources, sent.removals, sent.refused), (3, 4, 3, 0));
    assert!(sent.bytes > 300, "{sent:?}");
    assert_eq!(server.counters.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_mesh_is_a_complete_state() {
    let server = Server::new(resources("1", [], []));
    let token = token("agent");
    let mut agent = Agent::new(&server.pipe, Some(token.path().into()));
    agent.has(&resources("1", [], [])).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_state_comes_in_parts() {
    let all = resources("1", (0..500).map(|n| resource(&format!("a{n}"), &"x".repeat(1_000))), [resource("p", "1")]);
    let server = Server::limited(all.clone(), Limits { response_bytes: 20_000, ..Limits::default() });
    let token = token("agent");
    let mut agent = Agent::new(&server.pipe, Some(token.path().into()));
    let early = agent.state.wait_for(|(state, complete)| state.len() > 1 && !complete);
    within("a first part", early).await.expect("the client runs");
    agent.has(&all).await;
    assert!(server.counters.sent(ResourceKind::Address).responses > 25, "{:?}", server.counters);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_gets_the_differences_alone() {
    let first = resources("1", (0..100).map(|n| resource(&format!("a{n}"), "1")), [resource("p", "1")]);
    let server = Server::new(first.clone());
    // The agent reaches one server after the other by this token's file and the pipes of both.
    let token = token("agent-one");
    let switch = Switch::new(&server);
    let mut agent = Agent::new(&switch.pipe, Some(token.path().into()));
    agent.has(&first).await;
    std::fs::write(token.path(), "agent-two").expect("the token is written");
    let second = resources("2", (1..100).map(|n| resource(&format!("a{n}"), "1")), [resource("p", "2")]);
    let other = Server::new(second.clone());
    switch.to(&other);
    server.kill().await;
    agent.has(&second).await;
    let sent = other.counters.sent(ResourceKind::Address);
    assert_eq!((sent.responses, sent.resources, sent.removals), (1, 0, 1));
    assert_eq!(other.counters.sent(ResourceKind::Authorization).resources, 1);
    assert_eq!(other.tokens.seen(), ["agent-two"], "the token is read anew");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_applied_is_refused_and_kept_as_it_was() {
    let good = resources("1", [resource("a", "1"), resource("b", "1")], []);
    let server = Server::new(good.clone());
    let token = token("agent");
    let mut agent = Agent::new(&server.pipe, Some(token.path().into()));
    agent.has(&good).await;
    server.resources.send_replace(resources("2", [resource("a", "bad"), resource("b", "2")], []));
    agent.has(&resources("2", [resource("a", "1"), resource("b", "2")], [])).await;
    within("the refusal arrives", async {
        while server.counters.sent(ResourceKind::Address).refused != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let repaired = resources("3", [resource("a", "3"), resource("b", "2")], []);
    server.resources.send_replace(repaired.clone());
    agent.has(&repaired).await;
}

#[tokio::test(start_paused = true)]
async fn an_older_replica_takes_nothing_away_until_it_has_caught_up() {
    let newest = resources("10", [resource("a", "2"), resource("b", "1")], [resource("p", "2")]);
    let server = Server::new(newest.clone());
    let token = token("agent");
    let switch = Switch::new(&server);
    let mut agent = Agent::new(&switch.pipe, Some(token.path().into()));
    agent.has(&newest).await;
    let older = Server::new(resources("9", [resource("a", "1"), resource("c", "1")], [resource("p", "1")]));
    switch.to(&older);
    server.kill().await;
    let added = [resource("a", "2"), resource("b", "1"), resource("c", "1")];
    agent.has(&resources("9", added, [resource("p", "2")])).await;
    let behind = agent.progress.wait_for(|progress| progress.behind.is_some());
    let behind =
        within("the progress says it", behind).await.expect("the client runs").behind.clone().expect("just seen");
    assert_eq!((&*behind.kind, behind.applied, behind.offered), ("Pod", 10, 9));
    let caught_up = resources("11", [resource("a", "2"), resource("b", "1")], [resource("p", "2")]);
    older.resources.send_replace(caught_up.clone());
    agent.has(&caught_up).await;
    let level = agent.progress.wait_for(|progress| progress.behind.is_none());
    within("the progress says it", level).await.expect("the client runs");
    assert_eq!(older.counters.opened(), 2, "one stream more on the same connection");
    assert_eq!(*older.heard.0.lock().unwrap(), [10, 10], "each stream says what was applied");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_ends_streams_in_order() {
    let first = resources("1", [resource("a", "1")], []);
    let server = Server::new(first.clone());
    let token = token("agent");
    let switch = Switch::new(&server);
    let mut agent = Agent::new(&switch.pipe, Some(token.path().into()));
    agent.has(&first).await;
    let second = resources("2", [resource("a", "2")], []);
    let other = Server::new(second.clone());
    switch.to(&other);
    let mut progress = agent.progress.clone();
    let ended = tokio::spawn(async move {
        let ended = progress.wait_for(|progress| matches!(progress.link, Link::Ended { .. })).await;
        format!("{:?}", ended.expect("the client runs").link)
    });
    let of = |version, since| {
        move |progress: &Progress| {
            let is_open = matches!(&progress.link, Link::Open { since: at } if since != Some(*at));
            is_open && progress.version == Some(version) && progress.applied.is_some()
        }
    };
    let first_said =
        within("the first version", agent.progress.wait_for(of(1, None))).await.expect("the client runs").clone();
    server.stop().await;
    agent.has(&second).await;
    let Link::Open { since } = first_said.link else { panic!("{first_said:?}") };
    within("the second version, on a later stream", agent.progress.wait_for(of(2, Some(since))))
        .await
        .expect("the client runs");
    let ended = ended.await.expect("no panic");
    assert!(ended.contains("the control plane ended the stream"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_a_control_plane_tries_again() {
    let all = resources("1", [resource("a", "1")], []);
    let server = Server::new(all.clone());
    let unknown = token("stranger");
    let mut agent = Agent::new(&server.pipe, Some(unknown.path().into()));
    let ended = |reason: &'static str| move |progress: &Progress| matches!(&progress.link, Link::Ended { reason: text, .. } if text.contains(reason));
    let refused = agent.progress.wait_for(ended("Unauthenticated: unknown token"));
    within("the refusal", refused).await.expect("the client runs");
    std::fs::remove_file(unknown.path()).expect("the token is gone");
    within("no token", agent.progress.wait_for(ended("No such file"))).await.expect("the client runs");
    std::fs::write(unknown.path(), "agent").expect("the token is written");
    let began = tokio::time::Instant::now();
    agent.has(&all).await;
    assert!(began.elapsed() < Duration::from_secs(16), "the longest pause is 15 s");
    assert!(server.counters.turned_away() > 0);
}

/// Leads connections to one server or the other.
struct Switch {
    pipe: crate::pipe::Pipe,
    target: tokio::sync::watch::Sender<crate::pipe::Pipe>,
}

impl Switch {
    fn new(server: &Server) -> Self {
        use tokio_stream::StreamExt as _;
        let (pipe, incoming) = crate::pipe::Pipe::new();
        let (target, current) = tokio::sync::watch::channel(server.pipe.clone());
        tokio::spawn(async move {
            let mut incoming = Box::pin(incoming);
            while let Some(Ok(mut client)) = incoming.next().await {
                let Ok(mut server) = current.borrow().open() else { continue };
                tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut client, &mut server).await) });
            }
        });
        Self { pipe, target }
    }

    fn to(&self, server: &Server) {
        self.target.send_replace(server.pipe.clone());
    }
}
