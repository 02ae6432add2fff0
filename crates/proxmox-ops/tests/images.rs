//! Images that are sent to the node, and what is made of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use common::Bench;
use fleet_core::deadline::Deadline;
use pve_sim::{faults::Fault, world::World};

const IMAGE: [&str; 4] = ["create-template", "9002", "--image", "debian.raw"];

/// The images that lie on the node.
fn images(bench: &Bench) -> usize {
    let names = std::fs::read_dir(bench.sim.node().file("/var/tmp")).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("fleet-image-")).count()
}

/// Waits for it, as long as a busy machine may need.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::secs(30);
    while !holds() {
        assert!(!deadline.passed(), "{what}: it never came");
        deadline.sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_template_whose_run_was_killed_is_finished_by_the_next_and_no_image_stays() {
    let bench = Bench::with(World::default().without_vm(9002));
    // Sparse: it is as fast to make as it is slow to send.
    let file = bench.fleet.path().join("debian.raw");
    std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let kill = |mut child: std::process::Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let start = || bench.std_command(&IMAGE).stderr(std::process::Stdio::null()).spawn().unwrap();
    // In the middle of sending.
    let child = start();
    until("an image that is being sent", || images(&bench) == 1);
    kill(child);
    until("its end", || images(&bench) == 0);
    assert_eq!(bench.sim.changes(), Vec::<String>::new());

    // While the node makes the VM of it: it still needs the image.
    std::fs::write(&file, [b"QFI\xfb".as_slice(), &[0; 4096]].concat()).unwrap();
    bench.sim.node().hold_tasks(true);
    let child = start();
    until("the task", || bench.sim.config(9002).is_some());
    kill(child);
    assert_eq!(images(&bench), 1);
    std::thread::scope(|scope| {
        let again = scope.spawn(|| bench.run(&IMAGE));
        // It waits for what is under way, and sends nothing.
        until("its look at the tasks", || {
            again.is_finished()
                || bench
                    .sim
                    .calls()
                    .iter()
                    .any(|call| call.split('?').next() == Some("GET /nodes/prom/tasks"))
        });
        assert!(!again.is_finished(), "{:?}", again.join());
        bench.sim.node().hold_tasks(false);
        bench.sim.node().release_all();
        let ran = again.join().unwrap();
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.starts_with("==> VM 9002 is locked (create) by a task that goes on"), "{}", ran.err);
    });
    assert!(bench.sim.config(9002).unwrap().is_template());
    assert_eq!(bench.sim.changes().iter().filter(|c| *c == "POST /nodes/prom/qemu").count(), 1);
    until("its end", || images(&bench) == 0);

    // A worker that was killed leaves what cannot be finished: that is said.
    let bench = Bench::with(World::default().without_vm(9002));
    bench.sim.inject(Fault::TaskKilled { kind: "qmcreate".into(), cleaned: false });
    let args = ["create-template", "9002", "--import", "nvmeprom:import/debian-13-ubuntu.qcow2"];
    let ran = bench.run(&args);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let ran = bench.run(&args);
    assert_eq!(ran.code, 4);
    insta::assert_snapshot!(ran.err, @r"
    ✗ VMID 9002 is taken by a VM that is locked (create)
      nothing was changed
      no task of the node 'prom' works on VM 9002 now
      whoever made it was stopped in the middle: its disks are not whole
    hint: look at it on the node: cat /etc/pve/qemu-server/9002.conf
    hint: if nobody needs it: qm unlock 9002 && qm destroy 9002
    hint: then run the same command again
    ");
}

/// A lock that no clone and no creation has left is no reason to destroy anything.
#[test]
fn a_template_that_was_left_locked_by_something_else_is_not_for_destroying() {
    let marker =
        format!("fleet-vm: name=ubuntu-cloud-template vmid=9002 nonce={}", "0123456789abcdef".repeat(2));
    let settings = [("name", "ubuntu-cloud-template"), ("description", marker.as_str()), ("lock", "backup")];
    let bench = Bench::with(World::default().without_vm(9002).with_vm(9002, false, &settings));
    let ran = bench.run(&["create-template", "9002", "--import", "nvmeprom:import/debian-13-ubuntu.qcow2"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    insta::assert_snapshot!(ran.err, @r"
    ✗ VMID 9002 is taken by a VM that is locked (backup)
      nothing was changed
      no task of the node 'prom' works on VM 9002 now
    hint: what was done last: pvenode task list --vmid 9002
    hint: then, if nothing works on it any more: qm unlock 9002
    hint: then run the same command again
    ");
}
