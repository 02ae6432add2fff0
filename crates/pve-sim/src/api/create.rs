//! `POST /nodes/NODE/qemu`: a new VM.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Fail, Reply, backup, disks, storage};
use crate::{
    conf::{self, VmConf},
    guest::{self, Guest},
    keys,
    node::{Node, now},
    params::Param,
    schema, task,
};

pub(super) fn create(node: &Arc<Node>, call: &Call) -> Reply<Value> {
    call.check(&[schema::CONFIG, schema::CREATE])?;
    let vmid: u32 = call.params.get("vmid").and_then(|v| v.parse().ok()).unwrap_or(0);
    let taken_elsewhere = crate::cluster::is_taken_elsewhere(node, vmid);
    let restores = call.params.get("archive").is_some();
    node.change(|d| {
        for (key, value) in &call.params.0 {
            let Param::One(value) = value else { continue };
            let file = conf::property(value, "file", "file").unwrap_or_default();
            if let (true, Some((name, volume))) = (conf::is_drive(key), file.split_once(':')) {
                if volume == "cloudinit" {
                    d.storage(name).ok_or_else(|| Fail::new(format!("storage '{name}' does not exist")))?;
                } else {
                    storage::for_images(d, name)?;
                }
            }
        }
        if taken_elsewhere || d.is_taken(vmid) {
            return Err(Fail::new(format!(
                "unable to create VM {vmid} - VM {vmid} already exists on node '{}'",
                node.name()
            )));
        }
        if !restores {
            // What reserves the number; the task fills it.
            let mut conf = VmConf::default();
            conf.main.insert("lock".to_owned(), "create".to_owned());
            d.vms.insert(vmid, conf);
        }
        Ok(())
    })?;
    if let Some(archive) = call.params.get("archive") {
        return restore(node, call, vmid, archive);
    }
    let work = Arc::clone(node);
    let p = call.params.clone();
    Ok(json!(task::spawn(node, &call.who, "qmcreate", vmid, move |worker| async move {
        work.works(work.latency().task).await;
        let mut lines = Vec::new();
        work.change(|d| {
            let mut conf = VmConf::default();
            for (key, value) in [
                ("meta", format!("creation-qemu=10.2.2,ctime={}", now())),
                ("smbios1", format!("uuid={}", keys::uuid())),
                ("vmgenid", keys::uuid()),
            ] {
                conf.main.insert(key.to_owned(), value);
            }
            d.vms.insert(vmid, conf);
            let mut imported = None;
            for (key, value) in &p.0 {
                let Param::One(value) = value else { continue };
                if matches!(key.as_str(), "vmid" | "storage" | "start" | "force") {
                    continue;
                }
                imported = conf::property(value, "import-from", "").map(str::to_owned).or(imported);
                let made = disks::normalise(&work, d, vmid, key, value, &mut |line| lines.push(line));
                match made {
                    Ok(value) => {
                        if let Some(conf) = d.vms.get_mut(&vmid) {
                            conf.main.insert(key.clone(), value);
                        }
                    }
                    Err(fail) => {
                        d.vms.remove(&vmid);
                        d.volumes.retain(|_, v| !v.is_disk_of(vmid));
                        return Err(fail.text());
                    }
                }
            }
            if let Some(conf) = d.vms.get_mut(&vmid) {
                default_boot(conf);
            }
            d.guests
                .insert(vmid, imported.map_or_else(Guest::default, |image| Guest::of_image(&work, &image)));
            Ok(())
        })?;
        for line in lines {
            worker.say(line);
        }
        if !p.flag("start") {
            return Ok(());
        }
        worker.say("Execute autostart");
        guest::power_on(&work, vmid)
    })))
}

/// A VM out of a backup.
fn restore(node: &Arc<Node>, call: &Call, vmid: u32, archive: &str) -> Reply<Value> {
    if !node.read(|d| d.volumes.contains_key(archive)) {
        return Err(Fail::new(format!("volume '{archive}' does not exist")));
    }
    let storage = call.params.get("storage").map(str::to_owned);
    if let Some(storage) = &storage {
        node.read(|d| storage::for_images(d, storage).map(drop))?;
    }
    let archive = archive.to_owned();
    let unique = call.params.flag("unique");
    let path = node.read(|d| backup::path(d, &archive));
    node.change(|d| d.vms.insert(vmid, VmConf::from_pairs(&[("lock", "create")])));
    let work = Arc::clone(node);
    Ok(json!(task::spawn(node, &call.who, "qmrestore", vmid, move |worker| async move {
        worker.say(format!(
            "restore vma archive: zstd -q -d -c {path} | vma extract -v -r /var/tmp/vzdumptmp7.fifo - /var/tmp/vzdumptmp7"
        ));
        worker.gate().await;
        work.works(work.latency().full_clone * 2).await;
        let lines =
            work.change(|d| backup::unpack(&work, d, &archive, (vmid, unique), storage.as_deref()))?;
        for line in lines {
            worker.say(line);
        }
        Ok(())
    })))
}

/// The boot order of a VM that is made without one: its first disk, first CD, first network card.
fn default_boot(conf: &mut VmConf) {
    if conf.main.contains_key("boot") {
        return;
    }
    let drive = |cdrom: bool| {
        let fits = |v: &String| (conf::property(v, "media", "") == Some("cdrom")) == cdrom;
        let buses = ["ide", "scsi", "virtio", "sata"];
        buses.iter().find_map(|bus| {
            conf.main.iter().find(|(k, v)| k.starts_with(bus) && conf::is_drive(k) && fits(v))
        })
    };
    let net = conf.main.iter().find(|(k, _)| k.strip_prefix("net").is_some_and(|n| n.parse::<u32>().is_ok()));
    let order: Vec<String> =
        [drive(false), drive(true), net].into_iter().flatten().map(|(k, _)| k.clone()).collect();
    if !order.is_empty() {
        conf.main.insert("boot".to_owned(), format!("order={}", order.join(";")));
    }
}
