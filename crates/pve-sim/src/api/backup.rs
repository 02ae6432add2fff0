//! `POST /nodes/NODE/vzdump`, and what comes back out of a backup. Texts and order are those of pve-manager's
//! VZDump and qemu-server's plugin for it; none of it is among the recordings.

use std::{sync::Arc, time::Duration};

use fleet_core::clock::Utc;
use serde_json::{Value, json};

use super::{Call, Fail, Reply, agent, config, disks, storage};
use crate::{
    conf::{self, VmConf},
    data::{Saved, Volume},
    guest, keys,
    node::{Data, Node, now},
    task::{self, Worker},
};

/// Starts the task; a VMID that is somewhere else is passed over in silence.
pub(super) fn backup(node: &Arc<Node>, call: &Call) -> Reply<Value> {
    call.check(&[crate::schema::VZDUMP])?;
    let p = call.params.clone();
    if !call.who.is_root()
        && let Some(key) = ["tmpdir", "dumpdir", "script"].into_iter().find(|key| p.get(key).is_some())
    {
        return Err(Fail::param(key, "Only root may set this option."));
    }
    if p.get("notes-template").is_some_and(|text| text.contains('\n')) {
        return Err(Fail::param("notes-template", "contains a line feed"));
    }
    if p.get("notes-template").is_some() && p.get("storage").is_none() {
        return Err(Fail::param("storage", "missing property - 'notes-template' requires this property"));
    }
    let Some(vmid) = p.get("vmid").and_then(|v| v.parse::<u32>().ok()) else {
        return Err(Fail::param("vmid", "property is missing"));
    };
    let elsewhere = crate::cluster::is_taken_elsewhere(node, vmid)
        || node.read(|d| d.foreign.iter().any(|f| f.vmid == vmid));
    if elsewhere {
        return Ok(json!("OK"));
    }
    let target = p.get("storage").unwrap_or("local").to_owned();
    call.who.need(&format!("/storage/{target}"), &["Datastore.AllocateSpace"])?;
    let allowed = call.who.need(&format!("/vms/{vmid}"), &["VM.Backup"]).map_err(|fail| fail.text());
    let work = Arc::clone(node);
    Ok(json!(task::spawn(node, &call.who, "vzdump", vmid, move |worker| async move {
        let known = work.read(|d| d.storage(&target).map(|s| s.content.iter().any(|c| c == "backup")));
        let why = match known {
            Some(true) => None,
            Some(false) => Some(format!("can't use storage '{target}' for backups - wrong content type")),
            None => Some(format!("storage '{target}' does not exist")),
        };
        if let Some(why) = why {
            return Err(format!("could not get storage information for '{target}': {why}"));
        }
        let mut line = format!("INFO: starting new backup job: vzdump {vmid}");
        for key in ["mode", "compress", "notes-template", "storage", "remove"] {
            if let Some(value) = p.get(key) {
                let plain = value.bytes().all(|b| b.is_ascii_alphanumeric());
                let value = if plain { value.to_owned() } else { format!("'{value}'") };
                line.push_str(&format!(" --{key} {value}"));
            }
        }
        worker.say(line);
        allowed?;
        worker.say(format!("INFO: Starting Backup of VM {vmid} (qemu)"));
        let began = now();
        let notes = p.get("notes-template").unwrap_or_default();
        let mode = p.get("mode").unwrap_or("snapshot");
        match one(&work, &worker, (vmid, &target), mode, p.get("compress"), notes).await {
            Ok(()) => {
                worker.say(format!("INFO: Finished Backup of VM {vmid} ({})", lasted(now() - began)));
                worker.say(format!("INFO: Backup finished at {}", stamp(now())));
                worker.say("INFO: Backup job finished successfully");
                Ok(())
            }
            Err(why) => {
                unlock(&work, vmid);
                worker.say(format!("ERROR: Backup of VM {vmid} failed - {why}"));
                worker.say(format!("INFO: Failed at {}", stamp(now())));
                if why == INTERRUPTED {
                    worker.say(format!("ERROR: Backup job failed - {why}"));
                    return Err(why);
                }
                worker.say("INFO: Backup job finished with errors");
                Err("job errors".to_owned())
            }
        }
    })))
}

const INTERRUPTED: &str = "interrupted by signal";

fn stamp(seconds: u64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn lasted(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn unlock(node: &Node, vmid: u32) {
    node.change(|d| {
        if let Some(conf) = d.vms.get_mut(&vmid).filter(|conf| conf.lock() == Some("backup")) {
            conf.main.remove("lock");
        }
    });
}

/// The drives that a backup holds, with their sizes.
fn drives(conf: &VmConf) -> Vec<(String, String, u64)> {
    let disk = |(key, value): (&String, &String)| {
        let cdrom = conf::property(value, "media", "") == Some("cdrom");
        let left_out = conf::property(value, "backup", "") == Some("0");
        let size = conf::property(value, "size", "").and_then(conf::parse_size).unwrap_or(0);
        let volume = value.split(',').next().unwrap_or_default().to_owned();
        (conf::is_drive(key) && !cdrom && !left_out).then(|| (key.clone(), volume, size))
    };
    conf.main.iter().filter_map(disk).collect()
}

async fn one(
    node: &Arc<Node>,
    worker: &Worker,
    (vmid, target): (u32, &str),
    mode: &str,
    compress: Option<&str>,
    notes: &str,
) -> Result<(), String> {
    let began = now();
    let say = |line: String| worker.say(format!("INFO: {line}"));
    let conf = node.read(|d| d.vms.get(&vmid).cloned()).ok_or(format!("unable to find VM '{vmid}'"))?;
    say(format!("Backup started at {}", stamp(began)));
    let running = node.read(|d| d.is_running(vmid));
    say(format!("status = {}", if running { "running" } else { "stopped" }));
    let mode = if running { mode } else { "stop" };
    say(format!("backup mode: {mode}"));
    say("ionice priority: 7".to_owned());
    if let Some(name) = conf.get("name") {
        say(format!("VM Name: {name}"));
    }
    let disks = drives(&conf);
    for (slot, volume, size) in &disks {
        say(format!("include disk '{slot}' '{volume}' {}", conf::format_size(*size)));
    }
    let held = node.lock_file(vmid, Some(worker)).await?;
    node.change(|d| {
        let conf = d.vms.get_mut(&vmid).ok_or(format!("unable to find VM '{vmid}'"))?;
        config::refuse_locked(conf, false).map_err(|fail| fail.text())?;
        conf.main.insert("lock".to_owned(), "backup".to_owned());
        Ok::<(), String>(())
    })?;
    drop(held);
    let extension = match compress {
        Some("zstd") => ".zst",
        Some("gzip") => ".gz",
        Some("1" | "lzo") => ".lzo",
        _ => "",
    };
    let named = |seconds: u64| {
        let Utc { year, month, day, hour, minute, second } = Utc::of(seconds);
        format!(
            "vzdump-qemu-{vmid}-{year:04}_{month:02}_{day:02}-{hour:02}_{minute:02}_{second:02}.vma{extension}"
        )
    };
    // Here, two may be made within one second.
    let taken = |file: &String| node.read(|d| d.volumes.contains_key(&format!("{target}:backup/{file}")));
    let file = (began..).map(named).find(|file| !taken(file)).unwrap_or_default();
    let path = node.read(|d| path(d, &format!("{target}:backup/{file}")));
    say(format!("creating vzdump archive '{path}'"));
    match (running, mode) {
        (true, "stop") => {
            say("stopping virtual guest".to_owned());
            guest::power_off(node, vmid);
        }
        (true, "suspend") => say("suspending guest".to_owned()),
        (true, _) if agent::enabled(&conf) && guest::agent_is_up(node, vmid) => {
            say("issuing guest-agent 'fs-freeze' command".to_owned());
            say("issuing guest-agent 'fs-thaw' command".to_owned());
        }
        (true, _) => {}
        (false, _) => say("starting kvm to execute backup task".to_owned()),
    }
    say(format!("started backup task '{}'", keys::uuid()));
    if running && mode == "stop" {
        say("resuming VM again after 1 seconds".to_owned());
        guest::power_on(node, vmid)?;
    }
    let total: u64 = disks.iter().map(|(_, _, size)| size).sum();
    copy(node, worker, total).await?;
    if !running {
        say("stopping kvm after backup task".to_owned());
    }
    let size = total / 8;
    if !node.read(|d| storage::has_room(node, d, target, size)) {
        return Err("vma_queue_write: write error - No space left on device".to_owned());
    }
    say(format!("archive file size: {}MB", size >> 20));
    if !notes.is_empty() {
        say("adding notes to backup".to_owned());
    }
    node.change(|d| {
        let id = format!("{target}:backup/{file}");
        // Neither its snapshots nor what is pending, nor what a restore leaves out (`restore_update_config_line`).
        let mut saved = VmConf { main: conf.main.clone(), ..VmConf::default() };
        saved.main.retain(|key, _| !matches!(key.as_str(), "lock" | "parent") && !key.starts_with("unused"));
        let mut machine = d.guests.get(&vmid).cloned().unwrap_or_default();
        machine.running = None;
        let notes = expand(notes, node, vmid, &conf);
        d.backups.insert(id.clone(), Saved { conf: saved.to_string(), guest: machine, notes });
        let format = format!("vma{extension}");
        let content = "backup".to_owned();
        d.volumes.insert(id, Volume { size, format, content, vmid: Some(vmid), parent: None, ctime: began });
    });
    unlock(node, vmid);
    Ok(())
}

/// Where an archive is.
pub(super) fn path(d: &Data, archive: &str) -> String {
    let (storage, file) = archive.split_once(":backup/").unwrap_or_default();
    format!("{}/dump/{file}", d.storage(storage).map_or("", |s| s.path.as_str()))
}

/// The notes with variables in place and escapes undone.
fn expand(template: &str, node: &Node, vmid: u32, conf: &VmConf) -> String {
    let name = conf.get("name").map_or_else(|| format!("VM {vmid}"), str::to_owned);
    template
        .replace("\\n", "\n")
        .replace("\\\\", "\\")
        .replace("{{guestname}}", &name)
        .replace("{{node}}", node.name())
        .replace("{{vmid}}", &vmid.to_string())
}

/// Reads the disks, with the progress that is printed every few seconds.
async fn copy(node: &Arc<Node>, worker: &Worker, total: u64) -> Result<(), String> {
    const STEPS: u64 = 10;
    let pause = node.latency().full_clone / 10;
    worker.gate().await;
    for step in 1..=STEPS {
        node.works(pause.max(Duration::from_millis(1))).await;
        if worker.is_stopped() {
            return Err(INTERRUPTED.to_owned());
        }
        let (done, all) = (disks::human(total / STEPS * step), disks::human(total));
        worker.say(format!(
            "INFO: {:>3}% ({done} of {all}) in {step}s, read: 1.2 GiB/s, write: 96.0 MiB/s",
            step * 100 / STEPS
        ));
    }
    worker.say(format!("INFO: transferred {:.2} GiB in 1 seconds", total as f64 / f64::from(1 << 30)));
    Ok(())
}

/// Puts what is in a backup into a VM; gives what the task prints. A backup that was not made here has a small VM
/// with one disk in it.
pub(super) fn unpack(
    node: &Node,
    d: &mut Data,
    archive: &str,
    (vmid, unique): (u32, bool),
    storage: Option<&str>,
) -> Result<Vec<String>, String> {
    let (mut conf, machine) = match d.backups.get(archive) {
        Some(saved) => (VmConf::parse(&saved.conf), saved.guest.clone()),
        None => {
            let drive = format!("{}:2/none,size=2G", storage.unwrap_or("local"));
            let pairs = [("boot", "order=scsi0"), ("name", "restored"), ("scsi0", drive.as_str())];
            (VmConf::from_pairs(&pairs), guest::Guest::default())
        }
    };
    conf.main.remove("lock");
    let mut lines = Vec::new();
    for (slot, volume, size) in drives(&conf) {
        let own = volume.split(':').next().unwrap_or_default();
        let target = storage.unwrap_or(own).to_owned();
        if !storage::has_room(node, d, &target, size) {
            d.volumes.retain(|_, v| !v.is_disk_of(vmid));
            return Err(format!("unable to allocate {size} bytes on '{target}': No space left on device"));
        }
        let id = format!("{target}:{vmid}/{}", disks::free_name(d, &target, vmid, "qcow2"));
        disks::add(d, &id, vmid, size, "qcow2", None);
        lines.push(format!("map 'drive-{slot}' to '{}' (write zeros = 0)", disks::path(d, &id)));
        if let Some(value) = conf.main.get_mut(&slot) {
            let options = value.split_once(',').map_or("", |(_, rest)| rest).to_owned();
            *value = format!("{id},{options}");
        }
    }
    if unique {
        for (key, value) in &mut conf.main {
            match value.split_once(',') {
                Some((model, rest)) if key.starts_with("net") => {
                    let model = model.split('=').next().unwrap_or_default();
                    *value = disks::network(&format!("{model},{rest}"));
                }
                _ if key == "smbios1" => *value = format!("uuid={}", keys::uuid()),
                _ => {}
            }
        }
    }
    for step in 1..=10 {
        lines.push(format!("progress {}% (read {} bytes, duration 0 sec)", step * 10, u64::from(1u32) << 30));
    }
    d.vms.insert(vmid, conf);
    d.guests.insert(vmid, machine);
    Ok(lines)
}
