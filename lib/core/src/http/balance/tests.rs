//! Balancers, as data: endpoints in one line each, many choices, and how often each was chosen.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    http::{Health, OutlierRules, Outliers},
    objects::{ConsistentHash, HashKey, LoadBalancer, LocalityBalancing, OutlierDetection, PortPolicy},
    testing::{locality, model, pod, service},
    world::Locality,
};

const NOW: Duration = Duration::from_secs(1_000);

/// The endpoints of a Service, in a World of their own.
struct Endpoints(Vec<(std::sync::Arc<Workload>, SocketAddr, u16)>);

impl Endpoints {
    /// Each is `number[@locality][*weight]`.
    fn new(text: &str) -> Self {
        let one = |word: &str| {
            let (rest, weight) =
                word.split_once('*').map_or((word, 1), |(rest, weight)| (rest, weight.parse().unwrap()));
            let (number, place) = rest.split_once('@').unwrap_or((rest, ""));
            let number: u32 = number.parse().unwrap();
            Self::workload(number, locality(place), weight)
        };
        Self(text.split_whitespace().map(one).collect())
    }

    fn count(count: u32) -> Self {
        Self((0..count).map(|number| Self::workload(number, Locality::default(), 1)).collect())
    }

    fn workload(number: u32, place: Locality, weight: u16) -> (std::sync::Arc<Workload>, SocketAddr, u16) {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        let model = model([
            service("a/s app=s 10.96.0.1 80").into(),
            pod(&format!("a/p{number}"), &address.to_string()).into(),
        ]);
        let mut workload = Workload::clone(model.world().workloads().next().unwrap());
        workload.locality = place.into();
        (workload.into(), SocketAddr::from((address, 80)), weight)
    }

    fn without(&self, number: u32) -> Self {
        Self(self.0.iter().filter(|one| number_of(one.1) != number).cloned().collect())
    }

    fn all(&self) -> Vec<ClusterEndpoint<'_>> {
        let all = self.0.iter();
        all.map(|(workload, target, weight)| ClusterEndpoint { workload, target: *target, weight: *weight }).collect()
    }
}

fn number_of(target: SocketAddr) -> u32 {
    match target {
        SocketAddr::V4(v4) => v4.ip().to_bits() - 0x0a00_0000,
        SocketAddr::V6(_) => unreachable!("all are IPv4"),
    }
}

fn by(method: Balancing) -> LoadBalancer {
    LoadBalancer { method, ..LoadBalancer::default() }
}

fn hash(ring: HashRing) -> Balancing {
    Balancing::Hash(ConsistentHash { key: HashKey::SourceIp, ring })
}

/// Methods that look at no key.
const METHODS: [Balancing; 3] = [Balancing::RoundRobin, Balancing::LeastRequest, Balancing::Random];

fn all_methods() -> Vec<Balancing> {
    let hashes = [HashRing::Ring(64), HashRing::Maglev(251)].map(hash);
    METHODS.into_iter().chain(hashes).collect()
}

/// With outlier detection.
fn policy(load_balancer: LoadBalancer) -> ClusterPolicy {
    let port = PortPolicy {
        load_balancer: Some(load_balancer),
        outlier_detection: Some(OutlierDetection::default()),
        ..PortPolicy::default()
    };
    ClusterPolicy { port, ..ClusterPolicy::default() }
}

/// At `r/z`.
fn balancer(load_balancer: LoadBalancer, endpoints: &Endpoints) -> Balancer {
    let viewpoint = Viewpoint { locality: locality("r/z").into(), ..Viewpoint::default() };
    let mut balancer = Balancer::new(&policy(load_balancer), Distribution::Any, viewpoint);
    balancer.update(&endpoints.all(), |_| None, Duration::ZERO, 3);
    balancer
}

const fn ask(dice: u64) -> Ask<'static> {
    let (key, tried) = (Some(mix(dice)), &[]);
    Ask { key, called: None, tried, avoids_tried: true, remote_localities: false, now: NOW, dice: mix(dice ^ 1 << 40) }
}

fn chosen(balancer: &mut Balancer, ask: &Ask<'_>) -> u32 {
    let id = balancer.pick(ask).unwrap();
    number_of(balancer.target(id).unwrap())
}

fn counts(balancer: &mut Balancer, times: u64) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    (0..times).for_each(|dice| *counts.entry(chosen(balancer, &ask(dice))).or_default() += 1);
    counts
}

fn eject(balancer: &mut Balancer, numbers: &[u32]) {
    let of: BTreeMap<_, _> = balancer.endpoints().map(|(id, target)| (id, number_of(target))).collect();
    balancer.set_ejected(|id| numbers.contains(&of[&id]), NOW, 5);
}

fn id_of(balancer: &Balancer, number: u32) -> EndpointId {
    balancer.endpoints().find(|(_, target)| number_of(*target) == number).unwrap().0
}

/// `number:percent`, each within five standard deviations of a binomial distribution and what more is allowed for.
#[track_caller]
fn check_shares(what: &str, counts: &BTreeMap<u32, u64>, want: &str, slack: f64) {
    let times = counts.values().sum::<u64>() as f64;
    let want: BTreeMap<u32, f64> = want
        .split_whitespace()
        .map(|word| word.split_once(':').unwrap())
        .map(|(number, percent)| (number.parse().unwrap(), percent.parse::<f64>().unwrap() / 100.0))
        .collect();
    assert!(counts.keys().all(|number| want.contains_key(number)), "{what}: {counts:?} is not {want:?}");
    for (number, part) in &want {
        let got = counts.get(number).copied().unwrap_or(0) as f64;
        let bound = 5.0 * (times * part * (1.0 - part)).sqrt() + slack * times * part;
        assert!((got - times * part).abs() <= bound, "{what}: {number} has {got} of {times}: {counts:?}");
    }
}

#[test]
fn endpoints_have_their_weights_share() {
    for method in METHODS {
        let check = |endpoints: &str, want: &str| {
            let mut balancer = balancer(by(method.clone()), &Endpoints::new(endpoints));
            check_shares(&format!("{method:?} {endpoints}"), &counts(&mut balancer, 10_000), want, 0.001);
        };
        check("1", "1:100");
        check("1 2 3 4", "1:25 2:25 3:25 4:25");
        check("1*1 2*2 3*5", "1:12.5 2:25 3:62.5");
        check("1*0 2*1 3*1", "2:50 3:50");
        check("1*0 2*0", "1:50 2:50");
    }
    for ring in [HashRing::Ring(1024), HashRing::Maglev(65_537)] {
        let check = |endpoints: &str, want: &str| {
            let mut balancer = balancer(by(hash(ring)), &Endpoints::new(endpoints));
            // The points of a ring are at random: with 512 of each a share varies by a twentieth.
            let slack = if matches!(ring, HashRing::Ring(_)) { 0.15 } else { 0.0 };
            check_shares(&format!("{ring:?} {endpoints}"), &counts(&mut balancer, 10_000), want, slack);
        };
        check("1 2 3 4", "1:25 2:25 3:25 4:25");
        check("1*1 2*2 3*5", "1:12.5 2:25 3:62.5");
        check("1*0 2*1", "2:100");
    }
}

#[test]
fn round_robin_takes_turns() {
    let all = Endpoints::new("1 2 3 4 5");
    let run = |dice: u64| {
        let mut balancer = balancer(by(Balancing::RoundRobin), &all);
        balancer.rebuild(NOW, dice);
        (0..10).map(|n| chosen(&mut balancer, &ask(n))).collect::<Vec<_>>()
    };
    for dice in 0..20 {
        let turns = run(dice);
        assert_eq!(turns[..5], turns[5..], "each once, in an order that stays");
        assert_eq!(turns[..5].iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
    }
    let starts: std::collections::BTreeSet<_> = (0..40).map(|dice| run(dice)[0]).collect();
    assert_eq!(starts.len(), 5, "replicas do not all begin with the same one");
}

#[test]
fn the_less_busy_one_is_chosen() {
    let mut two = balancer(by(Balancing::LeastRequest), &Endpoints::new("1 2"));
    let busy = id_of(&two, 1);
    two.begin(busy);
    // Both throws have to hit the busy one: a quarter.
    check_shares("one is busy", &counts(&mut two, 10_000), "1:25 2:75", 0.0);
    two.end(busy);
    check_shares("none is", &counts(&mut two, 10_000), "1:50 2:50", 0.0);
    // With weights: 3 with two requests more than 1 counts as 1.
    let mut weighed = balancer(by(Balancing::LeastRequest), &Endpoints::new("1*1 2*3"));
    let busy = id_of(&weighed, 2);
    (0..2).for_each(|_| weighed.begin(busy));
    check_shares("weighed", &counts(&mut weighed, 10_000), "1:50 2:50", 0.001);
    // What nothing says about balancing says this.
    let mut default = balancer(LoadBalancer::default(), &Endpoints::new("1 2"));
    default.begin(id_of(&default, 1));
    check_shares("default", &counts(&mut default, 10_000), "1:25 2:75", 0.0);
}

#[test]
fn the_called_endpoint_is_passed_through() {
    let mut through = balancer(by(Balancing::Passthrough), &Endpoints::new("1 2*0 3"));
    let called = |text: &str| Some(text.parse().unwrap());
    for dice in 0..50 {
        assert_eq!(chosen(&mut through, &Ask { called: called("10.0.0.2:80"), ..ask(dice) }), 2);
        let other = chosen(&mut through, &Ask { called: called("10.96.0.1:80"), ..ask(dice) });
        assert!([1, 3].contains(&other), "a VIP is no endpoint");
    }
    let mut other = balancer(by(Balancing::Random), &Endpoints::new("1 2"));
    let ask = |dice| Ask { called: called("10.0.0.2:80"), ..ask(dice) };
    assert!((0..50).any(|dice| chosen(&mut other, &ask(dice)) == 1), "the other methods do not look at it");
}

#[test]
fn who_joins_warms_up() {
    let warmup =
        Warmup { duration: Duration::from_secs(100), minimum_basis_points: 1_000, aggression_thousandths: 1_000 };
    for method in [Balancing::RoundRobin, Balancing::LeastRequest] {
        let all = Endpoints::new("1 2 3");
        let mut balancer = balancer(LoadBalancer { warmup: Some(warmup), ..by(method) }, &all.without(3));
        balancer.update(&all.all(), |_| None, NOW, 4);
        let mut check = |seconds: u64, want: &str| {
            let now = NOW + Duration::from_secs(seconds);
            // What is due was set by the weight of the turn before.
            (0..100).for_each(|dice| assert!(balancer.pick(&Ask { now, ..ask(dice) }).is_ok()));
            let mut counts = BTreeMap::new();
            for dice in 0..10_000 {
                *counts.entry(chosen(&mut balancer, &Ask { now, ..ask(dice) })).or_default() += 1;
            }
            check_shares(&format!("{seconds} s"), &counts, want, 0.001);
        };
        check(0, "1:47.6 2:47.6 3:4.8");
        check(50, "1:40 2:40 3:20");
        check(100, "1:33.3 2:33.3 3:33.3");
    }
    let mut random = balancer(LoadBalancer { warmup: Some(warmup), ..by(Balancing::Random) }, &Endpoints::new("1 2"));
    assert_eq!(random.warmup, None, "as in Envoy, ROUND_ROBIN and LEAST_REQUEST alone");
    assert_eq!(counts(&mut random, 100).len(), 2);
}

#[test]
fn requests_spill_over() {
    for method in METHODS {
        let check = |ejected: &[u32], want: &str| {
            let near = "1@r/z 2@r/z 3@r/z 4@r/z 5@r/z";
            let mut balancer = balancer(by(method.clone()), &Endpoints::new(&format!("{near} 6@r/y 7@q/x")));
            eject(&mut balancer, ejected);
            check_shares(&format!("{method:?} {ejected:?}"), &counts(&mut balancer, 10_000), want, 0.005);
        };
        check(&[], "1:20 2:20 3:20 4:20 5:20");
        // 80 % in use times 1.4 is all; 60 % is 84 %, 40 % is 56 %.
        check(&[1], "2:25 3:25 4:25 5:25");
        check(&[1, 2], "3:28 4:28 5:28 6:16");
        check(&[1, 2, 3], "4:28 5:28 6:44");
        check(&[1, 2, 3, 6], "4:28 5:28 7:44");
        check(&[1, 2, 3, 4, 5, 6], "7:100");
        // Too little is left for all: in the proportion of what is.
        check(&[1, 2, 3, 4, 6, 7], "5:100");
    }
}

#[test]
fn shares_of_areas() {
    let distribute = |to: &[(&str, u32)]| LocalityBalancing {
        distribute: vec![crate::objects::Distribute {
            from: "r/*".into(),
            to: to.iter().map(|(to, share)| ((*to).into(), *share)).collect(),
        }],
        ..LocalityBalancing::default()
    };
    for method in all_methods() {
        let balancer = |to: &[(&str, u32)], all: &str| {
            let said = LoadBalancer { locality: Some(distribute(to)), ..by(method.clone()) };
            balancer(said, &Endpoints::new(all))
        };
        let slack = if METHODS.contains(&method) { 0.001 } else { 0.4 };
        let all = "1@r/z 2@r/z 3@r/y 4@q/x";
        let mut both = balancer(&[("r/z", 80), ("r/y", 20)], all);
        check_shares(&format!("{method:?}"), &counts(&mut both, 10_000), "1:40 2:40 3:20", slack);
        // 50 % in use times 1.4 of 80, of 76 together
        eject(&mut both, &[1]);
        check_shares(&format!("{method:?}"), &counts(&mut both, 10_000), "2:73.7 3:26.3", slack);
        eject(&mut both, &[1, 2]);
        check_shares(&format!("{method:?}"), &counts(&mut both, 1_000), "3:100", 0.0);
        let mut none = balancer(&[("r/z", 0), ("q", 100)], all);
        check_shares(&format!("{method:?}"), &counts(&mut none, 1_000), "4:100", 0.0);
        eject(&mut none, &[4]);
        assert_eq!(none.pick(&ask(0)), Err(NoEndpoint::Ejected));
        let mut nowhere = balancer(&[("p", 100)], all);
        assert_eq!(nowhere.pick(&ask(0)), Err(NoEndpoint::Nowhere));
    }
}

#[test]
fn without_an_endpoint() {
    for method in all_methods() {
        let mut balancer = balancer(by(method), &Endpoints::new("1 2"));
        eject(&mut balancer, &[1, 2]);
        assert_eq!(balancer.pick(&ask(0)), Err(NoEndpoint::Ejected));
        eject(&mut balancer, &[1]);
        assert_eq!(chosen(&mut balancer, &ask(0)), 2);
        balancer.update(&[], |_| None, NOW, 0);
        assert_eq!(balancer.pick(&ask(0)), Err(NoEndpoint::Nowhere));
    }
}

#[test]
fn another_policy_ends_no_request() {
    let all = Endpoints::new("1 2");
    let mut balancer = balancer(by(Balancing::Random), &all);
    let busy = id_of(&balancer, 1);
    (0..3).for_each(|_| balancer.begin(busy));
    balancer.set_policy(&policy(by(Balancing::LeastRequest)), Distribution::Any);
    balancer.update(&all.all(), |_| None, NOW, 0);
    assert_eq!((id_of(&balancer, 1), balancer.active(busy)), (busy, 3));
    check_shares("one is busy", &counts(&mut balancer, 10_000), "1:25 2:75", 0.0);
    (0..5).for_each(|_| balancer.end(busy));
    assert_eq!(balancer.active(busy), 0);
}

#[test]
fn tries_go_elsewhere() {
    for method in all_methods() {
        let all = "1@r/z 2@r/z 3@r/z*100 4@q/x";
        let mut balancer = balancer(by(method.clone()), &Endpoints::new(all));
        for dice in 0..200 {
            let (mut tried, mut numbers) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                let id = balancer.pick(&Ask { tried: &tried, ..ask(dice) }).unwrap();
                numbers.push(number_of(balancer.target(id).unwrap()));
                tried.push(id);
            }
            assert!(
                numbers.iter().all(|number| *number < 4),
                "{method:?}: {numbers:?}: farther ones were not asked for"
            );
            let last = numbers.pop().unwrap();
            numbers.sort_unstable();
            assert_eq!((numbers, (1..=3).contains(&last)), (vec![1, 2, 3], true), "{method:?}: all three, then any");
            tried.truncate(3);
            let far = Ask { tried: &tried, remote_localities: true, ..ask(dice) };
            assert_eq!(chosen(&mut balancer, &far), 4, "{method:?}");
            // The priority of two tries is left, also where it has others.
            let far = Ask { tried: &tried[..2], remote_localities: true, avoids_tried: false, ..ask(dice) };
            assert_eq!(chosen(&mut balancer, &far), 4, "{method:?}");
            let near = Ask { tried: &tried[..1], remote_localities: true, avoids_tried: false, ..ask(dice) };
            assert!(chosen(&mut balancer, &near) < 4, "{method:?}");
        }
        let first = id_of(&balancer, 3);
        let again = |dice| Ask { tried: std::slice::from_ref(&first), avoids_tried: false, ..ask(dice) };
        assert!((0..50).any(|dice| chosen(&mut balancer, &again(dice)) == 3), "{method:?}");
    }
}

#[test]
fn keys_have_their_endpoint() {
    for ring in [HashRing::Ring(1024), HashRing::Maglev(4_099)] {
        let all = Endpoints::count(10);
        let mut reversed = all.all();
        reversed.reverse();
        let (mut one, mut other) = (balancer(by(hash(ring)), &all), balancer(by(hash(ring)), &Endpoints::count(0)));
        other.update(&reversed, |_| None, NOW, 99);
        let key = |key, dice| Ask { key: Some(mix(key)), ..ask(dice) };
        for n in 0..1_000 {
            let of_key = chosen(&mut one, &key(n, n));
            assert_eq!([chosen(&mut one, &key(n, n + 7)), chosen(&mut other, &key(n, 5))], [of_key; 2], "{ring:?} {n}");
        }
        let without = |dice| Ask { key: None, ..ask(dice) };
        let anywhere: std::collections::BTreeSet<_> = (0..200).map(|dice| chosen(&mut one, &without(dice))).collect();
        assert_eq!(anywhere.len(), 10, "{ring:?}: without a key any");
    }
}

/// Pinned: other answers would move the keys of every mesh at an upgrade, and replicas of two versions would disagree.
#[test]
fn keys_stay_where_they_are() {
    let of = |ring| {
        let mut balancer = balancer(by(hash(ring)), &Endpoints::new("1 2*3 3 4"));
        (0..16).map(|n| chosen(&mut balancer, &ask(n))).collect::<Vec<_>>()
    };
    assert_eq!(of(HashRing::Ring(1024)), [4, 4, 3, 4, 4, 2, 2, 3, 4, 2, 4, 3, 2, 2, 2, 3]);
    assert_eq!(of(HashRing::Maglev(65_537)), [3, 2, 4, 2, 3, 3, 3, 3, 1, 2, 2, 4, 2, 1, 1, 2]);
}

#[test]
fn outliers_and_their_balancer() {
    let rules = OutlierRules::from(&OutlierDetection {
        consecutive_5xx: Some(1),
        max_ejection_percent: Some(100),
        min_health_percent: Some(50),
        ..OutlierDetection::default()
    });
    let mut balancer = balancer(by(Balancing::RoundRobin), &Endpoints::count(4));
    let mut outliers = Outliers::new(rules, balancer.endpoints().map(|(id, _)| id), NOW);
    let mut fail = |balancer: &mut Balancer, number| {
        assert!(outliers.ended(&id_of(balancer, number), Health::ServerError, NOW));
        balancer.set_ejected(|id| !outliers.is_in_use(&id), NOW, 1);
        counts(balancer, 100).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(fail(&mut balancer, 0), [1, 2, 3]);
    assert_eq!(fail(&mut balancer, 1), [2, 3]);
    assert_eq!(fail(&mut balancer, 2), [0, 1, 2, 3], "below minHealthPercent all are used");
}

/// Which keys another endpoint has after one of so many has left, of those that were not its own, in thousandths.
fn moved(ring: HashRing, all: &Endpoints, gone: u32) -> u64 {
    let (mut before, mut after) = (balancer(by(hash(ring)), all), balancer(by(hash(ring)), &all.without(gone)));
    let kept: Vec<_> = (0..4_000).map(|n| (n, chosen(&mut before, &ask(n)))).filter(|(_, at)| *at != gone).collect();
    let moved = kept.iter().filter(|(n, at)| chosen(&mut after, &ask(*n)) != *at).count();
    u64::try_from(moved * 1_000 / kept.len()).unwrap()
}

#[test]
fn only_the_keys_of_who_went_move() {
    for (count, gone) in [(2, 0), (3, 1), (10, 9), (40, 17)] {
        let all = Endpoints::count(count);
        assert_eq!(moved(HashRing::Ring(1024), &all, gone), 0, "{count}");
        assert!(moved(HashRing::Maglev(4_099), &all, gone) < 40, "{count}");
    }
    // Where twice as many endpoints leave no room for their points, some others' move, once.
    let most = Endpoints::count(129);
    assert!((1..600).contains(&moved(HashRing::Ring(1024), &most, 1)));
    assert_eq!(moved(HashRing::Ring(1024), &most.without(0), 1), 0);
}

#[test]
fn sizes_of_rings_and_tables() {
    let size = |ring, all: &str| {
        let members: Vec<_> =
            (0..).zip(all.split(' ')).map(|(slot, w)| Member { slot, weight: w.parse().unwrap() }).collect();
        match ring {
            HashRing::Ring(minimum) => ring::Ring::new(&members, |m| m.slot.into(), minimum).len(),
            HashRing::Maglev(size) => {
                let table = maglev::Maglev::new(&members, |m| mix(m.slot.into()), size);
                assert!(table.entries().iter().all(|entry| (*entry as usize) < members.len()));
                table.entries().iter().filter(|entry| **entry == 0).count()
            }
        }
    };
    assert_eq!(size(HashRing::Ring(1024), "1 1"), 1024);
    assert_eq!(size(HashRing::Ring(1024), "2 2 2"), 1536);
    assert_eq!(size(HashRing::Ring(1024), "1 3"), 2048);
    assert_eq!(size(HashRing::Ring(1), "1 1 1"), 3);
    assert!(size(HashRing::Ring(1024), "1 65535") <= 65_536 + 2);
    assert_eq!(size(HashRing::Ring(1 << 18), "1 1"), 1 << 18);
    // entries of the first one
    assert_eq!(size(HashRing::Maglev(2), "1"), 2);
    assert!((25..=26).contains(&size(HashRing::Maglev(101), "1 1 1 1")));
    assert!((75..=76).contains(&size(HashRing::Maglev(101), "3 1")));
}

proptest! {
    #[test]
    fn what_is_chosen_is_there_and_in_use(
        method in select(all_methods()),
        steps in vec((0u32..9, 0u32..4, any::<u64>()), 1..60),
        remote in any::<bool>(), avoids in any::<bool>(),
    ) {
        let places = ["r/z", "r/y", "q/x"];
        let make = |n: u32| Endpoints::workload(n, locality(places[n as usize % 3]), u16::try_from(n % 4).unwrap());
        let pool: Vec<_> = (0..9).map(make).collect();
        let mut balancer = balancer(by(method), &Endpoints(Vec::new()));
        let (mut there, mut out) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        let mut tried = Vec::new();
        for (number, step, dice) in steps {
            match step {
                0 => {
                    if !there.insert(number) {
                        there.remove(&number);
                        out.remove(&number);
                    }
                    let all = Endpoints(there.iter().map(|n| pool[*n as usize].clone()).collect());
                    balancer.update(&all.all(), |_| None, NOW, dice);
                }
                1 => {
                    if there.contains(&number) && !out.insert(number) {
                        out.remove(&number);
                    }
                    eject(&mut balancer, &out.iter().copied().collect::<Vec<_>>());
                }
                _ => {}
            }
            let ask = Ask { tried: &tried, avoids_tried: avoids, remote_localities: remote, ..ask(dice) };
            let any_weight = there.iter().any(|n| n % 4 > 0);
            let usable: Vec<_> = there.iter().filter(|n| (!any_weight || *n % 4 > 0) && !out.contains(n)).collect();
            match balancer.pick(&ask) {
                Ok(id) => {
                    let number = number_of(balancer.target(id).unwrap());
                    prop_assert!(usable.contains(&&number), "{} of {:?} without {:?}", number, there, out);
                    balancer.begin(id);
                    tried.push(id);
                }
                Err(why) => {
                    prop_assert!(usable.is_empty(), "{}: {:?} without {:?}", why, there, out);
                    prop_assert_eq!(why == NoEndpoint::Nowhere, there.is_empty());
                }
            }
            if tried.len() > 3 {
                tried.drain(..).for_each(|id| balancer.end(id));
            }
        }
        let left: u32 = balancer.endpoints().map(|(id, _)| balancer.active(id)).sum();
        prop_assert!(left as usize <= tried.len(), "what has ended does not count");
    }
}
