//! `proxmox-ops cloudinit-drive`

use clap::Args;
use fleet_core::{
    Error, Result,
    definitions::Entry,
    guard::Operation,
    types::{StorageId, VmRef},
};

use crate::{
    context::{ChangeOptions, Context},
    node::Node,
    ops::host,
};

/// Give a VM a cloud-init drive (ide2); one that it has already stays
#[derive(Debug, Args)]
pub struct CloudinitDrive {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Storage for it [default: the VM's own, else the definitions' default]
    storage: Option<StorageId>,
    #[command(flatten)]
    options: ChangeOptions,
}

impl CloudinitDrive {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "give a cloud-init drive to")?;
        let storage = storage_for(cx, &permit, self.storage.as_ref())?;
        let done = format!("VM {} has a cloud-init drive", permit.vmid());
        let check = |node: &Node| match &self.storage {
            // Proxmox makes the drive wherever it is told to, and then refuses to start the VM.
            Some(storage) => {
                let storages = host::storages(node, self.options.deadline())?;
                host::taking(&storages, storage, "images").map(drop)
            }
            None => Ok(()),
        };
        let settings = [("ide2", format!("{storage}:cloudinit"))];
        super::configure(cx, &permit, &self.options, &settings, (&done, &format!("{done} already")), &check)
    }
}

/// The storage for something of a VM: the one given, its definition's, else the default.
pub(super) fn storage_for(
    cx: &Context,
    permit: &fleet_core::guard::Permit,
    given: Option<&StorageId>,
) -> Result<StorageId> {
    let own = match cx.definitions.by_vmid(permit.vmid()) {
        Some(Entry::Managed(vm)) => Some(&vm.storage),
        _ => None,
    };
    given.or(own).or(cx.definitions.proxmox.default_storage.as_ref()).cloned().ok_or_else(|| {
        Error::usage(format!("no storage is named for VM {}", permit.vmid()))
            .now("nothing was sent to the node")
            .hint(format!("give STORAGE, or set proxmox.defaultStorage in {}", cx.definitions.path.display()))
    })
}
