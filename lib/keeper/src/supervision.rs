//! Supervised tasks, which the agent cannot be without. One that ends by itself, by a panic or the end of its input, would
//! leave an agent that serves a past state, and looks healthy: so its end is the end of the process, and captured
//! connections wait for the next one.

use std::io;

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};

/// The unexpected end of a supervised task.
#[derive(Debug, thiserror::Error)]
#[error("{what} has ended")]
pub struct TaskEnded {
    what: &'static str,
    source: Option<JoinError>,
}

/// A supervised task. Dropped, it is aborted.
#[derive(Debug)]
pub struct SupervisedTask {
    what: &'static str,
    task: JoinHandle<()>,
}

/// Runs a function on a thread of its own, where it may take longer than a thread that serves has. The answer completes when it
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

impl SupervisedTask {
    /// Starts a task. Call it inside a tokio runtime.
    pub fn spawn(what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { what, task: tokio::spawn(task) }
    }

    /// Waits for its end: for ever, where nothing is wrong. Not to be called again afterwards.
    pub async fn ended(&mut self) -> TaskEnded {
        TaskEnded { what: self.what, source: (&mut self.task).await.err() }
    }
}

impl Drop for SupervisedTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use underpass_telemetry::admin::Readiness;

    use super::*;
    use crate::Keeper;

    fn says(ended: TaskEnded) -> String {
        format!("{:#}", anyhow::Error::new(ended))
    }

    #[tokio::test]
    async fn a_task_that_ended_is_named() {
        let mut panics = SupervisedTask::spawn("the task", async { panic!("on purpose") });
        let said = says(panics.ended().await);
        assert!(said.contains("the task has ended") && said.contains("on purpose"), "{said}");

        let thread = on_thread("test", || panic!("on a thread")).expect("a thread");
        let said = says(SupervisedTask::spawn("the thread", thread).ended().await);
        assert!(said.contains("the thread has ended") && said.contains("on a thread"), "{said}");

        // The keeper has no door any more.
        let mut keeper = Keeper::new(Default::default(), "node-1", &Default::default());
        let door = keeper.door("manifests", Readiness::new().gate("manifests", "nothing is known"));
        let mut keeping = SupervisedTask::spawn("the keeper", keeper.start().unwrap());
        let lives = tokio::time::timeout(std::time::Duration::ZERO, keeping.ended()).await;
        assert!(lives.is_err(), "it runs while it has a door");
        drop(door);
        assert_eq!(says(keeping.ended().await), "the keeper has ended");
    }

    #[tokio::test]
    async fn one_that_is_dropped_ends() {
        let (sender, gone) = oneshot::channel::<()>();
        drop(SupervisedTask::spawn("the task", async move {
            let _sender = sender;
            std::future::pending().await
        }));
        assert!(gone.await.is_err());
    }
}
