//! The control plane: its connections, the door of facts, and its certificate API.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::uri::Authority;
use tokio::{net::TcpStream, sync::watch};
use underpass_core::{Identity, objects, world::Facts};
use underpass_door::{Problem, Severity, Source, Update};
use underpass_identity::{CertificateDer, Roots};
use underpass_keeper::{Feed, supervision::on_thread};
use underpass_net::tls::{ConfigError, Connector, ServerName, Settings, Stream};
use underpass_xds::{
    certificates::{self, Wanted},
    client::{self, Apply, Batch, Node, Progress, Rejected, Session},
    connect::{Connect, ControlPlane},
    facts::{Decoded, Decoder},
    resource::ResourceKind,
};

use crate::{
    certs::{Certify, Certifying, Refused, read_roots},
    config::Config,
    preflight::chain,
};

/// The time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What makes connections to the control plane. Its roots are those of the file at that moment.
pub(super) struct Link {
    address: String,
    name: ServerName<'static>,
    connector: Connector,
    roots_file: PathBuf,
    /// Those that the connector has.
    roots: Mutex<Vec<CertificateDer<'static>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("address", &self.address).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(
        authority: &Authority,
        name: ServerName<'static>,
        roots_file: PathBuf,
        roots: &Roots,
    ) -> Result<Self, ConfigError> {
        let connector = Connector::new(roots, &Settings::default(), HANDSHAKE)?;
        let roots = Mutex::new(roots.certificates().to_vec());
        Ok(Self { address: authority.as_str().to_owned(), name, connector, roots_file, roots })
    }

    /// The roots of the file, where they are others by now. One that cannot be read, or has no usable root, changes nothing.
    fn renew_roots(&self) {
        let Ok(newest) = read_roots(&self.roots_file) else { return };
        let mut known = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != newest
            && let Ok(roots) = Roots::new(0, newest.clone())
            && self.connector.exchange(&roots).is_ok()
        {
            tracing::info!(roots = newest.len(), "roots of the control plane changed");
            *known = newest;
        }
    }
}

impl Connect for Link {
    type Stream = Stream<TcpStream>;

    async fn connect(&self) -> io::Result<Self::Stream> {
        self.renew_roots();
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        self.connector.connect(tcp, &self.name).await.map_err(|e| io::Error::other(chain(&e)))
    }
}

/// The certificate API.
pub(super) struct RemoteCa(pub(super) certificates::Client);

impl Certify for RemoteCa {
    fn certify(&self, identity: &Identity, request: String, lifetime: Duration) -> Certifying {
        let (client, impersonated) = (self.0.clone(), Some(identity.uri().to_owned()));
        Box::pin(async move {
            let wanted = Wanted { csr_pem: request, validity: Some(lifetime), impersonated };
            client.certify(wanted).await.map_err(|e| match e.is_retryable() {
                true => Refused::Unreachable(chain(&e)),
                false => Refused::Denied(chain(&e)),
            })
        })
    }
}

/// Opens the door of facts.
pub(super) fn open(
    link: Arc<Link>,
    control_plane: ControlPlane,
    config: &Config,
    feed: Feed,
    progress: watch::Sender<Progress>,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let node = Node {
        pod: variable("POD_NAME"),
        namespace: variable("POD_NAMESPACE"),
        node: config.node.clone(),
        address: variable("INSTANCE_IP"),
        cluster: config.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let decoder = Decoder::new(Arc::new(config.mesh()));
    let facts = FactsDoor { decoder, feed, early: Some(Facts::default()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    on_thread("control plane", move || {
        let random = RandomState::new();
        let mut rolled = 0_u64;
        let dice = move || {
            rolled = rolled.wrapping_add(1);
            random.hash_one(rolled)
        };
        let Err(error) = runtime.block_on(client::run(control_plane, link, Session::new(node), facts, progress, dice));
        tracing::error!(error = %chain(&error), "control plane cannot be asked");
    })
}

/// Turns resources into facts, for the keeper.
struct FactsDoor {
    decoder: Decoder,
    feed: Feed,
    /// What has arrived before everything has: half of what there is would open what the other half closes. None: it has.
    early: Option<Facts>,
}

impl Apply for FactsDoor {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejected> {
        let Decoded { facts, problems } = self.decoder.apply(batch.changes);
        let rejected = problems.iter().filter_map(rejected).collect();
        let facts = match self.early.take() {
            Some(mut early) => {
                early.changes.extend(facts.changes);
                if !batch.complete {
                    self.early = Some(early);
                    return rejected;
                }
                early
            }
            None => facts,
        };
        let problems = self.decoder.problems().cloned().collect();
        self.feed.send(Update { facts, ..Update::new(objects::Batch::default(), problems, BTreeMap::new()) });
        rejected
    }
}

/// The refusal of a resource that is not served as it is; a warning refuses nothing.
fn rejected((kind, problem): &(ResourceKind, Problem)) -> Option<Rejected> {
    let Source::ControlPlane { resource } = &problem.source else { return None };
    let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    let reason = format!("{field}{}", problem.reason);
    (problem.severity() == Severity::Error).then(|| Rejected { kind: *kind, name: Arc::clone(resource), reason })
}
