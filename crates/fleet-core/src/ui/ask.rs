//! Questions: what a person is asked on the terminal, and keys that they press there.

use std::{
    cell::Cell,
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};

use super::Ui;
use crate::{Error, Kind, Result, cli::silent_exit, deadline::Deadline, interrupt};

impl Ui {
    /// Asks `question (y/N)` until it is answered: `y` or `yes`, `n`, `no` or Enter alone. Anything else may be a slip,
    /// and decides nothing; who ends the input wants to leave. Without a terminal to ask on it fails and says to give
    /// `--yes`. Before it nothing may have been changed: who leaves is told so.
    pub fn confirm(&self, question: &str) -> Result<bool> {
        self.decided(question, UNCHANGED)
    }

    /// Asks whether to go on, and is an error unless the answer is yes: a no is that of who stops. `fact` is what is true
    /// then, `unasked` the command that does not ask.
    pub fn agree(&self, question: &str, fact: &str, unasked: Option<&str>) -> Result<()> {
        let answer = self.decided(question, fact).map_err(|error| match error.kind() {
            Kind::Usage => unasked.into_iter().fold(error, Error::hint),
            _ => error,
        })?;
        if answer { Ok(()) } else { Err(self.declined(fact)) }
    }

    /// The error of a question whether to go on that was not answered with yes: `fact` is true then, and was said already
    /// when this returns. With `--json` it is an object, as every failure.
    pub fn declined(&self, fact: &str) -> Error {
        let mut said = fact.to_owned();
        if let Some(first) = said.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        self.loud().say(format!("{said}."));
        if self.json() {
            let error = Error::interrupted("stopped: the answer was not yes").now(fact);
            // The exit code tells it where standard output is closed.
            let _ = self.json_line(&serde_json::json!({ "error": error.report() }));
        }
        silent_exit(Kind::Interrupted)
    }

    fn decided(&self, question: &str, fact: &str) -> Result<bool> {
        if !can_ask() {
            return Err(Error::usage(format!("can not ask '{question} (y/N)': there is no terminal"))
                .now(fact)
                .hint("give --yes to go on without being asked"));
        }
        for _ in 0..TRIES {
            let Some(answer) = left(answer(&format!("{question} (y/N) ")), fact)? else { break };
            match decision(&answer) {
                Some(decided) => return Ok(decided),
                None => self.warn("y or n (Enter alone is n)"),
            }
        }
        Err(Error::interrupted(format!("stopped: no answer to '{question}'")).now(fact))
    }

    /// Asks until the answer is one; what is wrong with an answer is said. Who ends the input, or presses Ctrl-C, leaves:
    /// before it nothing may have been changed.
    pub fn ask_until<T>(&self, prompt: &str, read: impl Fn(&str) -> Result<T>) -> Result<T> {
        for _ in 0..TRIES {
            let Some(answer) = left(answer(prompt), UNCHANGED)? else { break };
            match read(answer.trim()) {
                Ok(value) => return Ok(value),
                Err(error) => {
                    self.warn(error.message());
                    error.hints().iter().for_each(|hint| self.loud().say(format!("  {hint}")));
                }
            }
        }
        Err(Error::interrupted(format!("stopped: no answer to '{}'", prompt.trim())).now(UNCHANGED))
    }

    /// Asks for one line of text; an end of input reads as an empty answer. Before it nothing may have been changed.
    pub fn ask_line(&self, prompt: &str) -> Result<String> {
        Ok(left(answer(prompt), UNCHANGED)?.unwrap_or_default())
    }
}

/// What is true where somebody leaves at a question before anything was done.
const UNCHANGED: &str = "nothing was changed";

/// The answer, or the error of who left there, with what is true then.
fn left<T>(answer: Result<T>, fact: &str) -> Result<T> {
    answer.map_err(|error| if error.kind() == Kind::Interrupted { error.now(fact) } else { error })
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
    // Who was stopped while being asked is not told that work goes on, however late that is looked at.
    heard?;
    ASKING.store(false, Ordering::Relaxed);
    let mut answer = String::new();
    if stdin.read_line(&mut answer).map_err(wrong)? == 0 {
        say("\n");
        return Ok(None);
    }
    Ok(Some(answer.trim_end_matches(['\r', '\n']).to_owned()))
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
}
