//! `proxmox-ops create-disk`

use std::collections::BTreeMap;

use clap::Args;
use fleet_core::{
    Error, Result,
    guard::Operation,
    protocol::VmConfig,
    types::{DiskSize, DiskSlot, StorageId, VmRef},
};

use super::cloudinit_drive::storage_for;
use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    ops::config,
};

/// Give a VM a new, empty disk
#[derive(Debug, Args)]
pub struct CreateDisk {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Size, such as 20G; Proxmox allocates whole GiB
    size: DiskSize,
    /// Storage for it [default: the VM's own, else the definitions' default]
    storage: Option<StorageId>,
    /// Where to attach it, such as scsi1 [default: the first free scsi slot]
    disk: Option<DiskSlot>,
    #[command(flatten)]
    options: ChangeOptions,
}

impl CreateDisk {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "create a disk of")?;
        let storage = storage_for(cx, &permit, self.storage.as_ref())?;
        let gib = self.size.gib_ceil();
        let rounded = DiskSize::from_bytes(gib << 30);
        if rounded != self.size {
            cx.ui.warn(format!("the size {} becomes {rounded}: Proxmox allocates whole GiB", self.size));
        }
        let value = format!("{storage}:{gib}");
        if self.options.change.dry_run {
            let disk = self.disk.as_ref().map_or("scsiN", DiskSlot::as_str);
            return cx.show(&[Call::configure(
                &permit,
                &cx.node_name()?,
                [(disk, value.as_str())],
                &[],
                None,
            )]);
        }
        let vmid = permit.vmid();
        let node = cx.connect()?;
        let deadline = self.options.deadline();
        let now = config::read(&node, vmid, deadline)?;
        let disk = slot(&now, self.disk.as_ref())?;
        let settings = BTreeMap::from([(disk.to_string(), value)]);
        config::change(&node, &permit, &settings, &[], Some(&now.digest), deadline, &mut cx.progress())?;
        cx.changed(vmid, true, &format!("VM {vmid} has a new disk {disk} of {rounded} on {storage}"), "")
    }
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
