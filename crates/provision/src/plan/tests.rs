use super::*;
use fleet_core::{
    Kind,
    protocol::{AddressHolder, NodeInfo, VmConfig, VmStatus},
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
    let node = NodeInfo { node: "prom".parse().unwrap(), version: "9.2.11".into() };
    World {
        target: Some("prom".parse().unwrap()),
        storages: serde_json::from_value(json!([
            {"storage": "nvmeprom", "type": "dir", "content": ["images"], "active": true, "shared": false, "available": 500u64 << 30},
            {"storage": "local", "type": "dir", "content": ["iso"], "active": true, "shared": false},
        ]))
        .unwrap(),
        template: Some(config(9002, &[("template", "1"), ("bios", "ovmf"), ("scsi0", "nvmeprom:base-9002-disk-0,size=2G")], None)),
        ..World::of(node, Vec::new(), Vec::new())
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
    serde_json::from_value(json!({"vmid": 110, "node": "prom", "status": "stopped", "lock": lock})).unwrap()
}

fn plan_of(vm: &ManagedVm, keys: &[String], world: &World, install: bool, boots: Boots) -> Result<Plan> {
    let mut faults = Faults::default();
    let plan = plan(vm, Some(template()), keys, world, install, boots, &mut faults)?;
    faults.check(vm.name.as_str())?;
    Ok(plan.unwrap())
}

fn template() -> Vmid {
    Vmid::new(9002).unwrap()
}

#[test]
fn a_free_number_is_cloned() {
    let plan = plan_of(&vm(), &["k".into()], &world(), true, Boots::Uefi).unwrap();
    let Origin::Clone(clone) = &plan.origin else { panic!("{plan:?}") };
    assert_eq!((clone.vmid.get(), clone.full, clone.marker.name.as_str()), (110, true, "test-automation"));
    assert_eq!(plan.grow.unwrap().1.to_string(), "20G");
    assert!(plan.start);
}

#[test]
fn somebody_elses_vm_container_or_node_is_a_conflict() {
    for (kind, name, node, words) in [
        ("qemu", "web", "prom", "VMID 110 is taken by VM 110 'web' on node prom"),
        ("lxc", "pihole", "prom", "VMID 110 is taken by container 110 'pihole' on node prom"),
        ("qemu", "test-automation", "prom2", "VMID 110 is taken by VM 110 'test-automation' on node prom2"),
    ] {
        let mut world = world();
        world.resources.push(resource(110, kind, name, node));
        if kind == "qemu" && node == "prom" {
            world.existing = Some((config(110, &[], None), status(None)));
        }
        let error = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Conflict, words));
    }
}

#[test]
fn the_same_name_without_our_marker_is_still_a_conflict() {
    let mut world = world();
    world.resources.push(resource(110, "qemu", "test-automation", "prom"));
    let copied = Marker { vmid: Vmid::new(111).unwrap(), ..Marker::fresh(&vm().name, vm().vmid).unwrap() };
    for marker in [None, Some(copied)] {
        world.existing = Some((config(110, &[], marker), status(None)));
        assert_eq!(plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err().kind(), Kind::Conflict);
    }
}

#[test]
fn our_own_is_continued_and_a_running_clone_is_waited_for() {
    let mut world = ours(&[("scsi0", "x,size=30G")]);
    let plan = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap();
    assert!(matches!(&plan.origin, Origin::Continue(_)));
    assert_eq!(plan.grow, None);
    assert_eq!(plan.warnings.len(), 1, "{plan:?}");
    // With the first of its disks a clone has its marker, and not yet the others.
    for marker in [None, Some(Marker::fresh(&vm().name, vm().vmid).unwrap())] {
        world.existing = Some((config(110, &[("lock", "clone")], marker), status(Some("clone"))));
        assert_eq!(standing(&vm(), &world).unwrap(), Standing::BeingCloned);
    }
}

#[test]
fn another_vm_of_the_same_name_is_a_conflict() {
    let mut world = world();
    world.resources.push(resource(150, "qemu", "test-automation", "prom"));
    let error = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err();
    assert_eq!(
        error.message(),
        "the name 'test-automation' is taken by VM 150 'test-automation' on node prom"
    );
    // One so new that the list does not have its name yet.
    world.resources.last_mut().unwrap().name = None;
    world.configs = vec![other(150, "qemu", &[("name", "test-automation")], &[])];
    let error = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err();
    assert_eq!(error.message(), "the name 'test-automation' is taken by VM 150 'test-automation' on node b");
    world.configs = vec![other(110, "qemu", &[("name", "test-automation")], &[])];
    plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap();
}

#[test]
fn a_template_that_could_not_boot_the_disk_layout_is_a_fault() {
    let mut world = world();
    world.template = Some(config(9002, &[("template", "1"), ("scsi0", "x,size=2G")], None));
    let error = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err();
    assert!(error.message().contains("boots by BIOS"), "{error}");
    plan_of(&vm(), &[], &world, true, Boots::Any).unwrap();
    plan_of(&vm(), &[], &world, false, Boots::Uefi).unwrap();
}

#[test]
fn every_fault_is_told_at_once() {
    let mut vm = vm();
    vm.memory = 1024;
    vm.storage = "local".parse().unwrap();
    let mut world = world();
    world.template = None;
    let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
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
    let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
    assert_eq!(error.message(), "storage 'nvmeprom' has 500 GiB free, the disk needs 1T");
}

fn other(vmid: u32, kind: &str, settings: &[(&str, &str)], macs: &[&str]) -> ClusterConfig {
    let settings: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
    serde_json::from_value(
        json!({"vmid": vmid, "node": "b", "type": kind, "settings": settings, "macs": macs}),
    )
    .unwrap()
}

#[test]
fn an_address_or_a_mac_address_that_somebody_has_is_a_conflict() {
    let mut vm = vm();
    vm.mac = Some("02:00:00:00:00:07".parse().unwrap());
    vm.addressing = Addressing::Static("192.0.2.10/24".parse().unwrap());
    let mut world = world();
    world.configs = vec![
        other(
            150,
            "qemu",
            &[("name", "web"), ("ipconfig0", "ip=192.0.2.11/24,gw=192.0.2.1")],
            &["02:00:00:00:00:07"],
        ),
        other(201, "lxc", &[("hostname", "pihole"), ("net0", "name=eth0,ip=192.0.2.10/24")], &[]),
    ];
    let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(
        error.facts(),
        [
            "- the MAC address 02:00:00:00:00:07 is taken by VM 150 'web' on node b",
            "- the address 192.0.2.10 is taken by container 201 'pihole' on node b",
            "nothing was changed",
        ]
    );
    // Its own configuration is nobody else's.
    world.configs = vec![other(110, "qemu", &[("ipconfig0", "ip=192.0.2.10/24")], &["02:00:00:00:00:07"])];
    plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap();
}

#[test]
fn who_answers_to_the_address_has_it() {
    let mut vm = vm();
    vm.addressing = Addressing::Static("192.0.2.10/24".parse().unwrap());
    let mut world = world();
    world.configs =
        vec![other(104, "qemu", &[("name", "doc1"), ("ipconfig0", "ip=dhcp")], &["02:00:00:00:00:04"])];
    for (mac, who) in [
        (None, "node prom itself"),
        (Some("02:00:00:00:00:04"), "VM 104 'doc1' on node b"),
        (
            Some("02:00:00:00:00:05"),
            "a machine with the MAC address 02:00:00:00:00:05, which answered node prom",
        ),
    ] {
        let mac = mac.map(|mac| mac.parse().unwrap());
        world.holder = Some(AddressHolder { node: "prom".parse().unwrap(), mac });
        let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
        let message = format!("the address 192.0.2.10 is taken by {who}");
        assert_eq!((error.kind(), error.message()), (Kind::Conflict, message.as_str()));
    }
    // Nobody's, and not known to be anybody's.
    world.holder = None;
    let warnings = |world: &World| plan_of(&vm, &[], world, true, Boots::Uefi).unwrap().warnings.join("\n");
    assert!(!warnings(&world).contains("could not be asked"));
    world.unasked = Some("can not find out who has 192.0.2.10: `ip` on the node: not found".to_owned());
    let told = warnings(&world);
    assert!(told.contains("whether another machine answers to 192.0.2.10 could not be asked"), "{told}");
    assert!(told.contains("`ip` on the node: not found"), "{told}");
    // The VM's own card, which the definition names: it is made anew.
    let own = "02:00:00:00:00:05".parse().unwrap();
    world.holder = Some(AddressHolder { node: "prom".parse().unwrap(), mac: Some(own) });
    vm.mac = Some("02:00:00:00:00:05".parse().unwrap());
    plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap();
}

#[test]
fn what_an_account_can_not_see_is_not_called_free() {
    let mut vm = vm();
    let mut world = world();
    world.resources = vec![resource(104, "qemu", "doc1", "b"), resource(201, "lxc", "pihole", "b")];
    world.configs = vec![other(104, "qemu", &[], &[])];
    let warnings =
        |vm: &ManagedVm, world: &World| plan_of(vm, &[], world, true, Boots::Uefi).unwrap().warnings.concat();
    assert_eq!(warnings(&vm, &world), "");
    vm.mac = Some("02:00:00:00:00:07".parse().unwrap());
    let told = warnings(&vm, &world);
    assert!(told.starts_with("this account can not see the settings of 1 of the cluster's"), "{told}");
    world.configs.push(other(201, "lxc", &[], &[]));
    assert_eq!(warnings(&vm, &world), "");
}

#[test]
fn secure_boot_is_warned_of_and_a_bios_layout_needs_a_bios_template() {
    let mut world = world();
    let template = world.template.as_mut().unwrap();
    template.settings.insert("efidisk0".into(), "local:9002/vm-9002-disk-1,pre-enrolled-keys=1".into());
    let plan = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap();
    assert!(plan.warnings[0].contains("Secure Boot"), "{plan:?}");
    let error = plan_of(&vm(), &[], &world, true, Boots::Bios).unwrap_err();
    assert!(error.message().contains("boots by UEFI, but"), "{error}");
}

#[test]
fn a_template_on_another_node_must_be_on_shared_storage() {
    let mut world = world();
    world.template.as_mut().unwrap().node = "prom2".parse().unwrap();
    let error = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err();
    assert!(error.message().contains("is on node prom2, its storage 'nvmeprom' is not shared"), "{error}");
    world.storages[0].shared = true;
    plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap();
    // The clone is made where the template is, and handed over.
    world.storages.push(serde_json::from_value(json!({"storage": "fast", "type": "lvmthin", "content": ["images"], "active": true, "shared": false})).unwrap());
    let mut vm = vm();
    vm.storage = "fast".parse().unwrap();
    let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
    assert!(error.message().contains("is on node prom2, and storage 'fast' is not shared"), "{error}");
    world.template.as_mut().unwrap().node = "prom".parse().unwrap();
    plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap();
}

#[test]
fn the_template_has_nothing_where_further_disks_go() {
    let mut world = world();
    let template = world.template.as_mut().unwrap();
    template.settings.insert("scsi1".into(), "nvmeprom:vm-9002-cloudinit,media=cdrom".into());
    let mut vm = vm();
    plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap();
    vm.disks = vec![fleet_core::definitions::FurtherDisk { size: "8G".parse().unwrap(), storage: None }];
    let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
    assert!(
        error.message().contains("goes to scsi1, and template 9002 has nvmeprom:vm-9002-cloudinit"),
        "{error}"
    );
}

#[test]
fn a_vm_of_an_image_boots_by_uefi_and_has_a_bridge() {
    let mut vm = vm();
    vm.install = Install::Image;
    let mut world = world();
    world.template = None;
    world.bridges = Some(vec!["vmbr7".into()]);
    let mut faults = Faults::default();
    plan(&vm, None, &[], &world, true, Boots::Bios, &mut faults).unwrap();
    let error = faults.check("test-automation").unwrap_err();
    assert!(
        error.facts()[0]
            .contains("bridge 'vmbr0', which the VM is on where nothing names another, does not exist"),
        "{error:?}"
    );
    assert!(error.facts()[1].contains("made of an image boots by UEFI"), "{error:?}");
}

#[test]
fn a_template_that_is_larger_than_the_disk_needs_its_own_size() {
    let mut world = world();
    world
        .template
        .as_mut()
        .unwrap()
        .settings
        .insert("scsi0".into(), "nvmeprom:base-9002-disk-0,size=600G".into());
    let error = plan_of(&vm(), &[], &world, true, Boots::Uefi).unwrap_err();
    assert!(error.message().contains("has 500 GiB free, the disk needs 600G"), "{error}");
    let mut linked = vm();
    linked.linked_clone = true;
    plan_of(&linked, &[], &world, true, Boots::Uefi).unwrap();
    // Its further disks are whole ones.
    linked.disks =
        vec![fleet_core::definitions::FurtherDisk { size: "501G".parse().unwrap(), storage: None }];
    assert!(plan_of(&linked, &[], &world, true, Boots::Uefi).is_err());
}

#[test]
fn the_bridge_and_every_disk_must_have_their_place() {
    let mut vm = vm();
    vm.disk = "400G".parse().unwrap();
    vm.disks = vec![fleet_core::definitions::FurtherDisk { size: "200G".parse().unwrap(), storage: None }];
    let mut world = world();
    world.bridges = Some(vec!["vmbr1".into()]);
    world.template.as_mut().unwrap().settings.insert("net0".into(), "virtio,bridge=vmbr0".into());
    world.node.version = "10.0.1".into();
    let error = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap_err();
    assert_eq!(
        error.facts()[..2],
        [
            "- bridge 'vmbr0', which the template's network card is on, does not exist on node prom (there are: vmbr1)",
            "- storage 'nvmeprom' has 500 GiB free, the disk needs 600G",
        ]
    );
    vm.disks.clear();
    world.bridges = None;
    let plan = plan_of(&vm, &[], &world, true, Boots::Uefi).unwrap();
    assert!(plan.warnings[0].contains("runs Proxmox VE 10.0.1"), "{plan:?}");
}

#[test]
fn a_vm_that_the_node_could_not_start_is_not_made() {
    let room = |cpu, memory: u64| {
        let room = json!({"node": "prom", "online": true, "cpu": cpu, "maxmem": memory << 20});
        serde_json::from_value(room).unwrap()
    };
    let faults = |cpu, memory| {
        let world = World { room: Some(room(cpu, memory)), ..world() };
        plan_of(&vm(), &[], &world, true, Boots::Uefi).map(drop).map_err(|error| error.chain())
    };
    let (cores, memory) = (u64::from(vm().cores), vm().memory);
    faults(cores, memory).unwrap();
    let told = faults(cores - 1, memory).unwrap_err();
    assert!(told.starts_with(&format!("cores = {cores}, but node prom has {} CPUs", cores - 1)), "{told}");
    let told = faults(cores, memory - 1).unwrap_err();
    assert!(
        told.starts_with(&format!("memory = {memory} MiB, but node prom has {} MiB", memory - 1)),
        "{told}"
    );
}
