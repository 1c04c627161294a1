//! What is seen while Helm waits: the pods of the mesh, a line whenever something has changed.

use std::{ffi::OsString, process::ExitStatus, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use underpass_kube::pods::ComponentPod;

use super::Found;
use crate::{
    chart::ChartError,
    error::CliError,
    output::{complain, one_line},
};

/// The label of everything that is the mesh's own.
const OWN: &str = "app.kubernetes.io/part-of=underpass";
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The pods of the mesh by the beginnings of their names, in the order in which they come.
const PARTS: [&str; 4] = ["underpass-crds", "underpass-control", "underpass-agent", "underpass-cleanup"];

/// Runs Helm, and tells meanwhile how pods fare. A Ctrl-C is Helm's too, which ends in good order; so this command waits for it.
pub(crate) async fn watched(found: &Found, namespace: &str, arguments: &[OsString]) -> Result<ExitStatus, CliError> {
    let unheard = |source| CliError::Runtime { source };
    let mut interrupted = signal(SignalKind::interrupt()).map_err(unheard)?;
    let mut helm = found.helm.start(arguments)?;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        tokio::select! {
            ended = helm.wait() => {
                let program = "helm".to_owned();
                return ended.map_err(|source| ChartError::NoHelm { program, source }.into());
            }
            _ = interrupted.recv() => complain("- helm was asked to end, and is waited for"),
            _ = looks.tick() => {
                // An API server that does not answer is told by Helm.
                let Ok(pods) = found.client.component(namespace, OWN).await else { continue };
                let line = told(&pods);
                if line != last && !line.is_empty() {
                    complain(&format!("  {line}"));
                    last = line;
                }
            }
        }
    }
}

/// `underpass-control 1/2, underpass-agent 0/3 ready; underpass-agent-x7k2p: ImagePullBackOff`; nothing: there is no pod.
fn told(pods: &[ComponentPod]) -> String {
    let of = |part: &'static str| {
        let pods: Vec<_> = pods.iter().filter(|pod| pod.name.name().starts_with(part)).collect();
        let ready = pods.iter().filter(|pod| pod.is_ready()).count();
        (!pods.is_empty()).then(|| format!("{part} {ready}/{}", pods.len()))
    };
    let counts: Vec<String> = PARTS.into_iter().filter_map(of).collect();
    if counts.is_empty() {
        return String::new();
    }
    let why = |pod: &ComponentPod| {
        let why = pod.waits.as_deref().filter(|why| !why.is_empty())?;
        Some(format!("; {}: {}", pod.name.name(), one_line(why)))
    };
    format!("{} ready{}", counts.join(", "), pods.iter().find_map(why).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use underpass_core::ObjectName;

    use super::*;

    #[test]
    fn pods_are_counted_and_one_that_waits_says_why() {
        let pod = |name: &str, waits: Option<&str>| ComponentPod {
            name: ObjectName::new("mesh", name),
            node: None,
            image: "i".into(),
            is_running: true,
            waits: waits.map(Into::into),
            created: "".into(),
        };
        assert_eq!(told(&[]), "");
        assert_eq!(told(&[pod("another", None)]), "");
        let pods = [
            pod("underpass-agent-a", Some("")),
            pod("underpass-agent-b", Some("ErrImagePull\n")),
            pod("underpass-control-1-a", None),
        ];
        assert_eq!(told(&pods), "underpass-control 1/1, underpass-agent 0/2 ready; underpass-agent-b: ErrImagePull\\n");
    }
}
