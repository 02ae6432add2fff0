//! What a VM's configuration should say, and what of that it does not say yet. Pure.
//!
//! Names and forms are those of qm.conf(5), text decoded; how they are encoded for the API is `proxmox-ops`'
//! matter.

use std::{collections::BTreeMap, net::IpAddr};

use fleet_core::{
    definitions::{Addressing, FurtherDisk, Install, ManagedVm},
    protocol::{self, CLOUDINIT_DONE, Op, VmConfig},
    types::{DiskSize, DiskSlot, MacAddr, Vmid},
};

use crate::{
    description::{self, Owned},
    meaning,
};

/// The login of the bootstrap system that nixos-anywhere starts from.
pub const BOOTSTRAP_USER: &str = "root";

/// Settings by name.
pub type Settings = BTreeMap<String, String>;

/// The settings that have to change so that `current` says what `vm` defines; empty when nothing has to.
pub fn changes(vm: &ManagedVm, keys: &[String], current: &Settings) -> Settings {
    let says = |name: &str, value: &str| meaning::same(name, current.get(name).map(String::as_str), value);
    wanted(vm, keys, current).into_iter().filter(|(name, value)| !says(name, value)).collect()
}

/// The same before NixOS is on it. A clone has its template's protection: nothing could be detached from it, and
/// nobody could destroy it, though its definition may ask for none. [`finish`] sets the definition's.
pub fn first_changes(vm: &ManagedVm, keys: &[String], current: &Settings) -> Settings {
    let mut changes = changes(vm, keys, current);
    let inherited = current.get("protection").map(String::as_str);
    if !meaning::same("protection", inherited, "0") {
        changes.insert("protection".to_owned(), "0".to_owned());
    }
    changes
}

fn wanted(vm: &ManagedVm, keys: &[String], current: &Settings) -> Settings {
    let mut settings = Settings::new();
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
    set("cores", vm.cores.to_string());
    set("memory", vm.memory.to_string());
    set("agent", "enabled=1".to_owned());
    // An image is configured by its own NixOS.
    if vm.install != Install::Image {
        cloud_init(vm, keys, current, &mut set);
    }
    if let Some(net0) = net0(vm, current.get("net0").map(String::as_str)) {
        set("net0", net0);
    }
    if !current.contains_key("serial0") {
        set("serial0", "socket".to_owned());
    }
    // Cloud images draw on the serial port only; NixOS draws on both.
    let draws_nothing = |vga: &String| {
        let kind = vga.split(',').next().unwrap_or_default();
        let kind = kind.strip_prefix("type=").unwrap_or(kind);
        kind.starts_with("serial") || kind == "none"
    };
    if current.get("vga").is_some_and(draws_nothing) {
        set("vga", "std".to_owned());
    }
    for (slot, volume) in further_disks(vm, current) {
        set(&slot, volume);
    }
    if let Some(description) = description::text(vm, current, &owned_on_the_way(vm, current)) {
        set("description", description);
    }
    if let Some(cpu) = &vm.cpu {
        set("cpu", cpu.clone());
    }
    if let Some(on_boot) = vm.on_boot {
        set("onboot", u8::from(on_boot).to_string());
    }
    if !vm.tags.is_empty() {
        set("tags", vm.tags.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(";"));
    }
    settings
}

/// What is the definition's on the way to NixOS. Nothing is taken away there: that is for `apply` and [`finish`].
fn owned_on_the_way(vm: &ManagedVm, current: &Settings) -> Owned {
    let recorded = Owned::recorded(current);
    let tags = if vm.tags.is_empty() { recorded.tags } else { Owned::of(vm).tags };
    Owned { tags, ..recorded }
}

fn cloud_init<T>(
    vm: &ManagedVm,
    keys: &[String],
    current: &Settings,
    set: &mut impl FnMut(&str, String) -> T,
) {
    set("ciuser", BOOTSTRAP_USER.to_owned());
    set("sshkeys", keys.join("\n"));
    set("ipconfig0", ipconfig(vm));
    // The image's own packages are replaced by NixOS within minutes: upgrading them only costs time.
    set("ciupgrade", "0".to_owned());
    if !vm.nameservers.is_empty() {
        set("nameserver", vm.nameservers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "));
    }
    if !has_cloudinit_drive(current) {
        set("ide2", format!("{}:cloudinit", vm.storage));
    }
}

/// Whether the cloud-init settings may not be changed any more: the description says so, or they were ours and their
/// drive is gone.
pub fn cloudinit_is_done(current: &Settings) -> bool {
    let says = |name: &str, value: &str| current.get(name).is_some_and(|there| there == value);
    let said = current.get("description").is_some_and(|text| protocol::cloudinit_is_done(text));
    let ours = says("ciuser", BOOTSTRAP_USER) && says("ciupgrade", "0") && current.contains_key("sshkeys");
    said || (ours && !has_cloudinit_drive(current))
}

/// Writes so into a description; whether it did not say so yet.
pub fn say_cloudinit_is_done(description: &mut String) -> bool {
    if protocol::cloudinit_is_done(description) {
        return false;
    }
    *description = format!("{}\n{CLOUDINIT_DONE}", description.trim_end());
    true
}

/// The request that writes down that cloud-init has done its part; nothing where that is written already.
pub fn cloudinit_done(config: &VmConfig) -> Option<Op> {
    let mut text = config.settings.get("description").cloned().unwrap_or_default();
    if !say_cloudinit_is_done(&mut text) {
        return None;
    }
    Some(Op::Configure {
        vmid: config.vmid,
        settings: [("description".to_owned(), text)].into(),
        delete: Vec::new(),
        digest: Some(config.digest.clone()),
    })
}

/// The further disks of the definition with their slots: those after the boot disk's, on its bus.
pub fn slots<'a>(vm: &'a ManagedVm, current: &Settings) -> Vec<(String, &'a FurtherDisk)> {
    let boot = boot_disk(current).map_or_else(|| "scsi0".to_owned(), |(slot, _)| slot.to_string());
    let bus = boot.trim_end_matches(|c: char| c.is_ascii_digit());
    let first: usize = boot[bus.len()..].parse().unwrap_or(0);
    let slot = |(number, disk)| (format!("{bus}{}", first + 1 + number), disk);
    vm.disks.iter().enumerate().map(slot).collect()
}

/// The further disks that are not there yet, by their slots.
pub fn further_disks(vm: &ManagedVm, current: &Settings) -> Vec<(String, String)> {
    let volume = |(slot, disk): (String, &FurtherDisk)| {
        let storage = disk.storage.as_ref().unwrap_or(&vm.storage);
        (slot, format!("{storage}:{}", disk.size.gib_ceil()))
    };
    slots(vm, current).into_iter().filter(|(slot, _)| !current.contains_key(slot)).map(volume).collect()
}

fn ipconfig(vm: &ManagedVm) -> String {
    match vm.addressing {
        Addressing::Dhcp => "ip=dhcp".to_owned(),
        Addressing::Static(cidr) => {
            let six = if cidr.address.is_ipv4() { "" } else { "6" };
            let gateway = vm.gateway.map(|gateway| format!(",gw{six}={gateway}")).unwrap_or_default();
            format!("ip{six}={cidr}{gateway}")
        }
    }
}

/// Whether some drive holds cloud-init's documents already (a clone may inherit one).
pub fn has_cloudinit_drive(settings: &Settings) -> bool {
    cloudinit_drive(settings).is_some()
}

/// The slot of the cloud-init drive, if there is one.
pub fn cloudinit_drive(settings: &Settings) -> Option<&str> {
    settings
        .iter()
        .find(|(name, value)| {
            is_drive(name) && value.split(',').next().is_some_and(|v| v.contains("cloudinit"))
        })
        .map(|(name, _)| name.as_str())
}

/// Whether a drive's setting is one of a CD-ROM drive, such as cloud-init's.
pub fn is_cdrom(value: &str) -> bool {
    value.split(',').any(|part| part == "media=cdrom" || part.contains("cloudinit"))
}

/// Whether a setting of this name holds a volume: a drive, or the firmware's.
pub fn is_volume(name: &str) -> bool {
    is_drive(name) || matches!(name, "efidisk0" | "tpmstate0")
}

/// The bridge that Proxmox's installer makes: where a VM is whose definition and template name none.
pub const USUAL_BRIDGE: &str = "vmbr0";

/// The request that changes these settings.
pub fn configure(vmid: Vmid, settings: Settings) -> Op {
    Op::Configure { vmid, settings, delete: Vec::new(), digest: None }
}

/// The request at the end: it takes the cloud-init drive away, and protects the VM when the definition says so, or no
/// more when it did. Nothing when there is nothing to do.
pub fn finish(vm: &ManagedVm, drive: Option<&str>, current: &Settings) -> Option<Op> {
    let mut settings: Settings = description::protection(vm, current).into_iter().collect();
    let owned = Owned { protection: vm.protection, ..owned_on_the_way(vm, current) };
    if owned.protection != Owned::recorded(current).protection {
        settings.extend(description::text(vm, current, &owned).map(|text| ("description".to_owned(), text)));
    }
    let delete: Vec<String> = drive.into_iter().map(str::to_owned).collect();
    (!settings.is_empty() || !delete.is_empty()).then_some(Op::Configure {
        vmid: vm.vmid,
        settings,
        delete,
        digest: None,
    })
}

fn is_drive(name: &str) -> bool {
    name.parse::<DiskSlot>().is_ok()
}

/// `net0` as the definition wants it, keeping what it does not speak of; nothing when it speaks of nothing.
pub fn net0(vm: &ManagedVm, current: Option<&str>) -> Option<String> {
    if current.is_some() && vm.bridge.is_none() && vm.vlan.is_none() && vm.mac.is_none() && vm.mtu.is_none() {
        return None;
    }
    let mut parts: Vec<(String, String)> = match current {
        Some(text) => text
            .split(',')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        None => vec![("virtio".to_owned(), String::new()), ("bridge".to_owned(), USUAL_BRIDGE.to_owned())],
    };
    let mut set = |name: &str, value: String| match parts.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => parts.push((name.to_owned(), value)),
    };
    if let Some(bridge) = &vm.bridge {
        set("bridge", bridge.to_string());
    }
    if let Some(vlan) = vm.vlan {
        set("tag", vlan.to_string());
    }
    if let Some(mtu) = vm.mtu {
        set("mtu", mtu.to_string());
    }
    if let Some(mac) = vm.mac {
        // The model carries the address: `virtio=BC:24:11:…`; without one it stands alone, `virtio`.
        let at = parts.iter().position(|(_, value)| value.is_empty() || value.parse::<MacAddr>().is_ok());
        if let Some(model) = at.and_then(|at| parts.get_mut(at)) {
            model.1 = mac.to_string();
        }
    }
    let text =
        |(name, value): (String, String)| if value.is_empty() { name } else { format!("{name}={value}") };
    Some(parts.into_iter().map(text).collect::<Vec<_>>().join(","))
}

/// The disk that the VM boots from and its size now: the first of `boot: order=…` that is a disk with a size,
/// else the first disk there is.
pub fn boot_disk(settings: &Settings) -> Option<(DiskSlot, DiskSize)> {
    let ordered = settings
        .get("boot")
        .and_then(|boot| boot.strip_prefix("order="))
        .into_iter()
        .flat_map(|order| order.split(';'));
    let all = settings.keys().map(String::as_str);
    ordered.chain(all).find_map(|name| {
        let slot: DiskSlot = name.parse().ok()?;
        let value = settings.get(name)?;
        if value.contains("media=cdrom") || value.contains("cloudinit") {
            return None;
        }
        Some((slot, size(value)?))
    })
}

/// The size that a disk's setting tells.
pub fn size(disk: &str) -> Option<DiskSize> {
    disk.split(',').find_map(|part| part.strip_prefix("size="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::vm;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_fresh_clone_gets_everything_and_then_nothing_more() {
        let vm = vm();
        let keys = ["ssh-ed25519 AAAA a".to_owned(), "ssh-ed25519 BBBB b".to_owned()];
        let mut current = settings(&[
            ("cores", "1"),
            ("memory", "2048"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("scsi0", "nvmeprom:110/vm-110-disk-0.qcow2,size=2G"),
        ]);
        let changed = changes(&vm, &keys, &current);
        assert_eq!(
            changed,
            settings(&[
                ("agent", "enabled=1"),
                ("ciuser", "root"),
                ("ciupgrade", "0"),
                ("cores", "2"),
                ("ide2", "nvmeprom:cloudinit"),
                ("ipconfig0", "ip=dhcp"),
                ("memory", "4096"),
                ("serial0", "socket"),
                ("sshkeys", "ssh-ed25519 AAAA a\nssh-ed25519 BBBB b"),
            ])
        );
        current.extend(changed);
        current.insert("ide2".into(), "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom".into());
        current.insert("agent".into(), "1,fstrim_cloned_disks=1".into());
        current.insert("sshkeys".into(), "ssh-ed25519 AAAA a\nssh-ed25519 BBBB b\n".into());
        assert_eq!(changes(&vm, &keys, &current), Settings::new());
    }

    #[test]
    fn a_template_s_protection_is_not_the_clone_s() {
        let mut vm = vm();
        let protected = settings(&[("cores", "1"), ("protection", "1")]);
        for asked in [false, true] {
            vm.protection = asked;
            assert_eq!(first_changes(&vm, &[], &protected)["protection"], "0");
            assert!(!first_changes(&vm, &[], &settings(&[("cores", "1")])).contains_key("protection"));
        }
        // What people set on a VM that is finished is theirs.
        vm.protection = false;
        assert!(!changes(&vm, &[], &protected).contains_key("protection"));
    }

    #[test]
    fn cloud_init_is_done_when_it_is_said_or_its_drive_is_gone() {
        let mut now = settings(&[("ciuser", "root"), ("ciupgrade", "0"), ("sshkeys", "ssh-ed25519 AAAA")]);
        assert!(cloudinit_is_done(&now));
        now.insert("ide2".into(), "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom".into());
        assert!(!cloudinit_is_done(&now));
        now.insert("description".into(), format!("mine\n{CLOUDINIT_DONE}\nmore"));
        assert!(cloudinit_is_done(&now));
        // A fresh clone of a template without a drive.
        assert!(!cloudinit_is_done(&settings(&[("ciuser", "ubuntu"), ("sshkeys", "ssh-ed25519 AAAA")])));
    }

    #[test]
    fn the_network_card_keeps_what_the_definition_does_not_speak_of() {
        let mut vm = vm();
        let now = "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1";
        assert_eq!(net0(&vm, Some(now)), None);
        vm.vlan = Some(20);
        vm.bridge = Some("vmbr1".parse().unwrap());
        assert_eq!(net0(&vm, Some(now)).unwrap(), "virtio=BC:24:11:00:00:01,bridge=vmbr1,firewall=1,tag=20");
        vm.mac = Some("02:00:00:00:00:07".parse().unwrap());
        assert_eq!(net0(&vm, Some(now)).unwrap(), "virtio=02:00:00:00:00:07,bridge=vmbr1,firewall=1,tag=20");
        assert_eq!(net0(&vm, None).unwrap(), "virtio=02:00:00:00:00:07,bridge=vmbr1,tag=20");
        let order = settings(&[("net0", "tag=20,firewall=1,bridge=vmbr1,virtio=02:00:00:00:00:07")]);
        assert!(!changes(&vm, &[], &order).contains_key("net0"));
    }

    #[test]
    fn a_fixed_address_carries_its_gateway() {
        let mut vm = vm();
        vm.addressing = Addressing::Static("192.0.2.10/24".parse().unwrap());
        vm.gateway = Some("192.0.2.1".parse().unwrap());
        assert_eq!(ipconfig(&vm), "ip=192.0.2.10/24,gw=192.0.2.1");
        vm.addressing = Addressing::Static("2001:db8::10/64".parse().unwrap());
        vm.gateway = Some("2001:db8::1".parse().unwrap());
        assert_eq!(ipconfig(&vm), "ip6=2001:db8::10/64,gw6=2001:db8::1");
    }

    #[test]
    fn the_boot_disk_is_the_one_that_boots() {
        let now = settings(&[
            ("boot", "order=ide2;virtio1;scsi0"),
            ("efidisk0", "nvmeprom:110/vm-110-disk-1.qcow2,size=528K"),
            ("ide2", "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom,size=4M"),
            ("scsi0", "nvmeprom:110/vm-110-disk-0.qcow2,size=2G"),
            ("virtio1", "nvmeprom:110/vm-110-disk-2.qcow2,size=23.5G"),
        ]);
        let (slot, size) = boot_disk(&now).unwrap();
        assert_eq!((slot.as_str(), size.to_string().as_str()), ("virtio1", "24064M"));
        assert_eq!(boot_disk(&settings(&[("scsihw", "virtio-scsi-pci")])), None);
    }
}
