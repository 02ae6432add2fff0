//! Worker tasks: UPID, log and exit status.

use std::{future::Future, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    faults::Fault,
    node::{Node, now},
};

/// A worker task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Its name in the API.
    pub upid: String,
    /// `qmclone`, …
    pub kind: String,
    /// What it works on.
    pub id: String,
    /// Process id.
    pub pid: u32,
    /// Process start in ticks.
    pub pstart: u32,
    /// Seconds since 1970.
    pub start: u64,
    /// Seconds since 1970.
    pub end: Option<u64>,
    /// How it ended.
    pub exit: Option<String>,
    /// What it printed.
    pub log: Vec<String>,
    /// Whether somebody asked it to stop.
    #[serde(default)]
    pub stop: bool,
}

impl Task {
    /// As in `GET tasks/UPID/status`.
    pub fn status(&self, node: &str) -> Value {
        let mut value = self.common(node);
        value["status"] = json!(if self.exit.is_some() { "stopped" } else { "running" });
        if let Some(exit) = &self.exit {
            value["exitstatus"] = json!(exit);
        }
        value
    }

    /// As in `GET tasks`.
    pub fn list_entry(&self, node: &str) -> Value {
        let mut value = self.common(node);
        if let Some(exit) = &self.exit {
            value["status"] = json!(exit);
            value["endtime"] = json!(self.end.unwrap_or(self.start));
        }
        value
    }

    fn common(&self, node: &str) -> Value {
        json!({
            "upid": self.upid, "type": self.kind, "id": self.id, "node": node, "user": "root@pam",
            "pid": self.pid, "pstart": self.pstart, "starttime": self.start,
        })
    }
}

/// A running task's way to its log.
#[derive(Clone)]
pub struct Worker {
    node: Arc<Node>,
    upid: String,
}

impl Worker {
    /// Prints a line.
    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        self.node.touch(|data| {
            if let Some(task) = data.tasks.iter_mut().rev().find(|t| t.upid == self.upid) {
                task.log.push(line);
            }
        });
    }

    /// Whether somebody asked it to stop.
    pub fn is_stopped(&self) -> bool {
        self.node.read(|d| d.tasks.iter().any(|t| t.upid == self.upid && t.stop))
    }

    fn with(&self, change: impl FnOnce(&mut Task)) {
        self.node.change(|data| {
            if let Some(task) = data.tasks.iter_mut().rev().find(|t| t.upid == self.upid) {
                change(task);
            }
        });
    }
}

/// Starts a task; gives its UPID. `work` gives the exit status of a failure.
pub fn spawn<F, W>(node: &Arc<Node>, kind: &str, id: u32, work: F) -> String
where
    F: FnOnce(Worker) -> W + Send + 'static,
    W: Future<Output = Result<(), String>> + Send + 'static,
{
    let upid = node.change(|data| {
        data.pid += 7;
        let (pid, start) = (data.pid, now());
        let pstart = 700_000 + data.pid * 13;
        let upid = format!("UPID:{}:{pid:08X}:{pstart:08X}:{start:08X}:{kind}:{id}:root@pam:", node.name());
        data.tasks.push(Task {
            upid: upid.clone(),
            kind: kind.to_owned(),
            id: id.to_string(),
            pid,
            pstart,
            start,
            end: None,
            exit: None,
            log: Vec::new(),
            stop: false,
        });
        upid
    });
    let worker = Worker { node: Arc::clone(node), upid: upid.clone() };
    let kind = kind.to_owned();
    tokio::spawn(async move {
        let slow = worker.node.fault(|f| match f {
            Fault::TaskSlow { kind: k, by } if *k == kind => Some((*by, false)),
            _ => None,
        });
        if let Some(by) = slow {
            tokio::time::sleep(by).await;
        }
        let failure = worker.node.fault(|f| match f {
            Fault::TaskFails { kind: k, message } if *k == kind => Some((message.clone(), true)),
            _ => None,
        });
        let outcome = match failure {
            Some(message) => Err(message),
            None => work(worker.clone()).await,
        };
        let warnings = worker.node.fault(|f| match f {
            Fault::TaskWarnings { kind: k, count } if *k == kind => Some((*count, false)),
            _ => None,
        });
        worker.with(|task| {
            let (exit, line) = match (outcome, warnings) {
                (Err(message), _) => {
                    let line = format!("TASK ERROR: {message}");
                    (message, line)
                }
                (Ok(()), Some(count)) => {
                    task.log.push("WARN: a simulated warning".to_owned());
                    (format!("WARNINGS: {count}"), format!("TASK WARNINGS: {count}"))
                }
                (Ok(()), None) => ("OK".to_owned(), "TASK OK".to_owned()),
            };
            task.log.push(line);
            task.exit = Some(exit);
            task.end = Some(now());
        });
    });
    upid
}

/// Waits until a task is over; gives how it ended, or nothing after `limit`.
pub async fn wait(node: &Node, upid: &str, limit: std::time::Duration) -> Option<String> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let exit = node.read(|d| d.tasks.iter().rev().find(|t| t.upid == upid).and_then(|t| t.exit.clone()));
        if exit.is_some() || tokio::time::Instant::now() >= deadline {
            return exit;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
