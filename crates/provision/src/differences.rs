//! In which of its own fields a VM differs from its definition. Pure.
//!
//! Compared are only fields that stay ours for the VM's whole life, by name and by value: what cloud-init reads only
//! matters before the installation, and what people set besides is theirs.

use std::collections::BTreeSet;

use fleet_core::{
    child::quote,
    definitions::ManagedVm,
    types::{DiskSize, DiskSlot, MacAddr, StorageId},
};
use serde::Serialize;

use crate::{
    again,
    description::{self, Owned},
    meaning,
    settings::{self, Settings},
};

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The setting as in qm.conf(5), a part of one (`net0.tag`, `scsi0.storage`), or a disk's slot.
    pub field: String,
    /// What the VM has; empty when it has nothing.
    pub is: String,
    /// What the definition says.
    pub defined: String,
    /// Whether `provision-vm apply` brings it in line.
    pub applies: bool,
    /// What a person does about it where `apply` does not: a command, or where else to change what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
}

impl Difference {
    fn applied(field: String, is: String, defined: String) -> Difference {
        Difference { field, is, defined, applies: true, how: None }
    }

    fn left(field: String, is: String, defined: String, how: String) -> Difference {
        Difference { field, is, defined, applies: false, how: Some(how) }
    }
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

/// The differences, a line each, and below those that `apply` leaves what brings them in line.
pub fn lines(fields: &[Difference]) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        lines.push(field.to_string());
        // What brings several in line at once is said once.
        let next = fields.get(at + 1).and_then(|next| next.how.as_ref());
        lines.extend(field.how.iter().filter(|how| next != Some(how)).map(|how| format!("  {how}")));
    }
    lines
}

/// Settings that `apply` changes on a VM that exists.
const APPLIED: [&str; 7] = ["cores", "cpu", "description", "memory", "onboot", "protection", "tags"];

/// The fields that differ once `coming` holds, and the names of those that it changes.
pub fn differences(vm: &ManagedVm, now: &Settings, coming: &Settings) -> (Vec<Difference>, Vec<String>) {
    let settled = settled(now, coming);
    let mut changes = changes(vm, &settled);
    // Whose they are goes without saying where they are told themselves.
    let bare = |settings: &Settings| settings.get("description").map(|text| description::without_owned(text));
    if ["tags", "protection"].iter().any(|name| changes.contains_key(*name))
        && bare(&changes) == bare(&settled)
    {
        changes.remove("description");
    }
    let mut fields: Vec<Difference> = changes
        .into_iter()
        .map(|(field, defined)| {
            Difference::applied(field.clone(), settled.get(&field).cloned().unwrap_or_default(), defined)
        })
        .collect();
    fields.extend(name(vm, &settled));
    fields.extend(network(vm, &settled));
    fields.extend(disks(vm, &settled));
    let ours = |name: &&String| APPLIED.contains(&name.as_str()) || *name == "net0";
    let mut pending: BTreeSet<String> = coming.keys().filter(ours).cloned().collect();
    pending.extend(deleted(coming).filter(|name| APPLIED.contains(name)).map(str::to_owned));
    (fields, pending.into_iter().collect())
}

/// What `apply` has to change so that the VM says what the definition says. What is empty is taken out.
pub fn changes(vm: &ManagedVm, settled: &Settings) -> Settings {
    let mut changes = settings::changes(vm, &[], settled);
    changes.extend(description::protection(vm, settled));
    changes.extend(description::remaining_tags(vm, settled).map(|tags| ("tags".to_owned(), tags)));
    changes.remove("description");
    let text = description::text(vm, settled, &Owned::of(vm));
    let differs =
        |text: &String| !meaning::same("description", settled.get("description").map(String::as_str), text);
    changes.extend(text.filter(differs).map(|text| ("description".to_owned(), text)));
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

/// A VM that was renamed in Proxmox; our marker tells that it is the one.
fn name(vm: &ManagedVm, settled: &Settings) -> Option<Difference> {
    let is = settled.get("name").filter(|is| is.as_str() != vm.name.as_str())?;
    let how = format!("qm set {} --name {}   # on its node", vm.vmid, vm.name);
    Some(Difference::left("name".to_owned(), is.clone(), vm.name.to_string(), how))
}

/// The parts of `net0` that the definition speaks of. Changing one may cut the VM off: that is for people.
fn network(vm: &ManagedVm, settled: &Settings) -> Vec<Difference> {
    let now = settled.get("net0").map(String::as_str);
    let Some(wanted) = settings::net0(vm, now) else { return Vec::new() };
    let card = meaning::properties(now.unwrap_or_default(), "");
    let mac = card.values().find(|value| value.parse::<MacAddr>().is_ok());
    let is = |name: &str| card.get(name).map(|value| (*value).to_owned()).unwrap_or_default();
    let parts = [
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
        let how = format!(
            "qm set {} --net0 {}   # on its node; what runs in it may lose its network",
            vm.vmid,
            quote(&wanted)
        );
        Some(Difference::left(format!("net0.{name}"), is, defined, how))
    };
    parts.into_iter().filter_map(differs).collect()
}

/// A disk of the definition.
struct Disk<'a> {
    slot: String,
    size: DiskSize,
    /// The largest size that counts as the defined one: a new volume is made in whole GiB.
    largest: DiskSize,
    storage: &'a StorageId,
}

/// The disks of the definition: the one that boots, and the further ones, by their slots.
fn defined_disks<'a>(vm: &'a ManagedVm, settled: &Settings) -> Vec<Disk<'a>> {
    let boot = settings::boot_disk(settled).map(|(slot, _)| Disk {
        slot: slot.to_string(),
        size: vm.disk,
        largest: vm.disk,
        storage: &vm.storage,
    });
    let further = settings::slots(vm, settled).into_iter().map(|(slot, disk)| Disk {
        slot,
        size: disk.size,
        largest: DiskSize::from_bytes(disk.size.gib_ceil() << 30),
        storage: disk.storage.as_ref().unwrap_or(&vm.storage),
    });
    boot.into_iter().chain(further).collect()
}

/// Whether every further disk of the definition has its like on the VM. Further disks have no names, only an order: where
/// one is missing or larger than defined, the list may have been changed before its end, or somebody may have added a
/// disk by hand, and which one is meant nobody can tell.
fn further_disks_match(vm: &ManagedVm, settled: &Settings) -> bool {
    settings::slots(vm, settled).iter().all(|(slot, disk)| {
        let there = settled.get(slot).filter(|there| !settings::is_cdrom(there));
        let storage = disk.storage.as_ref().unwrap_or(&vm.storage).as_str();
        let largest = DiskSize::from_bytes(disk.size.gib_ceil() << 30);
        there.is_some_and(|there| {
            there.split_once(':').is_some_and(|(on, _)| on == storage)
                && settings::size(there).is_some_and(|is| is <= largest)
        })
    })
}

fn disks(vm: &ManagedVm, settled: &Settings) -> Vec<Difference> {
    let mut fields = Vec::new();
    let boot = settings::boot_disk(settled).map(|(slot, _)| slot.to_string());
    let all = further_disks_match(vm, settled);
    for Disk { slot, size, largest, storage } in defined_disks(vm, settled) {
        let Some(there) = settled.get(&slot) else {
            let defined = format!("{size} on {storage}");
            let size = size.to_string();
            let words = ["create-disk", vm.name.as_str(), &size, storage.as_ref(), &slot];
            let how = again::proxmox_ops(&words);
            fields.push(Difference::left(slot, String::new(), defined, how));
            continue;
        };
        if settings::is_cdrom(there) {
            let how = format!("{slot} is a CD-ROM drive: the definition's disk has no place there");
            fields.push(Difference::left(slot, there.clone(), format!("{size} on {storage}"), how));
            continue;
        }
        match settings::size(there) {
            Some(is) if is < size && !all && boot.as_ref() != Some(&slot) => {
                let resize = again::proxmox_ops(&["resize", vm.name.as_str(), &slot, &size.to_string()]);
                let how = format!(
                    "{resize}   # if {slot} is the one that is meant: the VM's further disks are not those of the definition"
                );
                fields.push(Difference::left(slot.clone(), is.to_string(), size.to_string(), how));
            }
            Some(is) if is < size => {
                fields.push(Difference::applied(slot.clone(), is.to_string(), size.to_string()));
            }
            Some(is) if is > largest => {
                let how = format!("a disk is not shrunk: write {is} in the definition of '{}'", vm.name);
                fields.push(Difference::left(slot.clone(), is.to_string(), size.to_string(), how));
            }
            _ => {}
        }
        // A linked clone is where its template is.
        let is = there.split_once(':').map(|(is, _)| is).filter(|_| !vm.linked_clone);
        if let Some(is) = is.filter(|is| *is != storage.as_str() && is.parse::<StorageId>().is_ok()) {
            let how = format!("qm disk move {} {slot} {storage} --delete 1   # on its node", vm.vmid);
            let field = format!("{slot}.storage");
            fields.push(Difference::left(field, is.to_owned(), storage.to_string(), how));
        }
    }
    fields
}

/// The disks that are smaller than defined, and the sizes that they get; of the further ones only where each has its
/// like, for growing the wrong one can not be undone.
pub fn growth(vm: &ManagedVm, settled: &Settings) -> Vec<(DiskSlot, DiskSize)> {
    let boot = settings::boot_disk(settled).map(|(slot, _)| slot.to_string());
    let all = further_disks_match(vm, settled);
    let grows = |disk: Disk<'_>| {
        if !all && boot.as_ref() != Some(&disk.slot) {
            return None;
        }
        let is = settings::size(settled.get(&disk.slot)?)?;
        (is < disk.size).then_some((disk.slot.parse().ok()?, disk.size))
    };
    defined_disks(vm, settled).into_iter().filter_map(grows).collect()
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
            format!("{MARKER}\nfleet-purpose: Testing automated provisioning\nfleet-owns: tags=a;b\nmine"),
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
        let mut lines = lines(&fields);
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
                    "description: {MARKER} | fleet-purpose: Testing automated provisioning | fleet-owns: tags=a;b | mine -> {MARKER} | fleet-purpose: Web | fleet-owns: protection tags=a;b | mine"
                ),
                "onboot: (not set) -> 1",
                "protection: (not set) -> 1",
                "net0.tag: (not set) -> 20 (not by `apply`)",
                "  qm set 110 --net0 'mtu=1400,bridge=vmbr1,virtio=BC:24:11:00:00:01,firewall=1,tag=20'   # on its node; what runs in it may lose its network",
                "scsi0: 20G -> 32G",
                "scsi1: (not set) -> 100G on nvmeprom (not by `apply`)",
                "  proxmox-ops create-disk test-automation 100G nvmeprom scsi1",
            ]
        );
        assert_eq!(growth(&vm, &same()), [("scsi0".parse().unwrap(), "32G".parse().unwrap())]);
    }

    #[test]
    fn what_the_definition_has_no_more_is_a_difference_and_what_people_set_is_none() {
        let mut vm = defined();
        vm.tags.clear();
        let mut now = same();
        now.insert("tags".into(), "a;b;mine".into());
        now.insert("protection".into(), "1".into());
        assert_eq!(shown(&vm, &now, &Settings::new()), ["tags: a;b;mine -> mine"]);
        let changed = changes(&vm, &now);
        assert_eq!(changed.keys().collect::<Vec<_>>(), ["description", "tags"]);
        now.extend(changed);
        assert_eq!(shown(&vm, &now, &Settings::new()), [""; 0]);
        assert!(!now["description"].contains("fleet-owns"), "{}", now["description"]);
        // Taken over by the definition, and left by it.
        vm.protection = true;
        let taken = changes(&vm, &now);
        assert_eq!(taken.keys().collect::<Vec<_>>(), ["description"]);
        now.extend(taken);
        vm.protection = false;
        assert_eq!(shown(&vm, &now, &Settings::new()), ["protection: 1 -> 0"]);
    }

    #[test]
    fn what_is_not_by_apply_says_how() {
        let mut vm = defined();
        vm.disk = "10G".parse().unwrap();
        vm.bridge = Some("vmbr0".parse().unwrap());
        vm.vlan = Some(20);
        vm.storage = "fast".parse().unwrap();
        let mut now = same();
        now.insert("name".into(), "renamed".into());
        assert_eq!(
            shown(&vm, &now, &Settings::new()),
            [
                "name: renamed -> test-automation (not by `apply`)",
                "  qm set 110 --name test-automation   # on its node",
                "net0.bridge: vmbr1 -> vmbr0 (not by `apply`)",
                "net0.tag: (not set) -> 20 (not by `apply`)",
                "  qm set 110 --net0 'mtu=1400,bridge=vmbr0,virtio=BC:24:11:00:00:01,firewall=1,tag=20'   # on its node; what runs in it may lose its network",
                "scsi0: 20G -> 10G (not by `apply`)",
                "  a disk is not shrunk: write 20G in the definition of 'test-automation'",
                "scsi0.storage: nvmeprom -> fast (not by `apply`)",
                "  qm disk move 110 scsi0 fast --delete 1   # on its node",
            ]
        );
        assert_eq!(growth(&vm, &now), []);
        // A linked clone's disk is where its template's is.
        vm.linked_clone = true;
        assert!(!shown(&vm, &now, &Settings::new()).concat().contains("scsi0.storage"));
    }

    #[test]
    fn further_disks_grow_too_and_whole_gib_are_no_difference() {
        let mut vm = defined();
        let disk =
            |size: &str| fleet_core::definitions::FurtherDisk { size: size.parse().unwrap(), storage: None };
        vm.disks = vec![disk("1536M"), disk("8G")];
        let mut now = same();
        now.insert("scsi1".into(), "nvmeprom:110/vm-110-disk-1.qcow2,size=2G".into());
        now.insert("scsi2".into(), "nvmeprom:110/vm-110-disk-2.qcow2,size=4096M".into());
        assert_eq!(shown(&vm, &now, &Settings::new()), ["scsi2: 4G -> 8G"]);
        assert_eq!(growth(&vm, &now), [("scsi2".parse().unwrap(), "8G".parse().unwrap())]);
    }

    #[test]
    fn a_further_disk_grows_only_where_none_is_another() {
        let mut vm = defined();
        let disk =
            |size: &str| fleet_core::definitions::FurtherDisk { size: size.parse().unwrap(), storage: None };
        let mut now = same();
        now.insert("scsi1".into(), "nvmeprom:110/vm-110-disk-1.qcow2,size=10G".into());
        // One was put before it: its slot is the other's now.
        vm.disks = vec![disk("50G"), disk("10G")];
        let resize = "  proxmox-ops resize test-automation scsi1 50G   # if scsi1 is the one that is meant: the VM's further disks are not those of the definition";
        let create = "  proxmox-ops create-disk test-automation 10G nvmeprom scsi2";
        assert_eq!(
            shown(&vm, &now, &Settings::new()),
            [
                "scsi1: 10G -> 50G (not by `apply`)",
                resize,
                "scsi2: (not set) -> 10G on nvmeprom (not by `apply`)",
                create,
            ]
        );
        assert_eq!(growth(&vm, &now), []);
        // Put in another order.
        now.insert("scsi2".into(), "nvmeprom:110/vm-110-disk-2.qcow2,size=50G".into());
        assert_eq!(growth(&vm, &now), []);
        // Somebody's, on another storage.
        vm.disks = vec![disk("50G")];
        now.insert("scsi1".into(), "slow:vm-110-disk-1,size=10G".into());
        assert_eq!(growth(&vm, &now), []);
        // cloud-init's drive.
        now.insert("scsi1".into(), "nvmeprom:vm-110-cloudinit,media=cdrom,size=4M".into());
        assert_eq!(growth(&vm, &now), []);
        assert!(shown(&vm, &now, &Settings::new()).concat().contains("scsi1 is a CD-ROM drive"));
    }

    #[test]
    fn what_is_pending_is_no_difference_any_more() {
        let mut vm = defined();
        vm.cores = 4;
        let coming = settings(&[("cores", "4"), ("delete", "onboot,vga")]);
        assert_eq!(shown(&vm, &same(), &coming), ["pending cores", "pending onboot"]);
    }
}
