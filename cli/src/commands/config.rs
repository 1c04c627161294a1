//! `underpass config`: the settings of an agent, each with its source.

use underpass_telemetry::admin::view::{Setting, Settings};

use crate::{
    agents::Agents,
    args::Config,
    error::CliError,
    output::{self, Colour, Output, one_line},
    show,
    table::{Cell, Table, Tone, list},
};

pub(crate) fn run(args: &Config) -> Result<Output, CliError> {
    let agents = Agents::open(&args.way)?;
    agents.need_one("config")?;
    show::run(args.shown, |style| {
        let mut settings: Settings = agents.any("/config")?;
        if args.changed {
            settings.settings.retain(|s| s.source != "default");
        }
        let is_well = settings.problem.is_none() && settings.needs_restart.is_empty();
        let code = if is_well { output::OK } else { output::NO };
        Ok(Output { code, ..style.render(&settings, |_, colour| text(&settings, colour))? })
    })
}

pub(super) fn text(settings: &Settings, colour: Colour) -> String {
    let mut table = Table::new(&["SETTING", "VALUE", "SOURCE", "LIVE"]);
    for Setting { name, values, source, live } in &settings.settings {
        let tone = if source == "default" { Tone::Faint } else { Tone::Plain };
        let live = Cell::new(if *live { "live" } else { "" }, Tone::Plain);
        table.row(vec![Cell::from(name), Cell::from(list(values)), Cell::new(source, tone), live]);
    }
    let mut out = table.text(colour, "every setting is the default");
    for pending in &settings.needs_restart {
        let says = format!("{} becomes {} ({})", pending.name, or_nothing(&pending.values), pending.source);
        out += &format!("{} {}\n", colour.red("needs a restart:"), one_line(&says));
    }
    if let Some(problem) = &settings.problem {
        let file = settings.file.as_deref().unwrap_or("the file");
        let says = one_line(file).into_owned();
        out += &format!("{} {says} is broken; the settings before stay in effect:\n", colour.red("not served:"));
        problem.lines().skip(1).for_each(|line| out += &format!("{}\n", one_line(line)));
    }
    out
}

fn or_nothing(values: &[String]) -> String {
    if values.is_empty() { "not set".to_owned() } else { list(values) }
}
