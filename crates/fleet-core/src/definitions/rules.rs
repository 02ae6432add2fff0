//! Rules over several entries: nothing is taken twice, and no VM sits in a range that is for something else.

use std::collections::HashMap;

use super::{
    VmidRange,
    load::{Defined, Section, address},
};
use crate::nix::{eval::Data, reader::Reader, source::Span};

/// Ranges that a managed VM may not take its VMID from.
const RESERVED: &[(&str, &str)] = &[("containers", "containers"), ("templates", "templates")];

/// Whether managed VMs leave a range of this name to others.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|(reserved, _)| *reserved == name)
}

/// Checks what can only be seen across entries.
pub(super) fn across(reader: &mut Reader<'_>, defined: &[Defined<'_>], ranges: &[VmidRange]) {
    taken_twice(reader, defined);
    for vm in defined.iter().filter(|vm| vm.section == Section::Managed) {
        let Some(Data::Int(vmid)) = vm.fields.get("vmid").map(|attr| &attr.value.data) else { continue };
        for range in ranges {
            let Some((_, what)) = RESERVED.iter().find(|(name, _)| *name == range.name) else { continue };
            let (start, end) = (i64::from(range.start.get()), i64::from(range.end.get()));
            if (start..=end).contains(vmid) {
                let message = format!("{vmid} is reserved for {what} ({start} to {end})");
                let help = free_ranges(ranges);
                reader.add(vm.fields.value_at("vmid"), &vm.fields.join("vmid"), message, Some(help));
            }
        }
    }
}

fn free_ranges(ranges: &[VmidRange]) -> String {
    let free: Vec<String> = ranges
        .iter()
        .filter(|range| !is_reserved(&range.name))
        .map(|range| format!("{} to {} ({})", range.start, range.end, range.name))
        .collect();
    if free.is_empty() {
        "take one outside that range".to_owned()
    } else {
        format!("take one of {}", free.join(", "))
    }
}

/// The first definition of something that only one VM can have.
struct Taken {
    by: String,
    at: Option<Span>,
}

fn taken_twice(reader: &mut Reader<'_>, defined: &[Defined<'_>]) {
    let mut vmids: HashMap<i64, Taken> = HashMap::new();
    let mut names: HashMap<String, Taken> = HashMap::new();
    let mut addresses: HashMap<std::net::IpAddr, Taken> = HashMap::new();
    let mut macs: HashMap<String, Taken> = HashMap::new();
    for vm in defined {
        let fields = &vm.fields;
        if let Some(Data::Int(vmid)) = fields.get("vmid").map(|attr| &attr.value.data) {
            note(reader, &mut vmids, *vmid, vm, "vmid", &format!("VMID {vmid}"), "give each VM its own VMID");
        }
        // Names of VMs are DNS names: their case does not matter.
        if !vm.name.is_empty() {
            let field = if vm.section == Section::Template { "name" } else { "" };
            note(
                reader,
                &mut names,
                vm.name.to_ascii_lowercase(),
                vm,
                field,
                &format!("the name '{}'", vm.name),
                "give each VM its own name",
            );
        }
        let text = |name: &str| fields.get(name).and_then(|attr| attr.value.as_str());
        if let Some(address) = text("ip").and_then(address) {
            note(
                reader,
                &mut addresses,
                address,
                vm,
                "ip",
                &format!("address {address}"),
                "give each VM its own address",
            );
        }
        if let Some(mac) = text("mac") {
            note(
                reader,
                &mut macs,
                mac.to_ascii_uppercase(),
                vm,
                "mac",
                &format!("MAC address {mac}"),
                "give each VM its own, or leave it out",
            );
        }
    }
}

fn note<K: std::hash::Hash + Eq>(
    reader: &mut Reader<'_>,
    taken: &mut HashMap<K, Taken>,
    key: K,
    vm: &Defined<'_>,
    field: &str,
    what: &str,
    help: &str,
) {
    let (path, at) = if field.is_empty() {
        (vm.fields.path.clone(), vm.fields.at)
    } else {
        (vm.fields.join(field), vm.fields.value_at(field))
    };
    match taken.get(&key) {
        Some(first) => {
            let message = format!("{what} is already taken by {} ({})", first.by, reader.place(first.at));
            let fault = reader.fault(at, &path, message).help(help).conflict();
            reader.faults.push(fault);
        }
        None => {
            taken.insert(key, Taken { by: vm.fields.path.clone(), at });
        }
    }
}
