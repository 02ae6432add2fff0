//! `proxmox-ops backup`

use clap::Args;
use fleet_core::{
    Result,
    guard::Operation,
    protocol::{BackupMode, Marker},
    types::{StorageId, VmRef},
};

use super::human;
use crate::{
    context::{ChangeOptions, Context},
    ops::backup::{self, Notes},
};

/// Make a backup of a VM; its volume, which `restore` takes, is printed
///
/// Older backups are never removed by this, whatever the storage keeps. Backing up holds up the VM's disks and locks
/// it: imported VMs are left alone by that too.
#[derive(Debug, Args)]
pub struct Backup {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Storage for the backup [default: a shared one that takes backups, else the one with the most room]
    #[arg(long, value_name = "STORAGE")]
    storage: Option<StorageId>,
    /// How a running VM is backed up: as it runs, suspended meanwhile, or shut down and started again
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    mode: BackupMode,
    /// What to remember about it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    notes: Notes,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Backup {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "back up")?;
        let vmid = permit.vmid();
        if self.options.change.dry_run {
            let storage = self.storage.clone().map_or_else(|| "STORAGE".parse(), Ok)?;
            let name = permit.name().cloned().map_or_else(|| format!("vm{vmid}").parse(), Ok)?;
            let marker = Marker::fresh(&name, vmid)?;
            let call = backup::call(&permit, &cx.node_name()?, (&storage, self.mode), &self.notes, &marker);
            return cx.show(&[call]);
        }
        let (cluster, deadline) = (cx.connect()?, self.options.long_deadline());
        cx.ui.step(format!("Backing up VM {vmid}..."));
        let wanted = (self.storage.as_ref(), self.mode, &self.notes);
        let made =
            cluster.on(vmid, |node| backup::make(node, &permit, wanted, deadline, &mut cx.progress()))?;
        let size = made.size.map_or_else(String::new, |size| format!(" ({})", human(size)));
        cx.ui.done(format!("VM {vmid} is backed up on the storage '{}'{size}", made.storage));
        cx.ui.answer(&made, || made.volume.clone())
    }
}
