//! A control plane as CA: a key is made here, its request certified there. One task, with a limit of requests under way, so that
//! a node that starts does not ask for all of its identities at the same moment.
//!
//! What must hold: the roots of every answer and those of the mounted file are trusted at once, before or together with the
//! first certificate that needs them. A root that leaves the file is not trusted any more, in spite of the last answer; a file
//! that cannot be read takes no root away. Of the two the newer one names the root that signs, by its first.

use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    task::JoinSet,
    time::MissedTickBehavior,
};
use underpass_core::Identity;
use underpass_identity::{
    Certificate, CertificateDer, CertificateRequest, Credential, PrivateKey, certificate::certificates_from_pem,
    chain::Answer as Certified,
};
use underpass_xds::client::{Link, Progress};

use super::ca::{Answer, Event, LOOK_EVERY, Request, Trust, chain};

/// The limit of requests under way.
const MOST_AT_ONCE: usize = 8;

/// A request that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The control plane gave no answer.
    #[error("{0}")]
    Unreachable(String),
    /// It refused.
    #[error("{0}")]
    Denied(String),
}

/// A request under way: the texts of the answered chain, leaf first, the bundle of roots last.
pub type Certifying = Pin<Box<dyn Future<Output = Result<Vec<String>, Refused>> + Send>>;

/// The certificate API of a control plane.
pub trait Certify: Send + Sync + 'static {
    /// Asks for a certificate of `identity` and this lifetime; `request` is a PKCS #10 request in PEM.
    fn certify(&self, identity: &Identity, request: String, lifetime: Duration) -> Certifying;
}

/// The CA of a control plane.
#[derive(Clone)]
pub struct Remote {
    /// The file of root certificates, in PEM.
    pub roots: PathBuf,
    /// Its certificate API.
    pub certify: Arc<dyn Certify>,
    /// Its stream of facts: once that is open again, so is the CA.
    pub stream: watch::Receiver<Progress>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// The mounted file of root certificates.
///
/// # Errors
/// In one line, with the file's name.
pub fn read_roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let named = |problem: String| format!("root certificates in {}: {problem}", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| named(e.to_string()))?;
    let roots = certificates_from_pem(&text).map_err(|e| named(chain(&e)))?;
    if roots.is_empty() { Err(named("there is none".to_owned())) } else { Ok(roots) }
}

/// The outcome of one request.
type Outcome = (Identity, Result<(Credential, Vec<CertificateDer<'static>>), Refused>);

/// The task's state.
struct Task {
    remote: Remote,
    /// Of the last answer, without those that have left the file since.
    bundle: Vec<CertificateDer<'static>>,
    /// Of the file, as last read.
    file: Vec<CertificateDer<'static>>,
    /// Those that have left the file.
    gone: Vec<CertificateDer<'static>>,
    /// The file has changed since the last answer.
    is_file_newer: bool,
    queue: VecDeque<(Identity, Duration)>,
    running: JoinSet<Outcome>,
    /// The stream of facts is.
    is_open: bool,
}

/// Starts the task. It ends when the sender of requests is dropped. To be called on a runtime.
pub(super) fn spawn(
    remote: Remote,
    file: Vec<CertificateDer<'static>>,
    answers: UnboundedSender<Event>,
) -> UnboundedSender<Request> {
    let (sender, requests) = unbounded_channel();
    let (bundle, queue, running) = (Vec::new(), VecDeque::new(), JoinSet::new());
    let gone = Vec::new();
    let task = Task { remote, bundle, file, gone, is_file_newer: true, queue, running, is_open: false };
    tokio::spawn(task.run(requests, answers));
    sender
}

/// The trust that follows from these roots; the signing one is first.
pub(super) fn trust(roots: Vec<CertificateDer<'static>>) -> Result<Trust, String> {
    let first = roots.first().ok_or("the control plane has no root certificate")?;
    let signer = Certificate::parse(first).map_err(|e| chain(&e))?.serial().clone();
    Ok(Trust { roots, signer })
}

impl Task {
    async fn run(mut self, mut requests: UnboundedReceiver<Request>, answers: UnboundedSender<Event>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                Ok(()) = self.remote.stream.changed() => self.opened().then_some(Event::MayAnswer),
                request = requests.recv() => {
                    let Some(Request { identities, lifetime, .. }) = request else { return };
                    self.queue.extend(identities.into_iter().map(|identity| (identity, lifetime)));
                    None
                }
                Some(done) = self.running.join_next() => match done {
                    Ok(outcome) => Some(Event::Answer(self.answer(outcome))),
                    // Certificates would silently expire: the next process starts anew.
                    Err(error) if error.is_panic() => std::process::abort(),
                    Err(_) => None,
                },
                _ = look.tick() => self.look().map(Event::Answer),
            };
            self.start();
            // Fails only while the agent ends.
            event.into_iter().for_each(|event| drop(answers.send(event)));
        }
    }

    fn start(&mut self) {
        while self.running.len() < MOST_AT_ONCE {
            let Some((identity, lifetime)) = self.queue.pop_front() else { return };
            let certify = Arc::clone(&self.remote.certify);
            self.running.spawn(async move {
                let certified = request(&*certify, &identity, lifetime).await;
                (identity, certified)
            });
        }
    }

    fn answer(&mut self, (identity, outcome): Outcome) -> Answer {
        let requested = BTreeSet::from([identity.clone()]);
        match outcome {
            Ok((credential, bundle)) => {
                (self.bundle, self.is_file_newer) = (bundle, false);
                // An answer that was under way when a root left.
                self.bundle.retain(|root| !self.gone.contains(root));
                Answer { trust: self.trust(), requested, issued: vec![(identity, Ok(credential))] }
            }
            Err(refused) => {
                let trust = match &refused {
                    Refused::Unreachable(error) => Err(error.clone()),
                    Refused::Denied(_) => self.trust(),
                };
                Answer { trust, requested, issued: vec![(identity, Err(refused.to_string()))] }
            }
        }
    }

    /// Those of the newer source first, then those of the other one alone.
    fn trust(&self) -> Result<Trust, String> {
        let (newer, other) = match self.is_file_newer {
            true => (&self.file, &self.bundle),
            false => (&self.bundle, &self.file),
        };
        let mut roots = newer.clone();
        roots.extend(other.iter().filter(|root| !newer.contains(root)).cloned());
        trust(roots)
    }

    /// Whether the stream of facts has answered anew: what waits for a CA that was away is asked for at once, and not after the pause that
    /// its failures have led to, minutes by then.
    fn opened(&mut self) -> bool {
        let is_open = matches!(self.remote.stream.borrow_and_update().link, Link::Open { .. });
        !std::mem::replace(&mut self.is_open, is_open) && is_open
    }

    /// The change of the file since the last look, if any. One that cannot be read changes nothing: it is replaced in steps, and
    /// the next look finds it whole.
    fn look(&mut self) -> Option<Answer> {
        let file = read_roots(&self.remote.roots).ok().filter(|file| *file != self.file)?;
        // A root that the file has never had is not missing there: a mounted file comes later than an answer.
        let before = std::mem::replace(&mut self.file, file);
        self.gone.extend(before.into_iter().filter(|root| !self.file.contains(root)));
        self.gone.retain(|root| !self.file.contains(root));
        self.bundle.retain(|root| !self.gone.contains(root));
        self.is_file_newer = true;
        Some(Answer { trust: self.trust(), requested: BTreeSet::new(), issued: Vec::new() })
    }
}

/// One key and one request.
async fn request(
    certify: &dyn Certify,
    identity: &Identity,
    lifetime: Duration,
) -> Result<(Credential, Vec<CertificateDer<'static>>), Refused> {
    let denied = |error: underpass_identity::Error| Refused::Denied(chain(&error));
    let key = PrivateKey::generate().map_err(denied)?;
    let text = CertificateRequest::new(&key, identity).and_then(|request| request.pem(identity)).map_err(denied)?;
    let texts = certify.certify(identity, text, lifetime).await?;
    let Certified { chain, roots } = Certified::from_pem(&texts).map_err(denied)?;
    let credential = Credential::new(key, chain).map_err(denied)?;
    if credential.identity() != identity {
        return Err(Refused::Denied(format!("the control plane certified {} instead", credential.identity())));
    }
    Ok((credential, roots))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use underpass_identity::{Roots, testing::TestCa};

    use super::*;

    /// Refuses all.
    struct Refusing;

    impl Certify for Refusing {
        fn certify(&self, _: &Identity, _: String, _: Duration) -> Certifying {
            Box::pin(async { Err(Refused::Denied("no".to_owned())) })
        }
    }

    #[tokio::test]
    async fn it_may_answer_again_once_the_stream_of_facts_does() {
        let (progress, stream) = watch::channel(Progress::default());
        let (sender, mut events) = unbounded_channel();
        let roots = vec![TestCa::new("root").root()];
        let remote = Remote { roots: "/nonexistent".into(), certify: Arc::new(Refusing), stream };
        let requests = spawn(remote, roots.clone(), sender);
        let trusted = Arc::new(Roots::new(0, roots).unwrap());
        let one: Identity = "spiffe://cluster.local/ns/default/sa/one".parse().unwrap();
        let request = || {
            let (identities, trusted) = (BTreeSet::from([one.clone()]), Arc::clone(&trusted));
            let request = Request { identities, lifetime: Duration::from_secs(1), trusted };
            assert!(requests.send(request).is_ok());
        };
        let link = |link| progress.send_modify(|progress| progress.link = link);
        for n in 0..3 {
            link(Link::Open { since: SystemTime::now() });
            assert!(matches!(events.recv().await, Some(Event::MayAnswer)), "{n}");
            // What else happens on an open stream says nothing, nor does its end: the next event is the answer to what is requested then.
            progress.send_modify(|progress| progress.version = Some(n));
            request();
            assert!(matches!(events.recv().await, Some(Event::Answer(_))), "{n}: open");
            link(Link::Ended { at: SystemTime::now(), reason: "gone".to_owned() });
            request();
            assert!(matches!(events.recv().await, Some(Event::Answer(_))), "{n}: ended");
        }
    }
}
