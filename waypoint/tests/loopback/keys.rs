//! Keys of tokens: whence they come, how often, by whose word, and what holds while they cannot be had.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::spawn_local};
use underpass_net::tls::{Acceptor, Protocol, Settings as TlsSettings};

use crate::{
    CART,
    mesh::{DEADLINE, Mesh, identity, run},
    signer::Signer,
    tokens::{ISSUER, authentication, bearer, claims, key_set},
};

/// An issuer's server.
struct Issuer {
    answers: RefCell<Vec<(&'static str, String)>>,
    asked: Cell<u32>,
}

impl Issuer {
    /// One on loopback, by TLS where it is given some.
    async fn start(tls: Option<Rc<Acceptor>>) -> (Rc<Self>, SocketAddr) {
        let issuer = Rc::new(Self { answers: RefCell::default(), asked: Cell::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("name");
        let serving = Rc::clone(&issuer);
        spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("accepted");
                let (issuer, tls) = (Rc::clone(&serving), tls.clone());
                spawn_local(async move {
                    let service = service_fn(move |request| issuer.clone().answer(request));
                    let served = match tls {
                        None => http1::Builder::new().serve_connection(TokioIo::new(socket), service).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(socket).await else { return };
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                        }
                    };
                    drop(served); // its client may have gone
                });
            }
        });
        (issuer, address)
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.asked.set(self.asked.get() + 1);
        let answers = self.answers.borrow();
        let found = answers.iter().find(|(path, _)| *path == request.uri().path());
        let (status, body) = found.map_or((404, String::new()), |(_, body)| (200, body.clone()));
        Ok(Response::builder().status(status).body(Full::new(body.into())).expect("response"))
    }

    fn serves(&self, path: &'static str, body: String) {
        self.answers.borrow_mut().retain(|(known, _)| *known != path);
        self.answers.borrow_mut().push((path, body));
    }
}

const AT: &str = "10.0.0.50:80";
const BY_URI: &str = "jwksUri: http://10.0.0.50/keys";

fn at(address: &str) -> SocketAddr {
    address.parse().expect("address")
}

#[test]
fn keys_are_fetched_and_rotate() {
    run(async {
        let (old, new) = (Signer::new("ES256", "1"), Signer::new("ES384", "2"));
        let mesh = Mesh::with("", |settings| settings.tokens.pace.unknown_key = Duration::ZERO).await;
        let (issuer, really) = Issuer::start(None).await;
        mesh.switch.listen(at(AT), really);
        issuer.serves("/keys", key_set(&[&old]));
        mesh.change(&authentication(BY_URI)).await;
        let ask = async |signer: &Signer| {
            let token = bearer(&signer.token(&claims(&json!({}))));
            mesh.get("web", CART, "/", &[("authorization", &token)]).await.status
        };
        assert_eq!((ask(&old).await, ask(&old).await, issuer.asked.get()), (200, 200, 1), "fetched once");
        // The same text each time, as clients send it.
        let same = bearer(&old.token(&claims(&json!({}))));
        let again = async || mesh.get("web", CART, "/", &[("authorization", &same)]).await.status;
        assert_eq!((again().await, again().await), (200, 200));
        assert_eq!((ask(&new).await, issuer.asked.get()), (401, 2), "a key that is not known is looked for");
        assert_eq!((ask(&Signer::new("ES256", "1")).await, issuer.asked.get()), (401, 2), "one that is known is not");
        issuer.serves("/keys", key_set(&[&new]));
        assert_eq!((ask(&new).await, issuer.asked.get()), (200, 3));
        assert_eq!((ask(&old).await, ask(&new).await), (401, 200), "the old one is gone");
        assert_eq!(again().await, 401, "also for what it has verified");
        // What cannot be had is not missed while there are keys.
        mesh.switch.close(at(AT));
        assert_eq!((ask(&old).await, ask(&new).await), (401, 200));
        issuer.serves("/keys", "<html>".into());
        mesh.switch.listen(at(AT), really);
        assert_eq!((ask(&old).await, ask(&new).await), (401, 200));
    });
}

#[test]
fn unknown_keys_do_not_set_the_pace() {
    run(async {
        let mesh = Mesh::new("").await;
        let (issuer, really) = Issuer::start(None).await;
        mesh.switch.listen(at(AT), really);
        issuer.serves("/keys", key_set(&[&Signer::new("ES256", "1")]));
        mesh.change(&authentication(BY_URI)).await;
        for id in ["2", "3", "4"] {
            let token = bearer(&Signer::new("ES256", id).token(&claims(&json!({}))));
            assert_eq!(mesh.get("web", CART, "/", &[("authorization", &token)]).await.status, 401);
        }
        assert_eq!(issuer.asked.get(), 1, "within a minute");
    });
}

/// Asks until the answer is 200; the ones before are 401.
async fn until_good(mesh: &Mesh, token: &str) {
    let asked = async {
        loop {
            match mesh.get("web", CART, "/", &[("authorization", token)]).await.status {
                200 => return,
                status => assert_eq!(status, 401),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE / 2, asked).await.expect("in time");
}

#[test]
fn a_server_of_keys_that_is_down_at_start_and_comes() {
    run(async {
        let own = Signer::new("ES256", "1");
        let mesh = Mesh::new(&authentication(BY_URI)).await;
        let token = bearer(&own.token(&claims(&json!({}))));
        let answer = mesh.get("web", CART, "/", &[("authorization", &token)]).await;
        assert_eq!((answer.status, &answer.body[..]), (401, &b"Jwks remote fetch is failed"[..]));
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200, "without a token");
        let (issuer, really) = Issuer::start(None).await;
        issuer.serves("/keys", key_set(&[&own]));
        mesh.switch.listen(at(AT), really);
        until_good(&mesh, &token).await;
    });
}

#[test]
fn keys_of_a_service_of_the_mesh_come_by_its_tunnel() {
    run(async {
        let own = Signer::new("ES256", "1");
        let mesh = Mesh::new("").await;
        mesh.node.keys.replace(key_set(&[&own]));
        let token = bearer(&own.token(&claims(&json!({}))));
        for (host, expect) in [
            ("alone.shop.svc.cluster.local", 200),
            ("alone.shop.svc", 200),
            ("10.96.0.11", 200),
            ("alone.shop.svc.cluster.local:81", 401),
        ] {
            mesh.change(&authentication(&format!("jwksUri: 'http://{host}/keys'"))).await;
            let answer = mesh.get("web", CART, "/", &[("authorization", &token)]).await;
            assert_eq!(answer.status, expect, "{host}");
        }
    });
}

#[test]
fn an_issuer_names_its_keys_and_is_believed_by_its_certificate() {
    run(async {
        let own = Signer::new("ES256", "1");
        let (mut is_known, mut statuses) = (true, Vec::new());
        for _ in 0..2 {
            let folder = tempfile::tempdir().expect("folder");
            let domain = underpass_core::TrustDomain::default();
            let now = SystemTime::now();
            let authority = underpass_identity::Authority::open(folder.path(), &domain, now).expect("CA");
            let roots = authority.roots(1).expect("roots");
            let certificate = authority.serving(&["localhost"], &identity("v1"), DEADLINE * 60, now);
            let certificate = certificate.expect("issued");
            let acceptor = Acceptor::new(&certificate, &TlsSettings::default(), DEADLINE, Protocol::Http1);
            let mesh = Mesh::with("", |settings| settings.tokens.roots = is_known.then_some(roots)).await;
            let (issuer, really) = Issuer::start(Some(Rc::new(acceptor.expect("usable")))).await;
            mesh.switch.listen(at("127.0.0.1:8443"), really);
            issuer.serves("/keys", key_set(&[&own]));
            let document = json!({"jwks_uri": "https://localhost:8443/keys"});
            issuer.serves("/.well-known/openid-configuration", document.to_string());
            let rule = authentication("").replace(ISSUER, "https://localhost:8443/").replace(", }", "}");
            mesh.change(&rule).await;
            let token = bearer(&own.token(&claims(&json!({"iss": "https://localhost:8443/"}))));
            let answer = mesh.get("web", CART, "/", &[("authorization", &token)]).await;
            statuses.push((answer.status, issuer.asked.get()));
            is_known = false;
        }
        assert_eq!(statuses, [(200, 2), (401, 0)], "and one whose root is not known is not asked");
    });
}

/// An AuthorizationPolicy of what `at` names.
fn policy(at: &str, action: &str, principals: &[&str], to: &str) -> String {
    let principals = principals.iter().map(|pod| identity(pod).to_string().replace("spiffe://", ""));
    let principals = principals.collect::<Vec<_>>().join(", ");
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: judged, namespace: shop}}
spec: {{{at}, action: {action}, rules: [{{from: [{{source: {{principals: [{principals}]}}}}], to: [{{operation: {to}}}]}}]}}
"
    )
}

#[test]
fn a_fetch_from_the_mesh_passes_the_gates_of_the_waypoints_own_calls() {
    const PODS: &str = "selector: {matchLabels: {app: cart}}";
    const CART_ITSELF: &str = "targetRefs: [{kind: Service, name: cart}]";
    const GATEWAY: &str = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}]";
    const GETS: &str = "{methods: [GET]}";
    let (alone, cart, pod) = ("http://alone.shop.svc", "http://cart.shop.svc", "http://10.0.0.2:8080");
    run(async {
        let own = Signer::new("ES256", "1");
        let token = bearer(&own.token(&claims(&json!({}))));
        for (server, denied, allowed) in [
            // What only a waypoint can judge, of the endpoint.
            (alone, policy(PODS, "DENY", &["w"], GETS), policy(PODS, "DENY", &["w"], "{methods: [POST]}")),
            (
                alone,
                policy(PODS, "DENY", &["w"], "{paths: [/keys]}"),
                policy(PODS, "DENY", &["w"], "{paths: [/other]}"),
            ),
            (alone, policy(PODS, "ALLOW", &["web"], GETS), policy(PODS, "ALLOW", &["web", "w"], GETS)),
            (pod, policy(PODS, "DENY", &["w"], GETS), policy(PODS, "DENY", &["other"], GETS)),
            // Of a Service that it stands before.
            (cart, policy(CART_ITSELF, "ALLOW", &["web"], GETS), policy(CART_ITSELF, "ALLOW", &["web", "w"], GETS)),
            (cart, policy(GATEWAY, "DENY", &["w"], GETS), policy(GATEWAY, "DENY", &["w"], "{ports: ['81']}")),
            (cart, policy(PODS, "ALLOW", &["web"], GETS), policy(CART_ITSELF, "DENY", &["other"], GETS)),
        ] {
            for (policy, expect) in [(denied, 401), (allowed, 200)] {
                let rule = authentication(&format!("jwksUri: '{server}/keys'"));
                let mesh = Mesh::new("").await;
                mesh.node.keys.replace(key_set(&[&own]));
                mesh.change(&policy).await;
                mesh.change(&format!("{rule}{policy}")).await;
                let answer = mesh.get("web", CART, "/", &[("authorization", &token)]).await;
                assert_eq!(answer.status, expect, "{server} {policy}");
                let fetches = mesh.asked.borrow().iter().filter(|asked| asked.source.identity == identity("w")).count();
                assert_eq!(fetches, usize::from(expect == 200), "{server} {policy}");
            }
        }
    });
}

#[test]
fn of_a_fetch_in_tls_policies_read_nothing() {
    run(async {
        let denied = policy("selector: {matchLabels: {app: cart}}", "DENY", &["w"], "{paths: [/other]}");
        for (policy, is_called) in [(denied.as_str(), false), ("---", true)] {
            let rule = authentication("jwksUri: 'https://alone.shop.svc:80/keys'");
            let mesh = Mesh::new("").await;
            mesh.change(policy).await;
            mesh.change(&format!("{rule}{policy}")).await;
            let token = bearer(&Signer::new("ES256", "1").token(&claims(&json!({}))));
            assert_eq!(mesh.get("web", CART, "/", &[("authorization", &token)]).await.status, 401);
            assert_eq!(!mesh.asked.borrow().is_empty(), is_called, "{policy}");
        }
    });
}
