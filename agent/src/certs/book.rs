//! Which identities have which certificates, what is due, and what an answer of the CA changes. Pure: the time and the dice
//! are arguments; `certs` asks, publishes and sleeps.
//!
//! ```text
//!            want               issued                 asked in vain, and it expires
//!  (nothing) ----> Pending ---------------> Valid <----------------------------------> Expired
//!                     \--asked in vain--> None yet        issued
//! ```
//! What must hold: a certificate serves until it expires, whatever the CA does; one that has expired stays in the book until
//! its identity leaves, because connections that were opened under it go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use underpass_core::Identity;
use underpass_identity::{Credential, Error, Renewal, Roots, Serial};

use super::ca::{Answer, Trust};

/// How long the first certificate of an identity is waited for before its pods are captured without: their connections are
/// refused until it comes.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(3);
/// How long until what was asked for, and neither came nor failed, is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Where an identity's certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Asked for, for the first time.
    Pending,
    /// It serves.
    Valid,
    /// It serves, but was asked for again in vain.
    Failing,
    /// There never was one, and it was asked for in vain.
    Missing,
    /// It does not serve any more.
    Expired,
}

impl State {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [Self::Pending, Self::Valid, Self::Failing, Self::Missing, Self::Expired];

    /// A word: `valid`.
    #[must_use]
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Failing => "failing",
            Self::Missing => "missing",
            Self::Expired => "expired",
        }
    }

    /// Connections of this identity are refused, and somebody should know.
    #[must_use]
    pub(super) const fn is_out(self) -> bool {
        matches!(self, Self::Missing | Self::Expired)
    }
}

/// What is known about one identity.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) credential: Option<Arc<Credential>>,
    /// The root that certifies it.
    pub(super) issuer: Option<Serial>,
    pub(super) renewal: Renewal,
    /// Since when it is asked for in vain, and what the CA said last.
    pub(super) failing: Option<(SystemTime, String)>,
    wanted: SystemTime,
    asked: bool,
}

impl Entry {
    fn new(now: SystemTime) -> Self {
        Self { credential: None, issuer: None, renewal: Renewal::first(now), failing: None, wanted: now, asked: false }
    }

    pub(super) fn state(&self, now: SystemTime) -> State {
        match (&self.credential, &self.failing) {
            (Some(own), _) if now > own.not_after() => State::Expired,
            (Some(_), None) => State::Valid,
            (Some(_), Some(_)) => State::Failing,
            (None, None) => State::Pending,
            (None, Some(_)) => State::Missing,
        }
    }
}

/// Is the CA there?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reachable {
    /// Since when it is as it is.
    pub(super) since: SystemTime,
    /// What it said last, where it is not.
    pub(super) error: Option<String>,
}

/// All certificates of a node.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) entries: BTreeMap<Identity, Entry>,
    /// What is trusted from now on.
    pub(super) roots: Arc<Roots>,
    pub(super) signer: Serial,
    pub(super) ca: Reachable,
    /// Certificates that came since the start, and requests that failed.
    pub(super) issued: u64,
    pub(super) failed: u64,
}

impl Book {
    pub(super) fn new(trust: Trust, now: SystemTime) -> Result<Self, Error> {
        let roots = Arc::new(Roots::new(0, trust.roots)?);
        let ca = Reachable { since: now, error: None };
        Ok(Self { entries: BTreeMap::new(), roots, signer: trust.signer, ca, issued: 0, failed: 0 })
    }

    /// From now on exactly these identities have certificates. True: one that was known has left.
    pub(super) fn want(&mut self, identities: &BTreeSet<Identity>, now: SystemTime) -> bool {
        let before = self.entries.len();
        self.entries.retain(|identity, _| identities.contains(identity));
        let left = before != self.entries.len();
        for identity in identities.iter().filter(|identity| identity.is_issuable()) {
            self.entries.entry(identity.clone()).or_insert_with(|| Entry::new(now));
        }
        left
    }

    /// What is to be asked for now. It is not due again until it is answered.
    pub(super) fn ask(&mut self, now: SystemTime) -> BTreeSet<Identity> {
        let due = self.entries.iter_mut().filter(|(_, entry)| !entry.asked && entry.renewal.due() <= now);
        due.map(|(identity, entry)| {
            entry.asked = true;
            identity.clone()
        })
        .collect()
    }

    /// When there is something to do without an answer: to ask, or to see that a certificate has expired.
    pub(super) fn next(&self, now: SystemTime) -> Option<SystemTime> {
        let of = |entry: &Entry| {
            let due = Some(entry.renewal.due()).filter(|_| !entry.asked);
            let expires = entry.credential.as_ref().map(|own| own.not_after() + Duration::from_secs(1));
            let pending = (entry.state(now) == State::Pending).then_some(entry.wanted + FIRST_WAIT);
            [due, expires.filter(|at| *at > now), pending.filter(|at| *at > now)].into_iter().flatten().min()
        };
        self.entries.values().filter_map(of).min()
    }

    /// Somebody waits for a first certificate, and has not waited for too long.
    pub(super) fn is_pending(&self, now: SystemTime) -> bool {
        let waits = |entry: &Entry| entry.state(now) == State::Pending && now < entry.wanted + FIRST_WAIT;
        self.entries.values().any(waits)
    }

    /// Writes an answer down. `dice` is asked once for each certificate. True: what the tunnel has to know has changed.
    pub(super) fn take(&mut self, answer: Answer, now: SystemTime, mut dice: impl FnMut(&Identity) -> u64) -> bool {
        let Answer { trust, asked, issued } = answer;
        let answered: BTreeSet<_> = issued.iter().map(|(identity, _)| identity).collect();
        for identity in &asked {
            let Some(entry) = self.entries.get_mut(identity) else { continue };
            entry.asked = false;
            if !answered.contains(identity) {
                entry.renewal = entry.renewal.at_once(now + ASK_AGAIN);
            }
        }
        let mut changed = self.trust(trust, now);
        for (identity, issued) in issued {
            let random = dice(&identity);
            // Its pods may have left meanwhile: what came is dropped, key and all.
            let Some(entry) = self.entries.get_mut(&identity) else { continue };
            match issued {
                Ok(credential) => {
                    tracing::debug!(%identity, serial = %credential.serial(), "certificate issued");
                    self.issued += 1;
                    entry.renewal = Renewal::issued(now, credential.not_after(), random);
                    entry.credential = Some(Arc::new(credential));
                    entry.issuer = Some(self.signer.clone());
                    entry.failing = None;
                    changed = true;
                }
                Err(error) => {
                    tracing::debug!(%identity, %error, "no certificate");
                    self.failed += 1;
                    entry.renewal = entry.renewal.failed(now, random);
                    let since = entry.failing.as_ref().map_or(now, |(since, _)| *since);
                    entry.failing = Some((since, error));
                }
            }
        }
        changed
    }

    /// What the CA says it is. One line for each change, not for each attempt.
    fn trust(&mut self, trust: Result<Trust, String>, now: SystemTime) -> bool {
        let trust = match trust {
            Ok(trust) => trust,
            Err(error) => {
                self.unreachable(error, now);
                return false;
            }
        };
        // What cannot be trusted is as good as nothing, each time that it is said.
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
            self.all_at_once(now);
        }
        if trust.signer != self.signer {
            tracing::info!(signer = %trust.signer, "another root signs: certificates are renewed");
            self.signer = trust.signer;
            self.all_at_once(now);
        }
        let Some(roots) = roots else { return false };
        tracing::info!(generation = roots.generation(), roots = roots.certificates().len(), "roots changed");
        self.roots = Arc::new(roots);
        true
    }

    fn unreachable(&mut self, error: String, now: SystemTime) {
        if self.ca.error.is_none() {
            tracing::error!(%error, "certificate authority unreachable: certificates serve until they expire");
            self.ca.since = now;
        }
        self.ca.error = Some(error);
    }

    fn all_at_once(&mut self, now: SystemTime) {
        self.entries.values_mut().for_each(|entry| entry.renewal = entry.renewal.at_once(now));
    }
}
