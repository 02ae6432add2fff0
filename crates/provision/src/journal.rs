//! What a run did: one JSON-lines file a run under the user's state directory, and beside it what the programs
//! that it ran said. Nothing in either is secret; what a run holds in secret is kept out by name ([`Journal::hide`]).

mod past;
mod record;

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    protocol::{Op, Session},
    ui::Ui,
};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub use self::{
    past::Past,
    record::{Event, Outcome, Record, Verb},
};
use crate::steps::Step;

/// Runs of each kind that are kept for each VM.
const KEPT: usize = 20;
/// Shorter lines of a secret are not looked for: they would be found in ordinary words.
const SHORTEST_SECRET: usize = 12;

/// The journal of one run. A journal that can not be written any more does not stop the run.
#[derive(Debug)]
pub struct Journal(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: Option<fs::File>,
    output: Option<fs::File>,
    started: Instant,
    step: Option<Step>,
    took: Vec<(Step, Duration)>,
    hidden: Vec<Zeroizing<String>>,
    watch: Option<Watch>,
}

/// Is given the beginning of a run and of each step, and the end of each step, as they are written down.
pub struct Watch(Box<dyn Fn(&str) + Send>);

impl Watch {
    /// A watch that does this with each line.
    pub fn new(each: impl Fn(&str) + Send + 'static) -> Watch {
        Watch(Box::new(each))
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Journal {
    /// Begins the journal of a run and takes away the oldest ones of the same VM.
    pub fn begin(event: &Event, watch: Option<Watch>) -> Result<Journal> {
        let Event::Begin { name, .. } = event else { return Err(headless()) };
        Journal::begin_in(&directory().join(name.as_str()), event, watch)
    }

    fn begin_in(dir: &Path, event: &Event, watch: Option<Watch>) -> Result<Journal> {
        let Event::Begin { verb, .. } = event else { return Err(headless()) };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io("create", dir, e))?;
        prune(dir, *verb, KEPT - 1);
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
        let name = match verb {
            Verb::Provision => format!("{time}-{}", std::process::id()),
            verb => format!("{time}-{verb}-{}", std::process::id()),
        };
        let path = dir.join(format!("{name}.jsonl"));
        let create = |path: &Path| {
            let opened = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
            opened.map_err(|e| Error::io("create", path, e))
        };
        let inner = Inner {
            file: Some(create(&path)?),
            output: Some(create(&path.with_extension("log"))?),
            path,
            started: Instant::now(),
            step: None,
            took: Vec::new(),
            hidden: Vec::new(),
            watch,
        };
        let journal = Journal(Mutex::new(inner));
        journal.lock().record(event.clone());
        Ok(journal)
    }

    /// A journal that nobody reads, for dry runs and tests.
    pub fn nowhere() -> Journal {
        Journal(Mutex::new(Inner {
            path: PathBuf::new(),
            file: None,
            output: None,
            started: Instant::now(),
            step: None,
            took: Vec::new(),
            hidden: Vec::new(),
            watch: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file where the output of the programs is.
    pub fn output_file(&self) -> PathBuf {
        self.lock().path.with_extension("log")
    }

    /// No line of `secret` will be written from now on, wherever it comes from.
    pub fn hide(&self, secret: &str) {
        let lines = secret.lines().map(str::trim);
        let telling = lines.filter(|line| line.len() >= SHORTEST_SECRET && !line.starts_with("-----"));
        self.lock().hidden.extend(telling.map(|line| Zeroizing::new(line.to_owned())));
    }

    /// As [`Journal::hide`], for every private file below `dir`.
    pub fn hide_files(&self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.hide_files(&path);
            } else if entry.metadata().is_ok_and(|facts| facts.permissions().mode() & 0o077 == 0)
                && let Ok(text) = fs::read_to_string(&path)
            {
                self.hide(&Zeroizing::new(text));
            }
        }
    }

    /// A step begins.
    pub fn started(&self, step: Step) {
        let mut inner = self.lock();
        inner.step = Some(step);
        inner.record(Event::Started { step });
    }

    /// A step ended.
    pub fn ended(&self, step: Step, outcome: Outcome, took: Duration, said: &str) {
        let mut inner = self.lock();
        inner.step = None;
        if outcome == Outcome::Done {
            inner.took.push((step, took));
        }
        let said = said.to_owned();
        inner.record(Event::Ended { step, outcome, seconds: seconds(took), said });
    }

    /// Does a step, which is written down. `work` gives its value and what there is to say of it; so does this, with how
    /// long it took.
    pub fn step<T>(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<(T, String, Duration)> {
        self.started(step);
        let began = Instant::now();
        match work() {
            Ok((value, said)) => {
                let took = began.elapsed();
                self.ended(step, Outcome::Done, took, &said);
                Ok((value, said, took))
            }
            Err(error) => {
                self.ended(step, Outcome::Failed, began.elapsed(), &error.chain());
                Err(error)
            }
        }
    }

    /// Asks the node; the request and the tasks that it starts are written down, and `ui` tells what is said of it.
    pub fn ask<T: DeserializeOwned>(
        &self,
        session: &mut Session,
        op: Op,
        deadline: Deadline,
        ui: Ui,
    ) -> Result<T> {
        self.request(&op);
        let mut pace = Pace(Instant::now());
        session.ask(op, deadline, |line| {
            self.progress(line);
            if !line.ends_with("%)") {
                ui.tell(line);
            } else if pace.due(Instant::now()) {
                ui.say(format!("  {line}"));
            } else {
                ui.detail(line);
            }
        })
    }

    /// A request is sent to the node.
    pub fn request(&self, op: &Op) {
        let mut inner = self.lock();
        let (step, request) = (inner.step, serde_json::to_value(op).unwrap_or_default());
        inner.record(Event::Request { step, request });
    }

    /// A line of progress from the node: only the id of a task that does what was asked is kept, not that of one that
    /// stands in its way.
    pub fn progress(&self, line: &str) {
        let Some(upid) = line.strip_prefix("task ").filter(|upid| upid.starts_with("UPID:")) else { return };
        let mut inner = self.lock();
        let (step, upid) = (inner.step, upid.to_owned());
        inner.record(Event::Task { step, upid });
    }

    /// A program is run.
    pub fn command(&self, command: impl std::fmt::Display) {
        let mut inner = self.lock();
        let (step, command) = (inner.step, command.to_string());
        inner.record(Event::Command { step, command: command.clone() });
        inner.output(&format!("$ {command}"));
    }

    /// A line that a program printed.
    pub fn output(&self, line: &str) {
        self.lock().output(line);
    }

    /// The run ended.
    pub fn end(&self, result: Result<(), &Error>) {
        let mut inner = self.lock();
        let seconds = seconds(inner.started.elapsed());
        inner.record(match result {
            Ok(()) => Event::End { outcome: Outcome::Done, seconds, exit_code: 0, error: None },
            Err(error) => Event::End {
                outcome: Outcome::Failed,
                seconds,
                exit_code: error.kind().exit_code(),
                error: Some(error.report()),
            },
        });
    }

    /// How long the steps took that were done, in their order.
    pub fn took(&self) -> Vec<(Step, Duration)> {
        self.lock().took.clone()
    }
}

/// When how far a copy is was last told: one that takes no longer than this is told by its end alone.
struct Pace(Instant);

impl Pace {
    const EVERY: Duration = Duration::from_secs(3);

    /// Whether it is time again.
    fn due(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.0) >= Self::EVERY;
        if due {
            self.0 = now;
        }
        due
    }
}

impl Inner {
    fn record(&mut self, event: Event) {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let watched = matches!(event, Event::Begin { .. } | Event::Started { .. } | Event::Ended { .. });
        let Ok(line) = serde_json::to_string(&Record { time, event }) else { return };
        let line = self.clean(&line);
        if let Some(watch) = self.watch.as_ref().filter(|_| watched) {
            (watch.0)(&line);
        }
        if let Some(file) = &mut self.file
            && writeln!(file, "{line}").is_err()
        {
            self.file = None;
        }
    }

    fn output(&mut self, line: &str) {
        let line = self.clean(line);
        if let Some(file) = &mut self.output
            && writeln!(file, "{line}").is_err()
        {
            self.output = None;
        }
    }

    /// The line without what is hidden, and without anything that looks like an age identity.
    fn clean(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in self.hidden.iter().map(|secret| secret.as_str()).filter(|secret| !secret.is_empty()) {
            if line.contains(secret) {
                line = line.replace(secret, "(hidden)");
            }
        }
        while let Some(at) = line.find("AGE-SECRET-KEY-") {
            let end = line[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            line.replace_range(at..end.map_or(line.len(), |end| at + end), "(hidden)");
        }
        line
    }
}

fn headless() -> Error {
    Error::failed("a journal begins with its beginning")
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// `$XDG_STATE_HOME/fleet/runs`: a directory for each VM.
pub fn directory() -> PathBuf {
    crate::state::home().join("runs")
}

/// The journals of one VM, the newest last.
fn journals(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    found.sort();
    found
}

/// Takes away the oldest journals of this kind until `keep` of them are left: what a later run has to know of an
/// earlier one stays, however often the VM was changed since.
fn prune(dir: &Path, verb: Verb, keep: usize) {
    let mut found = journals(dir);
    found.retain(|path| Verb::of(path) == verb);
    for path in found.iter().take(found.len().saturating_sub(keep)) {
        // One that stays is taken away another time.
        let _ = fs::remove_file(path).and_then(|()| fs::remove_file(path.with_extension("log")));
    }
}

#[cfg(test)]
mod tests;
