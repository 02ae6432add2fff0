//! A run that was killed, or had too little time, while the node works on: the next one follows what is under way and
//! begins nothing twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Duration,
};

use common::{Bench, Ran};
use fleet_core::deadline::Deadline;
use pve_sim::{faults::Fault, world::World};

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Deadline::secs(30);
    while !holds() {
        assert!(!deadline.passed(), "{what}: it never came");
        deadline.sleep(Duration::from_millis(5));
    }
}

/// How many such changes the node has been asked for.
fn sent(bench: &Bench, change: &str) -> usize {
    bench.sim.changes().iter().filter(|sent| sent.starts_with(change)).count()
}

/// Runs it, and lets the node's tasks go on once it follows one.
fn followed(bench: &Bench, args: &[&str]) -> Ran {
    let mut command = bench.std_command(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut err, mut said) = (String::new(), BufReader::new(child.stderr.take().unwrap()));
    while !err.contains(" runs already: following it: UPID:prom:") && said.read_line(&mut err).unwrap() > 0 {}
    bench.sim.node().hold_tasks(false);
    bench.sim.node().release_all();
    said.read_to_string(&mut err).unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(err.contains(" runs already: following it: UPID:prom:"), "{args:?}: {err}");
    Ran { code: output.status.code().unwrap_or(-1), out, err }
}

/// Begins it on a node whose tasks do not end, cuts that run off, runs it once more, and lets the tasks go on once that
/// run follows the first one's.
fn twice(bench: &Bench, args: &[&str], change: &str, killed: bool) -> Ran {
    let before = sent(bench, change);
    bench.sim.node().hold_tasks(true);
    if killed {
        let mut child = bench.std_command(args).stderr(Stdio::null()).spawn().unwrap();
        until("the task", || sent(bench, change) == before + 1);
        child.kill().unwrap();
        child.wait().unwrap();
    } else {
        let ran = bench.run(&[args, &["--wait", "1"]].concat());
        assert_eq!(ran.code, 8, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("hint: run the same command again: "), "{}", ran.err);
    }
    let ran = followed(bench, args);
    // A clone is refused where there is a VM: only that tells.
    let again = usize::from(change.ends_with("/clone"));
    assert_eq!(sent(bench, change), before + 1 + again, "{args:?}: {}", ran.err);
    ran
}

fn well(bench: &Bench, args: &[&str], change: &str, killed: bool) -> Ran {
    let ran = twice(bench, args, change, killed);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran
}

#[test]
fn what_a_run_before_left_going_is_followed_and_not_begun_twice() {
    const VM: &str = "/nodes/prom/qemu/110";
    let bench = Bench::new();
    bench.clone_110();
    for killed in [false, true] {
        let size = if killed { "24G" } else { "22G" };
        well(&bench, &["resize", "110", "scsi0", size], &format!("PUT {VM}/resize"), killed);
        well(&bench, &["start", "110"], &format!("POST {VM}/status/start"), killed);
        let args = ["backup", "110", "--storage", "local"];
        let made = well(&bench, &args, "POST /nodes/prom/vzdump", killed);
        assert!(made.out.starts_with("local:backup/vzdump-qemu-110-"), "{}", made.out);
        let ran = well(&bench, &["reboot", "110"], &format!("POST {VM}/status/reboot"), killed);
        assert!(ran.err.contains("VM 110 rebooted"), "{}", ran.err);
        well(&bench, &["snapshot", "110", "s1"], &format!("POST {VM}/snapshot"), killed);
        well(&bench, &["rollback", "110", "s1", "--yes"], &format!("POST {VM}/snapshot/s1/rollback"), killed);
        well(&bench, &["delete-snapshot", "110", "s1"], &format!("DELETE {VM}/snapshot/s1"), killed);
        let ran = bench.run(&["start", "110"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        well(&bench, &["shutdown", "110"], &format!("POST {VM}/status/shutdown"), killed);
        let disk = if killed { "scsi6" } else { "scsi5" };
        for args in [&["create-disk", "110", "3G"][..], &["create-disk", "110", "3G", "nvmeprom", disk]] {
            well(&bench, args, &format!("POST {VM}/config"), killed);
        }
    }
    let disks = bench
        .sim
        .config(110)
        .unwrap()
        .main
        .iter()
        .filter(|(key, _)| key.starts_with("scsi") && *key != "scsihw")
        .count();
    assert_eq!(disks, 5);
    well(&bench, &["destroy", "110", "yes"], &format!("DELETE {VM}"), true);
    assert!(bench.sim.config(110).is_none());
}

/// What is under way is not always what is asked for.
#[test]
fn another_backup_than_the_one_that_runs_is_made_after_it() {
    let bench = Bench::new();
    bench.clone_110();
    let change = "POST /nodes/prom/vzdump";
    bench.sim.node().hold_tasks(true);
    let ran = bench.run(&["backup", "110", "--storage", "local", "--wait", "1"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    let ran = followed(&bench, &["backup", "110", "--storage", "local", "--mode", "stop"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(sent(&bench, change), 2);
}

#[test]
fn a_restore_that_a_run_before_made_or_left_going_is_there() {
    let change = "POST /nodes/prom/qemu";
    let bench = Bench::new();
    bench.clone_110();
    let made = bench.ok(&["backup", "110", "--storage", "local"]);
    let archive = made.trim_end();
    let args = ["restore", archive, "110"];
    let done = format!("VM 110 is restored from {archive}");
    for killed in [false, true] {
        bench.ok(&["destroy", "110", "yes"]);
        let ran = well(&bench, &args, change, killed);
        assert!(ran.err.contains(&done), "{}", ran.err);
        let before = sent(&bench, change);
        let ran = bench.run(&[&["--json"][..], &args].concat());
        assert_eq!((ran.code, ran.out.trim()), (0, r#"{"vmid":110,"changed":false}"#), "{}", ran.err);
        assert_eq!(sent(&bench, change), before);
    }
    // What came after it is not to be lost.
    bench.ok(&["start", "110"]);
    let ran = bench.run(&args);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("can not restore into VMID 110: it is taken"), "{}", ran.err);
    // Another archive's restore is not this one.
    bench.ok(&["stop", "110"]);
    let other = bench.ok(&["backup", "110", "--storage", "local"]);
    bench.ok(&["destroy", "110", "yes"]);
    bench.sim.node().hold_tasks(true);
    let ran = bench.run(&["restore", other.trim_end(), "110", "--wait", "1"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    let ran = bench.run(&args);
    assert_eq!(ran.code, 4, "{}", ran.err);
    bench.sim.node().hold_tasks(false);
    bench.sim.node().release_all();
}

#[test]
fn a_clone_that_a_run_before_made_or_left_going_is_there() {
    let args = ["clone", "9002", "110", "test-automation"];
    let there = "VM 110 'test-automation' is there already, made by these tools";
    for killed in [false, true] {
        let bench = Bench::new();
        let ran = well(&bench, &args, "POST /nodes/prom/qemu/9002/clone", killed);
        assert!(ran.err.contains(there), "{}", ran.err);
        let ran = bench.run(&[&["--json"][..], &args].concat());
        assert_eq!((ran.code, ran.out.trim()), (0, r#"{"vmid":110,"changed":false}"#), "{}", ran.err);
    }
    // Another one's marker, or none.
    for description in ["", "fleet-vm: name=web vmid=110 nonce=0123456789abcdef0123456789abcdef"] {
        let bench =
            Bench::with(World::default().with_vm(110, false, &[("description", description), ("name", "x")]));
        let ran = bench.run(&args);
        assert_eq!(ran.code, 4, "{}", ran.err);
        assert!(ran.err.contains("can not clone into VMID 110: it is taken"), "{}", ran.err);
        assert!(ran.err.contains("`proxmox-ops next-vmid` prints a free VMID"), "{}", ran.err);
    }
    // What a killed one left is nobody's yet, and no reason to take another VMID.
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskKilled { kind: "qmclone".into(), cleaned: false });
    bench.run(&args);
    let ran = bench.run(&args);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("qm unlock 110") && !ran.err.contains("next-vmid"), "{}", ran.err);
}
