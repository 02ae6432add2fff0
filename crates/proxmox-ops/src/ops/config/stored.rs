//! Whether what a node has stored is what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::protocol::VmConfig;

use super::is_cloudinit;

/// The settings that are not what was asked for.
pub(super) fn unlike<'a>(
    now: &VmConfig,
    settings: &'a BTreeMap<String, String>,
    delete: &'a [String],
) -> Vec<&'a str> {
    let wrong = settings.iter().filter(|(key, value)| !holds(key, value, now.settings.get(*key)));
    let left = delete.iter().filter(|key| now.settings.contains_key(*key));
    wrong.map(|(key, _)| key.as_str()).chain(left.map(String::as_str)).collect()
}

/// Whether a new volume that is asked for is there already: one of its storage, or a cloud-init drive.
pub(super) fn is_made(asked: &str, there: &str) -> bool {
    let on = |storage: &str| {
        there.split(',').next().and_then(|volume| volume.split_once(':')).is_some_and(|(s, _)| s == storage)
    };
    is_cloudinit(asked) && is_cloudinit(there) || allocates(asked).is_some_and(on)
}

/// The storage that a setting allocates on: `STORAGE:SIZE`, `STORAGE:cloudinit`, with what follows.
pub(super) fn allocates(value: &str) -> Option<&str> {
    let (storage, volume) = value.split(',').next()?.split_once(':')?;
    (volume == "cloudinit" || volume.parse::<f64>().is_ok()).then_some(storage)
}

/// Whether a setting is stored just as it is asked for, so that setting it again changes nothing. What is stored of a
/// password is not told.
pub(super) fn is_same(key: &str, asked: &str, stored: &str) -> bool {
    match key {
        "cipassword" => false,
        "sshkeys" => stored.trim() == asked.trim(),
        "description" => stored.trim_end() == asked.trim_end(),
        _ => stored == asked,
    }
}

/// Whether what is stored is what was asked for. Proxmox fills in what a value leaves open (a MAC, a volume's
/// name), so of property strings only what was said is compared.
fn holds(key: &str, asked: &str, stored: Option<&String>) -> bool {
    let Some(stored) = stored else { return asked.is_empty() };
    if key == "cipassword" || is_same(key, asked, stored) {
        return true;
    }
    if is_cloudinit(asked) {
        return is_cloudinit(stored);
    }
    if key == "description" {
        return false;
    }
    if key == "tags" {
        return tags(stored) == tags(asked);
    }
    let there: Vec<&str> = stored.split(',').collect();
    // Of a new volume these say how it is made, and are not stored.
    let how = |part: &&str| ["format=", "import-from=", "efitype="].iter().any(|name| part.starts_with(name));
    let new = allocates(asked).is_some();
    let mut parts = asked.split(',').filter(|part| !(new && how(part)));
    parts.all(|part| {
        there.contains(&part)
            || !part.contains('=') && there.iter().any(|t| t.split('=').next() == Some(part))
            // A new volume, `STORAGE:SIZE`, becomes `STORAGE:VOLUME`.
            || part.split_once(':').is_some_and(|(storage, _)| {
                there.first().is_some_and(|t| t.split_once(':').is_some_and(|(s, _)| s == storage))
            })
    })
}

/// Proxmox keeps tags sorted, each once, and in lower case unless the cluster tells their case apart.
fn tags(text: &str) -> BTreeSet<String> {
    text.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_in_other_words_is_there() {
        let holds = |key, asked, stored: &str| holds(key, asked, Some(&stored.to_owned()));
        assert!(holds("scsi1", "local:4,format=qcow2", "local:110/vm-110-disk-1.qcow2,size=4G"));
        assert!(holds(
            "efidisk0",
            "local:1,efitype=4m,pre-enrolled-keys=0",
            "local:110/vm-110-disk-2.qcow2,efitype=4m,pre-enrolled-keys=0,size=528K"
        ));
        assert!(!holds("scsi1", "local:4,format=qcow2,ssd=1", "local:110/vm-110-disk-1.qcow2,size=4G"));
        assert!(holds("tags", "Web;db,web", "db;web"));
        assert!(!holds("tags", "web;db", "web"));
    }

    #[test]
    fn new_volumes_are_told_from_others() {
        assert_eq!(allocates("nvmeprom:20"), Some("nvmeprom"));
        assert_eq!(allocates("nvmeprom:cloudinit"), Some("nvmeprom"));
        assert_eq!(allocates("nvmeprom:0,import-from=local:import/x.qcow2"), Some("nvmeprom"));
        assert_eq!(allocates("nvmeprom:vm-110-disk-0,size=2G"), None);
        assert_eq!(allocates("virtio=BC:24:11:00:00:01,bridge=vmbr0"), None);
    }

    #[test]
    fn what_is_stored_holds_what_was_asked() {
        let holds = |key, asked, stored: &str| holds(key, asked, Some(&stored.to_owned()));
        assert!(holds("net0", "virtio,bridge=vmbr0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"));
        assert!(!holds("net0", "virtio,bridge=vmbr1", "virtio=BC:24:11:00:00:01,bridge=vmbr0"));
        assert!(holds("ide2", "s:cloudinit", "s:vm-110-cloudinit,media=cdrom"));
        assert!(!holds("cores", "2", "1"));
    }
}
