//! What really came of a change where its own answer or its own task does not tell.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::time::Duration;

use common::Bench;
use fleet_core::{
    Kind,
    child::Command,
    deadline::Deadline,
    protocol::{Op, Session, VmStatus},
    types::Vmid,
};
use pve_sim::{faults::Fault, log::Record};

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
    assert!(ran.err.contains("\n✗ can not roll back to") && ran.err.contains(": no quorum\n"), "{}", ran.err);
    // Left by a task that was killed.
    bench.sim.edit(110, |conf| {
        conf.snapshots.entry("before".to_owned()).or_default().insert("snapstate".into(), "prepare".into());
    });
    let listed = bench.ok(&["snapshots", "110"]);
    assert!(listed.contains("unfinished (prepare)"), "{listed}");
    let ran = bench.run(&["snapshot", "110", "before"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
}

/// A worker of the daemon that is blocked reads what it was sent later, whether or not anybody waits for an answer.
#[test]
fn a_clone_that_lay_unread_is_not_asked_for_again() {
    let bench = Bench::new();
    let by = Duration::from_secs(3);
    bench.sim.inject(Fault::ReadLate { method: "POST".into(), path: "/clone".into(), by });
    bench.clone_110();
    assert_eq!(bench.sim.changes().len(), 1, "asked for once: {:?}", bench.sim.changes());
}

#[test]
fn of_two_clones_into_one_vmid_one_is_made() {
    let bench = Bench::new();
    let ran = std::thread::scope(|scope| {
        let run = || bench.run(&["clone", "9002", "110", "test-automation"]);
        [scope.spawn(run), scope.spawn(run)].map(|one| one.join().unwrap())
    });
    // The other one finds it made.
    let say = |text: &str| ran.iter().filter(|ran| ran.code == 0 && ran.err.contains(text)).count();
    assert_eq!((say("is a clone of 9002"), say("is there already, made by these tools")), (1, 1), "{ran:?}");
}

/// A connection to the daemon ends after a hundred requests, and after any that failed.
#[test]
fn more_is_asked_than_one_connection_takes() {
    let bench = Bench::new();
    let command = Command::new(assert_cmd::cargo::cargo_bin!("proxmox-ops"));
    let command = bench.sim.env().into_iter().fold(command, |c, (k, v)| c.env(k, v));
    let mut session = Session::start(&command.dir(bench.fleet.path()).args(["session"])).unwrap();
    // One after the other, so over one connection as long as it lasts.
    for n in 0..230 {
        let vmid = Vmid::new(if n == 50 { 999 } else { 104 }).unwrap();
        let told = session.ask::<VmStatus>(Op::Status { vmid }, Deadline::secs(60), |_| {});
        match told {
            Ok(status) => assert!(n != 50 && status.status == "running"),
            Err(e) => assert!(n == 50 && e.kind() == Kind::NotFound, "{n}: {e:?}"),
        }
    }
    let opened = |record: &Record| serde_json::to_value(record).unwrap()["kind"] == "open";
    assert!(bench.sim.requests().iter().filter(|record| opened(record)).count() >= 3);
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
    // The manager takes its time, longer than what was lost is looked for.
    bench.sim.inject(Fault::TaskSlow { kind: "ha-manager".into(), by: Duration::from_millis(2500) });
    bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/status/start".into(), done: true });
    bench.ok(&["start", "110"]);
    assert!(bench.sim.is_running(110));
    // What the manager gives up is told as such.
    bench.sim.inject(Fault::TaskFails { kind: "qmstop".into(), message: "no quorum".into() });
    let ran = bench.run(&["stop", "110"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("the HA manager has put it into its state 'error'"), "{}", ran.err);
    assert!(ran.err.contains("ha-manager set vm:110 --state disabled"), "{}", ran.err);
    // Somebody clears it.
    bench.sim.clear_faults();
    bench.sim.node().change(|d| d.ha.insert(110, "started".to_owned()));
    bench.ok(&["destroy", "110", "yes", "--stop"]);
    assert!(bench.sim.config(110).is_none());
}

/// The manager first ends what it is at: a VM that runs may be on its way to be stopped, and the other way round.
#[test]
fn what_the_ha_manager_is_still_at_is_not_taken_for_the_end() {
    let bench = Bench::new();
    bench.clone_110();
    bench.sim.node().change(|d| d.ha.insert(110, "stopped".to_owned()));
    bench.ok(&["start", "110"]);
    let posted = |path: &str| bench.sim.changes().iter().filter(|change| change.ends_with(path)).count();
    // Until it is let go.
    let held =
        || bench.sim.inject(Fault::TaskSlow { kind: "ha-manager".into(), by: Duration::from_secs(600) });
    // What is asked for meanwhile is sent, and waited for.
    let meanwhile = |args: &[&str], path: &str, count: usize| {
        let mut child = bench.std_command(args).spawn().unwrap();
        while posted(path) < count && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        bench.sim.clear_faults();
        assert!(child.wait().unwrap().success(), "{args:?}");
        assert_eq!(posted(path), count, "{args:?}");
    };
    held();
    let ran = bench.run(&["stop", "110", "--wait", "1"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    assert!(ran.err.contains("the HA manager to have VM 110 stopped"), "{}", ran.err);
    assert!(ran.err.contains("ha-manager status") && bench.sim.is_running(110), "{}", ran.err);
    meanwhile(&["start", "110"], "/status/start", 2);
    assert!(bench.sim.is_running(110));
    // The mirror case.
    bench.ok(&["stop", "110"]);
    held();
    assert_eq!(bench.run(&["start", "110", "--wait", "1"]).code, 8);
    meanwhile(&["stop", "110"], "/status/stop", 3);
    assert!(!bench.sim.is_running(110));
}

/// The manager's state tells of a start when its task begins: a stop comes after that.
#[test]
fn a_stop_is_not_overtaken_by_the_start_before_it() {
    let bench = Bench::new();
    bench.clone_110();
    bench.sim.node().change(|d| d.ha.insert(110, "stopped".to_owned()));
    bench.sim.inject(Fault::TaskSlow { kind: "qmstart".into(), by: Duration::from_secs(1) });
    let mut start = bench.std_command(&["start", "110", "--wait", "30"]).spawn().unwrap();
    let is_starting =
        || bench.sim.node().read(|d| d.tasks.iter().any(|t| t.kind == "qmstart" && t.exit.is_none()));
    while !is_starting() && start.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stopped = bench.run(&["stop", "110"]);
    start.kill().unwrap();
    start.wait().unwrap();
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert!(!is_starting() && !bench.sim.is_running(110));
}

/// The task of a rollback only begins the start, which goes on as a task of its own.
#[test]
fn a_rollback_with_a_start_is_over_when_the_vm_runs() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["snapshot", "110", "before"]);
    bench.ok(&["start", "110"]);
    let back = |args: &[&str]| bench.run(&[&["rollback", "110", "before", "--yes"], args].concat());
    let slow = || Fault::TaskSlow { kind: "qmstart".into(), by: Duration::from_millis(700) };
    bench.sim.inject(slow());
    for lost in [false, true] {
        if lost {
            let path = "/rollback".to_owned();
            bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path, done: true });
        }
        let ran = back(&["--start"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(bench.sim.is_running(110), "lost={lost}: {}", ran.err);
        assert!(!ran.err.contains("stopped"), "{}", ran.err);
        assert!(ran.err.contains("VM 110 is what it was at the snapshot 'before', and runs"), "{}", ran.err);
    }
    // Without it the VM is stopped, and that is said.
    let ran = back(&[]);
    assert!(ran.code == 0 && !bench.sim.is_running(110), "{}", ran.err);
    assert!(ran.err.contains("was running and is stopped now"), "{}", ran.err);
    // A start that fails is told.
    bench.sim.inject(Fault::TaskFails { kind: "qmstart".into(), message: "no quorum".into() });
    let ran = back(&["--start"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let words = "✗ VM 110 is back at its snapshot, and not started: can not start VM 110: no quorum";
    assert!(ran.err.contains(words) && ran.err.contains("it is stopped"), "{}", ran.err);
    assert!(ran.err.contains("proxmox-ops start 110") && !bench.sim.is_running(110), "{}", ran.err);
    // The HA manager is only told, by the task that the rollback begins.
    bench.sim.node().change(|d| d.ha.insert(110, "stopped".to_owned()));
    assert_eq!(back(&["--start"]).code, 0);
    assert!(bench.sim.is_running(110));
}

#[test]
fn a_vm_whose_memory_is_in_the_snapshot_runs_after_going_back() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    bench.ok(&["snapshot", "110", "live", "--memory"]);
    bench.ok(&["stop", "110"]);
    for args in [&["--start"][..], &[]] {
        let ran = bench.run(&[&["rollback", "110", "live", "--yes"], args].concat());
        assert!(ran.code == 0 && bench.sim.is_running(110), "{}", ran.err);
        assert!(!ran.err.contains("stopped"), "{}", ran.err);
    }
    assert_eq!(bench.sim.changes().iter().filter(|change| change.ends_with("/status/start")).count(), 1);
}

/// What a killed clone left has our marker with the first of its disks. Nothing takes its lock off by itself.
#[test]
fn what_a_killed_clone_left_is_told_with_what_a_person_does() {
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskKilled { kind: "qmclone".into(), cleaned: false });
    let clone = &["clone", "9002", "110", "test-automation"][..];
    let by_hand = "qm unlock 110 && qm destroy 110";
    for (args, code) in [
        (clone, 1),
        (clone, 4),
        (&["configure", "110", "2", "2048"], 1),
        (&["resize", "110", "scsi0", "30G"], 1),
        (&["snapshot", "110", "before"], 1),
        (&["destroy", "110", "yes"], 1),
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(by_hand), "{args:?}: {}", ran.err);
        assert_eq!(bench.sim.config(110).unwrap().get("lock"), Some("clone"), "{args:?}");
    }
    bench.sim.node().change(|d| {
        d.vms.remove(&110);
        d.volumes.retain(|_, volume| volume.vmid != Some(110));
    });
    bench.ok(clone);
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
