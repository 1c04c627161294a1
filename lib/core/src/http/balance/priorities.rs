//! The priorities of a cluster's endpoints, by `localityLbSetting` or the Service's own preference: requests go to the first
//! one, and spill over to the next as endpoints of it are ejected. With `distribute` there is one priority, in shares.
//!
//! As in Istio, priorities of a `localityLbSetting` need `outlierDetection`: where nothing is ever ejected, nothing would ever
//! leave the first. A Service's own preference needs none.
//!
//! What must hold: what is not known of an endpoint makes it farther, never nearer.

use std::{cmp::Reverse, fmt, sync::Arc};

use super::host::Place;
use crate::{
    http::ClusterPolicy,
    labels::Labels,
    objects::LocalityBalancing,
    world::{Distribution, Locality, Nearness, Workload},
};

/// Where requests come from, as far as the choice of an endpoint depends on it: the waypoint that sends them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Viewpoint {
    /// Its node's locality.
    pub locality: Arc<Locality>,
    /// Its node.
    pub node: Option<Arc<str>>,
    /// Its own labels, where they are known.
    pub labels: Option<Labels>,
}

impl Viewpoint {
    /// Of a workload, and its pod's labels.
    #[must_use]
    pub fn of(workload: &Workload, labels: Option<&Labels>) -> Self {
        Self { locality: Arc::clone(&workload.locality), node: workload.node.clone(), labels: labels.cloned() }
    }
}

/// How endpoints are put into priorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Priorities {
    /// All into one.
    One,
    /// All that an area has into one, each area with a share of the requests; others have none.
    Shares(Vec<(Area, u32)>),
    /// By distance.
    Distance(Distance),
    /// By the count of labels, from the first on, in which they agree with the viewpoint; then by distance.
    Labels(Vec<Agreement>, Option<Distance>),
}

/// Priorities of distance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Distance {
    /// The same node is nearer than the same subzone.
    by_node: bool,
    /// Of other regions this one comes first.
    region: Option<Arc<str>>,
}

/// A part of the world: `region/zone/subzone`; a part that is missing or `*` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area([Option<Arc<str>>; 3]);

/// A label of `failoverPriority`, with the value that it is to have, else the viewpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    key: Arc<str>,
    value: Option<Arc<str>>,
}

impl Priorities {
    pub(super) fn of(policy: &ClusterPolicy, distribution: Distribution, viewpoint: &Viewpoint) -> Self {
        let ejects = policy.port.outlier_detection.is_some();
        let nearest = |by_node| Self::Distance(Distance { by_node, region: None });
        match policy.port.load_balancer.as_ref().and_then(|balancer| balancer.locality.as_ref()) {
            Some(LocalityBalancing { enabled: Some(false), .. }) => Self::One,
            Some(said) if !said.distribute.is_empty() => {
                let area = |text: &Arc<str>| Area::parse(text);
                let of_viewpoint = said.distribute.iter().find(|d| area(&d.from).has(&viewpoint.locality));
                of_viewpoint.map_or(Self::One, |d| Self::shares(d.to.iter().map(|(to, share)| (area(to), *share))))
            }
            Some(_) if !ejects => Self::One,
            Some(said) => {
                let here = viewpoint.locality.region.as_deref();
                let failover = said.failover.iter().find(|(from, _)| Some(&**from) == here);
                let distance = Distance { by_node: false, region: failover.map(|(_, to)| Arc::clone(to)) };
                match said.failover_priority.as_slice() {
                    [] => Self::Distance(distance),
                    labels => {
                        let then = (!said.failover.is_empty()).then_some(distance);
                        Self::Labels(labels.iter().map(|label| Agreement::parse(label)).collect(), then)
                    }
                }
            }
            None => match distribution {
                Distribution::SameZone => nearest(false),
                Distribution::SameNode => nearest(true),
                Distribution::Any if ejects => nearest(false),
                Distribution::Any => Self::One,
            },
        }
    }

    /// The most precise area first: an endpoint is in the first one that has it.
    fn shares(all: impl Iterator<Item = (Area, u32)>) -> Self {
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(area, _)| Reverse(area.0.iter().flatten().count()));
        Self::Shares(all)
    }

    /// Where an endpoint belongs; none: it gets no requests. `labels` are its pod's, where they are known.
    pub(super) fn place(&self, viewpoint: &Viewpoint, endpoint: &Workload, labels: Option<&Labels>) -> Option<Place> {
        let priority = match self {
            Self::One => 0,
            Self::Shares(areas) => {
                let share = areas.iter().position(|(area, _)| area.has(&endpoint.locality))?;
                return Some(Place { priority: 0, share: u32::try_from(share).ok()? });
            }
            Self::Distance(distance) => distance.of(viewpoint, endpoint),
            Self::Labels(all, then) => {
                let agree = all.iter().take_while(|one| one.holds(viewpoint, endpoint, labels)).count();
                let apart = u32::try_from(all.len().saturating_sub(agree)).unwrap_or(u32::MAX);
                let then = then.as_ref().map_or(0, |distance| distance.of(viewpoint, endpoint));
                apart.saturating_mul(Distance::PRIORITIES).saturating_add(then)
            }
        };
        Some(Place { priority, share: 0 })
    }

    /// The share of an area, in percent.
    pub(super) fn share(&self, place: Place) -> u64 {
        let Self::Shares(areas) = self else { return 100 };
        usize::try_from(place.share).ok().and_then(|at| areas.get(at)).map_or(0, |(_, share)| (*share).into())
    }

    /// The labels of endpoints' pods matter.
    pub(super) const fn asks_labels(&self) -> bool {
        matches!(self, Self::Labels(..))
    }
}

impl Distance {
    const PRIORITIES: u32 = 6;

    fn of(&self, viewpoint: &Viewpoint, endpoint: &Workload) -> u32 {
        if self.by_node && viewpoint.node.is_some() && viewpoint.node == endpoint.node {
            return 0;
        }
        match viewpoint.locality.nearness(&endpoint.locality) {
            Nearness::Node | Nearness::Subzone => 1,
            Nearness::Zone => 2,
            Nearness::Region => 3,
            Nearness::Elsewhere if self.region.is_none() || self.region == endpoint.locality.region => 4,
            Nearness::Elsewhere => 5,
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|part| part.as_deref().unwrap_or("*")).collect();
        f.write_str(&parts.join("/"))
    }
}

impl Area {
    fn parse(text: &str) -> Self {
        let mut parts =
            text.splitn(3, '/').map(|part| Some(part).filter(|part| !["", "*"].contains(part)).map(Arc::from));
        let mut next = || parts.next().flatten();
        Self([next(), next(), next()])
    }

    fn has(&self, locality: &Locality) -> bool {
        let parts = [&locality.region, &locality.zone, &locality.subzone];
        self.0.iter().zip(parts).all(|(asked, known)| asked.is_none() || asked == known)
    }
}

/// The label by which Kubernetes names a node on itself.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// A World is of one network and one cluster.
const OF_ALL: [&str; 2] = ["topology.istio.io/network", "topology.istio.io/cluster"];

impl Agreement {
    fn parse(text: &str) -> Self {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.into())));
        Self { key: key.into(), value }
    }

    fn holds(&self, viewpoint: &Viewpoint, endpoint: &Workload, labels: Option<&Labels>) -> bool {
        let value = self.value.as_deref();
        let place = match &*self.key {
            HOSTNAME => Some((viewpoint.node.as_deref(), endpoint.node.as_deref())),
            key => viewpoint.locality.label(key).zip(endpoint.locality.label(key)),
        };
        match (place, &viewpoint.labels) {
            (Some((here, there)), _) => there.is_some() && value.or(here) == there,
            (None, _) if value.is_none() && OF_ALL.contains(&&*self.key) => true,
            (None, Some(own)) => {
                labels.is_some_and(|labels| value.or_else(|| own.get(&self.key)) == labels.get(&self.key))
            }
            (None, None) => value.is_some() && labels.is_some_and(|labels| value == labels.get(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{Distribute, LoadBalancer, OutlierDetection, PortPolicy},
        testing::{ambient, labels, locality, model, name, node},
    };

    fn policy(locality: Option<LocalityBalancing>, ejects: bool) -> ClusterPolicy {
        let port = PortPolicy {
            load_balancer: Some(LoadBalancer { locality, ..LoadBalancer::default() }),
            outlier_detection: ejects.then(OutlierDetection::default),
            ..PortPolicy::default()
        };
        ClusterPolicy { port, ..ClusterPolicy::default() }
    }

    const PLACES: [&str; 6] = ["r/z/s", "r/z/t", "r/y", "q/x", "p/w", ""];

    /// The priorities and shares of endpoints, each on a node at one of [`PLACES`]; the viewpoint is at the first one.
    fn places(policy: &ClusterPolicy, distribution: Distribution) -> String {
        let nodes = (0..).zip(PLACES).map(|(n, place)| node(&format!("node-{n}"), place).into());
        let pods = (0..PLACES.len()).map(|n| {
            let mut pod = ambient(
                &format!("a/pod-{n}"),
                &format!("10.0.0.{n}"),
                if n % 2 == 0 { "version=v1" } else { "version=v2" },
            );
            pod.node = Some(format!("node-{n}").into());
            pod.into()
        });
        let model = model(nodes.chain(pods));
        let viewpoint = Viewpoint {
            locality: Arc::new(locality(PLACES[0])),
            node: Some("node-0".into()),
            labels: Some(labels("version=v1")),
        };
        let priorities = Priorities::of(policy, distribution, &viewpoint);
        let place = |n: usize| {
            let pod = model.sources().pod(&name(&format!("a/pod-{n}"))).unwrap();
            let workload = model.world().workloads().find(|w| w.name == pod.name).unwrap();
            priorities.place(&viewpoint, workload, Some(&pod.labels)).map_or(
                "-".to_owned(),
                |place| match &priorities {
                    Priorities::Shares(_) => format!("{}%", priorities.share(place)),
                    _ => place.priority.to_string(),
                },
            )
        };
        (0..PLACES.len()).map(place).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(said: Option<LocalityBalancing>, ejects: bool, distribution: Distribution, want: &str) {
        assert_eq!(places(&policy(said.clone(), ejects), distribution), want, "{said:?} {ejects} {distribution:?}");
    }

    #[test]
    fn by_distance() {
        use Distribution::{Any, SameNode, SameZone};
        let some = LocalityBalancing::default;
        check(None, false, Any, "0 0 0 0 0 0");
        check(None, true, Any, "1 2 3 4 4 4");
        check(None, false, SameZone, "1 2 3 4 4 4");
        check(None, false, SameNode, "0 2 3 4 4 4");
        check(Some(some()), false, SameNode, "0 0 0 0 0 0");
        check(Some(some()), true, Any, "1 2 3 4 4 4");
        check(Some(LocalityBalancing { enabled: Some(false), ..some() }), true, SameNode, "0 0 0 0 0 0");
        let failover = |from: &str| LocalityBalancing { failover: vec![(from.into(), "p".into())], ..some() };
        check(Some(failover("r")), true, Any, "1 2 3 5 4 5");
        check(Some(failover("q")), true, Any, "1 2 3 4 4 4");
        check(Some(failover("r")), false, Any, "0 0 0 0 0 0");
    }

    #[test]
    fn by_labels() {
        let of = |labels: &[&str]| LocalityBalancing {
            failover_priority: labels.iter().map(|label| (*label).into()).collect(),
            ..LocalityBalancing::default()
        };
        let any = Distribution::Any;
        let region = "topology.kubernetes.io/region";
        check(Some(of(&["version"])), true, any, "0 6 0 6 0 6");
        check(Some(of(&["version=v2"])), true, any, "6 0 6 0 6 0");
        check(Some(of(&[region, "version"])), true, any, "0 6 0 12 12 12");
        check(Some(of(&["version", region])), true, any, "0 12 0 12 6 12");
        check(Some(of(&["topology.istio.io/network", "kubernetes.io/hostname"])), true, any, "0 6 6 6 6 6");
        check(Some(of(&["topology.kubernetes.io/region=q"])), true, any, "6 6 6 0 6 6");
        check(Some(of(&["other"])), true, any, "0 0 0 0 0 0");
        check(Some(of(&["version"])), false, any, "0 0 0 0 0 0");
        let then = LocalityBalancing { failover: vec![("r".into(), "p".into())], ..of(&["version"]) };
        check(Some(then), true, any, "1 8 3 11 4 11");
    }

    #[test]
    fn what_is_not_known_is_far() {
        let key = |text: &str| Agreement::parse(text);
        let model = model([ambient("a/b", "10.0.0.1", "version=v1").into()]);
        let endpoint = model.world().workloads().next().unwrap();
        let labels = labels("version=v1");
        let known = Viewpoint { labels: Some(labels.clone()), ..Viewpoint::default() };
        let unknown = Viewpoint::default();
        assert!(key("version").holds(&known, endpoint, Some(&labels)));
        assert!(
            !key("version").holds(&known, endpoint, None) && !key("version").holds(&unknown, endpoint, Some(&labels))
        );
        assert!(key("version=v1").holds(&unknown, endpoint, Some(&labels)));
        assert!(!key("version=v1").holds(&unknown, endpoint, None));
        assert!(!key("topology.kubernetes.io/zone").holds(&known, endpoint, Some(&labels)));
    }

    #[test]
    fn in_shares() {
        let of = |all: &[(&str, &[(&str, u32)])]| LocalityBalancing {
            distribute: (all.iter())
                .map(|(from, to)| Distribute {
                    from: (*from).into(),
                    to: to.iter().map(|(to, share)| ((*to).into(), *share)).collect(),
                })
                .collect(),
            ..LocalityBalancing::default()
        };
        let any = Distribution::Any;
        check(Some(of(&[("r/z/*", &[("r/z/*", 70), ("q", 30)])])), false, any, "70% 70% - 30% - -");
        check(Some(of(&[("q/*", &[("r", 100)]), ("*", &[("p/*", 100)])])), false, any, "- - - - 100% -");
        check(Some(of(&[("r", &[("*", 10), ("r/*", 40), ("r/z/t", 50)])])), true, any, "40% 50% 40% 10% 10% 10%");
        check(Some(of(&[("q/*", &[("r", 100)])])), true, any, "0 0 0 0 0 0");
    }
}
