//! The node's tasks: what runs now, what ran lately.

use std::time::{Duration, Instant};

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    types::{NodeName, Vmid},
};
use serde::Deserialize;

use super::{Upid, is_running, log};
use crate::api::{
    Client,
    encode::{self, percent},
};

/// A task in the node's list.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    upid: String,
    /// `qmclone`, `qmstart`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The VM that it is of, if it is of one.
    #[serde(default)]
    pub id: String,
    /// Seconds since 1970 on the node's clock.
    #[serde(default, deserialize_with = "encode::number")]
    pub starttime: u64,
    /// While it runs absent, or `RUNNING`; else its exit status.
    #[serde(default)]
    pub status: Option<String>,
    /// Seconds since 1970; absent while it runs.
    #[serde(default, deserialize_with = "encode::some_number")]
    pub endtime: Option<u64>,
}

impl Listed {
    /// Its id.
    pub fn upid(&self) -> Upid {
        Upid(self.upid.clone())
    }

    /// Whether the list says that it has not ended yet. The node's list may go on saying so for some 10 s after its
    /// end: only the task itself tells.
    fn may_run(&self) -> bool {
        self.endtime.is_none() && self.status.as_deref().is_none_or(|s| s.eq_ignore_ascii_case("running"))
    }
}

/// The tasks of the node, running or recently ended, newest first; of one VM and of one kind (`qmclone`, …)
/// where these are given. A clone is a task of its template.
pub fn list(
    client: &Client,
    node: &NodeName,
    kind: Option<&str>,
    vmid: Option<Vmid>,
    deadline: Deadline,
) -> Result<Vec<Listed>> {
    of(client, node, "all", (kind, vmid), deadline)
}

/// The same of one `source`: `active`, `archive` or `all`.
fn of(
    client: &Client,
    node: &NodeName,
    source: &str,
    (kind, vmid): (Option<&str>, Option<Vmid>),
    deadline: Deadline,
) -> Result<Vec<Listed>> {
    let id = vmid.map(|vmid| vmid.to_string());
    let limit = LIMIT.to_string();
    let mut query = vec![("source", source), ("limit", limit.as_str())];
    query.extend(id.as_deref().map(|id| ("vmid", id)));
    query.extend(kind.map(|kind| ("typefilter", kind)));
    let path = format!("/nodes/{}/tasks", percent(node.as_str()));
    let mut tasks: Vec<Listed> = client.get_as("list the node's tasks", &path, &query, deadline)?;
    // The filter takes a part of a name.
    tasks.retain(|task| kind.is_none_or(|kind| task.kind == kind));
    tasks.sort_by_key(|task| std::cmp::Reverse(task.starttime));
    Ok(tasks)
}

/// How many tasks a list has at most.
const LIMIT: usize = 50;

/// When something was sent, by the node's clock in seconds since 1970, or up to two seconds before.
pub fn sent_at(client: &Client, node: &NodeName, sent: Instant, deadline: Deadline) -> Result<u64> {
    #[derive(Deserialize)]
    struct Clock {
        time: u64,
    }
    let path = format!("/nodes/{}/time", percent(node.as_str()));
    let now: Clock = client.get_as("ask the node's clock", &path, &[], deadline)?;
    Ok(now.time.saturating_sub(sent.elapsed().as_secs() + 1))
}

/// How long ago a task began, to the second or up to two more.
pub fn age(client: &Client, node: &NodeName, upid: &Upid, deadline: Deadline) -> Result<Duration> {
    let now = sent_at(client, node, Instant::now(), deadline)?;
    Ok(Duration::from_secs((now + 1).saturating_sub(upid.started())))
}

/// The newest task of these `kinds` of a VM that began at `since` (see [`sent_at`]) or later, without `others`; where
/// `since` is not known, of those that run by their own word.
pub fn newest(
    client: &Client,
    node: &NodeName,
    (kinds, vmid): (&[&str], Vmid),
    since: Option<u64>,
    others: &[Upid],
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let only = match kinds {
        [kind] => Some(*kind),
        _ => None,
    };
    let tasks = list(client, node, only, Some(vmid), deadline)?;
    let fits = |task: &&Listed| {
        kinds.contains(&task.kind.as_str())
            && since.is_none_or(|since| task.starttime >= since)
            && !others.contains(&task.upid())
    };
    let mut fitting: Vec<&Listed> = tasks.iter().filter(fits).collect();
    fitting.sort_by_key(|task| std::cmp::Reverse(task.upid().began()));
    match since {
        Some(_) => Ok(fitting.first().map(|task| task.upid())),
        None => first_running(client, fitting.into_iter(), deadline),
    }
}

/// The tasks of this kind that began with or after `task`, without itself; nothing when the list does not reach back
/// so far.
pub fn later(
    client: &Client,
    node: &NodeName,
    kind: &str,
    task: &Upid,
    deadline: Deadline,
) -> Result<Option<Vec<Upid>>> {
    let tasks = list(client, node, Some(kind), None, deadline)?;
    if tasks.len() >= LIMIT && tasks.iter().all(|listed| listed.upid != task.0) {
        return Ok(None);
    }
    let others = tasks.iter().map(Listed::upid).filter(|other| other != task);
    Ok(Some(others.filter(|other| other.began() >= task.began()).collect()))
}

/// What the log of a clone says.
#[derive(Debug, PartialEq, Eq)]
enum Into {
    /// The VMID that it clones into.
    This(Vmid),
    /// Nothing of that, and it will not any more.
    Unsaid,
    /// Nothing yet: it has only begun, or waits for a lock.
    NotYet,
}

/// The VMID that a task clones into, where its log says: that begins with both VMIDs, after what was said while the
/// locks of both were waited for.
pub fn clones_into(client: &Client, upid: &Upid, deadline: Deadline) -> Result<Option<Vmid>> {
    match said_into(client, upid, deadline)? {
        Into::This(vmid) => Ok(Some(vmid)),
        Into::Unsaid | Into::NotYet => Ok(None),
    }
}

fn said_into(client: &Client, upid: &Upid, deadline: Deadline) -> Result<Into> {
    let lines = log(client, upid, 0, deadline)?;
    let mut first = lines.iter().take(5).map(|line| line.t.trim());
    let said = first.clone().find_map(|line| line.rsplit_once(" with ID ")?.1.parse().ok());
    let waits = |line: &str| line.is_empty() || line == "OK" || line.starts_with("trying to acquire lock");
    Ok(match said {
        Some(vmid) => Into::This(vmid),
        None if first.all(waits) => Into::NotYet,
        None => Into::Unsaid,
    })
}

/// Tasks of a VM that hold no lock of its configuration: a console that is open, for as long as it is, and a clone of
/// it.
const LOCKS_NOTHING: &[&str] = &["vncproxy", "termproxy", "spiceproxy", "qmclone"];

/// A running task on this VM that may be behind a lock, if there is one.
pub(super) fn find_running(
    client: &Client,
    node: &NodeName,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let tasks = list(client, node, None, Some(vmid), deadline)?;
    let fits = |task: &&Listed| !LOCKS_NOTHING.contains(&task.kind.as_str());
    first_running(client, tasks.iter().filter(fits), deadline)
}

/// A running task of this kind on this VM, if there is one.
pub fn find_running_on(
    client: &Client,
    node: &NodeName,
    (kind, vmid): (&str, Vmid),
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let tasks = list(client, node, Some(kind), Some(vmid), deadline)?;
    first_running(client, tasks.iter().filter(|task| task.kind == kind), deadline)
}

/// A running task of one of these kinds on this VM that was begun by the login that asks, if there is one.
pub(super) fn find_own(
    client: &Client,
    node: &NodeName,
    (kinds, vmid): (&[&str], Vmid),
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let tasks = of(client, node, "active", (None, Some(vmid)), deadline)?;
    let own = |task: &&Listed| kinds.contains(&task.kind.as_str()) && task.upid().is_of(client);
    first_running(client, tasks.iter().filter(own), deadline)
}

/// The first of these tasks that has not ended, by its own word.
fn first_running<'a>(
    client: &Client,
    tasks: impl Iterator<Item = &'a Listed>,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    for upid in tasks.filter(|task| task.may_run()).map(Listed::upid) {
        if is_running(client, &upid, deadline)? {
            return Ok(Some(upid));
        }
    }
    Ok(None)
}

/// A running task of this kind that is of no VM, if there is one.
pub(super) fn find_running_kind(
    client: &Client,
    node: &NodeName,
    kind: &str,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let tasks = list(client, node, Some(kind), None, deadline)?;
    first_running(client, tasks.iter().filter(|task| task.id.is_empty()), deadline)
}

/// The running task that clones into this VMID, if there is one. One that does not say into which for longer than a
/// task needs to begin is an error: whether it is this one is not known.
pub fn find_clone_into(
    client: &Client,
    node: &NodeName,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let patience = deadline.at_most(SILENCE);
    loop {
        let mut silent = None;
        for task in list(client, node, Some("qmclone"), None, deadline)?.iter().filter(|task| task.may_run())
        {
            let upid = task.upid();
            if !is_running(client, &upid, deadline)? {
                continue;
            }
            match said_into(client, &upid, deadline)? {
                Into::This(into) if into == vmid => return Ok(Some(upid)),
                Into::This(_) | Into::Unsaid => {}
                Into::NotYet => silent = Some(upid),
            }
        }
        match silent {
            None => return Ok(None),
            Some(upid) if patience.passed() => {
                return Err(Error::failed(format!("can not tell whether a task clones into VM {vmid}"))
                    .now(format!("this one runs, and does not say yet into which VM: {upid}"))
                    .hint("run the same command again later"));
            }
            Some(_) => patience.pause(Duration::from_millis(100))?,
        }
    }
}

/// How long a clone may run before it says into which VM: it waits a second for each of the two locks.
const SILENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::{Value, json};

    const CLONE: &str = "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:";

    /// A node whose list has a task that runs; what the task itself says, and its logs one after the other.
    fn listed(upid: &str, status: &str, logs: &[Value]) -> Fake {
        let path = format!("/nodes/prom/tasks/{}", percent(upid));
        let task: Upid = upid.parse().unwrap();
        let listed =
            json!([{"upid": upid, "type": task.kind(), "id": task.subject(), "starttime": task.started()}]);
        let fake = Fake::new().get("/nodes/prom/tasks", listed);
        let fake = fake.get(&format!("{path}/status"), json!({"status": status}));
        logs.iter().fold(fake, |fake, log| fake.get(&format!("{path}/log"), log.clone()))
    }

    fn log(lines: &[&str]) -> Value {
        lines.iter().zip(1..).map(|(line, n)| json!({"n": n, "t": line})).collect()
    }

    fn fake(status: &str, logs: &[Value]) -> Fake {
        listed(CLONE, status, logs)
    }

    fn clones(fake: &Fake, within: u64) -> Result<Option<Upid>> {
        let vmid = Vmid::new(110).unwrap();
        find_clone_into(&node(fake).api, &"prom".parse().unwrap(), vmid, Deadline::secs(within))
    }

    fn into_110(fake: &Fake) -> Option<Upid> {
        clones(fake, 20).unwrap()
    }

    #[test]
    fn a_task_that_ended_is_not_taken_for_running_by_its_list() {
        let log = log(&["creating a clone of VM 9002 with ID 110"]);
        assert!(into_110(&fake("running", std::slice::from_ref(&log))).is_some());
        assert!(into_110(&fake("stopped", &[log])).is_none());
        assert!(works_on_9002("qmstart", "running"));
        assert!(!works_on_9002("qmstart", "stopped"));
    }

    fn works_on_9002(kind: &str, status: &str) -> bool {
        let fake = listed(&CLONE.replace("qmclone", kind), status, &[]);
        let vmid = Vmid::new(9002).unwrap();
        find_running(&node(&fake).api, &"prom".parse().unwrap(), vmid, Deadline::secs(5)).unwrap().is_some()
    }

    #[test]
    fn an_open_console_and_a_clone_of_it_are_behind_no_lock_of_a_vm() {
        for kind in ["vncproxy", "termproxy", "qmclone"] {
            assert!(!works_on_9002(kind, "running"), "{kind}");
        }
        assert!(works_on_9002("vzdump", "running"));
    }

    #[test]
    fn an_empty_log_is_no_other_clones() {
        let says = log(&["creating a clone of VM 9002 with ID 110"]);
        assert!(into_110(&fake("running", &[log(&["no content"]), says])).is_some());
    }

    #[test]
    fn a_clone_that_had_to_wait_for_a_lock_says_so_first() {
        let mut lines = vec!["trying to acquire lock...", " OK", "creating a clone of VM 9002 with ID 110"];
        assert!(into_110(&fake("running", &[log(&lines)])).is_some());
        assert!(into_110(&fake("running", &[log(&lines[..1]), log(&lines[..2]), log(&lines)])).is_some());
        lines[2] = "creating a clone of VM 9002 with ID 111";
        assert!(into_110(&fake("running", &[log(&lines)])).is_none());
        // As long as it says nothing it may be this one.
        assert!(clones(&fake("running", &[log(&lines[..1])]), 1).is_err());
        // Older nodes never say.
        lines[2] = "create full clone of drive scsi0 (nvmeprom:9002/base-9002-disk-0.qcow2)";
        assert!(into_110(&fake("running", &[log(&lines)])).is_none());
    }
}
