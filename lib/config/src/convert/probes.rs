//! The ports at which a kubelet asks a pod: those that probes and lifecycle hooks of its containers name. Its own file
//! because what is named here passes the mesh's policies, in plaintext.
//!
//! What must hold: a pod names ports of its own addresses and nothing else. A probe of another host names none, and so does
//! one whose port is no port of TCP, or a name that its container does not have: its kubelet fails at it as well.

use std::{collections::BTreeSet, net::IpAddr};

use underpass_core::Few;

use super::syntax;
use crate::shapes::{Container, Handler, HandlerTarget, IntOrString, PodSpec};

/// The ports, in order, each once. Init containers may be probed where they stay, and have hooks; of the others neither
/// counts for the API server.
pub(super) fn ports(spec: &PodSpec, addresses: &[IpAddr]) -> Few<u16> {
    let all = spec.containers.iter().chain(&spec.init_containers);
    let ports: BTreeSet<u16> = all.flat_map(|container| of_container(container, addresses)).collect();
    ports.into_iter().collect()
}

fn of_container<'a>(container: &'a Container, addresses: &'a [IpAddr]) -> impl Iterator<Item = u16> + 'a {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let hooks = container.lifecycle.iter().flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]);
    let targets = |handler: &'a Handler| [&handler.http_get, &handler.tcp_socket, &handler.grpc].into_iter().flatten();
    let all = probes.into_iter().chain(hooks).flatten().flat_map(targets);
    all.filter(|target| is_own(target, addresses)).filter_map(|target| number(target.port.as_ref()?, container))
}

/// It asks the pod itself.
fn is_own(target: &HandlerTarget, addresses: &[IpAddr]) -> bool {
    let Some(host) = target.host.as_deref().filter(|host| !host.is_empty()) else { return true };
    host.parse::<IpAddr>().is_ok_and(|ip| addresses.contains(&ip.to_canonical()))
}

/// As the kubelet reads it: text is the name of a port of this container, of any protocol, else a number.
fn number(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::Text(text) => {
            let named = container.ports.iter().find(|port| port.name.as_deref() == Some(text) && !text.is_empty());
            named.map_or_else(|| text.parse().ok(), |port| Some(port.container_port))?
        }
    };
    syntax::port(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ports of a pod with these containers and init containers, in JSON, and the addresses 10.0.0.1 and fd00::1.
    #[track_caller]
    fn check(containers: &str, init: &str, expected: &[u16]) {
        let spec = format!(r#"{{"containers": [{containers}], "initContainers": [{init}]}}"#);
        let spec: PodSpec = serde_json::from_str(&spec).expect("a spec");
        let addresses = ["10.0.0.1", "fd00::1"].map(|text| text.parse().expect("an address"));
        assert_eq!(*ports(&spec, &addresses), *expected, "{containers} {init}");
    }

    #[test]
    fn every_probe_and_hook_counts_once() {
        check("", "", &[]);
        check(r#"{"ports": [{"name": "http", "containerPort": 80}]}"#, "", &[]);
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            for handler in ["httpGet", "tcpSocket", "grpc"] {
                check(&format!(r#"{{"{probe}": {{"{handler}": {{"port": 8080}}}}}}"#), "", &[8080]);
            }
        }
        for hook in ["postStart", "preStop"] {
            for handler in ["httpGet", "tcpSocket"] {
                check(&format!(r#"{{"lifecycle": {{"{hook}": {{"{handler}": {{"port": 9}}}}}}}}"#), "", &[9]);
            }
        }
        check(
            r#"{"livenessProbe": {"exec": {"command": ["true"]}}, "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}"#,
            "",
            &[],
        );
        let several = r#"{"livenessProbe": {"httpGet": {"port": 9090}}, "readinessProbe": {"grpc": {"port": 80}}}"#;
        let sidecar = r#"{"restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 15021}}}"#;
        check(
            &format!(r#"{several}, {{"readinessProbe": {{"tcpSocket": {{"port": 9090}}}}}}"#),
            sidecar,
            &[80, 9090, 15021],
        );
    }

    #[test]
    fn a_name_is_a_port_of_its_own_container() {
        let container = |port: &str| {
            format!(
                r#"{{"ports": [{{"name": "http", "containerPort": 8080}}, {{"name": "q", "containerPort": 53, "protocol": "UDP"}}], "readinessProbe": {{"httpGet": {{"port": "{port}"}}}}}}"#
            )
        };
        check(&container("http"), "", &[8080]);
        check(&container("q"), "", &[53]);
        check(&container("other"), "", &[]);
        check(&container(""), "", &[]);
        check(&container("81"), "", &[81]);
        let asks = r#"{"readinessProbe": {"httpGet": {"port": "http"}}}"#;
        check(&format!(r#"{{"ports": [{{"name": "http", "containerPort": 8080}}]}}, {asks}"#), "", &[]);
        check("", &container("http"), &[8080]);
    }

    #[test]
    fn another_host_and_what_is_no_port_are_none() {
        let asks = |host: &str, port: &str| {
            format!(r#"{{"readinessProbe": {{"httpGet": {{"host": "{host}", "port": {port}}}}}}}"#)
        };
        check(&asks("", "80"), "", &[80]);
        check(&asks("10.0.0.1", "80"), "", &[80]);
        check(&asks("::ffff:10.0.0.1", "80"), "", &[80]);
        check(&asks("fd00:0::1", "80"), "", &[80]);
        for host in ["10.0.0.2", "127.0.0.1", "localhost", "example.com", "10.0.0.1:80", "0.0.0.0"] {
            check(&asks(host, "80"), "", &[]);
        }
        for port in ["0", "-1", "65536", "99999999999999", r#""0""#, r#""+x""#] {
            check(&asks("", port), "", &[]);
        }
        check(r#"{"readinessProbe": {"httpGet": {}}}"#, "", &[]);
    }
}
