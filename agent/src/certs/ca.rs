//! The thread that asks the embedded CA. A thread of its own because files may take their time (a slow disk, somebody who
//! holds the lock) and the agent's loop must not; and the only room that has the CA's key, while it signs and no longer.
//!
//! It goes by the directory as it is now: a CA that has gone or cannot be read signs nothing, whatever was read before. And it
//! never signs with a key whose root the workers of this node do not trust yet: it says so, and is asked again.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc::UnboundedSender;
use underpass_core::{Identity, TrustDomain};
use underpass_identity::{Authority, CertificateDer, Credential, Roots, Serial, Stamp};

/// How often somebody looks whether the directory has changed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Certificates that are wanted.
pub(super) struct Order {
    pub(super) identities: BTreeSet<Identity>,
    /// How long they are to be valid.
    pub(super) lifetime: Duration,
    /// What every worker of this node trusts.
    pub(super) trusted: Arc<Roots>,
}

/// What came of it, or what has changed without anybody asking.
pub(super) struct Answer {
    /// What the directory says, or why it says nothing.
    pub(super) trust: Result<Trust, String>,
    /// What was asked for. Those of it that are not in `issued` are to be asked for again.
    pub(super) asked: BTreeSet<Identity>,
    pub(super) issued: Vec<(Identity, Result<Credential, String>)>,
}

/// What a state directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trust {
    /// Every root.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// The one that signs.
    pub(super) signer: Serial,
}

impl From<&Authority> for Trust {
    fn from(authority: &Authority) -> Self {
        Self { roots: authority.root_certificates(), signer: authority.certificate().serial().clone() }
    }
}

/// Where the CA is.
#[derive(Clone, Debug)]
pub struct CaPlace {
    /// Its state directory.
    pub directory: PathBuf,
    /// Whose identities it certifies.
    pub trust_domain: TrustDomain,
}

/// The CA's directory in the agents' state directory: one of its own, because the CA refuses one that holds anything else.
#[must_use]
pub fn directory(state: &Path) -> PathBuf {
    state.join("ca")
}

/// Starts the thread. It ends when the sender of orders is dropped.
pub(super) fn spawn(place: CaPlace, answers: UnboundedSender<Answer>) -> std::io::Result<mpsc::Sender<Order>> {
    let (orders, ordered) = mpsc::channel();
    thread::Builder::new().name("certificates".to_owned()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| Ca::new(place).run(&ordered, &answers));
        if std::panic::catch_unwind(run).is_err() {
            // Certificates would silently expire: the next process starts anew.
            std::process::abort();
        }
    })?;
    Ok(orders)
}

/// The CA as it is known to its thread.
pub(super) struct Ca {
    place: CaPlace,
    stamp: Stamp,
    failed: bool,
}

impl Ca {
    pub(super) fn new(place: CaPlace) -> Self {
        let stamp = Stamp::of(&place.directory);
        Self { place, stamp, failed: false }
    }

    fn run(&mut self, orders: &mpsc::Receiver<Order>, answers: &UnboundedSender<Answer>) {
        loop {
            let answer = match orders.recv_timeout(LOOK_EVERY) {
                Ok(order) => Some(self.fulfil(order)),
                Err(mpsc::RecvTimeoutError::Timeout) => self.look(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            // Nobody listens any more where the agent is about to end.
            answer.into_iter().for_each(|answer| drop(answers.send(answer)));
        }
    }

    pub(super) fn fulfil(&mut self, order: Order) -> Answer {
        let Order { identities, lifetime, trusted } = order;
        let authority = match self.load() {
            Ok(authority) => authority,
            Err(error) => {
                let issued = identities.iter().map(|identity| (identity.clone(), Err(error.clone()))).collect();
                return Answer { trust: Err(error), asked: identities, issued };
            }
        };
        let trust = Trust::from(&authority);
        let is_trusted = trust.roots.first().is_some_and(|root| trusted.certificates().contains(root));
        let now = SystemTime::now();
        let issue = |identity: &Identity| {
            let issued = authority.credential(identity, lifetime, now);
            (identity.clone(), issued.map_err(|e| chain(&e)))
        };
        let issued = identities.iter().filter(|_| is_trusted).map(issue).collect();
        Answer { trust: Ok(trust), asked: identities, issued }
    }

    /// What has changed since the last look, if anything. What failed is tried again.
    pub(super) fn look(&mut self) -> Option<Answer> {
        if !self.failed && Stamp::of(&self.place.directory) == self.stamp {
            return None;
        }
        let trust = self.load().map(|authority| Trust::from(&authority));
        Some(Answer { trust, asked: BTreeSet::new(), issued: Vec::new() })
    }

    fn load(&mut self) -> Result<Authority, String> {
        // Before it is read: what changes meanwhile is looked at again.
        self.stamp = Stamp::of(&self.place.directory);
        let CaPlace { directory, trust_domain, .. } = &self.place;
        let loaded = Authority::load(directory, trust_domain, SystemTime::now());
        self.failed = loaded.is_err();
        loaded.map_err(|e| chain(&e))
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
