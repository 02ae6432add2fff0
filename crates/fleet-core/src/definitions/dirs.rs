//! Where managed VMs have their NixOS configuration, by the value of the definitions itself: what is wrong with other
//! fields of a VM does not matter for it.

use super::{
    load::{MANAGED, VERBS},
    managed::is_component,
    nearest,
};
use crate::{
    nix::eval::{Attr, Value},
    types::VmName,
};

/// The directory of a managed VM that is to be installed.
pub(crate) struct Dir {
    /// Attribute name of the VM.
    pub vm: String,
    /// The directory's name under `hosts/`.
    pub name: String,
}

impl Dir {
    /// Those of all managed VMs of which it is known that there must be one, and which.
    pub(crate) fn all(definitions: &Value) -> Vec<Dir> {
        let managed = definitions.get("managed").and_then(|section| section.value.attrs());
        managed.into_iter().flatten().filter_map(Dir::of).collect()
    }

    fn of(vm: &Attr) -> Option<Dir> {
        let fields = vm.value.attrs()?;
        // It may be meant by a field that is misspelt.
        let is_absent = |known: &str| {
            let other = |attr: &Attr| !MANAGED.contains(&attr.name.as_ref());
            let meant = |attr: &Attr| nearest(&attr.name, MANAGED.iter().copied()) == Some(known);
            !fields.iter().any(|attr| other(attr) && meant(attr))
        };
        let installed = match vm.value.get("install") {
            Some(install) => matches!(install.value.as_str(), Some("nixos-anywhere" | "image")),
            None => is_absent("install"),
        };
        let name = match vm.value.get("nixosConfig") {
            Some(name) => name.value.as_str().filter(|name| is_component(name)),
            None => Some(vm.name.as_ref()).filter(|name| is_absent("nixosConfig") && is_name(name)),
        };
        name.filter(|_| installed).map(|name| Dir { vm: vm.name.to_string(), name: name.to_owned() })
    }
}

/// Whether a managed VM may have this name: one that it may not have is going to be another.
fn is_name(name: &str) -> bool {
    name.parse::<VmName>().is_ok() && !VERBS.contains(&name) && !name.bytes().all(|b| b.is_ascii_digit())
}
