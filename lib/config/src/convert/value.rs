//! Lists of values in policies, and other small closed sets. A list that is there must ask for something: an empty one
//! is an error, because core reads "no values" as "not asked".

use std::net::IpAddr;

use underpass_core::authz::Match;

use super::{Faults, syntax};
use crate::{Fault, path::At};

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// A protocol that the mesh carries? Missing means TCP.
pub(super) fn is_tcp(protocol: Option<&str>) -> Result<bool, Fault> {
    match protocol.unwrap_or_default() {
        "" | "TCP" => Ok(true),
        "UDP" | "SCTP" => Ok(false),
        found => Err(Fault::Value { found: found.into(), known: PROTOCOLS }),
    }
}

/// The most addresses of one object. Kubernetes allows an endpoint 100, a pod and a service one of each family.
const MAX_ADDRESSES: usize = 100;

/// Addresses of an object, canonical, each once.
#[derive(Default)]
pub(super) struct Addresses(Vec<IpAddr>);

impl Addresses {
    pub(super) fn add(&mut self, text: &str, at: &At<'_>, faults: &mut Faults) {
        let new = faults.check(at, syntax::cluster_address(text)).filter(|ip| !self.0.contains(ip));
        match new {
            Some(_) if self.0.len() >= MAX_ADDRESSES => {
                faults.push(at, Fault::TooManyAddresses { max: MAX_ADDRESSES });
            }
            Some(ip) => self.0.push(ip),
            None => {}
        }
    }

    pub(super) fn into_vec(self) -> Vec<IpAddr> {
        self.0
    }
}

/// `field` and `notField` of a policy.
pub(super) struct Lists<'a> {
    /// The two names, as written.
    pub(super) names: (&'static str, &'static str),
    /// Any of these.
    pub(super) values: Option<&'a Vec<String>>,
    /// None of these.
    pub(super) not_values: Option<&'a Vec<String>>,
}

impl Lists<'_> {
    /// The values, each read by `parse`.
    pub(super) fn read<T>(
        &self,
        at: &At<'_>,
        faults: &mut Faults,
        mut parse: impl FnMut(&str, &At<'_>, &mut Faults) -> Option<T>,
    ) -> Match<T> {
        let mut list = |texts: Option<&Vec<String>>, name: &'static str| -> Vec<T> {
            let at = at.field(name);
            let Some(texts) = texts else { return Vec::new() };
            if texts.is_empty() {
                faults.push(&at, Fault::EmptyList);
            }
            let mut values = Vec::new();
            for (i, text) in texts.iter().enumerate() {
                let at = at.index(i);
                if text.is_empty() {
                    faults.push(&at, Fault::EmptyValue);
                } else {
                    values.extend(parse(text, &at, faults));
                }
            }
            values
        };
        Match { values: list(self.values, self.names.0), not_values: list(self.not_values, self.names.1) }
    }
}
