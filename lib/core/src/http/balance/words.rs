//! Balancing in words, for explanations of a request's way.

use super::{Balancer, priorities::Priorities};
use crate::{
    http::ClusterPolicy,
    objects::{Balancing, ConsistentHash, HashKey, HashRing},
};

impl ClusterPolicy {
    /// How an endpoint is chosen, by the words of `loadBalancer`.
    #[must_use]
    pub fn balancing(&self) -> String {
        let said = self.port.load_balancer.as_ref();
        match said.map_or(&Balancing::Unspecified, |said| &said.method) {
            Balancing::Unspecified => "LEAST_REQUEST (the mesh's default)".to_owned(),
            Balancing::RoundRobin => "ROUND_ROBIN".to_owned(),
            Balancing::LeastRequest => "LEAST_REQUEST".to_owned(),
            Balancing::Random => "RANDOM".to_owned(),
            Balancing::Passthrough => "PASSTHROUGH: the endpoint that is called, else LEAST_REQUEST".to_owned(),
            Balancing::Hash(hash) => hash.words(),
        }
    }
}

impl ConsistentHash {
    fn words(&self) -> String {
        let key = match &self.key {
            HashKey::Header(name) => format!("header {name}"),
            HashKey::Cookie(cookie) => format!("cookie {}", cookie.name),
            HashKey::SourceIp => "the source's address".to_owned(),
            HashKey::Query(name) => format!("query parameter {name}"),
        };
        let ring = match self.ring {
            HashRing::Ring(_) => "ringHash",
            HashRing::Maglev(_) => "maglev",
        };
        format!("consistentHash ({ring}) of {key}")
    }
}

impl Balancer {
    /// How its endpoints are parted, where they are: so many of the first priority, so many of the next.
    #[must_use]
    pub fn parts(&self) -> Option<String> {
        let placed = || self.hosts.iter().filter_map(|(_, host)| host.place);
        if let Priorities::Shares(areas) = &self.rules {
            let counts = (0_u32..).zip(areas).map(|(share, (area, percent))| {
                format!("{percent}% to {} of {area}", placed().filter(|place| place.share == share).count())
            });
            return Some(counts.collect::<Vec<_>>().join(", "));
        }
        let counts =
            self.priorities.iter().map(|priority| placed().filter(|place| place.priority == priority.number).count());
        let counts: Vec<_> = counts.map(|count| count.to_string()).collect();
        (counts.len() > 1).then(|| format!("in {} priorities of {}", counts.len(), counts.join(", ")))
    }
}
