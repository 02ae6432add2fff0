//! Cloning.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Call, Fail, Reply, config, disks, storage};
use crate::{
    cluster,
    conf::{self, VmConf},
    faults::Fault,
    guest::Guest,
    keys,
    ledger::Party,
    node::{Data, Node},
    params::Params,
    schema,
    task::{self, Worker},
};

pub(super) fn clone(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::CLONE])?;
    let p = call.params.clone();
    let missing =
        || Fail::new(format!("unable to find configuration file for VM {vmid} on node '{}'", node.name()));
    let source = node.read(|d| d.vms.get(&vmid).cloned()).ok_or_else(missing)?;
    if let Some(target) = p.get("target").filter(|t| !node.is_cluster_node(t)) {
        return Err(Fail::new(format!("no such cluster node '{target}'")));
    }
    if let Some(pool) = p.get("pool") {
        let mut fail = Fail::new(format!("Permission check failed (pool '{pool}' does not exist)"));
        fail.status = 403;
        return Err(fail);
    }
    if let Some(name) = p.get("storage") {
        node.read(|d| storage::for_images(d, name)).map(drop)?;
    }
    let target = p.get("target").filter(|t| *t != node.name()).map(str::to_owned);
    if let Some(target) = &target {
        refuse_local_storage(node, &source.main, p.get("storage"), target)?;
    }
    let full = p.get("full").map_or(!source.is_template(), |f| f == "1");
    config::refuse_locked(&source, false)?;
    let section = match p.get("snapname") {
        None => source.main,
        Some(name) => source
            .snapshots
            .get(name)
            .cloned()
            .ok_or_else(|| Fail::new(format!("snapshot '{name}' does not exist")))?,
    };
    let newid: u32 = p.get("newid").and_then(|v| v.parse().ok()).unwrap_or(0);
    let exists = || Fail::new(format!("unable to create VM {newid}: config file already exists"));
    if node.read(|d| d.vms.contains_key(&newid)) || cluster::is_taken_elsewhere(node, newid) {
        return Err(exists());
    }
    if !full {
        for key in ["storage", "format"] {
            if p.0.contains_key(key) {
                return Err(Fail::new(format!("parameter '{key}' not allowed for linked clones")));
            }
        }
        for (slot, drive) in section.iter().filter(|(k, v)| conf::is_drive(k) && is_disk(v)) {
            let volume = drive.split(',').next().unwrap_or_default();
            let base = volume.rsplit('/').next().is_some_and(|f| f.starts_with("base-"));
            if !base {
                return Err(Fail::new(format!(
                    "Linked clone feature is not supported for '{volume}' ({slot})"
                )));
            }
        }
    }
    // The configuration file is what reserves the number; a container's is found out only when it is renamed.
    let reserved = node.change(|d| {
        if d.vms.contains_key(&newid) {
            return false;
        }
        if !d.is_taken(newid) {
            let mut conf = VmConf::default();
            conf.main.insert("description".to_owned(), " qmclone temporary file".to_owned());
            conf.main.insert("lock".to_owned(), "clone".to_owned());
            d.vms.insert(newid, conf);
        }
        true
    });
    if !reserved {
        return Err(exists());
    }
    let work = Arc::clone(node);
    Ok(json!(task::spawn(node, &call.who, "qmclone", vmid, move |worker| async move {
        let outcome = run(&work, &worker, &p, vmid, newid, full, section).await;
        let peer = work.peers.all().into_iter().find(|peer| Some(peer.name()) == target.as_deref());
        if let (Ok(()), Some(peer)) = (&outcome, peer) {
            cluster::migrate(&work, &peer, newid);
        }
        if outcome.as_ref().is_err_and(|exit| exit != task::KILLED) {
            work.change(|d| {
                if d.vms.get(&newid).is_some_and(|c| c.lock() == Some("clone")) {
                    d.vms.remove(&newid);
                    d.volumes.retain(|_, v| !v.is_disk_of(newid));
                }
            });
        }
        outcome
    })))
}

/// A clone goes to another node only where both see its disks.
fn refuse_local_storage(
    node: &Node,
    source: &conf::Section,
    storage: Option<&str>,
    target: &str,
) -> Reply<()> {
    let shared = |name: &str| node.read(|d| d.storage(name).is_some_and(|s| s.shared));
    if let Some(name) = storage.filter(|name| !shared(name)) {
        return Err(Fail::new(format!("can't clone to non-shared storage '{name}'")));
    }
    let local = source.iter().filter(|(slot, _)| conf::is_drive(slot)).any(|(_, drive)| {
        drive.split(',').next().and_then(|v| v.split_once(':')).is_some_and(|(name, _)| !shared(name))
    });
    if local {
        return Err(Fail::new(format!("can't clone VM to node '{target}' (VM uses local storage)")));
    }
    Ok(())
}

fn is_disk(drive: &str) -> bool {
    conf::property(drive, "media", "") != Some("cdrom")
}

async fn run(
    node: &Arc<Node>,
    worker: &Worker,
    p: &Params,
    vmid: u32,
    newid: u32,
    full: bool,
    source: conf::Section,
) -> Result<(), String> {
    worker.say(format!("creating a clone of VM {vmid} with ID {newid}"));
    if !node.read(|d| d.vms.contains_key(&newid)) {
        return Err(format!(
            "close (rename) atomic file '/etc/pve/nodes/{}/qemu-server/{newid}.conf' failed: File exists",
            node.name()
        ));
    }
    let mut new = source;
    for gone in ["template", "lock", "parent", "snaptime", "vmstate", "runningmachine", "runningcpu"] {
        new.remove(gone);
    }
    new.retain(|key, _| !key.starts_with("unused"));
    let old_name = new.get("name").cloned().unwrap_or_else(|| format!("VM{vmid}"));
    let name = p.get("name").map_or_else(|| format!("Copy-of-VM-{old_name}"), str::to_owned);
    new.insert("name".to_owned(), name);
    if let Some(text) = p.get("description") {
        new.insert("description".to_owned(), text.trim_end_matches('\n').to_owned());
    }
    if new.get("description").is_some_and(String::is_empty) {
        new.remove("description");
    }
    if new.contains_key("smbios1") {
        new.insert("smbios1".to_owned(), format!("uuid={}", keys::uuid()));
    }
    new.insert("vmgenid".to_owned(), keys::uuid());
    let cards: Vec<String> = new
        .keys()
        .filter(|k| k.strip_prefix("net").is_some_and(|n| n.parse::<u32>().is_ok()))
        .cloned()
        .collect();
    for card in cards {
        if let Some(value) = new.get_mut(&card) {
            let kept: Vec<&str> = value.split(',').filter(|part| conf::mac_of(part).is_none()).collect();
            let model = conf::mac_of(value).map_or("virtio", |_| value.split('=').next().unwrap_or("virtio"));
            *value = disks::network(&std::iter::once(model).chain(kept).collect::<Vec<_>>().join(","));
        }
    }
    let drives: Vec<(String, String)> = new
        .iter()
        .filter(|(k, v)| conf::is_drive(k) && v.contains(':'))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    new.retain(|slot, _| drives.iter().all(|(cloned, _)| cloned != slot));
    copied(node, worker, 0).await?;
    for ((slot, drive), count) in drives.into_iter().zip(1..) {
        let cloned = drive_copy(node, worker, p, newid, full, &slot, &drive).await?;
        new.insert(slot, cloned);
        // With each drive the whole configuration is written, still locked.
        let mut main = new.clone();
        main.insert("lock".to_owned(), "clone".to_owned());
        node.change(|d| d.vms.insert(newid, VmConf { main, ..VmConf::default() }));
        copied(node, worker, count).await?;
    }
    node.change(|d| {
        d.vms.insert(newid, VmConf { main: new, ..VmConf::default() });
        let guest = d.guests.get(&vmid).map_or_else(Guest::default, Guest::copy_of);
        d.guests.insert(newid, guest);
    });
    Ok(())
}

/// What may happen to a clone that has copied so many drives.
async fn copied(node: &Arc<Node>, worker: &Worker, count: u32) -> Result<(), String> {
    let killed = node.fault(|f| match f {
        Fault::CloneKilled { drives } if *drives == count => Some(((), true)),
        _ => None,
    });
    if killed.is_some() || (count == 1 && worker.dies()) {
        return Err(task::KILLED.to_owned());
    }
    let held = || {
        node.fault(|f| match f {
            Fault::CloneHeld { drives } if *drives == count => Some(((), false)),
            _ => None,
        })
    };
    while held().is_some() && !worker.is_stopped() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn drive_copy(
    node: &Arc<Node>,
    worker: &Worker,
    p: &Params,
    newid: u32,
    full: bool,
    slot: &str,
    drive: &str,
) -> Result<String, String> {
    let volume = drive.split(',').next().unwrap_or_default().to_owned();
    let (name, rest) = volume.split_once(':').ok_or_else(|| format!("unable to parse volume '{volume}'"))?;
    let size = node.read(|d| d.volumes.get(&volume).map(|v| v.size)).unwrap_or(0);
    let cloudinit = volume.contains("-cloudinit");
    let base = rest.rsplit('/').next().is_some_and(|f| f.starts_with("base-"));
    let options: Vec<String> = drive.split(',').skip(1).map(str::to_owned).collect();
    if !full && base && !cloudinit {
        worker.say(format!("create linked clone of drive {slot} ({volume})"));
        let _at_work = node.ledger.begin(Party::Node, format!("allocates on {name}"));
        worker.gate().await;
        if worker.is_stopped() {
            return Err("clone failed: received interrupt".to_owned());
        }
        let (id, lines) = node.read(|d| {
            let file = disks::free_name(d, name, newid, "qcow2");
            let id = format!("{name}:{rest}/{newid}/{file}");
            let lines = linked_lines(d, &id, rest, &file, newid, size);
            (id, lines)
        });
        for line in lines {
            worker.say(line);
        }
        node.change(|d| disks::add(d, &id, newid, size, "qcow2", Some(format!("../{rest}"))));
        node.works(node.latency().linked_clone).await;
        return Ok(std::iter::once(id).chain(options).collect::<Vec<_>>().join(","));
    }
    worker.say(format!("create full clone of drive {slot} ({volume})"));
    let target = p.get("storage").unwrap_or(name).to_owned();
    // A copy has the format of what it is of.
    let own = volume.rsplit_once('.').map_or("raw", |(_, suffix)| suffix);
    let format = if cloudinit { "qcow2" } else { p.get("format").unwrap_or(own) }.to_owned();
    let at_work = node.ledger.begin(Party::Node, format!("allocates on {target}"));
    let id = node.change(|d| {
        if !storage::has_room(node, d, &target, size) {
            return Err(format!("clone failed: copy failed: unable to allocate {size} bytes on '{target}': No space left on device"));
        }
        let file = if cloudinit {
            format!("vm-{newid}-cloudinit.qcow2")
        } else {
            disks::free_name(d, &target, newid, &format)
        };
        let id = format!("{target}:{newid}/{file}");
        disks::add(d, &id, newid, size, &format, None);
        Ok(id)
    })?;
    drop(at_work);
    worker.say(node.read(|d| disks::formatting(d, &id, &format, size)));
    worker.say(format!("allocated target volume '{id}'"));
    if cloudinit {
        let mut options: Vec<String> = options.into_iter().filter(|o| !o.starts_with("size=")).collect();
        options.push("size=4M".to_owned());
        return Ok(std::iter::once(id).chain(options).collect::<Vec<_>>().join(","));
    }
    let limit = p.get("bwlimit").map_or_else(String::new, |kib| format!(" -r {kib}K"));
    let (from, to) = node.read(|d| (disks::path(d, &volume), disks::path(d, &id)));
    let command = format!("/usr/bin/qemu-img convert -p -n{limit} -f qcow2 -O {format} {from} zeroinit:{to}");
    copy(node, worker, size, &command).await?;
    Ok(std::iter::once(id).chain(options).collect::<Vec<_>>().join(","))
}

fn linked_lines(d: &Data, id: &str, rest: &str, file: &str, newid: u32, size: u64) -> Vec<String> {
    vec![
        format!("clone {rest}: images, {file}, {newid} to {file} (base=../{rest})"),
        format!(
            "Formatting '{}', fmt=qcow2 cluster_size=131072 extended_l2=on preallocation=metadata \
             compression_type=zlib size={size} backing_file=../{rest} backing_fmt=qcow2 lazy_refcounts=off \
             refcount_bits=16",
            disks::path(d, id)
        ),
    ]
}

/// Copies a disk with the progress that qemu-img prints, about ninety lines.
async fn copy(node: &Arc<Node>, worker: &Worker, size: u64, command: &str) -> Result<(), String> {
    const STEPS: u32 = 86;
    let total = disks::human(size);
    let pause = node.latency().full_clone.mul_f64(size as f64 / f64::from(1 << 30)) / STEPS;
    let mut owed = Duration::ZERO;
    worker.gate().await;
    for step in 0..=STEPS {
        let done = size / u64::from(STEPS) * u64::from(step);
        let done = if step == STEPS { size } else { done };
        let percent = f64::from(step) * 100.0 / f64::from(STEPS);
        worker.say(format!("transferred {} of {total} ({percent:.2}%)", disks::human(done)));
        owed += pause;
        if owed > Duration::from_millis(5) {
            node.works(std::mem::take(&mut owed)).await;
        }
        if worker.is_stopped() {
            return Err(format!(
                "clone failed: copy failed: command '{command}' failed: interrupted by signal"
            ));
        }
    }
    Ok(())
}
