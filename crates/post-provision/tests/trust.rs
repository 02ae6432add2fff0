//! Where the host key comes from when no file is given.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use common::{Fleet, fails, host_key};

/// The tool beside a stand-in `proxmox-ops`: siblings are looked for there first.
fn beside(fleet: &Fleet, proxmox_ops: &str) -> PathBuf {
    let bin = fleet.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let tool = bin.join("post-provision-vm");
    std::fs::copy(env!("CARGO_BIN_EXE_post-provision-vm"), &tool).unwrap();
    let ops = bin.join("proxmox-ops");
    std::fs::write(&ops, format!("#!/bin/sh\nprintf '%s\\n' \"$*\" >>\"$0.log\"\n{proxmox_ops}\n")).unwrap();
    std::fs::set_permissions(&ops, PermissionsExt::from_mode(0o755)).unwrap();
    tool
}

#[test]
fn through_the_hypervisor() {
    let fleet = Fleet::committed();
    let tool = beside(&fleet, &format!("printf '\"%s\"\\n' '{} root@new'", host_key("c")));
    let output = fleet.program(&tool, &["new", "--yes"]).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(from VM 110's guest agent, through the hypervisor)"), "{said}");
    assert!(fleet.read("bin/proxmox-ops.log").contains("--json --quiet host-key 110 --timeout"));
    assert!(fleet.read("hosts.nix").contains(&host_key("c")));
}

#[test]
fn a_failure_there_is_told_with_its_kind_and_the_ways_out() {
    let fleet = Fleet::committed();
    let tool = beside(
        &fleet,
        "printf '%s\\n' '{\"error\":{\"kind\":\"unreachable\",\"exit_code\":6,\"message\":\"prom does not answer\"}}'; exit 6",
    );
    let said = fails(fleet.program(&tool, &["new", "--yes"]), 6);
    for part in ["prom does not answer", "--host-key FILE", "--trust-network", "nothing was changed"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let tool = beside(&fleet, "echo no json; exit 0");
    let said = fails(fleet.program(&tool, &["new", "--yes"]), 1);
    assert!(said.contains("gave something that is no host key"), "{said}");
    let tool = beside(&fleet, "exit 6");
    let said = fails(fleet.program(&tool, &["new", "--yes", "--trust-network"]), 6);
    assert!(said.contains("--trust-network needs the VM's address"), "{said}");
}
