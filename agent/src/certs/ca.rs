//! The thread of the embedded CA. A thread of its own because files may take their time (a slow disk, a lock that another process
//! has) and the agent's loop must not; and the only room that has the CA's key, while it signs and no longer.
//!
//! It goes by the directory as it is now: a CA that has gone or cannot be read signs nothing, after any earlier read. And it
//! never signs with a key whose root the workers of this node do not trust yet: it answers without a certificate, and gets
//! the request again.

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

/// The interval between two looks at the directory.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A request for certificates.
pub(super) struct Request {
    pub(super) identities: BTreeSet<Identity>,
    /// Their lifetime.
    pub(super) lifetime: Duration,
    /// The roots that every worker of this node trusts.
    pub(super) trusted: Arc<Roots>,
}

/// What the task or thread of a CA tells.
pub(super) enum Event {
    /// See there.
    Answer(Answer),
    /// It may be there again: what it has failed to certify can be requested at once. Whether it is, an answer says.
    MayAnswer,
}

/// The answer to a request, or a change of the directory without one.
pub(super) struct Answer {
    /// The contents of the directory, or the error of reading it.
    pub(super) trust: Result<Trust, String>,
    /// The identities of the request. Those that are not in `issued` are to be requested again.
    pub(super) requested: BTreeSet<Identity>,
    pub(super) issued: Vec<(Identity, Result<Credential, String>)>,
}

/// The roots of a state directory.
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

/// The location of the CA.
#[derive(Clone, Debug)]
pub struct CaLocation {
    /// Its state directory.
    pub directory: PathBuf,
    /// The trust domain of the identities that it certifies.
    pub trust_domain: TrustDomain,
}

/// The CA's directory in the agents' state directory: one of its own, because the CA refuses one that holds anything else.
#[must_use]
pub fn directory(state: &Path) -> PathBuf {
    state.join("ca")
}

/// Starts the thread. It ends when the sender of requests is dropped.
pub(super) fn spawn(location: CaLocation, answers: UnboundedSender<Event>) -> std::io::Result<mpsc::Sender<Request>> {
    let (requests, requested) = mpsc::channel();
    thread::Builder::new().name("certificates".to_owned()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| Embedded::new(location).run(&requested, &answers));
        if std::panic::catch_unwind(run).is_err() {
            // Certificates would silently expire: the next process starts anew.
            std::process::abort();
        }
    })?;
    Ok(requests)
}

/// The CA as it is known to its thread.
pub(super) struct Embedded {
    location: CaLocation,
    stamp: Stamp,
    failed: bool,
}

impl Embedded {
    pub(super) fn new(location: CaLocation) -> Self {
        let stamp = Stamp::of(&location.directory);
        Self { location, stamp, failed: false }
    }

    fn run(&mut self, requests: &mpsc::Receiver<Request>, answers: &UnboundedSender<Event>) {
        loop {
            let answer = match requests.recv_timeout(LOOK_EVERY) {
                Ok(request) => Some(self.fulfil(request)),
                Err(mpsc::RecvTimeoutError::Timeout) => self.look(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            // It fails only while the agent ends.
            answer.into_iter().for_each(|answer| drop(answers.send(Event::Answer(answer))));
        }
    }

    pub(super) fn fulfil(&mut self, request: Request) -> Answer {
        let Request { identities, lifetime, trusted } = request;
        let authority = match self.load() {
            Ok(authority) => authority,
            Err(error) => {
                let issued = identities.iter().map(|identity| (identity.clone(), Err(error.clone()))).collect();
                return Answer { trust: Err(error), requested: identities, issued };
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
        Answer { trust: Ok(trust), requested: identities, issued }
    }

    /// The change since the last look, if any. A failed read is tried again.
    pub(super) fn look(&mut self) -> Option<Answer> {
        if !self.failed && Stamp::of(&self.location.directory) == self.stamp {
            return None;
        }
        let trust = self.load().map(|authority| Trust::from(&authority));
        Some(Answer { trust, requested: BTreeSet::new(), issued: Vec::new() })
    }

    fn load(&mut self) -> Result<Authority, String> {
        // Before it is read: what changes meanwhile is looked at again.
        self.stamp = Stamp::of(&self.location.directory);
        let CaLocation { directory, trust_domain, .. } = &self.location;
        let loaded = Authority::load(directory, trust_domain, SystemTime::now());
        self.failed = loaded.is_err();
        loaded.map_err(|e| chain(&e))
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
