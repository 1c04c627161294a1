//! A take-over, step by step: the successor is held before each.
//!
//! A step is a change that outlives the process: of a link, a pin or a name. Of pins and names that are made or removed one after
//! the other the first is stopped at; writes of entries are not.

use anyhow::{Result, bail};
use underpass_tests::{
    mesh::AgentVersion,
    testbed::{Call, Running, Step, Stepper, wait::wait_until},
};

use crate::{NODE, scene::Scene};

/// Steps, numbered from 0: of pins and names that are made or removed one after the other, the first is one.
#[derive(Default)]
pub(super) struct Steps {
    passed: usize,
    last: Option<&'static str>,
}

impl Steps {
    /// The number of this step; none where it belongs to the one before.
    pub(super) fn number(&mut self, step: &Step) -> Option<usize> {
        let kind = match step {
            Step::Bpf("update link") => None,
            Step::Bpf(command) => Some(*command),
            Step::Name(call, _) => Some(*call),
            Step::Other => return None,
        };
        let is_one_more = kind.is_some() && self.last == kind;
        self.last = kind;
        self.passed += usize::from(!is_one_more);
        (!is_one_more).then(|| self.passed - 1)
    }
}

/// The successor has taken over, and its version's tables count.
pub(super) fn takes_over(scene: &mut Scene, to: AgentVersion) -> Result<bool> {
    Ok(scene.mesh.agent(NODE)?.log()?.contains("take-over complete") && scene.is_of(to)?)
}

/// Starts the take-over from an agent of this version; the predecessor, and the successor's stepper.
pub(super) fn stepped(scene: &mut Scene, from: AgentVersion) -> Result<(Running, Stepper)> {
    scene.mesh.agent_version(from.other());
    scene.mesh.stepped(true);
    let before = scene.mesh.begin_taking_over(NODE)?;
    scene.mesh.stepped(false);
    Ok((before, scene.mesh.agent(NODE)?.stepper()?))
}

/// Starts the take-over and stops the successor before step `n`; the step's call, the predecessor, and the successor's stepper.
/// Nothing when it has come to its end without so many steps.
pub(super) fn begin(scene: &mut Scene, from: AgentVersion, n: usize) -> Result<Option<(Call, Running, Stepper)>> {
    let (before, stepper) = stepped(scene, from)?;
    let mut steps = Steps::default();
    let is_over = |scene: &mut Scene| takes_over(scene, from.other());
    let found = wait_for_step(scene, &stepper, is_over, |step| steps.number(step) == Some(n))?;
    match found {
        Some(call) => Ok(Some((call, before, stepper))),
        None => {
            stepper.go_on();
            Ok(None)
        }
    }
}

/// Lets calls go until one that `stops` names; none when it is `done`.
pub(super) fn wait_for_step(
    scene: &mut Scene,
    stepper: &Stepper,
    done: impl Fn(&mut Scene) -> Result<bool>,
    mut stops: impl FnMut(&Step) -> bool,
) -> Result<Option<Call>> {
    let locks = scene.mesh.bed.lab().bpffs().join("underpass/locks");
    let counts = |step: &Step| match step {
        Step::Bpf(_) => true,
        Step::Name(_, path) => !path.starts_with(&locks), // before it has found the agent that runs
        Step::Other => false,
    };
    let mut found = None;
    wait_until("the next step", || match stepper.waiting() {
        Ok(Some(call)) if counts(&call.step) && stops(&call.step) => {
            found = Some(call);
            Ok(true)
        }
        Ok(Some(call)) => stepper.let_go(&call).map(|()| false),
        Ok(None) => done(scene),
        Err(_) if done(scene)? => Ok(true), // one that has drained
        Err(error) => bail!("{error:#}:\n{}", scene.mesh.agent(NODE)?.log()?),
    })?;
    Ok(found)
}
