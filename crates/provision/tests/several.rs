//! Several VMs in one run: side by side, one that fails among them, stopped, and on a terminal.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use common::{Bench, until};
use pve_sim::{
    faults::Fault,
    guest::Os,
    testing::{Sim, tool},
    world::{Latency, World},
};
use serde_json::Value;

fn three() -> Bench {
    let bench = Bench::new();
    bench.define(&[("web", 120), ("db", 121), ("mail", 122)]);
    bench
}

/// The events that a run with `--json` printed.
fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn in_fleet(bench: &Bench, name: &str, vmid: u32) {
    assert_eq!(bench.sim.guest(vmid).map(|(os, _)| os), Some(Os::Nixos), "{name}");
    let key = bench.sim.guest_host_key(vmid).unwrap();
    let blob = key.split_whitespace().nth(1).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains(blob), "{name}");
    assert!(bench.sim.config(vmid).unwrap().get("lock").is_none(), "{name}");
}

#[test]
fn three_become_members_of_the_fleet_side_by_side() {
    let bench = three();
    let output = bench.run(&["web", "db", "mail", "web", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    for (name, vmid) in [("web", 120), ("db", 121), ("mail", 122)] {
        in_fleet(&bench, name, vmid);
        assert!(stderr(&output).contains(&format!("\n{name}: ✓ VM cloned (")), "{seen}");
        assert!(stderr(&output).contains(&format!("\n{name}: ✓ In the fleet (")), "{seen}");
    }
    assert_eq!(bench.fleet.status(), "");
    let table = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "VMID", "ADDRESS", "OUTCOME", "TIME"]);
    for (row, (name, vmid)) in rows[1..].iter().zip([("web", 120), ("db", 121), ("mail", 122)]) {
        let address = bench.sim.guest(vmid).unwrap().1;
        assert_eq!(row[..4], [name, &vmid.to_string(), &address, "done"], "{table}");
    }
    // Each was made once, and nothing is left to do.
    let clones = bench.sim.changes().iter().filter(|c| c.contains("/clone")).count();
    assert_eq!(clones, 3);
    let before = bench.sim.changes().len();
    let again = bench.run(&["web", "db", "mail", "--yes", "--jobs", "1"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    assert_eq!(bench.sim.changes().len(), before);
}

#[test]
fn one_that_fails_does_not_stop_the_others_and_the_same_command_finishes() {
    let bench = three();
    bench.sim.inject(Fault::InstallFails { vmid: 121, phase: "install".to_owned() });
    let output = bench.run(&["--all", "--yes", "--json"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(9), "{seen}");
    for (name, vmid) in [("web", 120), ("mail", 122), ("test-automation", 110)] {
        assert!(bench.sim.guest(vmid).is_some(), "{seen}");
        in_fleet(&bench, name, vmid);
    }
    let events = events(&output);
    let of = |event: &str, name: &str| {
        events.iter().filter(|e| e["event"] == event && e["name"] == name).collect::<Vec<_>>()
    };
    for name in ["web", "db", "mail", "test-automation"] {
        assert_eq!(of("begin", name).len(), 1, "{seen}");
        assert_eq!(of("vm", name).len(), 1, "{seen}");
        assert!(of("started", name).iter().any(|e| e["step"] == "install"), "{seen}");
    }
    assert_eq!(of("vm", "web")[0]["outcome"], "done");
    assert_eq!(of("vm", "web")[0]["address"], bench.sim.guest(120).unwrap().1);
    assert_eq!(of("vm", "db")[0]["error"]["exit_code"], 1);
    assert_eq!(of("ended", "db").last().unwrap()["outcome"], "failed");
    let [.., summary, error] = events.as_slice() else { panic!("{seen}") };
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["vms"].as_array().unwrap().len(), 4);
    assert_eq!(error["error"]["message"], "1 of 4 VMs is not done: db");
    bench.sim.clear_faults();
    let again = bench.run(&["--all", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    in_fleet(&bench, "db", 121);
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn what_is_wrong_with_any_of_them_is_told_before_anything_changes() {
    let sim = Sim::with(World::default().with_vm(121, false, &[("name", "somebody")]));
    let bench = Bench::with(sim);
    bench.define(&[("web", 120), ("db", 121), ("mail", 122)]);
    bench.fleet.edit(
        "vms/definitions.nix",
        "mail = { vmid = 122; cores = 1; memory = 2048",
        "mail = { vmid = 122; cores = 1; memory = 512",
    );
    let output = bench.run(&["web", "db", "mail", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(9), "{seen}");
    let told = stderr(&output).find("db: ✗ VMID 121 is taken by VM 121 'somebody' on node prom").unwrap();
    assert!(told < stderr(&output).find("web: ==> Cloning").unwrap(), "{seen}");
    // None can be done: nothing changes, and it is the kind of the first.
    let before = bench.sim.changes().len();
    let output = bench.run(&["db", "mail", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(4), "{seen}");
    assert!(stderr(&output).contains("mail: ✗ "), "{seen}");
    assert_eq!(bench.sim.changes().len(), before, "{seen}");
    // What is wrong with all is told once.
    bench.sim.inject(Fault::LoginRefused);
    let output = bench.run(&["web", "mail", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(6), "{seen}");
    assert_eq!(stderr(&output).matches("✗").count(), 1, "{seen}");
}

#[test]
fn a_name_that_can_not_be_provisioned_stops_the_run_before_a_connection() {
    let bench = three();
    for (name, code) in [("doc1", 3), ("nobody", 5)] {
        let output = bench.run(&["web", name, "--yes"]);
        assert_eq!(output.status.code(), Some(code), "{}", bench.seen(&output));
    }
    assert_eq!(bench.sim.connections(), 0);
}

#[test]
fn the_room_of_a_storage_is_for_all_of_them_together() {
    let bench = Bench::new();
    bench.define(&[("web", 120), ("db", 121)]);
    for vmid in [120, 121] {
        let of = |disk: &str| format!("vmid = {vmid}; cores = 1; memory = 2048; disk = \"{disk}\"");
        bench.fleet.edit("vms/definitions.nix", &of("10G"), &of("400G"));
    }
    let output = bench.run(&["web", "db", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(9), "{seen}");
    assert!(
        stderr(&output).contains("db: ✗ storage 'nvmeprom' has no room for 'db' beside the other VMs"),
        "{seen}"
    );
    assert!(bench.sim.config(120).is_some() && bench.sim.config(121).is_none());
}

#[test]
fn a_vm_that_another_run_holds_is_left_to_it() {
    let bench = three();
    let mut first = bench
        .command(&["web", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the clone", 60, || bench.sim.changes().iter().any(|c| c.contains("/clone")));
    let second = bench.run(&["--all", "--yes", "--no-install"]);
    let seen = bench.seen(&second);
    assert_eq!(second.status.code(), Some(9), "{seen}");
    assert!(
        seen.contains(&format!("web: ✗ another run is at work on 'web' (process {})", first.id())),
        "{seen}"
    );
    assert!(seen.contains("web: hint: wait for it"), "{seen}");
    assert!(first.wait().unwrap().success());
    let clones = bench.sim.changes().iter().filter(|c| c.contains("/clone")).count();
    assert_eq!(clones, 4);
}

#[test]
fn ctrl_c_stops_all_of_them_at_a_safe_point() {
    let bench = three();
    let child = bench
        .command(&["web", "db", "mail", "--yes", "--jobs", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("a start", 60, || bench.sim.changes().iter().any(|c| c.contains("/status/start")));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(130), "{seen}");
    assert!(seen.contains("\n⚠ stopping at the next safe point; once more leaves at once\n"), "{seen}");
    assert!(seen.contains("\nmail  122   -        not begun "), "{seen}");
    assert!(seen.ends_with("\nhint: `provision-vm web db mail` continues with what is left\n"), "{seen}");
    let again = bench.run(&["web", "db", "mail", "--yes"]);
    assert!(again.status.success(), "{}", bench.seen(&again));
    let clones = bench.sim.changes().iter().filter(|c| c.contains("/clone")).count();
    assert_eq!(clones, 3);
}

#[test]
fn on_a_terminal_one_question_and_one_line_each() {
    let bench = three();
    let mut command = Command::new(tool("provision-vm"));
    command.args(["web", "db", "--no-install"]).current_dir(bench.fleet.path());
    bench.sim.apply(&mut command);
    command.env("TERM", "xterm");
    let mut session = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    session.exp_string("Ready to provision 2 VMs, 2 at once").unwrap();
    session.exp_string("Continue? (y/N) ").unwrap();
    session.send_line("y").unwrap();
    // One line each that changes: the lines of single steps are not printed below each other.
    let rest = session.exp_eof().unwrap();
    assert!(rest.contains("done: ") && rest.contains("NAME") && rest.contains("OUTCOME"), "{rest}");
    // What is needed afterwards stays, and says whose it is.
    for (name, vmid) in [("web", 120), ("db", 121)] {
        let address = bench.sim.guest(vmid).unwrap().1;
        assert!(rest.contains(&format!("{name}: Two commands remain:\r\n")), "{rest}");
        let last = format!("{name}:   post-provision-vm {name} {address} {vmid}\r\n");
        assert!(rest.contains(&last), "{rest}");
    }
    assert!(!rest.contains("web: ==>"), "{rest}");
    let status = session.process().wait().unwrap();
    assert!(format!("{status:?}").ends_with(", 0)"), "{status:?}");
}

/// Said before anything changes, and none is in the way of the other; on a branch again the next run commits them all.
#[test]
fn on_a_detached_head_all_are_taken_in_and_the_next_run_commits() {
    let bench = three();
    bench.fleet.git(&["checkout", "-q", "--detach"]).unwrap();
    let output = bench.run(&["web", "db", "--yes", "-q"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    for name in ["web", "db"] {
        let before =
            format!("{name}: ⚠ HEAD is detached: a commit would belong to no branch: what takes '{name}'");
        assert!(seen.contains(&before), "{seen}");
        let after = format!("{name}: ⚠ not committed: HEAD is detached");
        assert_eq!(seen.matches(&after).count(), 1, "{seen}");
        assert!(bench.fleet.read("hosts.nix").contains(&format!("{name} = {{")), "{seen}");
    }
    bench.fleet.git(&["checkout", "-q", "-"]).unwrap();
    let next = bench.run(&["web", "--yes"]);
    assert!(next.status.success(), "{}", bench.seen(&next));
    assert_eq!(bench.fleet.status(), "");
    let message = bench.fleet.git(&["log", "-1", "--format=%B"]).unwrap();
    assert!(message.contains("add web to fleet") && message.contains("add db to fleet"), "{message}");
}

/// Why the fleet could not take it in is told wherever the rest of what is said is not.
#[test]
fn why_the_integration_failed_is_in_the_error() {
    let bench = three();
    bench.fleet.write(".git/hooks/pre-commit", "#!/bin/sh\necho not today >&2\nexit 1\n");
    let hook = bench.fleet.path().join(".git/hooks/pre-commit");
    std::fs::set_permissions(hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(tool("provision-vm"));
    command.args(["web", "db", "--yes"]).current_dir(bench.fleet.path());
    bench.sim.apply(&mut command);
    command.env("TERM", "xterm");
    let mut session = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    let rest = session.exp_eof().unwrap();
    let why = "git would not commit them: ";
    assert!(rest.contains(why) && rest.contains("not today"), "{rest}");
    assert!(rest.contains("all that it said: "), "{rest}");
    for args in [&["web", "--yes", "-q"][..], &["web", "--yes", "--json"]] {
        let output = bench.run(args);
        let seen = bench.seen(&output);
        assert_eq!(output.status.code(), Some(9), "{seen}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(why) && stderr.contains("not today"), "{seen}");
        assert!(!seen.contains("--allow-dirty") && !seen.contains("git stash"), "{seen}");
        if args.contains(&"--json") {
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(answer["error"]["message"].as_str().unwrap().contains("not today"), "{seen}");
        }
    }
}

#[test]
fn on_a_terminal_whose_lines_can_not_change_all_of_them_are_printed() {
    let bench = three();
    let mut command = bench.command(&["web", "db", "--no-install", "--yes"]);
    command.env("TERM", "dumb");
    let mut session = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    let all = session.exp_eof().unwrap();
    assert!(all.contains("web: ==> ") && all.contains("db: ==> ") && all.contains("OUTCOME"), "{all}");
}

#[test]
fn a_dry_run_of_several_changes_nothing() {
    let bench = three();
    let output = bench.run(&["web", "db", "--dry-run", "--json"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let names: Vec<Value> = events(&output).into_iter().map(|mut shown| shown["name"].take()).collect();
    assert_eq!(names, ["web", "db"], "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn twenty_at_once_and_the_storage_is_asked_by_one_at_a_time() {
    let bench = Bench::new();
    let names: Vec<String> = (0..20).map(|number| format!("vm{number}")).collect();
    let vms: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(120..).collect();
    bench.define(&vms);
    let mut args: Vec<&str> = names.iter().map(String::as_str).collect();
    args.extend(["--yes", "--jobs", "20"]);
    let output = bench.run(&args);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    for (name, vmid) in &vms {
        in_fleet(&bench, name, *vmid);
    }
    assert_eq!(bench.fleet.status(), "");
    assert_eq!(bench.fleet.git(&["rev-list", "--count", "HEAD"]).unwrap().trim(), "22");
    // A clone is asked for when the one before is seen to be allocated: in between its task was looked at.
    let calls = bench.sim.calls();
    let clones: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].ends_with("/clone")).collect();
    assert_eq!(clones.len(), 20);
    for pair in clones.windows(2) {
        let between = &calls[pair[0]..pair[1]];
        assert!(
            between.iter().any(|call| call.contains("/tasks/") && call.contains("qmclone")),
            "{between:?}"
        );
    }
}

/// The operator's key behind a passphrase, `secret`.
fn locked_key(bench: &Bench) -> PathBuf {
    let locked = bench.sim.dir().join("locked");
    std::fs::copy(bench.sim.dir().join("home/.ssh/id_ed25519"), &locked).unwrap();
    let lock =
        Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "secret", "-f"]).arg(&locked).output();
    assert!(lock.unwrap().status.success());
    locked
}

#[test]
fn a_locked_key_that_nobody_can_be_asked_about_is_the_same_for_all() {
    let bench = three();
    let locked = locked_key(&bench);
    let mut command = bench.command(&["web", "db", "mail", "--yes", "--identity"]);
    let output = command.arg(&locked).stdin(Stdio::null()).output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert_eq!(seen.matches("✗").count(), 1, "{seen}");
    let why = "✗ the key DIR/locked is protected by a passphrase, and there is no terminal to ask for it\n";
    assert!(seen.contains(why) && seen.contains("it is the same for all 3 VMs\n"), "{seen}");
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}

#[test]
fn a_passphrase_is_asked_for_once() {
    let bench = three();
    let locked = locked_key(&bench);
    let mut command = Command::new(tool("provision-vm"));
    command.args(["web", "db", "mail", "--no-install", "--yes", "--identity"]).arg(&locked);
    command.current_dir(bench.fleet.path());
    bench.sim.apply(&mut command);
    command.env("TERM", "xterm").env_remove("SSH_AUTH_SOCK");
    let mut session = rexpect::session::spawn_command(command, Some(120_000)).unwrap();
    session.exp_string(&format!("Passphrase for {}: ", locked.display())).unwrap();
    // It is asked before any of them is looked at, and therefore held.
    let held = bench.sim.dir().join("home/.local/state/fleet/vms");
    assert_eq!(std::fs::read_dir(&held).map_or(0, Iterator::count), 0);
    session.send_line("secret").unwrap();
    let rest = session.exp_eof().unwrap();
    assert!(!rest.contains("Passphrase"), "{rest}");
    assert!(rest.contains("3 of 3 VM configurations valid"), "{rest}");
    let status = session.process().wait().unwrap();
    assert!(format!("{status:?}").ends_with(", 0)"), "{status:?}");
}

#[test]
fn nobody_waits_for_a_clone_of_another_vm_before_the_question() {
    let latency = Latency { full_clone: Duration::from_secs(6), ..Latency::fast() };
    let bench = Bench::with(Sim::with(World { latency, ..World::default() }));
    bench.define(&[("web", 120), ("db", 121)]);
    bench.killed_when(&["web", "--yes", "--no-install"], "the clone", || bench.sim.config(120).is_some());
    let output = bench.run(&["web", "db", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let at = |text: &str| seen.find(text).unwrap_or_else(|| panic!("{text}: {seen}"));
    assert!(
        at("2 of 2 VM configurations valid") < at("web: ==> VM 120 is being made by an earlier run"),
        "{seen}"
    );
    assert_eq!(bench.sim.changes().iter().filter(|c| c.contains("/clone")).count(), 2, "{seen}");
}
