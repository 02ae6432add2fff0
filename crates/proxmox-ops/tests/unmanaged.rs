//! A VM that no definition has, named by `--unmanaged` with its VMID or its name: what that allows, and what it never
//! does.
#![allow(clippy::unwrap_used, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, KEY, Ran};
use fleet_core::{child::Command, deadline::Deadline, protocol::*, types::Vmid};
use pve_sim::world::World;

const NET: &str = "virtio=BC:24:11:00:01:33,bridge=vmbr0";

/// `stranger` (333) and the `twin`s (340, 341) are on the node, and in no definition.
fn world() -> World {
    let vm = |world: World, vmid, name| {
        let disk = format!("nvmeprom:{vmid}/vm-{vmid}-disk-0.qcow2,size=2G");
        let settings = [("name", name), ("memory", "512"), ("net0", NET), ("scsi0", disk.as_str())];
        world.with_vm(vmid, false, &settings)
    };
    [(333, "stranger"), (340, "twin"), (341, "twin")]
        .into_iter()
        .fold(World::default(), |world, (vmid, name)| vm(world, vmid, name))
}

fn call(bench: &Bench, vmid: u32, name: &str) {
    bench.sim.edit(vmid, |conf| {
        conf.main.insert("name".into(), name.into());
    });
}

/// Runs it, and proves that nothing was changed.
fn refused(bench: &Bench, args: &[&str]) -> Ran {
    let vms = || bench.sim.node().read(|d| (d.vms.clone(), d.tasks.len()));
    let before = vms();
    let ran = bench.run(args);
    assert_eq!(bench.sim.changes(), Vec::<String>::new(), "{args:?}");
    assert!(vms() == before, "{args:?}");
    assert_eq!(ran.out, "", "{args:?}");
    ran
}

#[test]
fn a_vm_that_only_the_cluster_knows_is_named_by_its_name() {
    let bench = Bench::with(world());
    for args in [
        &["configure", "stranger", "2", "1024", "--unmanaged", "stranger"][..],
        &["start", "stranger", "--unmanaged", "333"],
        &["stop", "333", "--unmanaged", "stranger"],
        &["cloudinit-config", "stranger", KEY, "--unmanaged", "stranger"],
        &["clone", "stranger", "110", "test-automation", "--unmanaged", "stranger"],
    ] {
        let before = bench.sim.connections();
        let ran = bench.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        assert_eq!(bench.sim.connections() - before, 1, "{args:?}");
    }
    let config = bench.sim.config(333).unwrap();
    assert_eq!((config.get("memory"), config.get("cores")), (Some("1024"), Some("2")));
    // One of the definitions' VMIDs whose VM has another name: which is meant can be said by that, too.
    call(&bench, 110, "pihole");
    bench.sim.edit(110, |conf| {
        conf.main.remove("description");
    });
    assert_eq!(bench.run(&["start", "110"]).code, 3);
    bench.ok(&["start", "110", "--unmanaged", "pihole"]);
}

#[test]
fn what_the_definitions_refuse_is_refused_before_anything_is_asked() {
    let bench = Bench::with(world());
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 110; readonly = true;");
    for (args, code, words) in [
        (&["stop", "doc1", "--unmanaged", "doc1"][..], 3, "'doc1' is imported and read-only"),
        (&["stop", "104", "--unmanaged", "doc1"], 3, "'doc1' is imported and read-only"),
        (&["stop", "104", "--unmanaged", "stranger"], 3, "'doc1' is imported and read-only"),
        (&["stop", "stranger", "--unmanaged", "104"], 3, "'doc1' is imported and read-only"),
        (&["destroy", "doc1", "yes", "--unmanaged", "doc1"], 3, "'doc1' is imported and read-only"),
        (&["clone", "doc1", "150", "copy", "--unmanaged", "doc1"], 3, "'doc1' is imported and read-only"),
        (&["start", "110", "--unmanaged", "stranger"], 3, "'test-automation' is marked readonly"),
        (&["start", "test-automation", "--unmanaged", "test-automation"], 3, "is marked readonly"),
        (&["configure", "9002", "2", "2048", "--unmanaged", "stranger"], 3, "it is the template"),
        // Two names are not one VM.
        (&["stop", "stranger", "--unmanaged", "twin"], 3, "--unmanaged names 'twin'"),
        // Nor is a name alone leave.
        (&["stop", "stranger"], 5, "no VM 'stranger' in"),
        (&["stop", "333"], 3, "it is defined nowhere"),
        (&["stop", "stranger", "--unmanaged", "stranger", "--dry-run"], 2, "only the node knows"),
    ] {
        let ran = refused(&bench, args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
        assert_eq!(bench.sim.connections(), 0, "{args:?} reached the node");
    }
    let ran = bench.run(&["stop", "stranger"]);
    assert!(ran.err.contains("`--unmanaged stranger` names it as well"), "{}", ran.err);
}

#[test]
fn a_name_in_the_cluster_gets_nobody_past_the_guard() {
    let settings = [("name", "other"), ("memory", "512")];
    let bench = Bench::with(world().with_vm(110, false, &settings));
    // Who calls an imported VM, the template or a read-only VM something else has not made it another one.
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 110; readonly = true;");
    call(&bench, 104, "prod");
    call(&bench, 9002, "gold");
    for (args, code, words) in [
        (&["stop", "prod", "--unmanaged", "prod"][..], 3, "'doc1' is imported and read-only"),
        (&["destroy", "prod", "yes", "--unmanaged", "prod"], 3, "'doc1' is imported and read-only"),
        (&["exec", "prod", "--unmanaged", "prod", "--", "reboot"], 3, "'doc1' is imported and read-only"),
        (&["configure", "gold", "2", "2048", "--unmanaged", "gold"], 3, "it is the template"),
        (&["start", "other", "--unmanaged", "other"], 3, "'test-automation' is marked readonly"),
        // Another VM than the one that is named.
        (&["stop", "stranger", "--unmanaged", "340"], 3, "VM 333: it is defined nowhere"),
        (&["stop", "340", "--unmanaged", "stranger"], 3, "VM 340: it is defined nowhere"),
        // Which one is meant nobody can tell.
        (&["stop", "twin", "--unmanaged", "twin"], 4, "340 and 341 are"),
        (&["stop", "340", "--unmanaged", "twin"], 4, "340 and 341 are"),
        (&["stop", "strangre", "--unmanaged", "strangre"], 5, "did you mean 'stranger'?"),
        (&["stop", "dns", "--unmanaged", "dns"], 4, "is a container"),
        // No marker, no removal.
        (&["destroy", "stranger", "yes", "--unmanaged", "stranger"], 3, "nothing proves that it is ours"),
    ] {
        let ran = refused(&bench, args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
        assert!(ran.err.contains("nothing was changed"), "{args:?}: {}", ran.err);
        // It was asked.
        assert!(!ran.err.contains("nothing was sent"), "{args:?}: {}", ran.err);
    }
    // A copy of an imported VM, whatever it is called.
    let ran = refused(&bench, &["clone", "prod", "150", "copy", "--unmanaged", "150"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("'doc1' is imported and read-only"), "{}", ran.err);
    // A template that no definition has is changed by the template commands alone.
    bench.fleet.edit("vms/definitions.nix", "vmid = 9002;", "vmid = 9003;");
    let ran = refused(&bench, &["configure", "gold", "2", "2048", "--unmanaged", "gold"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("it is a template"), "{}", ran.err);
}

/// What is told as the next command is allowed what this one was.
#[test]
fn the_command_in_a_hint_names_it_as_well() {
    let bench = Bench::with(world());
    for (args, next) in [
        (&["reboot", "stranger", "--unmanaged", "stranger"][..], "start 333 --unmanaged stranger"),
        (&["template", "333", "--unmanaged", "333"], "shutdown 333 --unmanaged 333"),
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains(&format!("hint: proxmox-ops {next}\n")), "{}", ran.err);
        bench.ok(&next.split(' ').collect::<Vec<_>>());
    }
    // Of a read, too; what these tools would refuse is left to the node's own program.
    let bench = Bench::with(world().without_vm(104).with_vm(104, false, &[("name", "doc1"), ("net0", NET)]));
    for (vm, next) in [
        ("stranger", "proxmox-ops start 333 --unmanaged 333"),
        ("doc1", "on the node 'prom': qm start 104   # these tools never change it"),
    ] {
        let ran = bench.run(&["get-ip", vm]);
        assert_eq!(ran.code, 5, "{}", ran.err);
        assert!(ran.err.contains(&format!("hint: {next}\n")), "{}", ran.err);
    }
}

/// Between the look and the change somebody may give the name, or the VMID, to another VM.
#[test]
fn the_vm_has_to_bear_the_name_when_it_is_changed() {
    let bench = Bench::with(world());
    let command = bench
        .sim
        .env()
        .into_iter()
        .fold(Command::new(assert_cmd::cargo::cargo_bin!("proxmox-ops")), |c, (k, v)| c.env(k, v))
        .dir(bench.fleet.path())
        .args(["session", "--unmanaged", "stranger"]);
    let mut session = Session::start(&command).unwrap();
    let vmid = |number| Vmid::new(number).unwrap();
    let mut start = |number| {
        session.ask::<serde_json::Value>(Op::Start { vmid: vmid(number) }, Deadline::secs(60), |_| {})
    };
    // The leave is for the one that was found.
    assert_eq!(start(340).unwrap_err().kind(), fleet_core::Kind::Refused);
    call(&bench, 333, "prod-db");
    let error = start(333).unwrap_err();
    assert_eq!(error.kind(), fleet_core::Kind::Refused);
    assert!(error.message().contains("VM 333 is not 'stranger'"), "{error:?}");
    assert_eq!(bench.sim.changes(), Vec::<String>::new());
    call(&bench, 333, "stranger");
    start(333).unwrap();
    assert!(bench.sim.is_running(333));
}
