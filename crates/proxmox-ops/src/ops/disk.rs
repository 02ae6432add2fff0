//! New disks.

use std::collections::BTreeMap;

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    guard::Permit,
    protocol::VmConfig,
    types::{DiskSize, DiskSlot, StorageId},
};

use super::{Progress, config};
use crate::node::Node;

/// Gives a VM a new, empty disk of this size (rounded up to whole GiB) on a storage; where none is asked for, in
/// its first free scsi slot. Gives the slot.
pub fn create(
    node: &Node,
    permit: &Permit,
    (size, storage): (DiskSize, &StorageId),
    asked: Option<&DiskSlot>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<DiskSlot> {
    let mut now = config::read(node, permit.vmid(), deadline)?;
    // A disk that is pending has its slot, too.
    let coming = config::read_pending(node, permit.vmid(), deadline)?;
    now.settings.extend(coming.settings);
    let disk = slot(&now, asked)?;
    let settings = BTreeMap::from([(disk.to_string(), format!("{storage}:{}", size.gib_ceil()))]);
    config::change(node, permit, &settings, &[], Some(&now.digest), deadline, progress)?;
    Ok(disk)
}

/// The slot asked for, if it is free; else the first free one.
fn slot(config: &VmConfig, asked: Option<&DiskSlot>) -> Result<DiskSlot> {
    if let Some(disk) = asked {
        return match config.settings.get(disk.as_str()) {
            None => Ok(disk.clone()),
            Some(there) => {
                Err(Error::conflict(format!("can not create {disk} of VM {}: it exists", config.vmid))
                    .now(format!("{disk} is {there}"))
                    .hint("leave DISK out to take the first free slot"))
            }
        };
    }
    (0..=30)
        .map(|n| format!("scsi{n}"))
        .find(|name| !config.settings.contains_key(name))
        .ok_or_else(|| Error::conflict(format!("VM {} has no free scsi slot", config.vmid)))?
        .parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::Kind;

    #[test]
    fn the_first_free_slot_is_taken_and_no_used_one() {
        let config = VmConfig {
            vmid: fleet_core::types::Vmid::new(110).unwrap(),
            node: "prom".parse().unwrap(),
            settings: [("scsi0", "a:b,size=2G"), ("scsi2", "a:c,size=1G"), ("scsihw", "virtio-scsi-pci")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            digest: "d".into(),
            marker: None,
            mac: None,
        };
        assert_eq!(slot(&config, None).unwrap().as_str(), "scsi1");
        assert_eq!(slot(&config, Some(&"virtio0".parse().unwrap())).unwrap().as_str(), "virtio0");
        assert_eq!(slot(&config, Some(&"scsi2".parse().unwrap())).unwrap_err().kind(), Kind::Conflict);
    }
}
