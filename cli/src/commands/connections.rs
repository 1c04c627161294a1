//! `underpass connections`: open connections with their rates, and refused handshakes.

use std::{cell::RefCell, cmp::Reverse, collections::HashMap};

use serde::Serialize;
use underpass_telemetry::admin::view::{Connection, Party, RefusedHandshake};

use crate::{
    args::{Connections, OtherThanOpen, Refused},
    error::CliError,
    measure,
    output::{Colour, Output},
    show,
    source::Asked,
    table::{Cell, Table, Tone},
};

pub(crate) fn run(args: &Connections) -> Result<Output, CliError> {
    match &args.other {
        Some(OtherThanOpen::Close { id, agent }) => {
            Asked::new(agent)?.post(&format!("/connections/close?id={id}"))?;
            return Ok(Output::ok(format!("connection {id} is closed\n")));
        }
        Some(OtherThanOpen::Refused(args)) => return refused(args),
        None => {}
    }
    let agent = Asked::new(&args.agent)?;
    let before = RefCell::new(HashMap::new());
    show::run(args.shown, |style| {
        let mut all: Vec<Connection> = agent.get("/connections")?;
        all.retain(|c| asked_for(args, c));
        let moving = moving(all, &mut before.borrow_mut());
        style.render(&moving, |wide, colour| text(&moving, args.shown.watch.is_some(), wide, colour))
    })
}

fn asked_for(args: &Connections, c: &Connection) -> bool {
    let has = |pod: &String| [&c.source, &c.destination].iter().any(|end| end.workload.as_ref() == Some(pod));
    args.pod.as_ref().is_none_or(has) && args.service.as_ref().is_none_or(|s| c.service.as_ref() == Some(s))
}

/// A connection, and its rates since the last refresh.
#[derive(Debug, Serialize)]
pub(super) struct Moving {
    #[serde(flatten)]
    connection: Connection,
    /// Bytes per second from source to destination; none at first.
    received_per_s: Option<u64>,
    /// Bytes per second from destination to source.
    sent_per_s: Option<u64>,
}

/// A connection at the last refresh: its age, and its bytes.
type Style = (u64, u64, u64);

/// The fastest first; without rates as they were opened.
pub(super) fn moving(all: Vec<Connection>, before: &mut HashMap<u64, Style>) -> Vec<Moving> {
    let looks = all.iter().map(|c| (c.id, (c.duration_us, c.bytes_received, c.bytes_sent))).collect();
    let before = std::mem::replace(before, looks);
    let moving = |c: Connection| {
        // One that was opened since then has carried all of its bytes since then.
        let (was_us, received, sent) = before.get(&c.id).copied().unwrap_or_default();
        let micros = c.duration_us.saturating_sub(was_us).max(1);
        let rate = |now: u64, then: u64| {
            let amount = u128::from(now.saturating_sub(then)) * 1_000_000 / u128::from(micros);
            (!before.is_empty()).then(|| u64::try_from(amount).unwrap_or(u64::MAX))
        };
        Moving { received_per_s: rate(c.bytes_received, received), sent_per_s: rate(c.bytes_sent, sent), connection: c }
    };
    let mut all: Vec<_> = all.into_iter().map(moving).collect();
    all.sort_by_key(|m| Reverse(m.received_per_s.unwrap_or(0).saturating_add(m.sent_per_s.unwrap_or(0))));
    all
}

pub(super) fn text(all: &[Moving], rates: bool, wide: bool, colour: Colour) -> String {
    let mut head = vec!["ID", "DIRECTION", "PATH", "SOURCE", "DESTINATION", "SERVICE", "OPEN", "RECEIVED", "SENT"];
    if rates {
        head.extend(["RECEIVED/S", "SENT/S"]);
    }
    if wide {
        head.extend(["HOST", "VIP", "SOURCE IDENTITY", "POLICY", "DRY RUN DENIED BY"]);
    }
    let mut table = Table::new(&head);
    for Moving { connection: c, received_per_s, sent_per_s } in all {
        let tone = if c.path == "hbone" { Tone::Good } else { Tone::Plain };
        let mut row = vec![
            Cell::from(c.id.to_string()),
            Cell::from(&c.direction),
            Cell::new(&c.path, tone),
            Cell::from(end(&c.source)),
            Cell::from(end(&c.destination)),
            Cell::from(c.service.as_deref().unwrap_or_default()),
            Cell::from(measure::duration(c.duration_us / 1_000_000)),
            Cell::from(measure::bytes(c.bytes_received)),
            Cell::from(measure::bytes(c.bytes_sent)),
        ];
        if rates {
            for rate in [received_per_s, sent_per_s] {
                let tone = if *rate == Some(0) { Tone::Faint } else { Tone::Plain };
                row.push(Cell::new(rate.map(|r| format!("{}/s", measure::bytes(r))).unwrap_or_default(), tone));
            }
        }
        if wide {
            row.push(Cell::from(c.service_host.as_deref().unwrap_or_default()));
            row.push(Cell::from(c.vip.map(|vip| vip.to_string()).unwrap_or_default()));
            row.push(Cell::from(c.source.identity.as_deref().unwrap_or_default()));
            row.push(Cell::from(c.policy.as_deref().unwrap_or_default()));
            row.push(Cell::from(c.dry_run_denied_by.join(", ")));
        }
        table.row(row);
    }
    table.text(colour, "no open connections")
}

fn refused(args: &Refused) -> Result<Output, CliError> {
    let agent = Asked::new(&args.agent)?;
    show::run(args.shown, |style| {
        let all: Vec<RefusedHandshake> = agent.get("/connections/refused")?;
        let now = show::unix_s();
        style.render(&all, |wide, colour| refused_text(&all, now, wide, colour))
    })
}

fn refused_text(all: &[RefusedHandshake], now: u64, wide: bool, colour: Colour) -> String {
    let mut head =
        vec!["LAST", "TIMES", "DIRECTION", "SOURCE", "DESTINATION", "REFUSED BY", "REASON", "FOUND", "EXPECTED"];
    head.extend(wide.then_some("DETAIL"));
    let mut table = Table::new(&head);
    for one in all {
        let mut row = vec![
            Cell::from(format!("{} ago", measure::duration(now.saturating_sub(one.last_unix_s)))),
            Cell::from(one.times.to_string()),
            Cell::from(&one.direction),
            Cell::from(end(&one.source)),
            Cell::from(end(&one.destination)),
            Cell::from(&one.refused_by),
            Cell::new(&one.reason, Tone::Bad),
            Cell::from(one.identity_found.as_deref().unwrap_or_default()),
            Cell::from(one.identity_expected.as_deref().unwrap_or_default()),
        ];
        if wide {
            row.push(Cell::from(&one.detail));
        }
        table.row(row);
    }
    table.text(colour, "no handshake was refused")
}

/// The pod and its port, or the address.
fn end(party: &Party) -> String {
    match &party.workload {
        Some(pod) => format!("{pod}:{}", party.address.port()),
        None => party.address.to_string(),
    }
}
