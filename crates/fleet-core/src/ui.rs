//! How the tools talk to people. Steps and messages go to standard error, data to standard output;
//! nothing else in the workspace prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place that prints")]

mod lanes;

use std::{
    cell::Cell,
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use console::Style;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};
use serde::Serialize;

pub use self::lanes::Lane;
use crate::{Error, Result, deadline::Deadline, interrupt};

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

    /// Asks `question (y/N)` until it is answered: `y` or `yes`, `n`, `no` or Enter alone. Anything else may be a slip,
    /// and decides nothing; who ends the input wants to leave. Without a terminal to ask on it fails and says to give
    /// `--yes`.
    pub fn confirm(&self, question: &str) -> Result<bool> {
        if !can_ask() {
            return Err(Error::usage(format!("can not ask '{question} (y/N)': there is no terminal"))
                .now("nothing was changed")
                .hint("give --yes to go on without being asked"));
        }
        for _ in 0..TRIES {
            let Some(answer) = answer(&format!("{question} (y/N) "))? else { break };
            match decision(&answer) {
                Some(decided) => return Ok(decided),
                None => self.warn("y or n (Enter alone is n)"),
            }
        }
        Err(Error::interrupted(format!("stopped: no answer to '{question}'")).now("nothing was changed"))
    }

    /// Asks until the answer is one; what is wrong with an answer is said. An end of input is a failure.
    pub fn ask_until<T>(&self, prompt: &str, read: impl Fn(&str) -> Result<T>) -> Result<T> {
        for _ in 0..TRIES {
            let Some(answer) = answer(prompt)? else { break };
            match read(answer.trim()) {
                Ok(value) => return Ok(value),
                Err(error) => {
                    self.warn(error.message());
                    error.hints().iter().for_each(|hint| self.say(format!("  {hint}")));
                }
            }
        }
        Err(Error::usage(format!("no answer to '{}'", prompt.trim())).now("nothing was changed"))
    }

    /// Asks for one line of text; an end of input reads as an empty answer.
    pub fn ask_line(&self, prompt: &str) -> Result<String> {
        Ok(answer(prompt)?.unwrap_or_default())
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

/// Somebody who gives no right answer so often will not give one.
const TRIES: usize = 20;

/// What an answer to a question with yes or no decides; nothing where it is neither.
fn decision(answer: &str) -> Option<bool> {
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Some(true),
        "" | "n" | "no" => Some(false),
        _ => None,
    }
}

fn unwritten(error: std::io::Error) -> Result<()> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Error::failed("can not write to standard output").caused_by(error)),
    }
}

/// Whether a question waits for its answer.
static ASKING: AtomicBool = AtomicBool::new(false);

/// Whether a person is being asked something just now: who presses Ctrl-C then wants to leave at once.
pub(crate) fn asking() -> bool {
    ASKING.load(Ordering::Relaxed)
}

/// The answer to a question, in one line; nothing at the end of the input. Ctrl-C is not kept waiting for it.
fn answer(prompt: &str) -> Result<Option<String>> {
    let say = |text: &str| {
        let mut err = std::io::stderr().lock();
        // A question that nobody sees is still answered by what is typed.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    };
    let wrong = |e: std::io::Error| Error::failed("can not read the answer").caused_by(e);
    let stdin = std::io::stdin();
    say(prompt);
    ASKING.store(true, Ordering::Relaxed);
    let heard = loop {
        // A signal does not end a read: it is looked for between short waits.
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match rustix::event::poll(&mut ready, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break Ok(()),
            Err(e) => break Err(wrong(e.into())),
        }
        if let Err(stopped) = interrupt::check() {
            say("\n");
            break Err(stopped);
        }
    };
    ASKING.store(false, Ordering::Relaxed);
    heard?;
    let mut answer = String::new();
    if stdin.read_line(&mut answer).map_err(wrong)? == 0 {
        say("\n");
        return Ok(None);
    }
    Ok(Some(answer.trim_end_matches(['\r', '\n']).to_owned()))
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

/// The terminal of standard input without some of its ways, until this is dropped.
struct Without {
    before: Termios,
}

impl Without {
    fn these(modes: LocalModes) -> rustix::io::Result<Without> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut other = before.clone();
        other.local_modes.remove(modes);
        tcsetattr(&stdin, OptionalActions::Now, &other)?;
        Ok(Without { before })
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Asks for a secret on the terminal, without showing what is typed.
pub fn ask_secret(prompt: &str) -> Result<zeroize::Zeroizing<String>> {
    let hidden = Without::these(LocalModes::ECHO)
        .map_err(|e| Error::failed("can not hide what is typed").caused_by(e))?;
    let typed = answer(prompt);
    drop(hidden);
    // The Enter that was not shown either.
    let _ = std::io::stderr().lock().write_all(b"\n");
    Ok(zeroize::Zeroizing::new(typed?.unwrap_or_default()))
}

/// Waits until then, or until one of these keys is typed on the terminal of standard input, or the user asks to stop.
/// Gives whether one was typed. Nothing that is typed meanwhile is shown, and no Enter is waited for.
pub fn typed(keys: &[u8], until: Deadline) -> bool {
    let stdin = std::io::stdin();
    // Whoever runs in the background may not touch the terminal.
    let ours = tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    let alone = if ours { Without::these(LocalModes::ECHO | LocalModes::ICANON).ok() } else { None };
    let mut listens = alone.is_some();
    while !until.passed() && !interrupt::asked() {
        let wait = until.left().min(Duration::from_millis(100));
        if !listens {
            until.sleep(wait);
            continue;
        }
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        if !rustix::event::poll(&mut ready, Some(&wait)).is_ok_and(|ready| ready > 0) {
            continue;
        }
        let mut heard = [0; 64];
        match rustix::io::read(&stdin, &mut heard) {
            Ok(0) | Err(_) => listens = false,
            Ok(n) if heard[..n].iter().any(|key| keys.contains(key)) => return true,
            Ok(_) => {}
        }
    }
    false
}

thread_local! {
    /// Whether this thread asks nothing.
    static UNASKED: Cell<bool> = const { Cell::new(false) };
}

/// Does something in which this thread asks nothing: where several threads work there is one terminal, and who asks is
/// the one that the program waits for.
pub fn unasked<T>(work: impl FnOnce() -> T) -> T {
    let before = UNASKED.replace(true);
    let done = work();
    UNASKED.set(before);
    done
}

/// Whether a question can be asked: standard input is a terminal and messages are seen on one, and this thread may
/// (see [`unasked`]).
pub fn can_ask() -> bool {
    !UNASKED.get() && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_or_a_no_decides() {
        for (answer, decided) in [
            ("y", Some(true)),
            (" YES ", Some(true)),
            ("n", Some(false)),
            ("No", Some(false)),
            ("", Some(false)),
            ("maybe", None),
            ("yy", None),
            ("ja", None),
            ("db", None),
        ] {
            assert_eq!(decision(answer), decided, "{answer:?}");
        }
    }

    #[test]
    fn a_screen_never_scrolls_and_no_line_is_wider() {
        let text = "VMID  NAME\n 104  doc1\n 109  zw\u{f6}lf\n 110  web\n";
        assert_eq!(fitted(text, 24, 80), text.replace('\n', "\x1b[K\n"));
        assert_eq!(fitted(text, 4, 9), "VMID  NAM\x1b[K\n 104  doc\x1b[K\n 109  zw\u{f6}\x1b[K\n");
        assert_eq!(fitted(text, 0, 0), "");
    }
}
