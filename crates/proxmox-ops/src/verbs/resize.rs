//! `proxmox-ops resize`

use clap::Args;
use fleet_core::{
    Result,
    guard::Operation,
    types::{DiskSize, DiskSlot, VmRef},
};

use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    ops::resize,
};

/// Grow a VM's disk to a size; the size is read back
#[derive(Debug, Args)]
pub struct Resize {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Disk, such as scsi0
    disk: DiskSlot,
    /// New size, such as 20G; a smaller one than now is refused
    size: DiskSize,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Resize {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "resize a disk of")?;
        if self.options.change.dry_run {
            return cx.show(&[Call::resize(&permit, &cx.node_name()?, &self.disk, self.size, None)]);
        }
        let (vmid, disk, size) = (permit.vmid(), &self.disk, self.size);
        let (cluster, deadline) = (cx.connect()?, self.options.deadline());
        let changed =
            cluster.on(vmid, |node| resize::grow(node, &permit, disk, size, deadline, &mut cx.progress()))?;
        cx.changed(
            vmid,
            changed,
            &format!("{disk} of VM {vmid} is {size} now"),
            &format!("{disk} of VM {vmid} is {size} already"),
        )
    }
}
