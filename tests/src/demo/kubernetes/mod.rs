//! The demo in Kubernetes: a cluster whose API server, container runtimes and kubelets are the real ones, the chart, the sample as
//! Deployments, and what a user does with them by kubectl and Helm.

mod begin;
mod playground;
mod stage;
mod steps;
mod traffic;

use anyhow::Result;
use underpass_tests::testbed::Lab;

use self::stage::Stage;
use super::screen::Screen;

/// Every step.
pub(crate) fn show(lab: &Lab, mut screen: Screen) -> Result<Stage> {
    screen.title("Underpass: a Kubernetes cluster of two nodes, the chart, the bookinfo sample");
    let cluster = begin::a_cluster(lab, &mut screen)?;
    let mesh = begin::the_chart(cluster, &mut screen)?;
    let mut stage = begin::the_sample(mesh, screen)?;
    steps::ALL.iter().try_for_each(|step| step(&mut stage))?;
    stage.screen.done();
    Ok(stage)
}

/// What can be tried after the last step.
pub(crate) fn open(stage: &Stage) -> Result<()> {
    playground::open(stage)
}
