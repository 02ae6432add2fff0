//! `proxmox-ops clone`

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    definitions::{Definitions, Entry},
    guard::{Guard, Operation},
    protocol::{CloneRequest, Marker},
    types::{StorageId, VmName, VmRef, Vmid},
};

use super::cloudinit_drive::storage_for;
use crate::{
    api::call::Call,
    context::{ChangeOptions, Context, vmid_of},
    ops::{clone, cloned},
};

/// Clone a template into a new VM, which carries our marker
///
/// A VM with the marker of this name and VMID is left as it is: an earlier run made it.
#[derive(Debug, Args)]
pub struct Clone {
    /// VMID or name of the template
    #[arg(value_name = "TEMPLATE")]
    template: VmRef,
    /// VMID of the new VM, or the name of its definition
    #[arg(value_name = "NEW")]
    new: VmRef,
    /// Name of the new VM; a defined VMID has its definition's name
    name: VmName,
    /// Storage for a full clone [default: the definition's, else the definitions' default]
    storage: Option<StorageId>,
    /// Make a clone linked to the template, as `clone = "linked"` in the definition does
    #[arg(long, conflicts_with = "storage")]
    linked: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Clone {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let defined = cx.definitions.find(&self.template).map(|entry| vmid_of(&entry));
        if let Some(source) = defined {
            Guard::new(&cx.definitions, None).source(source)?;
        }
        let permit = cx.permit(&self.new, &self.options, Operation::Create, "clone into")?;
        let vmid = permit.vmid();
        name_fits(&cx.definitions, vmid, &self.name)?;
        let linked = self.linked
            || self.storage.is_none()
                && matches!(cx.definitions.by_vmid(vmid), Some(Entry::Managed(vm)) if vm.linked_clone);
        let storage = if linked { None } else { Some(storage_for(cx, &permit, self.storage.as_ref())?) };
        let request = |template: Vmid| -> Result<CloneRequest> {
            Ok(CloneRequest {
                template,
                vmid,
                name: self.name.clone(),
                storage: storage.clone(),
                full: !linked,
                node: cx.wanted_node(vmid),
                marker: Marker::fresh(&self.name, vmid)?,
            })
        };
        if self.options.change.dry_run {
            let template = match (&self.template, defined) {
                (VmRef::Id(id), _) => *id,
                (_, Some(id)) => id,
                (VmRef::Name(name), None) => {
                    return Err(Error::not_found(format!(
                        "no template '{name}' in {}",
                        cx.definitions.path.display()
                    ))
                    .hint("a dry run asks the node nothing: name the template by its VMID"));
                }
            };
            let (request, node) = (request(template)?, cx.node_name()?);
            let target = request.node.as_ref().filter(|wanted| **wanted != node);
            return cx.show(&[Call::clone_vm(&permit, &node, &request, target)]);
        }
        let cluster = cx.connect()?;
        let template = cx.vmid(&self.template, &cluster)?;
        let source = cx.guard(&self.options)?.source(template)?;
        let request = request(template)?;
        cx.ui.step(format!("Cloning VM {template} into VM {vmid} '{}'...", self.name));
        let deadline = self.options.deadline();
        let made = clone::clone(&cluster, (&source, &permit), &request, deadline, &mut cx.progress());
        if let Err(error) = made {
            // An earlier run may have made it, or have left that going.
            let conflict = error.kind() == Kind::Conflict;
            if !conflict || !cloned::is_there(&cluster, &request, deadline, &mut cx.progress())? {
                return Err(error);
            }
            let text = format!("VM {vmid} '{}' is there already, made by these tools", self.name);
            return cx.changed(vmid, false, "", &text);
        }
        cx.changed(vmid, true, &format!("VM {vmid} '{}' is a clone of {template}", self.name), "")
    }
}

/// A VMID and a name belong together where the definitions say so: the marker proves ownership by both.
fn name_fits(definitions: &Definitions, vmid: Vmid, name: &VmName) -> Result<()> {
    let path = definitions.path.display();
    if let Some(Entry::Managed(vm)) = definitions.by_vmid(vmid)
        && vm.name != *name
    {
        return Err(Error::conflict(format!("VMID {vmid} is '{}' in {path}, not '{name}'", vm.name))
            .now("nothing was sent to the node")
            .hint(format!("call it '{}', or take another VMID", vm.name)));
    }
    name_is_free(definitions, vmid, name)
}

/// No VM gets the name that the definitions give to another one.
pub(super) fn name_is_free(definitions: &Definitions, vmid: Vmid, name: &VmName) -> Result<()> {
    match definitions.by_name(name.as_str()) {
        Some(entry) if vmid_of(&entry) != vmid => {
            let path = definitions.path.display();
            Err(Error::conflict(format!("'{name}' is VMID {} in {path}, not {vmid}", vmid_of(&entry)))
                .now("nothing was sent to the node")
                .hint("take another name, or that VMID"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_vmids_belong_together() {
        let definitions = crate::testing::definitions();
        let fits =
            |vmid, name: &str| name_fits(&definitions, Vmid::new(vmid).unwrap(), &name.parse().unwrap());
        fits(110, "web").unwrap();
        fits(150, "other").unwrap();
        assert!(fits(110, "other").unwrap_err().message().starts_with("VMID 110 is 'web'"));
        assert!(fits(150, "web").unwrap_err().message().starts_with("'web' is VMID 110"));
        assert!(fits(150, "doc1").is_err());
    }
}
