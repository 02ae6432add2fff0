//! What will be done: decided from the definition and the world, pure, printable.

mod checks;

use fleet_core::{
    Error, Result,
    definitions::{Addressing, Install, ManagedVm},
    protocol::{CLOUDINIT_DONE, CloneRequest, ClusterConfig, CreateRequest, Marker, Resource, ResourceKind},
    types::{DiskSize, DiskSlot, Vmid},
};

pub(crate) use self::checks::storage as storage_fault;
use crate::{
    again,
    differences::{Difference, differences},
    place::Placed,
    preflight::Faults,
    settings::{self, Settings},
    world::World,
};

/// Where the VM comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is cloned from the template.
    Clone(CloneRequest),
    /// It is made from scratch, of a disk image.
    Create(CreateRequest),
    /// It is there already, with our marker: an earlier run made it.
    Continue(Marker),
}

/// How a disk layout boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// By UEFI only.
    Uefi,
    /// By BIOS only.
    Bios,
    /// By either, or it does not matter.
    Any,
}

/// Everything that will be done to one VM on the node.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it comes from.
    pub origin: Origin,
    /// The node that was chosen for it, where one was to be.
    pub placed: Option<Placed>,
    /// The task of an earlier run whose remains are removed first.
    pub clear: Option<String>,
    /// Whether it is configured: not when it runs, or was finished by cloud-init.
    pub configure: bool,
    /// Whether cloud-init has done its part: NixOS may be on it, and what it is stays as it is.
    pub finished: bool,
    /// Whether it differs from its definition in what a run leaves so.
    pub differs: bool,
    /// Settings to change, as far as they can be told before the clone exists.
    pub settings: Settings,
    /// Disk to grow, and to what; `None` when it is large enough.
    pub grow: Option<(DiskSlot, DiskSize)>,
    /// Whether it has to be started.
    pub start: bool,
    /// The cloud-init drive, which is taken away at the end.
    pub cloudinit: Option<String>,
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

/// Who holds the VM's number, or the conflict if it is somebody else, or if somebody else has its name.
pub fn standing(vm: &ManagedVm, world: &World) -> Result<Standing> {
    if let Some(conflict) = name_taken(vm, world) {
        return Err(conflict);
    }
    holder(vm, world)
}

fn conflict(message: String) -> Error {
    Error::conflict(message).now("nothing was changed")
}

fn name_taken(vm: &ManagedVm, world: &World) -> Option<Error> {
    if let Some(own) = under_another_number(vm, world) {
        let (vmid, name) = (own.vmid, &vm.name);
        return Some(
            conflict(format!(
                "{} carries the mark of '{name}', whose definition says vmid = {}",
                checks::describe(own),
                vm.vmid
            ))
            .hint(format!("write vmid = {vmid} in managed.{name}: a VM's number does not change"))
            .hint(format!(
                "or, if it is to go and a new one to come: proxmox-ops destroy {vmid} --unmanaged {vmid}"
            )),
        );
    }
    let listed =
        world.resources.iter().find(|r| r.vmid != vm.vmid && r.name.as_deref() == Some(vm.name.as_str()));
    // The list has the name of a VM some seconds after its configuration has.
    let configured = || {
        let named = |other: &&ClusterConfig| {
            other.vmid != vm.vmid && checks::name(other).is_some_and(|name| name == vm.name.as_str())
        };
        world.configs.iter().find(named).map(|other| (other.vmid, checks::describe(other)))
    };
    let (vmid, other) = listed.map(|other| (other.vmid, describe(other))).or_else(configured)?;
    Some(conflict(format!("the name '{}' is taken by {other}", vm.name)).hint(format!(
        "rename one of the two; `proxmox-ops list` shows all, `proxmox-ops config {vmid}` that one"
    )))
}

/// The VM that was made for this definition while that said another VMID. A copy that was made by hand carries the
/// mark too, but not its own number in it.
pub fn under_another_number<'a>(vm: &ManagedVm, world: &'a World) -> Option<&'a ClusterConfig> {
    world.configs.iter().find(|other| {
        let marks = |marker: &Marker| marker.name == vm.name && marker.vmid == other.vmid;
        other.vmid != vm.vmid && other.marker.as_ref().is_some_and(marks)
    })
}

/// Who holds the VM's number, whatever else has its name.
pub fn holder(vm: &ManagedVm, world: &World) -> Result<Standing> {
    let Some(holder) = world.resources.iter().find(|r| r.vmid == vm.vmid) else { return Ok(Standing::Free) };
    let taken = || {
        conflict(format!("VMID {} is taken by {}", vm.vmid, describe(holder))).hint(format!(
            "`{}` gives a free one for vms/definitions.nix",
            again::proxmox_ops(&["next-vmid"])
        ))
    };
    let Some((config, status)) = &world.existing else { return Err(taken()) };
    let locked = [status.lock.as_deref(), config.settings.get("lock").map(String::as_str)];
    match &config.marker {
        // Ours too, or not yet said whose.
        _ if locked.into_iter().any(is_being_made) => Ok(Standing::BeingCloned),
        Some(marker) if marker.name == vm.name && marker.vmid == vm.vmid => {
            Ok(Standing::Ours(marker.clone()))
        }
        Some(other) => Err(taken().now(format!(
            "it carries the mark of '{}': these tools made it for that definition",
            other.name
        ))),
        None => {
            Err(taken().now("it does not carry the mark that these tools leave on the VMs that they make"))
        }
    }
}

/// A clone or an import is being written. A clone has its marker with the first of its disks, and is not whole before
/// it has the last.
fn is_being_made(lock: Option<&str>) -> bool {
    matches!(lock, Some("clone" | "create"))
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

/// The plan for `vm`; nothing when something stands in its way: all of that is in `faults` then.
///
/// `install` says that NixOS will be installed, `boots` how the host's disk layout boots.
pub fn plan(
    vm: &ManagedVm,
    template: Option<Vmid>,
    keys: &[String],
    world: &World,
    install: bool,
    boots: Boots,
    faults: &mut Faults,
) -> Result<Option<Plan>> {
    let mut warnings = Vec::new();
    let before = faults.count();
    name_taken(vm, world).into_iter().for_each(|fault| faults.add(fault));
    let standing = faults.keep(holder(vm, world));
    let creates = matches!(standing, None | Some(Standing::Free));
    checks::add(vm, template, world, install.then_some(boots), creates, faults, &mut warnings);
    let standing = match standing {
        Some(standing) if faults.count() == before => standing,
        _ => return Ok(None),
    };
    let fresh;
    let (origin, current) = match (standing, &world.existing) {
        (Standing::Ours(marker), Some((config, _))) => (Origin::Continue(marker), &config.settings),
        _ if vm.install == Install::Image => {
            let plan = creation(vm, keys, world.placed.as_ref(), warnings)?;
            return Ok(Some(Plan { clear: world.remainder.clone(), ..plan }));
        }
        _ => {
            // Its absence is a fault already.
            let Some(template) = template else { return Ok(None) };
            let marker = Marker::fresh(&vm.name, vm.vmid)?;
            // What the clone will say, as far as the template tells.
            let mut settings = world.template.as_ref().map(|t| t.settings.clone()).unwrap_or_default();
            settings.insert("description".to_owned(), marker.to_string());
            fresh = settings;
            (Origin::Clone(clone_request(vm, template, marker, world.placed.as_ref())), &fresh)
        }
    };
    let running = world.existing.as_ref().is_some_and(|(_, status)| status.status == "running");
    let (grow, warning) = growth(vm, current);
    let done = matches!(origin, Origin::Continue(_)) && settings::cloudinit_is_done(current);
    let left = if done { left_so(vm, world, current, running) } else { Vec::new() };
    warnings.extend(warning);
    warnings.extend(told(vm, &left));
    let configure = !running && !done;
    let changes = if configure { settings::first_changes(vm, keys, current) } else { Settings::new() };
    let cloudinit = settings::cloudinit_drive(current).or_else(|| settings::cloudinit_drive(&changes));
    Ok(Some(Plan {
        cloudinit: cloudinit.map(str::to_owned),
        placed: world.placed.clone(),
        clear: world.remainder.clone(),
        configure,
        finished: done,
        differs: !left.is_empty(),
        settings: changes,
        grow: grow.filter(|_| !(done && running)),
        start: !(matches!(origin, Origin::Continue(_)) && running),
        warnings,
        origin,
    }))
}

/// In what a VM differs from its definition that is there already, and that a run does not configure: but for what the
/// run itself does, or tells.
fn left_so(vm: &ManagedVm, world: &World, current: &Settings, running: bool) -> Vec<Difference> {
    let whole = world.configs.iter().find(|config| config.vmid == vm.vmid);
    let coming = whole.map(|config| config.pending.clone()).unwrap_or_default();
    let (mut left, _) = differences(vm, current, &coming);
    let boot = settings::boot_disk(current);
    left.retain(|field| match &boot {
        // It is grown before it is started; one that is too large is told.
        Some((slot, size)) if field.field == slot.to_string() => running && *size < vm.disk,
        // At the end of every run.
        _ => field.field != "protection",
    });
    left
}

fn told(vm: &ManagedVm, left: &[Difference]) -> Option<String> {
    let what = |field: &Difference| match field.field.as_str() {
        // Many lines of text.
        "description" => "description".to_owned(),
        _ => field.to_string(),
    };
    let how = if left.iter().any(|field| field.applies) { "apply" } else { "plan" };
    (!left.is_empty()).then(|| {
        format!(
            "VM {} is not what its definition says, and this run leaves it so: {} (`provision-vm {how} {}`)",
            vm.vmid,
            left.iter().map(what).collect::<Vec<_>>().join("; "),
            vm.name
        )
    })
}

/// A VM of a disk image: made with all its settings at once, and then only grown and started.
fn creation(vm: &ManagedVm, keys: &[String], placed: Option<&Placed>, warnings: Vec<String>) -> Result<Plan> {
    let marker = Marker::fresh(&vm.name, vm.vmid)?;
    // NixOS is on the disk from the start.
    let description = format!("{marker}\n{CLOUDINIT_DONE}");
    let mut request_settings: Settings = [("description".to_owned(), description)].into();
    let wanted = settings::changes(vm, keys, &request_settings);
    request_settings.extend(wanted);
    let request = CreateRequest {
        vmid: vm.vmid,
        name: vm.name.clone(),
        storage: vm.storage.clone(),
        // Known when it is sent.
        image: String::new(),
        settings: request_settings,
        node: placed.map(|placed| placed.node.clone()).or_else(|| vm.node.named().cloned()),
        marker,
    };
    Ok(Plan {
        origin: Origin::Create(request),
        configure: false,
        finished: false,
        differs: false,
        settings: Settings::new(),
        grow: Some(("scsi0".parse()?, vm.disk)),
        start: true,
        placed: placed.cloned(),
        clear: None,
        cloudinit: None,
        warnings,
    })
}

fn clone_request(vm: &ManagedVm, template: Vmid, marker: Marker, placed: Option<&Placed>) -> CloneRequest {
    CloneRequest {
        node: placed.map(|placed| placed.node.clone()),
        template,
        vmid: vm.vmid,
        name: vm.name.clone(),
        storage: (!vm.linked_clone).then(|| vm.storage.clone()),
        full: !vm.linked_clone,
        marker,
    }
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

impl Plan {
    /// Whether the VM is made anew.
    pub fn makes(&self) -> bool {
        !matches!(self.origin, Origin::Continue(_))
    }

    /// The marker that the VM carries or will carry.
    pub fn marker(&self) -> &Marker {
        match &self.origin {
            Origin::Clone(request) => &request.marker,
            Origin::Create(request) => &request.marker,
            Origin::Continue(marker) => marker,
        }
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
pub(crate) mod tests;
