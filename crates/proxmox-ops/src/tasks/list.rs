//! The node's tasks: what runs now, what ran lately.

use std::time::{Duration, Instant};

use fleet_core::{
    Result,
    deadline::Deadline,
    types::{NodeName, Vmid},
};
use serde::Deserialize;

use super::{Upid, is_running, log};
use crate::api::{Client, encode::percent};

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
    #[serde(default)]
    pub starttime: u64,
    /// While it runs absent, or `RUNNING`; else its exit status.
    #[serde(default)]
    pub status: Option<String>,
    /// Seconds since 1970; absent while it runs.
    #[serde(default)]
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
    let id = vmid.map(|vmid| vmid.to_string());
    let limit = LIMIT.to_string();
    let mut query = vec![("source", "all"), ("limit", limit.as_str())];
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

/// The VMID that a task clones into, where its log says: that begins with both VMIDs.
pub fn clones_into(client: &Client, upid: &Upid, deadline: Deadline) -> Result<Option<Vmid>> {
    let lines = log(client, upid, 0, deadline)?;
    let said = lines.iter().take(5).find_map(|line| line.t.trim_end().rsplit_once(" with ID "));
    Ok(said.and_then(|(_, vmid)| vmid.parse().ok()))
}

/// A running task on this VM, of a kind where one is given, if there is one.
pub fn find_running(
    client: &Client,
    node: &NodeName,
    kind: Option<&str>,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    first_running(client, list(client, node, kind, Some(vmid), deadline)?.iter(), deadline)
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

/// The running task that clones into this VMID, if there is one: its log begins with both VMIDs.
pub fn find_clone_into(
    client: &Client,
    node: &NodeName,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let into = format!(" with ID {vmid}");
    // A task that has only begun may not have written its first line yet.
    let patience = deadline.at_most(Duration::from_secs(5));
    loop {
        let mut silent = false;
        for task in list(client, node, Some("qmclone"), None, deadline)?.iter().filter(|task| task.may_run())
        {
            let upid = task.upid();
            if !is_running(client, &upid, deadline)? {
                continue;
            }
            match log(client, &upid, 0, deadline)?.first() {
                Some(line) if line.t.trim_end().ends_with(&into) => return Ok(Some(upid)),
                Some(_) => {}
                None => silent = true,
            }
        }
        if !silent || patience.passed() {
            return Ok(None);
        }
        patience.sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::{Value, json};

    const CLONE: &str = "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:";

    /// A node whose list has a clone that runs; what the clone itself says, and its logs one after the other.
    fn fake(status: &str, logs: &[Value]) -> Fake {
        let path = format!("/nodes/prom/tasks/{}", percent(CLONE));
        let listed = json!([{"upid": CLONE, "type": "qmclone", "id": "9002", "starttime": 100}]);
        let fake = Fake::new().get("/nodes/prom/tasks", listed);
        let fake = fake.get(&format!("{path}/status"), json!({"status": status}));
        logs.iter().fold(fake, |fake, log| fake.get(&format!("{path}/log"), log.clone()))
    }

    fn into_110(fake: &Fake) -> Option<Upid> {
        let vmid = Vmid::new(110).unwrap();
        find_clone_into(&node(fake).api, &"prom".parse().unwrap(), vmid, Deadline::secs(20)).unwrap()
    }

    #[test]
    fn a_task_that_ended_is_not_taken_for_running_by_its_list() {
        let log = json!([{"n": 1, "t": "creating a clone of VM 9002 with ID 110"}]);
        assert!(into_110(&fake("running", std::slice::from_ref(&log))).is_some());
        assert!(into_110(&fake("stopped", &[log])).is_none());
        let template = Vmid::new(9002).unwrap();
        let look = |fake: &Fake| {
            find_running(&node(fake).api, &"prom".parse().unwrap(), None, template, Deadline::secs(5))
                .unwrap()
        };
        assert!(look(&fake("running", &[])).is_some());
        assert!(look(&fake("stopped", &[])).is_none());
    }

    #[test]
    fn an_empty_log_is_no_other_clones() {
        let silent = json!([{"n": 1, "t": "no content"}]);
        let says = json!([{"n": 1, "t": "creating a clone of VM 9002 with ID 110"}]);
        assert!(into_110(&fake("running", &[silent, says])).is_some());
    }
}
