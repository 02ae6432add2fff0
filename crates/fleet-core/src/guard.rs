//! May this operation touch this VM? Decided here and nowhere else, before any connection is made.
//!
//! A [`Permit`] can only be had from [`Guard::permit`]; whatever changes a VM asks for one in its signature.

use crate::{
    Error, Result, again,
    definitions::{Definitions, Entry},
    protocol::{Marker, VmConfig},
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
    /// VM, not of whatever has taken the VMID since. So it is with the name that the user gave with `--unmanaged`; where
    /// that was a VMID there is none.
    pub fn name(&self) -> Option<&VmName> {
        self.name.as_ref()
    }

    /// The same leave for a template that is to be called so, whatever the definitions call it: it has to bear this
    /// name, or its marker, for the permit to hold.
    #[must_use]
    pub fn for_template_called(self, name: &VmName) -> Permit {
        match self.operation {
            Operation::Template => Permit { name: Some(name.clone()), ..self },
            _ => self,
        }
    }
}

/// Whether a VM that is called `called` and carries `marker` is the one that the definitions call `name`.
pub fn is_the(name: &VmName, called: Option<&str>, marker: Option<&Marker>) -> bool {
    marker.map_or_else(|| called == Some(name.as_str()), |marker| marker.name == *name)
}

/// Leave to copy one VM. Holding one proves that the guard agreed, as far as it can tell without the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    vmid: Vmid,
    name: Option<VmName>,
    named: bool,
    /// The name that it was named by, if it was by one.
    called: Option<VmName>,
}

impl Source {
    /// The VM that is copied.
    pub fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// Whether what is there may be copied: a template, the VM that the definitions speak of, or one that the user named
    /// with `--unmanaged`.
    pub fn check(&self, config: &VmConfig) -> Result<()> {
        let setting = |key: &str| config.settings.get(key).map(String::as_str);
        let ours =
            self.name.as_ref().is_some_and(|name| is_the(name, setting("name"), config.marker.as_ref()));
        let called = self.called.as_ref().is_none_or(|name| setting("name") == Some(name.as_str()));
        if self.named && called || ours || setting("template") == Some("1") {
            return Ok(());
        }
        let vmid = self.vmid;
        Err(Error::refused(format!(
            "refused to clone VM {vmid}: it is no template, and nothing proves that it is ours"
        ))
        .now(format!("it is called '{}'", setting("name").unwrap_or_default()))
        .now("copying a VM holds up its disks; nothing was changed")
        .hint(format!("clone a template: `{}` shows them", again::ops("list")))
        .hint(format!("or name this VM with --unmanaged {vmid} if you are sure it is yours")))
    }
}

/// Decides over one set of definitions.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    definitions: &'a Definitions,
    unmanaged: Option<Vmid>,
    called: Option<&'a VmName>,
}

impl<'a> Guard<'a> {
    /// A guard over `definitions`; `unmanaged` is the one undefined VM that the user named with `--unmanaged`.
    pub fn new(definitions: &'a Definitions, unmanaged: Option<Vmid>) -> Guard<'a> {
        Guard { definitions, unmanaged, called: None }
    }

    /// The same, where the user named the undefined VM by this name, and the node said which that is: the leave then
    /// is for a VM that bears it still.
    #[must_use]
    pub fn called(self, name: &'a VmName) -> Guard<'a> {
        Guard { called: Some(name), ..self }
    }

    /// What a refusal says of what was done.
    fn untouched(&self) -> &'static str {
        if self.called.is_some() { "nothing was changed" } else { "nothing was sent to the node" }
    }

    /// Whether VM `vmid` may be copied from. A copy of a running VM freezes its file systems and holds up its disks,
    /// and a configuration lock keeps others out: an imported or readonly VM is left alone by that too. What is no
    /// template the node's answer decides: [`Source::check`].
    pub fn source(&self, vmid: Vmid) -> Result<Source> {
        let (named, called) = (self.unmanaged == Some(vmid), self.called.cloned());
        let leave = |name| Ok(Source { vmid, name, named, called });
        let (name, why) = match self.definitions.by_vmid(vmid) {
            Some(Entry::Imported(vm)) => (vm.name.as_str(), "imported and read-only"),
            Some(Entry::Managed(vm)) if vm.readonly => (vm.name.as_str(), "marked readonly"),
            Some(Entry::Managed(vm)) => return leave(Some(vm.name.clone())),
            Some(Entry::Template(template)) => return leave(Some(template.name.parse()?)),
            None => return leave(None),
        };
        Err(Error::refused(format!("refused to clone VM {vmid}: '{name}' is {why}"))
            .now(format!("copying a VM holds up its disks; {}", self.untouched()))
            .hint(format!("clone a template: `{}` shows them", again::ops("list"))))
    }

    /// Leave for `operation` (called `verb` in messages) on `vmid`, or the refusal with its reason and where
    /// to change it.
    pub fn permit(&self, vmid: Vmid, operation: Operation, verb: &str) -> Result<Permit> {
        let path = self.definitions.path.display();
        let permit = Permit { vmid, operation, name: None };
        let unmanaged = Permit { name: self.called.cloned(), ..permit };
        match self.definitions.by_vmid(vmid) {
            Some(Entry::Imported(vm)) => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: '{}' is imported and read-only",
                vm.name
            ))
            .now(self.untouched())
            .hint(format!("imported VMs are only documented; see imported.{} in {path}", vm.name))),
            Some(Entry::Managed(vm)) if vm.readonly => {
                Err(Error::refused(format!("refused to {verb} VM {vmid}: '{}' is marked readonly", vm.name))
                    .now(self.untouched())
                    .hint(format!("take `readonly = true` out of managed.{} in {path} to allow it", vm.name)))
            }
            Some(Entry::Managed(vm)) if operation == Operation::Destroy && vm.protection => {
                Err(Error::refused(format!("refused to {verb} VM {vmid}: '{}' is protected", vm.name))
                    .now(self.untouched())
                    .hint(format!(
                        "take `protection = true` out of managed.{} in {path} to allow it",
                        vm.name
                    )))
            }
            Some(Entry::Managed(vm)) if operation == Operation::Template => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: '{}' is a managed VM, not a template",
                vm.name
            ))
            .now(self.untouched())),
            Some(Entry::Managed(_)) if self.unmanaged == Some(vmid) => Ok(unmanaged),
            Some(Entry::Managed(vm)) => Ok(Permit { name: Some(vm.name.clone()), ..permit }),
            Some(Entry::Template(template)) if operation == Operation::Template => {
                let named = self.unmanaged == Some(vmid);
                Ok(if named { unmanaged } else { Permit { name: Some(template.name.parse()?), ..permit } })
            }
            Some(Entry::Template(template)) => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: it is the template '{}'",
                template.name
            ))
            .now(self.untouched())
            .hint("templates are changed only by the template commands")),
            None if self.unmanaged == Some(vmid) => Ok(unmanaged),
            None => Err(Error::refused(format!(
                "refused to {verb} VM {vmid}: it is defined nowhere in {path}"
            ))
            .now(self.untouched())
            .hint(format!(
                "define it under `managed`, or name it with `--unmanaged {vmid}` if you are sure it is yours"
            ))),
        }
    }
}
