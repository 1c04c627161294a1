//! Presentation of an answer, once or with `--watch` repeatedly, over the one before. Its own file because all commands
//! with an answer share it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{
    args::{Format, Shown},
    error::CliError,
    output::{self, Colour, Output, complain, has_unsafe, one_line, safe_json},
};

/// The style of an answer: format and colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    format: Format,
    colour: Colour,
}

impl Style {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, colour: Colour::of_stdout() }
    }

    /// The output with a line for each agent that gave no answer: below a table, and beside what programs read. The exit status
    /// is that of a negative answer then.
    pub(crate) fn with_silent(self, mut output: Output, silent: &[String]) -> Output {
        for line in silent {
            match self.format {
                Format::Text | Format::Wide => output.text += &format!("{}\n", self.no_answer(line)),
                Format::Json | Format::Yaml => complain(&self.no_answer(line)),
            }
            output.code = output::NO;
        }
        output
    }

    /// Coloured below a table alone: standard error gets every line escaped.
    fn no_answer(self, line: &str) -> String {
        let colour = if matches!(self.format, Format::Text | Format::Wide) { self.colour } else { Colour::Never };
        format!("{} {}", colour.red("no answer:"), one_line(line))
    }

    /// The answer in the given format; `text` gets whether more columns are wanted, and colours.
    pub(crate) fn render(
        self,
        value: &impl Serialize,
        text: impl FnOnce(bool, Colour) -> String,
    ) -> Result<Output, CliError> {
        Ok(Output::ok(match self.format {
            Format::Text => text(false, self.colour),
            Format::Wide => text(true, self.colour),
            Format::Json => json(value)?,
            Format::Yaml => {
                let yaml = serde_saphyr::to_string(value).map_err(|source| CliError::Yaml { source })?;
                // The serializer escapes control characters and not those that turn text around. JSON is YAML (1.2,
                // 1.3).
                if has_unsafe(&yaml) { json(value)? } else { format!("{}\n", yaml.trim_end()) }
            }
        }))
    }
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    let json = serde_json::to_string_pretty(value).map_err(|source| CliError::Json { source })?;
    Ok(format!("{}\n", safe_json(&json)))
}

/// Asks once; with `--watch` until the reader goes away, or Ctrl-C.
pub(crate) fn run(shown: Shown, mut ask: impl FnMut(Style) -> Result<Output, CliError>) -> Result<Output, CliError> {
    let style = Style::new(shown.output);
    let Some(pause) = shown.watch else { return ask(style) };
    let mut screen = Screen { is_terminal: io::stdout().is_terminal(), drawn: false };
    loop {
        // An agent that is being replaced is back in a moment, and a watch shows that.
        let text = ask(style).map_or_else(|e| format!("error: {}\n", one_line(&e.to_string())), |output| output.text);
        match io::stdout().lock().write_all(screen.draw(&text).as_bytes()) {
            Ok(()) => thread::sleep(pause),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Output::ok(String::new())),
            Err(source) => return Err(CliError::Write { source }),
        }
    }
}

/// The text that shows the newest answer in place of the one before.
struct Screen {
    is_terminal: bool,
    drawn: bool,
}

impl Screen {
    /// On a terminal each line overwrites the one before (ECMA-48: CUP, EL, ED), without a moment of emptiness between.
    fn draw(&mut self, text: &str) -> String {
        let first = !std::mem::replace(&mut self.drawn, true);
        match (self.is_terminal, first) {
            (false, true) => text.to_owned(),
            (false, false) => format!("\n{text}"),
            (true, _) => {
                let clear = if first { "\u{1b}[2J" } else { "" };
                format!("{clear}\u{1b}[H{}\u{1b}[J", text.replace('\n', "\u{1b}[K\n"))
            }
        }
    }
}

/// Now, seconds since the epoch.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_drawn_over_and_a_pipe_is_written_on() {
        let mut terminal = Screen { is_terminal: true, drawn: false };
        assert_eq!(terminal.draw("a\nb\n"), "\u{1b}[2J\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(terminal.draw("c\n"), "\u{1b}[Hc\u{1b}[K\n\u{1b}[J");
        let mut pipe = Screen { is_terminal: false, drawn: false };
        assert_eq!(pipe.draw("a\n") + &pipe.draw("b\n"), "a\n\nb\n");
    }

    #[test]
    fn colours_stay_below_a_table() {
        for (format, want) in [
            (Format::Text, "\u{1b}[31;1mno answer:\u{1b}[0m n-1"),
            (Format::Wide, "\u{1b}[31;1mno answer:\u{1b}[0m n-1"),
            (Format::Json, "no answer: n-1"),
            (Format::Yaml, "no answer: n-1"),
        ] {
            assert_eq!(Style { format, colour: Colour::Always }.no_answer("n-1"), want);
        }
    }

    #[test]
    fn every_format_says_the_same() {
        let value = serde_json::json!([{ "name": "a: b", "ready": true, "none": null, "list": ["1", 2] }]);
        let render = |format| {
            let style = Style { format, colour: Colour::Never };
            style.render(&value, |wide, _| format!("wide {wide}\n")).unwrap().text
        };
        assert_eq!(render(Format::Text), "wide false\n");
        assert_eq!(render(Format::Wide), "wide true\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&render(Format::Json)).unwrap(), value);
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&render(Format::Yaml)).unwrap(), value);
    }
}
