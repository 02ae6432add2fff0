//! `proxmox-ops restore`

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    guard::Operation,
    types::{StorageId, VmRef},
};

use super::{cloudinit_drive::storage_for, create_template::volume};
use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    ops::{config, queue},
    tasks,
};

/// Restore a VM from a backup into a VMID that is free
///
/// A VM that exists is never overwritten: destroy it first, or restore into another VMID.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup, such as local:backup/vzdump-qemu-110-2026_01_31-00_00_00.vma.zst
    #[arg(value_name = "ARCHIVE", value_parser = volume)]
    archive: String,
    /// VMID of the VM to make, or its name in the definitions
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Storage for its disks [default: the definition's, else the definitions' default]
    storage: Option<StorageId>,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Restore {
    /// An archive that there is not is told as such, with the command that lists those that there are.
    fn missing(&self, error: Error) -> Error {
        let Restore { archive, .. } = self;
        let storage = archive.split(':').next().unwrap_or_default();
        let said = error.message();
        if !(said.contains(&format!("volume '{archive}' does not exist")) || said.contains("No such file")) {
            return error;
        }
        error
            .with_kind(Kind::NotFound)
            .hint(format!("`pvesm list {storage} --content backup` on the node lists the backups there"))
    }

    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Create, "restore into")?;
        let vmid = permit.vmid();
        let storage = storage_for(cx, &permit, self.storage.as_ref())?;
        let settings = [("archive", self.archive.clone()), ("storage", storage.to_string())];
        if self.options.change.dry_run {
            return cx.show(&[Call::create(&permit, &cx.node_name()?, &settings)]);
        }
        let cluster = cx.connect()?;
        let deadline = self.options.long_deadline();
        let node = cx.place(&cluster, vmid)?;
        let name = node.name(deadline)?.clone();
        if let Some(there) = cluster.resource(vmid)? {
            return Err(Error::conflict(format!("can not restore into VMID {vmid}: it is taken"))
                .now(format!(
                    "{vmid} is '{}' on the node '{}'",
                    there.name.as_deref().unwrap_or("-"),
                    there.node
                ))
                .now("nothing was changed")
                .hint("`proxmox-ops next-vmid` prints a free VMID"));
        }
        cx.ui.step(format!("Restoring {} into VM {vmid}...", self.archive));
        let call = Call::create(&permit, &name, &settings);
        let mut done = || match config::read(&node, vmid, deadline) {
            Ok(config) => Ok(!config.settings.contains_key("lock")),
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) => Err(e),
        };
        let subject = ("qmrestore", vmid, &name);
        let mut progress = cx.progress();
        let mut turns = queue::turns(&name, [storage.as_str()], deadline, &mut progress)?;
        let mut progress = |line: &str| {
            turns.seen(line);
            progress(line);
        };
        tasks::run_or_look(&node.api, &permit, &call, subject, deadline, &mut progress, &mut done)
            .map_err(|e| self.missing(e))?;
        let restored = config::read(&node, vmid, deadline)?;
        if restored.marker.is_none() {
            cx.ui.warn(format!(
                "VM {vmid} does not carry the marker of these tools: the backup was of another VM"
            ));
        }
        cx.changed(vmid, true, &format!("VM {vmid} is restored from {}", self.archive), "")
    }
}
