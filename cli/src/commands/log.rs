//! `underpass log`: the level of the agent's own log.

use serde::{Deserialize, Serialize};

use crate::{
    args::Log,
    error::CliError,
    output::{Output, one_line},
    show::Style,
    source::Asked,
};

#[derive(Serialize, Deserialize)]
struct Level {
    level: String,
}

pub(crate) fn run(args: &Log) -> Result<Output, CliError> {
    let agent = Asked::new(&args.agent)?;
    if let Some(level) = &args.level {
        agent.set_log_level(&level.to_string())?;
    }
    let level: Level = agent.get("/logging")?;
    Style::new(args.output).render(&level, |_, _| format!("{}\n", one_line(&level.level)))
}
