//! The output of the demo. Colours only on a terminal.

use std::{
    fmt,
    io::{IsTerminal as _, stdout},
    time::Instant,
};

use anyhow::Result;

use crate::watch::Watch;

/// Prints steps, what is done, what is seen, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    colour: bool,
    watch: Watch,
    started: Instant,
    steps: usize,
    facts: usize,
}

/// ECMA-48, SGR.
#[derive(Clone, Copy)]
enum Style {
    Bold = 1,
    Faint = 2,
    Red = 31,
    Green = 32,
    Blue = 34,
}

/// A promise that was not kept; printed where it was found.
#[derive(Debug)]
struct Unmet(String);

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not as promised: {}", self.0)
    }
}

impl std::error::Error for Unmet {}

impl Screen {
    pub(crate) fn new(watch: Watch) -> Self {
        // https://no-color.org
        let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { colour, watch, started: Instant::now(), steps: 0, facts: 0 }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.colour { format!("\u{1b}[{}m{text}\u{1b}[0m", style as u8) } else { text.to_owned() }
    }

    /// A line that stands for itself.
    pub(crate) fn title(&self, text: &str) {
        println!("{}", self.paint(Style::Bold, text));
    }

    /// A step begins.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        self.watch.step(title);
        println!();
        self.title(&format!("{}. {title}", self.steps));
    }

    /// The action of the moment.
    pub(crate) fn does(&self, text: &str) {
        println!("  {}       {text}", self.paint(Style::Blue, ">"));
    }

    /// A quotation: a captured line, a log, a command's answer.
    pub(crate) fn quote(&self, line: &str) {
        println!("          {}", self.paint(Style::Faint, line));
    }

    /// A command to try, and what it shows.
    pub(crate) fn command(&self, what: &str, command: &str) {
        println!("  {}\n      {command}", self.paint(Style::Faint, &format!("# {what}")));
    }

    /// A fact that was promised; where it is none, `seen` says what is instead.
    pub(crate) fn expect(&mut self, promised: &str, is_so: bool, seen: impl fmt::Debug) -> Result<()> {
        if is_so {
            self.facts += 1;
            println!("  {}      {promised}", self.paint(Style::Green, "ok"));
            return Ok(());
        }
        println!("  {}  expected: {promised}", self.paint(Style::Red, "FAILED"));
        println!("          seen:     {seen:?}");
        Err(Unmet(promised.to_owned()).into())
    }

    /// A step could not be done at all; a promise that was not kept has been printed already.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        if !error.is::<Unmet>() {
            println!("  {}  {error:#}", self.paint(Style::Red, "FAILED"));
        }
    }

    /// Every step is done.
    pub(crate) fn done(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        println!();
        self.title(&format!("{} steps, {} facts as promised, {seconds:.1} s", self.steps, self.facts));
    }
}
