//! What really came of a change where its own answer or its own task does not tell.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::time::Duration;

use common::Bench;
use pve_sim::faults::Fault;

#[test]
fn what_a_vm_does_not_show_its_task_tells() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["snapshot", "110", "before"]);
    bench.ok(&["configure", "110", "3", "3072"]);
    let lost = |path: &str, done| {
        bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: path.into(), done });
    };
    lost("/rollback", false);
    let ran = bench.run(&["rollback", "110", "before", "--yes"]);
    assert_eq!(ran.code, 7, "{}", ran.err);
    lost("/rollback", true);
    bench.ok(&["rollback", "110", "before", "--yes"]);
    assert_ne!(bench.sim.config(110).unwrap().get("cores"), Some("3"));
    // A task that failed meanwhile is not taken for unknown, nor for done.
    bench.sim.inject(Fault::TaskFails { kind: "qmrollback".into(), message: "no quorum".into() });
    lost("/rollback", true);
    let ran = bench.run(&["rollback", "110", "before", "--yes"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.err.starts_with("✗ can not roll back to") && ran.err.contains(": no quorum\n"),
        "{}",
        ran.err
    );
    // Left by a task that was killed.
    bench.sim.edit(110, |conf| {
        conf.snapshots.entry("before".to_owned()).or_default().insert("snapstate".into(), "prepare".into());
    });
    let listed = bench.ok(&["snapshots", "110"]);
    assert!(listed.contains("unfinished (prepare)"), "{listed}");
    let ran = bench.run(&["snapshot", "110", "before"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
}

/// A reboot's task only shuts the VM down; another one starts it again.
#[test]
fn a_reboot_is_over_when_the_vm_runs_again() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    let pid = || bench.sim.node().read(|d| d.guests[&110].running.as_ref().map(|_| d.guests[&110].pid));
    let first = pid();
    bench.sim.inject(Fault::TaskSlow { kind: "qmstart".into(), by: Duration::from_millis(700) });
    bench.ok(&["reboot", "110"]);
    let second = pid();
    assert!(second.is_some() && second != first, "{first:?} {second:?}");
    // The same when nobody heard of its task.
    bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/status/reboot".into(), done: true });
    bench.ok(&["reboot", "110"]);
    assert!(pid().is_some() && pid() != second);
    bench.sim.clear_faults();
    bench.sim.inject(Fault::TaskFails { kind: "qmstart".into(), message: "no quorum".into() });
    let ran = bench.run(&["reboot", "110"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let words = "VM 110 was shut down for its reboot, and not started again: can not start VM 110: no quorum";
    assert!(ran.err.contains(words) && ran.err.contains("it is stopped"), "{}", ran.err);
    assert!(ran.err.contains("proxmox-ops start 110"), "{}", ran.err);
    assert!(!bench.sim.is_running(110));
}

/// The task that answers only tells the HA manager, which acts by another one.
#[test]
fn what_the_ha_manager_was_asked_for_is_waited_for() {
    let bench = Bench::new();
    bench.clone_110();
    bench.sim.node().change(|d| d.ha.insert(110, "stopped".to_owned()));
    for kind in ["qmstart", "qmstop", "qmshutdown"] {
        bench.sim.inject(Fault::TaskSlow { kind: kind.into(), by: Duration::from_millis(700) });
    }
    bench.ok(&["start", "110"]);
    assert!(bench.sim.is_running(110));
    bench.ok(&["get-ip", "110", "--timeout", "20"]);
    bench.ok(&["shutdown", "110"]);
    assert!(!bench.sim.is_running(110));
    bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/status/start".into(), done: true });
    bench.ok(&["start", "110"]);
    assert!(bench.sim.is_running(110));
    // What the manager does not do in time is told as such.
    bench.sim.inject(Fault::TaskFails { kind: "qmstop".into(), message: "no quorum".into() });
    let ran = bench.run(&["stop", "110", "--wait", "3"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    assert!(ran.err.contains("the HA manager to have VM 110 stopped"), "{}", ran.err);
    assert!(ran.err.contains("ha-manager status"), "{}", ran.err);
    bench.ok(&["destroy", "110", "yes", "--stop"]);
    assert!(bench.sim.config(110).is_none());
}

#[test]
fn a_disk_that_stays_is_warned_of() {
    let bench = Bench::new();
    bench.clone_110();
    bench.sim.inject(Fault::DiskKept { vmid: 110 });
    let ran = bench.run(&["destroy", "110", "yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let volume =
        bench.sim.node().read(|d| d.volumes.iter().find(|(_, v)| v.vmid == Some(110)).unwrap().0.clone());
    assert!(
        ran.err.contains(&format!("⚠ the volume {volume} was not removed: unlink failed")),
        "{}",
        ran.err
    );
    assert!(ran.err.contains(&format!("`pvesm free {volume}`")), "{}", ran.err);
    assert!(ran.err.contains("is gone, but not all of its disks"), "{}", ran.err);
}
