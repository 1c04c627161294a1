//! `underpass connections`: open connections with their rates, and refused handshakes.

use std::{cell::RefCell, cmp::Reverse, collections::HashMap, sync::Arc};

use serde::Serialize;
use underpass_telemetry::admin::view::{Connection, Party, RefusedHandshake};

use crate::{
    agents::{Agents, OnNode},
    args::{Connections, OtherThanOpen, Refused},
    error::CliError,
    measure,
    output::{Colour, Output},
    show,
    table::{Cell, Table, Tone},
};

pub(crate) fn run(args: &Connections) -> Result<Output, CliError> {
    match &args.other {
        Some(OtherThanOpen::Close { id, way }) => {
            match Agents::open(way)? {
                Agents::Local(agent) => agent.post(&format!("/connections/close?id={id}"))?,
                Agents::Cluster(fleet) => return Err(fleet.read_only(format!("connections close {id}"))),
            }
            return Ok(Output::ok(format!("connection {id} is closed\n")));
        }
        Some(OtherThanOpen::Refused(args)) => return refused(args),
        None => {}
    }
    let agents = Agents::open(&args.way)?;
    let before = RefCell::new(HashMap::new());
    show::run(args.shown, |style| {
        let (mut all, silent) = agents.listed::<Connection>("/connections")?;
        all.retain(|c| asked_for(args, &c.item));
        let moving = moving(all, &mut before.borrow_mut());
        let shown = style.render(&moving, |wide, colour| text(&moving, args.shown.watch.is_some(), wide, colour))?;
        Ok(style.with_silent(shown, &silent))
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
    connection: OnNode<Connection>,
    /// Bytes per second from source to destination; none at first.
    received_per_s: Option<u64>,
    /// Bytes per second from destination to source.
    sent_per_s: Option<u64>,
}

/// A connection, by its node and number.
type Key = (Option<Arc<str>>, u64);
/// A connection at the last refresh: its age, and its bytes.
type Seen = (u64, u64, u64);

/// The fastest first; without rates as they were opened.
pub(super) fn moving(all: Vec<OnNode<Connection>>, before: &mut HashMap<Key, Seen>) -> Vec<Moving> {
    let key = |of: &OnNode<Connection>| (of.node.clone(), of.item.id);
    let seen = |c: &Connection| (c.duration_us, c.bytes_received, c.bytes_sent);
    let now = all.iter().map(|of| (key(of), seen(&of.item))).collect();
    let before = std::mem::replace(before, now);
    let moving = |of: OnNode<Connection>| {
        let c = &of.item;
        // One that was opened since then has carried all of its bytes since then.
        let (was_us, received, sent) = before.get(&key(&of)).copied().unwrap_or_default();
        let micros = c.duration_us.saturating_sub(was_us).max(1);
        let rate = |now: u64, then: u64| {
            let amount = u128::from(now.saturating_sub(then)) * 1_000_000 / u128::from(micros);
            (!before.is_empty()).then(|| u64::try_from(amount).unwrap_or(u64::MAX))
        };
        Moving {
            received_per_s: rate(c.bytes_received, received),
            sent_per_s: rate(c.bytes_sent, sent),
            connection: of,
        }
    };
    let mut all: Vec<_> = all.into_iter().map(moving).collect();
    all.sort_by_key(|m| Reverse(m.received_per_s.unwrap_or(0).saturating_add(m.sent_per_s.unwrap_or(0))));
    all
}

pub(super) fn text(all: &[Moving], rates: bool, wide: bool, colour: Colour) -> String {
    let has_nodes = all.iter().any(|m| m.connection.node.is_some());
    let mut head: Vec<&str> = has_nodes.then_some("NODE").into_iter().collect();
    head.extend(["ID", "DIRECTION", "PATH", "SOURCE", "DESTINATION", "SERVICE", "OPEN", "RECEIVED", "SENT"]);
    if rates {
        head.extend(["RECEIVED/S", "SENT/S"]);
    }
    if wide {
        head.extend(["HOST", "VIP", "SOURCE IDENTITY", "POLICY", "DRY RUN DENIED BY"]);
    }
    let mut table = Table::new(&head);
    for Moving { connection: OnNode { node, item: c }, received_per_s, sent_per_s } in all {
        let tone = if c.path == "hbone" { Tone::Good } else { Tone::Plain };
        let mut row = node_cell(has_nodes, node.as_deref());
        row.extend([
            Cell::from(c.id.to_string()),
            Cell::from(&c.direction),
            Cell::new(&c.path, tone),
            Cell::from(end(&c.source)),
            Cell::from(end(&c.destination)),
            Cell::from(c.service.as_deref().unwrap_or_default()),
            Cell::from(measure::duration(c.duration_us / 1_000_000)),
            Cell::from(measure::bytes(c.bytes_received)),
            Cell::from(measure::bytes(c.bytes_sent)),
        ]);
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
    let agents = Agents::open(&args.way)?;
    show::run(args.shown, |style| {
        let (all, silent) = agents.listed::<RefusedHandshake>("/connections/refused")?;
        let now = show::unix_s();
        let shown = style.render(&all, |wide, colour| refused_text(&all, now, wide, colour))?;
        Ok(style.with_silent(shown, &silent))
    })
}

fn refused_text(all: &[OnNode<RefusedHandshake>], now: u64, wide: bool, colour: Colour) -> String {
    let has_nodes = all.iter().any(|one| one.node.is_some());
    let mut head: Vec<&str> = has_nodes.then_some("NODE").into_iter().collect();
    head.extend(["LAST", "TIMES", "DIRECTION", "SOURCE", "DESTINATION", "REFUSED BY", "REASON", "FOUND", "EXPECTED"]);
    head.extend(wide.then_some("DETAIL"));
    let mut table = Table::new(&head);
    for OnNode { node, item: one } in all {
        let mut row = node_cell(has_nodes, node.as_deref());
        row.extend([
            Cell::from(format!("{} ago", measure::duration(now.saturating_sub(one.last_unix_s)))),
            Cell::from(one.times.to_string()),
            Cell::from(&one.direction),
            Cell::from(end(&one.source)),
            Cell::from(end(&one.destination)),
            Cell::from(&one.refused_by),
            Cell::new(&one.reason, Tone::Bad),
            Cell::from(one.identity_found.as_deref().unwrap_or_default()),
            Cell::from(one.identity_expected.as_deref().unwrap_or_default()),
        ]);
        if wide {
            row.push(Cell::from(&one.detail));
        }
        table.row(row);
    }
    table.text(colour, "no handshake was refused")
}

/// The first cell of a row, where several nodes were asked.
pub(super) fn node_cell(has_nodes: bool, node: Option<&str>) -> Vec<Cell> {
    has_nodes.then(|| Cell::from(node.unwrap_or_default())).into_iter().collect()
}

/// The pod and its port, or the address.
fn end(party: &Party) -> String {
    match &party.workload {
        Some(pod) => format!("{pod}:{}", party.address.port()),
        None => party.address.to_string(),
    }
}
