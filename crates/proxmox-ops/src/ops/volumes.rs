//! Volumes that bear a VM's number without its configuration naming them.
//!
//! Proxmox takes such volumes for the VM's own, from the number in their names (`vm-110-disk-0`), on every storage
//! that it sees. A storage that another cluster uses too has that one's VM of the same number: they are not ours to
//! remove.

use std::collections::BTreeSet;

use fleet_core::{Result, deadline::Deadline, protocol::VmConfig, types::Vmid};
use serde::Deserialize;

use super::host;
use crate::{api::encode::percent, node::Node};

#[derive(Deserialize)]
struct Listed {
    volid: String,
    /// Seconds since 1970; not every storage knows.
    #[serde(default)]
    ctime: Option<u64>,
}

/// Disk images of the VM's number on shared storages that `config` does not name and that are not known to have been
/// made at or after `since`, in seconds since 1970.
pub fn of_others(
    node: &Node,
    config: &VmConfig,
    since: Option<u64>,
    deadline: Deadline,
) -> Result<Vec<String>> {
    let named: BTreeSet<&str> =
        config.settings.values().filter_map(|value| value.split(',').next()).map(str::trim).collect();
    let mut found = Vec::new();
    for storage in host::storages(node, deadline)? {
        if !storage.shared || !storage.active || !storage.content.iter().any(|c| c == "images") {
            continue;
        }
        let listed = list(node, storage.storage.as_str(), config.vmid, deadline)?;
        let ours = |volume: &Listed| {
            named.contains(volume.volid.as_str())
                || since.is_some_and(|since| volume.ctime.is_some_and(|made| made >= since))
        };
        found.extend(listed.into_iter().filter(|volume| !ours(volume)).map(|volume| volume.volid));
    }
    Ok(found)
}

fn list(node: &Node, storage: &str, vmid: Vmid, deadline: Deadline) -> Result<Vec<Listed>> {
    let path =
        format!("/nodes/{}/storage/{}/content", percent(node.name(deadline)?.as_str()), percent(storage));
    let id = vmid.to_string();
    let query = [("content", "images"), ("vmid", id.as_str())];
    node.api.get_as(&format!("list the disks of VM {vmid} on '{storage}'"), &path, &query, deadline)
}

/// What to say of volumes that were left alone.
pub fn left_alone(vmid: Vmid, volumes: &[String]) -> String {
    format!(
        "left alone, being on a shared storage and not in the configuration of VM {vmid}: {} (if they are its own: \
         `pvesm free VOLUME` on the node)",
        volumes.join(", ")
    )
}
