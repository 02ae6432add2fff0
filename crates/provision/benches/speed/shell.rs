//! The shell scripts' way, on the same kind of node.

use std::{io::Read, path::Path, process::Command};

use post_provision::recipient::{self, HostKey};
use pve_sim::{
    guest::Os,
    ledger::Party,
    testing::{OPERATOR_PUBLIC, operator_identity},
};

use crate::{NAME, account::Account, common::Bench, run};

const VMID: u32 = 110;

/// What the program of that name does: a host key in, its recipient out.
pub(crate) fn ssh_to_age() {
    let mut line = String::new();
    std::io::stdin().read_to_string(&mut line).unwrap();
    println!("{}", HostKey::parse(line.trim()).unwrap().recipient().unwrap().as_str());
}

/// Runs it; gives what it took.
pub(crate) fn flow(bench: &Bench) -> Account {
    let sim = &bench.sim;
    let keys = sim.dir().join("keys");
    std::fs::write(&keys, OPERATOR_PUBLIC).unwrap();
    let operator = std::fs::read_to_string(operator_identity()).unwrap();
    let identity = recipient::identity_of_ssh_key(&operator[operator.find("-----BEGIN").unwrap()..]).unwrap();
    let mut command = Command::new("bash");
    sim.apply(&mut command);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/speed/shell-flow.sh"));
    command.current_dir(bench.fleet.path());
    command.env("NODE_PORT", sim.port().to_string()).env("VM_PORT", sim.expose(VMID).to_string());
    command.envs([("NAME", NAME), ("VMID", "110"), ("CORES", "2"), ("MEMORY", "4096"), ("DISK", "20G")]);
    command.envs([("STORAGE", "nvmeprom"), ("TEMPLATE", "9002"), ("FLEET_USER", "fleet")]);
    command.env("KEYS", &keys).env("BENCH", std::env::current_exe().unwrap());
    command.env("SOPS_AGE_KEY", identity.as_str());
    let account = run(bench, &mut command);
    // It came as far as ours does.
    assert_eq!(sim.guest(VMID).unwrap().0, Os::Nixos);
    let key = sim.guest_host_key(VMID).unwrap();
    assert!(bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap()));
    assert_eq!(bench.fleet.status(), "");
    println!("the shell scripts' way, one VM: {:.1} s", account.wall().as_secs_f64());
    let of = |party| account.of(party).as_secs_f64();
    println!(
        "  the node {:.1} s, its boots {:.1} s, the installer in it {:.1} s; beyond: {:.1} s",
        of(Party::Node),
        of(Party::Boot),
        of(Party::Guest),
        account.own().as_secs_f64()
    );
    if !std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join("sops").is_file()) {
        println!("  without `sops updatekeys`: sops is not on PATH");
    }
    account
}
