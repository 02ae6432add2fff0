//! Changing a VM's settings: what is set at once, what is pending, and what a change does beside.

use super::{
    Fail, Reply,
    config::{CLOUD_INIT, Change, cloudinit_drive, names},
    disks,
};
use crate::{
    conf::{self, VmConf},
    faults::Fault,
    keys,
    node::Node,
};

/// What is wrong with the cloud-init settings when its drive is written.
fn generate(node: &Node, data: &crate::node::Data, vmid: u32) -> Reply<()> {
    let Some(conf) = data.vms.get(&vmid) else { return Ok(()) };
    let custom = conf.get("cicustom").unwrap_or_default();
    for volume in custom.split(',').filter_map(|part| part.split_once('=')).map(|(_, v)| v) {
        if !node.has_volume(data, volume) {
            return Err(Fail::new(format!("volume '{volume}' does not exist")));
        }
    }
    for (key, value) in conf.main.iter().filter(|(key, _)| key.starts_with("ipconfig")) {
        let card = format!("net{}", &key["ipconfig".len()..]);
        for ip in ["ip", "ip6"] {
            if conf::property(value, ip, "") == Some("manual") && conf.main.contains_key(&card) {
                return Err(Fail::new("not a CIDR: manual"));
            }
        }
    }
    Ok(())
}

/// A network card that a running machine's cloud-init drive did not know is gone again.
pub(super) fn forget_added(conf: &mut VmConf, key: &str) {
    if let Some(added) = conf.cloudinit.get("added").cloned() {
        let left: Vec<&str> = added.split(',').filter(|k| *k != key).collect();
        if left.is_empty() {
            conf.cloudinit.remove("added");
        } else {
            conf.cloudinit.insert("added".to_owned(), left.join(","));
        }
    }
}

/// Settings that a running VM takes only at its next start.
fn needs_restart(key: &str) -> bool {
    const COLD: &[&str] = &[
        "cores", "sockets", "memory", "cpu", "bios", "machine", "vga", "scsihw", "numa", "balloon", "kvm",
        "args", "agent", "arch", "smbios1", "vmgenid", "ostype",
    ];
    COLD.contains(&key) || key.starts_with("serial") || key.starts_with("hostpci") || key == "efidisk0"
}

pub(super) fn apply(node: &Node, vmid: u32, change: &Change, say: &mut dyn FnMut(String)) -> Reply<()> {
    node.change(|data| {
        let running = data.is_running(vmid);
        if let Some(conf) = data.vms.get_mut(&vmid) {
            for key in &change.revert {
                let volume = conf.pending.remove(key).filter(|_| conf::is_drive(key));
                if let Some(volume) = volume.as_deref().and_then(|v| v.split(',').next()) {
                    unused(conf, volume);
                }
            }
            if !running {
                conf.apply_pending();
            }
        }
        let before = data.vms.get(&vmid).map(|conf| conf.main.clone());
        let mut done = Vec::new();
        let mut delete: Vec<&String> = change.delete.iter().collect();
        delete.sort();
        for key in delete {
            disks::delete_setting(data, vmid, key, running && needs_restart(key), change.force)?;
        }
        // In alphabetical order; what comes after a failure stays pending.
        let mut rest: std::collections::VecDeque<_> = change.set.iter().collect();
        rest.make_contiguous().sort();
        while let Some((key, value)) = rest.pop_front() {
            let cloudinit =
                conf::is_drive(key) && value.split(',').next().is_some_and(|v| v.ends_with(":cloudinit"));
            if storage_locked(node, value) {
                let Some((storage, _)) = value.split_once(':') else { continue };
                // Each setting is written down as pending when its volume is there, before any is applied.
                if let (Some(conf), Some(before)) = (data.vms.get_mut(&vmid), before) {
                    conf.main = before;
                    conf.pending.extend(done);
                }
                return Err(Fail::new(format!(
                    "can't lock file '/var/lock/pve-manager/pve-storage-{storage}' - got timeout"
                )));
            }
            let made = disks::normalise(node, data, vmid, key, value, say);
            done.extend(made.as_ref().ok().map(|value| (key.clone(), value.clone())));
            let failed = match (made, data.vms.get_mut(&vmid)) {
                (Ok(value), Some(conf)) if running && boots_from(conf, key) => {
                    conf.pending.insert(key.clone(), value);
                    let fault = format!("hotplug problem - can't unplug bootdisk '{key}'\n");
                    return Err(Fail::param(key, fault));
                }
                (Ok(value), Some(conf)) => {
                    set(conf, key, value, running);
                    None
                }
                (Ok(_), None) => None,
                (Err(fail), Some(conf)) => {
                    // What was to be set with it is forgotten.
                    conf.main = before.clone().unwrap_or_default();
                    Some(fail)
                }
                (Err(fail), None) => Some(fail),
            };
            if cloudinit && failed.is_none() {
                generate(node, data, vmid)?;
                say("generating cloud-init ISO".to_owned());
            }
            if let Some(fail) = failed {
                if let Some(conf) = data.vms.get_mut(&vmid) {
                    conf.pending.extend(rest.into_iter().cloned());
                }
                return Err(fail);
            }
        }
        Ok(())
    })
}

/// Whether somebody holds the lock of the storage that a new volume is to be on.
fn storage_locked(node: &Node, value: &str) -> bool {
    let Some((storage, volume)) = value.split(',').next().and_then(|file| file.split_once(':')) else {
        return false;
    };
    let new = volume == "cloudinit" || volume.parse::<f64>().is_ok();
    let passed = |fault: &mut Fault| match fault {
        Fault::StorageLocked { storage: s, after } if new && s == storage => {
            let strikes = *after == 0;
            *after = after.saturating_sub(1);
            Some((strikes, strikes))
        }
        _ => None,
    };
    node.fault(passed).unwrap_or(false)
}

/// A volume that nothing uses any more keeps a name.
fn unused(conf: &mut VmConf, volume: &str) {
    let n = (0..256).find(|n| !conf.main.contains_key(&format!("unused{n}"))).unwrap_or(0);
    conf.main.insert(format!("unused{n}"), volume.to_owned());
}

/// Whether a running machine holds on to the drive in this slot.
fn boots_from(conf: &VmConf, key: &str) -> bool {
    let order = conf.get("boot").and_then(|b| conf::property(b, "order", "legacy")).unwrap_or_default();
    let disk = conf.get(key).is_some_and(|d| conf::property(d, "media", "") != Some("cdrom"));
    conf::is_drive(key) && disk && order.split(';').next() == Some(key)
}

/// What replacing a drive does beside: the old volume stays as unused, a CD drive that was for cloud-init and no
/// longer is can be booted from.
fn replace_drive(conf: &mut VmConf, key: &str, value: &str) {
    let old = conf.get(key).unwrap_or_default().to_owned();
    let volume = old.split(',').next().unwrap_or_default();
    let cdrom = |drive: &str| conf::property(drive, "media", "") == Some("cdrom");
    if volume.contains(':') && !cdrom(&old) && value.split(',').next() != Some(volume) {
        unused(conf, volume);
    }
    if old.contains("-cloudinit") && cdrom(value) && !value.contains("-cloudinit") {
        let order = conf.get("boot").and_then(|b| b.strip_prefix("order=")).map(str::to_owned);
        if let Some(order) = order.filter(|o| !o.split(';').any(|d| d == key)) {
            conf.main.insert("boot".to_owned(), format!("order={order};{key}"));
        }
    }
}

fn set(conf: &mut VmConf, key: &str, value: String, running: bool) {
    if key == "description" && value.trim_end_matches('\n').is_empty() {
        conf.main.remove(key);
        return;
    }
    if key == "sshkeys" && value.is_empty() {
        conf.pending.insert(key.to_owned(), value);
        return;
    }
    if running && needs_restart(key) {
        if conf.get(key) == Some(&value) {
            conf.pending.remove(key);
        } else {
            conf.pending.insert(key.to_owned(), value);
        }
        return;
    }
    let value = match key {
        "description" => value.trim_end_matches('\n').to_owned(),
        "tags" => tags(&value),
        _ if value.is_empty() && key != "cipassword" => " ".to_owned(),
        "cipassword" if !value.starts_with("$5$") => {
            format!("$5${}${}", keys::random_hex(4), keys::random_hex(21))
        }
        _ => value,
    };
    let cloudinit = CLOUD_INIT.contains(&key) || key.starts_with("ipconfig") || key == "name";
    if running
        && cloudinit
        && cloudinit_drive(conf).is_some()
        && let Some(old) = conf.get(key).map(str::to_owned)
        && old != value
    {
        conf.cloudinit.entry(key.to_owned()).or_insert(old);
    }
    if conf::is_drive(key) {
        replace_drive(conf, key, &value);
    }
    let card = key.strip_prefix("net").is_some_and(|n| n.parse::<u32>().is_ok());
    if running && card && cloudinit_drive(conf).is_some() && !conf.main.contains_key(key) {
        let added = conf.cloudinit.entry("added".to_owned()).or_default();
        *added = if added.is_empty() { key.to_owned() } else { format!("{added},{key}") };
    }
    conf.pending.remove(key);
    conf.main.insert(key.to_owned(), value);
}

fn tags(text: &str) -> String {
    let mut tags = names(&text.to_lowercase());
    tags.sort();
    tags.dedup();
    if tags.is_empty() { " ".to_owned() } else { tags.join(";") }
}
