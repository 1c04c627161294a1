//! `underpass ca`: what it writes, and whom it asks before.

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use serde_json::{Value, json};
use underpass_core::TrustDomain;
use underpass_identity::{Authority, Certificate, certificate::certificates_from_pem, rotation::values::Values};
use underpass_telemetry::admin::{Method, Response, Router};

use crate::{
    fake::{Cluster, Port},
    support::shown,
};

const SECRETS: &str = "/api/v1/namespaces/underpass-system/secrets";

fn secret(name: &str, data: Value) -> Value {
    let metadata = json!({"namespace": "underpass-system", "name": name, "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z"});
    json!({"metadata": metadata, "data": data})
}

/// A CA as control planes make it, and its serial number.
fn own() -> (Value, String) {
    let text = Authority::make(&TrustDomain::default(), SystemTime::now()).unwrap();
    let root = certificates_from_pem(&text).unwrap().remove(0);
    let serial = Certificate::parse(&root).unwrap().serial().to_string();
    (secret(Values::SECRET, json!({Values::CA: base64(text.as_bytes())})), serial)
}

/// Of a plugged-in one its owner's roots are shown, whichever trust domain the mesh has; twice the same one is one.
#[test]
fn the_roots_of_a_plugged_in_ca() {
    let other: TrustDomain = "other.example".parse().unwrap();
    let text = Authority::make(&other, SystemTime::now()).unwrap();
    let der = certificates_from_pem(&text).unwrap().remove(0);
    let serial = Certificate::parse(&der).unwrap().serial().to_string();
    let root = underpass_identity::certificate::pem(&der);
    let trusted = Trusted::default();
    trusted.lock().unwrap().push(serial.clone());
    let roots_twice = base64(format!("{}{}", &*root, &*root).as_bytes());
    let plugged_in = secret("cacerts", json!({"root-cert.pem": roots_twice}));
    let cluster = Cluster::start().agent("node-1", agent(&trusted)).object(&format!("{SECRETS}/cacerts"), plugged_in);
    assert_eq!(roots(&cluster), [(serial, "root".to_owned())]);
    says(&run(&cluster, "ca status"), &["exit 0", "plugged in: its owner replaces it", "1 of 1 agents"]);
}

/// As an API server has values of Secrets (RFC 4648, 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |part: &[u8]| {
        let at = |i: usize| u32::from(part.get(i).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digit = |i: usize| match i <= part.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

type Trusted = Arc<Mutex<Vec<String>>>;

/// An agent that trusts these roots, and has one certificate, of the last.
fn agent(trusted: &Trusted) -> Port {
    let trusted = Arc::clone(trusted);
    Port::Serves(Router::new().route(Method::GET, "/roots", move |_| {
        let trusted = trusted.lock().unwrap().clone();
        let certificates: serde_json::Map<_, _> =
            trusted.last().map(|last| (last.clone(), json!(1))).into_iter().collect();
        std::future::ready(Response::json(&json!({"trusted": trusted, "certificates": certificates})))
    }))
}

/// Runs a command; its exit status and texts.
fn run(cluster: &Cluster, line: &str) -> String {
    shown(&cluster.output(&line.split(' ').collect::<Vec<_>>()))
}

fn says(said: &str, all: &[&str]) {
    assert!(all.iter().all(|part| said.contains(part)), "{all:?}: {said}");
}

/// The roots that the command lists, with their roles.
fn roots(cluster: &Cluster) -> Vec<(String, String)> {
    let said = cluster.output(&["ca", "status", "-o", "json"]);
    let value: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&said)));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    value["roots"].as_array().unwrap().iter().map(|root| (text(&root["serial"]), text(&root["role"]))).collect()
}

#[test]
fn a_root_is_replaced_step_by_step() {
    let (secret, old) = own();
    let (one, two) = (Trusted::default(), Trusted::default());
    one.lock().unwrap().push(old.clone());
    two.lock().unwrap().push(old.clone());
    let cluster = Cluster::start().agent("node-1", agent(&one)).agent("node-2", agent(&two));
    let cluster = cluster.object(&format!("{SECRETS}/underpass-ca"), secret);
    says(
        &run(&cluster, "ca status"),
        &["exit 0", "Secret underpass-system/underpass-ca", "steady: underpass ca prepare", "2 of 2 agents"],
    );
    says(
        &run(&cluster, "ca activate"),
        &["exit 1", "cannot sign with the new CA in Secret underpass-system/underpass-ca"],
    );
    says(&run(&cluster, "ca retire"), &["exit 1", "no rotation is at this step"]);
    assert_eq!(cluster.written(), []);

    says(&run(&cluster, "ca prepare"), &["exit 0", "prepared 0 s ago: next is underpass ca activate"]);
    let (path, patch) = cluster.written().remove(0);
    assert_eq!(
        (&*path, &patch["metadata"]["resourceVersion"]),
        (&*format!("PATCH {SECRETS}/underpass-ca"), &json!("7"))
    );
    let both = roots(&cluster);
    let [(signs, _), (new, role)] = &both[..] else { panic!("{both:?}") };
    assert_eq!((signs, role.as_str()), (&old, "next"));

    one.lock().unwrap().push(new.clone());
    let lagging = run(&cluster, "ca activate --timeout 0");
    says(&lagging, &["exit 1", "to trust the new root", "not so far on node-2", "Nothing is changed"]);
    assert_eq!(cluster.written().len(), 1);
    two.lock().unwrap().push(new.clone());
    says(&run(&cluster, "ca activate"), &["exit 0", "activated 0 s ago: next is underpass ca retire"]);
    assert_eq!(roots(&cluster), [(new.clone(), "signs".to_owned()), (old.clone(), "old".to_owned())]);
    assert_eq!(cluster.written()[1].1["data"][Values::NEXT], json!(null), "the key of what signs stands once");

    says(&run(&cluster, "ca retire"), &["exit 1", "too early: wait for 86400 more seconds"]);
    two.lock().unwrap().reverse();
    let lagging = run(&cluster, "ca retire --certificate-lifetime 0 --timeout 0");
    says(&lagging, &["exit 1", "to have certificates of the new root alone", "not so far on node-2"]);
    two.lock().unwrap().reverse();
    says(&run(&cluster, "ca retire --certificate-lifetime 0"), &["exit 0", "steady"]);
    assert_eq!(roots(&cluster), [(new.clone(), "signs".to_owned())]);
    says(
        &run(&cluster, "ca status"),
        &["exit 2", &format!("root {old} is none of this CA, and is trusted on node-1, node-2")],
    );
}

#[test]
fn a_silent_agent_holds_a_step_up() {
    let (secret, old) = own();
    let trusted = Trusted::default();
    trusted.lock().unwrap().push(old);
    let cluster = Cluster::start().agent("node-1", agent(&trusted)).agent("node-2", Port::Refused("no such port"));
    let cluster = cluster.object(&format!("{SECRETS}/underpass-ca"), secret);
    says(&run(&cluster, "ca prepare"), &["exit 0"]);
    let new = roots(&cluster)[1].0.clone();
    trusted.lock().unwrap().push(new);
    says(&run(&cluster, "ca activate --timeout 0"), &["exit 1", "node-2", "no such port"]);
    says(&run(&cluster, "ca status"), &["exit 2", "1 of 2 agents", "no answer: node node-2"]);
    says(&run(&cluster, "ca activate --now"), &["exit 0", "activated"]);
}

#[test]
fn a_cluster_without_such_a_ca() {
    says(&run(&Cluster::start(), "ca prepare"), &["exit 1", "there is no CA in namespace underpass-system"]);
    let plugged_in = Cluster::start().agent("node-1", agent(&Trusted::default()));
    let plugged_in =
        plugged_in.object(&format!("{SECRETS}/cacerts"), secret("cacerts", json!({"root-cert.pem": "eA=="})));
    says(&run(&plugged_in, "ca prepare"), &["exit 1", "the CA is plugged in (Secret underpass-system/cacerts)"]);
    says(
        &run(&plugged_in, "ca status"),
        &["exit 1", "Secret underpass-system/cacerts", "root-cert.pem: it has no readable certificate"],
    );
    let binary = secret("cacerts", json!({"ca-key.pem": "/w=="}));
    let binary =
        Cluster::start().agent("node-1", agent(&Trusted::default())).object(&format!("{SECRETS}/cacerts"), binary);
    says(&run(&binary, "ca status"), &["exit 1", "ca-key.pem: it is not text"]);
    let mangled = secret(Values::SECRET, json!({Values::CA: "eA=="}));
    let mangled = Cluster::start().object(&format!("{SECRETS}/underpass-ca"), mangled);
    says(&run(&mangled, "ca prepare"), &["exit 1", "Secret underpass-system/underpass-ca, ca.pem"]);
    assert_eq!(mangled.written(), []);
}
