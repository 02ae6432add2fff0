//! Growing a disk.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Reply, config, disks::path, no_vm, storage};
use crate::{
    conf,
    node::{Data, Node},
    schema, task,
};

pub(super) fn resize(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::RESIZE])?;
    let p = call.params.clone();
    let work = Arc::clone(node);
    Ok(json!(task::spawn(node, &call.who, "resize", vmid, move |worker| async move {
        work.works(work.latency().task).await;
        let _held = work.lock_file(vmid, Some(&worker)).await?;
        let disk = p.get("disk").unwrap_or_default().to_owned();
        let size = p.get("size").unwrap_or_default().to_owned();
        let base = work.read(|d| {
            let conf = d.vms.get(&vmid)?;
            let volume = conf.get(&disk)?.split(',').next()?.to_owned();
            conf.is_template().then(|| path(d, &volume))
        });
        if let Some(path) = base {
            worker.say(format!(
                "qemu-img: Could not open '{path}': Could not open '{path}': Operation not permitted"
            ));
        }
        let grown = work.change(|data| {
            let conf = data.vms.get(&vmid).ok_or_else(|| no_vm(&work, vmid))?;
            if p.get("digest").is_some_and(|d| !d.is_empty() && d != conf.digest()) {
                return Err("checksum mismatch (file change by other user?)".to_owned());
            }
            config::refuse_locked(conf, p.flag("skiplock")).map_err(|f| f.text())?;
            grow(&work, data, vmid, &disk, &size)
        })?;
        // On a running VM it is QEMU that grows the image, without a word.
        if grown && !work.read(|d| d.is_running(vmid)) {
            worker.say("Image resized.");
        }
        Ok(())
    })))
}

fn grow(node: &Node, data: &mut Data, vmid: u32, disk: &str, size: &str) -> Result<bool, String> {
    let conf = data.vms.get(&vmid).ok_or_else(|| no_vm(node, vmid))?;
    let drive = conf.get(disk).ok_or_else(|| format!("disk '{disk}' does not exist"))?.to_owned();
    if conf::property(&drive, "media", "") == Some("cdrom") {
        return Err("you can't resize a cdrom".to_owned());
    }
    let volume = drive.split(',').next().unwrap_or_default().to_owned();
    let old = data
        .volumes
        .get(&volume)
        .map(|v| v.size)
        .ok_or_else(|| format!("volume '{volume}' does not exist"))?;
    let relative = size.starts_with('+');
    let given = conf::parse_size(size.trim_start_matches('+')).unwrap_or(0);
    let new = if relative { old.saturating_add(given) } else { given };
    if new < old {
        return Err("shrinking disks is not supported".to_owned());
    }
    if new == old {
        return Ok(false);
    }
    let name = volume.split(':').next().unwrap_or_default();
    if conf.is_template() || !storage::has_room(node, data, name, new - old) {
        let why = if conf.is_template() { "exit code 1" } else { "got timeout" };
        let path = path(data, &volume);
        return Err(format!(
            "command '/usr/bin/qemu-img resize '--preallocation=metadata' -f qcow2 {path} {new}' failed: {why}"
        ));
    }
    if let Some(v) = data.volumes.get_mut(&volume) {
        v.size = new;
    }
    let stored: Vec<String> = drive
        .split(',')
        .map(|part| {
            if part.starts_with("size=") {
                format!("size={}", conf::format_size(new))
            } else {
                part.to_owned()
            }
        })
        .collect();
    if let Some(conf) = data.vms.get_mut(&vmid) {
        conf.main.insert(disk.to_owned(), stored.join(","));
    }
    Ok(true)
}
