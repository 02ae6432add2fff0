//! Replays exchanges that were recorded from a genuine node against the simulated one, over its own HTTP, and tells
//! how many came out the same.
//!
//! - **The world** is what the recordings tell: the machines, storages, bridges, tokens that there were before the
//!   first exchange (`start`).
//! - **State**: each exchange finds what the ones before it left here. It is compared without its recording at
//!   hand; only afterwards is taken over what the recording shows of things done by hand, and what came out
//!   otherwise (`adopt`).
//! - **Time** is the recording's: a task that was not waited for goes on here until the recording first shows it
//!   ended. How it ends is decided here.

mod adopt;
mod client;
mod compare;
mod record;
mod report;
mod start;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use self::{
    adopt::{Before, Names},
    client::Answer,
    compare::Verdict,
    record::Record,
};
pub use self::{
    record::endpoint,
    report::{Outcome, Report, USED},
};
use crate::{node::Node, task};

/// Percent-encodes everything but letters, digits and `-_.`.
fn encode(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

/// Replays the recordings in `dir`.
pub fn run(dir: &Path) -> Result<Report> {
    let records = record::read_all(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("can not start threads")?;
    let scratch =
        tempfile::Builder::new().prefix("pve-replay-").tempdir().context("can not make a directory")?;
    let node = Arc::new(Node::in_memory(scratch.path(), start::world(&records))?);
    let report = runtime.block_on(async {
        let ends = ends(&records);
        let mut replay = Replay { ticket: node.mint_ticket().0, node, names: Names::default(), ends };
        let mut report = Report::default();
        for (n, record) in records.iter().enumerate() {
            replay.catch_up(n).await;
            if record.method().is_some() {
                let verdict = replay.step(record).await;
                report.add(record, verdict);
            } else {
                replay.by_hand(record);
            }
        }
        report
    });
    runtime.shutdown_background();
    Ok(report)
}

struct Replay {
    node: Arc<Node>,
    ticket: String,
    names: Names,
    /// By the number of the record that first shows it ended: recorded UPIDs of tasks that nobody waited for.
    ends: BTreeMap<usize, Vec<String>>,
}

/// Which record first shows the end of each task that was not waited for.
fn ends(records: &[Record]) -> BTreeMap<usize, Vec<String>> {
    let mut ends: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (n, record) in records.iter().enumerate() {
        if let Some(pid) = record.data()["pid"].as_u64().filter(|_| record.path().ends_with("/exec")) {
            let asked = |later: &Record| later.json["params"]["pid"].as_str() == Some(&pid.to_string());
            let over = |later: &Record| later.status() != 200 || later.data()["exited"] == 1;
            let shown = records.iter().enumerate().skip(n + 1).find(|(_, later)| asked(later) && over(later));
            ends.entry(shown.map_or(records.len(), |(later, _)| later)).or_default().push(pid.to_string());
        }
        let Some(upid) = record.upid().filter(|_| record.method() != Some("GET") && !waited(record)) else {
            continue;
        };
        let shown =
            records.iter().enumerate().skip(n + 1).find(|(_, later)| shows_end(later, upid, made(record)));
        ends.entry(shown.map_or(records.len(), |(later, _)| later)).or_default().push(upid.to_owned());
    }
    ends
}

/// Whether the recorder waited for the task before it went on.
fn waited(record: &Record) -> bool {
    record.json["task"].is_object()
}

/// Whether the task was not over within the time that the request gave it.
fn was_given_time(record: &Record) -> bool {
    record.json["params"]["background_delay"].is_string()
}

/// The number of the machine that a request makes.
fn made(record: &Record) -> Option<String> {
    record.params().into_iter().find(|(key, _)| key == "newid").map(|(_, vmid)| vmid)
}

fn shows_end(record: &Record, upid: &str, made: Option<String>) -> bool {
    let path = percent_encoding::percent_decode_str(record.path()).decode_utf8_lossy();
    // What it works on, where that is another machine than the one that it is named after.
    match record.method() {
        Some("GET") if path.contains(upid) => {
            path.ends_with("/status") && record.data()["status"] == "stopped"
                || path.ends_with("/log")
                    && record.data().as_array().is_some_and(|lines| {
                        lines.last().and_then(|l| l["t"].as_str()).is_some_and(|t| t.starts_with("TASK "))
                    })
        }
        Some("GET") if made.is_some_and(|vmid| path.ends_with(&format!("/qemu/{vmid}/config"))) => {
            record.status() == 200 && record.data()["lock"].is_null()
        }
        Some("GET") => record
            .data()
            .as_array()
            .is_some_and(|list| list.iter().any(|e| e["upid"] == upid && !e["endtime"].is_null())),
        Some(_) => false,
        // Somebody waited for the task by hand.
        None => {
            record.json["task"].is_object() && record.json["task"]["id"].as_str() == upid.split(':').nth(6)
        }
    }
}

impl Replay {
    /// Lets the tasks end that are shown ended from record `n` on.
    async fn catch_up(&mut self, n: usize) {
        for theirs in self.ends.remove(&n).unwrap_or_default() {
            if let Some(ours) = self.names.upid(&theirs).cloned() {
                self.node.release(&ours);
                task::wait(&self.node, &ours, Duration::from_secs(20)).await;
            } else if let Some(pid) = self.names.pid(&theirs).and_then(|pid| pid.parse().ok()) {
                self.node.release(&crate::api::agent::process(pid));
                // Its end is noted by another thread.
                let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
                while crate::api::agent::runs(&self.node, pid) && tokio::time::Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    fn by_hand(&self, record: &Record) {
        let what = record.json["what"].as_str().unwrap_or_default();
        if what.contains("systemctl restart pvedaemon") {
            self.node.restart_daemon();
        }
        adopt::world(&self.node, record);
    }

    async fn step(&mut self, record: &Record) -> Verdict {
        let mut sent = record.clone();
        if let Some(pid) = record.json["params"]["pid"].as_str().and_then(|pid| self.names.pid(pid)) {
            sent.json["params"]["pid"] = Value::String(pid.clone());
        }
        let path = self.names.path(record.path());
        let before = (record.method() != Some("GET")).then(|| Before::of(&self.node));
        let task = record.upid().is_some() && (!waited(record) || was_given_time(record));
        self.node.hold_tasks(task || record.data()["pid"].is_number());
        let answer = client::send(&self.node, &sent, &path, &self.ticket).await;
        self.node.hold_tasks(false);
        self.names.learn(record.data(), &answer.body["data"]);
        if let Some(ours) = answer.upid().filter(|_| waited(record)) {
            self.node.release(ours);
        }
        let mut verdict = Verdict::default();
        verdict.answer(record, &answer);
        self.task(&mut verdict, record, &answer).await;
        let other = !verdict.differs.is_empty();
        if record.method() != Some("GET") {
            self.configs(&mut verdict, record);
        }
        if let Some(before) = before.filter(|_| other) {
            before.restore(&self.node);
            adopt::made(&self.node, record);
        }
        adopt::world(&self.node, record);
        verdict
    }

    async fn task(&self, verdict: &mut Verdict, record: &Record, answer: &Answer) {
        if record.upid().is_some() != answer.upid().is_some() && answer.status == record.status() {
            let words = ["a task where there is none", "no task where there is one"];
            verdict.differs.push(words[usize::from(answer.upid().is_none())].to_owned());
        }
        let Some(upid) = answer.upid() else { return };
        if !waited(record) && record.upid().is_some() {
            return;
        }
        let mut exit = task::wait(&self.node, upid, adopt::PATIENCE).await;
        if exit.is_none() {
            // It waits for one that the recording did not wait for.
            self.node.release_all();
            exit = task::wait(&self.node, upid, Duration::from_secs(20)).await;
        }
        if !waited(record) {
            return;
        }
        let theirs = &record.json["task"];
        verdict.text(
            "task ended",
            &exit.unwrap_or_default(),
            theirs["exitstatus"].as_str().unwrap_or_default(),
        );
        let log = self.node.read(|d| d.tasks.iter().rev().find(|t| t.upid == upid).map(|t| t.log.clone()));
        verdict.log(&log.unwrap_or_default(), &theirs["log"]);
    }

    fn configs(&self, verdict: &mut Verdict, record: &Record) {
        for (vmid, text) in record.json["config_after"].as_object().into_iter().flatten() {
            let Ok(vmid) = vmid.parse() else { continue };
            let ours = self.node.read(|d| d.vms.get(&vmid).map(ToString::to_string));
            verdict.config(vmid, ours, text.as_str());
        }
    }
}
