//! A look at one node: a Job with one pod there, what the pod writes, and its end. For a command that asks every node what only a program
//! on it can say.
//!
//! What must hold: nothing stays. The Job is deleted in any case; where that fails, the look says so beside what it found. Where the command
//! dies, or cannot delete it, the API server deletes it by its `ttlSecondsAfterFinished`.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    select,
    time::{sleep, timeout},
};
use underpass_core::ObjectName;

use crate::{
    client::{Call, Client, Collection, Error, MAX_BYTES, is_name},
    daemon_set::Pod,
};

/// The pause between two looks at a pod.
const PAUSE: Duration = Duration::from_secs(1);
/// Events of one page.
const EVENTS: u32 = 50;
/// The label of a Job's pods.
const JOB: &str = "batch.kubernetes.io/job-name";

/// What became of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It ended well, and wrote this.
    Wrote(String),
    /// It failed, and wrote this.
    Failed(String),
    /// It did not end in time: the reason, in the words of the scheduler, the kubelet or the API server; empty: not known.
    Late(Arc<str>),
    /// The look was stopped before it ended.
    Stopped,
}

/// A look that is over.
#[derive(Debug)]
pub struct Look {
    /// What became of the pod, or why that is not known.
    pub looked: Result<Looked, Error>,
    /// Why the Job could not be deleted, where it stays.
    pub stays: Option<Error>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    message: String,
    /// RFC 3339 in UTC: later ones sort behind earlier ones.
    last_timestamp: Option<String>,
}

impl Client {
    /// Makes this Job, waits until its pod has ended, `patience` is over, or `stop` is ready, and deletes it.
    pub async fn look(&self, job: &Value, patience: Duration, stop: impl Future<Output = ()>) -> Look {
        let text = |field: &str| job.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = ObjectName::new(text("/metadata/namespace"), text("/metadata/name"));
        if let Err(e) = self.make_job(&name, job).await {
            return Look { looked: Err(e), stays: None };
        }
        let looked = select! {
            looked = timeout(patience, self.ended(&name)) => match looked {
                Ok(looked) => looked,
                Err(_) => self.reason(&name).await.map(Looked::Late),
            },
            () = stop => Ok(Looked::Stopped),
        };
        let deleted = self.delete(Collection::JOBS.one(name.namespace(), name.name())).await;
        Look { looked, stays: deleted.err() }
    }

    async fn make_job(&self, name: &ObjectName, job: &Value) -> Result<(), Error> {
        for part in [name.namespace(), name.name()] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        let call = Call::new(Method::POST, Collection::JOBS.within(name.namespace())).json(job)?;
        self.text(&call, MAX_BYTES).await.map(drop)
    }

    async fn ended(&self, job: &ObjectName) -> Result<Looked, Error> {
        loop {
            if let Some(pod) = self.pod_of(job).await? {
                match &*pod.status.phase {
                    "Succeeded" => return self.log(job.namespace(), &pod).await.map(Looked::Wrote),
                    "Failed" => return self.log(job.namespace(), &pod).await.map(Looked::Failed),
                    _ => {}
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn pod_of(&self, job: &ObjectName) -> Result<Option<Pod>, Error> {
        let pods = self.labelled(job.namespace(), &format!("{JOB}={}", job.name())).await?;
        Ok(pods.into_iter().next())
    }

    async fn log(&self, namespace: &str, pod: &Pod) -> Result<String, Error> {
        let path = format!("{}/log", Collection::PODS.one(namespace, &pod.metadata.name));
        self.text(&Call::get(path).accept("*/*"), MAX_BYTES).await
    }

    /// Why the pod has not ended: its own state, else the last event about it or its Job.
    async fn reason(&self, job: &ObjectName) -> Result<Arc<str>, Error> {
        let pod = self.pod_of(job).await?;
        let waits =
            pod.as_ref().and_then(Pod::waits).filter(|waits| !waits.is_empty() && &**waits != "ContainerCreating");
        if let Some(waits) = waits {
            return Ok(waits);
        }
        let about = pod.map_or_else(|| job.name().into(), |pod| pod.metadata.name);
        let call = Call::get(Collection::CORE_EVENTS.within(job.namespace()));
        let call = call.with("fieldSelector", &format!("type=Warning,involvedObject.name={about}"));
        // Without the right to read events there is less to say.
        let events: Vec<Event> = self.pages(call, EVENTS).await.unwrap_or_default();
        let last = events.into_iter().max_by(|a, b| a.last_timestamp.cmp(&b.last_timestamp));
        Ok(last.map(|event| event.message.replace(char::is_control, " ")).unwrap_or_default().into())
    }
}
