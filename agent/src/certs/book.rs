//! The book of certificates: identities with their certificates, requests that are due, answers of the CA. Pure: the time and the
//! dice are arguments; `certs` sends requests, publishes and sleeps.
//!
//! ```text
//!            want               issued                 requests fail, and it expires
//!  (nothing) ----> Pending ---------------> Valid <----------------------------------> Expired
//!                     \--request failed-> Missing         issued
//! ```
//! What must hold: a certificate serves until it expires, in any state of the CA; one that has expired stays in the book until
//! its identity leaves, because connections that were opened under it go on.
//!
//! One that begins later (the clock was set back, or the CA's is ahead) is not yet valid: another one is requested, and it
//! takes the place of none that is valid. Where there is no other it serves: it may be this clock that is wrong, and peers
//! judge by theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use underpass_core::Identity;
use underpass_identity::{Credential, Error, Renewal, Roots, Serial};

use super::{
    Issued,
    ca::{Answer, Trust},
};

/// The longest wait for the first certificate of an identity. Then its pods are captured without: their connections are
/// refused until it comes.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(3);
/// The pause before a request that was neither granted nor failed is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// A clock that is set back by less is only corrected, and not logged.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// The state of a certificate that begins later.
pub const NOT_YET_VALID: &str = "not_yet_valid";

/// The state of an identity's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Requested for the first time.
    Pending,
    /// It serves.
    Valid,
    /// It serves, and its renewal fails.
    Failing,
    /// There never was one, and requests fail.
    Missing,
    /// It begins later, and there is no other: peers whose clocks say so refuse it.
    NotYetValid,
    /// It does not serve any more.
    Expired,
}

impl State {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Pending, Self::Valid, Self::Failing, Self::Missing, Self::NotYetValid, Self::Expired];

    /// A word: `valid`.
    #[must_use]
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Failing => "failing",
            Self::Missing => "missing",
            Self::NotYetValid => NOT_YET_VALID,
            Self::Expired => "expired",
        }
    }

    /// Connections of this identity are refused: to be reported.
    #[must_use]
    pub(super) const fn is_out(self) -> bool {
        matches!(self, Self::Missing | Self::Expired)
    }
}

/// The certificate of one identity, and its renewal.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) credential: Option<Arc<Credential>>,
    /// The root that certifies it.
    pub(super) issuer: Option<Serial>,
    pub(super) renewal: Renewal,
    /// The time since which requests fail, and the last error of the CA.
    pub(super) failing: Option<(SystemTime, String)>,
    wanted: SystemTime,
    requested: bool,
}

impl Entry {
    fn new(now: SystemTime) -> Self {
        Self {
            credential: None,
            issuer: None,
            renewal: Renewal::first(now),
            failing: None,
            wanted: now,
            requested: false,
        }
    }

    /// Adjusts to a clock that was set back to `now`. A renewal that was due soon would come that much later; and a certificate
    /// that begins only now may be refused by peers.
    fn set_back(&mut self, now: SystemTime) {
        self.wanted = self.wanted.min(now);
        self.failing.iter_mut().for_each(|(since, _)| *since = now.min(*since));
        if self.failing.is_some() || self.credential.as_ref().is_none_or(|own| now < own.not_before()) {
            self.renewal = self.renewal.at_once(now);
        }
    }

    /// Enters the CA's answer. True: it has another certificate now.
    fn answer(
        &mut self,
        identity: &Identity,
        answer: Result<Credential, String>,
        (now, random): (SystemTime, u64),
        signer: &Serial,
    ) -> bool {
        let has_valid = matches!(self.state(now), State::Valid | State::Failing);
        let (own, problem) = match answer {
            Ok(own) => {
                let problem = begins_later(&own, now);
                if let Some(error) = problem.as_ref().filter(|_| self.failing.is_none()) {
                    tracing::warn!(%identity, %error, "certificate not yet valid");
                }
                (Some(own), problem)
            }
            Err(error) => (None, Some(error)),
        };
        let own = own.filter(|_| problem.is_none() || !has_valid);
        match problem {
            None => {
                let not_after = own.as_ref().map_or(now, Credential::not_after);
                self.renewal = Renewal::issued(now, not_after, random);
                self.failing = None;
            }
            Some(error) => {
                tracing::debug!(%identity, %error, "certificate request failed");
                self.renewal = self.renewal.failed(now, random);
                let since = self.failing.as_ref().map_or(now, |(since, _)| *since);
                self.failing = Some((since, error));
            }
        }
        let Some(own) = own else { return false };
        tracing::debug!(%identity, serial = %own.serial(), "certificate issued");
        self.credential = Some(Arc::new(own));
        self.issuer = Some(signer.clone());
        true
    }

    pub(super) fn state(&self, now: SystemTime) -> State {
        match (&self.credential, &self.failing) {
            (Some(own), _) if now > own.not_after() => State::Expired,
            (Some(own), _) if now < own.not_before() => State::NotYetValid,
            (Some(_), None) => State::Valid,
            (Some(_), Some(_)) => State::Failing,
            (None, None) => State::Pending,
            (None, Some(_)) => State::Missing,
        }
    }
}

/// The problem of a certificate that is not valid yet.
fn begins_later(own: &Credential, now: SystemTime) -> Option<String> {
    let by = own.not_before().duration_since(now).ok().filter(|by| !by.is_zero())?;
    Some(format!("its certificate begins in {} s: the CA's clock is ahead of this node's", by.as_secs_f64().ceil()))
}

/// The reachability of the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reachable {
    /// The time of its last change.
    pub(super) since: SystemTime,
    /// The last error, where it is unreachable.
    pub(super) error: Option<String>,
}

/// All certificates of a node.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) entries: BTreeMap<Identity, Entry>,
    /// Of a predecessor, and not wanted so far.
    inherited: BTreeMap<Identity, Entry>,
    /// The trusted roots.
    pub(super) roots: Arc<Roots>,
    pub(super) signer: Serial,
    pub(super) ca: Reachable,
    /// Certificates that were issued since the start, and requests that failed.
    pub(super) issued: u64,
    pub(super) failed: u64,
    /// The time of the last look at the clock.
    seen: SystemTime,
}

impl Book {
    pub(super) fn new(trust: Trust, now: SystemTime) -> Result<Self, Error> {
        let roots = Arc::new(Roots::new(0, trust.roots)?);
        let ca = Reachable { since: now, error: None };
        let (entries, inherited) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { entries, inherited, roots, signer: trust.signer, ca, issued: 0, failed: 0, seen: now })
    }

    /// Takes the certificates of a predecessor that have not expired: they serve once their identities are wanted. They are
    /// renewed when their predecessor would have done so; one of another root than the signing one, at once.
    pub(super) fn inherit(&mut self, all: Vec<Issued>, now: SystemTime, mut dice: impl FnMut(&Identity) -> u64) {
        for Issued { credential, issuer } in all.into_iter().filter(|issued| now <= issued.credential.not_after()) {
            let identity = credential.identity().clone();
            let begins = credential.not_before();
            let renewal = match issuer.as_ref() == Some(&self.signer) && begins <= now {
                true => Renewal::issued(begins, credential.not_after(), dice(&identity)),
                false => Renewal::first(now),
            };
            let entry = Entry { credential: Some(credential), issuer, renewal, ..Entry::new(now) };
            self.inherited.insert(identity, entry);
        }
    }

    /// Drops those whose identities have not been wanted so far.
    pub(super) fn forget_inherited(&mut self) {
        self.inherited.clear();
    }

    /// The certificates that have not expired.
    pub(super) fn issued(&self, now: SystemTime) -> Vec<Issued> {
        let issued = |entry: &Entry| {
            let credential = entry.credential.clone().filter(|own| now <= own.not_after())?;
            Some(Issued { credential, issuer: entry.issuer.clone() })
        };
        self.entries.values().filter_map(issued).collect()
    }

    /// From now on exactly these identities have certificates. True: the tunnel's credentials have changed.
    pub(super) fn want(&mut self, identities: &BTreeSet<Identity>, now: SystemTime) -> bool {
        let before = self.entries.len();
        self.entries.retain(|identity, _| identities.contains(identity));
        let mut changed = before != self.entries.len();
        for identity in identities.iter().filter(|identity| identity.is_issuable()) {
            self.entries.entry(identity.clone()).or_insert_with(|| {
                let inherited = self.inherited.remove(identity);
                changed |= inherited.is_some();
                inherited.unwrap_or_else(|| Entry::new(now))
            });
        }
        changed
    }

    /// The identities whose certificates are to be requested now. They are not due again until they are answered.
    pub(super) fn request(&mut self, now: SystemTime) -> BTreeSet<Identity> {
        self.follow_clock(now);
        let due = self.entries.iter_mut().filter(|(_, entry)| !entry.requested && entry.renewal.due() <= now);
        due.map(|(identity, entry)| {
            entry.requested = true;
            identity.clone()
        })
        .collect()
    }

    /// Adjusts to a clock that was set back. One that was set forward needs nothing: all that is due by the new time is done.
    fn follow_clock(&mut self, now: SystemTime) {
        if let Ok(by) = self.seen.duration_since(now)
            && !by.is_zero()
        {
            self.ca.since = self.ca.since.min(now);
            self.entries.values_mut().for_each(|entry| entry.set_back(now));
            if by >= WORTH_TELLING {
                let early = self.entries.values().filter(|entry| entry.state(now) == State::NotYetValid).count();
                tracing::warn!(by_s = by.as_secs(), not_yet_valid = early, "clock set back");
            }
        }
        self.seen = now;
    }

    /// The time of the next step without an answer: a request, or the begin or end of a certificate.
    pub(super) fn next(&self, now: SystemTime) -> Option<SystemTime> {
        let of = |entry: &Entry| {
            let due = Some(entry.renewal.due()).filter(|_| !entry.requested);
            let begins = entry.credential.as_ref().map(|own| own.not_before());
            let expires = entry.credential.as_ref().map(|own| own.not_after() + Duration::from_secs(1));
            let pending = (entry.state(now) == State::Pending).then_some(entry.wanted + FIRST_WAIT);
            let later = [begins, expires, pending].into_iter().flatten().filter(|at| *at > now).min();
            due.into_iter().chain(later).min()
        };
        self.entries.values().filter_map(of).min()
    }

    /// Whether an identity waits for its first certificate, and not for too long.
    pub(super) fn is_pending(&self, now: SystemTime) -> bool {
        let waits = |entry: &Entry| entry.state(now) == State::Pending && now < entry.wanted + FIRST_WAIT;
        self.entries.values().any(waits)
    }

    /// Enters an answer. `dice` is rolled once for each certificate. True: the tunnel's credentials have changed.
    pub(super) fn take(&mut self, answer: Answer, now: SystemTime, mut dice: impl FnMut(&Identity) -> u64) -> bool {
        let Answer { trust, requested, issued } = answer;
        let answered: BTreeSet<_> = issued.iter().map(|(identity, _)| identity).collect();
        for identity in &requested {
            let Some(entry) = self.entries.get_mut(identity) else { continue };
            entry.requested = false;
            if !answered.contains(identity) {
                entry.renewal = entry.renewal.at_once(now + ASK_AGAIN);
            }
        }
        let mut changed = self.trust(trust, now);
        for (identity, issued) in issued {
            let random = dice(&identity);
            // Its pods may have left meanwhile: what came is dropped, key and all.
            let Some(entry) = self.entries.get_mut(&identity) else { continue };
            changed |= entry.answer(&identity, issued, (now, random), &self.signer);
            match &entry.failing {
                None => self.issued += 1,
                Some(_) => self.failed += 1,
            }
        }
        changed
    }

    /// Enters the CA's roots and signer. One line of the log for each change, not for each attempt.
    fn trust(&mut self, trust: Result<Trust, String>, now: SystemTime) -> bool {
        let trust = match trust {
            Ok(trust) => trust,
            Err(error) => {
                self.unreachable(error, now);
                return false;
            }
        };
        // Roots that cannot be trusted count as none, each time.
        let roots = match self.roots.successor(trust.roots) {
            Ok(roots) => roots,
            Err(error) => {
                self.unreachable(error.to_string(), now);
                return false;
            }
        };
        if self.ca.error.take().is_some() {
            tracing::info!("certificate authority reachable again");
            self.ca.since = now;
            self.failing_at_once(now);
        }
        if trust.signer != self.signer {
            tracing::info!(signer = %trust.signer, "signing root changed, renewing all certificates");
            self.signer = trust.signer;
            self.all_at_once(now);
        }
        let Some(roots) = roots else { return false };
        tracing::info!(generation = roots.generation(), roots = roots.certificates().len(), "trusted roots changed");
        self.roots = Arc::new(roots);
        true
    }

    fn unreachable(&mut self, error: String, now: SystemTime) {
        if self.ca.error.is_none() {
            tracing::error!(%error, "certificate authority unreachable, certificates serve until they expire");
            self.ca.since = now;
        }
        self.ca.error = Some(error);
    }

    /// The CA may be there again: what it has failed to certify is requested at once. Nothing else: all of a mesh at once would take it
    /// away again.
    pub(super) fn failing_at_once(&mut self, now: SystemTime) {
        let failing = self.entries.values_mut().filter(|entry| entry.failing.is_some());
        failing.for_each(|entry| entry.renewal = entry.renewal.at_once(now));
    }

    fn all_at_once(&mut self, now: SystemTime) {
        self.entries.values_mut().for_each(|entry| entry.renewal = entry.renewal.at_once(now));
    }
}
