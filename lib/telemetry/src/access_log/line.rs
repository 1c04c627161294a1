//! The line of one connection. Fields and their order are defined here once, for text and JSON. An unknown field is absent,
//! never empty.

use std::fmt::{Display, Write as _};

use underpass_core::{Connection, ObjectName, Reason, connection::Party};

use super::{escape, time::Timestamp};
use crate::Format;

/// Appends the line for `connection`, with its line feed.
pub(super) fn write(out: &mut String, format: Format, connection: &Connection) {
    let mut line = Line { out, format, first: true };
    if format == Format::Json {
        line.out.push('{');
    }
    fields(&mut line, connection);
    line.out.push_str(if format == Format::Json { "}\n" } else { "\n" });
}

fn fields(line: &mut Line<'_>, c: &Connection) {
    line.text("time", Timestamp(c.opened_unix_ms.saturating_add(c.duration_us / 1000)));
    line.bare("connection", c.id);
    line.text("direction", c.direction.as_str());
    line.text("path", c.path.as_str());
    party(line, &SOURCE, &c.source);
    party(line, &DESTINATION, &c.destination);
    line.optional("via", c.via.as_ref());
    line.optional("service", c.service.as_ref());
    line.optional("service_host", c.service_host.as_ref());
    line.optional("vip", c.vip);
    line.bare("bytes_received", c.bytes_received);
    line.bare("bytes_sent", c.bytes_sent);
    line.bare("duration_ms", format_args!("{}.{:03}", c.duration_us / 1000, c.duration_us % 1000));
    line.optional("reason", c.reason.as_ref().map(Reason::as_str));
    line.optional("reason_detail", c.reason.as_ref().and_then(Reason::detail));
    if let Some(Reason::Tls(failure)) = &c.reason {
        line.text("refused_by", failure.refusal().by().as_str());
        line.optional("identity_found", failure.found());
        line.optional("identity_expected", failure.expected());
    }
    line.optional("policy", c.policy.as_ref());
    line.optional("dry_run_denied_by", joined(&c.dry_run_denied_by));
    line.bare("world", c.world);
}

/// Names with commas between them, which none of them has; one value in either format.
fn joined(names: &[ObjectName]) -> Option<impl Display> {
    let all = std::fmt::from_fn(move |f| {
        for (n, name) in names.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "," })?;
            name.fmt(f)?;
        }
        Ok(())
    });
    (!names.is_empty()).then_some(all)
}

struct PartyKeys {
    address: &'static str,
    workload: &'static str,
    namespace: &'static str,
    identity: &'static str,
}

const SOURCE: PartyKeys = PartyKeys {
    address: "source_address",
    workload: "source_workload",
    namespace: "source_namespace",
    identity: "source_identity",
};

const DESTINATION: PartyKeys = PartyKeys {
    address: "destination_address",
    workload: "destination_workload",
    namespace: "destination_namespace",
    identity: "destination_identity",
};

fn party(line: &mut Line<'_>, keys: &PartyKeys, party: &Party) {
    line.text(keys.address, party.address);
    let name = party.workload.as_ref().map(|w| &w.name);
    line.optional(keys.workload, name.map(|n| n.name()));
    // A pod of another node or network may be unknown here and still have proved its namespace.
    let proved = || party.identity.as_ref().map(|i| i.namespace());
    line.optional(keys.namespace, name.map(|n| n.namespace()).or_else(proved));
    line.optional(keys.identity, party.identity.as_ref());
}

struct Line<'a> {
    out: &'a mut String,
    format: Format,
    first: bool,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        let first = std::mem::replace(&mut self.first, false);
        match self.format {
            Format::Text => {
                self.out.push_str(if first { "" } else { " " });
                self.out.push_str(key);
                self.out.push('=');
            }
            Format::Json => {
                self.out.push_str(if first { "\"" } else { ",\"" });
                self.out.push_str(key);
                self.out.push_str("\":");
            }
        }
    }

    /// A field with a value that is escaped.
    fn text(&mut self, key: &str, value: impl Display) {
        self.key(key);
        match self.format {
            Format::Text => escape::push_text(self.out, value),
            Format::Json => escape::push_json(self.out, value),
        }
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// A field with a number.
    fn bare(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let _ = write!(self.out, "{value}"); // writing to a String cannot fail
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use underpass_core::{
        connection::{Direction, Path},
        testing::{self, ambient, name, workload},
        tls::{Alert, Refusal, TlsFailure},
        world::Version,
    };

    use super::*;

    fn connection() -> Connection {
        let source = workload(&ambient("default/productpage-1", "10.0.1.2", ""));
        let destination = workload(&ambient("default/reviews-1", "10.0.2.3", ""));
        let party = |w: &Arc<_>, address: &str, identity: &str| Party {
            address: address.parse().unwrap(),
            workload: Some(Arc::clone(w)),
            identity: Some(identity.parse().unwrap()),
        };
        Connection {
            id: 7,
            source: party(&source, "10.0.1.2:40000", "spiffe://cluster.local/ns/default/sa/productpage"),
            destination: party(&destination, "10.0.2.3:9080", "spiffe://cluster.local/ns/default/sa/reviews"),
            service: Some(name("default/reviews")),
            service_host: Some("reviews.default.svc.cluster.local".into()),
            vip: Some("10.96.0.1:80".parse().unwrap()),
            bytes_received: 120,
            bytes_sent: 4096,
            opened_unix_ms: 1_769_860_799_990,
            duration_us: 12_034,
            policy: Some(name("default/reviews-viewer")),
            world: Version(3),
            ..testing::connection("10.0.1.2:40000", "10.0.2.3:9080")
        }
    }

    fn stranger() -> Connection {
        Connection {
            direction: Direction::Outbound,
            path: Path::None,
            id: 7,
            bytes_received: 120,
            bytes_sent: 4096,
            opened_unix_ms: 1_769_860_799_990,
            reason: Some(Reason::Refused(503)),
            world: Version(3),
            ..testing::connection("[fd00::1]:40000", "10.0.2.3:9080")
        }
    }

    fn line(format: Format, c: &Connection) -> String {
        let mut out = String::new();
        write(&mut out, format, c);
        out
    }

    fn check(c: &Connection, text: &Expect, json: &Expect) {
        text.assert_eq(&line(Format::Text, c));
        let written = line(Format::Json, c);
        json.assert_eq(&written);
        serde_json::from_str::<serde_json::Value>(&written).unwrap();
    }

    #[test]
    fn everything_known() {
        check(
            &connection(),
            &expect![[r#"
            time=2026-01-31T12:00:00.002Z connection=7 direction=inbound path=hbone source_address=10.0.1.2:40000 source_workload=productpage-1 source_namespace=default source_identity=spiffe://cluster.local/ns/default/sa/productpage destination_address=10.0.2.3:9080 destination_workload=reviews-1 destination_namespace=default destination_identity=spiffe://cluster.local/ns/default/sa/reviews service=default/reviews service_host=reviews.default.svc.cluster.local vip=10.96.0.1:80 bytes_received=120 bytes_sent=4096 duration_ms=12.034 reason=finished policy=default/reviews-viewer world=3
        "#]],
            &expect![[r#"
            {"time":"2026-01-31T12:00:00.002Z","connection":7,"direction":"inbound","path":"hbone","source_address":"10.0.1.2:40000","source_workload":"productpage-1","source_namespace":"default","source_identity":"spiffe://cluster.local/ns/default/sa/productpage","destination_address":"10.0.2.3:9080","destination_workload":"reviews-1","destination_namespace":"default","destination_identity":"spiffe://cluster.local/ns/default/sa/reviews","service":"default/reviews","service_host":"reviews.default.svc.cluster.local","vip":"10.96.0.1:80","bytes_received":120,"bytes_sent":4096,"duration_ms":12.034,"reason":"finished","policy":"default/reviews-viewer","world":3}
        "#]],
        );
    }

    #[test]
    fn an_unknown_field_is_absent() {
        check(
            &stranger(),
            &expect![[r#"
            time=2026-01-31T11:59:59.990Z connection=7 direction=outbound path=none source_address=[fd00::1]:40000 destination_address=10.0.2.3:9080 bytes_received=120 bytes_sent=4096 duration_ms=0.000 reason=refused reason_detail="refused with status 503" world=3
        "#]],
            &expect![[r#"
            {"time":"2026-01-31T11:59:59.990Z","connection":7,"direction":"outbound","path":"none","source_address":"[fd00::1]:40000","destination_address":"10.0.2.3:9080","bytes_received":120,"bytes_sent":4096,"duration_ms":0.000,"reason":"refused","reason_detail":"refused with status 503","world":3}
        "#]],
        );
    }

    #[test]
    fn a_refusal_names_the_fields_that_need_a_waypoint() {
        let fields = vec!["to.operation.methods".into(), "when[request.headers[x y]]".into()];
        let c = Connection { reason: Some(Reason::NeedsWaypoint(fields)), ..stranger() };
        check(
            &c,
            &expect![[r#"
            time=2026-01-31T11:59:59.990Z connection=7 direction=outbound path=none source_address=[fd00::1]:40000 destination_address=10.0.2.3:9080 bytes_received=120 bytes_sent=4096 duration_ms=0.000 reason=needs_waypoint reason_detail="needs a waypoint: to.operation.methods, when[request.headers[x y]]" world=3
        "#]],
            &expect![[r#"
            {"time":"2026-01-31T11:59:59.990Z","connection":7,"direction":"outbound","path":"none","source_address":"[fd00::1]:40000","destination_address":"10.0.2.3:9080","bytes_received":120,"bytes_sent":4096,"duration_ms":0.000,"reason":"needs_waypoint","reason_detail":"needs a waypoint: to.operation.methods, when[request.headers[x y]]","world":3}
        "#]],
        );
    }

    #[test]
    fn a_refused_handshake_names_both_identities() {
        let (found, expected) = ("spiffe:///ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b");
        let of = |refusal, says: &str, found: Option<&str>, expected: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let failure = TlsFailure::new(refusal, says.to_owned(), owned(found), owned(expected));
            Connection { reason: Some(Reason::Tls(failure)), ..stranger() }
        };
        check(
            &of(Refusal::NotAnIdentity, "its certificate names none", Some(found), Some(expected)),
            &expect![[r#"
                time=2026-01-31T11:59:59.990Z connection=7 direction=outbound path=none source_address=[fd00::1]:40000 destination_address=10.0.2.3:9080 bytes_received=120 bytes_sent=4096 duration_ms=0.000 reason=tls_not_an_identity reason_detail="its certificate names none" refused_by=us identity_found=spiffe:///ns/a/sa/b identity_expected=spiffe://cluster.local/ns/a/sa/b world=3
            "#]],
            &expect![[r#"
                {"time":"2026-01-31T11:59:59.990Z","connection":7,"direction":"outbound","path":"none","source_address":"[fd00::1]:40000","destination_address":"10.0.2.3:9080","bytes_received":120,"bytes_sent":4096,"duration_ms":0.000,"reason":"tls_not_an_identity","reason_detail":"its certificate names none","refused_by":"us","identity_found":"spiffe:///ns/a/sa/b","identity_expected":"spiffe://cluster.local/ns/a/sa/b","world":3}
            "#]],
        );
        check(
            &of(Refusal::Alert(Alert(48)), "peer refused: unknown_ca", None, None),
            &expect![[r#"
                time=2026-01-31T11:59:59.990Z connection=7 direction=outbound path=none source_address=[fd00::1]:40000 destination_address=10.0.2.3:9080 bytes_received=120 bytes_sent=4096 duration_ms=0.000 reason=tls_alert_unknown_ca reason_detail="peer refused: unknown_ca" refused_by=peer world=3
            "#]],
            &expect![[r#"
                {"time":"2026-01-31T11:59:59.990Z","connection":7,"direction":"outbound","path":"none","source_address":"[fd00::1]:40000","destination_address":"10.0.2.3:9080","bytes_received":120,"bytes_sent":4096,"duration_ms":0.000,"reason":"tls_alert_unknown_ca","reason_detail":"peer refused: unknown_ca","refused_by":"peer","world":3}
            "#]],
        );
    }

    #[test]
    fn dry_run_denials_are_named() {
        let tried = vec![name("default/tried"), name("istio-system/all")];
        let c = Connection { dry_run_denied_by: tried, ..stranger() };
        let text = line(Format::Text, &c);
        assert!(text.contains(" dry_run_denied_by=default/tried,istio-system/all world=3"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(Format::Json, &c)).unwrap();
        assert_eq!(json["dry_run_denied_by"], "default/tried,istio-system/all");
    }

    #[test]
    fn an_open_connection_has_no_reason_yet() {
        let c = Connection { reason: None, ..stranger() };
        assert!(!line(Format::Text, &c).contains("reason"));
    }

    #[test]
    fn the_namespace_that_was_proved_counts_where_the_pod_is_unknown() {
        let mut c = connection();
        c.source.workload = None;
        let text = line(Format::Text, &c);
        assert!(text.contains(" source_namespace=default source_identity="), "{text}");
        assert!(!text.contains("source_workload"), "{text}");
    }

    #[test]
    fn a_name_cannot_forge_a_line_or_a_field() {
        for evil in [
            "x\ntime=2026-01-01T00:00:00.000Z source_workload=admin",
            "x source_identity=spiffe://cluster.local/ns/default/sa/admin",
            "x\" source_workload=\"admin",
            "x\",\"source_workload\":\"admin",
            "x\\",
            "x\r\u{1b}[1A\u{1b}[2K",
            "x\u{2028}\u{85}\u{b}\u{c}\0",
        ] {
            let mut c = connection();
            let service = ObjectName::new(evil, evil);
            c.service = Some(service.clone());
            c.policy = Some(ObjectName::new("default", evil));
            for format in [Format::Text, Format::Json] {
                let text = line(format, &c);
                assert_eq!(text.matches('\n').count(), 1, "{text:?}");
                assert!(
                    text.trim_end_matches('\n').chars().all(|c| c >= ' ' && c != '\u{85}' && c != '\u{2028}'),
                    "{text:?}"
                );
            }
            let json: serde_json::Value = serde_json::from_str(&line(Format::Json, &c)).unwrap();
            assert_eq!(json["service"], service.to_string());
            assert_eq!(json["source_workload"], "productpage-1");
            assert_eq!(logfmt(&line(Format::Text, &c)), json_fields(&json), "{evil:?}");
        }
    }

    #[test]
    fn both_formats_say_the_same() {
        for c in [connection(), stranger()] {
            let json = serde_json::from_str(&line(Format::Json, &c)).unwrap();
            assert_eq!(logfmt(&line(Format::Text, &c)), json_fields(&json));
        }
    }

    /// Reads a line as any logfmt reader does: keys, values bare or quoted.
    fn logfmt(line: &str) -> std::collections::BTreeMap<String, String> {
        let mut fields = std::collections::BTreeMap::new();
        let mut rest = line.strip_suffix('\n').unwrap();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').unwrap();
            let (value, after) = if after.starts_with('"') {
                let mut stream = serde_json::Deserializer::from_str(after).into_iter::<String>();
                let value = stream.next().unwrap().unwrap();
                (value, &after[stream.byte_offset()..])
            } else {
                let end = after.find(' ').unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            };
            assert!(fields.insert(key.to_owned(), value).is_none(), "{key} twice in {line:?}");
            rest = after.strip_prefix(' ').unwrap_or(after);
        }
        fields
    }

    fn json_fields(json: &serde_json::Value) -> std::collections::BTreeMap<String, String> {
        let show = |v: &serde_json::Value| match v {
            serde_json::Value::String(s) => s.clone(),
            // `12.000` reads as `12.0`: shown again with the line's three decimals.
            v if v.is_f64() => format!("{:.3}", v.as_f64().unwrap()),
            v => v.to_string(),
        };
        json.as_object().unwrap().iter().map(|(k, v)| (k.clone(), show(v))).collect()
    }
}
