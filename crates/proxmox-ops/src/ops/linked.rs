//! Whether linked clones share a template's disks.
//!
//! Which plug-in tells of it, and how (pve-storage): those that keep files, ZFS and RBD name a linked clone after its base
//! (`9002/base-9002-disk-0.qcow2/150/vm-150-disk-0.qcow2`, `base-9002-disk-0/vm-150-disk-0`), which also is how the node
//! itself refuses to remove a base that is in use. LVM-thin names it like any other disk, and the node looks at nothing
//! else: only LVM knows of which volume another one is a snapshot, until that volume is removed.

use std::collections::BTreeSet;

use fleet_core::{Error, Result, deadline::Deadline, protocol::VmConfig};
use serde::Deserialize;

use super::{host, sweep};
use crate::{api::encode::percent, node::Node};

/// Kinds of storage on which a linked clone's name begins with its base's.
const NAMED_AFTER: &[&str] = &["dir", "nfs", "cifs", "cephfs", "glusterfs", "btrfs", "zfspool", "zfs", "rbd"];

/// What tells of all volumes of LVM of which other they are a snapshot (lvs(8), lvmreport(7)).
const ORIGINS: &str = "/sbin/lvs --reportformat json -o lv_name,origin";

#[derive(Deserialize)]
struct Listed {
    volid: String,
}

#[derive(Deserialize)]
struct Report {
    report: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    lv: Vec<Volume>,
}

#[derive(Deserialize)]
struct Volume {
    lv_name: String,
    origin: String,
}

/// The volumes of linked clones that share disks of this template, on the node that has it. That it can not be told is an
/// error that says why.
pub fn clones(node: &Node, config: &VmConfig, deadline: Deadline) -> Result<Vec<String>> {
    let storages = host::storages(node, deadline)?;
    let mut found = BTreeSet::new();
    for volume in disks(config) {
        let (storage, name) = volume.split_once(':').unwrap_or_default();
        let there = storages.iter().find(|s| s.storage.as_str() == storage);
        match there.map(|s| s.kind.as_str()) {
            Some("lvmthin") => {
                let clones = snapshots_of(&origins(node, deadline)?, name)?;
                found.extend(clones.into_iter().map(|clone| format!("{storage}:{clone}")));
            }
            Some(kind) if NAMED_AFTER.contains(&kind) => {
                let base = format!("{volume}/");
                let on_it = listed(node, storage, deadline)?.into_iter().map(|listed| listed.volid);
                found.extend(on_it.filter(|volid| volid.starts_with(&base)));
            }
            Some(kind) => {
                return Err(Error::failed(format!(
                    "a storage of the kind '{kind}' ('{storage}', with {volume}) does not tell of linked clones"
                )));
            }
            None => return Err(Error::failed(format!("the node has no storage '{storage}' (for {volume})"))),
        }
    }
    Ok(found.into_iter().collect())
}

/// The volumes of a configuration's disks, those that are not in use as well.
fn disks(config: &VmConfig) -> BTreeSet<&str> {
    const SLOTS: &[&str] = &["ide", "sata", "scsi", "virtio", "efidisk", "tpmstate", "unused"];
    let is_slot = |key: &str| {
        let slot = key.trim_end_matches(|c: char| c.is_ascii_digit());
        slot != key && SLOTS.contains(&slot)
    };
    let disks = config.settings.iter().filter(|(key, _)| is_slot(key));
    let disks = disks.map(|(_, value)| value.split(',').map(str::trim).collect::<Vec<_>>());
    let disks = disks.filter(|parts| !parts.contains(&"media=cdrom"));
    let volumes = disks.filter_map(|parts| parts.first().copied());
    volumes.filter(|volume| volume.contains(':') && !volume.starts_with('/')).collect()
}

fn listed(node: &Node, storage: &str, deadline: Deadline) -> Result<Vec<Listed>> {
    let here = node.name(deadline)?;
    let path = format!("/nodes/{}/storage/{}/content", percent(here.as_str()), percent(storage));
    node.api.get_as(&format!("list the disks on '{storage}'"), &path, &[("content", "images")], deadline)
}

/// All of the node's volumes of LVM. Only root is told.
fn origins(node: &Node, deadline: Deadline) -> Result<Vec<Volume>> {
    let what = "ask LVM for linked clones";
    let told = sweep::told(node, what, ORIGINS, deadline)?;
    let report: Report = serde_json::from_slice(&told).map_err(|e| {
        Error::failed(format!("can not {what}: `{ORIGINS}` printed something else")).caused_by(e)
    })?;
    Ok(report.report.into_iter().flat_map(|part| part.lv).collect())
}

/// The volumes that are snapshots of one of this name, in whatever group that is.
fn snapshots_of(volumes: &[Volume], name: &str) -> Result<Vec<String>> {
    if volumes.iter().all(|volume| volume.lv_name != name) {
        return Err(Error::failed(format!("LVM has no volume '{name}' on the node")));
    }
    let clones = volumes.iter().filter(|volume| volume.origin == name);
    Ok(clones.map(|volume| volume.lv_name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use fleet_core::types::Vmid;
    use serde_json::{Value, json};

    fn config(disks: &[(&str, &str)]) -> VmConfig {
        VmConfig {
            vmid: Vmid::new(9005).unwrap(),
            node: "prom".parse().unwrap(),
            settings: disks.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            digest: String::new(),
            marker: None,
            mac: None,
        }
    }

    /// A node with one storage of this kind, and what is on it.
    fn fake(kind: &str, volumes: &[&str]) -> Fake {
        let listed: Vec<Value> = volumes.iter().map(|volid| json!({ "volid": volid })).collect();
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(
                "/nodes/prom/storage",
                json!([{"storage": "st", "type": kind, "content": "images", "active": 1}]),
            )
            .get("/nodes/prom/storage/st/content", json!(listed))
    }

    fn of(fake: &Fake, disks: &[(&str, &str)]) -> Result<Vec<String>> {
        clones(&node(fake), &config(disks), Deadline::secs(5))
    }

    #[test]
    fn a_linked_clone_is_named_after_its_base() {
        let file = "st:9005/base-9005-disk-1.qcow2";
        let disks = [("scsi0", "st:9005/base-9005-disk-1.qcow2,size=3G"), ("ide2", "none,media=cdrom")];
        let clone = "st:9005/base-9005-disk-1.qcow2/150/vm-150-disk-0.qcow2";
        let other = "st:9005/base-9005-disk-10.qcow2/151/vm-151-disk-0.qcow2";
        for kind in ["dir", "nfs", "btrfs"] {
            assert_eq!(of(&fake(kind, &[file, other]), &disks).unwrap(), [] as [&str; 0]);
            assert_eq!(of(&fake(kind, &[file, clone]), &disks).unwrap(), [clone]);
        }
        // The second of its disks, and one that is not in use.
        let disks = [("efidisk0", "st:base-9005-disk-0,size=4M"), ("unused0", "st:base-9005-disk-2")];
        for kind in ["zfspool", "rbd"] {
            let clone = "st:base-9005-disk-2/vm-150-disk-0";
            assert_eq!(of(&fake(kind, &["st:base-9005-disk-0", clone]), &disks).unwrap(), [clone]);
        }
    }

    #[test]
    fn of_lvm_thin_only_lvm_knows() {
        let disks = [("scsi0", "st:base-9005-disk-0,size=3G")];
        let lvs = |volumes: Value| json!({"report": [{"lv": volumes}], "log": []}).to_string();
        let base = json!({"lv_name": "base-9005-disk-0", "origin": ""});
        let on = |origin: &str| json!({"lv_name": "vm-150-disk-0", "origin": origin});
        // Its name says nothing of it.
        let fake = || fake("lvmthin", &["st:base-9005-disk-0", "st:vm-150-disk-0"]);
        let told = |answer: String, code: i32| of(&fake().exec(ORIGINS, &answer, code), &disks);
        assert_eq!(told(lvs(json!([base, on("")])), 0).unwrap(), [] as [&str; 0]);
        assert_eq!(told(lvs(json!([base, on("base-9005-disk-0")])), 0).unwrap(), ["st:vm-150-disk-0"]);
        for (answer, code, why) in [
            (lvs(json!([on("")])), 0, "LVM has no volume 'base-9005-disk-0'"),
            ("no JSON".to_owned(), 0, "printed something else"),
            (String::new(), 5, "can not ask LVM for linked clones: `/sbin/lvs` on the node: it ended with 5"),
        ] {
            let error = told(answer, code).unwrap_err();
            assert!(error.message().contains(why), "{error:?}");
        }
    }

    #[test]
    fn a_storage_that_tells_nothing_of_it_is_an_error() {
        let disks = [("scsi0", "st:base-9005-disk-0")];
        for kind in ["lvm", "iscsidirect", "of-a-plug-in"] {
            let error = of(&fake(kind, &["st:base-9005-disk-0"]), &disks).unwrap_err();
            assert!(error.message().contains(kind), "{error:?}");
        }
        let error = of(&fake("dir", &[]), &[("scsi0", "gone:base-9005-disk-0")]).unwrap_err();
        assert!(error.message().contains("no storage 'gone'"), "{error:?}");
    }
}
