//! Our two ends of the certificate API.

use std::{sync::Arc, time::Duration};

use tonic::Code;
use underpass_xds::{
    certificates::{Client, Error, Wanted},
    connect::{ConnectError, ControlPlane},
};

use crate::{
    pipe::Pipe,
    support::{Server, resources, token},
};

fn wanted(identity: Option<&str>) -> Wanted {
    let impersonated = identity.map(Into::into);
    Wanted { csr_pem: "csr".into(), validity: Some(Duration::from_secs(3_600)), impersonated }
}

fn client(pipe: &Pipe, token: Option<&std::path::Path>) -> Client {
    let control_plane = ControlPlane { token: token.map(Into::into), ..ControlPlane::new("control.system.svc:15012") };
    Client::new(control_plane, Arc::new(pipe.clone()), Duration::from_secs(10)).expect("an authority")
}

#[tokio::test(start_paused = true)]
async fn certificates_are_issued_on_behalf_of_others() {
    let server = Server::new(resources("1", [], []));
    let token = token("agent\n");
    let client = client(&server.pipe, Some(token.path()));
    let chain = client.certify(wanted(Some("spiffe://cluster.local/ns/a/sa/b"))).await.expect("a certificate");
    let leaf = "csr for Some(\"spiffe://cluster.local/ns/a/sa/b\") by system/agent (pod agent-1) in Some(3600s)";
    assert_eq!(chain, [leaf, "roots"]);
    std::fs::write(token.path(), "agent-two").expect("the token is written");
    let own = Wanted { validity: None, ..wanted(None) };
    let chain = client.certify(own).await.expect("a certificate");
    assert_eq!(chain[0], "csr for None by system/agent-two (pod agent-two-1) in None");
}

#[tokio::test(start_paused = true)]
async fn errors_say_whether_to_ask_again() {
    let server = Server::new(resources("1", [], []));
    let (known, stranger) = (token("agent"), token("stranger"));
    let ca = client(&server.pipe, Some(known.path()));
    let check = async |client: &Client, identity: &str, expected: Result<Code, &str>, message: &str, again: bool| {
        let error = client.certify(wanted(Some(identity))).await.expect_err("no certificate");
        assert_eq!(error.is_retryable(), again, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        let code = if let Error::Status { code, .. } = &error { Ok(*code) } else { Err(()) };
        assert_eq!(code, expected.map_err(|_| ()), "{error:?}");
    };
    let denied = "no pod of denied on node-1";
    check(&ca, "denied", Ok(Code::PermissionDenied), denied, false).await;
    check(&ca, "unknown", Ok(Code::Unavailable), "pods are not known yet", true).await;
    check(&ca, "slow", Err("timeout"), "no answer in 10s", true).await;
    check(&ca, "short", Err("chain"), "a chain of 1 elements", true).await;
    let unknown = client(&server.pipe, Some(stranger.path()));
    check(&unknown, "x", Ok(Code::Unauthenticated), "unknown token", true).await;
    let tokenless = client(&server.pipe, None);
    check(&tokenless, "x", Ok(Code::Unauthenticated), "no token", true).await;
    let unreadable = client(&server.pipe, Some("/nonexistent/token".as_ref()));
    check(&unreadable, "x", Err("token"), "token /nonexistent/token: No such file", true).await;
    let (nowhere, incoming) = Pipe::new();
    drop(incoming);
    check(&client(&nowhere, None), "x", Ok(Code::Unavailable), "connection refused", true).await;
    let bad = Client::new(ControlPlane::new("a b"), Arc::new(nowhere), Duration::from_secs(1));
    assert!(matches!(bad, Err(Error::Connect(ConnectError::Authority { .. }))), "{bad:?}");
}
