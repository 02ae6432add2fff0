//! A VM's lock file that somebody else holds: waited for, tried again, and told in the end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::time::Duration;

use common::Bench;
use fleet_core::{
    child::Command,
    deadline::Deadline,
    protocol::{Op, Session},
    types::Vmid,
};
use pve_sim::world::{Latency, World};

const TIMEOUT: &str = "can't lock file '/var/lock/qemu-server/lock-110.conf' - got timeout";

fn bench(latency: Latency) -> Bench {
    let bench = Bench::with(World { latency, ..World::default() });
    bench.clone_110();
    bench
}

/// How often a task of this kind did not get the lock, and how often one did after it had waited.
fn waits(bench: &Bench, kind: &str) -> (usize, usize) {
    bench.sim.node().read(|d| {
        let tasks =
            d.tasks.iter().filter(|t| t.kind == kind && t.log.iter().any(|l| l.starts_with("trying to")));
        tasks.fold((0, 0), |(failed, got), task| match task.exit.as_deref() {
            Some(TIMEOUT) => (failed + 1, got),
            Some("OK") => (failed, got + 1),
            _ => (failed, got),
        })
    })
}

#[test]
fn a_change_waits_for_another_task_s_lock_and_is_tried_again_when_that_was_too_short() {
    let bench = bench(Latency { lock_wait: Duration::from_millis(40), ..Latency::fast() });
    let node = bench.sim.node();
    let held = bench.sim.block_on(node.lock_file(110, None)).unwrap();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run(&["configure", "110", "3", "3072"]));
        while waits(&bench, "qmconfig").0 == 0 && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(held);
        let ran = run.join().unwrap();
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.contains(&format!("{TIMEOUT}; trying again")), "{}", ran.err);
    });
    assert_eq!(bench.sim.config(110).unwrap().get("cores"), Some("3"));
}

/// While it is cloned a VM does not have all of its disks.
#[test]
fn a_disk_that_is_still_being_cloned_is_waited_for() {
    let bench = Bench::new();
    let node = bench.sim.node();
    let reads = || bench.sim.calls().iter().filter(|call| call.contains("/qemu/110/config")).count();
    node.hold_tasks(true);
    std::thread::scope(|scope| {
        let clone = scope.spawn(|| bench.run(&["clone", "9002", "110", "test-automation"]));
        while bench.sim.config(110).is_none() && !clone.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        node.hold_tasks(false);
        let before = reads();
        let resize = scope.spawn(|| bench.run(&["resize", "110", "scsi0", "30G"]));
        while reads() == before && !resize.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        node.release_all();
        for run in [clone, resize] {
            let ran = run.join().unwrap();
            assert_eq!(ran.code, 0, "{}", ran.err);
        }
    });
    assert!(bench.sim.config(110).unwrap().get("scsi0").unwrap().ends_with("size=30G"));
}

#[test]
fn a_lock_that_is_never_given_back_is_told_with_what_is_true() {
    let bench = bench(Latency { lock_wait: Duration::from_millis(40), ..Latency::fast() });
    let node = bench.sim.node();
    let before = bench.sim.config(110).unwrap().to_string();
    let held = bench.sim.block_on(node.lock_file(110, None)).unwrap();
    let ran = bench.run(&["configure", "110", "3", "3072", "--wait", "4"]);
    assert!([1, 7, 8].contains(&ran.code), "{}: {}", ran.code, ran.err);
    // On a busy machine the deadline may pass between two tries.
    if ran.code == 1 {
        assert!(ran.err.contains(TIMEOUT) && ran.err.contains("nothing was changed"), "{}", ran.err);
        assert!(ran.err.contains("pvenode task list --source active"), "{}", ran.err);
    }
    assert_eq!(bench.sim.config(110).unwrap().to_string(), before);
    drop(held);
    bench.ok(&["start", "110"]);
    // What could not even ask the guest does not blame it.
    bench.ok(&["get-ip", "110", "--timeout", "20"]);
    let held = bench.sim.block_on(node.lock_file(110, None)).unwrap();
    let ran = bench.run(&["shutdown", "110", "--wait", "4"]);
    assert!([1, 7, 8].contains(&ran.code) && !ran.err.contains("its guest"), "{}: {}", ran.code, ran.err);
    assert!(bench.sim.is_running(110));
    drop(held);
    bench.ok(&["shutdown", "110"]);
}

/// As long as a genuine node waits for a lock: the program's own deadline passes first, and its task goes on.
#[test]
fn a_deadline_ends_before_the_node_s_own_patience() {
    let bench = bench(Latency { lock_wait: Duration::from_secs(10), ..Latency::fast() });
    let held = bench.sim.block_on(bench.sim.node().lock_file(110, None)).unwrap();
    let ran = bench.run(&["start", "110", "--wait", "3"]);
    // Where even the looks at the task are late, it is what is told.
    assert!([7, 8].contains(&ran.code), "{}: {}", ran.code, ran.err);
    assert!(ran.err.contains("UPID:prom:"), "{}", ran.err);
    drop(held);
    // The task of the first run may be the one that starts it: both end well.
    bench.ok(&["start", "110"]);
    assert!(bench.sim.is_running(110));
}

/// After a stop, qmeventd cleans up; a VM that runs again by then is taken for the old one, and its lock is kept.
#[test]
fn a_stop_and_a_start_at_once_and_what_follows_are_one_run() {
    let latency = Latency {
        lock_wait: Duration::from_millis(40),
        cleanup_begins: Duration::from_secs(60),
        cleanup_waits: Duration::from_secs(60),
        ..Latency::fast()
    };
    let bench = bench(latency);
    bench.ok(&["start", "110"]);
    let command = bench
        .sim
        .env()
        .into_iter()
        .fold(Command::new(assert_cmd::cargo::cargo_bin!("proxmox-ops")), |c, (k, v)| c.env(k, v))
        .dir(bench.fleet.path())
        .args(["session"]);
    let mut session = Session::start(&command).unwrap();
    let vmid = Vmid::new(110).unwrap();
    let settings = [("onboot".to_owned(), "1".to_owned())].into();
    let stop_and_start = [Op::Stop { vmid }, Op::Start { vmid }];
    let after = [
        Op::Configure { vmid, settings, delete: Vec::new(), digest: None },
        Op::Resize { vmid, disk: "scsi0".parse().unwrap(), size: "20G".parse().unwrap() },
    ];
    for op in stop_and_start.into_iter().chain(after) {
        std::thread::scope(|scope| {
            let changes = matches!(op, Op::Configure { .. });
            let done = scope.spawn(|| session.ask::<()>(op, Deadline::secs(60), |_| {}));
            while changes && waits(&bench, "qmconfig").0 == 0 && !done.is_finished() {
                std::thread::sleep(Duration::from_millis(2));
            }
            if changes {
                bench.sim.node().locks.end_cleanups();
            }
            done.join().unwrap().unwrap();
        });
    }
    drop(session);
    assert!(waits(&bench, "qmconfig").0 > 0, "nothing was in the way of the change");
    let config = bench.sim.config(110).unwrap();
    assert_eq!(config.get("onboot"), Some("1"));
    assert!(config.get("scsi0").unwrap().contains("size=20G"));
    // The same by single commands, and the next stop is what waits.
    bench.ok(&["stop", "110"]);
    bench.ok(&["start", "110"]);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run(&["stop", "110"]));
        while waits(&bench, "qmstop").0 == 0 && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        bench.sim.node().locks.end_cleanups();
        let ran = run.join().unwrap();
        assert_eq!(ran.code, 0, "{}", ran.err);
    });
    assert!(waits(&bench, "qmstop").0 > 0 && !bench.sim.is_running(110));
}
