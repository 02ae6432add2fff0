//! Snapshots of a VM.

use fleet_core::{Error, Result, deadline::Deadline, guard::Permit, types::Vmid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Progress;
use crate::{
    api::{
        call::{Call, SnapshotName, vm_path},
        encode::truth,
    },
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
    #[serde(default)]
    pub snaptime: Option<u64>,
    /// The one before it.
    #[serde(default)]
    pub parent: Option<String>,
    /// What else the API says (`vmstate`: whether the memory is in it).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Snapshot {
    /// Whether the memory of the running VM is in it.
    pub fn has_memory(&self) -> bool {
        truth(self.other.get("vmstate"))
    }
}

/// The snapshots of a VM, oldest first; the entry for its present state, which Proxmox lists too, is left out.
pub fn list(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<Vec<Snapshot>> {
    let name = node.name(deadline)?;
    let what = format!("list the snapshots of VM {vmid}");
    let mut snapshots: Vec<Snapshot> =
        node.api.get_as(&what, &vm_path(name, vmid, "/snapshot"), &[], deadline)?;
    snapshots.retain(|s| s.name != "current");
    snapshots.sort_by_key(|s| s.snaptime);
    Ok(snapshots)
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
    /// Put the VM back to it.
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

/// Takes, goes back to, or removes a snapshot.
///
/// Proxmox takes a name twice without a word until its task fails, and goes back past newer snapshots where the
/// storage can: the list is looked at first, so that both are told before anything is sent.
pub fn act(
    node: &Node,
    permit: &Permit,
    name: &SnapshotName,
    action: &Action,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let here = node.name(deadline)?.clone();
    let is_there = || Ok(list(node, vmid, deadline)?.iter().any(|s| s.name == name.to_string()));
    let call = action.call(permit, &here, name);
    match (action, is_there()?) {
        (Action::Take { .. }, true) => {
            return Err(Error::conflict(format!("VM {vmid} has a snapshot '{name}' already"))
                .now("nothing was changed")
                .hint(format!("proxmox-ops snapshots {vmid}")));
        }
        (Action::Rollback { .. } | Action::Delete, false) => {
            return Err(Error::not_found(format!("VM {vmid} has no snapshot '{name}'"))
                .now("nothing was changed")
                .hint(format!("proxmox-ops snapshots {vmid}")));
        }
        _ => {}
    }
    let kind = match action {
        Action::Take { .. } => "qmsnapshot",
        Action::Rollback { .. } => "qmrollback",
        Action::Delete => "qmdelsnapshot",
    };
    let mut done = || match action {
        Action::Take { .. } => is_there(),
        // The VM looks the same before and after: only its task tells.
        Action::Rollback { .. } => Ok(false),
        Action::Delete => is_there().map(|there| !there),
    };
    let outcome =
        tasks::run_or_look(&node.api, permit, &call, (kind, vmid, &here), deadline, progress, &mut done);
    outcome.map_err(|e| match e.message() {
        said if said.contains("snapshot feature is not available") => e
            .now("one of its disks is on a storage, or of a format, that takes no snapshots (raw on a directory, LVM)")
            .hint(format!("proxmox-ops config {vmid}")),
        _ => e,
    })
}
