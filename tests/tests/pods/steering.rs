//! The end of a pod's steering, in the middle of its release: what arrives before goes to the tunnel, what arrives after it to the
//! application, and nothing fails in between. Its own file because each of its scenarios is about this step alone.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use underpass_tests::{
    apps::{
        hammer::{self, Hammer, Struck},
        remote::{Id, Sockets},
        servers,
        socket::{Dial, dial},
    },
    testbed::{Actor, Lab, Testbed, wait::wait_until},
};

use super::agent::{Agent, Order};
use super::setup::{both, enrolled, hello, traces, who, without};

/// Longer than any scenario.
const DRAIN: Duration = Duration::from_secs(600);
/// Long for a connection within a machine, and shorter than a wait for the next agent.
const SOON: Duration = Duration::from_secs(5);

/// Calls without a pause.
struct Calls {
    callers: Vec<Actor<Struck>>,
    until: PathBuf,
}

impl Calls {
    /// From each of these pods to each of these servers.
    fn begin(bed: &Testbed, callers: &[&str], to: &[SocketAddr]) -> Result<Self> {
        let until = bed.lab().run_directory().join("stop");
        let order = || Hammer::new(to.to_vec(), "AGAIN", &until).patience(SOON);
        let callers = callers.iter().map(|caller| hammer::start(&bed.app(caller)?, order())).collect::<Result<_>>()?;
        let mut calls = Self { callers, until };
        calls.go_on()?;
        Ok(calls)
    }

    /// Each of the callers is answered some more times.
    fn go_on(&mut self) -> Result<()> {
        self.callers.iter_mut().try_for_each(|caller| hammer::answers(caller, 10))
    }

    /// Every call was answered.
    fn end(self) -> Result<()> {
        fs::write(&self.until, "")?;
        self.callers.into_iter().try_for_each(|caller| hammer::ensure_none_failed(caller).map(drop))
    }
}

fn servers_of(bed: &Testbed, pod: &str) -> Result<Vec<SocketAddr>> {
    Ok(both(bed, pod)?.into_iter().map(|ip| (ip, 8080).into()).collect())
}

/// Whether a new connection comes to its server by the tunnel of the server's pod: by another port of the client's address.
fn is_steered(bed: &Testbed, from: &str, to: SocketAddr) -> Result<bool> {
    let talk = bed.app(from)?.act(dial, Dial::to(to))?.answered()?;
    let who = talk.who()?;
    ensure!(who.app == "echo" && who.peer.ip() == talk.local.ip(), "{talk:?}");
    Ok(who.peer.port() != talk.local.port())
}

fn there(sockets: &mut Sockets, open: Id) -> Result<()> {
    sockets.send(open, b"still there?")??;
    ensure!(sockets.receive(open, 12)?? == b"still there?", "another answer");
    Ok(())
}

/// Calls to a pod without a pause neither keep it from leaving nor fail, also where its release is cancelled.
pub(crate) fn a_pod_that_is_called_leaves(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, DRAIN)?;
    let _echo = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let to = servers_of(&bed, "default/a1")?;
    let mut calls = Calls::begin(&bed, &["default/b1", "default/b2"], &to)?;
    let mut sockets = Sockets::start(&bed.app("default/b1")?)?;
    let open = sockets.connect(to[0])?;
    hello(&mut sockets, open)?;
    for _ in 0..2 {
        ensure!(is_steered(&bed, "default/b2", to[0])?, "not steered");
        agent.world(&without(&facts, "default/a1"))?;
        agent.wait_for("default/a1", "releasing")?;
        // The open one still goes through the tunnel, new ones past it.
        wait_until("the end of the steering", || Ok(agent.look()?.steered == 1))?;
        ensure!(!is_steered(&bed, "default/b2", to[0])?, "still steered");
        calls.go_on()?;
        there(&mut sockets, open)?;
        agent.world(&facts)?;
        agent.wait_for("default/a1", "enrolled")?;
        ensure!(agent.look()?.steered == 2, "not steered again");
        calls.go_on()?;
        there(&mut sockets, open)?;
    }
    agent.world(&without(&facts, "default/a1"))?;
    wait_until("the end of the steering", || Ok(agent.look()?.steered == 1))?;
    sockets.close(open)??;
    agent.wait_for("default/a1", "")?;
    calls.go_on()?;
    calls.end()?;
    wait_until("nothing of the mesh is left in the pod", || Ok(traces(&bed, "default/a1")?.is_empty()))
}

/// While a captured connection of a pod's application is open, what arrives at the pod goes to the tunnel alone. Beside it a pod
/// without one, which is looked at in the same moments.
pub(crate) fn what_a_pod_opened_keeps_it_steered(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, DRAIN)?;
    let mut apps = Vec::new();
    for pod in ["default/a1", "default/a2", "default/b1"] {
        apps.push(servers::echo(&bed.app(pod)?, "[::]:8080".parse()?)?);
    }
    let [a1, a2, b1] = ["default/a1", "default/a2", "default/b1"].map(|pod| servers_of(&bed, pod));
    let (a1, a2, b1) = (a1?, a2?, b1?);
    let mut theirs = Sockets::start(&bed.app("default/b2")?)?;
    let mut incoming = Vec::new();
    for to in [a1[0], a2[0]] {
        let open = theirs.connect(to)?;
        hello(&mut theirs, open)?;
        incoming.push(open);
    }
    for to in b1 {
        let mut ours = Sockets::start(&bed.app("default/a1")?)?;
        let outgoing = ours.connect(to)?;
        ensure!(hello(&mut ours, outgoing)? == "tunnel");
        let outside = without(&without(&facts, "default/a1"), "default/a2");
        agent.world(&outside)?;
        wait_until("the end of the steering of a2", || Ok(agent.look()?.steered < 2))?;
        for (a1, a2) in a1.iter().zip(&a2) {
            ensure!(is_steered(&bed, "default/b2", *a1)?, "past the tunnel while it carries what the pod opened");
            ensure!(!is_steered(&bed, "default/b2", *a2)?, "the twin is steered");
        }
        there(&mut ours, outgoing)?;
        ours.close(outgoing)??;
        wait_until("the end of the steering of a1", || Ok(agent.look()?.steered == 0))?;
        for to in &a1 {
            ensure!(!is_steered(&bed, "default/b2", *to)?, "still steered");
        }
        incoming.iter().try_for_each(|open| there(&mut theirs, *open))?;
        agent.world(&facts)?;
        for pod in ["default/a1", "default/a2"] {
            agent.wait_for(pod, "enrolled")?;
        }
        ensure!(agent.look()?.steered == 2, "not steered again");
    }
    // Without an agent: steered to a tunnel that is gone.
    agent.0.kill()?;
    for to in a1 {
        let failure = bed.app("default/b2")?.act(dial, Dial::to(to))?.failed()?;
        ensure!(failure.step == "connect" && !failure.is_timeout(), "inbound without an agent: {failure}");
    }
    Ok(())
}

/// An agent is killed in the middle of a release. The next one goes on with it, or enrols the pod anew; meanwhile neither what
/// arrives at the pod nor what its applications open fails.
pub(crate) fn an_agent_that_comes_back_goes_on_with_a_release(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, DRAIN)?;
    let _echo = [
        servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?,
        servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?,
    ];
    let [to_a, to_b] = ["default/a1", "default/b1"].map(|pod| servers_of(&bed, pod));
    let (to_a, to_b) = (to_a?, to_b?);
    for goes_on in [false, true] {
        let mut sockets = Sockets::start(&bed.app("default/b1")?)?;
        let open = sockets.connect(to_a[0])?;
        hello(&mut sockets, open)?;
        agent.world(&without(&facts, "default/a1"))?;
        wait_until("the end of the steering", || Ok(agent.look()?.steered == 1))?;
        let mut calls =
            [Calls::begin(&bed, &["default/b1", "default/b2"], &to_a)?, Calls::begin(&bed, &["default/a1"], &to_b)?];
        agent.0.kill()?;
        calls.iter_mut().try_for_each(Calls::go_on)?;
        agent = Agent::start(&bed, DRAIN)?;
        calls.iter_mut().try_for_each(Calls::go_on)?;
        agent.world(&if goes_on { without(&facts, "default/a1") } else { facts.clone() })?;
        if goes_on {
            wait_until("a1 is released", || Ok(agent.look()?.pods == 1))?;
        } else {
            agent.wait_for("default/a1", "enrolled")?;
        }
        calls.iter_mut().try_for_each(Calls::go_on)?;
        calls.into_iter().try_for_each(Calls::end)?;
        fs::remove_file(lab.run_directory().join("stop"))?;
        for to in &to_b {
            let app = who(&bed, "default/a1", *to)?.app;
            ensure!(app == if goes_on { "echo" } else { "tunnel" }, "{app}, released: {goes_on}");
        }
        for to in &to_a {
            ensure!(is_steered(&bed, "default/b2", *to)? != goes_on, "released: {goes_on}");
        }
    }
    wait_until("nothing of the mesh is left in the pod", || Ok(traces(&bed, "default/a1")?.is_empty()))
}

/// A connect() that waits for the next agent is carried by it, also where its pod left the mesh meanwhile.
pub(crate) fn what_waits_for_an_agent_is_carried_although_its_pod_leaves(lab: &Lab) -> Result<()> {
    let (bed, agent, facts) = enrolled(lab, DRAIN)?;
    let _echo = [
        servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?,
        servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?,
    ];
    let (to_a, to_b) = (servers_of(&bed, "default/a1")?, servers_of(&bed, "default/b1")?);
    agent.0.kill()?;
    let app = bed.app("default/a1")?;
    let patient = |to: &SocketAddr| app.begin(dial, Dial::to(*to).patience(hammer::PATIENT));
    let waiting = to_b.iter().map(patient).collect::<Result<Vec<_>>>()?;
    wait_until("every connect() to wait", || {
        Ok(app.run("ss", &["-tanHO", "state", "syn-sent"])?.lines().count() == waiting.len())
    })?;
    let mut agent = Agent::start(&bed, DRAIN)?;
    agent.world(&without(&facts, "default/a1"))?;
    for waited in waiting {
        let who = waited.join()?.answered()?.who()?;
        ensure!(who.app == "tunnel", "{who:?}");
    }
    agent.wait_for("default/a1", "")?;
    for (to_a, to_b) in to_a.into_iter().zip(to_b) {
        ensure!(who(&bed, "default/a1", to_b)?.app == "echo" && !is_steered(&bed, "default/b2", to_a)?, "not released");
    }
    wait_until("nothing of the mesh is left in the pod", || Ok(traces(&bed, "default/a1")?.is_empty()))
}

/// A successor that fails has changed a pod in the middle of its release. The agent before it goes on with the release; and where
/// the pod is wanted again meanwhile, it is whole.
pub(crate) fn what_a_successor_did_to_a_pod_in_release_is_put_right(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, DRAIN)?;
    let _echo = [
        servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?,
        servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?,
    ];
    let (to_a, to_b) = (servers_of(&bed, "default/a1")?, servers_of(&bed, "default/b1")?);
    let outside = without(&facts, "default/a1");
    for is_enrolled in [true, false] {
        for is_wanted in [true, false] {
            let mut sockets = Sockets::start(&bed.app("default/b1")?)?;
            let open = sockets.connect(to_a[0])?;
            hello(&mut sockets, open)?;
            agent.world(&outside)?;
            wait_until("the end of the steering", || Ok(agent.look()?.steered == 1))?;
            agent.0.tell(&Order::StandStill)?;
            agent.0.event::<()>()?;
            let mut successor = Agent::start_as("successor", &bed, "node-1", DRAIN)?;
            successor.world(if is_enrolled { &facts } else { &outside })?;
            if is_enrolled {
                successor.wait_for("default/a1", "enrolled")?;
            }
            let pods = if is_enrolled { 2 } else { 1 };
            wait_until("the successor to have changed it", || Ok(successor.look()?.pods == pods))?;
            successor.0.kill()?;
            agent.0.tell(&Order::GoOn)?;
            agent.0.event::<()>()?;
            agent.world(if is_wanted { &facts } else { &outside })?;
            drop(sockets);
            agent.wait_for("default/a1", if is_wanted { "enrolled" } else { "" })?;
            for to in &to_b {
                let app = who(&bed, "default/a1", *to)?.app;
                ensure!(app == if is_wanted { "tunnel" } else { "echo" }, "{app}, wanted: {is_wanted}");
            }
            for to in &to_a {
                ensure!(is_steered(&bed, "default/b2", *to)? == is_wanted, "wanted: {is_wanted}");
            }
            agent.world(&facts)?;
            agent.wait_for("default/a1", "enrolled")?;
        }
    }
    Ok(())
}
