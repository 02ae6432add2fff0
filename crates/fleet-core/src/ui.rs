//! How the tools talk to people. Steps and messages go to standard error, data to standard output;
//! nothing else in the workspace prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place that prints")]

mod ask;
mod lanes;

use std::io::{IsTerminal, Write};

use console::Style;
use serde::Serialize;

pub(crate) use self::ask::asking;
pub use self::{
    ask::{ask_secret, can_ask, typed, unasked},
    lanes::{Lane, Live},
};
use crate::{Error, Result};

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a tool's words go. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    color: bool,
    quiet: bool,
    verbose: bool,
    json: bool,
    lane: Option<&'static Lane>,
}

impl Ui {
    /// From the options that every tool has.
    pub fn new(color: ColorChoice, quiet: bool, verbose: bool, json: bool) -> Ui {
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
                    && std::env::var_os("TERM").is_none_or(|v| v != "dumb")
                    && std::io::stderr().is_terminal()
            }
        };
        Ui { color, quiet, verbose, json, lane: None }
    }

    /// A sink for tests and libraries that should say nothing.
    pub fn silent() -> Ui {
        Ui { color: false, quiet: true, verbose: false, json: false, lane: None }
    }

    /// Whether `--json` was given.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether `--verbose` was given.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether `--quiet` was given.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether messages are coloured.
    pub fn color(&self) -> bool {
        self.color
    }

    fn paint(&self, style: Style, text: &str) -> String {
        style.force_styling(self.color).apply_to(text).to_string()
    }

    fn line(&self, line: &str) {
        let named = self.lane.map(|lane| lane.named(line, |name| self.paint(Style::new().bold(), name)));
        let line = match &named {
            Some(named) if named.is_empty() => return,
            Some(named) => named,
            None => line,
        };
        // A closed standard error must not stop the work.
        let _ = lanes::aside(|| writeln!(std::io::stderr().lock(), "{line}"));
    }

    /// Whether a message is shown in the lane's line on the terminal, and therefore not above it.
    fn in_lane(&self, text: &str) -> bool {
        let shown = self.lane.is_some_and(|lane| lane.show(text));
        shown && !self.verbose
    }

    /// `==> text`: a step begins.
    pub fn step(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.in_lane(text.as_ref()) {
            self.line(&format!("{} {}", self.paint(Style::new().cyan().bold(), "==>"), text.as_ref()));
        }
    }

    /// `✓ text`: a step is done.
    pub fn done(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.in_lane(text.as_ref()) {
            self.line(&format!("{} {}", self.paint(Style::new().green(), "✓"), text.as_ref()));
        }
    }

    /// `⚠ text`: a warning; shown with `--quiet` too.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.line(&format!("{} {}", self.paint(Style::new().yellow(), "⚠"), text.as_ref()));
    }

    /// `⚠ text`: what a person should see before they answer. Among the messages, as it warns of nothing.
    pub fn attention(&self, text: impl AsRef<str>) {
        self.say(format!("{} {}", self.paint(Style::new().yellow(), "⚠"), text.as_ref()));
    }

    /// The same without `--quiet`.
    #[must_use]
    pub(crate) fn loud(self) -> Ui {
        Ui { quiet: false, ..self }
    }

    /// Who tells what a question is about: where one is asked, that is seen with `--quiet` too.
    #[must_use]
    pub fn before_question(self, asks: bool) -> Ui {
        if asks { self.loud() } else { self }
    }

    /// `✗ text`: something failed; shown with `--quiet` too.
    pub fn fail(&self, text: impl AsRef<str>) {
        self.line(&format!("{} {}", self.paint(Style::new().red(), "✗"), text.as_ref()));
    }

    /// A plain line among the messages.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.in_lane(text.as_ref()) {
            self.line(text.as_ref());
        }
    }

    /// A plain line that is still needed when all is over: it stands above the lines that change, where there are any.
    pub fn keep(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.line(text.as_ref());
        }
    }

    /// What another program wrote to its standard error: byte by byte, and with `--quiet` too. Where a line of ours
    /// follows, that begins anew.
    pub fn foreign(&self, bytes: &[u8], followed: bool) {
        // A closed standard error must not stop the work.
        let _ = lanes::aside(|| ended(&mut std::io::stderr().lock(), bytes, followed));
    }

    /// A detail, shown with `--verbose`.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbose {
            self.line(&self.paint(Style::new().dim(), text.as_ref()));
        }
    }

    /// A line of what goes on at a node, by its kind: `warning: …` is a warning, `note: …` a plain line (what is waited
    /// for, and why), everything else, as a task's log, a detail.
    pub fn tell(&self, line: &str) {
        if let Some(text) = line.strip_prefix("warning: ") {
            self.warn(text);
        } else if let Some(text) = line.strip_prefix("note: ") {
            self.say(format!("  {text}"));
        } else {
            self.detail(line);
        }
    }

    /// `hint: text`: what to do next; shown with `--quiet` too.
    pub fn hint(&self, text: impl AsRef<str>) {
        self.line(&format!("{} {}", self.paint(Style::new().cyan(), "hint:"), text.as_ref()));
    }

    /// A failure: its message and causes, what is true now, what to do next. With `--json` also as an object
    /// on standard output, unless it is one lane's alone.
    pub fn error(&self, error: &Error) {
        self.fail(error.chain());
        for fact in error.facts() {
            self.line(&format!("  {fact}"));
        }
        for hint in error.hints() {
            self.hint(hint);
        }
        if self.json && self.lane.is_none() {
            // Nothing more can be done about a closed standard output: the exit code still tells.
            let _ = self.json_line(&serde_json::json!({ "error": error.report() }));
        }
    }

    /// Data for standard output, as it is, with a newline at its end if it has none. A reader that has gone away had
    /// all that it wanted (`| head`): that is no failure.
    pub fn data(&self, text: impl AsRef<str>) -> Result<()> {
        lanes::aside(|| ended(&mut std::io::stdout().lock(), text.as_ref().as_bytes(), true))
            .or_else(unwritten)
    }

    /// Bytes for standard output that are none of ours: nothing is put after them, but on a terminal.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let out = std::io::stdout();
        lanes::aside(|| ended(&mut out.lock(), bytes, out.is_terminal())).or_else(unwritten)
    }

    /// One JSON value on one line of standard output.
    pub fn json_line(&self, value: &impl Serialize) -> Result<()> {
        lanes::aside(|| {
            let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
            match serde_json::to_writer(&mut out, value) {
                Err(e) if !e.is_io() => return Err(Error::failed("can not write JSON").caused_by(e)),
                written => written.map_err(std::io::Error::from),
            }
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .or_else(unwritten)
        })
    }

    /// `value` as JSON with `--json`, else `text`, on standard output.
    pub fn answer(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.json_line(value) } else { self.data(text()) }
    }
}

/// Writes all of it, and a newline after a last line that has none.
fn ended(out: &mut impl Write, bytes: &[u8], line: bool) -> std::io::Result<()> {
    out.write_all(bytes)?;
    if line && !bytes.is_empty() && !bytes.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn unwritten(error: std::io::Error) -> Result<()> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Error::failed("can not write to standard output").caused_by(error)),
    }
}

/// How many columns the terminal has that standard output is; none where it is none.
pub fn columns() -> Option<usize> {
    console::Term::stdout()
        .size_checked()
        .filter(|_| std::io::stdout().is_terminal())
        .map(|(_, n)| usize::from(n))
}

/// `text` for the whole of a terminal's screen, from its first line on: what does not fit is left out, so that nothing
/// scrolls, and each line is wiped to its end.
pub fn screen(text: &str) -> String {
    let (rows, columns) = console::Term::stdout().size();
    fitted(text, rows.into(), columns.into())
}

fn fitted(text: &str, rows: usize, columns: usize) -> String {
    let lines = text.lines().take(rows.saturating_sub(1));
    lines.map(|line| format!("{}\x1b[K\n", console::truncate_str(line, columns, ""))).collect()
}

/// How many columns of a terminal `text` takes.
pub fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// `text`, cut short with an ellipsis where it takes more columns of a terminal than this.
pub fn shortened(text: &str, columns: usize) -> std::borrow::Cow<'_, str> {
    console::truncate_str(text, columns, "…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_never_scrolls_and_no_line_is_wider() {
        let text = "VMID  NAME\n 104  doc1\n 109  zw\u{f6}lf\n 110  web\n";
        assert_eq!(fitted(text, 24, 80), text.replace('\n', "\x1b[K\n"));
        assert_eq!(fitted(text, 4, 9), "VMID  NAM\x1b[K\n 104  doc\x1b[K\n 109  zw\u{f6}\x1b[K\n");
        assert_eq!(fitted(text, 0, 0), "");
    }
}
