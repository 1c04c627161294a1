//! Rules of the client, one table each: responses as text in, batches and answers as text out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use prost_types::Any;

use super::*;
use crate::{
    contract::envoy::service::discovery::v3::{self as contract, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::{
        Change,
        ResourceKind::{self, Address, Authorization},
    },
    testing::resource,
    versions::Applied,
    wire::message,
};

struct Client {
    session: Session,
    now: Instant,
    nonces: u32,
}

/// A response: `a=1` is a resource, `-a` a removal, `...` says that more follow. Its version, where it has one, is that of
/// pods.
fn response(kind: ResourceKind, version: &str, text: &str) -> DeltaDiscoveryResponse {
    let mut response = DeltaDiscoveryResponse {
        system_version_info: version.into(),
        type_url: kind.type_url().into(),
        ..Default::default()
    };
    if let Ok(known) = version.parse() {
        response.underpass_versions.insert("Pod".into(), contract::Reached { known, changed: known });
    }
    for word in text.split_whitespace() {
        match (word.split_once('='), word.strip_prefix('-')) {
            (Some((name, version)), _) => {
                // A client takes any text for a version.
                let message = message(kind, &resource(name, version, &[]));
                response.resources.push(contract::Resource { version: version.into(), ..message });
            }
            (None, Some(name)) => response.removed_resources.push(name.into()),
            (None, None) => response.underpass_partial = word == "...",
        }
    }
    response
}

fn show(batch: &Batch) -> String {
    let change = |change: &Change| {
        let kind = if change.kind == Address { "" } else { "policy " };
        let body = change.body.as_ref().map(|body| String::from_utf8_lossy(body));
        body.map_or_else(|| format!("{kind}-{}", change.name), |body| format!("{kind}{}={body}", change.name))
    };
    let mut words: Vec<String> = batch.changes.iter().map(change).collect();
    words.extend(batch.complete.then(|| "complete".to_owned()));
    words.join(", ")
}

fn answers(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let answer = |request: &DeltaDiscoveryRequest| {
        let error = request.error_detail.as_ref().map(|status| format!(" {}: {}", status.code, status.message));
        format!("{}{}", request.response_nonce, error.unwrap_or_default())
    };
    requests.iter().map(answer).collect()
}

impl Client {
    fn new() -> Self {
        let node = Node { pod: "agent".into(), namespace: "system".into(), ..Node::default() };
        let mut client = Self { session: Session::new(node), now: Instant::now(), nonces: 0 };
        client.session.open();
        client
    }

    fn receive(&mut self, mut response: DeltaDiscoveryResponse) -> Next {
        self.nonces += 1;
        response.nonce = self.nonces.to_string();
        self.session.receive(response, self.now)
    }

    /// Receives responses together and applies them: the batch.
    fn apply(&mut self, responses: impl IntoIterator<Item = DeltaDiscoveryResponse>) -> String {
        for response in responses {
            assert_eq!(self.receive(response), Next::Take);
        }
        let batch = self.session.take();
        self.session.applied(&[]);
        show(&batch)
    }

    /// What the next stream says is held.
    fn held(&mut self) -> Vec<String> {
        let mut held: Vec<String> = self
            .session
            .open()
            .into_iter()
            .flat_map(|request| request.initial_resource_versions)
            .map(|(name, version)| format!("{name}={version}"))
            .collect();
        held.sort();
        held
    }
}

#[test]
fn a_stream_begins_with_a_request_for_all_of_each_kind_policies_first() {
    let requests = Client::new().session.open();
    let types: Vec<&str> = requests.iter().map(|request| request.type_url.as_str()).collect();
    assert_eq!(types, [Authorization.type_url(), Address.type_url()]);
    for request in &requests {
        assert!(request.resource_names_subscribe.is_empty() && request.response_nonce.is_empty(), "{request:?}");
        let node = request.node.as_ref().unwrap();
        assert_eq!(node.id, "ztunnel~0.0.0.0~agent.system~system.svc.cluster.local");
        assert_eq!(node.client_features, ["underpass.partial"]);
    }
}

#[test]
fn responses_that_came_together_are_one_batch_in_order() {
    let mut client = Client::new();
    let first = [response(Address, "1", "a=1 b=1"), response(Authorization, "1", "p=1 q=1")];
    assert_eq!(client.apply(first), "policy p=1, policy q=1, a=1, b=1, complete");
    let next = [
        response(Authorization, "2", "-p r=1"),
        response(Address, "2", "b=2"),
        response(Address, "3", "-a b=3"),
        response(Authorization, "3", "-r -unknown"),
    ];
    assert_eq!(client.apply(next), "-a, b=3, policy -p, policy -r, policy -unknown, complete");
    assert_eq!(client.held(), ["b=3", "q=1"]);
}

#[test]
fn a_name_counts_in_its_last_state() {
    let mut client = Client::new();
    assert_eq!(client.apply([response(Address, "1", "a=1 a=2")]), "a=2");
    assert_eq!(client.apply([response(Address, "2", "-a a=3")]), "a=3", "it was made anew");
    assert_eq!(client.apply([response(Address, "3", "-a"), response(Address, "4", "a=4")]), "a=4");
    assert_eq!(client.held(), ["a=4"]);
}

#[test]
fn the_state_is_complete_when_each_kind_ended_once() {
    let mut client = Client::new();
    assert_eq!(client.apply([response(Authorization, "1", "")]), "");
    assert_eq!(client.apply([response(Address, "1", "a=1 ...")]), "a=1");
    // Another stream goes on with what is held.
    assert_eq!(client.held(), ["a=1"]);
    assert_eq!(client.apply([response(Address, "1", "b=1 ...")]), "b=1");
    assert!(!client.session.is_complete());
    assert_eq!(client.apply([response(Address, "1", "")]), "complete");
    assert!(client.session.is_complete());
    assert_eq!(client.apply([response(Address, "2", "c=1 ...")]), "c=1, complete");
}

#[test]
fn answers_name_what_was_rejected() {
    let mut client = Client::new();
    client.apply([response(Address, "1", "a=1 b=1")]);
    client.receive(response(Authorization, "2", "p=1"));
    client.receive(response(Address, "2", "a=2 b=2 c=2"));
    client.session.take();
    let rejected = |name: &str, reason: &str| Rejected { kind: Address, name: name.into(), reason: reason.into() };
    let rejects = [rejected("a", "workload.uid: empty"), rejected("c", "type: missing")];
    let sent = client.session.applied(&rejects);
    assert_eq!(answers(&sent), ["2", "3 3: a: workload.uid: empty; c: type: missing"]);
    assert!(sent.iter().all(|request| request.node.is_none() && request.resource_names_subscribe.is_empty()));
    // So that the next server sends it again.
    assert_eq!(client.held(), ["a=1", "b=2", "p=1"]);
}

#[test]
fn a_long_list_of_rejected_resources_is_cut() {
    let mut client = Client::new();
    client.receive(response(Address, "1", ""));
    let reason = "x".repeat(1_000);
    let rejects: Vec<Rejected> =
        (0..10).map(|n| Rejected { kind: Address, name: format!("a{n}").into(), reason: reason.clone() }).collect();
    let sent = client.session.applied(&rejects);
    let message = &sent[0].error_detail.as_ref().unwrap().message;
    assert!(message.len() < 5_000 && message.ends_with("; and 6 more"), "{message}");
}

#[test]
fn malformed_resources_are_rejected_alone() {
    let mut client = Client::new();
    let mut bad = response(Address, "1", "a=1 b=1 =1 c=1");
    bad.resources[0].resource = None;
    bad.resources[1].resource = Some(Any { type_url: "other".into(), value: Vec::new() });
    client.receive(bad);
    assert_eq!(show(&client.session.take()), "c=1");
    let text = "1 3: a: resource: missing; b: resource.type_url: \"other\" among resources of \
                \"type.googleapis.com/istio.workload.Address\"; : name: empty";
    assert_eq!(answers(&client.session.applied(&[])), [text]);
}

#[test]
fn a_type_that_was_not_subscribed_to_is_refused() {
    let mut client = Client::new();
    let mut other = response(Address, "1", "a=1");
    other.type_url = "type.googleapis.com/other".into();
    client.receive(other);
    assert_eq!(show(&client.session.take()), "");
    assert_eq!(answers(&client.session.applied(&[])), ["1 3: type_url: not subscribed to"]);
}

#[test]
fn a_response_without_a_nonce_has_no_answer() {
    let mut client = Client::new();
    client.session.receive(response(Address, "", "a=1"), client.now);
    assert_eq!(show(&client.session.take()), "a=1");
    assert_eq!(client.session.applied(&[]), []);
}

#[test]
fn a_server_that_is_behind_only_adds_addresses() {
    let mut client = Client::new();
    client.apply([response(Authorization, "9", "p=2"), response(Address, "10", "a=2")]);
    client.held();
    assert_eq!(client.apply([response(Authorization, "9", "p=1 q=1 -r")]), "complete");
    assert_eq!(client.apply([response(Address, "9", "a=1 b=1 -c")]), "b=1, complete");
    let behind = Behind { since: client.now, kind: "Pod".into(), applied: 10, offered: 9 };
    assert_eq!(client.session.behind(), Some(&behind));
    // It has caught up, and believes that what was left out is held.
    assert_eq!(client.receive(response(Address, "10", "a=2")), Next::Reopen);
    assert_eq!(client.held(), ["a=2", "b=1", "p=2"]);
    assert_eq!(client.session.behind(), None);
    assert_eq!(client.apply([response(Address, "10", "-b")]), "-b, complete");
}

#[test]
fn a_server_that_is_behind_and_has_nothing_to_say_needs_no_new_stream() {
    let mut client = Client::new();
    client.apply([response(Authorization, "10", ""), response(Address, "10", "a=2")]);
    client.held();
    assert_eq!(client.apply([response(Address, "9", "")]), "complete");
    assert_eq!((client.session.behind(), client.session.deadline()), (None, None), "in its version alone");
    client.now += 2 * BEHIND;
    assert_eq!(client.session.report(client.now), None);
    assert_eq!(client.apply([response(Address, "11", "a=3")]), "a=3, complete");
    assert_eq!(client.session.behind(), None);
}

#[test]
fn a_version_alone_says_that_a_server_has_caught_up_and_applies_nothing() {
    let mut client = Client::new();
    client.apply([response(Authorization, "10", "p=1"), response(Address, "10", "a=2")]);
    client.held();
    assert_eq!(client.apply([response(Authorization, "9", "q=1")]), "complete");
    assert!(client.session.behind().is_some(), "a policy was left out");
    assert_eq!(client.receive(response(Authorization, "12", "")), Next::Reopen);
    client.held();
    assert_eq!(
        client.apply([response(Authorization, "12", "q=1"), response(Address, "12", "")]),
        "policy q=1, complete"
    );
    assert_eq!(client.session.applied_changes().to_string(), "Pod=12");
}

#[test]
fn a_client_goes_on_from_what_an_earlier_one_had_applied() {
    let held = [(Address, "a", "2"), (Address, "b", "1"), (Authorization, "p", "1")];
    let held = held.map(|(kind, name, version)| (kind, name.into(), version.into()));
    let session = Session::holding(Node::default(), held, [("Pod", 10)].into_iter().collect());
    assert_eq!((session.applied_changes().newest(), session.is_complete()), (Some(10), false));
    let mut client = Client { session, ..Client::new() };
    assert_eq!(client.held(), ["a=2", "b=1", "p=1"]);
    // A server that is older than that takes nothing away, and its state is not the whole one.
    let older = [response(Authorization, "9", "-p"), response(Address, "9", "a=1 c=1")];
    assert_eq!(client.apply(older), "c=1");
    assert!(client.session.behind().is_some() && !client.session.is_complete());
    assert_eq!(client.held(), ["a=2", "b=1", "c=1", "p=1"]);
    let rest = [response(Authorization, "11", "-p"), response(Address, "11", "")];
    assert_eq!(client.apply(rest), "policy -p, complete");
    assert_eq!(client.held(), ["a=2", "b=1", "c=1"]);
}

#[test]
fn a_state_that_came_from_a_server_that_was_behind_is_asked_for_again() {
    let held = [(Address, "a", "2"), (Authorization, "p", "1")];
    let held = held.map(|(kind, name, version)| (kind, name.into(), version.into()));
    let session = Session::holding(Node::default(), held, [("Pod", 10)].into_iter().collect());
    let mut client = Client { session, ..Client::new() };
    client.held();
    // It has the same, but does not know that.
    assert_eq!(client.apply([response(Authorization, "9", ""), response(Address, "9", "")]), "");
    assert_eq!(client.session.behind(), None, "nothing was left out");
    assert_eq!(client.receive(response(Authorization, "10", "")), Next::Reopen);
    client.held();
    assert_eq!(client.apply([response(Authorization, "10", ""), response(Address, "10", "")]), "complete");
    // What is known to its end is not asked for again.
    client.held();
    client.apply([response(Authorization, "9", ""), response(Address, "9", "")]);
    assert_eq!(client.apply([response(Authorization, "10", "")]), "complete");
}

#[test]
fn a_batch_has_the_versions_that_it_leads_to() {
    let mut client = Client::new();
    client.receive(response(Address, "7", "a=3 -b"));
    client.receive(response(Authorization, "8", ""));
    let batch = client.session.take();
    let versions: Vec<_> = batch.changes.iter().map(|change| (&*change.name, &*change.version)).collect();
    assert_eq!((versions, &*batch.applied.to_string()), (vec![("a", "3"), ("b", "")], "Pod=8"));
    client.session.applied(&[]);
    client.receive(response(Address, "7", "c=1"));
    assert_eq!(client.session.take().applied, Applied::default(), "it is behind");
}

#[test]
fn a_server_that_stays_behind_is_reported_once() {
    let mut client = Client::new();
    client.apply([response(Address, "10", "a=2")]);
    assert_eq!((client.session.deadline(), client.session.report(client.now)), (None, None));
    client.apply([response(Address, "9", "-a")]);
    let since = client.now;
    assert_eq!(client.session.deadline(), Some(since + BEHIND));
    client.now += Duration::from_secs(29);
    // Neither another stream nor another old response begins anew.
    client.held();
    client.apply([response(Address, "8", "-a")]);
    assert_eq!(client.session.report(client.now), None);
    client.now += Duration::from_secs(1);
    assert_eq!(client.session.report(client.now), Some(Behind { since, kind: "Pod".into(), applied: 10, offered: 8 }));
    assert_eq!((client.session.deadline(), client.session.report(client.now)), (None, None));
}

#[test]
fn a_server_that_names_no_versions_makes_no_rule() {
    let mut client = Client::new();
    client.apply([response(Address, "10", "a=2")]);
    client.held();
    let foreign = |text| DeltaDiscoveryResponse { underpass_versions: HashMap::new(), ..response(Address, "9", text) };
    assert_eq!(client.apply([foreign("a=1")]), "a=1");
    assert_eq!(client.apply([foreign("-a")]), "-a");
    assert_eq!(client.session.behind(), None);
    // What was applied before is not forgotten.
    client.held();
    assert_eq!(client.apply([response(Authorization, "9", "q=1")]), "");
    assert!(client.session.behind().is_some());
}

/// A response that says of each kind how far it is known, and when it changed last.
fn knowing(versions: &[(&str, u64, u64)], text: &str) -> DeltaDiscoveryResponse {
    let reached = |(kind, known, changed): &(&str, u64, u64)| {
        ((*kind).to_owned(), contract::Reached { known: *known, changed: *changed })
    };
    let underpass_versions = versions.iter().map(reached).collect();
    DeltaDiscoveryResponse { underpass_versions, ..response(Authorization, "", text) }
}

#[test]
fn a_server_is_behind_where_it_lacks_a_change_of_any_kind() {
    let mut client = Client::new();
    // Nodes are known up to 50, and changed at 3.
    client.apply([knowing(&[("AuthorizationPolicy", 40, 30), ("Node", 50, 3)], "p=2")]);
    assert_eq!(client.session.applied_changes().to_string(), "AuthorizationPolicy=30 Node=3");
    let mut check = |versions: &[(&str, u64, u64)], is_behind: bool| {
        client.held();
        client.apply([knowing(versions, "p=1")]);
        assert_eq!(client.session.behind().is_some(), is_behind, "{versions:?}");
    };
    check(&[("AuthorizationPolicy", 29, 9), ("Node", 99, 9)], true);
    check(&[("AuthorizationPolicy", 99, 9), ("Node", 2, 2)], true);
    // One that has heard less of a quiet kind lacks no change.
    check(&[("AuthorizationPolicy", 30, 30), ("Node", 3, 3)], false);
    // A kind that it never names it does not read.
    check(&[("AuthorizationPolicy", 30, 30)], false);
    // It was followed when nodes had changed at 9.
    check(&[("AuthorizationPolicy", 30, 30), ("Node", 9, 9)], false);
    check(&[("AuthorizationPolicy", 30, 30), ("Node", 8, 8)], true);
}

#[test]
fn versions_that_a_server_has_told_hold_for_its_stream() {
    let mut client = Client::new();
    client.apply([knowing(&[("AuthorizationPolicy", 40, 30), ("Node", 50, 3)], "p=2")]);
    // Only what is news comes with each response.
    client.apply([knowing(&[("Node", 60, 60)], "")]);
    client.apply([knowing(&[], "p=3")]);
    assert_eq!(client.session.applied_changes().to_string(), "AuthorizationPolicy=30 Node=60");
    let sent = client.session.open();
    for request in sent {
        assert_eq!(request.underpass_applied, [("Node".to_owned(), 60), ("AuthorizationPolicy".to_owned(), 30)].into());
    }
    // The next server has told nothing of nodes yet.
    client.apply([knowing(&[("AuthorizationPolicy", 30, 30)], "p=4")]);
    assert!(client.session.behind().is_none());
    client.apply([knowing(&[("Node", 59, 59)], "p=5")]);
    assert!(client.session.behind().is_some());
}
