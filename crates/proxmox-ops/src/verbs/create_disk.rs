//! `proxmox-ops create-disk`

use clap::Args;
use fleet_core::{
    Result,
    guard::Operation,
    types::{DiskSize, DiskSlot, StorageId, VmRef},
};

use super::cloudinit_drive::storage_for;
use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    ops::{disk, host},
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
        let (cluster, deadline) = (cx.connect()?, self.options.deadline());
        let disk = cluster.on(vmid, |node| {
            if let Some(storage) = &self.storage {
                host::taking(&host::storages(node, deadline)?, storage, "images")?;
            }
            disk::create(
                node,
                &permit,
                (self.size, &storage),
                self.disk.as_ref(),
                deadline,
                &mut cx.progress(),
            )
        })?;
        cx.changed(vmid, true, &format!("VM {vmid} has a new disk {disk} of {rounded} on {storage}"), "")
    }
}
