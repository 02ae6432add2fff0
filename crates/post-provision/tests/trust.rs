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
    // A link where that is possible: a copy is open for writing for a while, and a process that another test starts
    // meanwhile keeps it so until it is a program of its own (ETXTBSY).
    let built = env!("CARGO_BIN_EXE_post-provision-vm");
    if !tool.exists() && std::fs::hard_link(built, &tool).is_err() {
        std::fs::copy(built, &tool).unwrap();
    }
    let ops = bin.join("proxmox-ops");
    std::fs::write(&ops, format!("#!/bin/sh\nprintf '%s\\n' \"$*\" >>\"$0.log\"\n{proxmox_ops}\n")).unwrap();
    std::fs::set_permissions(&ops, PermissionsExt::from_mode(0o755)).unwrap();
    tool
}

#[test]
fn through_the_hypervisor() {
    let fleet = Fleet::committed();
    let tool = beside(&fleet, &format!("printf '\"%s\"\\n' '{} root@nas'", host_key("c")));
    let output = fleet.program(&tool, &["nas", "--yes"]).assert().success().get_output().clone();
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
    let said = fails(fleet.program(&tool, &["nas", "--yes"]), 6);
    for part in ["prom does not answer", "--host-key FILE", "--trust-network", "nothing was changed"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let tool = beside(&fleet, "echo no json; exit 0");
    let said = fails(fleet.program(&tool, &["nas", "--yes"]), 1);
    assert!(said.contains("gave something that is no host key"), "{said}");
    let tool = beside(&fleet, "exit 6");
    let said = fails(fleet.program(&tool, &["nas", "--yes", "--trust-network"]), 6);
    assert!(said.contains("--trust-network needs the VM's address"), "{said}");
}

/// With a stand-in `ssh-keyscan` that answers for each kind of key with what is given.
fn scanned(fleet: &Fleet, ed25519: &str, others: &str) -> assert_cmd::Command {
    let tool = beside(fleet, "exit 6");
    let scan = format!(
        "#!/bin/sh\ncase \"$*\" in\n*'-t ed25519'*) printf '%s' '{ed25519}' ;;\n*) printf '%s' '{others}' ;;\nesac\n"
    );
    fleet.write("path/ssh-keyscan", &scan);
    std::fs::set_permissions(fleet.path("path/ssh-keyscan"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = fleet.program(&tool, &["nas", "192.0.2.10", "--yes", "--trust-network"]);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", fleet.path("path").display()));
    command
}

#[test]
fn from_the_network_only_when_told_and_with_a_warning() {
    let fleet = Fleet::committed();
    let answer = format!("# 192.0.2.10:22 SSH-2.0-x\n192.0.2.10 {}\n", host_key("c"));
    let output = scanned(&fleet, &answer, "").assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("⚠ trusting the network: if somebody else answers at 192.0.2.10"), "{said}");
    assert!(
        fleet
            .git(&["log", "-1", "--format=%B"])
            .contains("(from the network, from whoever answers at 192.0.2.10)")
    );

    let fleet = Fleet::committed();
    let said = fails(scanned(&fleet, "", ""), 6);
    assert!(said.contains("no SSH server answered at 192.0.2.10"), "{said}");
    let ecdsa = "192.0.2.10 ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=\n";
    let said = fails(scanned(&fleet, "", ecdsa), 3);
    assert!(
        said.contains("ecdsa-sha2-nistp256, not ssh-ed25519") && said.contains("ssh-keygen -t ed25519"),
        "{said}"
    );
}
