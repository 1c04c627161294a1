//! Who gets which certificate at the control plane's real port: by real tokens of the API server, of a pod, for an audience.
//! No agent runs: the test is one.

use std::{collections::BTreeMap, fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use underpass_identity::{Certificate, Roots, certificate::certificates_from_pem, chain::Answer};
use underpass_net::tls::{Connector, Settings, Stream};
use underpass_tests::{
    cluster::{AUDIENCE, CONTROL_NAME, Cluster, agent_pod},
    testbed::{Lab, Site, wait::wait_until},
};
use underpass_xds::{
    certificates::{Client, Error, Wanted},
    connect::{Connect, ControlPlane},
};

use super::support::WORLD;

/// Patience with a handshake and with an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The identity of a pod on node-1 alone, of one on node-2 alone, and of none.
const OF_A: &str = "spiffe://cluster.local/ns/mesh/sa/a";
const OF_B: &str = "spiffe://cluster.local/ns/mesh/sa/b";
const OF_NONE: &str = "spiffe://cluster.local/ns/mesh/sa/of-no-pod";

/// A request for a certificate, as every process of a node can send it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Request {
    to: SocketAddr,
    roots: PathBuf,
    token: Option<PathBuf>,
    request: String,
    impersonated: Option<String>,
}

/// The chain, or the code of gRPC and the reason.
type Answered = Result<Vec<String>, (String, String)>;

/// TLS to the control plane, as an agent has it.
struct Link {
    to: SocketAddr,
    connector: Connector,
}

impl Connect for Link {
    type Stream = Stream<TcpStream>;

    async fn connect(&self) -> io::Result<Self::Stream> {
        let name = ServerName::try_from(CONTROL_NAME).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(self.to).await?;
        self.connector.connect(tcp, &name).await.map_err(io::Error::other)
    }
}

fn ask(request: Request) -> Result<Answered> {
    let Request { to, roots, token, request, impersonated } = request;
    let roots = Roots::new(0, certificates_from_pem(&fs::read_to_string(roots)?)?)?;
    let connector = Connector::new(&roots, &Settings::default(), PATIENCE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let control_plane = ControlPlane { token, ..ControlPlane::new(to.to_string()) };
        let client = Client::new(control_plane, Arc::new(Link { to, connector }), PATIENCE)?;
        match client.certify(Wanted { csr_pem: request, validity: None, impersonated }).await {
            Ok(chain) => Ok(Ok(chain)),
            Err(Error::Status { code, message }) => Ok(Err((format!("{code:?}"), message))),
            Err(error) => Err(error.into()),
        }
    })
}

/// A request, signed by its key, that asks for these names.
fn request(names: &[SanType]) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

fn uri(identity: &str) -> Result<SanType> {
    Ok(SanType::URI(identity.try_into()?))
}

/// A requester on node-1, with files of tokens.
struct Requester<'a> {
    cluster: &'a mut Cluster,
    site: Site,
    tokens: usize,
    /// The refusals so far, by metric and series.
    refused: BTreeMap<(&'static str, String), u64>,
}

impl Requester<'_> {
    /// A token as a file, as a kubelet mounts it.
    fn token(&mut self, token: &str) -> Result<Option<PathBuf>> {
        self.tokens += 1;
        let path = self.cluster.files().join(format!("requester-{}", self.tokens));
        fs::write(&path, token)?;
        Ok(Some(path))
    }

    fn token_of(&mut self, pod: &str) -> Result<Option<PathBuf>> {
        let token = self.cluster.kubectl().token_of_pod(pod, AUDIENCE)?;
        self.token(&token)
    }

    fn ask(&self, token: Option<&PathBuf>, request: &str, impersonated: Option<&str>) -> Result<Answered> {
        let request = Request {
            to: self.cluster.control.address(),
            roots: self.cluster.files().join("root-cert.pem"),
            token: token.cloned(),
            request: request.to_owned(),
            impersonated: impersonated.map(str::to_owned),
        };
        self.site.act(ask, request)
    }

    /// Is given a certificate of this identity.
    fn gets(&self, token: Option<&PathBuf>, names: &[SanType], wanted: Option<&str>, identity: &str) -> Result<()> {
        let chain = match self.ask(token, &request(names)?, wanted)? {
            Ok(chain) => chain,
            Err((code, message)) => bail!("{identity} is refused: {code}: {message}"),
        };
        let answer = Answer::from_pem(&chain)?;
        let leaf = Certificate::parse(answer.chain.first().context("a leaf")?)?;
        ensure!(leaf.identity().map_err(|e| anyhow!("{e}"))?.uri() == identity, "{leaf:?}");
        Ok(())
    }

    /// Is refused by this code of gRPC and a message with this text; control says so. That it counts them is looked at afterwards.
    fn is_refused(
        &mut self,
        what: &str,
        (token, request, wanted): (Option<&PathBuf>, &str, Option<&str>),
        (code, text, reason): (&str, &str, &str),
    ) -> Result<()> {
        let family = match code {
            "Unauthenticated" => "underpass_callers_refused_total",
            _ => "underpass_ca_certificates_refused_total",
        };
        *self.refused.entry((family, format!("reason=\"{reason}\""))).or_default() += 1;
        let log = self.cluster.control.running()?.log()?.len();
        let (found, message) = match self.ask(token, request, wanted)? {
            Err(refused) => refused,
            Ok(_) => bail!("{what}: a certificate"),
        };
        ensure!(found == code && message.contains(text), "{what}: {found}: {message}");
        let said = self.cluster.control.running()?.log()?;
        let said = said.get(log..).unwrap_or_default();
        let is_said = said.lines().any(|line| line.contains("certificate refused") && line.contains(text));
        ensure!(is_said, "{what}: not in the log: {said}");
        Ok(())
    }
}

pub(crate) fn only_agents_get_the_identities_of_their_node(lab: &Lab) -> Result<()> {
    let mut cluster = Cluster::up(lab, WORLD)?;
    cluster.control.start()?;
    cluster.mount_roots()?;
    let site = cluster.mesh.bed.node("node-1")?.shell()?;
    let mut requester = Requester { cluster: &mut cluster, site, tokens: 0, refused: BTreeMap::new() };
    tokens_are_of_a_living_pod_for_control(&mut requester)?;
    identities_are_of_the_callers_node(&mut requester)?;
    requests_ask_for_what_is_granted(&mut requester)?;
    for ((family, series), count) in requester.refused {
        // A page of metrics is a second old at most.
        wait_until(&format!("{count} of {family}{{{series}}}"), || {
            Ok(cluster.control.metric(family, &series)? == count)
        })?;
    }
    Ok(())
}

fn tokens_are_of_a_living_pod_for_control(requester: &mut Requester<'_>) -> Result<()> {
    let agent = agent_pod("node-1");
    let good = requester.token_of(&agent)?;
    let of_a = request(&[uri(OF_A)?])?;
    requester.gets(good.as_ref(), &[uri(OF_A)?], Some(OF_A), OF_A)?;

    let unauthenticated = |text, reason| ("Unauthenticated", text, reason);
    let refused = |token| (token, of_a.as_str(), Some(OF_A));
    requester.is_refused("no token", refused(None), unauthenticated("no bearer token", "no_token"))?;
    let kubectl = requester.cluster.kubectl();
    let (of_others, unbound) = (
        kubectl.token_of_pod(&agent, "another")?,
        kubectl.token_of_account("underpass-system/underpass-agent", AUDIENCE)?,
    );
    let of_others = requester.token(&of_others)?;
    requester.is_refused(
        "another audience",
        refused(of_others.as_ref()),
        unauthenticated("the token is not", "not_authenticated"),
    )?;
    let forged = requester.token("eyJhbGciOiJub25lIn0.e30.")?;
    requester.is_refused(
        "a forged token",
        refused(forged.as_ref()),
        unauthenticated("the token is not valid", "not_authenticated"),
    )?;
    let [lasting, ended] =
        [3600, -60].map(|ends_in_s| requester.cluster.server.token_that_ends(&agent, AUDIENCE, ends_in_s));
    let [lasting, ended] = [requester.token(&lasting?)?, requester.token(&ended?)?];
    requester.gets(lasting.as_ref(), &[uri(OF_A)?], Some(OF_A), OF_A)?;
    requester.is_refused(
        "an expired token",
        refused(ended.as_ref()),
        unauthenticated("token has expired", "not_authenticated"),
    )?;
    let unbound = requester.token(&unbound)?;
    let denied = ("PermissionDenied", "the token is bound to no pod", "no_pod");
    requester.is_refused("bound to no pod", refused(unbound.as_ref()), denied)?;

    // An agent's pod that is replaced: its token ends with it, although there is another one of its name.
    let short = "underpass-system/underpass-agent-short";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: underpass-agent-short, namespace: underpass-system}, \
               spec: {nodeName: node-1, serviceAccountName: underpass-agent, containers: [{name: main, image: main}]}, \
               status: {phase: Running}}";
    requester.cluster.kubectl().populate(pod)?;
    let used = requester.token_of(short)?;
    let unused = requester.token_of(short)?;
    requester.gets(used.as_ref(), &[uri(OF_A)?], Some(OF_A), OF_A)?;
    requester.cluster.kubectl().delete_pod(short)?;
    requester.is_refused(
        "a deleted pod",
        refused(unused.as_ref()),
        unauthenticated("the token is not valid", "not_authenticated"),
    )
}

fn identities_are_of_the_callers_node(requester: &mut Requester<'_>) -> Result<()> {
    let [one, two] = ["node-1", "node-2"].map(|node| requester.token_of(&agent_pod(node)));
    let (one, two) = (one?, two?);
    let of_pod = requester.token_of("mesh/a")?;
    let (of_a, of_b, of_none) = (request(&[uri(OF_A)?])?, request(&[uri(OF_B)?])?, request(&[uri(OF_NONE)?])?);
    // What one of them may, the other one may not.
    requester.gets(one.as_ref(), &[uri(OF_A)?], Some(OF_A), OF_A)?;
    requester.gets(two.as_ref(), &[uri(OF_B)?], Some(OF_B), OF_B)?;
    let not_here = |text| ("PermissionDenied", text, "not_on_node");
    requester.is_refused("b on node-1", (one.as_ref(), &of_b, Some(OF_B)), not_here("runs on node node-1"))?;
    requester.is_refused("a on node-2", (two.as_ref(), &of_a, Some(OF_A)), not_here("runs on node node-2"))?;
    requester.is_refused("no pod's", (one.as_ref(), &of_none, Some(OF_NONE)), not_here("runs on node node-1"))?;
    // A pod that is no agent has its own identity alone, named or not.
    requester.gets(of_pod.as_ref(), &[uri(OF_A)?], Some(OF_A), OF_A)?;
    requester.gets(of_pod.as_ref(), &[uri(OF_A)?], None, OF_A)?;
    let own_alone = ("PermissionDenied", "no identity but its own", "not_trusted");
    requester.is_refused("a pod for another", (of_pod.as_ref(), &of_b, Some(OF_B)), own_alone)?;
    let foreign = "spiffe://other.example/ns/mesh/sa/a";
    let of_foreign = request(&[uri(foreign)?])?;
    let denied = ("PermissionDenied", "not of this trust domain", "other_trust_domain");
    requester.is_refused("another trust domain", (one.as_ref(), &of_foreign, Some(foreign)), denied)?;
    let denied = ("PermissionDenied", "is not an identity", "not_an_identity");
    requester.is_refused("no identity", (one.as_ref(), &of_a, Some("mesh/a")), denied)
}

fn requests_ask_for_what_is_granted(requester: &mut Requester<'_>) -> Result<()> {
    let agent = requester.token_of(&agent_pod("node-1"))?;
    // A request without a name gets the granted one, as one that names it.
    requester.gets(agent.as_ref(), &[], Some(OF_A), OF_A)?;
    let of_pem = request(&[uri(OF_A)?])?;
    // Of the outermost SEQUENCE.
    let broken = of_pem.replacen("\nM", "\nN", 1);
    ensure!(broken != of_pem);
    let table = [
        ("another's name", request(&[uri(OF_B)?])?, "it asks for `", "other_identity"),
        ("two names", request(&[uri(OF_A)?, uri(OF_B)?])?, "it asks for 2 names", "several_names"),
        ("a host name", request(&[SanType::DnsName("a.mesh".try_into()?)])?, "is not a URI", "not_a_uri"),
        ("an address", request(&[SanType::IpAddress([10, 244, 1, 10].into())])?, "is not a URI", "not_a_uri"),
        ("no request", "no request".to_owned(), "not a certificate request in PEM", "not_pem"),
        ("a broken request", broken, "malformed", "malformed"),
    ];
    for (what, request, text, reason) in table {
        let asked = (agent.as_ref(), request.as_str(), Some(OF_A));
        requester.is_refused(what, asked, ("InvalidArgument", text, reason))?;
    }
    Ok(())
}
