//! Objects of waypoints, from one-line descriptions.

use super::{labels, name};
use crate::{
    addr::HBONE_PORT,
    objects::{Admits, Gateway, HboneListener, JwtRule, KeySource, RequestAuthentication, WaypointFor},
    world::Scope,
};

/// A waypoint before Services of its own namespace.
#[must_use]
pub fn gateway(full_name: &str) -> Gateway {
    Gateway {
        name: name(full_name),
        class: "istio-waypoint".into(),
        waypoint_for: WaypointFor::Service,
        listeners: vec![HboneListener { port: HBONE_PORT, admits: Admits::Same }],
    }
}

/// `namespace/name selector issuer`; `-` for no selector. With tokens in the usual places.
#[must_use]
pub fn request_authentication(text: &str) -> RequestAuthentication {
    let words: Vec<_> = text.split_whitespace().collect();
    let [full_name, selector, issuer] = &words[..] else { panic!("name selector issuer: {text}") };
    let rule = JwtRule {
        issuer: (*issuer).into(),
        audiences: Vec::new(),
        keys: KeySource::Discovery,
        places: Vec::new(),
        forward_original_token: false,
        payload_header: None,
        claim_headers: Vec::new(),
        timeout: JwtRule::TIMEOUT,
        space_delimited: Vec::new(),
    };
    let scope = if *selector == "-" { Scope::Namespace } else { Scope::Selector(labels(selector)) };
    RequestAuthentication { name: name(full_name), scope, rules: vec![rule] }
}
