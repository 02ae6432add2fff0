//! New disks.

use std::collections::BTreeMap;

use fleet_core::{
    Error, Result, again,
    deadline::Deadline,
    guard::Permit,
    protocol::VmConfig,
    types::{DiskSize, DiskSlot, StorageId},
};

use super::{Progress, config};
use crate::{node::Node, tasks};

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
    let vmid = permit.vmid();
    let read = || -> Result<VmConfig> {
        let mut now = config::read(node, vmid, deadline)?;
        // A disk that is pending has its slot, too.
        now.settings.extend(config::read_pending(node, vmid, deadline)?.settings);
        Ok(now)
    };
    let mut now = read()?;
    let what = format!("configure VM {vmid}");
    let subject = (&["qmconfig"][..], vmid);
    if let Some(earlier) =
        tasks::earlier(&node.api, node.name(deadline)?, subject, &what, deadline, progress)?
    {
        let before = std::mem::replace(&mut now, read()?);
        if let Some(disk) = made(&before, &now, (size, storage), asked).filter(|_| earlier.ended.is_ok()) {
            return Ok(disk);
        }
    }
    let disk = slot(&now, asked)?;
    let settings = BTreeMap::from([(disk.to_string(), format!("{storage}:{}", size.gib_ceil()))]);
    let sent = config::change(node, permit, &settings, &[], Some(&now.digest), deadline, progress).map_err(|e| {
        if asked.is_some() || !e.may_go_on() {
            return e;
        }
        e.hint(format!("once its task has ended, look first: `{}` shows whether it has {disk}; without DISK the same command makes one more", again::ops(format_args!("config {vmid}"))))
    })?;
    if sent {
        return Ok(disk);
    }
    Err(Error::conflict(format!("can not create {disk} of VM {}: somebody else just did", permit.vmid()))
        .now("nothing was changed by this request")
        .hint(format!("look at it, then decide: {}", again::ops(format_args!("config {}", permit.vmid())))))
}

/// The disk that was made between these two, if it is such a one.
fn made(
    before: &VmConfig,
    after: &VmConfig,
    (size, storage): (DiskSize, &StorageId),
    asked: Option<&DiskSlot>,
) -> Option<DiskSlot> {
    let size = DiskSize::from_bytes(size.gib_ceil() << 30);
    let such = |(key, value): (&String, &String)| {
        let disk: DiskSlot = key.parse().ok()?;
        let fits = !before.settings.contains_key(key)
            && value.strip_prefix(storage.as_str()).is_some_and(|rest| rest.starts_with(':'))
            && config::size_of(value) == Some(size)
            && asked.is_none_or(|asked| *asked == disk);
        fits.then_some(disk)
    };
    after.settings.iter().find_map(such)
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
