//! Policies whose external authorizer does not exist, or whose host no Service has.

use super::{Known, Level, Say};
use crate::world::AuthorizationPolicy;

impl Known<'_> {
    pub(super) fn absent_authorizer(&self, p: &AuthorizationPolicy, say: Say<'_>) {
        let Some(name) = &p.provider else { return };
        let (sources, world) = (self.model.sources(), self.model.world());
        let at = "spec.provider.name";
        let Some(authorizer) = sources.authorizer(self.root(), name) else {
            let says = format!(
                "the ConfigMap {}/istio has no envoyExtAuthzHttp of this name that can be used: what the policy matches is refused",
                self.root()
            );
            return say(Level::Warning, at, says);
        };
        let host = &authorizer.host;
        let is_of_cluster =
            host.ends_with(&format!(".svc.{}", world.settings().cluster_domain)) || host.ends_with(".svc");
        let whole = if host.ends_with(".svc") {
            format!("{host}.{}", world.settings().cluster_domain)
        } else {
            host.to_string()
        };
        match world.service_of_host(&whole) {
            None if is_of_cluster => {
                say(
                    Level::Warning,
                    at,
                    format!("no Service has the host {host} of this provider: it cannot be asked (IST0101)"),
                );
            }
            Some(service) if service.port(authorizer.port).is_none() => {
                let says = format!(
                    "Service {} of this provider has no port {}: it cannot be asked",
                    service.name, authorizer.port
                );
                say(Level::Warning, at, says);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        authz::Rule,
        dangling::dangling,
        objects::{Authorizer, MeshConfig, Object},
        testing::{ambient, model, name, policy, service},
        world::{Action, AuthorizationPolicy},
    };

    #[test]
    fn authorizers_that_cannot_be_asked() {
        let authorizer = |name: &str, host: &str, port| Authorizer {
            name: name.into(),
            host: host.into(),
            port,
            timeout: Duration::from_secs(1),
            fails_open: false,
            status_on_error: 403,
            path_prefix: "".into(),
            sends: Vec::new(),
            adds: Vec::new(),
            to_endpoint: Vec::new(),
            to_client_denied: Vec::new(),
            to_client_allowed: Vec::new(),
        };
        let check = |provider: &str, expect: &[&str]| {
            let asks = AuthorizationPolicy {
                provider: Some(provider.into()),
                ..policy("default/p", Action::Custom, vec![Rule::default()])
            };
            let config = MeshConfig {
                name: name("istio-system/istio"),
                authorizers: vec![
                    authorizer("good", "s.default.svc.cluster.local", 80),
                    authorizer("short", "s.default.svc", 80),
                    authorizer("port", "s.default.svc.cluster.local", 81),
                    authorizer("absent", "t.default.svc.cluster.local", 80),
                    authorizer("beyond", "authorize.example.com", 443),
                ],
            };
            let objects = [
                Object::from(ambient("default/a", "10.0.0.1", "app=a")),
                service("default/s app=a 10.96.0.1 80").into(),
                config.into(),
                asks.into(),
            ];
            let said = dangling(&model(objects), Vec::new(), Vec::new());
            let said = said.into_iter().map(|remark| remark.finding).filter(|f| f.field == "spec.provider.name");
            assert_eq!(said.map(|f| f.says).collect::<Vec<_>>(), expect, "{provider}");
        };
        for good in ["good", "short", "beyond"] {
            check(good, &[]);
        }
        check("port", &["Service default/s of this provider has no port 81: it cannot be asked"]);
        check(
            "absent",
            &["no Service has the host t.default.svc.cluster.local of this provider: it cannot be asked (IST0101)"],
        );
        check(
            "other",
            &[
                "the ConfigMap istio-system/istio has no envoyExtAuthzHttp of this name that can be used: what the policy matches is refused",
            ],
        );
    }
}
