//! In which of its own fields a VM differs from its definition. Pure.
//!
//! Compared are only fields that stay ours for the VM's whole life, by name and by value: what cloud-init reads only
//! matters before the installation, and what people set besides is theirs.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::definitions::ManagedVm;
use serde::Serialize;

use crate::settings::{self, Settings};

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The setting as in qm.conf(5), a part of one (`net0.tag`), or a disk's slot.
    pub field: String,
    /// What the VM has; empty when it has nothing.
    pub is: String,
    /// What the definition says.
    pub defined: String,
    /// Whether `provision-vm apply` brings it in line.
    pub applies: bool,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| match text {
            "" => "(not set)".to_owned(),
            text => text.replace('\n', " | "),
        };
        write!(f, "{}: {} -> {}", self.field, shown(&self.is), shown(&self.defined))?;
        if self.applies { Ok(()) } else { f.write_str(" (not by `apply`)") }
    }
}

/// Settings that `apply` changes on a VM that exists.
const APPLIED: [&str; 7] = ["cores", "cpu", "description", "memory", "onboot", "protection", "tags"];

/// The fields that differ once `coming` holds, and the names of those that it changes.
pub fn differences(vm: &ManagedVm, now: &Settings, coming: &Settings) -> (Vec<Difference>, Vec<String>) {
    let settled = settled(now, coming);
    let changes = changes(vm, &settled);
    let mut fields: Vec<Difference> = changes
        .into_iter()
        .map(|(field, defined)| Difference {
            is: settled.get(&field).cloned().unwrap_or_default(),
            field,
            defined,
            applies: true,
        })
        .collect();
    fields.extend(network(vm, &settled));
    if let Some((slot, size)) = settings::boot_disk(&settled).filter(|(_, size)| *size != vm.disk) {
        fields.push(Difference {
            field: slot.to_string(),
            is: size.to_string(),
            defined: vm.disk.to_string(),
            applies: size < vm.disk,
        });
    }
    for (slot, volume) in settings::further_disks(vm, &settled) {
        fields.push(Difference { field: slot, is: String::new(), defined: volume, applies: false });
    }
    let ours = |name: &&String| APPLIED.contains(&name.as_str()) || *name == "net0";
    let mut pending: BTreeSet<String> = coming.keys().filter(ours).cloned().collect();
    pending.extend(deleted(coming).filter(|name| APPLIED.contains(name)).map(str::to_owned));
    (fields, pending.into_iter().collect())
}

/// What `apply` has to change so that the VM says what the definition says.
pub fn changes(vm: &ManagedVm, settled: &Settings) -> Settings {
    let mut changes = settings::changes(vm, &[], settled);
    changes.extend(settings::protection(vm, settled));
    changes.retain(|name, _| APPLIED.contains(&name.as_str()));
    changes
}

/// What will hold when pending changes do.
pub fn settled(now: &Settings, coming: &Settings) -> Settings {
    let mut settled = now.clone();
    settled.extend(coming.iter().filter(|(name, _)| *name != "delete").map(|(n, v)| (n.clone(), v.clone())));
    deleted(coming).for_each(|name| drop(settled.remove(name)));
    settled
}

fn deleted(coming: &Settings) -> impl Iterator<Item = &str> {
    let names = coming.get("delete").map_or("", String::as_str).split([',', ' ', ';']);
    names.map(|name| name.trim_start_matches('!')).filter(|name| !name.is_empty())
}

/// The parts of `net0` that the definition speaks of. Changing one may cut the VM off: that is for people.
fn network(vm: &ManagedVm, settled: &Settings) -> Vec<Difference> {
    let card: BTreeMap<&str, &str> =
        settled.get("net0").map(|card| settings::net_parts(card)).unwrap_or_default();
    let mac = card.values().find(|value| value.parse::<fleet_core::types::MacAddr>().is_ok());
    let is = |name: &str| card.get(name).map(|value| (*value).to_owned()).unwrap_or_default();
    let wanted = [
        ("bridge", is("bridge"), vm.bridge.as_ref().map(ToString::to_string)),
        ("tag", is("tag"), vm.vlan.map(|vlan| vlan.to_string())),
        ("mtu", is("mtu"), vm.mtu.map(|mtu| mtu.to_string())),
        (
            "mac",
            mac.map(|mac| mac.to_ascii_uppercase()).unwrap_or_default(),
            vm.mac.map(|mac| mac.to_string()),
        ),
    ];
    let differs = |(name, is, defined): (&str, String, Option<String>)| {
        let defined = defined.filter(|defined| *defined != is)?;
        Some(Difference { field: format!("net0.{name}"), is, defined, applies: false })
    };
    wanted.into_iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::vm;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const MARKER: &str = "fleet-vm: name=test-automation vmid=110 nonce=0123456789abcdef0123456789abcdef";

    fn same() -> Settings {
        let mut same = settings(&[
            ("cores", "2"),
            ("memory", "4096"),
            ("scsi0", "nvmeprom:110/vm-110-disk-0.qcow2,size=20480M"),
            ("tags", "a;b"),
            ("sshkeys", "whatever cloud-init was told then"),
            ("net0", "mtu=1400,bridge=vmbr1,virtio=bc:24:11:00:00:01,firewall=1"),
        ]);
        same.insert(
            "description".into(),
            format!("{MARKER}\nfleet-purpose: Testing automated provisioning\nmine"),
        );
        same
    }

    fn defined() -> ManagedVm {
        let mut vm = vm();
        vm.tags = ["b".parse().unwrap(), "a".parse().unwrap()].to_vec();
        vm.on_boot = Some(false);
        vm.mtu = Some(1400);
        vm.mac = Some("BC:24:11:00:00:01".parse().unwrap());
        vm
    }

    fn shown(vm: &ManagedVm, now: &Settings, coming: &Settings) -> Vec<String> {
        let (fields, pending) = differences(vm, now, coming);
        let mut lines: Vec<String> = fields.iter().map(ToString::to_string).collect();
        lines.extend(pending.iter().map(|name| format!("pending {name}")));
        lines
    }

    #[test]
    fn sizes_tags_booleans_and_network_cards_are_compared_by_meaning() {
        assert_eq!(shown(&defined(), &same(), &Settings::new()), [""; 0]);
    }

    #[test]
    fn every_difference_is_told_with_both_sides() {
        let mut vm = defined();
        vm.cores = 4;
        vm.disk = "32G".parse().unwrap();
        vm.on_boot = Some(true);
        vm.vlan = Some(20);
        vm.protection = true;
        vm.purpose = Some("Web".into());
        vm.disks =
            vec![fleet_core::definitions::FurtherDisk { size: "100G".parse().unwrap(), storage: None }];
        assert_eq!(
            shown(&vm, &same(), &Settings::new()),
            [
                "cores: 2 -> 4",
                &format!(
                    "description: {MARKER} | fleet-purpose: Testing automated provisioning | mine -> {MARKER} | fleet-purpose: Web | mine"
                ),
                "onboot: (not set) -> 1",
                "protection: (not set) -> 1",
                "net0.tag: (not set) -> 20 (not by `apply`)",
                "scsi0: 20G -> 32G",
                "scsi1: (not set) -> nvmeprom:100 (not by `apply`)",
            ]
        );
        vm.disk = "10G".parse().unwrap();
        assert!(
            shown(&vm, &same(), &Settings::new()).contains(&"scsi0: 20G -> 10G (not by `apply`)".to_owned())
        );
    }

    #[test]
    fn what_is_pending_is_no_difference_any_more() {
        let mut vm = defined();
        vm.cores = 4;
        let coming = settings(&[("cores", "4"), ("delete", "onboot,vga")]);
        assert_eq!(shown(&vm, &same(), &coming), ["pending cores", "pending onboot"]);
    }
}
