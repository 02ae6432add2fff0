//! What is refused is refused before one byte is sent, with its reason and what to do instead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, KEY};

/// Runs it, and proves that nothing reached the node.
fn refused(bench: &Bench, args: &[&str]) -> (i32, String) {
    let ran = bench.run(args);
    assert_eq!(bench.sim.connections(), 0, "{args:?} reached the node");
    assert_eq!(ran.out, "", "{args:?}");
    (ran.code, ran.err)
}

#[test]
fn imported_vms_are_never_changed() {
    let bench = Bench::new();
    let (code, err) = refused(&bench, &["stop", "104"]);
    assert_eq!(code, 3);
    insta::assert_snapshot!(err, @r"
    ✗ refused to stop VM 104: 'doc1' is imported and read-only
      nothing was sent to the node
    hint: imported VMs are only documented; see imported.doc1 in FLEET/vms/definitions.nix
    ");
    let (code, err) = refused(&bench, &["destroy", "109", "yes"]);
    assert_eq!(code, 3);
    insta::assert_snapshot!(err, @r"
    ✗ refused to destroy VM 109: 'igp' is imported and read-only
      nothing was sent to the node
    hint: imported VMs are only documented; see imported.igp in FLEET/vms/definitions.nix
    ");
    let changes: &[&[&str]] = &[
        &["start", "104"],
        &["start", "doc1"],
        &["stop", "igp", "--yes"],
        &["shutdown", "104"],
        &["reboot", "104"],
        &["configure", "104", "2", "2048"],
        &["create-disk", "104", "20G"],
        &["resize", "104", "scsi0", "900G"],
        &["cloudinit-drive", "104"],
        &["cloudinit-config", "104", KEY],
        &["destroy", "doc1", "yes", "--yes"],
        &["destroy", "104"],
        &["destroy", "doc1", "no"],
        &["clone", "9002", "104", "doc1"],
        &["template", "104"],
        &["create-template", "104", "--import", "local:import/x.qcow2", "--name", "doc1"],
        &["restore", "local:backup/vzdump-qemu-104.vma.zst", "104"],
        &["backup", "104"],
        &["backup", "igp", "--mode", "stop", "--dry-run"],
        &["console", "104"],
        &["snapshot", "104", "before"],
        &["rollback", "104", "before", "--yes"],
        &["delete-snapshot", "104", "before"],
        &["exec", "104", "--", "reboot"],
        &["clone", "9002", "doc1", "doc1"],
        // Copying from it would hold up its disks.
        &["clone", "104", "110", "test-automation"],
        &["clone", "igp", "110", "test-automation", "--dry-run"],
        // Naming it as unmanaged does not help.
        &["stop", "104", "--unmanaged", "104"],
        &["destroy", "104", "yes", "--unmanaged", "104"],
        &["stop", "104", "--dry-run"],
    ];
    for args in changes {
        let (code, err) = refused(&bench, args);
        assert_eq!(code, 3, "{args:?}: {err}");
        assert!(err.contains("is imported and read-only"), "{args:?}: {err}");
    }
}

#[test]
fn the_definitions_decide_not_the_program() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "doc1 = {", "renamed = {");
    let (code, err) = refused(&bench, &["stop", "renamed"]);
    assert_eq!(code, 3);
    assert!(err.contains("'renamed' is imported"), "{err}");
}

#[test]
fn what_is_defined_nowhere_needs_to_be_named() {
    let bench = Bench::new();
    let (code, err) = refused(&bench, &["start", "777"]);
    assert_eq!(code, 3);
    insta::assert_snapshot!(err, @r"
    ✗ refused to start VM 777: it is defined nowhere in FLEET/vms/definitions.nix
      nothing was sent to the node
    hint: define it under `managed`, or name it with `--unmanaged 777` if you are sure it is yours
    ");
    assert_eq!(refused(&bench, &["start", "777", "--unmanaged", "778"]).0, 3);
    let (code, err) = refused(&bench, &["start", "test-automatoin"]);
    assert_eq!(code, 5);
    insta::assert_snapshot!(err, @r"
    ✗ no VM 'test-automatoin' in FLEET/vms/definitions.nix
      nothing was sent to the node
    hint: did you mean 'test-automation'?
    ");
}

#[test]
fn templates_are_not_changed_by_the_way() {
    let bench = Bench::new();
    for args in [&["start", "9002"][..], &["destroy", "9002", "yes"], &["resize", "9002", "scsi0", "9G"]] {
        let (code, err) = refused(&bench, args);
        assert_eq!(code, 3);
        assert!(err.contains("it is the template 'ubuntu-cloud-template'"), "{err}");
    }
}

/// Nor is one that no definition has, though it is named.
#[test]
fn a_template_that_is_not_defined_is_not_changed_either() {
    let bench = Bench::new();
    bench.fleet.edit("vms/definitions.nix", "vmid = 9002;", "vmid = 9003;");
    let before = bench.sim.config(9002);
    for args in [
        &["configure", "9002", "2", "2048"][..],
        &["resize", "9002", "scsi0", "9G"],
        &["create-disk", "9002", "1G"],
        &["cloudinit-config", "9002", KEY],
    ] {
        let ran = bench.run(&[args, &["--unmanaged", "9002"]].concat());
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("it is a template"), "{}", ran.err);
        assert_eq!(bench.sim.config(9002), before);
    }
}

/// One that these tools made, too, where something may share its disks: nobody is asked for its name first.
#[test]
fn a_template_is_not_destroyed_and_the_way_to_it_is_told() {
    let marked = "fleet-vm: name=old vmid=9005 nonce=0123456789abcdef0123456789abcdef";
    let settings = [
        ("name", "old"),
        ("template", "1"),
        ("description", marked),
        ("scsi0", "gone:base-9005-disk-0,size=2G"),
    ];
    let bench = Bench::with(pve_sim::world::World::default().with_vm(9005, false, &settings));
    for args in [&["destroy", "9005", "yes"][..], &["destroy", "9005"]] {
        let output = bench.on_terminal(&[args, &["--unmanaged", "9005"]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("refused to destroy VM 9005: it is a template"), "{said}");
        assert!(said.contains("the node has no storage 'gone'"), "{said}");
        assert!(said.contains("on the node 'prom': qm destroy 9005 --purge"), "{said}");
        assert!(!said.contains("Type its name"), "{said}");
    }
    assert!(bench.sim.config(9005).is_some());
}

#[test]
fn no_vm_gets_the_name_of_another_ones_definition() {
    let bench = Bench::new();
    bench.clone_110();
    let template = ["create-template", "9013", "--unmanaged", "9013", "--import", "local:import/x.qcow2"];
    for args in [
        &[&template[..], &["--name", "doc1"]].concat()[..],
        &[&template[..], &["--name", "test-automation"]].concat(),
        &["cloudinit-config", "110", KEY, "doc1"],
    ] {
        let before = bench.sim.connections();
        let ran = bench.run(args);
        assert_eq!((ran.code, bench.sim.connections()), (4, before), "{args:?}: {}", ran.err);
        assert!(ran.err.contains("take another name, or that VMID"), "{}", ran.err);
    }
}

#[test]
fn destroy_needs_the_word() {
    let bench = Bench::new();
    for args in [
        &["destroy", "110"][..],
        &["destroy", "110", "--yes"],
        &["destroy", "110", "no"],
        &["destroy", "110", "YES"],
    ] {
        let (code, err) = refused(&bench, args);
        let words = "\
            ✗ refused to destroy VM 110: the word 'yes' is missing\n  nothing was changed\n\
            hint: proxmox-ops destroy 110 yes   # removes it and its disks for ever\n";
        assert_eq!((code, err.as_str()), (3, words), "{args:?}");
    }
}

#[test]
fn a_protected_vm_is_not_destroyed() {
    let bench = Bench::new();
    bench.fleet.edit(
        "vms/definitions.nix",
        "test-automation = {",
        "test-automation = {\n      protection = true;",
    );
    let (code, err) = refused(&bench, &["destroy", "110", "yes"]);
    assert_eq!(code, 3);
    assert!(err.contains("'test-automation' is protected"), "{err}");
}

#[test]
fn no_argument_can_be_a_command() {
    let bench = Bench::new();
    let evil = ["; touch pwned", "$(touch pwned)", "`id`", "a b", "x\ny", "'", "-x", ""];
    for evil in evil {
        let cases: &[&[&str]] = &[
            &["status", evil],
            &["config", evil],
            &["start", evil],
            &["stop", evil],
            &["shutdown", evil],
            &["reboot", evil],
            &["get-ip", evil],
            &["host-key", evil],
            &["connect", evil],
            &["connect", "110", evil],
            &["clone", evil, "110", "test-automation"],
            &["clone", "9002", evil, "test-automation"],
            &["clone", "9002", "110", evil],
            &["clone", "9002", "110", "test-automation", evil],
            &["configure", evil, "2", "2048"],
            &["configure", "110", evil, "2048"],
            &["configure", "110", "2", evil],
            &["create-disk", "110", evil],
            &["create-disk", "110", "20G", evil],
            &["create-disk", "110", "20G", "nvmeprom", evil],
            &["resize", "110", evil, "20G"],
            &["resize", "110", "scsi0", evil],
            &["cloudinit-drive", "110", evil],
            &["cloudinit-config", "110", evil],
            &["cloudinit-config", "110", KEY, evil],
            &["template", evil],
            &["create-template", evil, "--import", "local:import/x.qcow2"],
            &["create-template", "9002", "--import", evil],
            &["create-template", "9002", "--import", "local:import/x.qcow2", "--name", evil],
            &["create-template", "9002", "--import", "local:import/x.qcow2", "--storage", evil],
            &["create-template", "9002", "--import", "local:import/x.qcow2", "--bridge", evil],
            &["restore", evil, "110"],
            &["restore", "local:backup/x.vma", evil],
            &["restore", "local:backup/x.vma", "110", evil],
            &["console", evil],
            &["man", evil],
            &["completions", evil],
            &["snapshot", "110", evil],
            &["rollback", "110", evil],
            &["delete-snapshot", "110", evil],
            &["snapshots", evil],
            &["exec", evil, "--", "true"],
            &["wait-ssh", evil],
            &["wait-ssh", "192.0.2.1", evil],
            &["wait-ssh", "192.0.2.1", "1", evil],
            &["next-vmid", evil],
            &["next-vmid", "100", evil],
            &["destroy", evil, "yes"],
            &["list", "--host", evil],
            &["list", "--user", evil],
            &["list", "--node", evil],
        ];
        for args in cases {
            let (code, err) = refused(&bench, args);
            assert!((2..=3).contains(&code), "{args:?} ended with {code}: {err}");
        }
    }
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn outside_a_fleet_repository_nothing_is_done() {
    let bench = Bench::new();
    let elsewhere = tempfile::tempdir_in(bench.sim.dir()).unwrap();
    let verbs: &[&[&str]] =
        &[&["list"], &["stop", "110"], &["wait-ssh", "192.0.2.1", "1"], &["destroy", "110", "yes"]];
    for args in verbs {
        let mut command = bench.command(args);
        let ran = bench.finish(command.current_dir(elsewhere.path()));
        assert_eq!(ran.code, 5, "{args:?}");
        assert!(ran.err.contains("looked for vms/definitions.nix and hosts.nix"), "{}", ran.err);
        assert!(ran.err.contains("hint: run `proxmox-ops --repo DIR list`"), "{}", ran.err);
    }
    assert_eq!(bench.sim.connections(), 0);
}

#[test]
fn a_dry_run_shows_the_requests_and_sends_none() {
    let bench = Bench::new();
    let dry = |args: &[&str]| {
        let ran = bench.run(&[args, &["--dry-run"]].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(bench.sim.connections(), 0);
        ran.out
    };
    assert_eq!(dry(&["start", "110"]), "POST /nodes/NODE/qemu/110/status/start\n");
    assert!(dry(&["clone", "9002", "110", "test-automation"]).contains(
        "/qemu/9002/clone newid=110 name=test-automation full=1 description='fleet-vm: name=test-automation vmid=110 nonce="
    ));
    assert!(
        dry(&["restore", "local:backup/x.vma.zst", "110"])
            .ends_with("/qemu vmid=110 archive=local:backup/x.vma.zst storage=nvmeprom unique=1\n")
    );
    let template = dry(&["create-template", "9002", "--import", "local:import/debian-13.qcow2"]);
    assert!(
        template.contains(" bios=ovmf machine=q35 efidisk0='nvmeprom:1,efitype=4m,pre-enrolled-keys=0' ")
    );
    assert!(dry(&["console", "110"]).ends_with("'qm terminal 110'\n"));
    assert!(dry(&["destroy", "110"]).starts_with("DELETE /nodes/"));
    assert!(dry(&["resize", "110", "scsi0", "20G"]).ends_with("/qemu/110/resize disk=scsi0 size=20G\n"));
    let json: serde_json::Value =
        serde_json::from_str(&dry(&["configure", "110", "2", "4096", "--json"])).unwrap();
    assert_eq!(json[0]["params"], serde_json::json!({"cores": "2", "memory": "4096"}));
}

#[test]
fn a_strangers_vm_under_our_vmid_is_not_changed() {
    let world = pve_sim::world::World::default().with_vm(
        110,
        true,
        &[("name", "pihole"), ("scsi0", "nvmeprom:110/d,size=8G")],
    );
    let bench = Bench::with(world);
    for args in [
        &["stop", "110"][..],
        &["stop", "test-automation"],
        &["shutdown", "110"],
        &["reboot", "110"],
        &["configure", "110", "2", "2048"],
        &["resize", "110", "scsi0", "20G"],
        &["cloudinit-config", "110", KEY],
        &["snapshot", "110", "before"],
        &["create-disk", "110", "8G"],
        &["cloudinit-drive", "110"],
        &["cloudinit-config", "110", "--no-documents"],
        &["exec", "110", "--", "reboot"],
        &["backup", "110"],
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("VM 110 is not 'test-automation'"), "{args:?}: {}", ran.err);
        assert_eq!(bench.sim.changes(), [] as [String; 0], "{args:?}");
    }
    assert_eq!(bench.run(&["stop", "110", "--unmanaged", "110"]).code, 0);
}

#[test]
fn a_strangers_vm_under_the_templates_vmid_is_not_made_one() {
    let with = |name: &str| {
        let world = pve_sim::world::World::default().without_vm(9002);
        Bench::with(world.with_vm(9002, false, &[("name", name), ("memory", "512")]))
    };
    let bench = with("prod-db");
    for args in [&["template", "9002"][..], &["template", "ubuntu-cloud-template"]] {
        let ran = bench.run(args);
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("VM 9002 is not 'ubuntu-cloud-template'"), "{}", ran.err);
        assert_eq!(bench.sim.changes(), [] as [String; 0], "{args:?}");
    }
    assert_eq!(bench.run(&["template", "9002", "--unmanaged", "9002"]).code, 0);
    let bench = with("ubuntu-cloud-template");
    assert_eq!(bench.run(&["template", "9002"]).code, 0);
}

#[test]
fn only_a_template_or_what_is_ours_is_copied() {
    let world = pve_sim::world::World::default()
        .with_vm(105, true, &[("name", "prod-db"), ("memory", "512")])
        .with_vm(9005, false, &[("name", "theirs"), ("memory", "512"), ("template", "1")]);
    let bench = Bench::with(world);
    let ran = bench.run(&["clone", "105", "110", "test-automation"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    insta::assert_snapshot!(ran.err, @r"
    ==> Cloning VM 105 into VM 110 'test-automation'...
    ✗ refused to clone VM 105: it is no template, and nothing proves that it is ours
      it is called 'prod-db'
      copying a VM holds up its disks; nothing was changed
    hint: clone a template: `proxmox-ops list` shows them
    hint: or name this VM with --unmanaged 105 if you are sure it is yours
    ");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    bench.ok(&["clone", "105", "110", "test-automation", "--unmanaged", "105"]);
    bench.ok(&["clone", "9005", "150", "other", "--unmanaged", "150"]);
    // One of the definitions', and somebody else's in its place.
    bench.ok(&["clone", "110", "151", "copy", "--unmanaged", "151"]);
    bench.sim.edit(110, |conf| {
        conf.main.insert("description".into(), "mine".into());
        conf.main.insert("name".into(), "pihole".into());
    });
    assert_eq!(bench.run(&["clone", "110", "152", "copy", "--unmanaged", "152"]).code, 3);
    assert!(bench.sim.config(152).is_none());
}

#[test]
fn a_strangers_clone_that_ends_while_we_wait_is_not_changed() {
    // A change that the node refuses while the VM is locked, and one that would wait for the lock there.
    for verb in [&["start", "110"][..], &["configure", "110", "1", "777"]] {
        let bench = Bench::new();
        // Another fleet, which has given the same VMID away.
        let other = bench.sim.scratch_fleet();
        other.edit("vms/definitions.nix", "test-automation = {", "intruder = {");
        let mut stranger = bench.sim.command("proxmox-ops", &other);
        stranger.args(["clone", "9002", "110", "intruder"]);
        let (node, pause) = (bench.sim.node(), std::time::Duration::from_millis(5));
        node.hold_tasks(true);
        std::thread::scope(|scope| {
            let clone = scope.spawn(|| stranger.output().unwrap());
            while bench.sim.config(110).is_none_or(|conf| conf.get("lock").is_none()) {
                assert!(!clone.is_finished(), "the clone was never seen under way");
                std::thread::sleep(pause);
            }
            // Tried while the clone is under way, and again when it is done.
            let ours = scope.spawn(|| bench.run(verb));
            while !bench.sim.calls().iter().any(|call| call.contains("GET /nodes/prom/qemu/110/config")) {
                assert!(!ours.is_finished(), "{:?}", ours.join());
                std::thread::sleep(pause);
            }
            // What would be sent then has arrived.
            std::thread::sleep(pause * 60);
            node.release_all();
            let (cloned, ran) = (clone.join().unwrap(), ours.join().unwrap());
            assert!(cloned.status.success(), "{cloned:?}");
            assert_eq!(ran.code, 3, "{verb:?}: {}", ran.err);
            assert!(ran.err.contains("carries the marker of 'intruder'"), "{}", ran.err);
        });
        let sent: Vec<String> = bench.sim.changes().into_iter().filter(|c| c.contains("/qemu/110")).collect();
        assert_eq!(sent, [] as [String; 0], "what is not proven to be ours was sent something");
        assert_ne!(bench.sim.config(110).unwrap().get("memory"), Some("777"));
        assert!(!bench.sim.is_running(110));
    }
}
