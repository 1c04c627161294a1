//! TLS that DestinationRules begin towards endpoints, by the files that they name: read aside, and again after a while, because
//! certificates are exchanged in place.
//!
//! What must hold: without what the rule asks for there is no connection, never one in plaintext; and files that cannot be read
//! any more leave the last good ones in use.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    os::unix::fs::MetadataExt as _,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Mutex, task::spawn_blocking};
use underpass_core::{
    http::{ClusterKey, HttpVersion},
    objects::{ClientTls, TlsMode},
};
use underpass_net::tls::{Originator, Protocol, Rule, RuleError, ServerName, Settings};

use super::ConnectError;
use crate::{io::EndpointStream, worker::Worker};

/// The TLS of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Origination {
    last: RefCell<Option<Last>>,
    /// One reads at a time: others wait for what it finds.
    reading: Mutex<()>,
    /// The failure that was logged last.
    said: RefCell<Option<Arc<str>>>,
}

/// What was read last.
#[derive(Debug)]
struct Last {
    tls: ClientTls,
    stamps: Vec<Stamp>,
    originator: Rc<Originator>,
    looked: Cell<Duration>,
}

/// Tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// The reason why the files of a rule are of no use.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{field}: {path}: {source}")]
    Read { field: &'static str, path: Arc<str>, source: io::Error },
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("the task that reads broke off")]
    Broken,
}

impl Origination {
    /// The handshake with an endpoint that `stream` leads to.
    pub(super) async fn begin(
        &self,
        worker: &Worker,
        key: &ClusterKey,
        tls: &ClientTls,
        stream: EndpointStream,
        speaks: Option<HttpVersion>,
    ) -> Result<EndpointStream, ConnectError> {
        let originator = self.originator(worker, key, tls).await?;
        let name = tls.sni.as_deref().unwrap_or(&key.host);
        let failed = |error: &dyn std::fmt::Display| ConnectError::Tls(error.to_string().into());
        let server = ServerName::try_from(name).map_err(|_| failed(&format!("{name:?} is no name of a server")))?;
        let speaks = speaks.map(|version| match version {
            HttpVersion::Http1 => Protocol::Http1,
            HttpVersion::Http2 => Protocol::H2,
        });
        let connected = originator.connect(stream, server.to_owned(), speaks).await;
        Ok(EndpointStream::Tls(Box::new(connected.map_err(|error| failed(&error))?)))
    }

    /// By the files as they are, or were a short while ago.
    async fn originator(
        &self,
        worker: &Worker,
        key: &ClusterKey,
        tls: &ClientTls,
    ) -> Result<Rc<Originator>, ConnectError> {
        if let Some(known) = self.fresh(tls, worker) {
            return Ok(known);
        }
        let _one = self.reading.lock().await;
        if let Some(known) = self.fresh(tls, worker) {
            return Ok(known);
        }
        let known = self.last.borrow().as_ref().filter(|last| last.tls == *tls).map(|last| last.stamps.clone());
        let is_known = known.is_some();
        let (settings, rule) = (worker.settings.tls.clone(), tls.clone());
        let loaded = spawn_blocking(move || load(&rule, &settings, known.as_deref())).await;
        match loaded.unwrap_or(Err(LoadError::Broken)) {
            Ok(Some((stamps, originator))) => {
                let (tls, originator) = (tls.clone(), Rc::new(originator));
                let last = Last { tls, stamps, originator: Rc::clone(&originator), looked: Cell::new(worker.now()) };
                self.last.replace(Some(last));
                self.said.take();
                Ok(originator)
            }
            Ok(None) => {
                self.said.take();
                self.still(worker.now())
            }
            Err(error) => {
                let text: Arc<str> = error.to_string().into();
                if self.said.borrow().as_ref() != Some(&text) {
                    let effect =
                        if is_known { "the last good files stay in use" } else { "its endpoints are not called" };
                    tracing::warn!(cluster = %key, %error, effect, "TLS of a DestinationRule cannot be begun");
                    self.said.replace(Some(Arc::clone(&text)));
                }
                if is_known { self.still(worker.now()) } else { Err(ConnectError::Tls(text)) }
            }
        }
    }

    fn fresh(&self, tls: &ClientTls, worker: &Worker) -> Option<Rc<Originator>> {
        let last = self.last.borrow();
        let last = last.as_ref().filter(|last| last.tls == *tls)?;
        let age = worker.now().saturating_sub(last.looked.get());
        (age < worker.settings.tls_files).then(|| Rc::clone(&last.originator))
    }

    /// What was read last, for another while.
    fn still(&self, now: Duration) -> Result<Rc<Originator>, ConnectError> {
        let last = self.last.borrow();
        let last = last.as_ref().ok_or(ConnectError::Closed)?; // it was there before the files were looked at
        last.looked.set(now);
        Ok(Rc::clone(&last.originator))
    }
}

/// Reads the files of a rule; none: they are those of these stamps.
fn load(
    tls: &ClientTls,
    settings: &Settings,
    known: Option<&[Stamp]>,
) -> Result<Option<(Vec<Stamp>, Originator)>, LoadError> {
    let own = (tls.mode == TlsMode::Mutual).then_some(());
    let files = [
        ("caCertificates", tls.ca_certificates.as_ref()),
        ("caCrl", tls.ca_crl.as_ref()),
        ("clientCertificate", tls.client_certificate.as_ref().filter(|_| own.is_some())),
        ("privateKey", tls.private_key.as_ref().filter(|_| own.is_some())),
    ];
    // Before the files: what changes while they are read is seen the next time.
    let mut stamps = Vec::new();
    for (field, path) in files {
        if let Some(path) = path {
            let stamp = fs::metadata(&**path).map(|file| Stamp::of(&file));
            stamps.push(stamp.map_err(|source| LoadError::Read { field, path: Arc::clone(path), source })?);
        }
    }
    if known == Some(&*stamps) {
        return Ok(None);
    }
    let read = |(field, path): (&'static str, Option<&Arc<str>>)| {
        let read = path
            .map(|path| fs::read(&**path).map_err(|source| LoadError::Read { field, path: Arc::clone(path), source }));
        read.transpose()
    };
    let [authorities, revoked, chain, key] = files.map(read);
    let (authorities, revoked, chain, key) = (authorities?, revoked?, chain?, key?);
    let rule = Rule {
        authorities: authorities.as_deref(),
        revoked: revoked.as_deref(),
        own: chain.as_deref().zip(key.as_deref()),
        names: &tls.subject_alt_names,
        skips_verification: tls.skips_verification,
    };
    Ok(Some((stamps, Originator::new(&rule, settings)?)))
}

impl Stamp {
    fn of(file: &fs::Metadata) -> Self {
        Self { inode: file.ino(), bytes: file.len(), modified: file.modified().ok() }
    }
}
