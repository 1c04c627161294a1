//! The sandboxes of new pods: each is answered once its pod is captured and its node has said so, or is known to be outside the mesh.
//! Its own file because [`super`] has the events, and this what they mean for a sandbox that waits.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use underpass_abi::Cookie;
use underpass_cni::protocol::{Answer, PodName, Request};
use underpass_config::Watch;
use underpass_core::{
    enrol::{enrols, is_redirected},
    resolve::{LocalPod, Sources},
    world::MeshSettings,
};
use underpass_net::netns::Netns;
use underpass_telemetry::admin::{Gate, Readiness};
use underpass_ztunnel::Ztunnel;

use crate::{
    cni::{
        install,
        sandboxes::{self, Named, Sandboxes},
        server::{self, Incoming, Server},
    },
    config::Config,
    pods::{self, PodStatus},
};

/// The time for a pod to be captured; less than a plugin waits.
const CAPTURED_WITHIN: Duration = Duration::from_secs(15);
/// The time for the API server to tell of a pod that the runtime has begun to start.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// The longest wait, once the pod is captured, for its annotation: without it callers do not tunnel to the pod yet, and a STRICT
/// one refuses them.
const SAID_WITHIN: Duration = Duration::from_secs(2);
/// The time for which connections of a pod wait for the mesh to know it, from its first one on: a kubelet tells the API
/// server the addresses of a pod once its first container has started, and the control plane hears of them then.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// The longest wait for the tunnels of a sandbox to be closed before its runtime takes its network away; less than a
/// plugin waits.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// The pause before another try to open the socket.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

/// A sandbox whose runtime waits.
#[derive(Debug)]
struct Pending {
    named: Named,
    answer: oneshot::Sender<Answer>,
    since: Instant,
    /// When its pod was captured.
    captured: Option<Instant>,
}

/// The next step of a pending sandbox.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Answer(Answer),
    /// The agent knows too little: the plugin asks again, or goes by its list.
    HangUp,
    /// It is not captured in time, for a reason that the pods' thread knows.
    Late,
    Wait(Instant),
}

impl Pending {
    /// `heard`: there is a World. `captured`: the pod is, now. `says`: there is an API server that is told.
    fn next(
        &mut self,
        (sources, settings): (&Sources, &MeshSettings),
        heard: bool,
        captured: bool,
        says: bool,
        now: Instant,
    ) -> Next {
        match self.named.is_wanted(sources, settings) {
            Some(false) => return Next::Answer(Answer::Outside),
            Some(true) => {}
            // A static pod has another uid at the API server, or no object; its namespace says enough.
            None if self.since + TOLD_WITHIN <= now && !heard => return Next::HangUp,
            None if self.since + TOLD_WITHIN <= now => {
                let outside = sources.namespace(&self.named.pod.namespace).is_some_and(|of| !enrols(of, settings));
                let why = || "the API server has not told of this pod".to_owned();
                return Next::Answer(if outside { Answer::Outside } else { Answer::Refused { why: why() } });
            }
            None => return Next::Wait(self.since + TOLD_WITHIN),
        }
        if !captured {
            self.captured = None;
            let until = self.since + CAPTURED_WITHIN;
            return if until <= now { Next::Late } else { Next::Wait(until) };
        }
        let since = *self.captured.get_or_insert(now);
        let is_said = !says || self.named.object(sources).is_some_and(|object| is_redirected(object));
        if is_said || since + SAID_WITHIN <= now { Next::Answer(Answer::Done) } else { Next::Wait(since + SAID_WITHIN) }
    }
}

/// The plugin asks this agent.
#[derive(Debug)]
struct Serving {
    incoming: mpsc::Receiver<Incoming>,
    _server: Server,
    installed: Option<Watch>,
}

impl Serving {
    /// Answers first, then installs: from then on pods of the mesh wait for an answer.
    fn start(config: &Config, socket: &Path, installed: Option<&Arc<Gate>>) -> io::Result<Self> {
        let (server, incoming) = server::start(socket)?;
        let own_namespace = std::env::var("POD_NAMESPACE").ok();
        let settings = install::Settings::of(config, own_namespace)?.zip(installed.cloned());
        let installed = settings.map(|(settings, gate)| install::start(settings, gate)).transpose()?;
        Ok(Self { incoming, _server: server, installed })
    }

    /// One of its threads has ended: nothing more is answered, or kept installed.
    fn has_ended(&self) -> bool {
        self.incoming.is_closed() || self.installed.as_ref().is_some_and(Watch::is_finished)
    }
}

/// The sandboxes of a node, and those that wait.
#[derive(Debug)]
pub(super) struct NodeSandboxes {
    all: Sandboxes,
    /// By its namespace.
    pending: BTreeMap<Cookie, Pending>,
    /// The next time at which a pending one is due.
    due: Option<Instant>,
    serving: Option<Serving>,
    /// Open once the plugin is installed; none: none is to be.
    installed: Option<Arc<Gate>>,
    /// After a failure: the time of the next try to open the socket.
    closed_until: Option<Instant>,
}

impl NodeSandboxes {
    /// Those on record on this node. The node is not ready before the plugin is installed, where one is to be.
    pub(super) fn load(config: &Config, pods: &pods::Handle, ready: &Readiness) -> Self {
        let gate = || ready.gate("CNI plugin", "it is not installed yet");
        let installed = config.cni_config_dir.as_ref().map(|_| Arc::new(gate()));
        let all = Sandboxes::load(sandboxes::folder(&config.state));
        all.all().for_each(|named| pods.name_sandbox(named.pod.uid.as_str().into(), Arc::clone(&named.netns)));
        Self { all, pending: BTreeMap::new(), due: None, serving: None, installed, closed_until: None }
    }

    /// From now on the plugin asks this agent, where it is to. A failure is tried again with a later call.
    pub(super) fn open(&mut self, config: &Config, pods: &pods::Handle) {
        let now = Instant::now();
        if self.serving.as_ref().is_some_and(Serving::has_ended) {
            tracing::error!("a thread of the CNI plugin's server has ended");
            (self.serving, self.closed_until) = (None, Some(now + OPEN_AGAIN));
        }
        let closed = self.closed_until.is_some_and(|until| now < until);
        let Some(socket) = config.cni_socket.as_deref().filter(|_| self.serving.is_none() && !closed) else { return };
        match Serving::start(config, socket, self.installed.as_ref()) {
            Ok(serving) => {
                (self.serving, self.closed_until) = (Some(serving), None);
                // Those that ended while the predecessor still answered.
                self.all.forget_unrecorded().iter().for_each(|named| end(named, pods));
            }
            Err(error) => {
                let socket = socket.display();
                tracing::error!(%error, %socket, "the CNI plugin cannot be served: new pods of the mesh do not start");
                self.closed_until = Some(now + OPEN_AGAIN);
            }
        }
    }

    /// The next request; none comes before [`Self::open`].
    pub(super) async fn request(&mut self) -> Incoming {
        let received = match &mut self.serving {
            Some(serving) => serving.incoming.recv().await,
            None => None,
        };
        match received {
            Some(incoming) => incoming,
            None => std::future::pending().await, // what became of the server is seen by `open`
        }
    }

    /// Answers no more: the plugin asks the next agent.
    pub(super) fn stop(&mut self) {
        self.pending.clear();
        // It waits for its threads.
        if let Some(serving) = self.serving.take() {
            tokio::task::spawn_blocking(move || drop(serving));
        }
    }

    /// The next time at which there is something to do. `opens`: a failed [`Self::open`] is tried again.
    pub(super) fn due(&self, opens: bool) -> Option<Instant> {
        let answer = self.due.filter(|_| self.is_waiting());
        answer.into_iter().chain(self.closed_until.filter(|_| opens)).min()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The pods of this node with the addresses of their sandboxes.
    pub(super) fn placed(
        &self,
        local: &Arc<[LocalPod]>,
        sources: &Sources,
        settings: &MeshSettings,
    ) -> Arc<[LocalPod]> {
        self.all.placed(local, sources, settings)
    }

    /// The time for which connections of the pod in this namespace wait; none where its runtime has not named it.
    pub(super) fn expected_within(&self, cookie: Cookie) -> Option<Duration> {
        let named = self.all.all().find(|named| named.cookie() == cookie);
        named.map(|_| KNOWN_WITHIN)
    }

    /// Takes a request; true where the pods of this node may be others now. The end of a sandbox is answered once its
    /// peers have been told that its tunnels are closed: without its network they would hear nothing, and a pod that gets
    /// the address next would be sent what goes on in them.
    pub(super) fn take(&mut self, incoming: Incoming, pods: &pods::Handle, ztunnel: &Ztunnel) -> bool {
        let Incoming { request, netns, answer } = incoming;
        let gone = match request {
            Request::Add(sandbox) => {
                let pod = sandbox.pod.clone();
                let opened = netns.ok_or_else(|| "it came without a network namespace".to_owned());
                let opened = opened.and_then(|netns| Netns::from_fd(netns).map_err(|e| e.to_string()));
                match opened.and_then(|netns| self.all.add(sandbox, netns).map_err(|e| e.to_string())) {
                    Ok(named) => self.wait(named, answer, pods),
                    Err(why) => {
                        tracing::warn!(pod = %pod, why, "sandbox of a new pod cannot be taken");
                        let _ = answer.send(Answer::Refused { why }); // the plugin may have given up
                    }
                }
                return true;
            }
            Request::Delete { container } => self.all.remove(&container).into_iter().collect(),
            Request::Keep { containers } => self.all.keep(&containers),
            Request::Status => Vec::new(),
        };
        let closing = gone.iter().map(|named| {
            tracing::debug!(pod = %named.pod, cookie = named.cookie().0, "sandbox ended by its runtime");
            self.pending.remove(&named.cookie());
            end(named, pods);
            ztunnel.remove(&named.name(), named.cookie().0)
        });
        let closing: Vec<_> = closing.collect();
        tokio::spawn(async move {
            let closed = async {
                for closed in closing {
                    closed.await;
                }
            };
            let _ = tokio::time::timeout(CLOSED_WITHIN, closed).await; // the runtime goes on all the same
            let _ = answer.send(Answer::Done); // as above
        });
        !gone.is_empty()
    }

    fn wait(&mut self, named: Named, answer: oneshot::Sender<Answer>, pods: &pods::Handle) {
        tracing::debug!(pod = %named.pod, cookie = named.cookie().0, "sandbox of a new pod");
        pods.name_sandbox(named.pod.uid.as_str().into(), Arc::clone(&named.netns));
        self.pending.insert(named.cookie(), Pending { named, answer, since: Instant::now(), captured: None });
    }

    /// Answers the sandboxes that are due. `heard`: there is a World. `captured`: whether the pod in this namespace is captured;
    /// `says`: there is an API server that is told.
    pub(super) fn answer(
        &mut self,
        of: (&Sources, &MeshSettings),
        heard: bool,
        captured: impl Fn(Cookie) -> bool,
        says: bool,
        pods: &Arc<pods::Handle>,
    ) {
        let now = Instant::now();
        self.due = None;
        for (cookie, mut pending) in std::mem::take(&mut self.pending) {
            match pending.next(of, heard, captured(cookie), says, now) {
                Next::Answer(answer) => {
                    match &answer {
                        Answer::Refused { why } => {
                            tracing::warn!(pod = %pending.named.pod, why, "sandbox of a new pod refused");
                        }
                        // If it comes into the mesh later, it is found by its processes.
                        Answer::Outside => {
                            let _ = self.all.remove(&pending.named.container);
                            end(&pending.named, pods);
                        }
                        Answer::Done => {}
                    }
                    let _ = pending.answer.send(answer); // as above
                }
                Next::HangUp => drop(pending),
                Next::Late => refuse_late(pending, Arc::clone(pods)),
                Next::Wait(until) => {
                    self.due = Some(self.due.map_or(until, |due| due.min(until)));
                    self.pending.insert(cookie, pending);
                }
            }
        }
    }
}

/// The pods' thread expects no process in it any more.
fn end(named: &Named, pods: &pods::Handle) {
    pods.end_sandbox(named.pod.uid.as_str().into(), named.cookie());
}

/// Refuses with the problem of the pod, which only the pods' thread knows.
fn refuse_late(pending: Pending, pods: Arc<pods::Handle>) {
    let Pending { named, answer, .. } = pending;
    tokio::task::spawn_blocking(move || {
        let why = problem(&pods.status(), &named.pod);
        tracing::warn!(pod = %named.pod, why, "sandbox of a new pod refused");
        let _ = answer.send(Answer::Refused { why }); // the plugin may have given up
    });
}

fn problem(pods: &[PodStatus], pod: &PodName) -> String {
    let status = pods.iter().find(|status| *status.uid == *pod.uid);
    match status.map(|status| (&status.problem, status.state)) {
        Some((Some(problem), _)) => problem.clone(),
        Some((None, state)) => format!("the agent has not captured it in time (it is {state})"),
        None => "the agent has not captured it in time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        Few,
        enrol::REDIRECTION,
        objects::Pod,
        testing::{ambient, labels, model, namespace, pod},
    };

    use super::*;

    fn pending(object: &Pod, since: Instant) -> Pending {
        let (namespace, name) = (object.name.namespace().to_owned(), object.name.name().to_owned());
        let pod = PodName { namespace, name, uid: object.uid.to_string() };
        let addresses = Few::one("10.0.0.1".parse().unwrap());
        let named = Named { container: "c".into(), pod, addresses, netns: Arc::new(Netns::own().unwrap()) };
        Pending { named, answer: oneshot::channel().0, since, captured: None }
    }

    fn another() -> PodName {
        PodName { namespace: "default".into(), name: "another".into(), uid: "another".into() }
    }

    #[test]
    fn a_sandbox_is_done_once_its_pod_is_captured_and_that_is_said() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let wanted = ambient("default/a", "", "");
        let said = Pod { annotations: labels(&format!("{REDIRECTION}=enabled")), ..wanted.clone() };
        let check = |object: Option<&Pod>, steps: &[(u64, bool, Next)]| {
            let mut of_pods = namespace("default");
            of_pods.labels = labels("istio-injection=enabled");
            let model = model(object.cloned().map(Into::into).into_iter().chain([of_pods.into()]));
            let mut pending = pending(&wanted, began);
            for (second, captured, expected) in steps {
                let next =
                    pending.next((model.sources(), &MeshSettings::default()), true, *captured, true, at(*second));
                assert_eq!(next, *expected, "{object:?} at {second}");
            }
        };
        let done = || Next::Answer(Answer::Done);
        check(
            Some(&wanted),
            &[
                (0, false, Next::Wait(at(15))),
                (1, true, Next::Wait(at(3))),
                (2, true, Next::Wait(at(3))),
                (3, true, done()),
            ],
        );
        check(Some(&said), &[(0, false, Next::Wait(at(15))), (1, true, done())]);
        check(Some(&wanted), &[(14, false, Next::Wait(at(15))), (15, false, Next::Late)]);
        let outside = pod("default/a", "");
        let outside = Pod { labels: labels("istio.io/dataplane-mode=none"), ..outside };
        check(Some(&outside), &[(0, false, Next::Answer(Answer::Outside))]);
        let why = "the API server has not told of this pod".to_owned();
        let untold = [(0, false, Next::Wait(at(5))), (5, false, Next::Answer(Answer::Refused { why }))];
        check(None, &untold);
        check(Some(&Pod { uid: "another".into(), ..wanted.clone() }), &untold[..1]);
        // One of a namespace that is not in the mesh.
        let model = model([namespace("default").into()]);
        let of = (model.sources(), &MeshSettings::default());
        let untold =
            || Pending { named: Named { pod: another(), ..pending(&wanted, began).named }, ..pending(&wanted, began) };
        assert_eq!(untold().next(of, true, false, true, at(5)), Next::Answer(Answer::Outside));
        // An agent that has heard nothing yet leaves it to the plugin.
        assert_eq!(untold().next(of, false, false, true, at(4)), Next::Wait(at(5)));
        assert_eq!(untold().next(of, false, false, true, at(5)), Next::HangUp);
    }

    #[test]
    fn nothing_is_due_for_a_sandbox_that_has_ended() {
        let (folder, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let waiting = pending(&ambient("default/a", "", ""), now);
        let mut sandboxes = NodeSandboxes {
            all: Sandboxes::load(folder.path().to_owned()),
            pending: BTreeMap::from([(Cookie(1), waiting)]),
            due: Some(now),
            serving: None,
            installed: None,
            closed_until: None,
        };
        assert_eq!((sandboxes.due(true), sandboxes.due(false)), (Some(now), Some(now)));
        sandboxes.pending.clear();
        assert_eq!(sandboxes.due(true), None);
        // Nor for a socket that this agent does not open.
        sandboxes.closed_until = Some(now);
        assert_eq!((sandboxes.due(true), sandboxes.due(false)), (Some(now), None));
    }

    #[test]
    fn a_refusal_names_the_problem_of_the_pod() {
        let status = |problem: Option<&str>| PodStatus {
            name: "default/a".into(),
            uid: "u".into(),
            cookie: None,
            state: "waiting",
            problem: problem.map(Into::into),
        };
        let pod = PodName { namespace: "default".into(), name: "a".into(), uid: "u".into() };
        assert_eq!(problem(&[status(Some("no room"))], &pod), "no room");
        assert_eq!(problem(&[status(None)], &pod), "the agent has not captured it in time (it is waiting)");
        assert_eq!(problem(&[], &pod), "the agent has not captured it in time");
    }
}
