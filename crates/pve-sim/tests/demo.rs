//! The demo with the built tools: it shows everything, and nothing of it is left.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test of a program"
)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// `cargo test --workspace` builds the tools before any test runs; `cargo test -p pve-sim` does not.
fn tools_are_built() -> bool {
    let dir = Path::new(env!("CARGO_BIN_EXE_pve-sim")).parent().unwrap();
    let missing: Vec<&str> = ["provision-vm", "proxmox-ops", "cloudinit-gen", "post-provision-vm"]
        .into_iter()
        .filter(|name| !dir.join(name).exists())
        .collect();
    if !missing.is_empty() {
        eprintln!("skipped: {} not built; run cargo test --workspace", missing.join(", "));
    }
    missing.is_empty()
}

fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-sim"));
    // Without CARGO it builds nothing: the tools are there.
    command.arg("demo").env_remove("CARGO").env("TMPDIR", temporary).stdin(Stdio::null());
    command
}

#[test]
fn a_vm_from_its_definition_into_the_fleet() {
    if !tools_are_built() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for expected in [
        "$ provision-vm test-automation --yes",
        "==> Checking prerequisites...",
        "✓ All prerequisites met",
        "✓ VM configuration valid\n  VMID: 110\n  Cores: 2\n  Memory: 4096MB\n  Disk: 20G\n  Storage: nvmeprom\n",
        "$ git show --stat",
        " hosts.nix ",
        "test-automation = {",
        "| 110 | test-automation |",
        "before: refused, the VM is no recipient",
        "TS_AUTHKEY=",
        "✓ test-automation was provisioned and integrated in",
    ] {
        assert!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stopped_in_the_middle_it_leaves_nothing() {
    if !tools_are_built() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut child = demo(temporary.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // As soon as the scratch fleet is there.
    let begun = || std::fs::read_dir(temporary.path()).is_ok_and(|mut dir| dir.next().is_some());
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!begun(), "files are left");
}
