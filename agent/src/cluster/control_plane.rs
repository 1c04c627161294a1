//! The control plane: its connections, its certificate API, and the stream of facts.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::uri::Authority;
use tokio::{net::TcpStream, sync::watch};
use underpass_core::Identity;
use underpass_identity::{CertificateDer, Roots};
use underpass_keeper::supervision::on_thread;
use underpass_net::tls::{ConfigError, Connector, ServerName, Settings, Stream};
use underpass_xds::{
    certificates::{self, Wanted},
    client::{self, Node, Progress, Session},
    connect::{Connect, ControlPlane},
};

use super::{
    cache::{Records, trust},
    facts::FactsDoor,
};
use crate::{
    certs::{Certify, Certifying, Refused, read_roots},
    config::Config,
    preflight::chain,
};

/// The time between two looks at the file of roots, for what is kept. Both roots of a rotation are there for longer.
const LOOK_EVERY: Duration = Duration::from_secs(10);
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

    /// Keeps the roots as they change, beside the facts.
    async fn keep_roots(&self, records: &Records) -> Infallible {
        let known = || self.roots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut before = known();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.renew_roots();
            let now = known();
            records.note(trust::changes(&before, &now));
            before = now;
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

/// Opens the door of facts. `session`: of what an earlier agent had applied.
pub(super) fn open(
    link: Arc<Link>,
    control_plane: ControlPlane,
    session: Session,
    door: FactsDoor,
    (records, progress): (Records, watch::Sender<Progress>),
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    on_thread("control plane", move || {
        let random = RandomState::new();
        let mut rolled = 0_u64;
        let dice = move || {
            rolled = rolled.wrapping_add(1);
            random.hash_one(rolled)
        };
        let Err(error) = runtime.block_on(async {
            let late = door.clone().serve_when_late(progress.clone());
            let roots = link.keep_roots(&records);
            let run = client::run(control_plane, Arc::clone(&link), session, door, progress, dice);
            tokio::select! {
                ended = run => ended,
                never = late => match never {},
                never = roots => match never {},
            }
        });
        tracing::error!(error = %chain(&error), "control plane cannot be asked");
    })
}

/// What the agent says about itself.
pub(super) fn node(config: &Config) -> Node {
    let variable = |name| std::env::var(name).unwrap_or_default();
    Node {
        pod: variable("POD_NAME"),
        namespace: variable("POD_NAMESPACE"),
        node: config.node.clone(),
        address: variable("INSTANCE_IP"),
        cluster: config.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
