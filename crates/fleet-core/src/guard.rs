//! May this operation touch this VM? Decided here and nowhere else, before any connection is made.
//!
//! A [`Permit`] can only be had from [`Guard::permit`]; whatever changes a VM asks for one in its signature.

use crate::{
    Error, Result,
    definitions::{Definitions, Entry},
    types::{VmName, Vmid},
};

/// What an operation does to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Changes settings, disks or power state.
    Change,
    /// Creates it.
    Create,
    /// Makes or changes a template.
    Template,
    /// Removes it and its disks.
    Destroy,
}

/// Leave to change one VM. Holding one proves that the guard agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    vmid: Vmid,
    operation: Operation,
    name: Option<VmName>,
}

impl Permit {
    /// The VM it is for.
    pub fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// What it allows.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The name that the VM must bear, or its marker name, for the permit to hold: a definition speaks of its own
    /// VM, not of whatever has taken the VMID since. Nothing for a VM that the user named with `--unmanaged`.
    pub fn name(&self) -> Option<&VmName> {
        self.name.as_ref()
    }
}

/// Decides over one set of definitions.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    definitions: &'a Definitions,
    unmanaged: Option<Vmid>,
}

impl<'a> Guard<'a> {
    /// A guard over `definitions`; `unmanaged` is the one undefined VM that the user named with `--unmanaged`.
    pub fn new(definitions: &'a Definitions, unmanaged: Option<Vmid>) -> Guard<'a> {
        Guard { definitions, unmanaged }
    }

    /// Whether VM `vmid` may be copied from. A copy of a running VM freezes its file systems and holds up its disks,
    /// and a configuration lock keeps others out: an imported or readonly VM is left alone by that too.
    pub fn source(&self, vmid: Vmid) -> Result<()> {
        let (name, why) = match self.definitions.by_vmid(vmid) {
            Some(Entry::Imported(vm)) => (vm.name.as_str(), "imported and read-only"),
            Some(Entry::Managed(vm)) if vm.readonly => (vm.name.as_str(), "marked readonly"),
            _ => return Ok(()),
        };
        Err(Error::refused(format!("refused to clone VM {vmid}: '{name}' is {why}"))
            .now("copying a VM holds up its disks; nothing was sent to the node")
            .hint("clone a template: `proxmox-ops list` shows them"))
    }

    /// Leave for `operation` (called `verb` in messages) on `vmid`, or the refusal with its reason and where
    /// to change it.
    pub fn permit(&self, vmid: Vmid, operation: Operation, verb: &str) -> Result<Permit> {
        let path = self.definitions.path.display();
        let permit = Permit { vmid, operation, name: None };
        match self.definitions.by_vmid(vmid) {
            Some(Entry::Imported(vm)) => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: '{}' is imported and read-only",
                vm.name
            ))
            .now("nothing was sent to the node")
            .hint(format!("imported VMs are only documented; see imported.{} in {path}", vm.name))),
            Some(Entry::Managed(vm)) if vm.readonly => {
                Err(Error::refused(format!("refused to {verb} VM {vmid}: '{}' is marked readonly", vm.name))
                    .now("nothing was sent to the node")
                    .hint(format!("take `readonly = true` out of managed.{} in {path} to allow it", vm.name)))
            }
            Some(Entry::Managed(vm)) if operation == Operation::Destroy && vm.protection => {
                Err(Error::refused(format!("refused to {verb} VM {vmid}: '{}' is protected", vm.name))
                    .now("nothing was sent to the node")
                    .hint(format!(
                        "take `protection = true` out of managed.{} in {path} to allow it",
                        vm.name
                    )))
            }
            Some(Entry::Managed(vm)) if operation == Operation::Template => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: '{}' is a managed VM, not a template",
                vm.name
            ))
            .now("nothing was sent to the node")),
            Some(Entry::Managed(_)) if self.unmanaged == Some(vmid) => Ok(permit),
            Some(Entry::Managed(vm)) => Ok(Permit { name: Some(vm.name.clone()), ..permit }),
            Some(Entry::Template(_)) if operation == Operation::Template => Ok(permit),
            Some(Entry::Template(template)) => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: it is the template '{}'",
                template.name
            ))
            .now("nothing was sent to the node")
            .hint("templates are changed only by the template commands")),
            None if self.unmanaged == Some(vmid) => Ok(permit),
            None => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: it is defined nowhere in {path}"
            ))
            .now("nothing was sent to the node")
            .hint(format!(
                "define it under `managed`, or name it with `--unmanaged {vmid}` if you are sure it is yours"
            ))),
        }
    }
}
