//! Making a VM from scratch, with a disk image of its own.

use std::collections::BTreeMap;

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::{CreateRequest, Marker},
    types::StorageId,
};

use super::{Progress, config, queue};
use crate::{
    api::{call::Call, encode},
    node::Node,
    tasks,
};

/// The settings of a machine that boots what disko lays out: UEFI without keys enrolled beforehand (an unsigned NixOS
/// would not start), the image as its disk, a serial console, the guest agent.
pub(super) fn machine(storage: &StorageId, image: &str) -> Vec<(&'static str, String)> {
    let text = |text: &str| text.to_owned();
    vec![
        ("ostype", text("l26")),
        ("bios", text("ovmf")),
        ("machine", text("q35")),
        ("efidisk0", format!("{storage}:1,efitype=4m,pre-enrolled-keys=0")),
        ("scsihw", text("virtio-scsi-pci")),
        ("scsi0", format!("{storage}:0,import-from={image}")),
        ("boot", text("order=scsi0")),
        ("serial0", text("socket")),
        ("agent", text("enabled=1")),
    ]
}

/// The request's settings over those of every such machine.
pub fn settings(request: &CreateRequest) -> BTreeMap<String, String> {
    let CreateRequest { name, storage, image, marker, .. } = request;
    let mut settings: BTreeMap<String, String> =
        machine(storage, image).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    settings.insert("net0".to_owned(), "virtio,bridge=vmbr0".to_owned());
    settings.insert("vga".to_owned(), "std".to_owned());
    settings.extend(request.settings.clone());
    settings.insert("name".to_owned(), name.to_string());
    settings.entry("description".to_owned()).or_insert_with(|| marker.to_string());
    settings
}

/// The format that a new disk on a storage is to have where the node's own choice takes no snapshots: on a storage
/// that keeps files a disk is raw unless something else is asked for, and only qcow2 takes snapshots there
/// (pvesm(1), "Storage Types"). Not being allowed to look leaves the choice to the node.
pub(super) fn format(node: &Node, storage: &StorageId, deadline: Deadline) -> Option<&'static str> {
    #[derive(serde::Deserialize)]
    struct Configured {
        #[serde(rename = "type")]
        kind: String,
    }
    let path = format!("/storage/{}", encode::percent(storage.as_str()));
    match node.api.get_as::<Configured>(&format!("look at the storage '{storage}'"), &path, &[], deadline) {
        Ok(found) => matches!(found.kind.as_str(), "dir" | "nfs" | "cifs" | "glusterfs").then_some("qcow2"),
        Err(e) => {
            node.ui.detail(e.chain());
            None
        }
    }
}

/// A setting, with this format where it is a new disk on the storage that has none yet.
fn formatted(key: &str, value: String, storage: &StorageId, format: Option<&str>) -> String {
    let disk = ["scsi", "virtio", "sata", "efidisk"].iter().any(|bus| {
        key.strip_prefix(bus).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    let size = value.strip_prefix(storage.as_str()).and_then(|rest| rest.strip_prefix(':'));
    let size = size.and_then(|rest| rest.split(',').next());
    let new = size.is_some_and(|size| !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit()));
    match format {
        Some(format) if disk && new && !value.contains(",format=") => format!("{value},format={format}"),
        _ => value,
    }
}

/// The same for all settings of a new VM.
pub(super) fn in_format<K: AsRef<str>>(
    settings: impl IntoIterator<Item = (K, String)>,
    storage: &StorageId,
    format: Option<&str>,
) -> Vec<(K, String)> {
    let pair = |(key, value): (K, String)| {
        let value = formatted(key.as_ref(), value, storage, format);
        (key, value)
    };
    settings.into_iter().map(pair).collect()
}

/// The call that makes it on `node`.
pub fn call(permit: &Permit, node: &fleet_core::types::NodeName, request: &CreateRequest) -> Call {
    let settings = settings(request);
    let pairs: Vec<(&str, String)> =
        settings.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    Call::create(permit, node, &pairs)
}

/// Makes the VM on `node` and follows the task. Where the answer is lost, only our marker makes it a success.
pub fn create(
    node: &Node,
    permit: &Permit,
    request: &CreateRequest,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let marked = request
        .settings
        .get("description")
        .is_none_or(|text| Marker::find(text).as_ref() == Some(&request.marker));
    if request.vmid != vmid
        || permit.operation() != Operation::Create
        || request.marker.vmid != vmid
        || !marked
    {
        return Err(Error::refused(format!(
            "refused to create VM {}: the guard's leave is to create VM {vmid}, with its marker",
            request.vmid
        )));
    }
    let name = node.name(deadline)?.clone();
    let made = in_format(settings(request), &request.storage, format(node, &request.storage, deadline));
    let pairs: Vec<(&str, String)> = made.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let call = Call::create(permit, &name, &pairs);
    run(node, permit, &call, (&request.storage, &request.marker), deadline, progress)
}

/// Sends the call in its turn and follows the task.
pub(super) fn run(
    node: &Node,
    permit: &Permit,
    call: &Call,
    (storage, marker): (&StorageId, &Marker),
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    let mut done = || match config::read(node, vmid, deadline) {
        Ok(config) => {
            Ok(Some(config.marker.as_ref() == Some(marker) && !config.settings.contains_key("lock")))
        }
        Err(e) if e.kind() == Kind::NotFound => Ok(Some(false)),
        Err(e) => Err(e),
    };
    let mut turns = queue::turns(&name, [storage.as_str()], deadline, progress)?;
    let mut progress = |line: &str| {
        turns.seen(line);
        progress(line);
    };
    tasks::run_or_look(
        &node.api,
        permit,
        call,
        (&["qmcreate"], vmid, &name),
        deadline,
        &mut progress,
        &mut done,
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_disks_of_the_storage_get_its_format() {
        let storage = "nvmeprom".parse().unwrap();
        let of = |key: &str, value: &str| formatted(key, value.to_owned(), &storage, Some("qcow2"));
        assert_eq!(
            of("scsi0", "nvmeprom:0,import-from=/x.raw"),
            "nvmeprom:0,import-from=/x.raw,format=qcow2"
        );
        assert_eq!(of("efidisk0", "nvmeprom:1,efitype=4m"), "nvmeprom:1,efitype=4m,format=qcow2");
        for (key, value) in [
            ("scsi0", "nvmeprom:9,format=raw"),
            ("scsi0", "nvmeprom:110/vm-110-disk-0.raw"),
            ("scsi0", "other:9"),
            ("scsihw", "virtio-scsi-pci"),
            ("tpmstate0", "nvmeprom:1"),
            ("ide2", "nvmeprom:cloudinit"),
        ] {
            assert_eq!(of(key, value), value);
        }
        assert_eq!(formatted("scsi0", "nvmeprom:9".into(), &storage, None), "nvmeprom:9");
    }

    #[test]
    fn what_is_asked_for_goes_before_what_is_usual() {
        let vmid = "110".parse().unwrap();
        let name: fleet_core::types::VmName = "web".parse().unwrap();
        let marker = Marker::fresh(&name, vmid).unwrap();
        let request = CreateRequest {
            vmid,
            name,
            storage: "nvmeprom".parse().unwrap(),
            image: "/var/tmp/fleet-image-0.raw".into(),
            settings: [("net0", "virtio,bridge=vmbr1"), ("cores", "4"), ("name", "other")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            node: None,
            marker: marker.clone(),
        };
        let made = settings(&request);
        let setting = |key: &str| made.get(key).map_or("", String::as_str);
        assert_eq!(setting("net0"), "virtio,bridge=vmbr1");
        assert_eq!((setting("cores"), setting("name"), setting("vga")), ("4", "web", "std"));
        assert_eq!(setting("scsi0"), "nvmeprom:0,import-from=/var/tmp/fleet-image-0.raw");
        assert_eq!(Marker::find(setting("description")), Some(marker));
    }
}
