//! What the verbs say and do when things go wrong: nobody there, other keys, lost answers, full storages.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use std::time::Duration;

use common::Bench;
use pve_sim::{
    faults::Fault,
    log::{Record, What},
    world::World,
};

#[test]
fn a_node_that_is_not_there_is_unreachable() {
    let bench = Bench::new();
    // A port that was just given back: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ran = bench.finish(bench.command(&["next-vmid"]).env("PROXMOX_HOST", format!("127.0.0.1:{port}")));
    assert_eq!((ran.code, ran.out.as_str()), (6, ""), "never 'free': {}", ran.err);
    assert!(ran.err.contains(&format!("127.0.0.1:{port} refused the connection")), "{}", ran.err);
}

#[test]
fn a_node_with_another_host_key_is_not_talked_to() {
    let bench = Bench::new();
    bench.sim.expect_another_host_key();
    let ran = bench.run(&["list"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.matches("SHA256:").count() >= 2, "{}", ran.err);
    bench.sim.forget_host_key();
    let ran = bench.run(&["list"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(bench.sim.calls().is_empty());
}

#[test]
fn a_refused_login_is_unreachable() {
    let bench = Bench::new();
    bench.sim.inject(Fault::LoginRefused);
    let ran = bench.run(&["list"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
}

#[test]
fn a_daemon_that_is_down_is_told_apart() {
    let bench = Bench::new();
    bench.sim.inject(Fault::ApiDown);
    let ran = bench.run(&["list"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(
        ran.err.contains("the Proxmox API daemon does not answer on the node's 127.0.0.1:85"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("systemctl status pvedaemon"), "{}", ran.err);
}

#[test]
fn a_relay_carries_where_forwarding_is_forbidden() {
    let bench = Bench::with(World { allow_forwarding: false, ..World::default() });
    bench.clone_110();
    assert_eq!(bench.ok(&["status", "110"]), "stopped\n");
}

#[test]
fn a_missing_vm_is_not_found() {
    let bench = Bench::with(World::default().with_foreign_vm(111, "elsewhere", "second"));
    for args in [
        &["status", "110"][..],
        &["config", "110"],
        &["start", "110"],
        &["stop", "110"],
        &["destroy", "110", "yes"],
        &["get-ip", "110"],
        &["resize", "110", "scsi0", "9G"],
        &["status", "no-such-vm"],
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, 5, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("hint: "), "{args:?}: {}", ran.err);
    }
    let ran = bench.run(&["configure", "110", "2", "2048"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    // Of another node's VM the cluster tells; what this node would have to do is refused, and never "not found".
    assert_eq!(bench.ok(&["status", "111"]), "running\n");
    let told: serde_json::Value =
        serde_json::from_str(&bench.ok(&["status", "elsewhere", "--json"])).unwrap();
    assert_eq!((&told["node"], &told["name"]), (&"second".into(), &"elsewhere".into()));
    let ran = bench.run(&["stop", "111", "--unmanaged", "111"]);
    assert_eq!(ran.code, 6);
    insta::assert_snapshot!(ran.err, @r"
    ✗ can not connect to the node 'second' of the cluster: can not log in to second through NODE: 127.0.0.1 can not connect to 192.0.2.3:22: refused, or nothing is there
      VM 111 is on the node 'second'
      nothing was changed
    hint: is it up? or connect to it yourself: --host 192.0.2.3
    ");
    for container in ["200", "dns"] {
        let ran = bench.run(&["status", container]);
        assert_eq!(ran.code, 4, "{}", ran.err);
        insta::allow_duplicates! {
            insta::assert_snapshot!(ran.err, @r"
            ✗ 200 ('dns') is a container, not a VM
              it is on the node 'prom'
            hint: `proxmox-ops list` shows VMs and containers
            ");
        }
    }
}

#[test]
fn a_vmid_that_is_taken_is_a_conflict() {
    for (world, words) in [
        (
            World::default().with_vm(110, true, &[("name", "stranger")]),
            "110 is a VM 'stranger' on the node 'prom'",
        ),
        (World::default().with_container(110, "ct"), "110 is a container 'ct' on the node 'prom'"),
        (World::default().with_foreign_vm(110, "far", "second"), "110 is a VM 'far' on the node 'second'"),
    ] {
        let bench = Bench::with(world);
        let ran = bench.run(&["clone", "9002", "110", "test-automation"]);
        assert_eq!(ran.code, 4, "{}", ran.err);
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    let bench = Bench::new();
    bench.clone_110();
    // Our own is no conflict, and nothing is done to it.
    let before = bench.sim.config(110);
    let ran = bench.run(&["--json", "clone", "9002", "110", "test-automation"]);
    assert_eq!((ran.code, ran.out.trim()), (0, r#"{"vmid":110,"changed":false}"#), "{}", ran.err);
    assert_eq!(bench.sim.config(110), before);
}

#[test]
fn a_strangers_vm_in_our_place_is_never_destroyed() {
    let bench = Bench::with(World::default().with_vm(110, false, &[("name", "stranger")]));
    let ran = bench.run(&["destroy", "110", "yes", "--yes"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    // Nor one that was made under another name.
    let marker = "fleet-vm: name=web vmid=110 nonce=00112233445566778899aabbccddeeff";
    let bench =
        Bench::with(World::default().with_vm(110, false, &[("name", "web"), ("description", marker)]));
    let ran = bench.run(&["destroy", "110", "yes"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(bench.sim.changes().is_empty());
}

#[test]
fn a_link_that_is_cut_leaves_nothing_half_known() {
    for done in [true, false] {
        let bench = Bench::new();
        bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/clone".into(), done });
        // It may be read yet, so nothing is sent again before the time is over.
        let ran = bench.run(&["clone", "9002", "110", "test-automation", "--wait", "3"]);
        assert_eq!(ran.code, if done { 0 } else { 7 }, "done={done}: {}", ran.err);
        assert_eq!(bench.sim.config(110).is_some(), done);
        if !done {
            bench.clone_110();
        }

        bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/config".into(), done });
        let ran = bench.run(&["configure", "110", "3", "3072"]);
        let applied = bench.sim.config(110).unwrap().to_string().contains("cores: 3");
        assert_eq!(
            (ran.code, applied),
            if done { (0, true) } else { (7, false) },
            "done={done}: {}",
            ran.err
        );

        bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/status/start".into(), done });
        let ran = bench.run(&["start", "110"]);
        assert_eq!(
            (ran.code, bench.sim.is_running(110)),
            if done { (0, true) } else { (7, false) },
            "{}",
            ran.err
        );
        // A second run ends well.
        bench.ok(&["start", "110"]);
        bench.ok(&["configure", "110", "3", "3072"]);
    }
}

#[test]
fn a_link_that_is_cut_while_a_task_runs_is_made_anew() {
    let bench = Bench::new();
    bench.sim.inject(Fault::DropLink { after: 3, done: true });
    bench.clone_110();
    bench.sim.inject(Fault::DropLinkAt { method: "GET".into(), path: "/tasks/".into(), done: true });
    bench.ok(&["start", "110"]);
    assert!(bench.sim.is_running(110));
}

#[test]
fn a_long_clone_whose_answer_was_lost_is_waited_for() {
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskSlow { kind: "qmclone".into(), by: Duration::from_millis(2500) });
    bench.sim.inject(Fault::DropLinkAt { method: "POST".into(), path: "/clone".into(), done: true });
    bench.clone_110();
    assert_eq!(bench.sim.changes().len(), 1, "cloned once");
}

#[test]
fn a_change_waits_for_the_task_that_locks_the_vm() {
    let bench = Bench::new();
    let (node, pause) = (bench.sim.node(), Duration::from_millis(5));
    node.hold_tasks(true);
    std::thread::scope(|scope| {
        scope.spawn(|| bench.clone_110());
        while bench.sim.config(110).is_none_or(|conf| conf.get("lock").is_none()) {
            std::thread::sleep(pause);
        }
        let change = scope.spawn(|| bench.run(&["configure", "110", "2", "2048"]));
        // Whether a task works on it is asked of the list of tasks, and then of the task itself.
        let looked = |call: &String| call.contains("GET /nodes/prom/tasks") && !call.contains("UPID");
        while !bench.sim.calls().iter().any(looked) {
            assert!(!change.is_finished(), "{:?}", change.join());
            std::thread::sleep(pause);
        }
        std::thread::sleep(pause * 200);
        node.release_all();
        let ran = change.join().unwrap();
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(
            ran.err.contains("VM 110 is locked (clone); waiting for the task that works on it"),
            "{}",
            ran.err
        );
    });
    assert!(bench.sim.config(110).unwrap().to_string().contains("memory: 2048"));
}

#[test]
fn ctrl_c_leaves_the_task_to_the_node_and_says_so() {
    let bench = &Bench::new();
    bench.clone_110();
    bench.sim.inject(Fault::TaskSlow { kind: "qmstart".into(), by: Duration::from_secs(2) });
    let output = std::thread::scope(|scope| {
        let mut command = bench.std_command(&["start", "110"]);
        let child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        scope.spawn(move || {
            while !bench.sim.changes().iter().any(|c| c.ends_with("/status/start")) {
                std::thread::sleep(Duration::from_millis(5));
            }
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        });
        child.wait_with_output().unwrap()
    });
    assert_eq!(output.status.code(), Some(130));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("the task goes on without this program: UPID:prom:"), "{err}");
}

#[test]
fn tasks_tell_the_truth() {
    let bench = Bench::new();
    bench.sim.inject(Fault::TaskWarnings { kind: "qmclone".into(), count: 1 });
    let ran = bench.run(&["clone", "9002", "110", "test-automation"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err.matches("⚠ a simulated warning\n").count(), 1, "{}", ran.err);
    bench.sim.clear_faults();
    bench.sim.inject(Fault::TaskFails {
        kind: "qmstart".into(),
        message: "start failed: QEMU exited with code 1".into(),
    });
    let ran = bench.run(&["start", "110"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.starts_with("✗ can not start VM 110: start failed: QEMU exited with code 1\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("pvenode task log 'UPID:prom:"), "{}", ran.err);
    bench.sim.clear_faults();
    bench.sim.inject(Fault::TaskSlow { kind: "qmstart".into(), by: Duration::from_secs(3) });
    let ran = bench.run(&["start", "110", "--wait", "1"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    assert!(ran.err.contains("it is still running on the node 'prom': UPID:prom:"), "{}", ran.err);
    bench.sim.clear_faults();
    bench.ok(&["start", "110"]);
}

#[test]
fn a_lock_that_is_held_is_waited_for() {
    let bench = Bench::new();
    bench.clone_110();
    bench.sim.inject(Fault::LockTimeout { vmid: 110, times: 1 });
    bench.ok(&["configure", "110", "2", "2048"]);
    bench.sim.edit(110, |conf| {
        conf.main.insert("lock".into(), "backup".into());
    });
    let ran = bench.run(&["configure", "110", "2", "2048"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("VM is locked (backup)") && ran.err.contains("the lock 'backup' is on it"),
        "{}",
        ran.err
    );
    assert!(bench.sim.config(110).unwrap().main.contains_key("lock"), "never unlocked");
}

#[test]
fn a_lock_that_nobody_works_behind_is_told_and_not_waited_for() {
    let bench = Bench::new();
    // What a clone leaves whose worker was killed.
    bench.sim.edit(110, |conf| {
        conf.main.insert("lock".into(), "clone".into());
    });
    let verbs: &[&[&str]] = &[
        &["configure", "110", "2", "2048"],
        &["start", "110"],
        &["cloudinit-drive", "110"],
        &["clone", "9002", "110", "test-automation"],
    ];
    for verb in verbs {
        // Longer than this test may take.
        let ran = bench.run(&[*verb, &["--wait", "86400"]].concat());
        assert!(matches!(ran.code, 1 | 4), "{verb:?}: {}", ran.err);
        assert!(ran.err.contains("qm unlock 110 && qm destroy 110"), "{verb:?}: {}", ran.err);
        assert!(ran.err.contains("cat /etc/pve/qemu-server/110.conf"), "{verb:?}: {}", ran.err);
    }
    assert_eq!(bench.run(&["destroy", "110", "yes"]).code, 3, "nothing proves that it is ours");
    assert_eq!(bench.sim.config(110).unwrap().lock(), Some("clone"), "never unlocked");
    // Other locks have other ways out.
    bench.sim.edit(110, |conf| {
        conf.main.insert("lock".into(), "backup".into());
        conf.main.insert("name".into(), "test-automation".into());
    });
    let ran = bench.run(&["configure", "110", "2", "2048", "--wait", "86400"]);
    assert!(
        ran.err.contains("pvenode task list --vmid 110") && !ran.err.contains("qm destroy"),
        "{}",
        ran.err
    );
}

#[test]
fn clones_side_by_side_queue_for_the_storage_and_all_are_made() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for vmid in ["150", "151", "152", "153"] {
            let (bench, name) = (&bench, format!("vm-{vmid}"));
            scope.spawn(move || bench.ok(&["clone", "9002", vmid, &name, "--unmanaged", vmid]));
        }
    });
    for vmid in 150..154 {
        assert!(bench.sim.config(vmid).unwrap().lock().is_none());
    }
    let queue = bench.sim.dir().join("run/fleet-tools/allocate-prom-nvmeprom.lock");
    assert!(queue.exists(), "they had their turns");
    // Somebody else has the turn: said, and nothing is sent.
    let held = std::fs::File::options().write(true).open(&queue).unwrap();
    held.lock().unwrap();
    let before = bench.sim.changes().len();
    let ran = bench.run(&["clone", "9002", "154", "late", "--unmanaged", "154", "--wait", "1", "--verbose"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    assert!(ran.err.contains("waiting: something else is being allocated on 'nvmeprom'"), "{}", ran.err);
    assert_eq!(bench.sim.changes().len(), before);
}

#[test]
fn a_full_storage_an_unknown_one_and_one_without_images() {
    let bench = Bench::new();
    let ran = bench.run(&["clone", "9002", "110", "test-automation", "nosuch"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    let ran = bench.run(&["clone", "9002", "110", "test-automation", "local"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("storage: storage 'local' does not support vm images"), "{}", ran.err);
    assert!(bench.sim.config(110).is_none());
}

#[test]
fn the_words_of_the_node_are_shown_by_parameter() {
    let bench = Bench::new();
    bench.clone_110();
    bench.sim.inject(Fault::Answer {
        method: "POST".into(),
        path: "/config".into(),
        status: 403,
        message: "Permission check failed (/vms/110, VM.Config.CPU)".into(),
        times: 1,
    });
    let ran = bench.run(&["configure", "110", "3", "2048"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("permission missing: /vms/110, VM.Config.CPU"), "{}", ran.err);
}

#[test]
fn a_ticket_that_is_refused_is_made_anew() {
    let bench = Bench::new();
    bench.sim.inject(Fault::Answer {
        method: "GET".into(),
        path: "/status/current".into(),
        status: 401,
        message: "No ticket".into(),
        times: 1,
    });
    assert_eq!(bench.ok(&["status", "104"]), "running\n");
}

#[test]
fn a_ticket_made_the_short_way_that_is_refused_is_made_the_long_way_once() {
    let bench = Bench::new();
    bench.ok(&["status", "104"]);
    assert_eq!(mints(&bench), ["short"]);
    bench.sim.inject(Fault::ShortTicketRefused);
    assert_eq!(bench.ok(&["status", "104"]), "running\n");
    assert_eq!(mints(&bench)[1..], ["short", "full"]);
    // Whatever is refused for another reason is not asked for ever.
    bench.sim.clear_faults();
    bench.sim.inject(Fault::Answer {
        method: "GET".into(),
        path: "/status/current".into(),
        status: 401,
        message: "No ticket".into(),
        times: 9,
    });
    let ran = bench.run(&["status", "104"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert_eq!(mints(&bench)[3..], ["short", "full"]);
}

/// How each ticket was made so far.
fn mints(bench: &Bench) -> Vec<&'static str> {
    let kind = |record: Record| match record.what {
        What::Exec { command, .. } if command.contains("assemble_ticket") => {
            Some(if command.ends_with(" full") { "full" } else { "short" })
        }
        _ => None,
    };
    bench.sim.requests().into_iter().filter_map(kind).collect()
}

#[test]
fn without_an_ssh_program_the_defaults_hold() {
    let bench = Bench::new();
    let ran = bench.finish(bench.command(&["status", "104"]).env("PATH", bench.sim.dir()));
    assert_eq!((ran.code, ran.out.as_str()), (0, "running\n"), "{}", ran.err);
    // The usual key and known-hosts files of the home directory, with nothing said.
    let ran = bench.finish(
        bench
            .command(&["status", "104"])
            .env("PATH", bench.sim.dir())
            .env_remove("FLEET_SSH_CONFIG")
            .env_remove("FLEET_KNOWN_HOSTS")
            .env_remove("FLEET_IDENTITY"),
    );
    assert_eq!((ran.code, ran.out.as_str()), (0, "running\n"), "{}", ran.err);
}

#[test]
fn requests_leave_in_one_write() {
    let bench = Bench::new();
    bench.sim.inject(Fault::TwoWrites);
    bench.clone_110();
    bench.ok(&["configure", "110", "2", "2048"]);
}

#[test]
fn an_agent_that_never_comes_does_not_hide_the_neighbour() {
    let bench = Bench::new();
    bench.sim.inject(Fault::AgentNever { vmid: 104 });
    let ran = bench.run(&["get-ip", "104", "--json", "--timeout", "20"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found["candidates"][0]["source"], "neighbour");
    let ran = bench.run(&["host-key", "104"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
}

#[test]
fn waiting_ends() {
    let bench = Bench::new();
    let ran = bench.run(&["wait-ssh", "192.0.2.250", "1"]);
    assert_eq!(ran.code, 8, "{}", ran.err);
    assert!(ran.err.contains("gave up waiting for SSH on 192.0.2.250 port 22 after 1 s"), "{}", ran.err);
    bench.clone_110();
    let ran = bench.run(&["get-ip", "110"]);
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("VM 110 has no address: it is stopped"), "{}", ran.err);
}

#[test]
fn a_command_whose_end_was_told_in_a_lost_answer_has_not_failed() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["start", "110"]);
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    // Slow enough that the command has ended when the only answer is given that tells so.
    bench.sim.inject(Fault::Slow { path: "exec-status".to_owned(), by: Duration::from_millis(300) });
    bench.sim.inject(Fault::DropLinkAt {
        method: "GET".to_owned(),
        path: "exec-status".to_owned(),
        done: true,
    });
    let ran = bench.run(&["exec", "110", "--", "hostname"]);
    assert!(matches!(ran.code, 0 | 7), "{}: {}", ran.code, ran.err);
    assert_eq!(ran.out.is_empty(), ran.code == 7);
}

/// A command that a hint names is about the same fleet, by the same way to the node, from wherever it is typed.
#[test]
fn the_commands_of_hints_lead_to_the_same_fleet_and_node() {
    let bench = Bench::new();
    bench.clone_110();
    let elsewhere = tempfile::tempdir().unwrap();
    let repo = bench.fleet.path().to_string_lossy().into_owned();
    let at = |dir: &std::path::Path, args: &[&str]| {
        let mut std = bench.std_command(args);
        std.current_dir(dir);
        bench.finish(&mut assert_cmd::Command::from_std(std))
    };
    let host = bench.sim.address();
    let ran = at(elsewhere.path(), &["--repo", &repo, "--host", &host, "reboot", "110"]);
    assert!(ran.err.contains("hint: proxmox-ops start 110 --repo FLEET --host NODE\n"), "{}", ran.err);
    let ran = at(elsewhere.path(), &["--repo", &repo, "status", "nosuch"]);
    assert!(ran.err.contains("hint: `proxmox-ops list --repo FLEET` shows what exists\n"), "{}", ran.err);
    // It is found there without being named.
    let ran = at(bench.fleet.path(), &["--repo", &repo, "reboot", "110"]);
    assert!(ran.err.contains("hint: proxmox-ops start 110\n"), "{}", ran.err);
}
