//! Images that are sent to the node, and what is made of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use common::Bench;
use fleet_core::deadline::Deadline;
use pve_sim::{faults::Fault, world::World};
use rustix::process::{Pid, Signal, kill_process};

const IMAGE: [&str; 4] = ["create-template", "9002", "--image", "debian.raw"];

/// The images that lie on the node.
fn images(bench: &Bench) -> usize {
    let names = std::fs::read_dir(bench.sim.node().file("/var/tmp")).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("fleet-image-")).count()
}

/// A disk of so many bytes with nothing on it but a boot signature. Sparse: it is as fast to make as it is slow to send.
fn disk(file: &std::path::Path, size: u64) {
    let mut first = [0; 512];
    first[510..].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(file, first).unwrap();
    std::fs::File::options().write(true).open(file).unwrap().set_len(size).unwrap();
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
    let file = bench.fleet.path().join("debian.raw");
    disk(&file, 1 << 30);
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
    hint: look at it on the node 'prom': cat /etc/pve/qemu-server/9002.conf
    hint: if nobody needs it, there: qm unlock 9002 && qm destroy 9002
    hint: then run the same command again
    ");
}

/// Sends it a Ctrl-C, and gives how it ended.
fn stopped(child: std::process::Child) -> (i32, String) {
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    ended(child)
}

fn ended(child: std::process::Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn whoever_stops_it_sends_no_more_and_makes_nothing_of_it() {
    let bench = Bench::with(World::default().without_vm(9002));
    let file = bench.fleet.path().join("debian.raw");
    disk(&file, 1 << 30);
    let child = bench.std_command(&IMAGE).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("an image that is being sent", || images(&bench) == 1);
    let (code, err) = stopped(child);
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("stopped by the user") && !err.contains("Creating VM"), "{err}");
    until("its end", || images(&bench) == 0);
    assert_eq!(bench.sim.changes(), Vec::<String>::new());
}

#[test]
fn what_is_no_disk_image_is_not_sent() {
    let bench = Bench::with(World::default().without_vm(9002));
    let file = bench.fleet.path().join("debian.raw");
    for (content, says) in [
        (b"".as_slice(), "FLEET/debian.raw is no disk image: it is empty"),
        (b"<html>404 not found</html>", "it looks like a web page"),
        (b"\xfd7zXZ\0\0\x04", "hint: unpack it, and give what it makes: xz -dc FLEET/debian.raw"),
        (&[0; 4096], "its first sector has no boot signature (55 AA)"),
    ] {
        std::fs::write(&file, content).unwrap();
        for args in [&IMAGE[..], &[&IMAGE[..], &["--dry-run"]].concat()] {
            let ran = bench.run(args);
            assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
            let said = ran.err.replace("debian.raw", "FLEET/debian.raw").replace("FLEET/FLEET", "FLEET");
            assert!(said.contains(says), "{says}: {said}");
        }
    }
    assert_eq!((bench.sim.connections(), bench.sim.changes()), (0, vec![]));
}

/// The process that takes an image in.
fn receiver(bench: &Bench) -> Pid {
    let image = format!("{}/fleet-image-", bench.sim.node().file("/var/tmp").display());
    let takes_it = |entry: &std::fs::DirEntry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        line.split('\0').next().is_some_and(|program| program.ends_with("perl")) && line.contains(&image)
    };
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    let name = processes.find(takes_it).unwrap().file_name();
    Pid::from_raw(name.to_str().unwrap().parse().unwrap()).unwrap()
}

/// What takes the image in may take nothing for a while: its disk is busy.
#[test]
fn who_stops_is_not_kept_waiting_by_a_node_that_takes_nothing() {
    let bench = Bench::with(World::default().without_vm(9002));
    let file = bench.fleet.path().join("debian.raw");
    disk(&file, 1 << 30);
    let child = bench.std_command(&IMAGE).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("an image that is being sent", || images(&bench) == 1);
    let receiver = receiver(&bench);
    kill_process(receiver, Signal::STOP).unwrap();
    // All that is between them is full once it writes no more.
    let written = || {
        let about = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
        about.lines().find(|line| line.starts_with("wchar")).unwrap().to_owned()
    };
    let mut before = String::new();
    until("it to wait", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        written() == std::mem::replace(&mut before, written())
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let (tell, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(ended(child)));
    let outcome = end.recv_timeout(std::time::Duration::from_secs(60));
    kill_process(receiver, Signal::CONT).unwrap();
    let (code, err) = outcome.unwrap();
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("the image was not sent whole"), "{err}");
    until("its end", || images(&bench) == 0);
}

/// Sending has limits of its own: the time that the node is given begins after it.
#[test]
fn what_another_run_made_meanwhile_is_seen_however_long_the_sending_took() {
    let bench = Bench::with(World::default().without_vm(9002));
    let file = bench.fleet.path().join("debian.raw");
    disk(&file, 32 << 20);
    let mut command = bench.std_command(&[&IMAGE[..], &["--wait", "5"]].concat());
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("an image that is being sent", || images(&bench) == 1);
    let receiver = receiver(&bench);
    kill_process(receiver, Signal::STOP).unwrap();
    bench.ok(&["create-template", "9002", "--import", "nvmeprom:import/debian-13-ubuntu.qcow2"]);
    std::thread::sleep(std::time::Duration::from_millis(5500));
    kill_process(receiver, Signal::CONT).unwrap();
    let (code, err) = ended(child);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("is a fitting template already"), "{err}");
    until("its end", || images(&bench) == 0);
}

/// What the node has begun to make it makes to its end, and needs the image for it: whether nobody waits for it any
/// longer, or somebody stops.
#[test]
fn an_image_stays_while_the_node_makes_a_vm_of_it() {
    for stops in [false, true] {
        let bench = Bench::with(World::default().without_vm(9002));
        let file = bench.fleet.path().join("debian.raw");
        std::fs::write(file, [b"QFI\xfb".as_slice(), &[0; 4096]].concat()).unwrap();
        bench.sim.node().hold_tasks(true);
        let wait = if stops { "600" } else { "3" };
        let mut command = bench.std_command(&[&IMAGE[..], &["--wait", wait]].concat());
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        until("the task", || bench.sim.config(9002).is_some());
        let (code, err) = if stops { stopped(child) } else { ended(child) };
        assert_eq!(code, if stops { 130 } else { 8 }, "{err}");
        assert_eq!(images(&bench), 1, "{err}");
        assert!(err.contains("the image stays on the node while a VM is made of it"), "{err}");
        bench.sim.node().hold_tasks(false);
        bench.sim.node().release_all();
        until("its end", || images(&bench) == 0);
        assert_eq!(bench.sim.config(9002).unwrap().get("lock"), None);
    }
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
    hint: what was done last, on the node 'prom': pvenode task list --vmid 9002
    hint: then, if nothing works on it any more, there: qm unlock 9002
    hint: then run the same command again
    ");
}
