//! What a run did: one JSON-lines file a run under the user's state directory, and beside it what the programs
//! that it ran said. Nothing in either is secret; what a run holds in secret is kept out by name ([`Journal::hide`]).

mod past;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Result,
    error::Report,
    protocol::Op,
    types::{VmName, Vmid},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::past::Past;
use crate::steps::Step;

/// Runs that are kept for each VM.
const KEPT: usize = 20;
/// Shorter lines of a secret are not looked for: they would be found in ordinary words.
const SHORTEST_SECRET: usize = 12;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What a line of a journal says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run begins.
    Begin {
        /// The VM.
        name: VmName,
        /// Its number.
        vmid: Vmid,
        /// The command line.
        command: Vec<String>,
        /// Version of each program and of the node, as far as known.
        versions: BTreeMap<String, String>,
        /// The steps that it will take.
        steps: Vec<Step>,
    },
    /// A step begins.
    Started {
        /// Which.
        step: Step,
    },
    /// A request to `proxmox-ops session`, as it was sent.
    Request {
        /// In which step.
        step: Option<Step>,
        /// The request, without its envelope.
        request: serde_json::Value,
    },
    /// A task of the node that does what was asked.
    Task {
        /// In which step.
        step: Option<Step>,
        /// Its id.
        upid: String,
    },
    /// A program that was run.
    Command {
        /// In which step.
        step: Option<Step>,
        /// As one would type it.
        command: String,
    },
    /// A step ended.
    Ended {
        /// Which.
        step: Step,
        /// How.
        outcome: Outcome,
        /// How long it took, in seconds.
        seconds: f64,
        /// What was said of it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        said: String,
    },
    /// The run ended.
    End {
        /// How.
        outcome: Outcome,
        /// How long it took, in seconds.
        seconds: f64,
        /// The program's exit code.
        exit_code: u8,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Report>,
    },
}

/// How a step or a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// There was nothing to do any more.
    Already,
    /// It failed.
    Failed,
}

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
        let Event::Begin { name, .. } = event else {
            return Err(Error::failed("a journal begins with its beginning"));
        };
        Journal::begin_in(&directory().join(name.as_str()), event, watch)
    }

    fn begin_in(dir: &Path, event: &Event, watch: Option<Watch>) -> Result<Journal> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io("create", dir, e))?;
        prune(dir, KEPT - 1);
        let name =
            format!("{}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ"), std::process::id());
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

/// Takes away the oldest journals until `keep` are left.
fn prune(dir: &Path, keep: usize) {
    let found = journals(dir);
    for path in found.iter().take(found.len().saturating_sub(keep)) {
        // One that stays is taken away another time.
        let _ = fs::remove_file(path).and_then(|()| fs::remove_file(path.with_extension("log")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beginning() -> Event {
        Event::Begin {
            name: "web".parse().unwrap(),
            vmid: "110".parse().unwrap(),
            command: vec!["provision-vm".into(), "web".into()],
            versions: BTreeMap::new(),
            steps: vec![Step::Clone],
        }
    }

    #[test]
    fn a_run_is_read_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::begin_in(dir.path(), &beginning(), None).unwrap();
        journal.started(Step::Clone);
        journal.request(&Op::Start { vmid: "110".parse().unwrap() });
        journal.progress("task UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:");
        journal.progress("transferred 1 GiB of 2 GiB (50%)");
        journal
            .progress("VM 110 is locked (clone); waiting for the task that works on it: UPID:prom:00000001:");
        journal.ended(Step::Clone, Outcome::Done, Duration::from_millis(1500), "VM cloned");
        let past = Past::last_in(dir.path()).unwrap();
        assert_eq!((past.end(), past.last_step()), (None, Some(Step::Clone)));
        journal.end(Err(&Error::conflict("taken")));
        let past = Past::last_in(dir.path()).unwrap();
        assert_eq!(past.end(), Some((Outcome::Failed, 4)));
        assert_eq!(past.records[0].event, beginning());
        assert_eq!(
            past.records[3].event,
            Event::Task {
                step: Some(Step::Clone),
                upid: "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:".into()
            }
        );
        assert_eq!(past.records.len(), 6, "{past:?}");
        assert_eq!(journal.took(), [(Step::Clone, Duration::from_millis(1500))]);
    }

    #[test]
    fn a_line_that_was_cut_short_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::begin_in(dir.path(), &beginning(), None).unwrap());
        let path = journals(dir.path()).pop().unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"time\":\"2026");
        fs::write(&path, text).unwrap();
        assert_eq!(Past::last_in(dir.path()).unwrap().records.len(), 1);
    }

    #[test]
    fn what_is_hidden_is_written_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("etc/ssh/key");
        fs::create_dir_all(key.parent().unwrap()).unwrap();
        fs::write(&key, "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END KEY-----\n").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let journal = Journal::begin_in(dir.path(), &beginning(), None).unwrap();
        journal.hide_files(keys.path());
        journal.output("it printed b3BlbnNzaC1rZXktdjEAAAAA!");
        journal.command("run --with b3BlbnNzaC1rZXktdjEAAAAA");
        journal.end(Err(&Error::failed("b3BlbnNzaC1rZXktdjEAAAAA and AGE-SECRET-KEY-1QQQ, too")));
        for entry in fs::read_dir(dir.path()).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!text.contains("b3BlbnNza") && !text.contains("1QQQ"), "{text}");
            assert!(text.contains("(hidden)"), "{text}");
        }
    }

    #[test]
    fn only_the_last_runs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..KEPT + 5 {
            fs::write(dir.path().join(format!("20260101T0000{number:02}.000Z-1.jsonl")), "").unwrap();
            fs::write(dir.path().join(format!("20260101T0000{number:02}.000Z-1.log")), "").unwrap();
        }
        drop(Journal::begin_in(dir.path(), &beginning(), None).unwrap());
        assert_eq!(journals(dir.path()).len(), KEPT);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2 * KEPT);
        assert!(!dir.path().join("20260101T000005.000Z-1.jsonl").exists());
    }
}
