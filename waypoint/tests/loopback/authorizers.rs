//! Policies with action CUSTOM: the external authorizer that they name decides, before both gates; and those with action AUDIT, which
//! decide nothing.

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::spawn_local};

use crate::{
    CART,
    judging::{SERVICE, deny, to},
    mesh::{Mesh, empty, identity, request, run, until},
};

const PODS: &str = "selector: {matchLabels: {app: cart}}";
/// An address outside the mesh, of the authorizer.
const AT: &str = "10.0.0.50:9000";

/// An authorizer on loopback, which writes down what it is asked: what ends in `/no` it denies, in `/broken` it gives no answer to.
#[derive(Default)]
struct Authorizer {
    asked: RefCell<Vec<String>>,
}

impl Authorizer {
    async fn start(mesh: &Mesh) -> Rc<Self> {
        let authorizer = Rc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        mesh.switch.listen(AT.parse::<SocketAddr>().expect("address"), listener.local_addr().expect("name"));
        let serving = Rc::clone(&authorizer);
        spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("accepted");
                let authorizer = Rc::clone(&serving);
                let service = service_fn(move |request| Rc::clone(&authorizer).answer(request));
                spawn_local(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        authorizer
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let seen = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().expect("text"));
        let line = format!("{} {path} {} {} {}", request.method(), seen("host"), seen("x-user"), seen("x-other"));
        self.asked.borrow_mut().push(line);
        let (status, body) = match path.as_str() {
            _ if path.ends_with("/no") => (401, "who are you?"),
            _ if path.ends_with("/broken") => (500, "oops"),
            _ => (200, ""),
        };
        let response = Response::builder().status(status).header("x-checked-user", "u").header("x-left", "3");
        let response = response.header("www-authenticate", "Basic").header("x-why", "because");
        Ok(response.body(Full::new(body.into())).expect("response"))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow_mut().drain(..).collect()
    }
}

/// The MeshConfig with the authorizer `opa`, and what is said of it beside.
fn provider(more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         extensionProviders:\n    - name: opa\n      envoyExtAuthzHttp:\n        service: 10.0.0.50\n        port: 9000\n        \
         includeRequestHeadersInCheck: [x-user]\n        headersToUpstreamOnAllow: [x-checked-user]\n        \
         headersToDownstreamOnAllow: [x-left]\n        headersToDownstreamOnDeny: [x-why]\n        {more}\n"
    )
}

fn custom(of: &str, provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask, namespace: shop}}\n\
         spec: {{{of}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{{{}}}]}}\n",
        to("/admin*")
    )
}

fn all(documents: &[String]) -> String {
    documents.join("---\n")
}

fn checks(mesh: &Mesh, result: &str) -> f64 {
    mesh.metric(&format!("underpass_waypoint_authorizer_checks_total{{provider=\"opa\",result=\"{result}\"}}"))
}

#[test]
fn an_authorizer_decides_before_each_gate() {
    run(async {
        for of in [SERVICE, PODS] {
            let mesh = Mesh::new(&all(&[provider(""), custom(of, "opa")])).await;
            let authorizer = Authorizer::start(&mesh).await;
            let get = async |path: &str| mesh.get("web", CART, path, &[("x-user", "me"), ("x-other", "no")]).await;
            assert_eq!((get("/free").await.status, authorizer.asked().len()), (200, 0), "no rule matches");

            let answer = get("/admin/a?b=c").await;
            assert_eq!((answer.status, answer.header("x-left")), (200, "3"));
            assert!(answer.header("x-headers").contains("x-checked-user=u"), "{}", answer.header("x-headers"));
            assert_eq!(authorizer.asked(), ["GET /admin/a cart me -"]);

            let came = mesh.node.requests.borrow().values().sum::<u32>();
            let answer = get("/admin/no").await;
            assert_eq!((answer.status, &*answer.body), (401, &b"who are you?"[..]));
            let headers = ["www-authenticate", "x-why", "x-left"].map(|name| answer.header(name));
            assert_eq!(headers, ["Basic", "because", ""]);
            assert_eq!(mesh.sum("istio_requests_total{", &["response_code=\"401\"", "response_flags=\"UAEX\""]), 1.0);

            assert_eq!(get("/admin/broken").await.status, 403, "no answer is no leave");
            assert_eq!(mesh.node.requests.borrow().values().sum::<u32>(), came, "nothing of these went on");
            assert_eq!(["allowed", "denied", "failed"].map(|result| checks(&mesh, result)), [1.0; 3], "{of}");
            assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"authorizer_failed\"}"), 1.0);
        }
    });
}

#[test]
fn an_authorizer_that_cannot_be_asked() {
    run(async {
        let mesh = Mesh::new(&all(&[provider(""), custom(SERVICE, "opa")])).await;
        let status = async || mesh.get("web", CART, "/admin", &[]).await.status;
        assert_eq!(status().await, 403, "nothing listens there");
        let change = async |more: &str| mesh.change(&all(&[provider(more), custom(SERVICE, "opa")])).await;
        change("statusOnError: \"503\"").await;
        assert_eq!(status().await, 503);
        change("failOpen: true").await;
        assert_eq!(status().await, 200);
        assert_eq!(["failed", "failed_open"].map(|result| checks(&mesh, result)), [2.0, 1.0]);
        // One that nothing defines, and one that is not served.
        mesh.change(&all(&[provider("failOpen: true"), custom(SERVICE, "other")])).await;
        assert_eq!(status().await, 403);
        let grpc = provider("failOpen: true").replace("envoyExtAuthzHttp", "envoyExtAuthzGrpc");
        mesh.change(&all(&[grpc, custom(SERVICE, "opa")])).await;
        assert_eq!((status().await, checks(&mesh, "unknown")), (403, 1.0));
    });
}

#[test]
fn policies_deny_what_an_authorizer_allows() {
    run(async {
        let mesh = Mesh::new(&all(&[provider(""), custom(SERVICE, "opa")])).await;
        let authorizer = Authorizer::start(&mesh).await;
        let denies = |rule: &str| all(&[provider(""), custom(SERVICE, "opa"), deny(SERVICE, rule)]);
        mesh.change(&denies(&to("/admin/b"))).await;
        assert_eq!(mesh.get("web", CART, "/admin/b", &[]).await.status, 403);
        assert_eq!(mesh.get("web", CART, "/admin/c", &[]).await.status, 200);
        // Its headers count for the policies: what it says of a request is the request's.
        let by_header = "when: [{key: \"request.headers[x-checked-user]\", values: [u]}]";
        mesh.change(&denies(by_header)).await;
        assert_eq!(mesh.get("web", CART, "/admin/c", &[]).await.status, 403);
        assert_eq!(authorizer.asked().len(), 3);
    });
}

#[test]
fn what_is_open_when_a_policy_comes() {
    run(async {
        for of in [SERVICE, PODS] {
            let mesh = Mesh::new(&provider("")).await;
            let authorizer = Authorizer::start(&mesh).await;
            let mut sender = mesh.http2("web", CART).await;
            let asks = |path: &str| format!("http://cart{path}");
            let hangs = spawn_local(sender.send_request(request("GET", &asks("/hang"), &[], empty())));
            until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 1).await;
            // It was never asked about, and cannot be any more.
            let asks_about_it = custom(of, "opa").replace("/admin*", "/hang");
            mesh.change(&all(&[provider(""), asks_about_it.clone()])).await;
            assert_eq!(hangs.await.expect("ran").expect("answered").status(), 403);
            let hangs = spawn_local(sender.send_request(request("GET", &asks("/hang"), &[], empty())));
            until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 2).await;
            assert_eq!(authorizer.asked().len(), 1);
            // What has been allowed stays so, while others change.
            mesh.change(&all(&[provider(""), asks_about_it, deny(of, &to("/other"))])).await;
            mesh.node.release.notify_waiters();
            assert_eq!(hangs.await.expect("ran").expect("answered").status(), 200, "{of}");
        }
    });
}

#[test]
fn an_authorizer_in_the_mesh_is_called_by_the_waypoint() {
    run(async {
        let of_mesh = provider("").replace("10.0.0.50", "other/alone.shop.svc.cluster.local").replace("9000", "80");
        let mesh = Mesh::new(&all(&[of_mesh.clone(), custom(SERVICE, "opa")])).await;
        assert_eq!(mesh.get("web", CART, "/admin", &[]).await.status, 200);
        let sources: Vec<_> = mesh.asked.borrow().iter().map(|asked| asked.source.identity.clone()).collect();
        assert_eq!(sources, [identity("w"), identity("web")], "the question, and then the request");
        // As a client it meets the policies of the pods that it calls.
        let denies = deny(PODS, "from: [{source: {principals: [cluster.local/ns/shop/sa/w]}}]");
        mesh.change(&all(&[of_mesh, custom(SERVICE, "opa"), denies])).await;
        assert_eq!((mesh.get("web", CART, "/admin", &[]).await.status, checks(&mesh, "failed")), (403, 1.0));
    });
}

#[test]
fn audits_count_and_decide_nothing() {
    run(async {
        for of in [SERVICE, PODS] {
            let audit = custom(of, "opa").replace("action: CUSTOM, provider: {name: opa}", "action: AUDIT");
            let mesh = Mesh::new(&audit).await;
            for path in ["/admin", "/free", "/admin/b"] {
                assert_eq!(mesh.get("web", CART, path, &[]).await.status, 200);
            }
            let counted = "underpass_waypoint_audited_requests_total{namespace=\"shop\",policy=\"ask\"}";
            until("they are counted", || mesh.shows(counted)).await;
            assert_eq!(mesh.metric(counted), 2.0, "{of}");
        }
    });
}

#[test]
fn a_client_of_grpc_gets_an_answer_of_grpc() {
    run(async {
        let mesh = Mesh::new(&all(&[provider(""), custom(SERVICE, "opa")])).await;
        let _authorizer = Authorizer::start(&mesh).await;
        let mut sender = mesh.http2("web", CART).await;
        let headers = [("content-type", "application/grpc")];
        let answer = sender.send_request(request("POST", "http://cart/admin/no", &headers, empty()));
        let answer = answer.await.expect("answered");
        assert_eq!((answer.status().as_u16(), answer.headers()["grpc-status"].as_bytes()), (200, &b"16"[..]));
        assert!(answer.into_body().collect().await.expect("read").to_bytes().is_empty());
    });
}
