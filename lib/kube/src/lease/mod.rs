//! A lease (`coordination.k8s.io/v1 Lease`): of several replicas of a program one leads. Ours rather than a crate's, because
//! a leader must be able to ask, before each write, whether it still leads by its own time.
//!
//! * `candidate`: the decision.
//! * [`Election`]: its IO. [`Leadership`]: whether this replica leads, for the tasks that only one may do.
//!
//! What must hold: a replica that was held up for longer than the lease (a frozen process, an API server that is away) does
//! not lead when it goes on, before anything else has happened. What cannot be prevented is a write under way at that moment:
//! a leader writes with the version that it read, so that a late write is refused.

mod candidate;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::Method;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::watch, time::timeout};
use underpass_core::ObjectName;

use self::candidate::{Answer, Candidate, PATIENCE, Record, Request};
use crate::{
    client::{Call, Client, Collection, Error, MAX_BYTES, is_name},
    write::{FIELD_MANAGER, MANAGED_BY, MERGE},
};

/// Whether this replica leads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// It leads at this moment. To be asked before each write.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it leads.
    pub async fn acquired(&mut self) {
        while !self.is_held() {
            if self.0.changed().await.is_err() {
                // The election has ended: it never leads.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until it does not lead.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else { return };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

/// The election of the leader among the replicas that share a lease.
#[derive(Debug)]
pub struct Election {
    client: Client,
    lease: ObjectName,
    name: Arc<str>,
    candidate: Candidate,
    leads: watch::Sender<Option<Instant>>,
    /// The failure that was logged last.
    failure: Option<String>,
}

impl Election {
    /// For a lease; `name` is a prefix of this candidate's own, for people.
    #[must_use]
    pub fn new(client: Client, lease: ObjectName, name: &str) -> Self {
        let name: Arc<str> = format!("{name}_{:016x}", RandomState::new().hash_one(std::process::id())).into();
        let candidate = Candidate::new(Arc::clone(&name));
        Self { client, lease, name, candidate, leads: watch::Sender::new(None), failure: None }
    }

    /// Whether this replica leads, as of now.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership(self.leads.subscribe())
    }

    /// Takes part until `stopping` is true, and then frees the lease, so that another replica need not wait.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            let request = self.candidate.next(Instant::now(), SystemTime::now());
            self.tell();
            let asked = Instant::now();
            let answer = tokio::select! {
                answer = self.ask(request) => answer,
                () = stops(&mut stopping) => break,
            };
            let answer = self.understand(answer);
            let pause = self.candidate.take(answer, asked, Instant::now());
            self.tell();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stops(&mut stopping) => break,
            }
        }
        self.leads.send_replace(None);
        match self.release().await {
            Ok(true) => tracing::info!(lease = %self.lease, "lease released"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(lease = %self.lease, %error, "lease not released: another replica waits for its end")
            }
        }
    }

    /// Says whether this replica leads, and who else does.
    fn tell(&mut self) {
        let until = self.candidate.until();
        let before = self.leads.send_replace(until);
        match (before, until) {
            (None, Some(_)) => tracing::info!(lease = %self.lease, candidate = %self.name, "lease acquired"),
            (Some(_), None) => {
                tracing::warn!(lease = %self.lease, holder = self.candidate.other(), "lease lost");
            }
            _ => {}
        }
    }

    fn understand(&mut self, answer: Result<Answer, Error>) -> Answer {
        match answer {
            Ok(answer) => {
                self.failure = None;
                answer
            }
            Err(error) => {
                let error = error.to_string();
                if self.failure.as_ref() != Some(&error) {
                    tracing::warn!(lease = %self.lease, %error, "lease cannot be asked for");
                    self.failure = Some(error);
                }
                Answer::Failed
            }
        }
    }

    async fn release(&mut self) -> Result<bool, Error> {
        let Some(record) = self.read().await? else { return Ok(false) };
        let Some(request) = self.candidate.release(&record, SystemTime::now()) else { return Ok(false) };
        Ok(matches!(self.ask(request).await?, Answer::Written(_)))
    }

    async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let (namespace, name) = (self.lease.namespace(), self.lease.name());
        for part in [namespace, name] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        let (call, others) = match request {
            Request::Read => return self.read().await.map(Answer::Is),
            Request::Create(spec) => {
                let object = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED_BY: FIELD_MANAGER}},
                    "spec": spec,
                });
                let call = Call::new(Method::POST, Collection::LEASES.within(namespace));
                // A namespace that is absent is 404, and no other candidate.
                (call.with("fieldManager", FIELD_MANAGER).json(&object)?, &[409][..])
            }
            Request::Write { version, spec } => {
                let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
                let call = Call::new(Method::PATCH, Collection::LEASES.one(namespace, name));
                (call.with("fieldManager", FIELD_MANAGER).body(MERGE, &patch)?, &[404, 409][..])
            }
        };
        match self.call(&call).await {
            Ok(record) => Ok(Answer::Written(record)),
            Err(e) if e.status().is_some_and(|status| others.contains(&status)) => Ok(Answer::Refused),
            Err(e) => Err(e),
        }
    }

    async fn read(&self) -> Result<Option<Record>, Error> {
        match self.call(&Call::get(Collection::LEASES.one(self.lease.namespace(), self.lease.name()))).await {
            Ok(record) => Ok(Some(record)),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn call(&self, call: &Call) -> Result<Record, Error> {
        #[derive(Deserialize)]
        struct Lease {
            metadata: Metadata,
            #[serde(default)]
            spec: LeaseSpec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: Arc<str>,
        }
        let text =
            timeout(PATIENCE, self.client.text(call, MAX_BYTES)).await.unwrap_or_else(|_| Err(call.late(PATIENCE)))?;
        let lease: Lease = serde_json::from_str(&text).map_err(|e| call.unreadable(&e))?;
        Ok(Record { version: lease.metadata.resource_version, spec: lease.spec })
    }
}

/// Waits for a stop; one that can no longer be said never comes.
async fn stops(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|is_stopping| *is_stopping).await.is_err() {
        std::future::pending::<()>().await;
    }
}
