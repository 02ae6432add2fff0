//! The verbs, on a node where all goes well.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, KEY};
use pve_sim::{faults::Fault, world::World};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A copy of raw disks would be raw: on a storage of files it takes no snapshots.
#[test]
fn a_full_clone_of_raw_disks_takes_snapshots() {
    let bench = Bench::new();
    bench.sim.node().change(|d| {
        let raw = |text: &str| text.replace(".qcow2", ".raw");
        d.volumes = std::mem::take(&mut d.volumes)
            .into_iter()
            .map(|(id, volume)| if id.contains("base-9002-") { (raw(&id), volume) } else { (id, volume) })
            .collect();
        let template = d.vms.get_mut(&9002).unwrap();
        template.main.values_mut().filter(|v| v.contains("base-9002-")).for_each(|v| *v = raw(v));
    });
    bench.clone_110();
    let config = bench.sim.config(110).unwrap();
    assert!(config.get("scsi0").is_some_and(|disk| disk.contains(".qcow2")), "{config:?}");
}

#[test]
fn the_whole_way_of_a_vm() {
    let bench = Bench::new();
    bench.clone_110();
    let config = json(&bench.ok(&["config", "test-automation", "--json"]));
    assert_eq!(config["marker"]["name"], "test-automation");
    assert_eq!(config["marker"]["vmid"], 110);

    bench.ok(&["configure", "110", "2", "4096"]);
    bench.ok(&["cloudinit-drive", "110"]);
    bench.ok(&["cloudinit-drive", "110"]);
    bench.ok(&["cloudinit-config", "110", KEY, "test-automation"]);
    bench.ok(&["resize", "110", "scsi0", "20G"]);
    let ran = bench.run(&["resize", "110", "scsi0", "20G"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "✓ scsi0 of VM 110 is 20G already\n"));
    bench.ok(&["create-disk", "110", "5G"]);

    let settings = &json(&bench.ok(&["config", "110", "--json"]))["settings"];
    assert_eq!((&settings["cores"], &settings["memory"]), (&Value::from("2"), &Value::from("4096")));
    assert_eq!(settings["sshkeys"], KEY);
    assert_eq!(settings["ciuser"], "root");
    assert_eq!(settings["ipconfig0"], "ip=dhcp");
    assert!(settings["scsi0"].as_str().unwrap().contains("size=20G"), "{settings}");
    assert!(settings["scsi1"].as_str().unwrap().contains("size=5G"), "{settings}");

    assert_eq!(bench.ok(&["status", "110"]), "stopped\n");
    let ran = bench.run(&["start", "110"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "✓ VM 110 started\n"));
    let ran = bench.run(&["start", "110"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "✓ VM 110 is running already\n"));
    assert_eq!(bench.ok(&["status", "test-automation"]), "running\n");

    let address = bench.ok(&["get-ip", "110", "--timeout", "20"]);
    assert_eq!(address.trim(), bench.sim.guest(110).unwrap().1);
    let found = json(&bench.ok(&["get-ip", "110", "--timeout", "20", "--json"]));
    assert_eq!(found["candidates"][0]["taken"], true);
    assert_eq!(bench.ok(&["host-key", "110", "--timeout", "20"]).trim(), key_of(&bench, 110));
    bench.ok(&["wait-ssh", address.trim(), "20"]);

    let ran = bench.run(&["destroy", "110", "yes"]);
    assert_eq!(ran.code, 1);
    insta::assert_snapshot!(ran.err, @r"
    ==> Destroying VM 110 'test-automation'...
    ✗ can not destroy VM 110: it is running
      nothing was changed
    hint: proxmox-ops stop 110   # then destroy it; or give --stop
    ");
    bench.ok(&["reboot", "110"]);
    // A guest that is still booting does not hear the power button.
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    bench.ok(&["shutdown", "110"]);
    bench.ok(&["stop", "110"]);
    bench.ok(&["destroy", "110", "yes"]);
    assert!(bench.sim.config(110).is_none());
    assert_eq!(bench.run(&["status", "110"]).code, 5);
}

/// The guest's host key without its comment.
fn key_of(bench: &Bench, vmid: u32) -> String {
    let line = bench.sim.guest_host_key(vmid).unwrap();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_list_is_for_people_and_for_programs() {
    let bench = Bench::with(World::default().with_foreign_vm(150, "elsewhere", "second"));
    insta::assert_snapshot!(bench.ok(&["list"]), @r"
    VMID  NAME                   TYPE       STATUS   NODE    CORES     MEMORY       DISK  DEFINED
     104  doc1                   vm         running  prom        8   32.0 GiB  250.0 GiB  imported
     109  igp                    vm         running  prom        8    7.9 GiB   64.0 GiB  imported
     150  elsewhere              vm         running  second      2    2.0 GiB   20.0 GiB  -
     200  dns                    container  running  prom        2  512.0 MiB    1.0 GiB  -
    9002  ubuntu-cloud-template  template   stopped  prom        2    2.0 GiB    2.0 GiB  template
    ");
    let list = json(&bench.ok(&["list", "--json"]));
    let names: Vec<&str> = list.as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["doc1", "igp", "elsewhere", "dns", "ubuntu-cloud-template"]);
    assert_eq!(list[0]["type"], "qemu");
    // One that is too new for the cluster's statistics has no more than its number there.
    bench.clone_110();
    bench.sim.inject(Fault::StatsLate { vmid: 110 });
    let list = bench.ok(&["list"]);
    let row = list.lines().find(|line| line.trim_start().starts_with("110 ")).unwrap();
    assert!(row.contains(" - ") && row.contains(" unknown ") && row.ends_with("managed"), "{list}");
    assert_eq!(bench.ok(&["status", "test-automation"]), "stopped\n");
    bench.ok(&["start", "test-automation"]);
}

#[test]
fn storages_and_free_vmids() {
    let bench = Bench::with(World::default().with_container(100, "ct"));
    insta::assert_snapshot!(bench.ok(&["storage"]), @r"
    NAME      NODE  TYPE  STATUS  SHARED       FREE       TOTAL  CONTENT
    local     prom  dir   active  no      900.0 GiB  1000.0 GiB  backup,iso,snippets,vztmpl
    nvmeprom  prom  dir   active  no      794.7 GiB  1000.0 GiB  images,import,iso,snippets
    ");
    // 100 is a container's.
    assert_eq!(bench.ok(&["next-vmid"]), "101\n");
    // 104 is imported; 109 too; 110 is managed.
    assert_eq!(bench.ok(&["next-vmid", "104"]), "105\n");
    assert_eq!(bench.ok(&["next-vmid", "109", "111"]), "111\n");
    assert_eq!(bench.run(&["next-vmid", "109", "110"]).code, 4);
    assert_eq!(bench.ok(&["next-vmid", "9000", "--json"]), "9000\n");
    // Containers have 200 to 299: passed over, unless it is one that is asked for.
    assert_eq!(bench.ok(&["next-vmid", "200"]), "201\n");
    let full: Vec<u32> = (100..200).filter(|vmid| ![100, 104, 109, 110].contains(vmid)).collect();
    let world =
        full.iter().fold(World::default(), |world, vmid| world.with_container(*vmid, &format!("c{vmid}")));
    let bench = Bench::with(world.with_container(100, "ct"));
    assert_eq!(bench.run(&["next-vmid"]).code, 4);
    assert_eq!(bench.ok(&["next-vmid", "150", "400"]), "300\n");
    assert_eq!(bench.ok(&["next-vmid", "150", "999999999"]), "300\n");
    assert_eq!(bench.run(&["next-vmid", "150", "299"]).code, 4);
}

#[test]
fn reading_imported_vms_and_strangers_is_allowed() {
    let bench = Bench::with(World::default().with_vm(333, false, &[("name", "stranger"), ("memory", "512")]));
    assert_eq!(bench.ok(&["status", "doc1"]), "running\n");
    assert!(bench.ok(&["config", "104"]).contains("memory: 32768\n"));
    assert!(bench.ok(&["get-ip", "104", "--timeout", "20"]).starts_with("192.0.2."));
    assert_eq!(bench.ok(&["status", "stranger"]), "stopped\n");
    assert_eq!(bench.sim.changes(), Vec::<String>::new());
}

#[test]
fn a_host_name_does_not_take_away_what_proves_whose_a_vm_is() {
    let by_hand = World::default().with_vm(110, false, &[("name", "test-automation"), ("memory", "512")]);
    let bench = Bench::with(by_hand);
    let ran = bench.run(&["cloudinit-config", "110", KEY, "web"]);
    assert_eq!(ran.code, 3);
    insta::assert_snapshot!(ran.err, @r"
    ✗ refused to call VM 110 'web': only its name says that it is 'test-automation'
      it does not carry the marker that these tools write into every VM they make
      nothing was changed
    hint: give no host name, or 'test-automation'; or --unmanaged 110 if you are sure it is yours
    ");
    assert_eq!(bench.sim.changes(), Vec::<String>::new());
    bench.ok(&["cloudinit-config", "110", KEY, "test-automation"]);
    bench.ok(&["cloudinit-config", "110", KEY, "web", "--unmanaged", "110"]);
    // With the marker it stays ours whatever it is called.
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["cloudinit-config", "110", KEY, "web"]);
    bench.ok(&["cloudinit-config", "110", KEY, "web2"]);
}

#[test]
fn a_named_stranger_can_be_changed_but_not_destroyed() {
    let config =
        [("name", "stranger"), ("memory", "512"), ("scsi0", "nvmeprom:333/vm-333-disk-0.qcow2,size=2G")];
    let bench = Bench::with(World::default().with_vm(333, false, &config));
    bench.ok(&["configure", "333", "2", "1024", "--unmanaged", "333"]);
    assert!(bench.sim.config(333).unwrap().to_string().contains("memory: 1024"));
    let ran = bench.run(&["destroy", "333", "yes", "--unmanaged", "333"]);
    assert_eq!(ran.code, 3);
    insta::assert_snapshot!(ran.err, @r"
    ✗ refused to destroy VM 333 'stranger': nothing proves that it is ours
      its description does not carry the marker that these tools write into every VM they make
      it is called 'stranger', and no definition has it
      nothing was changed
    hint: look at it: proxmox-ops config 333
    hint: if it is yours, on the node 'prom': qm destroy 333
    ");
    assert!(bench.sim.config(333).is_some());
}

#[test]
fn what_is_so_already_is_said_and_not_done_again() {
    let bench = Bench::new();
    bench.clone_110();
    for args in [
        &["configure", "110", "3", "3072"][..],
        &["cloudinit-drive", "110"],
        &["cloudinit-config", "110", KEY],
        &["cloudinit-config", "110", KEY, "--no-documents"],
        &["resize", "110", "scsi0", "21G"],
    ] {
        let args = [args, &["--json"]].concat();
        let ours = args.contains(&"--no-documents")
            || args[0] == "cloudinit-drive" && bench.sim.config(110).unwrap().get("ide2").is_some();
        let before = bench.sim.changes().len();
        let ran = bench.run(&args);
        assert_eq!(
            json(&ran.out),
            serde_json::json!({"vmid": 110, "changed": !ours}),
            "{args:?}: {}",
            ran.err
        );
        let sent = bench.sim.changes().len();
        assert_eq!(sent > before, !ours, "{args:?}");
        let ran = bench.run(&args);
        assert_eq!(json(&ran.out), serde_json::json!({"vmid": 110, "changed": false}), "{args:?}");
        assert!(ran.err.contains(" already\n"), "{args:?}: {}", ran.err);
        assert_eq!(bench.sim.changes().len(), sent, "{args:?}");
    }
}

#[test]
fn keys_come_from_text_a_file_or_standard_input() {
    let bench = Bench::new();
    bench.clone_110();
    bench.fleet.write("keys", &format!("# fleet\r\n\r\n{KEY}\r\n"));
    bench.ok(&["cloudinit-config", "110", "@keys"]);
    let stored = || json(&bench.ok(&["config", "110", "--json"]))["settings"]["sshkeys"].clone();
    assert_eq!(stored(), KEY);
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6 bob+x@y";
    let again = KEY.replace("alice@laptop", "the same with another comment");
    let mut command = bench.command(&["cloudinit-config", "110", "-", "--login", "ops"]);
    assert_eq!(bench.finish(command.write_stdin(format!("{KEY}\n{other}\n{again}\n"))).code, 0);
    assert_eq!(stored(), format!("{KEY}\n{other}"));
    assert_eq!(json(&bench.ok(&["config", "110", "--json"]))["settings"]["ciuser"], "ops");
}

#[test]
fn a_linked_clone_takes_no_storage() {
    let bench = Bench::new();
    bench.ok(&["clone", "ubuntu-cloud-template", "test-automation", "test-automation", "--linked"]);
    let scsi0 = json(&bench.ok(&["config", "110", "--json"]))["settings"]["scsi0"].clone();
    assert!(scsi0.as_str().unwrap().contains("base-9002"), "{scsi0}");
}

#[test]
fn bytes_are_carried_to_a_vm() {
    let bench = Bench::new();
    let mut command = bench.command(&["connect", "104", "22", "--timeout", "20"]);
    let ran = bench.finish(command.write_stdin("SSH-2.0-test\r\n"));
    assert!(ran.out.starts_with("SSH-2.0-"), "{ran:?}");
}

#[test]
fn one_session_one_ticket_and_one_connection_for_the_api() {
    let bench = Bench::new();
    bench.ok(&["status", "104"]);
    let requests = bench.sim.requests();
    let count =
        |kind: &str| requests.iter().filter(|r| serde_json::to_value(r).unwrap()["kind"] == kind).count();
    assert_eq!((count("connect"), count("exec"), count("open")), (1, 1, 1));
}

#[test]
fn messages_go_to_standard_error_and_can_be_silenced() {
    let bench = Bench::new();
    let ran = bench.run(&["clone", "9002", "110", "test-automation", "--quiet"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    let ran = bench.run(&["start", "110", "--json", "--quiet"]);
    assert_eq!(json(&ran.out), serde_json::json!({"vmid": 110, "changed": true}));
}

#[test]
fn a_reader_that_has_enough_is_no_failure_and_a_full_disk_is_one() {
    let bench = Bench::new();
    for args in [&["list"][..], &["list", "--json"], &["storage"], &["config", "104"]] {
        let (gone, writer) = std::io::pipe().unwrap();
        drop(gone);
        let output = bench.std_command(args).stdout(writer).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*err), (Some(0), ""), "{args:?}");
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = bench.std_command(args).stdout(full).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(err.contains("✗ can not write to standard output: No space left on device"), "{err}");
    }
}

#[test]
fn snapshots_are_taken_gone_back_to_and_removed() {
    let bench = Bench::new();
    bench.clone_110();
    assert_eq!(bench.ok(&["snapshots", "110"]), "NAME  TAKEN  MEMORY  PARENT  DESCRIPTION\n");
    bench.ok(&["snapshot", "110", "before", "--description", "as it was"]);
    let ran = bench.run(&["snapshot", "110", "before"]);
    assert_eq!(ran.code, 4);
    insta::assert_snapshot!(ran.err, @r"
    ✗ VM 110 has a snapshot 'before' already
      nothing was changed
    hint: proxmox-ops snapshots 110
    ");
    bench.ok(&["configure", "110", "4", "2048"]);
    let ran = bench.run(&["rollback", "110", "before"]);
    assert_eq!((ran.code, ran.err.contains("give --yes")), (2, true), "{}", ran.err);
    bench.ok(&["rollback", "110", "before", "--yes"]);
    assert_eq!(json(&bench.ok(&["config", "110", "--json"]))["settings"]["cores"], "2");
    let list = json(&bench.ok(&["snapshots", "110", "--json"]));
    assert_eq!(
        (&list[0]["name"], &list[0]["description"]),
        (&Value::from("before"), &Value::from("as it was"))
    );
    bench.ok(&["delete-snapshot", "110", "before"]);
    assert_eq!(bench.run(&["delete-snapshot", "110", "before"]).code, 5);
    assert_eq!(bench.run(&["rollback", "110", "before", "--yes"]).code, 5);
    assert_eq!(bench.run(&["snapshots", "777"]).code, 5);
}

#[test]
fn a_command_in_a_vm_ends_as_it_ended() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    assert_eq!(
        bench.ok(&["exec", "110", "--", "hostname"]),
        bench.ok(&["exec", "110", "--", "cat", "/etc/hostname"])
    );
    let ran = bench.run(&["exec", "110", "--json", "--", "cat", "/no/such/file"]);
    assert_eq!(ran.code, 1);
    assert_ne!(json(&ran.out)["exitcode"], 0, "one document");
    assert!(ran.err.contains("`cat /no/such/file` exited with "), "{}", ran.err);
    // A program that is not there: the daemon gives no answer, and nothing is sent again.
    let before = bench.sim.changes().len();
    let ran = bench.run(&["exec", "110", "--", "/no/such/program"]);
    assert_eq!(ran.code, 7, "{}", ran.err);
    assert!(ran.err.contains("does the program exist in the VM?"), "{}", ran.err);
    assert_eq!(bench.sim.changes().len(), before + 1);
}

#[test]
fn the_output_of_a_command_comes_byte_by_byte() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    let output = |args: &[&str]| bench.command(args).output().unwrap();
    // The newline is the command's own or is not there: what is redirected into a file is the file.
    assert_eq!(output(&["exec", "110", "--", "printf", "zw\u{f6}lf"]).stdout, "zw\u{f6}lf".as_bytes());
    assert!(output(&["exec", "110", "--", "true"]).stdout.is_empty());
    let all: Vec<u8> = (0..=255).collect();
    bench.sim.put_file(110, "/root/all", all.clone());
    assert_eq!(output(&["exec", "110", "--", "cat", "/root/all"]).stdout, all);
    let failed = output(&["exec", "110", "--", "cat", "/root/zw\u{f6}lf"]);
    let err = String::from_utf8(failed.stderr).unwrap();
    assert!(err.starts_with("cat: /root/zw\u{f6}lf: "), "{err}");
    assert!(err.contains("\n\u{2717} "), "{err}");
    let answer = json(&bench.ok(&["exec", "110", "--json", "--", "echo", "zw\u{f6}lf"]));
    assert_eq!((answer["out"].as_str(), answer["err"].as_str()), (Some("zw\u{f6}lf\n"), Some("")));
    let answer = json(&bench.ok(&["exec", "110", "--json", "--", "cat", "/root/all"]));
    assert_eq!(answer["out"].as_str(), Some(&*String::from_utf8_lossy(&all)));
}

#[test]
fn a_template_is_made_once() {
    let world = World::default().with_settings(9002, &[("template", "")]);
    let bench = Bench::with(world);
    bench.ok(&["template", "9002"]);
    assert!(bench.sim.config(9002).unwrap().is_template());
    let ran = bench.run(&["template", "ubuntu-cloud-template"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "✓ VM 9002 is a template already\n"));
    assert_eq!(bench.run(&["template", "110"]).code, 3);
}

/// Nor does it shut down.
#[test]
fn a_vm_that_is_suspended_does_not_run() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    let paused = bench.sim.node().change(|d| {
        d.guests.get_mut(&110).and_then(|guest| guest.running.as_mut()).map(|run| run.paused = true)
    });
    assert!(paused.is_some());
    let ran = bench.run(&["status", "110"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "running\n"));
    assert!(ran.err.contains("and does not run: QEMU says 'paused'"), "{}", ran.err);
    for verb in ["start", "shutdown"] {
        let ran = bench.run(&[verb, "110"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains("hint: `qm resume 110` on the node 'prom'"), "{}", ran.err);
    }
    bench.ok(&["shutdown", "110", "--force"]);
    assert!(!bench.sim.is_running(110));
}

#[test]
fn what_runs_is_shown() {
    let bench = Bench::new();
    let running = json(&bench.ok(&["ps", "--json"]));
    assert!(running.as_array().unwrap().iter().all(|r| r["status"] == "running"));
    // The time that they are up moves on.
    let names = |text: String| -> Vec<String> {
        text.lines().map(|l| l.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(names(bench.ok(&["top"])), names(bench.ok(&["ps"])));
    assert!(bench.ok(&["ps"]).starts_with("VMID  NAME"));
}

#[test]
fn a_template_is_made_of_an_image_and_only_once() {
    let bench = Bench::with(World::default().without_vm(9002));
    let args = ["create-template", "9002", "--import", "nvmeprom:import/debian-13-ubuntu.qcow2"];
    bench.ok(&args);
    let made = bench.sim.config(9002).unwrap();
    assert!(made.is_template());
    assert!(made.to_string().contains("bios: ovmf"), "{made}");
    // On a storage that keeps files no other format takes snapshots.
    for disk in ["scsi0", "efidisk0"] {
        assert!(made.main[disk].split(',').next().unwrap().ends_with(".qcow2"), "{made}");
    }
    let changes = bench.sim.changes().len();
    let ran = bench.run(&args);
    assert_eq!((ran.code, ran.err.as_str()), (0, "✓ VM 9002 is a fitting template already\n"));
    assert_eq!(bench.sim.changes().len(), changes);
    bench.clone_110();
    bench.ok(&["create-disk", "110", "1G"]);
    assert!(bench.sim.config(110).unwrap().main["scsi1"].contains(".qcow2,"));
    bench.ok(&["snapshot", "110", "before"]);

    // A SeaBIOS template in its place does not boot what disko lays out.
    let bench = Bench::with(World::default().with_settings(9002, &[("bios", ""), ("efidisk0", "")]));
    let ran = bench.run(&args);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("it lacks: UEFI (bios: ovmf), an EFI disk"), "{}", ran.err);
}

#[test]
fn a_backup_is_made_listed_and_comes_back() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["configure", "110", "3", "3072"]);
    bench.ok(&["start", "110"]);
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    let key = bench.sim.guest_host_key(110).unwrap();
    // Neither snapshots nor what is pending are in a backup.
    bench.ok(&["snapshot", "110", "before"]);
    bench.ok(&["configure", "110", "4", "3072"]);
    let ran = bench.run(&["backup", "test-automation", "--notes", "before the move\nto b"]);
    let volume = ran.out.trim_end().to_owned();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(volume.starts_with("local:backup/vzdump-qemu-110-2") && volume.ends_with(".vma.zst"), "{volume}");
    // How many lines tell how far it is depends on who is faster.
    let err: Vec<&str> = ran.err.lines().filter(|line| !line.contains("% (")).collect();
    assert_eq!(err, ["==> Backing up VM 110...", "✓ VM 110 is backed up on the storage 'local' (256.1 MiB)"]);
    // It runs on, is not locked, and the marker stands in the first line of the notes, which lists show.
    assert!(bench.sim.is_running(110) && bench.sim.config(110).unwrap().lock().is_none());
    let notes = bench.sim.node().read(|d| d.backups[&volume].notes.clone());
    let lines: Vec<&str> = notes.lines().collect();
    assert!(lines[0].starts_with("fleet-vm: name=test-automation vmid=110 nonce="), "{notes}");
    assert_eq!(lines[1..], ["before the move", "to b"]);
    let shown = json(&bench.ok(&["backup", "110", "--storage", "local", "--dry-run", "--json"]));
    assert!(shown[0]["path"].as_str().unwrap().ends_with("/vzdump"), "{shown}");
    assert_eq!(
        (&shown[0]["params"]["remove"], &shown[0]["params"]["compress"]),
        (&Value::from("0"), &Value::from("zstd"))
    );
    let made = json(&bench.ok(&["backup", "110", "--json", "--storage", "local", "--mode", "stop"]));
    assert_eq!((&made["storage"], &made["node"]), (&Value::from("local"), &Value::from("prom")));
    assert_ne!(made["volume"], volume.as_str());
    assert!(bench.sim.is_running(110), "started again");

    bench.ok(&["destroy", "110", "yes", "--stop"]);
    assert!(bench.sim.node().read(|d| d.volumes.contains_key(&volume)), "a backup outlives its VM");
    bench.ok(&["restore", &volume, "110"]);
    let config = bench.sim.config(110).unwrap();
    let setting = |key| config.get(key).unwrap_or_default();
    assert_eq!(["memory", "cores", "parent", "lock"].map(setting), ["3072", "3", "", ""]);
    bench.ok(&["start", "110"]);
    assert_eq!(bench.sim.guest_host_key(110).unwrap(), key);
}

#[test]
fn a_backup_that_can_not_be_is_told_with_its_reason() {
    let bench = Bench::new();
    bench.clone_110();
    let failed = |args: &[&str]| {
        let ran = bench.run(args);
        assert_eq!(ran.out, "", "{args:?}");
        (ran.code, ran.err)
    };
    let (code, err) = failed(&["backup", "110", "--storage", "nvmeprom"]);
    assert_eq!(code, 1);
    insta::assert_snapshot!(err, @r"
    ==> Backing up VM 110...
    ✗ storage 'nvmeprom' takes no backups (these do: local)
      nothing was changed
    hint: `proxmox-ops storage` lists the storages
    ");
    assert_eq!(failed(&["backup", "110", "--storage", "nosuch"]).0, 5);
    assert_eq!(failed(&["backup", "110", "--notes", "{{node}}"]).0, 2);
    assert_eq!(failed(&["backup", "110", "--mode", "fast"]).0, 2);
    assert_eq!(bench.sim.changes().len(), 1, "only the clone");
    bench.sim.inject(Fault::StorageFull { storage: "local".into() });
    let (code, err) = failed(&["backup", "110"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("✗ can not back up VM 110: vma_queue_write: write error - No space left"), "{err}");
    assert!(bench.sim.config(110).unwrap().lock().is_none());
    assert_eq!(failed(&["backup", "777", "--unmanaged", "777"]).0, 5);
}

#[test]
fn a_restore_beside_the_original_has_addresses_of_its_own() {
    let bench = Bench::new();
    bench.clone_110();
    let made = json(&bench.ok(&["backup", "110", "--json"]));
    let volume = made["volume"].as_str().unwrap();
    let net = |vmid: u32| bench.sim.config(vmid).unwrap().main["net0"].clone();
    let restore = |vmid: &str, more: &[&str]| {
        bench.run(&[&["restore", volume, vmid, "--unmanaged", vmid][..], more].concat())
    };
    let first = net(110);
    let ran = restore("777", &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_ne!(net(777), first);
    assert!(net(777).ends_with("bridge=vmbr0"), "{}", net(777));
    let changes = bench.sim.changes().len();
    let ran = restore("778", &["--keep-mac"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("VM 110 exists") && ran.err.contains("without --keep-mac"), "{}", ran.err);
    assert_eq!(bench.sim.changes().len(), changes, "nothing was sent");
    // Once it is gone they may be kept, and it comes back with its own; that there are two then is told.
    bench.ok(&["destroy", "110", "yes"]);
    let ran = restore("778", &["--keep-mac"]);
    assert_eq!((ran.code, net(778)), (0, first.clone()), "{}", ran.err);
    assert!(!ran.err.contains("has the MAC address"), "{}", ran.err);
    let ran = bench.run(&["restore", volume, "110"]);
    assert_eq!((ran.code, net(110)), (0, first), "{}", ran.err);
    assert!(ran.err.contains("VM 110 has the MAC address of 778"), "{}", ran.err);
}

/// The node was at the second of two disks when it was cut short.
#[test]
fn half_a_template_becomes_a_whole_one() {
    let bench = Bench::new();
    let (base, vm) = ("nvmeprom:9002/base-9002-disk-1.qcow2", "nvmeprom:9002/vm-9002-disk-1.qcow2");
    bench.sim.node().change(|d| {
        let volume = d.volumes.remove(base).unwrap();
        d.volumes.insert(vm.to_owned(), volume);
        let main = &mut d.vms.get_mut(&9002).unwrap().main;
        let disk = main["scsi0"].replace(base, vm);
        main.insert("scsi0".to_owned(), disk);
        assert!(main["efidisk0"].contains("base-9002-"));
    });
    bench.ok(&["template", "9002"]);
    let config = bench.sim.config(9002).unwrap();
    assert!(config.get("scsi0").unwrap().starts_with(base), "{config:?}");
    let changes = bench.sim.changes().len();
    bench.ok(&["template", "9002"]);
    assert_eq!(bench.sim.changes().len(), changes);
}

#[test]
fn what_a_restore_that_failed_leaves_is_told() {
    let bench = Bench::new();
    bench.clone_110();
    let made = json(&bench.ok(&["backup", "110", "--json"]));
    let volume = made["volume"].as_str().unwrap();
    let message = "command 'zstd -q -d -c' failed: got signal 13".to_owned();
    bench.sim.inject(Fault::TaskFails { kind: "qmrestore".into(), message });
    for code in [1, 4] {
        let ran = bench.run(&["restore", volume, "777", "--unmanaged", "777"]);
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(ran.err.contains("VM 777 on the node 'prom' is empty"), "{}", ran.err);
        assert!(ran.err.contains("hint: `qm destroy 777` on the node 'prom' removes it"), "{}", ran.err);
    }
    // It could be anybody's.
    assert!(bench.sim.config(777).is_some());
    assert!(!bench.sim.changes().iter().any(|call| call.starts_with("DELETE")));
}

#[test]
fn a_restore_never_overwrites() {
    let bench = Bench::new();
    bench.clone_110();
    let ran = bench.run(&["restore", "local:backup/vzdump-qemu-110.vma.zst", "110"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert_eq!(bench.sim.changes().len(), 1);
}

#[test]
fn waiting_for_ssh_can_log_in_and_check_who_answers() {
    let bench = Bench::new();
    bench.clone_110();
    let operator = pve_sim::testing::OPERATOR_PUBLIC.trim();
    bench.ok(&["cloudinit-config", "110", operator]);
    bench.ok(&["cloudinit-drive", "110"]);
    bench.ok(&["start", "110"]);
    let address = bench.ok(&["get-ip", "110", "--timeout", "20"]);
    let key = bench.sim.guest_host_key(110).unwrap();
    bench.ok(&["wait-ssh", address.trim(), "20", "root", "--host-key", &key]);
    // Somebody else's key: exit 6, and no login.
    let ran = bench.run(&["wait-ssh", address.trim(), "20", "root", "--host-key", KEY]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    // The key alone needs nobody who may log in.
    let without_login = |key: &str| bench.run(&["wait-ssh", address.trim(), "20", "--host-key", key]).code;
    assert_eq!((without_login(&key), without_login(KEY), without_login("nonsense")), (0, 6, 2));
}
