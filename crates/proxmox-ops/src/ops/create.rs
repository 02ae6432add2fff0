//! Making a VM from scratch, with a disk image of its own.

use std::{cell::OnceCell, collections::BTreeMap};

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::{CreateRequest, Marker},
    types::StorageId,
};

use super::{Progress, config, host, queue};
use crate::{api::call::Call, node::Node, tasks};

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

/// The formats that new disks are to have where the node's own choice takes no snapshots: on a storage that keeps
/// files a disk is raw unless something else is asked for, and only qcow2 takes snapshots there (pvesm(1), "Storage
/// Types"). Looked for once, when a disk is to be made. The node tells of its storages; their own settings want more
/// rights. Not being allowed to look leaves the choice to the node.
#[derive(Debug, Default)]
pub(super) struct Formats(OnceCell<Vec<StorageId>>);

impl Formats {
    /// The format for a disk on this storage.
    pub(super) fn on(&self, node: &Node, storage: &str, deadline: Deadline) -> Option<&'static str> {
        let files = self.0.get_or_init(|| match host::storages(node, deadline) {
            Ok(mut storages) => {
                storages.retain(|s| matches!(s.kind.as_str(), "dir" | "nfs" | "cifs" | "glusterfs"));
                storages.into_iter().map(|s| s.storage).collect()
            }
            Err(e) => {
                node.ui.detail(e.chain());
                Vec::new()
            }
        });
        files.iter().any(|s| s.as_str() == storage).then_some("qcow2")
    }

    /// The settings, new disks among them with the format of their storage.
    pub(super) fn put<K: AsRef<str>>(
        &self,
        node: &Node,
        settings: impl IntoIterator<Item = (K, String)>,
        deadline: Deadline,
    ) -> Vec<(K, String)> {
        let pair = |(key, value): (K, String)| {
            let format = new_disk(key.as_ref(), &value).and_then(|storage| self.on(node, storage, deadline));
            let value = format.map_or_else(|| value.clone(), |format| format!("{value},format={format}"));
            (key, value)
        };
        settings.into_iter().map(pair).collect()
    }
}

/// The storage of a setting that is a new disk without a format: `scsi1`, `nvmeprom:20`.
fn new_disk<'a>(key: &str, value: &'a str) -> Option<&'a str> {
    let disk = ["scsi", "virtio", "sata", "efidisk"].iter().any(|bus| {
        key.strip_prefix(bus).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    let (storage, size) = value.split(',').next()?.split_once(':')?;
    let new = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
    (disk && new && !value.contains(",format=")).then_some(storage)
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
    let made = Formats::default().put(node, settings(request), deadline);
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
    use crate::testing::{Fake, node};
    use serde_json::json;

    #[test]
    fn new_disks_get_the_format_of_their_storage() {
        let fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/nodes/prom/storage", json!([
                {"storage": "files", "type": "nfs", "active": 1}, {"storage": "lvm", "type": "lvmthin", "active": 1},
            ]));
        let node = node(&fake);
        let formats = Formats::default();
        let of = |key: &str, value: &str| {
            formats.put(&node, [(key, value.to_owned())], Deadline::secs(5)).remove(0).1
        };
        for value in ["files:0,import-from=/x.raw", "files:4", "files:1,efitype=4m"] {
            assert_eq!(of("scsi0", value), format!("{value},format=qcow2"));
        }
        for (key, value) in [
            ("scsi0", "files:9,format=raw"),
            ("scsi0", "files:110/vm-110-disk-0.raw"),
            ("scsi0", "lvm:9"),
            ("scsi0", "other:9"),
            ("scsihw", "virtio-scsi-pci"),
            ("tpmstate0", "files:1"),
            ("ide2", "files:cloudinit"),
        ] {
            assert_eq!(of(key, value), value);
        }
        assert_eq!(fake.requests("GET /nodes/prom/storage"), 1);
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
