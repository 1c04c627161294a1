//! PeerAuthentications: the modes of ports. An unknown mode is an error, because PERMISSIVE would be a guess.

use std::collections::BTreeMap;

use underpass_core::{
    Kind,
    objects::{MtlsMode, PeerAuthentication},
};

use super::{Converted, Faults, Rejected, meta, syntax};
use crate::{Fault, path::At, shapes};

const MODES: &[&str] = &["UNSET", "DISABLE", "PERMISSIVE", "STRICT"];

/// `security.istio.io PeerAuthentication`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn peer_authentication(shape: &shapes::PeerAuthentication) -> Result<Converted<PeerAuthentication>, Rejected> {
    let mut faults = Faults::default();
    let at = At::ROOT.field("spec");
    let spec = &shape.spec;
    let name = meta::object_name(Kind::PeerAuthentication, &shape.metadata, &mut faults);
    meta::labels(&shape.metadata, &mut faults);
    let created = meta::created(&shape.metadata, &mut faults);
    let selector = spec.selector.as_ref().map(|s| {
        let at = at.field("selector");
        meta::label_map(&s.match_labels, &at.field("matchLabels"), &mut faults)
    });
    let mode = spec.mtls.as_ref().map_or(Some(MtlsMode::Unset), |m| mode(m, &at.field("mtls"), &mut faults));
    let at = at.field("portLevelMtls");
    let mut ports = BTreeMap::new();
    for (port, mtls) in &spec.port_level_mtls {
        let at = at.field(port);
        let port = faults.check(&at, syntax::port_text(port));
        let mode = self::mode(mtls, &at, &mut faults);
        ports.extend(port.zip(mode));
    }
    let policy = || {
        let selector = match selector {
            Some(labels) => Some(labels?).filter(|l| !l.is_empty()),
            None => None,
        };
        Some(PeerAuthentication { name: name?, selector, mode: mode?, ports, created: created? })
    };
    let policy = policy();
    faults.finish(policy)
}

fn mode(mtls: &shapes::MutualTls, at: &At<'_>, faults: &mut Faults) -> Option<MtlsMode> {
    Some(match mtls.mode.as_deref().unwrap_or("UNSET") {
        "UNSET" => MtlsMode::Unset,
        "DISABLE" => MtlsMode::Disable,
        "PERMISSIVE" => MtlsMode::Permissive,
        "STRICT" => MtlsMode::Strict,
        found => {
            faults.push(&at.field("mode"), Fault::Value { found: found.into(), known: MODES });
            return None;
        }
    })
}
