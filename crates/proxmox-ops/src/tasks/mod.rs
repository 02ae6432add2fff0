//! Tasks of the daemon: followed to their own exit status, found again when an answer was lost.

mod earlier;
mod list;
mod lock;
mod look;
mod run;

pub use earlier::{Earlier, earlier, running};
pub use list::{Listed, age, clones_into, find_clone_into, find_running_on, later, list, newest, sent_at};
pub use lock::{behind_lock, done_last, orphaned, unlocked};
pub use look::{patiently, run_or_look};
pub use run::{Outcome, run};

use std::time::{Duration, Instant};

use fleet_core::{Error, Kind, Result, deadline::Deadline, interrupt};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{
    Client,
    encode::{self, percent},
    error,
};

/// A task's id, such as `UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upid(String);

impl Upid {
    /// The id in an answer, if it is one.
    pub fn of(data: &Value) -> Option<Upid> {
        let text = data.as_str()?;
        (text.starts_with("UPID:") && text.split(':').count() >= 8).then(|| Upid(text.to_owned()))
    }

    /// The node that runs it.
    pub fn node(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or_default()
    }

    /// What it does: `qmclone`, `qmcreate`, …
    pub fn kind(&self) -> &str {
        self.0.split(':').nth(5).unwrap_or_default()
    }

    /// What it is of: of a clone its source.
    pub fn subject(&self) -> &str {
        self.0.split(':').nth(6).unwrap_or_default()
    }

    /// Whether it was begun by the login that asks: `root@pam`, or a token's `USER@REALM!ID`.
    pub fn is_of(&self, client: &Client) -> bool {
        self.0.split(':').nth(7) == Some(client.login().as_str())
    }

    /// When it began, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.began().0
    }

    /// When it began: seconds since 1970, and within them its process's start in ticks since the node's.
    fn began(&self) -> (u64, u64) {
        let number = |at| {
            let field = self.0.split(':').nth(at).unwrap_or_default();
            u64::from_str_radix(field, 16).unwrap_or(u64::MAX)
        };
        (number(4), number(3))
    }

    fn path(&self, rest: &str) -> String {
        format!("/nodes/{}/tasks/{}{rest}", percent(self.node()), percent(&self.0))
    }
}

impl std::str::FromStr for Upid {
    type Err = Error;
    fn from_str(text: &str) -> Result<Upid> {
        Upid::of(&Value::from(text))
            .ok_or_else(|| Error::usage(format!("'{}' is not the id of a task", text.escape_debug())))
    }
}

impl std::fmt::Display for Upid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether these words of an exit status are a success: `OK`, and `WARNINGS: n` too.
pub fn is_success(exit_status: &str) -> bool {
    exit_status == "OK" || exit_status.starts_with("WARNINGS:")
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    exitstatus: Option<String>,
}

#[derive(Deserialize)]
struct LogLine {
    #[serde(deserialize_with = "encode::number")]
    n: u64,
    t: String,
}

/// Whether a task has not ended yet.
pub fn is_running(client: &Client, upid: &Upid, deadline: Deadline) -> Result<bool> {
    let status: Status = client.get_as("look at a task", &upid.path("/status"), &[], deadline)?;
    Ok(status.status == "running")
}

/// Whether a task has ended, and not well.
pub fn failed(client: &Client, upid: &Upid, deadline: Deadline) -> Result<bool> {
    let status: Status = client.get_as("look at a task", &upid.path("/status"), &[], deadline)?;
    Ok(status.status != "running" && !status.exitstatus.is_some_and(|exit| is_success(&exit)))
}

/// How long a task may say nothing of how far it is before it is told how long it has been at work.
const SILENCE: Duration = Duration::from_secs(10);

/// Follows a task to its end. Lines of its log go to `progress` as they come; most tasks are over before the
/// first look at the log. A task that failed is an error of the kind that its words tell.
pub fn follow(
    client: &Client,
    upid: &Upid,
    what: &str,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let began = Instant::now();
    let mut seen = 0;
    // A task that is over at once has no log worth a request.
    let mut next_log = Duration::from_millis(40);
    let mut silent = Instant::now();
    loop {
        // The clock is looked at before the last look at the task, not after.
        let last = deadline.passed();
        let look = if last { Deadline::secs(5) } else { deadline.at_most(Duration::from_secs(30)) };
        let status: Status = client
            .get_as(&format!("follow the task to {what}"), &upid.path("/status"), &[], look)
            .map_err(|e| lost_sight(e, upid))?;
        let ended = status.status != "running";
        if began.elapsed() >= next_log {
            seen = new_lines(client, upid, seen, look, &mut |line| {
                if percent_of(line).is_some() {
                    silent = Instant::now();
                }
                progress(line);
            });
            next_log = began.elapsed() + Duration::from_millis(400);
        }
        if ended {
            let exit = status.exitstatus.unwrap_or_else(|| "ended without an exit status".to_owned());
            return end(client, upid, what, &exit, progress);
        }
        if last {
            return Err(deadline
                .error(format_args!("the task to {what}"))
                .now(format!("it is still running on the node '{}': {upid}", upid.node()))
                .hint(look_at(upid))
                .hint(again(upid)));
        }
        interrupt::check().map_err(|e| {
            e.now(format!("the task goes on without this program: {upid}"))
                .hint(look_at(upid))
                .hint(again(upid))
                .hint(format!("stop it on the node '{0}': pvesh delete /nodes/{0}/tasks/{upid}", upid.node()))
        })?;
        if silent.elapsed() >= SILENCE {
            silent = Instant::now();
            progress(&format!("note: {what}: {} s so far", began.elapsed().as_secs()));
        }
        // Its end is noticed at most a fortieth of its own time too late.
        deadline.sleep((began.elapsed() / 40).clamp(Duration::from_millis(6), Duration::from_millis(500)));
    }
}

/// Whether an error says that the node does not know a task (any more): its files are gone with `/var/log/pve`.
fn is_forgotten(error: &Error) -> bool {
    error.facts().iter().any(|fact| fact == "upid: no such task")
}

/// A link that was lost kills no task: what became of it is unknown until somebody looks.
fn lost_sight(error: Error, upid: &Upid) -> Error {
    if is_forgotten(&error) {
        return error
            .with_kind(Kind::OutcomeUnknown)
            .now(format!("the node does not know its task any more: {upid}"));
    }
    if !matches!(error.kind(), Kind::Unreachable | Kind::DeadlinePassed | Kind::OutcomeUnknown) {
        return error;
    }
    error
        .with_kind(Kind::OutcomeUnknown)
        .now(format!("the task goes on without this program: {upid}"))
        .hint(look_at(upid))
        .hint(again(upid))
}

fn look_at(upid: &Upid) -> String {
    format!("look at it on the node '{}': pvenode task status '{upid}'", upid.node())
}

/// What the same command does when it is run once more.
fn again(upid: &Upid) -> &'static str {
    match upid.kind() {
        // What these have done is no state that could be looked for.
        "vzdump" | "qmreboot" => {
            "run the same command again: while the task runs it is followed; once it has ended, another one is begun"
        }
        _ => "run the same command again: it looks first",
    }
}

fn end(client: &Client, upid: &Upid, what: &str, exit: &str, progress: &mut dyn FnMut(&str)) -> Result<()> {
    if exit == "OK" {
        return Ok(());
    }
    if is_success(exit) {
        let mut warned = false;
        for line in log(client, upid, 0, Deadline::secs(10)).unwrap_or_default() {
            if line.t.to_ascii_uppercase().contains("WARN") && !line.t.starts_with("TASK ") {
                let text = line.t.trim();
                progress(&format!("warning: {}", text.strip_prefix("WARN: ").unwrap_or(text)));
                warned = true;
            }
        }
        if !warned {
            progress(&format!("warning: the task to {what} ended with {exit}"));
        }
        return Ok(());
    }
    let lines = log(client, upid, 0, Deadline::secs(10)).unwrap_or_default();
    let said = || lines.iter().rev().map(|l| l.t.trim());
    // A backup's exit status says only that there were errors; what happened stands in the middle of its log.
    let reason =
        said().find_map(|t| Some(t.strip_prefix("ERROR: Backup of VM ")?.split_once(" failed - ")?.1));
    let exit = reason.filter(|_| exit == "job errors").unwrap_or(exit);
    let mut failed = error::of_text(what, exit).now(format!("the node's task: {upid}"));
    // The exit status is the last line; the one before it often says more (QEMU's own words).
    let more = said().find(|t| {
        !t.is_empty() && !t.starts_with("TASK ") && !t.starts_with("transferred ") && !exit.contains(*t)
    });
    if let Some(more) = more.filter(|_| reason.is_none()) {
        failed = failed.now(format!("its log says: {more}"));
    }
    Err(failed.hint(format!("its whole log: pvenode task log '{upid}' on the node '{}'", upid.node())))
}

/// The lines of a task's log.
pub fn lines(client: &Client, upid: &Upid, deadline: Deadline) -> Result<Vec<String>> {
    Ok(log(client, upid, 0, deadline)?.into_iter().map(|line| line.t).collect())
}

fn log(client: &Client, upid: &Upid, start: u64, deadline: Deadline) -> Result<Vec<LogLine>> {
    let start = start.to_string();
    let mut lines: Vec<LogLine> = client.get_as(
        "read a task's log",
        &upid.path("/log"),
        &[("start", &start), ("limit", "0")],
        deadline,
    )?;
    // What Proxmox says instead of nothing, for a user interface that takes no empty list.
    if matches!(&*lines, [only] if only.n == 1 && only.t == "no content") {
        lines.clear();
    }
    Ok(lines)
}

/// Hands on the lines after the first `seen` ones. A log that can not be read stops nothing.
fn new_lines(
    client: &Client,
    upid: &Upid,
    seen: u64,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> u64 {
    let mut last = seen;
    for line in log(client, upid, seen, deadline).unwrap_or_default() {
        if line.n > seen && !line.t.starts_with("TASK ") {
            progress(&line.t);
            last = last.max(line.n);
        }
    }
    last
}

/// Percent done in a line of a log: of a clone (`transferred 22.5 MiB of 2.0 GiB (1.10%)`), a backup
/// (`INFO:   7% (1.5 GiB of 20.0 GiB) in 3s, …`) or a restore (`progress 7% (read 1610612736 bytes, …)`).
pub fn percent_of(line: &str) -> Option<f64> {
    let number = match line.strip_prefix("INFO: ").or_else(|| line.strip_prefix("progress ")) {
        Some(rest) => rest.trim_start().split_once("% (")?.0,
        None => line.rsplit_once('(')?.1.strip_suffix("%)")?,
    };
    number.parse().ok().filter(|p| (0.0..=100.0).contains(p))
}

/// Thins a task's log for people: of the lines with a percentage, one per ten points, and of many at once the first. A
/// clone of several disks begins anew with each.
#[derive(Debug, Default)]
pub struct Thinned {
    next: f64,
    last: f64,
    shown: Option<Instant>,
}

/// What lies between two lines with a percentage: those of a disk that is copied at once come together.
const APART: Duration = Duration::from_millis(200);

impl Thinned {
    /// Whether to show this line.
    pub fn shows(&mut self, line: &str) -> bool {
        let Some(percent) = percent_of(line) else { return true };
        if percent < std::mem::replace(&mut self.last, percent) {
            self.next = 0.0;
        }
        if percent < self.next || self.shown.is_some_and(|shown| shown.elapsed() < APART) {
            return false;
        }
        self.next = (percent / 10.0).floor() * 10.0 + 10.0;
        self.shown = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upids_are_known_by_their_form() {
        let upid =
            Upid::of(&Value::from("UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:")).unwrap();
        assert_eq!((upid.node(), upid.kind(), upid.subject()), ("prom", "qmclone", "9002"));
        assert_eq!(upid.began(), (0x6B03_B82C, 0x000A_E788));
        assert_eq!(
            upid.path("/status"),
            "/nodes/prom/tasks/UPID%3Aprom%3A00000ED5%3A000AE788%3A6B03B82C%3Aqmclone%3A9002%3Aroot%40pam%3A/status"
        );
        for other in [Value::Null, Value::from("UPID:x"), Value::from(7), Value::from("110")] {
            assert_eq!(Upid::of(&other), None);
        }
    }

    #[test]
    fn warnings_are_a_success() {
        assert!(is_success("OK") && is_success("WARNINGS: 1"));
        assert!(!is_success("unexpected status") && !is_success("") && !is_success("OKAY"));
    }

    #[test]
    fn progress_is_thinned() {
        // `later`: some time after the line before.
        let mut thinned = Thinned::default();
        let mut shows = |line: &str, later: bool| {
            if later {
                thinned.shown = thinned.shown.and_then(|shown| shown.checked_sub(APART));
            }
            thinned.shows(line)
        };
        for (line, later, shown) in [
            ("create full clone of drive efidisk0", false, true),
            ("transferred 0.0 B of 528.0 KiB (0.00%)", false, true),
            ("transferred 264.0 KiB of 528.0 KiB (50.00%)", false, false),
            ("transferred 528.0 KiB of 528.0 KiB (100.00%)", false, false),
            ("create full clone of drive scsi0", false, true),
            ("transferred 0.0 B of 2.0 GiB (0.00%)", true, true),
            ("transferred 22.5 MiB of 2.0 GiB (1.10%)", true, false),
            ("transferred 250 MiB of 2.0 GiB (12.20%)", true, true),
            ("transferred 2.0 GiB of 2.0 GiB (100.00%)", true, true),
            ("done", false, true),
        ] {
            assert_eq!(shows(line, later), shown, "{line}");
        }
        assert_eq!(percent_of("x (y%)"), None);
        assert_eq!(percent_of("INFO:   7% (1.5 GiB of 20.0 GiB) in 3s, read: 512.0 MiB/s"), Some(7.0));
        assert_eq!(percent_of("INFO: 100% (20.0 GiB of 20.0 GiB) in 9s, read: 1.0 GiB/s"), Some(100.0));
        assert_eq!(percent_of("INFO: backup is sparse: 1.9 GiB (95%) total zero data"), None);
        assert_eq!(percent_of("progress 12% (read 257753088 bytes, duration 1 sec)"), Some(12.0));
    }
}
