//! A template that somebody works on: a clone of it waits, or says what is in its way, and takes nothing off.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test stops at the first surprise")]

mod common;

use std::{process::Stdio, time::Duration};

use common::Bench;
use pve_sim::{auth::Who, task};

const CLONE: &[&str] = &["clone", "9002", "110", "test-automation", "--wait", "86400", "--verbose"];

fn lock_template(bench: &Bench) {
    bench.sim.edit(9002, |conf| {
        conf.main.insert("lock".into(), "backup".into());
    });
}

/// A backup of the template that goes on until it is released.
fn back_up(bench: &Bench) -> String {
    lock_template(bench);
    let node = bench.sim.node();
    node.hold_tasks(true);
    let work = std::sync::Arc::clone(node);
    let start = async move {
        let unlock = std::sync::Arc::clone(&work);
        task::spawn(&work, &Who::root(), "vzdump", 9002, move |_| async move {
            unlock.change(|d| d.vms.get_mut(&9002).unwrap().main.remove("lock"));
            Ok(())
        })
    };
    let upid = bench.sim.block_on(start);
    node.hold_tasks(false);
    upid
}

fn asked(bench: &Bench) -> usize {
    bench.sim.changes().iter().filter(|c| c.ends_with("/9002/clone")).count()
}

#[test]
fn a_clone_waits_for_the_backup_of_its_template() {
    let bench = &Bench::new();
    let upid = back_up(bench);
    let ran = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run(CLONE));
        let looks = || bench.sim.calls().iter().filter(|call| call.contains("vzdump")).count();
        while looks() < 3 && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        bench.sim.node().release(&upid);
        run.join().unwrap()
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
    let words = format!("VM 9002 is locked (backup); waiting for the task that works on it: {upid}");
    assert!(ran.err.contains(&words), "{}", ran.err);
    assert_eq!(asked(bench), 2, "refused once, and made: {:?}", bench.sim.changes());
}

#[test]
fn a_template_s_lock_without_a_task_is_told_and_left() {
    let bench = Bench::new();
    lock_template(&bench);
    let ran = bench.run(&CLONE[..CLONE.len() - 1]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    insta::assert_snapshot!(ran.err, @r"
    ==> Cloning VM 9002 into VM 110 'test-automation'...
    ✗ can not clone VM 9002 into VM 110: VM is locked (backup)
      the lock 'backup' is on it
      nothing was changed
      no task of the node 'prom' works on VM 9002 now
      VM 9002 is what others are cloned from: whoever locked it did not end well
      VM 110 does not exist
    hint: what was done last, on the node 'prom': pvenode task list --vmid 9002
    hint: look at it on the node 'prom': cat /etc/pve/qemu-server/9002.conf
    hint: once whoever looks after it has taken the lock off, run this again
    ");
    assert_eq!(asked(&bench), 1);
    assert_eq!(bench.sim.config(9002).unwrap().lock(), Some("backup"), "never unlocked");
}

#[test]
fn the_first_ctrl_c_ends_the_wait_for_a_template() {
    let bench = &Bench::new();
    back_up(bench);
    let mut command = bench.std_command(CLONE);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    while asked(bench) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert_eq!(asked(bench), 1, "{err}");
}
