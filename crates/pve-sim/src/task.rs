//! Worker tasks: UPID, log and exit status.

use std::{future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    auth::Who,
    faults::{Fault, strikes},
    ledger::Party,
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
    /// Who started it.
    #[serde(default = "root")]
    pub user: String,
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
    /// Whether it is no child of the API daemon, whose restart it survives.
    #[serde(default)]
    pub apart: bool,
}

fn root() -> String {
    "root@pam".to_owned()
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
        let (user, token) =
            self.user.split_once('!').map_or((self.user.as_str(), None), |(u, t)| (u, Some(t)));
        let mut value = json!({
            "upid": self.upid, "type": self.kind, "id": self.id, "node": node, "user": user,
            "pid": self.pid, "pstart": self.pstart, "starttime": self.start,
        });
        if let Some(token) = token {
            value["tokenid"] = json!(token);
        }
        value
    }
}

/// A running task's way to its log.
#[derive(Clone)]
pub struct Worker {
    node: Arc<Node>,
    upid: String,
    dies: bool,
}

impl Worker {
    /// Whether it is killed with signal 9 when the first thing that it makes is there.
    pub fn dies(&self) -> bool {
        self.dies
    }

    /// Prints a line.
    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        self.node.touch(|data| {
            if let Some(task) = data.tasks.iter_mut().rev().find(|t| t.upid == self.upid) {
                task.log.push(line);
            }
        });
    }

    /// Sleeps, but not on after somebody asked it to stop.
    async fn sleep(&self, by: Duration) {
        let until = tokio::time::Instant::now() + by;
        while tokio::time::Instant::now() < until && !self.is_stopped() {
            tokio::time::sleep(by.min(Duration::from_millis(5))).await;
        }
    }

    /// Whether somebody asked it to stop.
    pub fn is_stopped(&self) -> bool {
        self.node.read(|d| d.tasks.iter().any(|t| t.upid == self.upid && t.stop))
    }

    /// Waits while the task is held (see [`Node::hold_tasks`]); one that is asked to stop goes on to do so.
    pub async fn gate(&self) {
        while self.node.is_held(&self.upid) && !self.is_stopped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn end(&self, outcome: Result<(), String>, warnings: Option<u32>) {
        self.node.change(|data| {
            let Some(task) = data.tasks.iter_mut().rev().find(|t| t.upid == self.upid) else { return };
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
            // A worker that was killed writes nothing more.
            if exit != KILLED {
                task.log.push(line);
            }
            task.exit = Some(exit);
            task.end = Some(now());
        });
    }
}

/// How a task ends whose worker was killed with signal 9.
pub const KILLED: &str = "unexpected status";

/// Starts a task; gives its UPID. `work` gives the exit status of a failure.
pub fn spawn<F, W>(node: &Arc<Node>, who: &Who, kind: &str, id: u32, work: F) -> String
where
    F: FnOnce(Worker) -> W + Send + 'static,
    W: Future<Output = Result<(), String>> + Send + 'static,
{
    let killed = node.fault(|f| match f {
        Fault::TaskKilled { kind: k, cleaned } if strikes(k, kind) => Some((*cleaned, true)),
        _ => None,
    });
    let user = who.name();
    let upid = node.change(|data| {
        data.pid += 7;
        let (pid, start) = (data.pid, now());
        let pstart = 700_000 + data.pid * 13;
        let upid = format!("UPID:{}:{pid:08X}:{pstart:08X}:{start:08X}:{kind}:{id}:{user}:", node.name());
        data.tasks.push(Task {
            upid: upid.clone(),
            kind: kind.to_owned(),
            id: id.to_string(),
            user: user.to_owned(),
            pid,
            pstart,
            start,
            end: None,
            exit: None,
            log: Vec::new(),
            stop: killed == Some(true),
            apart: false,
        });
        upid
    });
    node.hold(&upid);
    // A clone leaves more than what it was begun with.
    let dies = killed == Some(false) && kind == "qmclone";
    let worker = Worker { node: Arc::clone(node), upid: upid.clone(), dies };
    let kind = kind.to_owned();
    tokio::spawn(async move {
        let _at_work = worker.node.ledger.begin(Party::Node, format!("{kind} {id}"));
        let slow = worker.node.fault(|f| match f {
            Fault::TaskSlow { kind: k, by } if strikes(k, &kind) => Some((*by, false)),
            _ => None,
        });
        if let Some(by) = slow {
            worker.sleep(by).await;
        }
        let failure = worker.node.fault(|f| match f {
            Fault::TaskFails { kind: k, message } if strikes(k, &kind) => Some((message.clone(), true)),
            _ => None,
        });
        // A clone copies while it is held, and a restore says what it reads; a clone cleans up itself when it is stopped.
        if !matches!(&*kind, "qmclone" | "qmrestore") {
            worker.gate().await;
        }
        let outcome = match failure {
            _ if killed == Some(false) && !dies => Err(KILLED.to_owned()),
            Some(message) => Err(message),
            None if kind != "qmclone" && worker.is_stopped() => Err("received interrupt".to_owned()),
            None => work(worker.clone()).await,
        };
        // What was reserved for it is free again, unless its worker was killed.
        if kind == "qmcreate" && outcome.as_ref().is_err_and(|exit| exit != KILLED) {
            worker.node.change(|d| {
                if d.vms.get(&id).is_some_and(|c| c.lock() == Some("create")) {
                    d.vms.remove(&id);
                }
            });
        }
        // A restore takes its lock off again, and leaves the rest.
        if kind == "qmrestore" && outcome.as_ref().is_err_and(|exit| exit != KILLED) {
            worker.node.change(|d| {
                if let Some(conf) = d.vms.get_mut(&id) {
                    conf.main.remove("lock");
                }
            });
        }
        let warnings = worker.node.fault(|f| match f {
            Fault::TaskWarnings { kind: k, count } if strikes(k, &kind) => Some((*count, false)),
            _ => None,
        });
        worker.end(outcome, warnings);
    });
    upid
}

/// Waits until a task is over; gives how it ended, or nothing after `limit`.
pub async fn wait(node: &Node, upid: &str, limit: Duration) -> Option<String> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let exit = node.read(|d| d.tasks.iter().rev().find(|t| t.upid == upid).and_then(|t| t.exit.clone()));
        if exit.is_some() || tokio::time::Instant::now() >= deadline {
            return exit;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
