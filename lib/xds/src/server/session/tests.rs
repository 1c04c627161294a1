//! Rules of a stream, one table each: requests and catalogs in, responses as text out.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    contract::{envoy::config::core::v3::Node, google::rpc::Status},
    resource::{ContentHash, Resource, Resources},
    testing::{resource, resources, show},
};

const ADDRESS: &str = ResourceKind::Address.type_url();
const POLICY: &str = ResourceKind::Authorization.type_url();

/// A stream and its clock.
struct Stream {
    session: Session,
    catalog: Catalog,
    now: Instant,
}

/// A request of a type; `more` fills it in.
fn request(type_url: &str, more: impl FnOnce(&mut DeltaDiscoveryRequest)) -> DeltaDiscoveryRequest {
    let mut request = DeltaDiscoveryRequest { type_url: type_url.into(), ..Default::default() };
    more(&mut request);
    request
}

fn subscribe(names: &[&str]) -> impl FnOnce(&mut DeltaDiscoveryRequest) {
    let names = names.iter().map(ToString::to_string).collect();
    move |request| request.resource_names_subscribe = names
}

fn unsubscribe(names: &[&str]) -> impl FnOnce(&mut DeltaDiscoveryRequest) {
    let names = names.iter().map(ToString::to_string).collect();
    move |request| request.resource_names_unsubscribe = names
}

/// Names and bodies.
fn holding(held: &[(&str, &str)]) -> impl FnOnce(&mut DeltaDiscoveryRequest) {
    let version = |body: &str| ContentHash::of(body.as_bytes()).to_string();
    let held = held.iter().map(|(name, body)| (name.to_string(), version(body))).collect();
    move |request| request.initial_resource_versions = held
}

fn parts(request: &mut DeltaDiscoveryRequest) {
    request.node = Some(Node { id: "node".into(), client_features: vec![PARTIAL.into()], ..Default::default() });
}

fn ack(nonce: u32) -> impl FnOnce(&mut DeltaDiscoveryRequest) {
    move |request| request.response_nonce = nonce.to_string()
}

fn nack(nonce: u32) -> impl FnOnce(&mut DeltaDiscoveryRequest) {
    move |request| {
        request.response_nonce = nonce.to_string();
        request.error_detail = Some(Status { code: 3, message: "a: port: 0".into(), details: Vec::new() });
    }
}

impl Stream {
    fn new(first: Resources) -> Self {
        Self::limited(first, Limits::default())
    }

    fn limited(first: Resources, limits: Limits) -> Self {
        let catalog = Catalog::first(first);
        Self { session: Session::new(catalog.clone(), limits), catalog, now: Instant::now() }
    }

    /// Takes requests, and answers with all that can be sent then.
    fn ask(&mut self, requests: impl IntoIterator<Item = DeltaDiscoveryRequest>) -> Vec<String> {
        for request in requests {
            self.session.receive(request, self.now).unwrap();
        }
        self.sent()
    }

    fn publish(&mut self, next: Resources) -> Vec<String> {
        self.catalog = self.catalog.next(next);
        self.session.publish(self.catalog.clone());
        self.sent()
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.sent()
    }

    fn sent(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.session.poll(self.now)).map(|response| show(&response)).collect()
    }
}

fn both() -> [DeltaDiscoveryRequest; 2] {
    [request(POLICY, |_| ()), request(ADDRESS, |_| ())]
}

fn one(name: &str, version: &str) -> Resource {
    resource(name, version, &[])
}

#[test]
fn the_first_request_without_a_name_is_for_all_and_always_answered() {
    let mut stream = Stream::new(resources("7", [one("a", "1"), one("b", "2")], []));
    assert_eq!(stream.session.phase(), Phase::Opening);
    assert_eq!(stream.ask(both()), ["1 Authorization @7", "2 Address @7 a=1 b=2"]);
    assert_eq!(stream.session.phase(), Phase::Behind);
    assert_eq!(stream.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2))]), Vec::<String>::new());
    assert_eq!(stream.session.phase(), Phase::Current);
    let mut star = Stream::new(resources("7", [one("a", "1")], []));
    assert_eq!(star.ask([request(POLICY, |_| ()), request(ADDRESS, subscribe(&["*"]))])[1], "2 Address @7 a=1");
}

/// As a client that has applied this version of pods.
fn having(applied: u64) -> impl Fn(&mut DeltaDiscoveryRequest) {
    move |request| {
        parts(request);
        request.underpass_applied = [("Pod".to_owned(), applied), ("Unknown".to_owned(), 99)].into();
    }
}

#[test]
fn a_client_that_had_applied_more_is_told_as_soon_as_that_is_known() {
    let world = |version: &str| resources(version, [one("a", "1")], [one("p", "1")]);
    let subscribe = |applied| [request(POLICY, having(applied)), request(ADDRESS, having(applied))];
    let mut stream = Stream::new(world("1"));
    assert_eq!(stream.ask(subscribe(3)).len(), 2);
    assert_eq!(stream.session.applied(), Some(&[(Kind::Pod, 3)].into()));
    stream.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2))]);
    assert_eq!(stream.publish(world("2")), Vec::<String>::new(), "not yet");
    assert_eq!(stream.publish(world("4")), ["3 Authorization @4"]);
    assert_eq!(stream.session.deadline(), Some(stream.now + Limits::default().answer), "it is answered as any other");
    stream.ask([request(POLICY, ack(3))]);
    assert_eq!((stream.session.phase(), stream.session.deadline()), (Phase::Current, None));
    assert_eq!(stream.publish(world("5")), Vec::<String>::new(), "once");

    // A change says it as well.
    let mut stream = Stream::new(world("1"));
    stream.ask(subscribe(3));
    stream.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2))]);
    assert_eq!(stream.publish(resources("3", [one("a", "2")], [one("p", "1")])), ["3 Address @3 a=2"]);
    assert_eq!(stream.ask([request(ADDRESS, ack(3))]), Vec::<String>::new());
    assert_eq!(stream.publish(world("3")), ["4 Address @3 a=1"]);

    // So does the state that is known already when the stream is opened; and without policies nothing is left out.
    for requests in [subscribe(1).to_vec(), vec![request(ADDRESS, having(3))], both().to_vec()] {
        let mut stream = Stream::new(world("1"));
        stream.ask(requests);
        stream.wait(Limits::default().other_kind);
        stream.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2)), request(ADDRESS, ack(1))]);
        assert_eq!(stream.publish(world("4")), Vec::<String>::new());
    }
}

#[test]
fn a_client_that_takes_parts_hears_once_how_far_each_kind_is_known() {
    let versions = |all: &[(Kind, u64)]| {
        let reached = |(kind, known): &(Kind, u64)| (*kind, Reached { known: *known, changed: known / 2 });
        all.iter().map(reached).collect::<Versions>()
    };
    let world = |all: &[(Kind, u64)], version: &str| Resources {
        versions: versions(all),
        ..resources("7", [one("a", version)], [])
    };
    let said = |response: DeltaDiscoveryResponse| {
        let one = |(kind, r): (String, contract::Reached)| format!("{kind} {}/{}", r.known, r.changed);
        let mut all: Vec<_> = response.underpass_versions.into_iter().map(one).collect();
        all.sort();
        all.join(", ")
    };
    let first = world(&[(Kind::Pod, 4), (Kind::Node, 8)], "1");
    let mut stream = Stream::new(first.clone());
    for request in [request(POLICY, parts), request(ADDRESS, parts)] {
        stream.session.receive(request, stream.now).unwrap();
    }
    let next = |stream: &mut Stream| stream.session.poll(stream.now).map(said);
    assert_eq!(next(&mut stream).as_deref(), Some("Node 8/4, Pod 4/2"));
    assert_eq!(next(&mut stream).as_deref(), Some(""));
    stream.session.receive(request(ADDRESS, ack(2)), stream.now).unwrap();
    stream.catalog = stream.catalog.next(world(&[(Kind::Pod, 10), (Kind::Node, 8)], "2"));
    stream.session.publish(stream.catalog.clone());
    assert_eq!(next(&mut stream).as_deref(), Some("Pod 10/5"));

    let mut ztunnel = Stream::new(first);
    for request in both() {
        ztunnel.session.receive(request, ztunnel.now).unwrap();
    }
    assert_eq!(next(&mut ztunnel).as_deref(), Some(""));
}

#[test]
fn policies_go_before_addresses_and_leave_after_them() {
    let mut stream = Stream::new(resources("1", [one("a", "1")], [one("p", "1")]));
    let [policies, addresses] = both();
    // The subscription to addresses comes first, as of a ztunnel: it waits for the one to policies.
    assert_eq!(stream.ask([addresses]), Vec::<String>::new());
    assert_eq!(stream.ask([policies]), ["1 Authorization @1 p=1", "2 Address @1 a=1"]);
    let answers = |first: u32| [request(POLICY, ack(first)), request(ADDRESS, ack(first + 1))];
    stream.ask(answers(1));
    let sent = stream.publish(resources("2", [one("a", "2")], [one("q", "1")]));
    assert_eq!(sent, ["3 Authorization @2 q=1", "4 Address @2 a=2"]);
    assert_eq!(stream.ask([request(ADDRESS, ack(4))]), Vec::<String>::new());
    assert_eq!(stream.ask([request(POLICY, ack(3))]), ["5 Authorization @2 -p"]);
}

#[test]
fn addresses_wait_while_their_policies_wait_for_an_answer() {
    let mut stream = Stream::new(resources("1", [one("a", "1")], [one("p", "1")]));
    stream.ask(both());
    stream.ask([request(ADDRESS, ack(2))]);
    assert_eq!(stream.publish(resources("2", [one("a", "2")], [one("p", "2")])), Vec::<String>::new());
    // Addresses of the next catalog are no answer's business, and wait all the same.
    assert_eq!(stream.ask([request(POLICY, ack(1))]), ["3 Authorization @2 p=2", "4 Address @2 a=2"]);
}

#[test]
fn a_client_without_the_other_kind_waits_for_a_second() {
    let mut stream = Stream::new(resources("1", [one("a", "1")], [one("p", "1")]));
    assert_eq!(stream.ask([request(ADDRESS, |_| ())]), Vec::<String>::new());
    assert_eq!(stream.session.deadline(), Some(stream.now + Duration::from_secs(1)));
    assert_eq!(stream.wait(Duration::from_millis(999)), Vec::<String>::new());
    assert_eq!(stream.wait(Duration::from_millis(1)), ["1 Address @1 a=1"]);
    let mut stream = Stream::new(resources("1", [one("a", "1")], [one("p", "1")]));
    assert_eq!(stream.ask([request(POLICY, holding(&[("gone", "1")]))]), ["1 Authorization @1 p=1"]);
    assert_eq!(stream.ask([request(POLICY, ack(1))]), Vec::<String>::new());
    assert_eq!(stream.wait(Duration::from_secs(1)), ["2 Authorization @1 -gone"], "or addresses might still name it");
}

#[test]
fn a_client_that_comes_back_gets_the_differences() {
    let mut stream = Stream::new(resources("9", [one("a", "1"), one("b", "2"), one("d", "1")], [one("p", "1")]));
    let held = request(ADDRESS, holding(&[("a", "1"), ("b", "1"), ("c", "1")]));
    let sent = stream.ask([request(POLICY, holding(&[("p", "1"), ("q", "1")])), held]);
    assert_eq!(sent, ["1 Authorization @9", "2 Address @9 b=2 d=1 -c"]);
    assert_eq!(stream.ask([request(POLICY, ack(1))]), ["3 Authorization @9 -q"]);
}

#[test]
fn changes_that_come_while_a_response_waits_are_one_difference() {
    let mut stream = Stream::new(resources("1", [one("a", "1"), one("b", "1")], []));
    stream.ask(both());
    stream.ask([request(POLICY, ack(1))]);
    assert_eq!(stream.publish(resources("2", [one("a", "2"), one("b", "1")], [])), Vec::<String>::new());
    // What was begun is sent to its end; the two that follow are one difference.
    stream.publish(resources("3", [one("a", "3"), one("c", "1")], []));
    stream.publish(resources("4", [one("a", "2"), one("b", "1"), one("d", "1")], []));
    assert_eq!(stream.ask([request(ADDRESS, ack(2))]), ["3 Address @2 a=2"]);
    assert_eq!(stream.ask([request(ADDRESS, ack(3))]), ["4 Address @4 d=1"]);
}

#[test]
fn what_was_refused_is_sent_again_when_it_changes() {
    let mut stream = Stream::new(resources("1", [one("a", "bad"), one("b", "1")], []));
    stream.ask(both());
    let notice = stream.session.receive(request(ADDRESS, nack(2)), stream.now).unwrap();
    let message = "a: port: 0".to_owned();
    assert_eq!(notice, Some(Notice::Refused { kind: ResourceKind::Address, nonce: "2".into(), message }));
    assert_eq!(stream.sent(), Vec::<String>::new());
    assert_eq!(stream.publish(resources("2", [one("a", "bad"), one("b", "2")], [])), ["3 Address @2 b=2"]);
    stream.ask([request(ADDRESS, ack(3))]);
    assert_eq!(stream.publish(resources("3", [one("a", "good"), one("b", "2")], [])), ["4 Address @3 a=good"]);
}

#[test]
fn an_answer_to_another_response_says_nothing() {
    let mut stream = Stream::new(resources("1", [one("a", "1")], []));
    stream.ask(both());
    assert_eq!(stream.session.receive(request(ADDRESS, nack(1)), stream.now), Ok(None));
    assert_eq!(stream.publish(resources("2", [one("a", "2")], [])), Vec::<String>::new(), "2 still waits");
}

#[test]
fn a_large_state_comes_in_parts_to_those_who_take_them() {
    let many = || resources("1", (0..5).map(|n| one(&format!("a{n}"), "1")), [one("p", "1")]);
    let limits = Limits { response_resources: 2, ..Limits::default() };
    let mut ours = Stream::limited(many(), limits.clone());
    let [policies, addresses] = [request(POLICY, parts), request(ADDRESS, |_| ())];
    let sent = ours.ask([policies, addresses]);
    assert_eq!(sent, ["1 Authorization @1 p=1", "2 Address @1 a0=1 a1=1 partial"]);
    assert_eq!(ours.ask([request(ADDRESS, ack(2))]), ["3 Address @1 a2=1 a3=1 partial"]);
    // A policy that changes meanwhile waits for the rest of the catalog.
    ours.ask([request(POLICY, ack(1))]);
    assert_eq!(ours.publish(resources("2", [], [one("p", "2")])), Vec::<String>::new());
    let rest = ["4 Address @1 a4=1", "5 Authorization @2 p=2"];
    assert_eq!(ours.ask([request(ADDRESS, ack(3))]), rest);
    assert_eq!(ours.ask([request(ADDRESS, ack(4))]), ["6 Address @2 -a0 -a1 partial"]);
    let mut bytes = Stream::limited(many(), Limits { response_bytes: 1, ..Limits::default() });
    assert_eq!(bytes.ask([request(POLICY, parts), request(ADDRESS, |_| ())])[1], "2 Address @1 a0=1 partial");
    // A ztunnel is ready after the first response of each type, so that has to be whole.
    let mut ztunnel = Stream::limited(many(), limits);
    assert_eq!(ztunnel.ask(both())[1], "2 Address @1 a0=1 a1=1 a2=1 a3=1 a4=1");
    ztunnel.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2))]);
    let sent = ztunnel.publish(resources("2", [one("a4", "1")], [one("p", "1")]));
    assert_eq!(sent, ["3 Address @2 -a0 -a1"]);
}

#[test]
fn names_are_subscribed_to_on_demand() {
    let world = |source, version| {
        let pod = resource("pod", version, &["net/1", "net/2"]);
        resources(source, [pod, resource("ns/host", "1", &["net/9"]), one("other", version)], [])
    };
    let mut stream = Stream::new(world("1", "1"));
    let nothing = request(ADDRESS, |request| {
        subscribe(&["*"])(request);
        unsubscribe(&["*"])(request);
    });
    assert_eq!(stream.ask([request(POLICY, |_| ()), nothing])[1], "2 Address @1", "nothing is subscribed to yet");
    stream.ask([request(POLICY, ack(1))]);
    assert_eq!(stream.ask([request(ADDRESS, ack(2))]), Vec::<String>::new());
    assert_eq!(stream.ask([request(ADDRESS, subscribe(&["net/2"]))]), ["3 Address @1 pod=1"]);
    assert_eq!(stream.ask([request(ADDRESS, ack(3))]), Vec::<String>::new());
    assert_eq!(stream.ask([request(ADDRESS, subscribe(&["net/7", "ns/host"]))]), ["4 Address @1 ns/host=1 -net/7"]);
    stream.ask([request(ADDRESS, ack(4))]);
    assert_eq!(stream.publish(world("2", "2")), ["5 Address @2 pod=2"]);
    stream.ask([request(ADDRESS, ack(5))]);
    // A name that was asked for in vain appears under an alias; a name that is asked for again is sent again.
    let late = || resource("late", "1", &["net/7"]);
    assert_eq!(stream.publish(resources("3", [late(), one("other", "2")], [])), ["6 Address @3 late=1 -ns/host -pod"]);
    stream.ask([request(ADDRESS, ack(6))]);
    assert_eq!(stream.ask([request(ADDRESS, subscribe(&["late"]))]), ["7 Address @3 late=1"]);
    let forgets = |request: &mut DeltaDiscoveryRequest| {
        ack(7)(request);
        unsubscribe(&["late", "net/7"])(request);
    };
    assert_eq!(stream.ask([request(ADDRESS, forgets)]), Vec::<String>::new());
    assert_eq!(stream.publish(resources("4", [], [])), Vec::<String>::new(), "the client has forgotten it");
}

#[test]
fn on_demand_names_that_are_held_stay_subscribed_to() {
    let world = |version| resources("1", [one("a", version), resource("b", "1", &["net/1"])], []);
    let mut stream = Stream::new(world("1"));
    let back = request(ADDRESS, |request| {
        subscribe(&["*"])(request);
        unsubscribe(&["*"])(request);
        // The last two were asked for and not answered yet.
        holding(&[("a", "1"), ("net/1", ""), ("net/2", "")])(request);
    });
    assert_eq!(stream.ask([request(POLICY, |_| ()), back])[1], "2 Address @1 b=1 -net/2");
    stream.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2))]);
    assert_eq!(stream.publish(world("2")), ["3 Address @1 a=2"]);
}

#[test]
fn wildcard_and_names_go_together() {
    let mut stream = Stream::new(resources("1", [one("a", "1"), one("b", "1")], []));
    stream.ask(both());
    stream.ask([request(POLICY, ack(1)), request(ADDRESS, ack(2))]);
    assert_eq!(stream.ask([request(ADDRESS, subscribe(&["a"]))]), ["3 Address @1 a=1"]);
    stream.ask([request(ADDRESS, ack(3))]);
    let sent = stream.publish(resources("2", [one("a", "2"), one("b", "2")], []));
    assert_eq!(sent, ["4 Address @2 a=2 b=2"]);
    stream.ask([request(ADDRESS, ack(4)), request(ADDRESS, unsubscribe(&["*"]))]);
    let sent = stream.publish(resources("3", [one("a", "3"), one("b", "3")], []));
    assert_eq!(sent, ["5 Address @3 a=3"]);
    stream.ask([request(ADDRESS, ack(5))]);
    assert_eq!(stream.ask([request(ADDRESS, subscribe(&["*"]))]), ["6 Address @3 a=3 b=3"]);
}

#[test]
fn types_that_are_not_served_are_empty() {
    let mut stream = Stream::new(resources("1", [], []));
    let other = "type.googleapis.com/istio.workload.Other";
    let notice = stream.session.receive(request(other, |_| ()), stream.now).unwrap();
    assert_eq!(notice, Some(Notice::NotServed { type_url: other.into() }));
    assert_eq!(stream.sent(), [format!("1 {other} @1")]);
    assert_eq!(stream.ask([request(other, ack(1))]), Vec::<String>::new());
    assert_eq!(stream.ask([request(other, subscribe(&["x"]))]), [format!("2 {other} @1 -x")]);
    assert_eq!(stream.ask(both()), ["3 Authorization @1", "4 Address @1"]);
}

#[test]
fn malformed_requests_close_the_stream() {
    let limits =
        Limits { names_per_request: 3, names_per_stream: 4, name_bytes: 60, foreign_types: 1, ..Limits::default() };
    let check = |requests: Vec<DeltaDiscoveryRequest>, expected: &str| {
        let mut stream = Stream::limited(resources("1", [], []), limits.clone());
        let mut outcomes = requests.into_iter().map(|request| stream.session.receive(request, stream.now));
        assert_eq!(outcomes.find_map(Result::err).unwrap().to_string(), expected);
    };
    check(vec![request("", |_| ())], "a request on an aggregated stream needs a type_url");
    let names = ["a", "b", "c", "d"];
    let text = "4 names in one request for type.googleapis.com/istio.workload.Address; the limit is 3";
    check(vec![request(ADDRESS, subscribe(&names))], text);
    let more = vec![request(ADDRESS, subscribe(&names[..3])), request(ADDRESS, subscribe(&["e", "f"]))];
    check(more, "more than 4 names subscribed to of type.googleapis.com/istio.workload.Address");
    let long = request(ADDRESS, subscribe(&["a".repeat(61).as_str()]));
    check(
        vec![long],
        "a name of 61 bytes in a request for type.googleapis.com/istio.workload.Address; the limit is 60",
    );
    let types = vec![request("x", |_| ()), request("x", |_| ()), request("y", |_| ())];
    check(types, "more than 1 types that are not served; the last is y");
}

#[test]
fn a_response_without_an_answer_is_overdue() {
    let mut stream = Stream::new(resources("1", [], []));
    stream.ask(both());
    stream.ask([request(POLICY, ack(1))]);
    let deadline = stream.now + Duration::from_secs(60);
    assert_eq!(stream.session.deadline(), Some(deadline));
    assert_eq!(stream.session.overdue(deadline - Duration::from_millis(1)), None);
    assert_eq!(stream.session.overdue(deadline), Some(ResourceKind::Address));
    stream.ask([request(ADDRESS, ack(2))]);
    assert_eq!((stream.session.deadline(), stream.session.overdue(deadline)), (None, None));
}
