//! What will be done: decided from the definition and the world, pure, printable.

use fleet_core::{
    Error, Result,
    definitions::{Addressing, Install, ManagedVm},
    protocol::{CloneRequest, Marker, Resource, ResourceKind, Storage},
    types::{DiskSize, DiskSlot, Vmid},
};

use crate::{
    settings::{self, Settings},
    world::World,
};

/// Memory that kexec and the installer need, in MiB (nixos-anywhere's own documentation: 1.5 GB, swap does not
/// count).
const INSTALLER_MEMORY: u64 = 1500;

/// Where the VM comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is cloned from the template.
    Clone(CloneRequest),
    /// It is there already, with our marker: an earlier run made it.
    Continue(Marker),
}

/// Everything that will be done to one VM on the node.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it comes from.
    pub origin: Origin,
    /// Settings to change, as far as they can be told before the clone exists.
    pub settings: Settings,
    /// Disk to grow, and to what; `None` when it is large enough.
    pub grow: Option<(DiskSlot, DiskSize)>,
    /// Whether it has to be started.
    pub start: bool,
    /// Things the user should know.
    pub warnings: Vec<String>,
}

/// What the node holds under the VM's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: the number is free.
    Free,
    /// The VM that an earlier run of these tools made.
    Ours(Marker),
    /// A clone that is still being written; whose it is shows when it is done.
    BeingCloned,
}

/// Who holds the VM's number, or the conflict if it is somebody else, or if somebody else has its name or
/// address.
pub fn standing(vm: &ManagedVm, world: &World) -> Result<Standing> {
    let conflict = |message: String| Error::conflict(message).now("nothing was changed");
    if let Some(other) =
        world.resources.iter().find(|r| r.vmid != vm.vmid && r.name.as_deref() == Some(vm.name.as_str()))
    {
        return Err(conflict(format!("the name '{}' is taken by {}", vm.name, describe(other))).hint(
            format!(
                "rename one of the two; `proxmox-ops list` shows all, `proxmox-ops config {}` that one",
                other.vmid
            ),
        ));
    }
    let Some(holder) = world.resources.iter().find(|r| r.vmid == vm.vmid) else { return Ok(Standing::Free) };
    let taken = || {
        conflict(format!("VMID {} is taken by {}", vm.vmid, describe(holder)))
            .hint("`proxmox-ops next-vmid` gives a free one for vms/definitions.nix".to_owned())
    };
    let Some((config, status)) = &world.existing else { return Err(taken()) };
    match &config.marker {
        Some(marker) if marker.name == vm.name && marker.vmid == vm.vmid => {
            Ok(Standing::Ours(marker.clone()))
        }
        _ if status.lock.as_deref() == Some("clone")
            || config.settings.get("lock").is_some_and(|l| l == "clone") =>
        {
            Ok(Standing::BeingCloned)
        }
        _ => Err(taken().now("it does not carry the mark that these tools leave on the VMs that they make")),
    }
}

fn describe(resource: &Resource) -> String {
    let kind = match resource.kind {
        ResourceKind::Qemu if resource.template => "template",
        ResourceKind::Qemu => "VM",
        ResourceKind::Lxc => "container",
    };
    let name = resource.name.as_deref().map(|name| format!(" '{name}'")).unwrap_or_default();
    format!("{kind} {}{name} on node {}", resource.vmid, resource.node)
}

/// The plan for `vm`, or everything that stands in its way at once.
///
/// `install` says that NixOS will be installed, `uefi` that the host's disk layout boots by UEFI.
pub fn plan(
    vm: &ManagedVm,
    template: Vmid,
    keys: &[String],
    world: &World,
    install: bool,
    uefi: bool,
) -> Result<Plan> {
    let standing = standing(vm, world)?;
    let mut faults = Vec::new();
    faults.extend(installer_faults(vm, install));
    faults.extend(bridge_fault(vm, world));
    if standing == Standing::Free {
        faults.extend(template_fault(template, world, install && uefi));
        faults.extend(storage_fault(vm, &world.storages));
    }
    if let Some(first) = faults.first() {
        let error = if faults.len() == 1 {
            Error::failed(format!("'{}' can not be provisioned: {first}", vm.name))
        } else {
            faults.iter().fold(
                Error::failed(format!("'{}' can not be provisioned, for {} reasons", vm.name, faults.len())),
                |error, fault| error.now(format!("- {fault}")),
            )
        };
        return Err(error.now("nothing was changed"));
    }
    let origin = match standing {
        Standing::Ours(marker) => Origin::Continue(marker),
        Standing::Free | Standing::BeingCloned => Origin::Clone(CloneRequest {
            node: None,
            template,
            vmid: vm.vmid,
            name: vm.name.clone(),
            storage: (!vm.linked_clone).then(|| vm.storage.clone()),
            full: !vm.linked_clone,
            marker: Marker::fresh(&vm.name, vm.vmid)?,
        }),
    };
    let current = match (&origin, &world.existing, &world.template) {
        (Origin::Continue(_), Some((config, _)), _) => &config.settings,
        (_, _, Some(template)) => &template.settings,
        _ => &Settings::new(),
    };
    let (grow, warning) = growth(vm, current);
    Ok(Plan {
        settings: settings::changes(vm, keys, current),
        grow,
        start: !matches!((&origin, &world.existing), (Origin::Continue(_), Some((_, status))) if status.status == "running"),
        warnings: warning.into_iter().collect(),
        origin,
    })
}

/// The disk to grow, or a warning when it is larger than defined: disks are never shrunk.
pub fn growth(vm: &ManagedVm, current: &Settings) -> (Option<(DiskSlot, DiskSize)>, Option<String>) {
    match settings::boot_disk(current) {
        Some((slot, size)) if size < vm.disk => (Some((slot, vm.disk)), None),
        Some((slot, size)) if size > vm.disk => (
            None,
            Some(format!("disk {slot} is {size}, larger than the defined {}: it stays as it is", vm.disk)),
        ),
        Some(_) => (None, None),
        None => (None, Some("no boot disk was found in the configuration: nothing is resized".to_owned())),
    }
}

fn installer_faults(vm: &ManagedVm, install: bool) -> Option<String> {
    (install && vm.install == Install::NixosAnywhere && vm.memory < INSTALLER_MEMORY).then(|| {
        format!("memory = {} MiB, but the NixOS installer needs at least {INSTALLER_MEMORY}", vm.memory)
    })
}

fn bridge_fault(vm: &ManagedVm, world: &World) -> Option<String> {
    let (bridge, bridges) = (vm.bridge.as_ref()?, world.bridges.as_ref()?);
    (!bridges.iter().any(|b| b == bridge.as_str())).then(|| {
        format!(
            "bridge '{bridge}' does not exist on node {} (there are: {})",
            world.node.node,
            bridges.join(", ")
        )
    })
}

fn template_fault(template: Vmid, world: &World, uefi: bool) -> Option<String> {
    let Some(config) = &world.template else {
        return Some(format!(
            "template {template} does not exist on node {}; make one, or name another in vms/definitions.nix",
            world.node.node
        ));
    };
    let is_template = config.settings.get("template").is_some_and(|value| value == "1");
    if !is_template {
        return Some(format!(
            "VM {template} is not a template; `qm template {template}` on the node makes it one"
        ));
    }
    let setting = |name: &str| config.settings.get(name).map_or("", String::as_str);
    if uefi && setting("bios") != "ovmf" {
        return Some(format!(
            "template {template} boots by BIOS, but the host's disko.nix lays out an ESP: it would never boot; \
             `proxmox-ops create-template` makes one that fits"
        ));
    }
    (uefi && setting("efidisk0").contains("pre-enrolled-keys=1")).then(|| {
        format!("template {template} has Secure Boot keys enrolled, which stop NixOS; make one with pre-enrolled-keys=0")
    })
}

fn storage_fault(vm: &ManagedVm, storages: &[Storage]) -> Option<String> {
    let name = &vm.storage;
    let images = |s: &&Storage| s.active && s.content.iter().any(|c| c == "images");
    let Some(storage) = storages.iter().find(|s| s.storage == *name) else {
        let fit: Vec<&str> = storages.iter().filter(images).map(|s| s.storage.as_str()).collect();
        return Some(format!("storage '{name}' does not exist (for disks there are: {})", fit.join(", ")));
    };
    if !storage.active {
        return Some(format!("storage '{name}' is not active"));
    }
    if !images(&storage) {
        return Some(format!("storage '{name}' takes no disk images (only {})", storage.content.join(", ")));
    }
    let free = storage.available?;
    (free < vm.disk.bytes())
        .then(|| format!("storage '{name}' has {} GiB free, the disk needs {}", free >> 30, vm.disk))
}

impl Plan {
    /// The marker that the VM carries or will carry.
    pub fn marker(&self) -> &Marker {
        match &self.origin {
            Origin::Clone(request) => &request.marker,
            Origin::Continue(marker) => marker,
        }
    }

    /// What will be done, a line each, for `--dry-run`.
    pub fn lines(&self, vm: &ManagedVm) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.origin {
            Origin::Clone(clone) => lines.push(format!(
                "clone template {} to VM {} '{}' ({}{})",
                clone.template,
                clone.vmid,
                clone.name,
                if clone.full { "full" } else { "linked" },
                clone.storage.as_ref().map(|s| format!(", on {s}")).unwrap_or_default()
            )),
            Origin::Continue(_) => {
                lines.push(format!("continue with VM {} that an earlier run made", vm.vmid));
            }
        }
        for (name, value) in &self.settings {
            let value = match name.as_str() {
                "sshkeys" => format!("{} keys", value.lines().count()),
                _ => value.clone(),
            };
            lines.push(format!("set {name} = {value}"));
        }
        if let Some((disk, size)) = &self.grow {
            lines.push(format!("grow {disk} to {size}"));
        }
        if self.start {
            lines.push("start".to_owned());
        }
        lines
    }
}

/// The address that a definition fixes, if it does.
pub fn fixed_address(vm: &ManagedVm) -> Option<std::net::IpAddr> {
    match vm.addressing {
        Addressing::Dhcp => None,
        Addressing::Static(cidr) => Some(cidr.address),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use fleet_core::{
        Kind,
        protocol::{NodeInfo, VmConfig, VmStatus},
    };
    use serde_json::json;

    /// The example fleet's own VM, read from its definitions.
    pub(crate) fn vm() -> ManagedVm {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let repo = fleet_core::repo::Repo::at(&root).unwrap();
        let definitions =
            fleet_core::definitions::Definitions::load(&repo, fleet_core::nix::NixMode::Embedded).unwrap();
        definitions.managed("test-automation").unwrap().clone()
    }

    /// A world in which an earlier run made the VM, with these settings.
    pub(crate) fn ours(settings: &[(&str, &str)]) -> World {
        let mut world = world();
        world.resources.push(resource(110, "qemu", "test-automation", "prom"));
        let marker = Marker::fresh(&vm().name, vm().vmid).unwrap();
        world.existing = Some((config(110, settings, Some(marker)), status(None)));
        world
    }

    pub(crate) fn world() -> World {
        World {
            node: NodeInfo { node: "prom".parse().unwrap(), version: "9.2.11".into() },
            resources: Vec::new(),
            storages: serde_json::from_value(json!([
                {"storage": "nvmeprom", "type": "dir", "content": ["images"], "active": true, "shared": false, "available": 500u64 << 30},
                {"storage": "local", "type": "dir", "content": ["iso"], "active": true, "shared": false},
            ]))
            .unwrap(),
            bridges: None,
            template: Some(config(9002, &[("template", "1"), ("bios", "ovmf"), ("scsi0", "nvmeprom:base-9002-disk-0,size=2G")], None)),
            existing: None,
        }
    }

    fn config(vmid: u32, settings: &[(&str, &str)], marker: Option<Marker>) -> VmConfig {
        VmConfig {
            vmid: Vmid::new(vmid).unwrap(),
            node: "prom".parse().unwrap(),
            settings: settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            digest: String::new(),
            marker,
            mac: None,
        }
    }

    fn resource(vmid: u32, kind: &str, name: &str, node: &str) -> Resource {
        serde_json::from_value(json!({"vmid": vmid, "type": kind, "name": name, "node": node})).unwrap()
    }

    fn status(lock: Option<&str>) -> VmStatus {
        serde_json::from_value(json!({"vmid": 110, "node": "prom", "status": "stopped", "lock": lock}))
            .unwrap()
    }

    fn template() -> Vmid {
        Vmid::new(9002).unwrap()
    }

    #[test]
    fn a_free_number_is_cloned() {
        let plan = plan(&vm(), template(), &["k".into()], &world(), true, true).unwrap();
        let Origin::Clone(clone) = &plan.origin else { panic!("{plan:?}") };
        assert_eq!(
            (clone.vmid.get(), clone.full, clone.marker.name.as_str()),
            (110, true, "test-automation")
        );
        assert_eq!(plan.grow.unwrap().1.to_string(), "20G");
        assert!(plan.start);
    }

    #[test]
    fn somebody_elses_vm_container_or_node_is_a_conflict() {
        for (kind, name, node, words) in [
            ("qemu", "web", "prom", "VMID 110 is taken by VM 110 'web' on node prom"),
            ("lxc", "pihole", "prom", "VMID 110 is taken by container 110 'pihole' on node prom"),
            (
                "qemu",
                "test-automation",
                "prom2",
                "VMID 110 is taken by VM 110 'test-automation' on node prom2",
            ),
        ] {
            let mut world = world();
            world.resources.push(resource(110, kind, name, node));
            if kind == "qemu" && node == "prom" {
                world.existing = Some((config(110, &[], None), status(None)));
            }
            let error = plan(&vm(), template(), &[], &world, true, true).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::Conflict, words));
        }
    }

    #[test]
    fn the_same_name_without_our_marker_is_still_a_conflict() {
        let mut world = world();
        world.resources.push(resource(110, "qemu", "test-automation", "prom"));
        let copied =
            Marker { vmid: Vmid::new(111).unwrap(), ..Marker::fresh(&vm().name, vm().vmid).unwrap() };
        for marker in [None, Some(copied)] {
            world.existing = Some((config(110, &[], marker), status(None)));
            assert_eq!(plan(&vm(), template(), &[], &world, true, true).unwrap_err().kind(), Kind::Conflict);
        }
    }

    #[test]
    fn our_own_is_continued_and_a_running_clone_is_waited_for() {
        let mut world = ours(&[("scsi0", "x,size=30G")]);
        let plan = plan(&vm(), template(), &[], &world, true, true).unwrap();
        assert!(matches!(&plan.origin, Origin::Continue(_)));
        assert_eq!(plan.grow, None);
        assert_eq!(plan.warnings.len(), 1, "{plan:?}");
        world.existing = Some((config(110, &[("lock", "clone")], None), status(Some("clone"))));
        assert_eq!(standing(&vm(), &world).unwrap(), Standing::BeingCloned);
    }

    #[test]
    fn another_vm_of_the_same_name_is_a_conflict() {
        let mut world = world();
        world.resources.push(resource(150, "qemu", "test-automation", "prom"));
        let error = plan(&vm(), template(), &[], &world, true, true).unwrap_err();
        assert_eq!(
            error.message(),
            "the name 'test-automation' is taken by VM 150 'test-automation' on node prom"
        );
    }

    #[test]
    fn a_template_that_could_not_boot_the_disk_layout_is_a_fault() {
        let mut world = world();
        world.template = Some(config(9002, &[("template", "1"), ("scsi0", "x,size=2G")], None));
        let error = plan(&vm(), template(), &[], &world, true, true).unwrap_err();
        assert!(error.message().contains("boots by BIOS"), "{error}");
        plan(&vm(), template(), &[], &world, true, false).unwrap();
        plan(&vm(), template(), &[], &world, false, true).unwrap();
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let mut vm = vm();
        vm.memory = 1024;
        vm.storage = "local".parse().unwrap();
        let mut world = world();
        world.template = None;
        let error = plan(&vm, template(), &[], &world, true, true).unwrap_err();
        assert_eq!(error.message(), "'test-automation' can not be provisioned, for 3 reasons");
        assert_eq!(
            error.facts(),
            [
                "- memory = 1024 MiB, but the NixOS installer needs at least 1500",
                "- template 9002 does not exist on node prom; make one, or name another in vms/definitions.nix",
                "- storage 'local' takes no disk images (only iso)",
                "nothing was changed",
            ]
        );
        vm.storage = "nvmeprom".parse().unwrap();
        vm.memory = 2048;
        vm.disk = "1T".parse().unwrap();
        world.template = self::world().template;
        let error = plan(&vm, template(), &[], &world, true, true).unwrap_err();
        assert_eq!(
            error.message(),
            "'test-automation' can not be provisioned: storage 'nvmeprom' has 500 GiB free, the disk needs 1T"
        );
    }
}
