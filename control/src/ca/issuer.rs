//! One request for a certificate: the decision, by what is known of pods and else by what the API server says now, the check of
//! what is asked for, and the certificate.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{Semaphore, watch};
use underpass_core::{
    Identity, ObjectName,
    objects::{self, Phase},
    resolve::Sources,
    world::{Account, MeshSettings},
};
use underpass_identity::{chain::Answer, request};
use underpass_kube::Client;
use underpass_telemetry::metrics::{Family, IntCounterVec, Registry};
use underpass_xds::{
    access::{Caller, Refusal, RefusalKind},
    certificates::{Issuer, Request},
};

use super::{
    grant::{Denied, Pod, Pods, decide},
    source::Newest,
};
use crate::{chain, placed::Placed};

static ISSUED: Family =
    Family::counter("underpass_ca_certificates_issued_total", "Certificates that were issued.", &[]);
static REFUSED: Family = Family::counter(
    "underpass_ca_certificates_refused_total",
    "Requests for certificates that were refused, by reason.",
    &["reason"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&ISSUED, &REFUSED];

/// The limit of questions to the API server under way.
const MOST_QUESTIONS: usize = 16;

/// The mesh's CA.
#[derive(Debug)]
pub struct MeshCa {
    /// The CA.
    pub authority: Newest,
    /// The settings of the mesh.
    pub settings: MeshSettings,
    /// The accounts of agents.
    pub agents: BTreeSet<Account>,
    /// The longest lifetime.
    pub lifetime: Duration,
    /// What is known of pods.
    pub known: Known,
    /// Numbers.
    pub counted: Counted,
}

/// What is known of pods, and who is asked about others.
#[derive(Debug)]
pub struct Known {
    sources: watch::Receiver<Sources>,
    placed: watch::Receiver<Placed>,
    client: Client,
    questions: Semaphore,
}

/// The numbers of a CA.
#[derive(Debug)]
pub struct Counted {
    issued: IntCounterVec,
    refused: IntCounterVec,
}

impl Counted {
    /// In this registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self { issued: registry.counter(&ISSUED), refused: registry.counter(&REFUSED) }
    }

    fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

impl Known {
    /// By these objects and this placement, and by the API server.
    #[must_use]
    pub fn new(sources: watch::Receiver<Sources>, placed: watch::Receiver<Placed>, client: Client) -> Self {
        Self { sources, placed, client, questions: Semaphore::new(MOST_QUESTIONS) }
    }

    fn now(&self) -> Now {
        Now { sources: self.sources.borrow().clone(), placed: self.placed.borrow().clone() }
    }

    /// What the API server says about the pods that a decision is about.
    async fn ask(&self, caller: &Caller, denied: &Denied) -> Result<Asked, String> {
        let _place = self.questions.acquire().await;
        let mut asked = Asked { now: self.now(), pod: None, runs: None };
        if let Some(bound) = &caller.pod {
            let name = ObjectName::new(Arc::clone(&caller.namespace), Arc::clone(&bound.name));
            let pod = self.client.pod(&name).await.map_err(|e| chain(&e))?;
            asked.pod = Some((name, pod.map(|pod| of(&pod))));
        }
        if let Denied::NotOnNode(identity, node) = denied {
            let account = ObjectName::new(identity.namespace(), identity.service_account());
            let runs = self.client.runs_on(&account, node).await.map_err(|e| chain(&e))?;
            asked.runs = Some((account, Arc::clone(node), runs));
        }
        Ok(asked)
    }
}

/// What is known at one moment.
struct Now {
    sources: Sources,
    placed: Placed,
}

impl Pods for Now {
    fn pod(&self, name: &ObjectName) -> Option<Pod> {
        self.sources.pod(name).map(|pod| of(pod))
    }

    fn runs_on(&self, node: &str, account: &Account) -> bool {
        self.placed.has(node, account)
    }
}

/// The same, with the API server's answers in the place of what they are about.
struct Asked {
    now: Now,
    pod: Option<(ObjectName, Option<Pod>)>,
    runs: Option<(ObjectName, Arc<str>, bool)>,
}

impl Pods for Asked {
    fn pod(&self, name: &ObjectName) -> Option<Pod> {
        match &self.pod {
            Some((asked, answer)) if asked == name => answer.clone(),
            _ => self.now.pod(name),
        }
    }

    fn runs_on(&self, node: &str, account: &Account) -> bool {
        let is_asked = |of: &ObjectName| of.namespace() == &*account.namespace && of.name() == &*account.name;
        match &self.runs {
            Some((of, on, runs)) if is_asked(of) && **on == *node => *runs,
            _ => self.now.runs_on(node, account),
        }
    }
}

fn of(pod: &objects::Pod) -> Pod {
    Pod {
        uid: Arc::clone(&pod.uid),
        service_account: Arc::clone(&pod.service_account),
        node: pod.node.clone(),
        ended: pod.phase == Phase::Terminal,
    }
}

impl MeshCa {
    /// The identity that the caller may have.
    async fn grant(&self, caller: &Caller, wanted: Option<&str>) -> Result<Identity, Refusal> {
        let decide = |pods: &dyn Pods| decide(caller, wanted, &self.agents, &self.settings, pods);
        let denied = match decide(&self.known.now()) {
            Ok(identity) => return Ok(identity),
            Err(denied) => denied,
        };
        let mut refused = denied;
        if !refused.is_final() {
            let asked = self.known.ask(caller, &refused).await.map_err(|error| {
                self.counted.refused("unavailable");
                Refusal::new(RefusalKind::Unavailable, error)
            })?;
            match decide(&asked) {
                Ok(identity) => return Ok(identity),
                Err(newest) => refused = newest,
            }
        }
        self.counted.refused(refused.as_str());
        Err(Refusal::new(RefusalKind::PermissionDenied, refused.to_string()))
    }
}

impl Issuer for MeshCa {
    async fn issue(&self, caller: Caller, request: Request) -> Result<Vec<String>, Refusal> {
        let identity = self.grant(&caller, request.impersonated.as_deref()).await?;
        let der = request::from_pem(&request.csr_pem).and_then(|der| request::check(&der, &identity).map(|()| der));
        let der = der.map_err(|fault| {
            self.counted.refused(fault.as_str());
            Refusal::new(RefusalKind::InvalidArgument, format!("certificate request for {identity}: {fault}"))
        })?;
        let lifetime = request.validity.unwrap_or(self.lifetime).min(self.lifetime);
        let authority = Arc::clone(&self.authority.borrow());
        let chain = authority.issue(&der, &identity, lifetime, SystemTime::now()).map_err(|error| {
            self.counted.refused("authority");
            tracing::error!(%identity, error = %chain(&error), "certificate not issued");
            Refusal::new(RefusalKind::Unavailable, chain(&error))
        })?;
        self.counted.issued.with_label_values(&[] as &[&str]).inc();
        tracing::debug!(%identity, %caller, "certificate issued");
        Ok(Answer { chain, roots: authority.root_certificates() }.to_pem())
    }
}
