//! `underpass certificates`: whose, and until when.

use underpass_telemetry::admin::view::Certificate;

use crate::{
    args::Certificates,
    error::CliError,
    measure,
    output::{Colour, Output},
    show,
    source::Asked,
    table::{Cell, Table, Tone},
};

pub(crate) fn run(args: &Certificates) -> Result<Output, CliError> {
    let agent = Asked::new(&args.agent)?;
    show::run(args.shown, |look| {
        let all: Vec<Certificate> = agent.get("/certificates")?;
        let now = show::unix_s();
        look.render(&all, |wide, colour| text(&all, now, wide, colour))
    })
}

pub(super) fn text(all: &[Certificate], now: u64, wide: bool, colour: Colour) -> String {
    let mut table =
        Table::new(&[&["IDENTITY", "EXPIRES"][..], if wide { &["SERIAL", "ISSUED"] } else { &[] }].concat());
    for c in all {
        let mut row = vec![Cell::from(&c.identity), expiry(c, now)];
        if wide {
            row.push(Cell::from(&c.serial));
            row.push(Cell::from(format!("{} ago", measure::duration(now.saturating_sub(c.not_before_unix_s)))));
        }
        table.row(row);
    }
    table.text(colour, "no certificates: no pod of this node is in the mesh")
}

/// In the second half of its life a certificate should have been renewed: that one was not is worth a look.
fn expiry(c: &Certificate, now: u64) -> Cell {
    let left = c.not_after_unix_s.saturating_sub(now);
    let life = c.not_after_unix_s.saturating_sub(c.not_before_unix_s);
    match left {
        0 => Cell::new(format!("{} ago", measure::duration(now.saturating_sub(c.not_after_unix_s))), Tone::Bad),
        left if left < life / 4 => Cell::new(format!("in {}", measure::duration(left)), Tone::Bad),
        left => Cell::from(format!("in {}", measure::duration(left))),
    }
}
