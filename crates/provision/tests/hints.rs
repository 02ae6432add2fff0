//! That what a message says to run next can be run, and does what it says.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use common::Bench;
use pve_sim::faults::Fault;

/// The commands that a message has between backquotes, or alone behind `hint: `.
fn hinted<'a>(seen: &'a str, program: &str) -> Vec<&'a str> {
    let hints = seen.lines().filter_map(|line| line.trim_start().strip_prefix("hint: "));
    let command = |hint: &'a str| {
        let from = hint.find(program)?;
        let end = hint[from..].find(['`', '#']).map_or(hint.len(), |end| from + end);
        Some(hint[from..end].trim())
    };
    hints.filter_map(command).collect()
}

#[test]
fn a_run_goes_on_as_it_was_typed_from_wherever_it_was() {
    let bench = Bench::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let fleet = bench.fleet.path().to_string_lossy().into_owned();
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "install".to_owned() });
    let mut command = bench.command(&["test-automation", "--yes", "--integrate", "after", "--repo", &fleet]);
    let output = command.current_dir(elsewhere.path()).output().unwrap();
    let raw = String::from_utf8(output.stderr).unwrap();
    let hint = format!("provision-vm test-automation --integrate after --repo {fleet}");
    assert_eq!(hinted(&raw, "provision-vm"), [hint], "{raw}");
    // Why comes first; the command line is in the journal.
    let why = "✗ Partitioning the disk and installing NixOS: executing 'switch-to-configuration': No space left on \
               device (nixos-anywhere exited with 1)\n  it was at 'Installing NixOS'\n  VM 110 runs the NixOS installer; its disk is being made anew; it \
               is not in the fleet yet\n";
    assert!(raw.contains(why), "{raw}");
    // In the repository it needs no such option.
    let output = bench.run(&["test-automation", "--yes", "--integrate", "after", "--repo", &fleet]);
    let raw = String::from_utf8(output.stderr).unwrap();
    assert_eq!(hinted(&raw, "provision-vm"), ["provision-vm test-automation --integrate after"], "{raw}");
    let mut command = bench.command(&["destroy", "test-automation", "--repo", &fleet]);
    let output = command.current_dir(elsewhere.path()).output().unwrap();
    let raw = String::from_utf8(output.stderr).unwrap();
    let destroy = format!("provision-vm destroy test-automation --confirm test-automation --repo {fleet}");
    assert_eq!(hinted(&raw, "provision-vm"), [destroy], "{raw}");
}

#[test]
fn a_host_file_that_is_missing_is_written_by_what_is_told() {
    for (gone, there) in [("disko.nix", "configuration.nix"), ("configuration.nix", "disko.nix")] {
        let bench = Bench::new();
        let file = |name: &str| format!("hosts/test-automation/{name}");
        let before = bench.fleet.read(&file(there));
        std::fs::remove_file(bench.fleet.path().join(file(gone))).unwrap();
        bench.fleet.commit("without it");
        let output = bench.run(&["test-automation", "--yes"]);
        let seen = bench.seen(&output);
        assert!(seen.contains(&format!("{} is missing", file(gone))) && !seen.contains(there), "{seen}");
        assert_eq!(hinted(&seen, "provision-vm"), ["provision-vm new test-automation"], "{seen}");
        let output = bench.run(&["new", "test-automation", "--yes"]);
        assert!(output.status.success(), "{}", bench.seen(&output));
        assert!(bench.fleet.path().join(file(gone)).is_file());
        assert_eq!(bench.fleet.read(&file(there)), before);
        bench.fleet.commit("with it");
        let output = bench.run(&["test-automation", "--yes", "--dry-run"]);
        assert!(output.status.success(), "{}", bench.seen(&output));
    }
}

#[test]
fn what_is_new_is_added_from_wherever_it_was_written() {
    let bench = Bench::new();
    let mut command = bench.command(&["new", "web", "--yes", "--ip", "dhcp"]);
    let output = command.current_dir(bench.fleet.path().join("docs")).output().unwrap();
    assert!(output.status.success(), "{}", bench.seen(&output));
    let raw = String::from_utf8(output.stderr).unwrap();
    let add = raw.lines().find(|line| line.contains("git ")).unwrap().replace("commit", "commit -qm web");
    let mut shell = std::process::Command::new("sh");
    bench.sim.apply(&mut shell);
    let done = shell.args(["-c", add.trim()]).current_dir(bench.fleet.path().join("docs")).status().unwrap();
    assert!(done.success() && bench.fleet.status().is_empty(), "{add}");
    assert!(!bench.fleet.read("vms/definitions.nix").contains("dhcp"));
}

#[test]
fn a_name_that_leads_nowhere_is_told_with_what_leads_on() {
    let bench = Bench::new();
    for (words, hint) in [
        (
            &["test-automation", "plann"][..],
            "hint: did you mean the verb: provision-vm plan test-automation\n",
        ),
        (&["destroy", "110"], "hint: did you mean 'test-automation'?\n"),
        (&["log", "test-automation"], "hint: `provision-vm status` shows the last run of every VM\n"),
    ] {
        let output = bench.run(words);
        let seen = bench.seen(&output);
        assert!(output.status.code() == Some(5) && seen.contains(hint), "{seen}");
    }
}

#[test]
fn every_file_that_is_in_the_way_is_told_also_when_the_node_is_down() {
    let bench = Bench::new();
    for file in ["hosts.nix", "secrets/.sops.yaml"] {
        bench.fleet.write(file, &format!("{}\n", bench.fleet.read(file)));
    }
    bench.sim.inject(Fault::LoginRefused);
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    let dirty = "hosts.nix and secrets/.sops.yaml have uncommitted changes";
    assert!(seen.contains(dirty) && seen.contains("for 2 reasons"), "{seen}");
}

#[test]
fn who_has_no_home_directory_set_keeps_what_is_known_in_the_users_and_not_in_the_repository() {
    let bench = Bench::new();
    let mut command = bench.command(&["log", "test-automation"]);
    let output = command.env_remove("HOME").env_remove("XDG_STATE_HOME").output().unwrap();
    let seen = bench.seen(&output);
    let looked = seen.lines().find_map(|line| line.trim().strip_prefix("looked in ")).unwrap_or_default();
    assert!(looked.starts_with('/') && looked.ends_with("/.local/state/fleet/runs"), "{seen}");
}

#[test]
fn without_a_terminal_and_without_yes_no_definition_is_written() {
    let bench = Bench::new();
    let mut command = bench.command(&["new", "web"]);
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", bench.seen(&output));
    assert_eq!(bench.fleet.status(), "");
}

#[test]
fn a_finished_vm_is_not_announced_as_one_to_be_installed() {
    let bench = Bench::new();
    let status = |nixos: &str| {
        let status = String::from_utf8(bench.run(&["status", "test-automation", "--json"]).stdout).unwrap();
        assert!(status.contains(&format!("\"nixos\":{nixos}")), "{status}");
    };
    status("null");
    let output = bench.run(&["test-automation", "--yes", "--no-install"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    // What a person does with it nobody tells.
    status("\"maybe\"");
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert!(bench.seen(&output).contains("  3. Install NixOS, where it is not on it yet\n"));
    status("\"yes\"");
    // Nor does it need the memory of an installer.
    bench.fleet.edit("vms/definitions.nix", "memory = 4096;", "memory = 1024;");
    bench.fleet.commit("less of it");
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let steps = "⚠ This will:\n  1. Continue with VM 110, which an earlier run made\n  2. Start VM where it is off\n  \
                 3. Verify NixOS, and bring the fleet up to date\n\n";
    assert!(seen.contains(steps), "{seen}");
}
