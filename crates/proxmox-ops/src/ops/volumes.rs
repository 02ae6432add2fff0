//! Volumes that bear a VM's number without its configuration naming them.
//!
//! Proxmox takes such volumes for the VM's own, from the number in their names (`vm-110-disk-0`), on every storage
//! that it sees. A storage that another cluster uses too has that one's VM of the same number: they are not ours to
//! remove.

use std::collections::BTreeSet;

use fleet_core::{
    Result,
    deadline::Deadline,
    protocol::VmConfig,
    types::{NodeName, Vmid},
};
use serde::Deserialize;

use super::host;
use crate::{
    api::encode::{self, percent},
    node::Node,
};

#[derive(Deserialize)]
struct Listed {
    volid: String,
    /// Seconds since 1970; not every storage knows.
    #[serde(default, deserialize_with = "encode::some_number")]
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

/// The volumes that the log of a removal says were not removed and that are there still, with what it says. A second
/// try of the node's, which goes over all volumes of that number, may have removed them after all.
pub fn kept(node: &Node, vmid: Vmid, log: &[String], deadline: Deadline) -> Vec<Kept> {
    let mut kept: Vec<Kept> = log.iter().filter_map(|line| said_kept(line)).collect();
    kept.retain(|one| {
        let storage = one.volume.split(':').next().unwrap_or_default();
        // Not being able to look takes nothing back.
        list(node, storage, vmid, deadline)
            .map_or(true, |there| there.iter().any(|volume| volume.volid == one.volume))
    });
    kept
}

/// A volume that was not removed with its VM.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id, such as `nvmeprom:110/vm-110-disk-0.qcow2`.
    pub volume: String,
    why: String,
}

impl Kept {
    /// What to say of it, with the name of the node.
    pub fn warning(&self, node: &NodeName) -> String {
        let Kept { volume, why } = self;
        format!(
            "the volume {volume} was not removed: {why} (on the node '{node}': `pvesm path {volume}` shows where it is, \
             `pvesm free {volume}` removes it)"
        )
    }
}

/// What a line of a removal's log says of a volume that stays (destroy_vm of qemu-server).
fn said_kept(line: &str) -> Option<Kept> {
    let (volume, why) = line.split_once("Could not remove disk '")?.1.split_once('\'')?;
    let why = why.split_once("check manually:").map_or(why, |(_, why)| why).trim();
    let why = if why.is_empty() { "the node does not say why" } else { why };
    Some(Kept { volume: volume.to_owned(), why: why.to_owned() })
}

/// What to say of volumes that were left alone, with the name of the node.
pub fn left_alone(vmid: Vmid, node: &NodeName, volumes: &[String]) -> String {
    format!(
        "left alone, being on a shared storage and not in the configuration of VM {vmid}: {} (if they are its own: \
         `pvesm free VOLUME` on the node '{node}')",
        volumes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

    #[test]
    fn only_what_is_there_still_was_kept() {
        let (path, vmid) = ("/nodes/prom/storage/lvm/content", Vmid::new(110).unwrap());
        let line = "Could not remove disk 'lvm:vm-110-disk-0', check manually: can't lock file - got timeout";
        let log = ["trying to acquire lock...", line, "WARN: x", "TASK OK"].map(str::to_owned);
        let fake =
            || Fake::new().get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]));
        let kept = |fake: &Fake| kept(&node(fake), vmid, &log, Deadline::secs(5));
        let found = kept(&fake().get(path, json!([{"volid": "lvm:vm-110-disk-0"}])));
        assert_eq!(found.len(), 1);
        let warning = found[0].warning(&"prom".parse().unwrap());
        assert_eq!(
            warning,
            "the volume lvm:vm-110-disk-0 was not removed: can't lock file - got timeout (on the node 'prom': \
             `pvesm path lvm:vm-110-disk-0` shows where it is, `pvesm free lvm:vm-110-disk-0` removes it)"
        );
        // Removed at the second try.
        assert_eq!(kept(&fake().get(path, json!([]))), []);
        // Nobody can tell.
        assert_eq!(
            kept(&fake().on("GET", path, 500, json!({"message": "storage 'lvm' is not online\n"}))).len(),
            1
        );
        assert_eq!(said_kept("Could not remove disk 'a:b'").unwrap().why, "the node does not say why");
        assert_eq!(said_kept("purging VM 110 from related configurations.."), None);
    }
}
