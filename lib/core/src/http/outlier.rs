//! Outlier detection: endpoints that fail again and again are left out for a while. A state machine of one cluster; the
//! time is an argument, and nothing here waits.
//!
//! ```text
//!            enough failures in a row, and room for one more
//!   in use ----------------------------------------------------> ejected (base time x how often it was)
//!     ^                                                              |
//!     +----------- a sweep (every interval) after its time ----------+
//! ```
//! What must hold: never more than the share of `maxEjectionPercent` is ejected, but one may be; and below
//! `minHealthPercent` all endpoints count as in use.

use std::{collections::BTreeMap, time::Duration};

use crate::objects::OutlierDetection;

/// What an answer, or its absence, says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Any answer below 500.
    Good,
    /// 500, 501 or 505 and above.
    ServerError,
    /// 502, 503 or 504.
    GatewayError,
    /// No answer: no connection, a reset, a timeout.
    NoAnswer,
}

impl Health {
    /// Of a response's status.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Good,
        }
    }

    /// Of a gRPC response that is a head alone, by its `grpc-status`, as Envoy counts it.
    #[must_use]
    pub const fn of_grpc_status(status: u8) -> Self {
        match status {
            // DEADLINE_EXCEEDED, UNAVAILABLE
            4 | 14 => Self::GatewayError,
            // UNKNOWN, UNIMPLEMENTED, INTERNAL, DATA_LOSS
            2 | 12 | 13 | 15 => Self::ServerError,
            _ => Self::Good,
        }
    }
}

/// `outlierDetection` with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierRules {
    /// 5xx answers in a row; 0: not looked at. Without [`splits_local`](Self::splits_local), no answer counts as one.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row, and no answer as above; 0: not looked at.
    pub consecutive_gateway: u32,
    /// Requests without an answer in a row, where they are counted by themselves.
    pub consecutive_local: u32,
    /// They are.
    pub splits_local: bool,
    /// Between two sweeps.
    pub interval: Duration,
    /// Of the first ejection; the second one lasts twice as long, and so on.
    pub base_ejection_time: Duration,
    /// The most that are ejected, in percent, but at least one endpoint.
    pub max_ejection_percent: u32,
    /// With a smaller share in use, in percent, all are in use.
    pub min_health_percent: u32,
}

/// The longest ejection, unless the base time is longer (Envoy's `max_ejection_time`).
const MAX_EJECTION: Duration = Duration::from_secs(300);

impl From<&OutlierDetection> for OutlierRules {
    fn from(said: &OutlierDetection) -> Self {
        const CONSECUTIVE: u32 = 5;
        Self {
            consecutive_5xx: said.consecutive_5xx.unwrap_or(CONSECUTIVE),
            consecutive_gateway: said.consecutive_gateway.unwrap_or(0),
            consecutive_local: said.consecutive_local.unwrap_or(CONSECUTIVE),
            splits_local: said.splits_local,
            interval: said.interval.unwrap_or(Duration::from_secs(10)),
            base_ejection_time: said.base_ejection_time.unwrap_or(Duration::from_secs(30)),
            max_ejection_percent: said.max_ejection_percent.unwrap_or(10),
            min_health_percent: said.min_health_percent.unwrap_or(0),
        }
    }
}

/// The endpoints of one cluster, by any key that tells them apart. Times are since one fixed moment.
#[derive(Clone, Debug)]
pub struct Outliers<K> {
    rules: OutlierRules,
    hosts: BTreeMap<K, Host>,
    /// How many of them are ejected.
    ejected: usize,
    next_sweep: Duration,
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Host {
    in_a_row_5xx: u32,
    in_a_row_gateway: u32,
    in_a_row_local: u32,
    /// Since then it is out.
    ejected_at: Option<Duration>,
    /// How often it was of late: the factor of the next ejection.
    ejections: u32,
}

impl<K: Ord + Clone> Outliers<K> {
    /// Of these endpoints, all in use.
    #[must_use]
    pub fn new(rules: OutlierRules, hosts: impl IntoIterator<Item = K>, now: Duration) -> Self {
        let hosts = hosts.into_iter().map(|key| (key, Host::default())).collect();
        Self { rules, hosts, ejected: 0, next_sweep: now.saturating_add(rules.interval) }
    }

    /// The endpoints are these now: what is known of those that stay is kept.
    pub fn set_hosts(&mut self, hosts: impl IntoIterator<Item = K>) {
        let mut old = std::mem::take(&mut self.hosts);
        self.hosts = hosts
            .into_iter()
            .map(|key| {
                let host = old.remove(&key).unwrap_or_default();
                (key, host)
            })
            .collect();
        self.ejected = self.ejected().count();
    }

    /// A request to an endpoint has ended. Answers whether that ejects it.
    pub fn ended(&mut self, key: &K, health: Health, now: Duration) -> bool {
        let rules = self.rules;
        let has_room = self.has_room();
        let Some(host) = self.hosts.get_mut(key) else { return false };
        host.count(&rules, health);
        let is_over = |count: u32, limit: u32| limit > 0 && count >= limit;
        let is_outlier = is_over(host.in_a_row_5xx, rules.consecutive_5xx)
            || is_over(host.in_a_row_gateway, rules.consecutive_gateway)
            || (rules.splits_local && is_over(host.in_a_row_local, rules.consecutive_local));
        if !is_outlier || host.ejected_at.is_some() {
            return false;
        }
        // Without room it takes as many failures again.
        *host = Host { ejections: host.ejections, ..Host::default() };
        if has_room {
            (host.ejected_at, host.ejections) = (Some(now), host.ejections.saturating_add(1));
            self.ejected = self.ejected.saturating_add(1);
        }
        has_room
    }

    /// One more may be ejected: there is none, or the share stays within its limit.
    fn has_room(&self) -> bool {
        let [ejected, all] = [self.ejected, self.hosts.len()].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        let most = all.saturating_mul(self.rules.max_ejection_percent.into());
        ejected == 0 || ejected.saturating_add(1).saturating_mul(100) <= most
    }

    /// The time is `now`: once an interval, those whose time is over are in use again, and one that has stayed in use for an
    /// interval has a shorter next ejection. Answers whether one is in use again.
    pub fn sweep(&mut self, now: Duration) -> bool {
        if now < self.next_sweep {
            return false;
        }
        let before = self.ejected;
        self.next_sweep = now.saturating_add(self.rules.interval);
        let (base, longest) = (self.rules.base_ejection_time, self.rules.base_ejection_time.max(MAX_EJECTION));
        for host in self.hosts.values_mut() {
            match host.ejected_at {
                Some(since) if now.saturating_sub(since) >= base.saturating_mul(host.ejections).min(longest) => {
                    // What ended meanwhile had begun before.
                    *host = Host { ejections: host.ejections, ..Host::default() };
                    self.ejected = self.ejected.saturating_sub(1);
                }
                Some(_) => {}
                None => host.ejections = host.ejections.saturating_sub(1),
            }
        }
        self.ejected < before
    }

    /// When the next sweep is due.
    #[must_use]
    pub const fn next_sweep(&self) -> Duration {
        self.next_sweep
    }

    /// The endpoint takes requests: it is not ejected, or too many are.
    #[must_use]
    pub fn is_in_use(&self, key: &K) -> bool {
        self.hosts.get(key).is_none_or(|host| host.ejected_at.is_none()) || self.panics()
    }

    /// So few are in use that all are.
    #[must_use]
    pub fn panics(&self) -> bool {
        let in_use = self.hosts.len().saturating_sub(self.ejected);
        percent(in_use, self.hosts.len()) < u64::from(self.rules.min_health_percent)
    }

    /// Those that are ejected.
    pub fn ejected(&self) -> impl Iterator<Item = &K> {
        self.hosts.iter().filter(|(_, host)| host.ejected_at.is_some()).map(|(key, _)| key)
    }
}

impl Host {
    fn count(&mut self, rules: &OutlierRules, health: Health) {
        let more = |count: &mut u32| *count = count.saturating_add(1);
        match health {
            Health::Good => (self.in_a_row_5xx, self.in_a_row_gateway, self.in_a_row_local) = (0, 0, 0),
            Health::ServerError => {
                more(&mut self.in_a_row_5xx);
                (self.in_a_row_gateway, self.in_a_row_local) = (0, 0);
            }
            Health::GatewayError => {
                more(&mut self.in_a_row_5xx);
                more(&mut self.in_a_row_gateway);
                self.in_a_row_local = 0;
            }
            Health::NoAnswer if rules.splits_local => more(&mut self.in_a_row_local),
            Health::NoAnswer => {
                more(&mut self.in_a_row_5xx);
                more(&mut self.in_a_row_gateway);
            }
        }
    }
}

/// Rounded down; of nothing all.
fn percent(part: usize, whole: usize) -> u64 {
    let (part, whole) = (u64::try_from(part).unwrap_or(u64::MAX), u64::try_from(whole).unwrap_or(u64::MAX));
    part.saturating_mul(100).checked_div(whole).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules(change: impl FnOnce(&mut OutlierDetection)) -> OutlierRules {
        let mut said = OutlierDetection { max_ejection_percent: Some(100), ..OutlierDetection::default() };
        change(&mut said);
        OutlierRules::from(&said)
    }

    fn fail(outliers: &mut Outliers<u8>, key: u8, health: Health, times: u32, now: u64) -> Vec<bool> {
        (0..times).map(|_| outliers.ended(&key, health, s(now))).collect()
    }

    #[test]
    fn failures_in_a_row() {
        let ejects = |rules: OutlierRules, answers: &[Health]| {
            let mut outliers = Outliers::new(rules, [1, 2], s(0));
            answers.iter().any(|health| outliers.ended(&1, *health, s(0)))
        };
        use Health::{GatewayError as G, Good, NoAnswer as N, ServerError as S};
        let default = rules(|_| {});
        assert!(ejects(default, &[S, G, N, S, S]) && !ejects(default, &[S, S, S, S]));
        assert!(!ejects(default, &[S, S, S, S, Good, S, S, S, S]), "in a row");
        let gateway = rules(|r| (r.consecutive_5xx, r.consecutive_gateway) = (Some(0), Some(2)));
        assert!(ejects(gateway, &[G, N]) && !ejects(gateway, &[G, S, G]) && !ejects(gateway, &[S; 9]));
        let split = rules(|r| (r.splits_local, r.consecutive_local) = (true, Some(2)));
        assert!(ejects(split, &[N, N]) && !ejects(split, &[N, S, N]) && ejects(split, &[S; 5]));
        assert!(!ejects(rules(|r| r.consecutive_5xx = Some(0)), &[S; 99]));
        assert_eq!([499, 500, 502, 504, 505].map(Health::of_status), [Good, S, G, G, S]);
        assert_eq!([0, 1, 5, 2, 12, 13, 15, 4, 14].map(Health::of_grpc_status), [Good, Good, Good, S, S, S, S, G, G]);
    }

    #[test]
    fn ejections_last_longer_each_time() {
        let rules = rules(|_| {});
        let mut outliers = Outliers::new(rules, [1, 2], s(0));
        // When it is in use again; sweeps are ten seconds apart.
        let back = |outliers: &mut Outliers<u8>, now: u64| {
            let is_back = |second: &u64| {
                let is_back = outliers.sweep(s(*second));
                assert_eq!(is_back, outliers.is_in_use(&1), "said once");
                is_back
            };
            (now + 1..).find(is_back).unwrap()
        };
        let mut now = 0;
        for lasts in [30, 60, 90] {
            assert_eq!(fail(&mut outliers, 1, Health::ServerError, 5, now), [false, false, false, false, true]);
            assert!(!outliers.is_in_use(&1) && outliers.is_in_use(&2));
            let then = back(&mut outliers, now);
            assert!((lasts..lasts + 10).contains(&(then - now)), "{lasts}: {}", then - now);
            now = then;
        }
        // after some time without one the next is a short one again
        assert!((now + 1..now + 60).all(|second| !outliers.sweep(s(second))));
        now += 60;
        fail(&mut outliers, 1, Health::ServerError, 5, now);
        assert!((30..40).contains(&(back(&mut outliers, now) - now)));
        // and none is longer than five minutes
        let mut often = Outliers::new(rules, [1, 2], s(0));
        often.hosts.get_mut(&1).unwrap().ejections = 99;
        fail(&mut often, 1, Health::ServerError, 5, 0);
        often.sweep(s(299));
        assert!(!often.is_in_use(&1));
        often.sweep(s(310));
        assert!(often.is_in_use(&1));
    }

    #[test]
    fn a_share_stays_in_use() {
        let ten = || (0..10_u8).collect::<Vec<_>>();
        let eject_all = |rules: OutlierRules, hosts: Vec<u8>| {
            let mut outliers = Outliers::new(rules, hosts.clone(), s(0));
            hosts.iter().for_each(|key| drop(fail(&mut outliers, *key, Health::ServerError, 5, 0)));
            outliers
        };
        let most = |percent| eject_all(rules(|r| r.max_ejection_percent = Some(percent)), ten()).ejected().count();
        // at least one, also of a small share
        assert_eq!([0, 10, 50, 100].map(most), [1, 1, 5, 10]);
        assert_eq!(eject_all(OutlierRules::from(&OutlierDetection::default()), vec![1, 2]).ejected().count(), 1);
        // too few are left: all are used
        let low = |least| {
            eject_all(rules(|r| (r.max_ejection_percent, r.min_health_percent) = (Some(50), Some(least))), ten())
        };
        assert!(low(51).panics() && low(51).is_in_use(&0));
        assert!(!low(50).panics() && !low(50).is_in_use(&0));
    }

    #[test]
    fn failures_are_counted_anew() {
        // What ends during an ejection says nothing about the time after it.
        let mut outliers = Outliers::new(rules(|_| {}), [1, 2], s(0));
        fail(&mut outliers, 1, Health::ServerError, 9, 0);
        assert!(outliers.sweep(s(30)) && outliers.is_in_use(&1));
        assert_eq!(fail(&mut outliers, 1, Health::ServerError, 5, 31), [false, false, false, false, true]);
        // And what found no room is not kept until there is some.
        let mut outliers = Outliers::new(rules(|r| r.max_ejection_percent = Some(0)), [1, 2], s(0));
        fail(&mut outliers, 1, Health::ServerError, 5, 0);
        assert_eq!(fail(&mut outliers, 2, Health::ServerError, 5, 0), [false; 5]);
        assert!(outliers.sweep(s(30)));
        assert_eq!(fail(&mut outliers, 2, Health::ServerError, 5, 31), [false, false, false, false, true]);
    }

    #[test]
    fn endpoints_come_and_go() {
        let mut outliers = Outliers::new(rules(|_| {}), [1, 2], s(0));
        fail(&mut outliers, 1, Health::ServerError, 5, 0);
        outliers.set_hosts([1, 3]);
        assert!(!outliers.is_in_use(&1) && outliers.is_in_use(&3) && outliers.ejected == 1);
        assert!(
            outliers.is_in_use(&9) && !outliers.ended(&9, Health::ServerError, s(0)),
            "unknown ones are not judged"
        );
        outliers.set_hosts([3]);
        outliers.set_hosts([1, 3]);
        assert!(outliers.is_in_use(&1), "one that was away begins anew");
    }

    proptest! {
        #[test]
        fn the_share_that_is_ejected_is_bounded(
            count in 1u8..12, most in 0u32..=100, steps in vec((0u8..12, select(vec![Health::Good, Health::ServerError, Health::NoAnswer]), 0u64..40), 0..200),
        ) {
            let rules = rules(|r| (r.consecutive_5xx, r.max_ejection_percent) = (Some(2), Some(most)));
            let mut outliers = Outliers::new(rules, 0..count, s(0));
            let mut now = 0;
            for (key, health, later) in steps {
                now += later;
                outliers.sweep(s(now));
                let was_in_use = outliers.is_in_use(&key);
                let ejects = outliers.ended(&key, health, s(now));
                prop_assert!(!ejects || (was_in_use && !outliers.is_in_use(&key)));
                let ejected = outliers.ejected().count();
                prop_assert!(ejected <= 1 || ejected * 100 <= most as usize * usize::from(count), "{} of {}", ejected, count);
                prop_assert_eq!(ejected, outliers.ejected);
            }
        }
    }
}
