//! Tasks that the agent cannot be without. One that ends by itself, by a panic or because nobody feeds it any more, would
//! leave an agent that serves what was true then, and looks well: so its end is the end of the process, and what is
//! captured waits for the next one.

use std::io;

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};

/// A task ended that does not end by itself.
#[derive(Debug, thiserror::Error)]
#[error("{what} has ended")]
pub struct Gone {
    what: &'static str,
    source: Option<JoinError>,
}

/// A running task. Dropped, it is ended.
#[derive(Debug)]
pub struct Kept {
    what: &'static str,
    task: JoinHandle<()>,
}

/// Runs something on a thread of its own, for what may take longer than a thread that serves has. The answer completes when it
/// has ended, and panics where it has.
///
/// # Errors
/// Where no thread can be started.
pub fn on_thread<F: FnOnce() + Send + 'static>(
    name: &str,
    run: F,
) -> io::Result<impl Future<Output = ()> + Send + use<F>> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let _ = done.send(run); // fails only where it is not waited for
    })?;
    Ok(async move {
        if let Ok(Err(panic)) = ended.await {
            std::panic::resume_unwind(panic);
        }
    })
}

impl Kept {
    /// Starts it. Call it inside a tokio runtime.
    pub fn spawn(what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { what, task: tokio::spawn(task) }
    }

    /// Waits until it is gone: for ever, where nothing is wrong. Not to be called again afterwards.
    pub async fn gone(&mut self) -> Gone {
        Gone { what: self.what, source: (&mut self.task).await.err() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use underpass_telemetry::admin::Readiness;

    use super::*;
    use crate::keeper::Keeper;

    fn says(gone: Gone) -> String {
        format!("{:#}", anyhow::Error::new(gone))
    }

    #[tokio::test]
    async fn a_task_that_is_gone_is_named() {
        let mut panics = Kept::spawn("the task", async { panic!("on purpose") });
        let said = says(panics.gone().await);
        assert!(said.contains("the task has ended") && said.contains("on purpose"), "{said}");

        let thread = on_thread("test", || panic!("on a thread")).expect("a thread");
        let said = says(Kept::spawn("the thread", thread).gone().await);
        assert!(said.contains("the thread has ended") && said.contains("on a thread"), "{said}");

        // Nothing can tell the keeper anything any more.
        let mut keeper = Keeper::new(Default::default(), "node-1", &Default::default());
        let door = keeper.door("manifests", Readiness::new().gate("manifests", "nothing is known"));
        let mut keeping = Kept::spawn("the keeper", keeper.start().unwrap());
        let lives = tokio::time::timeout(std::time::Duration::ZERO, keeping.gone()).await;
        assert!(lives.is_err(), "it keeps while it is fed");
        drop(door);
        assert_eq!(says(keeping.gone().await), "the keeper has ended");
    }

    #[tokio::test]
    async fn one_that_is_dropped_ends() {
        let (sender, gone) = oneshot::channel::<()>();
        drop(Kept::spawn("the task", async move {
            let _held = sender;
            std::future::pending().await
        }));
        assert!(gone.await.is_err());
    }
}
