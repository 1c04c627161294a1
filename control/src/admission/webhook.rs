//! The roots of the mesh in the ValidatingWebhookConfiguration by which an API server finds this admission. Every replica writes the
//! same. Its owner, the chart, makes it without roots: it cannot know them.

use std::time::Duration;

use tokio::time::sleep;
use underpass_kube::{Client, write::CaBundle};

use crate::{
    ca::{roots, source::Newest},
    chain,
};

/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(5);
/// The pause before another look where there is none: the chart may be making it.
const ABSENT: Duration = Duration::from_secs(10);
/// The interval between two looks: it may have been made, or made anew without roots.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Keeps the roots in the configuration of this name up to date, for as long as it is polled.
pub async fn keep(client: Client, mut authority: Newest, configuration: String) {
    loop {
        let roots = roots::text(&authority.borrow_and_update().clone());
        let pause = match client.put_ca_bundle(&configuration, &roots).await {
            Ok(CaBundle::Written) => {
                tracing::info!(%configuration, "roots of the admission webhook written");
                LOOK_AGAIN
            }
            Ok(CaBundle::Unchanged) => LOOK_AGAIN,
            Ok(CaBundle::Absent) => ABSENT,
            Err(error) => {
                tracing::warn!(%configuration, error = %chain(&error), "roots of the admission webhook not written");
                AGAIN
            }
        };
        tokio::select! {
            changed = authority.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}
