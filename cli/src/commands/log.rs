//! `underpass log`: the level of the agent's own log.

use serde::{Deserialize, Serialize};

use crate::{
    agents::Agents,
    args::Log,
    error::CliError,
    output::{Output, one_line},
    show::Style,
};

#[derive(Serialize, Deserialize)]
struct Level {
    level: String,
}

pub(crate) fn run(args: &Log) -> Result<Output, CliError> {
    let agents = Agents::open(&args.way)?;
    agents.need_one("log")?;
    match (&agents, &args.level) {
        (Agents::Local(agent), Some(level)) => agent.set_log_level(&level.to_string())?,
        (Agents::Cluster(fleet), Some(level)) => return Err(fleet.read_only(format!("log {level}"))),
        (_, None) => {}
    }
    let level: Level = agents.any("/logging")?;
    Style::new(args.output).render(&level, |_, _| format!("{}\n", one_line(&level.level)))
}
