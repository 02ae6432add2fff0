//! Disks: new volumes, resizing, unlinking, and turning a VM into a template.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Fail, Reply, change, config, storage, vm::need};
use crate::{
    conf, keys,
    node::{Data, Node, Volume, now},
    schema, task,
};

/// `2.0 GiB`, as qemu-img's progress is told.
pub(super) fn human(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let size = bytes as f64;
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            return format!("{:.1} {name}", size / unit as f64);
        }
    }
    format!("{size:.1} B")
}

/// The path of a volume on a directory storage.
pub(super) fn path(data: &Data, volume: &str) -> String {
    let (name, rest) = volume.split_once(':').unwrap_or(("", volume));
    let root = data.storage(name).map_or("", |s| s.path.as_str());
    // A linked clone is named BASE/VMID/FILE.
    let file: Vec<&str> = rest.rsplitn(3, '/').collect();
    match file.as_slice() {
        [file, dir, ..] => format!("{root}/images/{dir}/{file}"),
        _ => format!("{root}/images/{rest}"),
    }
}

/// What qemu-img says when it makes a volume.
pub(super) fn formatting(data: &Data, volume: &str, format: &str, size: u64) -> String {
    let path = path(data, volume);
    if format == "raw" {
        format!("Formatting '{path}', fmt=raw size={size} preallocation=off")
    } else if format == "vmdk" {
        format!("Formatting '{path}', fmt=vmdk size={size} compat6=off hwversion=undefined")
    } else {
        format!(
            "Formatting '{path}', fmt={format} cluster_size=65536 extended_l2=off preallocation=metadata \
             compression_type=zlib size={size} lazy_refcounts=off refcount_bits=16"
        )
    }
}

/// The first free `vm-VMID-disk-N` on a storage.
pub(super) fn free_name(data: &Data, storage: &str, vmid: u32, suffix: &str) -> String {
    let stem = if data.vms.get(&vmid).is_some_and(conf::VmConf::is_template) { "base" } else { "vm" };
    let taken = |n: u32| {
        let stem = format!("vm-{vmid}-disk-{n}.");
        let base = format!("base-{vmid}-disk-{n}.");
        data.volumes.keys().any(|id| {
            id.starts_with(&format!("{storage}:"))
                && id.rsplit('/').next().is_some_and(|f| f.starts_with(&stem) || f.starts_with(&base))
        })
    };
    let n = (0..1000).find(|n| !taken(*n)).unwrap_or(0);
    format!("{stem}-{vmid}-disk-{n}.{suffix}")
}

/// Adds a volume.
pub(super) fn add(data: &mut Data, id: &str, vmid: u32, size: u64, format: &str, parent: Option<String>) {
    data.volumes.insert(
        id.to_owned(),
        Volume {
            size,
            format: format.to_owned(),
            content: "images".to_owned(),
            vmid: Some(vmid),
            parent,
            ctime: now(),
        },
    );
}

/// Turns a setting as it was given into one as it is stored; makes volumes on the way.
pub(super) fn normalise(
    node: &Node,
    data: &mut Data,
    vmid: u32,
    key: &str,
    value: &str,
    say: &mut dyn FnMut(String),
) -> Reply<String> {
    if key.strip_prefix("net").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        return Ok(network(value));
    }
    if conf::is_drive(key) {
        return drive(node, data, vmid, key, value, say);
    }
    Ok(value.to_owned())
}

/// A network card with a MAC address, its properties in alphabetical order.
pub(super) fn network(value: &str) -> String {
    let mut model = "virtio".to_owned();
    let mut mac = None;
    let mut rest = Vec::new();
    for part in value.split(',') {
        match part.split_once('=') {
            None => part.clone_into(&mut model),
            Some(("model", m)) => m.clone_into(&mut model),
            Some(("macaddr", m)) => mac = Some(m.to_owned()),
            Some((m, address)) if schema::NET_MODELS.contains(&m) => {
                m.clone_into(&mut model);
                mac = Some(address.to_owned());
            }
            Some(_) => rest.push(part),
        }
    }
    rest.sort_unstable();
    let mac = mac.unwrap_or_else(keys::mac);
    std::iter::once(format!("{model}={mac}"))
        .chain(rest.into_iter().map(str::to_owned))
        .collect::<Vec<_>>()
        .join(",")
}

/// The largest file of the file system that a directory storage is on.
const LARGEST_FILE: u64 = 16 << 40;

fn import_path(data: &Data, volume: &str) -> String {
    let (name, rest) = volume.split_once(':').unwrap_or(("", volume));
    format!("{}/{rest}", data.storage(name).map_or("", |s| s.path.as_str()))
}

fn drive(
    node: &Node,
    data: &mut Data,
    vmid: u32,
    key: &str,
    value: &str,
    say: &mut dyn FnMut(String),
) -> Reply<String> {
    let file = conf::property(value, "file", "file").unwrap_or_default().to_owned();
    let options: Vec<&str> = value
        .split(',')
        .filter(|part| part.contains('=') && !part.starts_with("file=") && !part.starts_with("import-from="))
        .collect();
    let suffix = |options: &[&str]| options.iter().fold(String::new(), |all, o| format!("{all},{o}"));
    drop_cloudinit_volume(data, vmid, key, &file);
    let Some((name, volume)) = file.split_once(':') else {
        return Ok(value.to_owned());
    };
    if volume == "cloudinit" {
        let Some(conf) = data.vms.get(&vmid) else { return Err(Fail::no_vm(node, vmid)) };
        if let Some(other) = config::cloudinit_drive(conf).filter(|slot| *slot != key) {
            return Err(Fail::new(format!("{key} - cloud-init drive is already attached at '{other}'")));
        }
        let id = format!("{name}:{vmid}/vm-{vmid}-cloudinit.qcow2");
        if data.volumes.contains_key(&id) {
            return Err(Fail::new(format!("disk image '{}' already exists", path(data, &id))));
        }
        add(data, &id, vmid, 4 << 20, "qcow2", None);
        say(formatting(data, &id, "qcow2", 4 << 20));
        say(format!("{key}: successfully created disk '{id},media=cdrom'"));
        return Ok(format!("{id},media=cdrom"));
    }
    let importing = conf::property(value, "import-from", "").map(str::to_owned);
    if let Ok(gib) = volume.parse::<f64>() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive")]
        let mut size = (gib * f64::from(1u32 << 30)) as u64;
        if key == "efidisk0" {
            size = 528 << 10;
        } else if key == "tpmstate0" {
            size = 4 << 20;
        } else if importing.is_some() {
            size = 2 << 30;
        }
        if let Some(source) = importing.as_ref().filter(|source| !node.has_image(source)) {
            let message = if source.starts_with('/') {
                format!("can't find file '{source}'")
            } else {
                format!("failed to stat '{}'", import_path(data, source))
            };
            return Err(Fail::new(message));
        }
        if key == "efidisk0" && !node.world().firmware {
            let kind = conf::property(value, "efitype", "").filter(|t| *t == "4m").map_or("", |_| "_4M");
            return Err(Fail::new(format!(
                "EFI base image '/usr/share/pve-edk2-firmware//OVMF_CODE{kind}.fd' not found"
            )));
        }
        // From a storage it is a copy in the same format.
        let volume = importing.as_deref().filter(|source| !source.starts_with('/'));
        let suffix = volume.and_then(|v| v.rsplit_once('.')).map_or("raw", |(_, suffix)| suffix);
        let format = conf::property(value, "format", "").unwrap_or(suffix).to_owned();
        let id = format!("{name}:{vmid}/{}", free_name(data, name, vmid, &format));
        if let Some(source) = volume {
            say(format!("create full clone of drive ({source})"));
        }
        say(formatting(data, &id, &format, size));
        if format == "raw" && size > LARGEST_FILE {
            return Err(Fail::new(format!(
                "unable to create image: qemu-img: {}: The image size is too large for file format 'raw'",
                path(data, &id)
            )));
        }
        if !storage::has_room(node, data, name, size) {
            return Err(Fail::new(format!("{key}: out of space on storage '{name}'")));
        }
        if volume.is_some() {
            say(format!("allocated target volume '{id}'"));
        }
        add(data, &id, vmid, size, &format, None);
        let mut options: Vec<String> =
            options.iter().filter(|o| !o.starts_with("format=")).map(|o| (*o).to_owned()).collect();
        options.push(format!("size={}", conf::format_size(size)));
        options.sort();
        let stored = format!("{id},{}", options.join(","));
        say(format!("{key}: successfully created disk '{stored}'"));
        return Ok(stored);
    }
    let size = data.volumes.get(&file).map(|v| v.size);
    let is_disk = conf::property(value, "media", "") != Some("cdrom");
    let Some(conf) = data.vms.get_mut(&vmid) else { return Err(Fail::no_vm(node, vmid)) };
    conf.main.retain(|k, v| !(k.starts_with("unused") && *v == file));
    match size {
        Some(size) if is_disk && conf::property(value, "size", "").is_none() => {
            Ok(format!("{file}{},size={}", suffix(&options), conf::format_size(size)))
        }
        Some(_) => Ok(value.to_owned()),
        None if is_disk => Err(Fail::new(format!("volume '{file}' does not exist"))),
        None => Ok(value.to_owned()),
    }
}

/// Whether `new` asks for a cloud-init drive on the storage that `old` is on.
fn is_new_cloudinit(old: &str, new: &str) -> bool {
    new.strip_suffix(":cloudinit").is_some_and(|storage| old.split(':').next() == Some(storage))
}

/// A cloud-init drive that is replaced by something else loses its volume.
fn drop_cloudinit_volume(data: &mut Data, vmid: u32, key: &str, new: &str) {
    let old =
        data.vms.get(&vmid).and_then(|c| c.get(key)).and_then(|v| v.split(',').next()).map(str::to_owned);
    if let Some(old) =
        old.filter(|old| old.contains("-cloudinit") && old != new && !is_new_cloudinit(old, new))
    {
        data.volumes.remove(&old);
    }
}

/// Removes a setting; a disk becomes `unusedN`, an unused one and a cloud-init drive are destroyed.
pub(super) fn delete_setting(data: &mut Data, vmid: u32, key: &str, later: bool, force: bool) -> Reply<()> {
    let mut destroyed = None;
    if let Some(conf) = data.vms.get_mut(&vmid) {
        if later {
            conf.pending.remove(key);
            if conf.main.contains_key(key) {
                let list = conf.pending.entry("delete".to_owned()).or_default();
                *list = if list.is_empty() { key.to_owned() } else { format!("{list},{key}") };
            }
            return Ok(());
        }
        conf.pending.remove(key);
        let Some(old) = conf.main.remove(key) else { return Ok(()) };
        let volume = old.split(',').next().unwrap_or_default().to_owned();
        if key.starts_with("unused") || volume.contains("-cloudinit") || (force && conf::is_drive(key)) {
            destroyed = Some(volume);
        } else if conf::is_drive(key) && volume.contains(':') {
            let n = (0..256).find(|n| !conf.main.contains_key(&format!("unused{n}"))).unwrap_or(0);
            conf.main.insert(format!("unused{n}"), volume);
        }
        change::forget_added(conf, key);
        if let Some(boot) = conf.main.get("boot").and_then(|b| b.strip_prefix("order=")).map(str::to_owned) {
            let left: Vec<&str> = boot.split(';').filter(|d| *d != key).collect();
            conf.main.insert("boot".to_owned(), format!("order={}", left.join(";")));
        }
    }
    if let Some(volume) = destroyed {
        data.volumes.remove(&volume);
    }
    Ok(())
}

pub(super) fn unlink(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::UNLINK])?;
    let list: Vec<String> =
        call.params.get("idlist").unwrap_or_default().split(',').map(str::to_owned).collect();
    if let Some(bad) = list.iter().find(|k| crate::params::find(&[schema::CONFIG], k).is_none()) {
        return Err(Fail::param("delete", format!("unknown option '{bad}'")));
    }
    node.change(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        config::refuse_locked(conf, false)?;
        for key in &list {
            delete_setting(data, vmid, key, false, call.params.flag("force"))?;
        }
        Ok(Value::Null)
    })
}

pub(super) fn template(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::TEMPLATE])?;
    let there = node.read(|d| d.vms.contains_key(&vmid));
    need(node, vmid, there)?;
    node.read(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        config::refuse_locked(conf, false)?;
        if conf.is_template() && call.params.get("disk").is_none() {
            return Err(Fail::new("you can't convert a template to a template"));
        }
        if data.is_running(vmid) {
            return Err(Fail::new("you can't convert a VM to template if VM is running"));
        }
        Ok(())
    })?;
    let only = call.params.get("disk").map(str::to_owned);
    let work = Arc::clone(node);
    Ok(json!(task::spawn(node, &call.who, "qmtemplate", vmid, move |_| async move {
        work.works(work.latency().task).await;
        work.change(|data| {
            let drives: Vec<(String, String)> = data
                .vms
                .get(&vmid)
                .into_iter()
                .flat_map(|c| c.main.iter())
                .filter(|(k, v)| conf::is_drive(k) && conf::property(v, "media", "") != Some("cdrom"))
                .filter(|(k, _)| only.as_ref().is_none_or(|d| d == *k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            for (slot, drive) in drives {
                let volume = drive.split(',').next().unwrap_or_default().to_owned();
                let base = volume.replacen(&format!("/vm-{vmid}-"), &format!("/base-{vmid}-"), 1);
                if let Some(v) = data.volumes.remove(&volume) {
                    data.volumes.insert(base.clone(), v);
                }
                if let Some(conf) = data.vms.get_mut(&vmid) {
                    conf.main.insert(slot, drive.replacen(&volume, &base, 1));
                }
            }
            if let Some(conf) = data.vms.get_mut(&vmid) {
                conf.main.insert("template".to_owned(), "1".to_owned());
            }
        });
        Ok(())
    })))
}
