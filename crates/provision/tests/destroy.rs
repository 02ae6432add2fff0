//! `provision-vm destroy`: what is removed, in which order, and what stops it before anything is.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::process::Stdio;

use common::{Bench, Said, until};
use pve_sim::{faults::Fault, testing::Sim, world::World};

const NAME: &str = "test-automation";
const CONFIRMED: [&str; 4] = ["destroy", NAME, "--confirm", NAME];

fn made(bench: &Bench, args: &[&str]) {
    let output = bench.run(&[&[NAME, "--yes"], args].concat());
    assert!(output.status.success(), "{}", bench.seen(&output));
}

/// The changes on the node since there were `before`, by method and path.
fn changes(bench: &Bench, before: usize) -> Vec<String> {
    let of = |line: &String| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    bench.sim.changes()[before..].iter().map(of).collect()
}

#[test]
fn destroy_wants_the_name_and_takes_the_vm_out_of_node_and_fleet() {
    let bench = Bench::new();
    made(&bench, &[]);
    let before = bench.sim.changes().len();
    for args in [&["--yes"][..], &["--confirm", "web"]] {
        let refused = bench.run(&[&["destroy", "test-automation"], args].concat());
        assert_eq!(refused.status.code(), Some(3), "{}", bench.seen(&refused));
    }
    let dry = bench.run(&["destroy", "test-automation", "--dry-run"]);
    let seen = bench.seen(&dry);
    let requests = "POST /nodes/prom/qemu/110/status/stop\nDELETE /nodes/prom/qemu/110 purge=1 ";
    assert!(seen.contains(requests) && seen.contains("--- a/secrets/.sops.yaml"), "{seen}");
    // What a run left there that died goes with the VM.
    assert!(seen.contains("\nrm -f -- /") && seen.contains("110"), "{seen}");
    assert_eq!((bench.sim.changes().len(), bench.fleet.status()), (before, String::new()));
    // Before the verb it counts as well: nothing is removed.
    let dry = bench.run(&["--dry-run", "destroy", "test-automation", "--confirm", "test-automation"]);
    assert!(bench.seen(&dry).contains(requests), "{}", bench.seen(&dry));
    assert_eq!((bench.sim.changes().len(), bench.fleet.status()), (before, String::new()));
    let key = bench.sim.guest_host_key(110).unwrap();
    let output = bench.run(&["destroy", "test-automation", "--confirm", "test-automation", "--from-hosts"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(bench.sim.config(110).is_none(), "{seen}");
    let blob = key.split_whitespace().nth(1).unwrap();
    assert!(!bench.fleet.read("hosts.nix").contains(blob), "{seen}");
    assert!(!bench.fleet.read("secrets/.sops.yaml").contains("test-automation"), "{seen}");
    assert_eq!(bench.fleet.status(), "");
    let subject = bench.fleet.git(&["log", "-1", "--format=%s"]).unwrap();
    assert_eq!(subject.trim(), "feat(vms): remove test-automation from fleet");
    // Once more: what is gone is passed over.
    let again = bench.run(&["destroy", "test-automation", "--confirm", "test-automation"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
}

#[test]
fn destroy_leaves_strangers_and_the_protected_alone() {
    let world = World::default().with_vm(110, false, &[("name", "test-automation"), ("cores", "1")]);
    let bench = Bench::with(Sim::with(world));
    let confirmed = ["destroy", "test-automation", "--confirm", "test-automation"];
    let stranger = bench.run(&confirmed);
    assert_eq!(stranger.status.code(), Some(4), "{}", bench.seen(&stranger));
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 110;\n      protection = true;");
    let protected = bench.run(&confirmed);
    assert_eq!(protected.status.code(), Some(3), "{}", bench.seen(&protected));
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    let imported = bench.run(&["destroy", "doc1", "--confirm", "doc1"]);
    assert_eq!(imported.status.code(), Some(3), "{}", bench.seen(&imported));
}

/// "Nothing is under its number" does not say that it is gone: the number may be what was edited.
#[test]
fn a_vm_whose_number_was_edited_is_not_taken_for_gone() {
    let bench = Bench::new();
    made(&bench, &[]);
    let before = bench.sim.changes().len();
    bench.fleet.edit("vms/definitions.nix", "vmid = 110;", "vmid = 111;");
    let head = bench.fleet.git(&["rev-parse", "HEAD"]).unwrap();
    // The list and the configurations say so, also of one that somebody has renamed.
    for renamed in [false, true] {
        if renamed {
            bench.sim.edit(110, |conf| drop(conf.main.insert("name".into(), "web-old".into())));
        }
        for args in
            [&CONFIRMED[..], &["destroy", NAME, "--dry-run"], &["apply", NAME, "--yes"], &[NAME, "--yes"]]
        {
            let output = bench.run(args);
            let seen = bench.seen(&output);
            assert_eq!(output.status.code(), Some(4), "{args:?}: {seen}");
            let called = if renamed { "web-old" } else { NAME };
            let what = format!("VM 110 '{called}' on node prom carries the mark of 'test-automation'");
            assert!(seen.contains(&what) && seen.contains("write vmid = 110"), "{seen}");
            assert!(seen.contains("proxmox-ops destroy 110 --unmanaged 110"), "{seen}");
        }
    }
    assert_eq!(changes(&bench, before), [""; 0]);
    assert!(bench.sim.is_running(110));
    assert_eq!(bench.fleet.git(&["rev-parse", "HEAD"]).unwrap(), head);
    // What the hint says is a way out: the machine goes, and then its entries.
    let mut command = bench.sim.command("proxmox-ops", &bench.fleet);
    let gone = command.args(["destroy", "110", "yes", "--unmanaged", "110"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(3), "by name, typed: {}", bench.seen(&gone));
    bench.fleet.edit("vms/definitions.nix", "vmid = 111;", "vmid = 110;");
    let output = bench.run(&CONFIRMED);
    assert!(output.status.success() && bench.sim.config(110).is_none(), "{}", bench.seen(&output));
}

/// The backup is there, and told, before anything is gone; it brings the VM back.
#[test]
fn a_backup_comes_first_and_brings_the_vm_back() {
    let bench = Bench::new();
    made(&bench, &["--no-install"]);
    let before = bench.sim.changes().len();
    let dry = bench.run(&["destroy", NAME, "--backup", "local", "--dry-run"]);
    let seen = bench.seen(&dry);
    let shown: Vec<&str> =
        seen.lines().filter(|l| l.starts_with("POST ") || l.starts_with("DELETE ")).collect();
    let of = |request: &&str| request.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let requests: Vec<String> = shown.iter().map(of).collect();
    assert!(shown[0].contains("storage=local") && !shown[0].contains('#'), "{seen}");
    let asked = bench.seen(&bench.run(&["destroy", NAME, "--dry-run"]));
    let backup = |l: &&str| l.starts_with("POST /nodes/prom/vzdump ");
    let offered = asked.lines().find(backup).unwrap_or_else(|| panic!("{asked}"));
    assert!(offered.ends_with("   # if you want it when you are asked"), "{asked}");
    assert_eq!(bench.sim.changes().len(), before);
    let output = bench.run(&[&CONFIRMED[..], &["--backup", "--json"]].concat());
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let order = changes(&bench, before);
    assert_eq!(
        order,
        ["POST /nodes/prom/vzdump", "POST /nodes/prom/qemu/110/status/stop", "DELETE /nodes/prom/qemu/110"],
        "{seen}"
    );
    assert_eq!(order, requests, "the dry run told so");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let volume = answer["backup"]["volume"].as_str().unwrap();
    assert!(seen.contains(&format!("Its backup is {volume}")), "{seen}");
    assert!(bench.sim.config(110).is_none(), "{seen}");
    let mut restore = bench.sim.command("proxmox-ops", &bench.fleet);
    let restored = restore.args(["restore", volume, "110"]).output().unwrap();
    assert!(restored.status.success(), "{}", bench.seen(&restored));
    let description = bench.sim.config(110).unwrap().get("description").unwrap_or_default().to_owned();
    assert!(description.starts_with("fleet-vm: name=test-automation"), "{description}");
}

#[test]
fn a_backup_that_fails_stops_it_all() {
    let bench = Bench::new();
    made(&bench, &["--no-install"]);
    let message = "job errors".to_owned();
    bench.sim.inject(Fault::TaskFails { kind: "vzdump".to_owned(), message });
    let before = bench.sim.changes().len();
    let output = bench.run(&[&CONFIRMED[..], &["--backup"]].concat());
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("VM 'test-automation' has no new backup: nothing was removed"), "{seen}");
    assert!(seen.contains("job errors"), "why it failed is told: {seen}");
    assert_eq!(changes(&bench, before), ["POST /nodes/prom/vzdump"], "{seen}");
    assert!(bench.sim.config(110).is_some() && bench.sim.is_running(110));
}

/// A backup may take hours: who stops it does not wait for its end, and learns that it goes on.
#[test]
fn ctrl_c_ends_the_wait_for_a_backup_and_nothing_is_removed() {
    let bench = Bench::new();
    made(&bench, &["--no-install"]);
    bench.sim.inject(Fault::TaskSlow { kind: "vzdump".to_owned(), by: std::time::Duration::from_secs(3600) });
    let before = bench.sim.changes().len();
    let mut run = bench
        .command(&[&CONFIRMED[..], &["--backup"]].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = Said::of(&mut run);
    until("the backup", 60, || !changes(&bench, before).is_empty());
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let seen = said.all();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{seen}");
    assert!(seen.contains("the task goes on without this program: UPID:prom:"), "{seen}");
    assert!(seen.contains("nothing was removed: VM 'test-automation' is there, and in the fleet"), "{seen}");
    assert_eq!(changes(&bench, before), ["POST /nodes/prom/vzdump"], "{seen}");
    assert!(bench.sim.config(110).is_some());
}

#[test]
fn a_person_types_the_name_and_is_offered_a_backup() {
    for (answer, backups) in [("y", 1), ("n", 0)] {
        let bench = Bench::new();
        made(&bench, &["--no-install"]);
        let command = bench.command(&["destroy", NAME]);
        let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        session.exp_string("with all its snapshots, will be gone for ever; only a backup").unwrap();
        session.exp_string("Type the VM's name to destroy it: ").unwrap();
        session.send_line(NAME).unwrap();
        session.exp_string("Back it up first? (y/N) ").unwrap();
        session.send_line(answer).unwrap();
        session.exp_string("'test-automation' is gone").unwrap();
        session.process().wait().unwrap();
        let made = bench.sim.changes().iter().filter(|change| change.contains("/vzdump")).count();
        assert_eq!((made, bench.sim.config(110).is_none()), (backups, true));
    }
}

/// Neither a slip nor Ctrl-D, with which people leave, is a "no" to the backup.
#[test]
fn only_a_no_destroys_without_a_backup() {
    let bench = Bench::new();
    made(&bench, &["--no-install"]);
    let before = bench.sim.changes().len();
    let mut session = rexpect::session::spawn_command(bench.command(&CONFIRMED), Some(20_000)).unwrap();
    session.exp_string("Back it up first? (y/N) ").unwrap();
    session.send_line("maybe").unwrap();
    session.exp_string("y or n (Enter alone is n)").unwrap();
    session.exp_string("Back it up first? (y/N) ").unwrap();
    session.send_control('d').unwrap();
    let seen = session.exp_eof().unwrap();
    assert!(
        seen.contains("no answer to 'Back it up first?'") && seen.contains("nothing was changed"),
        "{seen}"
    );
    let ended = session.process().wait().unwrap();
    assert!(matches!(ended, rexpect::process::WaitStatus::Exited(_, 130)), "{ended:?}");
    assert_eq!(changes(&bench, before), [""; 0]);
    assert!(bench.sim.is_running(110));
}

#[test]
fn a_name_that_was_given_at_a_terminal_does_not_keep_the_backup_from_being_offered() {
    let bench = Bench::new();
    made(&bench, &["--no-install"]);
    let mut session = rexpect::session::spawn_command(bench.command(&CONFIRMED), Some(20_000)).unwrap();
    session.exp_string("Back it up first? (y/N) ").unwrap();
    session.send_line("y").unwrap();
    session.exp_string("'test-automation' is gone; its definition").unwrap();
    session.process().wait().unwrap();
    assert!(bench.sim.changes().iter().any(|change| change.contains("/vzdump")));
    // Who has said that nothing is to be asked is not asked.
    for quiet in ["--yes", "--no-backup"] {
        made(&bench, &["--no-install"]);
        let command = bench.command(&[&CONFIRMED[..], &[quiet]].concat());
        let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        let seen = session.exp_eof().unwrap();
        assert!(!seen.contains("Back it up") && bench.sim.config(110).is_none(), "{seen}");
    }
}

/// What would stop it after the VM is gone is looked at before.
#[test]
fn a_repository_that_could_not_be_changed_stops_it_before_anything_is_gone() {
    let bench = Bench::new();
    made(&bench, &[]);
    let text = bench.fleet.read("hosts.nix");
    bench.fleet.write("hosts.nix", &format!("{text}# half an edit\n"));
    let before = bench.sim.changes().len();
    let output = bench.run(&[&CONFIRMED[..], &["--from-hosts", "--backup"]].concat());
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(3), "{seen}");
    let words = "hosts.nix has uncommitted changes: taking the VM out of the fleet would be refused";
    assert!(seen.contains(words), "{seen}");
    assert_eq!(changes(&bench, before), [""; 0], "{seen}");
}

#[test]
fn protection_in_proxmox_is_seen_before_a_backup_is_made() {
    let bench = Bench::new();
    made(&bench, &["--no-install"]);
    bench.sim.edit(110, |conf| drop(conf.main.insert("protection".into(), "1".into())));
    let before = bench.sim.changes().len();
    let output = bench.run(&[&CONFIRMED[..], &["--backup"]].concat());
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(3), "{seen}");
    assert_eq!(changes(&bench, before), [""; 0], "{seen}");
}

#[test]
fn what_a_killed_clone_of_ours_left_is_removed_too() {
    let bench = Bench::new();
    let message = "received interrupt".to_owned();
    bench.sim.inject(Fault::TaskFails { kind: "qmclone".to_owned(), message });
    let first = bench.run(&[NAME, "--yes", "--no-install"]);
    assert_eq!(first.status.code(), Some(1), "{}", bench.seen(&first));
    assert_eq!(bench.sim.config(110).unwrap().get("lock"), Some("clone"));
    let dry = bench.seen(&bench.run(&["destroy", NAME, "--dry-run"]));
    assert!(
        dry.contains("DELETE /nodes/prom/qemu/110 purge=1 destroy-unreferenced-disks=1 skiplock=1\n"),
        "{dry}"
    );
    let output = bench.run(&CONFIRMED);
    let seen = bench.seen(&output);
    assert!(output.status.success() && bench.sim.config(110).is_none(), "{seen}");
}
