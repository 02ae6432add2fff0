//! What the node and the cluster must have for a VM.

use std::net::IpAddr;

use fleet_core::{
    Error,
    definitions::{Install, ManagedVm},
    protocol::{ClusterConfig, IMAGES, ResourceKind, Storage, UploadPlace, VmConfig},
    types::{Cidr, NodeName, StorageId, Vmid},
    validate,
};

use super::{Boots, conflict, fixed_address};
use crate::{
    again,
    installed::{self, Installed},
    place,
    preflight::Faults,
    settings,
    world::World,
};

/// Memory that kexec and the installer need, in MiB (nixos-anywhere's own documentation: 1.5 GB, swap does not
/// count).
const INSTALLER_MEMORY: u64 = 1500;
/// Releases of Proxmox VE that these tools were held against.
const KNOWN_RELEASES: [u32; 2] = [8, 9];

/// Adds every fault of the node and the cluster. `install` is how the installed system boots; `creates` says that
/// the VM does not exist yet.
pub(super) fn add(
    vm: &ManagedVm,
    template: Option<Vmid>,
    world: &World,
    install: Option<Boots>,
    creates: bool,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) {
    warnings.extend(release(world));
    warnings.extend(validate::without_gateway(vm));
    let mut found = Vec::new();
    // One on which NixOS is gets no installer.
    let there = world.existing.as_ref().filter(|_| !creates);
    let installed = there.is_some_and(|(config, _)| installed::of(vm, config, world) == Installed::Yes);
    let installer = install.is_some() && vm.install == Install::NixosAnywhere && !installed;
    if installer && vm.memory < INSTALLER_MEMORY {
        let fault = Error::failed(format!(
            "memory = {} MiB, but the NixOS installer needs at least {INSTALLER_MEMORY}",
            vm.memory
        ));
        found.push(fault.hint(format!("give managed.{} memory = {INSTALLER_MEMORY} or more", vm.name)));
    }
    found.extend(taken_mac(vm, world));
    found.extend(taken_address(vm, world));
    warnings.extend(unseen(vm, world));
    warnings.extend(unasked(vm, world));
    if creates {
        // Without a node for it there is nothing to look at.
        let target = world.target.as_ref();
        found.extend(target.and_then(|target| bridge(vm, target, world)));
        warnings.extend(target.and_then(|target| together(target, world)));
        if let Some(place) = &world.place {
            found.extend(not_root(place, world));
            warnings.extend(little_room(vm, place, target));
        }
        match (template, &world.template) {
            (None, _) => found.extend(image_fault(vm, install)),
            (Some(template), None) => found.push(no_template(template, world)),
            (Some(template), Some(config)) => {
                found.extend(template_fault(template, config, install));
                found.extend(target.and_then(|target| template_place(vm, template, config, target, world)));
                found.extend(taken_slots(vm, template, config));
                warnings.extend(secure_boot(template, config, install));
            }
        }
        found.extend(target.map(|_| storages(vm, world)).into_iter().flatten());
        found.extend(target.map(|target| machine(vm, target, world)).into_iter().flatten());
    }
    found.into_iter().for_each(|fault| faults.add(fault));
}

fn release(world: &World) -> Option<String> {
    let version = &world.node.version;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    (!KNOWN_RELEASES.contains(&major)).then(|| {
        format!("node {} runs Proxmox VE {version}; these tools know releases 8 and 9", world.node.node)
    })
}

/// Somebody else's network card with the defined MAC address.
fn taken_mac(vm: &ManagedVm, world: &World) -> Option<Error> {
    let mac = vm.mac?;
    let other = others(vm, world).find(|other| other.macs.contains(&mac))?;
    Some(
        conflict(format!("the MAC address {mac} is taken by {}", describe(other)))
            .hint(format!("give managed.{} another one, or leave `mac` out: Proxmox makes one", vm.name)),
    )
}

/// Somebody else with the defined address: in cloud-init's settings or a container's, or a machine that answers to it.
fn taken_address(vm: &ManagedVm, world: &World) -> Option<Error> {
    let address = fixed_address(vm)?;
    let by_settings = others(vm, world).find(|other| addresses(other).any(|taken| taken == address));
    let by_answer = || {
        let holder = world.holder.as_ref()?;
        let Some(mac) = holder.mac else { return Some(format!("node {} itself", holder.node)) };
        if vm.mac == Some(mac) {
            return None;
        }
        let known = others(vm, world).find(|other| other.macs.contains(&mac)).map(describe);
        Some(known.unwrap_or_else(|| {
            format!("a machine with the MAC address {mac}, which answered node {}", holder.node)
        }))
    };
    let other = by_settings.map(describe).or_else(by_answer)?;
    Some(
        conflict(format!("the address {address} is taken by {other}"))
            .hint(format!("give managed.{} another `ip`, or the other one", vm.name)),
    )
}

/// An account that may not read the cluster's files sees the configuration of this node's VMs alone.
fn unseen(vm: &ManagedVm, world: &World) -> Option<String> {
    if vm.mac.is_none() && fixed_address(vm).is_none() {
        return None;
    }
    let seen = |vmid: Vmid| world.configs.iter().any(|config| config.vmid == vmid);
    let count = world.resources.iter().filter(|resource| !seen(resource.vmid)).count();
    (count > 0).then(|| {
        format!(
            "this account can not see the settings of {count} of the cluster's VMs and containers: whether they have the defined MAC or IP address is not known"
        )
    })
}

/// A node that can not ask the network leaves what the configurations tell.
fn unasked(vm: &ManagedVm, world: &World) -> Option<String> {
    let (address, why) = (fixed_address(vm)?, world.unasked.as_ref()?);
    Some(format!(
        "whether another machine answers to {address} could not be asked, and is not known: {why}; only the configurations in the cluster were looked at"
    ))
}

fn others<'a>(vm: &'a ManagedVm, world: &'a World) -> impl Iterator<Item = &'a ClusterConfig> {
    world.configs.iter().filter(|other| other.vmid != vm.vmid)
}

/// What it is called: a container by its host name.
pub(super) fn name(other: &ClusterConfig) -> Option<&String> {
    other.settings.get("name").or_else(|| other.settings.get("hostname"))
}

pub(super) fn describe(other: &ClusterConfig) -> String {
    let kind = if other.kind == ResourceKind::Lxc { "container" } else { "VM" };
    let name = name(other).map(|name| format!(" '{name}'")).unwrap_or_default();
    format!("{kind} {}{name} on node {}", other.vmid, other.node)
}

fn addresses(other: &ClusterConfig) -> impl Iterator<Item = IpAddr> {
    let settings =
        other.settings.iter().filter(|(key, _)| key.starts_with("ipconfig") || key.starts_with("net"));
    settings
        .flat_map(|(_, value)| value.split(','))
        .filter_map(|part| part.strip_prefix("ip=").or_else(|| part.strip_prefix("ip6=")))
        .filter_map(|text| text.parse::<Cidr>().map(|cidr| cidr.address).ok().or_else(|| text.parse().ok()))
}

/// The bridge that the definition names, or else the template's own.
fn bridge(vm: &ManagedVm, target: &NodeName, world: &World) -> Option<Error> {
    let bridges = world.bridges.as_ref()?;
    let of_template = || {
        let card = world.template.as_ref()?.settings.get("net0")?;
        card.split(',').find_map(|part| part.strip_prefix("bridge="))
    };
    let (bridge, whose) = match (&vm.bridge, of_template()) {
        (Some(bridge), _) => (bridge.as_str(), ""),
        (None, Some(bridge)) => (bridge, ", which the template's network card is on,"),
        (None, None) => (settings::USUAL_BRIDGE, ", which the VM is on where nothing names another,"),
    };
    (!bridges.iter().any(|b| b == bridge)).then(|| {
        Error::failed(format!(
            "bridge '{bridge}'{whose} does not exist on node {target} (there are: {})",
            bridges.join(", ")
        ))
    })
}

/// A VM beside one that it should not share a node with is as it was asked for, or the best that there is.
fn together(target: &NodeName, world: &World) -> Option<String> {
    (!world.beside.is_empty()).then(|| {
        format!(
            "it will be on node {target} with {}, which antiAffinity is to keep apart",
            world.beside.join(", ")
        )
    })
}

/// An image is imported by its path on the node, which Proxmox lets root do, and no token.
fn not_root(place: &UploadPlace, world: &World) -> Option<Error> {
    (!place.root).then(|| {
        Error::refused(format!(
            "install = \"image\" needs root on node {}: an API token may not import a file",
            world.node.node
        ))
        .hint("log in as root (`user = \"root\"` in `proxmox`, no PROXMOX_TOKEN), or use install = \"nixos-anywhere\"")
    })
}

/// How large the image will be shows when it is built: at most as large as the disk.
fn little_room(vm: &ManagedVm, place: &UploadPlace, target: Option<&NodeName>) -> Option<String> {
    let free = place.available.filter(|free| *free < vm.disk.bytes())?;
    let node = target.map(|node| format!(" {node}")).unwrap_or_default();
    Some(format!(
        "{IMAGES} on node{node} has {} GiB free: an image as large as the disk ({}) does not fit",
        free >> 30,
        vm.disk
    ))
}

/// What Proxmox and QEMU refuse at the start alone: more cores or more memory than the node has.
fn machine(vm: &ManagedVm, target: &NodeName, world: &World) -> Vec<Error> {
    let Some(room) = &world.room else { return Vec::new() };
    let mut found = Vec::new();
    if let Some(cpu) = room.cpu.filter(|cpu| *cpu < u64::from(vm.cores)) {
        let fault = Error::failed(format!(
            "cores = {}, but node {target} has {cpu} CPUs: the VM would not start",
            vm.cores
        ));
        found.push(fault.hint(format!("give managed.{} fewer cores, or another node", vm.name)));
    }
    let wanted = vm.memory.saturating_mul(1 << 20);
    if let Some(memory) = room.maxmem.filter(|memory| *memory < wanted) {
        let fault = Error::failed(format!(
            "memory = {} MiB, but node {target} has {} MiB: the VM would not start",
            vm.memory,
            memory >> 20
        ));
        found.push(fault.hint(format!("give managed.{} less memory, or another node", vm.name)));
    }
    found
}

fn no_template(template: Vmid, world: &World) -> Error {
    Error::failed(format!(
        "template {template} does not exist on node {}; make one, or name another in vms/definitions.nix",
        world.node.node
    ))
    .hint(format!("`{}` makes one from a cloud image", again::proxmox_ops(&["create-template"])))
}

fn template_fault(template: Vmid, config: &VmConfig, install: Option<Boots>) -> Option<Error> {
    let setting = |name: &str| config.settings.get(name).map_or("", String::as_str);
    if setting("template") != "1" {
        return Some(Error::failed(format!("VM {template} is not a template")).hint(format!(
            "name another in vms/definitions.nix; `{}` makes one from a cloud image",
            again::proxmox_ops(&["create-template"])
        )));
    }
    let uefi = setting("bios") == "ovmf";
    let why = match (install, uefi) {
        (Some(Boots::Uefi), false) => "boots by BIOS, but the host's disko.nix lays out an ESP",
        (Some(Boots::Bios), true) => {
            "boots by UEFI, but the host's disko.nix lays out a BIOS boot partition and no ESP"
        }
        _ => return None,
    };
    Some(Error::failed(format!("template {template} {why}: it would never boot")).hint(format!(
        "`{}` makes one that boots by UEFI; or change the layout",
        again::proxmox_ops(&["create-template"])
    )))
}

/// A VM that starts from an image is made to boot by UEFI.
fn image_fault(vm: &ManagedVm, install: Option<Boots>) -> Option<Error> {
    (vm.install == Install::Image && install == Some(Boots::Bios)).then(|| {
        Error::failed(
            "a VM made of an image boots by UEFI, but the host's disko.nix lays out a BIOS boot partition and no ESP: it would never boot",
        )
        .hint(format!("lay out an ESP in hosts/{}/disko.nix; `provision-vm new` writes such a layout", vm.name))
    })
}

/// Where the VM's further disks go, the template must have nothing.
fn taken_slots(vm: &ManagedVm, template: Vmid, config: &VmConfig) -> Option<Error> {
    let (slot, there) = settings::slots(vm, &config.settings)
        .into_iter()
        .find_map(|(slot, _)| config.settings.get(&slot).map(|there| (slot, there)))?;
    Some(
        Error::failed(format!(
            "a further disk of the definition goes to {slot}, and template {template} has {there} there"
        ))
        .hint(format!("take {slot} out of the template, or `disks` out of managed.{}", vm.name)),
    )
}

fn secure_boot(template: Vmid, config: &VmConfig, install: Option<Boots>) -> Option<String> {
    let keys = config.settings.get("efidisk0")?.split(',').any(|part| part == "pre-enrolled-keys=1");
    (keys && matches!(install, Some(Boots::Uefi | Boots::Any))).then(|| {
        format!(
            "template {template} has Secure Boot keys enrolled: a NixOS that is not signed will not boot; \
             make the template with pre-enrolled-keys=0"
        )
    })
}

/// A template on another node is cloned there, and handed over: on storages that both nodes have.
fn template_place(
    vm: &ManagedVm,
    template: Vmid,
    config: &VmConfig,
    target: &NodeName,
    world: &World,
) -> Option<Error> {
    if config.node == *target {
        return None;
    }
    let shared = |name: &str| world.storages.iter().any(|s| s.storage.as_str() == name && s.shared);
    let Some(local) = place::template_storages(config).into_iter().find(|name| !shared(name)) else {
        return (!vm.linked_clone && !shared(vm.storage.as_str())).then(|| {
            Error::failed(format!(
                "template {template} is on node {}, and storage '{}' is not shared: node {} can not clone onto it for node {target}",
                config.node, vm.storage, config.node
            ))
            .hint(format!(
                "make a template on node {target} too, or give managed.{} a shared storage",
                vm.name
            ))
        });
    };
    Some(
        Error::failed(format!(
            "template {template} is on node {}, its storage '{local}' is not shared: node {target} can not clone it",
            config.node
        ))
        .hint(format!("make a template on node {target} too, or put this one on shared storage")),
    )
}

/// Every storage that disks go to: there, for images, with room for all of them.
fn storages(vm: &ManagedVm, world: &World) -> Vec<Error> {
    let template = world.template.as_ref().and_then(|config| settings::boot_disk(&config.settings));
    place::needs(vm, template.map(|(_, size)| size))
        .into_iter()
        .filter_map(|(name, bytes)| storage(name, bytes, &world.storages))
        .collect()
}

/// What keeps a disk of so many bytes from being put on a storage.
pub(crate) fn storage(name: &StorageId, bytes: u64, storages: &[Storage]) -> Option<Error> {
    let images = |s: &&Storage| s.active && s.content.iter().any(|c| c == "images");
    let Some(storage) = storages.iter().find(|s| s.storage == *name) else {
        let fit: Vec<&str> = storages.iter().filter(images).map(|s| s.storage.as_str()).collect();
        return Some(Error::failed(format!(
            "storage '{name}' does not exist (for disks there are: {})",
            fit.join(", ")
        )));
    };
    if !storage.active {
        return Some(Error::failed(format!("storage '{name}' is not active")));
    }
    if !images(&storage) {
        return Some(Error::failed(format!(
            "storage '{name}' takes no disk images (only {})",
            storage.content.join(", ")
        )));
    }
    let free = storage.available?;
    (free < bytes).then(|| {
        Error::failed(format!(
            "storage '{name}' has {} GiB free, the disk needs {}",
            free >> 30,
            fleet_core::types::DiskSize::from_bytes(bytes)
        ))
        .hint(format!("make room on '{name}', or name another storage in vms/definitions.nix"))
    })
}
