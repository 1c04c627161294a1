//! The roots of the mesh in the ValidatingWebhookConfiguration by which an API server finds this admission. The replica that leads
//! writes them: another one whose CA is a step behind would put older roots in their place, again and again. Its owner, the
//! chart, makes it without roots: it cannot know them.

use std::time::Duration;

use tokio::time::sleep;
use underpass_kube::{Client, Leadership, client::Error, write::CaBundle};

use crate::{
    ca::{roots, source::Newest},
    chain,
};

/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(5);
/// The pause before another look where there is none: the chart may be making it.
const ABSENT: Duration = Duration::from_secs(10);
/// The pause after another writer was in between.
const CHANGED: Duration = Duration::from_secs(1);
/// The interval between two looks: it may have been made, or made anew without roots.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Keeps the roots in the configuration of this name up to date while this replica leads, for as long as it is polled.
pub async fn keep(client: Client, mut authority: Newest, configuration: String, mut leadership: Leadership) {
    let mut told = None;
    loop {
        leadership.acquired().await;
        let roots = roots::text(&authority.borrow_and_update().clone());
        let outcome = tokio::select! {
            outcome = client.put_ca_bundle(&configuration, &roots) => outcome,
            () = leadership.lost() => continue,
        };
        if matches!(outcome, Ok(CaBundle::Written)) {
            tracing::info!(%configuration, "roots of the admission webhook written");
        }
        let (pause, failed) = after(outcome);
        if let Some(error) = failed.as_ref().filter(|_| failed != told) {
            tracing::warn!(
                %configuration,
                error,
                "roots of the admission webhook not written, policies go in unreviewed where it has none that hold"
            );
        }
        told = failed;
        tokio::select! {
            changed = authority.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// The pause before the next look, and the failure, where it was one.
fn after(outcome: Result<CaBundle, Error>) -> (Duration, Option<String>) {
    match outcome {
        Ok(CaBundle::Written | CaBundle::Unchanged) => (LOOK_AGAIN, None),
        Ok(CaBundle::Absent) => (ABSENT, None),
        Err(error) if error.status() == Some(409) => (CHANGED, None),
        Err(error) => (AGAIN, Some(chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use underpass_kube::client::Status;

    use super::*;

    #[test]
    fn another_writer_is_looked_at_again_and_no_failure() {
        let answered = |code| {
            let status: Status = serde_json::from_value(json!({"code": code})).unwrap();
            after(Err(Error::Answered { request: "PATCH /x".into(), status }))
        };
        assert_eq!(answered(409), (CHANGED, None));
        let (pause, failed) = answered(403);
        assert!(pause == AGAIN && failed.as_ref().is_some_and(|says| says.starts_with("PATCH /x")), "{failed:?}");
        assert_eq!(after(Ok(CaBundle::Absent)), (ABSENT, None));
        assert_eq!(after(Ok(CaBundle::Unchanged)), (LOOK_AGAIN, None));
    }
}
