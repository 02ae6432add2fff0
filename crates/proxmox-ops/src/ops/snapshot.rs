//! Snapshots of a VM.

use std::time::{Duration, Instant};

use fleet_core::{Error, Result, again, deadline::Deadline, guard::Permit, types::Vmid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Progress, power, reached};
use crate::{
    api::{
        call::{Call, SnapshotName, vm_path},
        encode::{self, truth},
    },
    cluster::Cluster,
    node::Node,
    tasks,
};

/// A snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What people wrote about it.
    #[serde(default)]
    pub description: String,
    /// When it was taken, in seconds since 1970.
    #[serde(default, deserialize_with = "encode::some_number")]
    pub snaptime: Option<u64>,
    /// The one before it.
    #[serde(default)]
    pub parent: Option<String>,
    /// What else the API says (`vmstate`: whether the memory is in it).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Snapshot {
    /// What it is in the middle of (`prepare`, `delete`), where it is not whole: being worked on, or left by a task
    /// that was killed.
    pub fn unfinished(&self) -> Option<&str> {
        self.other.get("snapstate").and_then(Value::as_str)
    }

    /// Whether the memory of the running VM is in it.
    pub fn has_memory(&self) -> bool {
        truth(self.other.get("vmstate"))
    }
}

/// The entry for a VM's present state in the list of its snapshots.
const PRESENT: &str = "current";

/// The snapshots of a VM, oldest first; the entry for its present state, which Proxmox lists too, is left out.
pub fn list(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<Vec<Snapshot>> {
    let mut snapshots = listed(node, vmid, deadline)?;
    snapshots.retain(|s| s.name != PRESENT);
    snapshots.sort_by_key(|s| s.snaptime);
    Ok(snapshots)
}

fn listed(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<Vec<Snapshot>> {
    let name = node.name(deadline)?;
    let what = format!("list the snapshots of VM {vmid}");
    node.api.get_as(&what, &vm_path(name, vmid, "/snapshot"), &[], deadline)
}

/// The snapshot that a VM's present state comes from: after going back to one, that one.
fn parent(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<Option<String>> {
    Ok(listed(node, vmid, deadline)?.into_iter().find(|s| s.name == PRESENT).and_then(|s| s.parent))
}

/// What to do with a snapshot.
#[derive(Debug, Clone)]
pub enum Action {
    /// Take it.
    Take {
        /// What people want to know of it.
        description: Option<String>,
        /// Whether to keep the memory of a running VM in it.
        memory: bool,
    },
    /// Put the VM back to it. Where its memory is in it, the VM runs then; else it is stopped.
    Rollback {
        /// Whether to start the VM then.
        start: bool,
    },
    /// Remove it.
    Delete,
}

impl Action {
    /// The request for it.
    pub fn call(&self, permit: &Permit, node: &fleet_core::types::NodeName, name: &SnapshotName) -> Call {
        match self {
            Action::Take { description, memory } => {
                Call::snapshot(permit, node, name, description.as_deref(), *memory)
            }
            Action::Rollback { start } => Call::rollback(permit, node, name, *start),
            Action::Delete => Call::delete_snapshot(permit, node, name),
        }
    }
}

/// Takes, goes back to, or removes a snapshot; a VM that is to start then is waited for. Whether that has stopped a VM
/// which ran.
///
/// Proxmox takes a name twice without a word until its task fails, and goes back past newer snapshots where the
/// storage can: the list is looked at first, so that both are told before anything is sent.
pub fn act(
    cluster: &Cluster,
    permit: &Permit,
    name: &SnapshotName,
    action: &Action,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<bool> {
    let vmid = permit.vmid();
    let short = || deadline.at_most(Duration::from_secs(20));
    let runs = |node: &Node| power::status(node, vmid, short()).is_ok_and(|now| now.status == "running");
    let (stopped, sent) = cluster.on(vmid, |node| {
        // Only going back stops a VM, and only where its memory is not in the snapshot.
        let ran = matches!(action, Action::Rollback { start: false }) && runs(node);
        let sent = Instant::now();
        send(node, permit, name, action, deadline, progress)?;
        Ok((ran && !runs(node), sent))
    })?;
    if matches!(action, Action::Rollback { start: true }) {
        reached::rolled_back(cluster, vmid, sent, deadline, progress)?;
    }
    Ok(stopped)
}

fn find(node: &Node, vmid: Vmid, name: &SnapshotName, deadline: Deadline) -> Result<Option<Snapshot>> {
    Ok(list(node, vmid, deadline)?.into_iter().find(|s| s.name == name.to_string()))
}

/// Whether the VM's snapshots let this be done; what stands against it is the error. Sends no change.
pub fn check(
    node: &Node,
    vmid: Vmid,
    name: &SnapshotName,
    action: &Action,
    deadline: Deadline,
) -> Result<()> {
    let there = find(node, vmid, name, deadline)?;
    match (action, there.as_ref().map(Snapshot::unfinished)) {
        (Action::Take { .. } | Action::Rollback { .. }, Some(Some(state))) => {
            return Err(Error::conflict(format!("VM {vmid} has an unfinished snapshot '{name}' ({state})"))
                .now("a task works on it, or one was killed in the middle of it")
                .now("nothing was changed")
                .hint(tasks::done_last(node.name(deadline)?, vmid))
                .hint(format!(
                    "if nothing works on it any more, there: qm unlock {vmid} && qm delsnapshot {vmid} {name} --force"
                )));
        }
        (Action::Take { .. }, Some(None)) => {
            return Err(Error::conflict(format!("VM {vmid} has a snapshot '{name}' already"))
                .now("nothing was changed")
                .hint(again::ops(format_args!("snapshots {vmid}"))));
        }
        (Action::Rollback { .. } | Action::Delete, None) => {
            return Err(Error::not_found(format!("VM {vmid} has no snapshot '{name}'"))
                .now("nothing was changed")
                .hint(again::ops(format_args!("snapshots {vmid}"))));
        }
        _ => {}
    }
    Ok(())
}

/// Sends the change and follows its task.
fn send(
    node: &Node,
    permit: &Permit,
    name: &SnapshotName,
    action: &Action,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let here = node.name(deadline)?.clone();
    let find = || find(node, vmid, name, deadline);
    let call = action.call(permit, &here, name);
    let kind = match action {
        Action::Take { .. } => "qmsnapshot",
        Action::Rollback { .. } => "qmrollback",
        Action::Delete => "qmdelsnapshot",
    };
    let subject = (&[kind][..], vmid);
    if let Some(earlier) = tasks::earlier(&node.api, &here, subject, call.what(), deadline, progress)? {
        // It may have been of another snapshot.
        let done = match action {
            Action::Take { .. } => find()?.is_some_and(|s| s.unfinished().is_none()),
            Action::Rollback { .. } => {
                earlier.ended.is_ok()
                    && parent(node, vmid, deadline)?.is_some_and(|at| at == name.to_string())
            }
            Action::Delete => find()?.is_none(),
        };
        if done {
            return Ok(());
        }
    }
    check(node, vmid, name, action, deadline)?;
    let mut done = || match action {
        Action::Take { .. } => Ok(Some(find()?.is_some_and(|s| s.unfinished().is_none()))),
        // The VM looks the same before and after: only its task tells.
        Action::Rollback { .. } => Ok(None),
        Action::Delete => Ok(Some(find()?.is_none())),
    };
    let outcome =
        tasks::run_or_look(&node.api, permit, &call, (&[kind], vmid, &here), deadline, progress, &mut done);
    outcome.map(drop).map_err(|e| match e.message() {
        said if said.contains("snapshot feature is not available") => e
            .now("one of its disks is on a storage, or of a format, that takes no snapshots (raw on a directory, LVM)")
            .hint(again::ops(format_args!("config {vmid}"))),
        _ => e,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, alone, permit};
    use fleet_core::Kind;
    use serde_json::json;

    const SNAPSHOTS: &str = "/nodes/prom/qemu/110/snapshot";

    fn run(fake: &Fake, action: &Action) -> Result<()> {
        let name = "before".parse().unwrap();
        act(&alone(fake), &permit(110), &name, action, Deadline::secs(20), &mut |_| {}).map(drop)
    }

    fn fake() -> Fake {
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/nodes/prom/tasks", json!([]))
    }

    /// What a task leaves that was killed in the middle.
    #[test]
    fn an_unfinished_snapshot_is_none() {
        let half = json!([{"name": "before", "snapstate": "prepare", "snaptime": 1}, {"name": "current"}]);
        let whole = json!([{"name": "before", "snaptime": 1}, {"name": "current"}]);
        let take = Action::Take { description: None, memory: false };
        for (after, kind) in [(&half, Some(Kind::OutcomeUnknown)), (&whole, None)] {
            let fake =
                fake().get(SNAPSHOTS, json!([])).get(SNAPSHOTS, after.clone()).drops("POST", SNAPSHOTS);
            assert_eq!(run(&fake, &take).err().map(|e| e.kind()), kind);
        }
        let fake = fake().get(SNAPSHOTS, half);
        for action in [take, Action::Rollback { start: false }] {
            let error = run(&fake, &action).unwrap_err();
            assert!(error.message().contains("unfinished snapshot 'before' (prepare)"), "{error:?}");
        }
        assert_eq!(fake.requests("POST"), 0);
    }
}
