//! The demo on plain nodes: two network namespaces with an agent each, which read manifests of a directory, without Kubernetes.

mod operate;
mod playground;
mod processes;
mod requests;
mod stage;
mod steps;

use anyhow::Result;
use underpass_tests::testbed::Lab;

pub(crate) use self::stage::Stage;
use super::screen::Screen;

/// Every step.
pub(crate) fn show(lab: &Lab, screen: Screen) -> Result<Stage> {
    let mut stage = Stage::up(lab, screen)?;
    steps::ALL.iter().try_for_each(|step| step(&mut stage))?;
    stage.screen.done();
    Ok(stage)
}

/// What can be tried after the last step.
pub(crate) fn open(stage: &mut Stage) -> Result<()> {
    println!();
    stage.label(true)?;
    playground::open(stage)
}
