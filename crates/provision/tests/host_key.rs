//! The bootstrap system's host key, given to it before its first packet where the node takes snippets.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
};

use common::{Bench, Gate, calls, instead, until};
use pve_sim::{faults::Fault, guest::Os, log::What, testing::Sim, world::World};

fn documents(bench: &Bench) -> usize {
    let place = bench.sim.node().file("/var/lib/vz/snippets");
    std::fs::read_dir(place).map_or(0, Iterator::count)
}

fn cicustom(bench: &Bench) -> Option<String> {
    bench.sim.config(110).unwrap().get("cicustom").map(str::to_owned)
}

fn integrated_key(bench: &Bench) -> bool {
    let key = bench.sim.guest_host_key(110).unwrap();
    bench.fleet.read("hosts.nix").contains(key.split_whitespace().nth(1).unwrap())
}

#[test]
fn no_guest_agent_is_needed_and_nothing_stays_on_the_node() {
    let bench = Bench::new();
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("==> Pinning the host key that cloud-init gives the VM..."), "{seen}");
    let told = "⚠ the QEMU guest agent does not answer on the new system\n\
                hint: set services.qemuGuest.enable in hosts/test-automation/configuration.nix\n";
    assert!(seen.contains(told), "{seen}");
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
    assert!(integrated_key(&bench));
    assert_eq!((documents(&bench), cicustom(&bench)), (0, None));
    // The file was made, and the setting came with the others in one change before the start.
    let written =
        |r: &pve_sim::log::Record| format!("{:?}", r.what).contains("snippets/.fleet-110-user.yaml");
    assert!(bench.sim.requests().iter().any(written));
}

#[test]
fn without_a_place_for_it_the_key_is_read_through_the_hypervisor() {
    let mut world = World::default();
    world.storages.iter_mut().for_each(|s| s.content.retain(|c| c != "snippets"));
    let bench = Bench::with(Sim::with(world));
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("==> Reading the VM's host key through the hypervisor..."), "{seen}");
    assert!(integrated_key(&bench));
    assert_eq!(cicustom(&bench), None);
}

/// Nor where the places that there are keep no file.
#[test]
fn where_no_place_keeps_it_the_key_is_read_through_the_hypervisor_too() {
    let bench = Bench::new();
    for place in ["/var/lib/vz/snippets", "/mnt/nvmeprom/snippets"] {
        let place = bench.sim.node().file(place);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, "no directory").unwrap();
    }
    let output = bench.run(&["test-automation", "--yes"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("==> Reading the VM's host key through the hypervisor..."), "{seen}");
    assert!(seen.contains("⚠ VM 110 goes without cloud-init documents: "), "{seen}");
    assert_eq!(cicustom(&bench), None);
}

#[test]
fn a_run_that_fails_takes_the_key_off_the_node_and_the_next_one_goes_on() {
    let bench = Bench::new();
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    bench.sim.inject(Fault::InstallFails { vmid: 110, phase: "install".to_owned() });
    let output = bench.run(&["test-automation", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", bench.seen(&output));
    assert_eq!((documents(&bench), cicustom(&bench)), (0, None));
    bench.sim.clear_faults();
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert!(integrated_key(&bench));
    assert_eq!((documents(&bench), cicustom(&bench)), (0, None));
}

/// What cloud-init is told changes when the private key is taken off the node: the machine is a new instance at its
/// next start, and stays who it is.
#[test]
fn a_bootstrap_system_keeps_its_key_when_it_is_powered_off_and_on() {
    let bench = Bench::new();
    let args = ["test-automation", "--yes", "--no-install"];
    let output = bench.run(&args);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert_eq!((documents(&bench), cicustom(&bench)), (0, None));
    let key = bench.sim.guest_host_key(110);
    let mut stop = bench.sim.command("proxmox-ops", &bench.fleet);
    assert!(stop.args(["stop", "test-automation", "--yes"]).output().unwrap().status.success());
    bench.sim.inject(Fault::AgentNever { vmid: 110 });
    let output = bench.run(&args);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert_eq!(bench.sim.guest_host_key(110), key);
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert!(integrated_key(&bench));
}

/// Somebody else answers from the moment on at which the run comes to `gate`: it ends there, tells nobody anything, and
/// the same command goes on when the machine is itself again.
fn somebody_else_from(bench: &Bench, gate: &Gate) -> Output {
    let mut command = bench.command(&["test-automation", "--yes"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    until("the gate", 120, || gate.reached() || child.try_wait().unwrap().is_some());
    let node = bench.sim.node();
    bench.sim.inject(Fault::HostKeyChanged { vmid: 110 });
    // No connection to the one that was there stays.
    node.change(|d| {
        if let Some(run) = d.guests.get_mut(&110).and_then(|guest| guest.running.as_mut()) {
            run.boot += 1000;
        }
    });
    node.boots.send_modify(|n| *n += 1);
    let before = bench.sim.requests().len();
    gate.open();
    let output = child.wait_with_output().unwrap();
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(6), "{seen}");
    assert!(seen.contains("host key"), "{seen}");
    let after = bench.sim.requests()[before..].to_vec();
    let tried = |what: &What| matches!(what, What::GuestLogin { .. } | What::GuestExec { .. });
    let told: Vec<_> = after.iter().filter(|record| tried(&record.what)).collect();
    assert!(told.is_empty(), "somebody else was logged in to: {told:?}\n{seen}");
    output
}

/// Nothing was written on its disk; without the impostor the same command makes it a member of the fleet.
fn it_goes_on(bench: &Bench, installs: usize) {
    let phases = calls(bench);
    let installed = phases.iter().filter(|call| call.contains("disko,install")).count();
    assert_eq!(installed, installs, "{phases:?}");
    bench.sim.clear_faults();
    let output = bench.run(&["test-automation", "--yes"]);
    assert!(output.status.success(), "{}", bench.seen(&output));
    assert_eq!(bench.sim.guest(110).unwrap().0, Os::Nixos);
    assert!(integrated_key(bench));
    assert_eq!(bench.fleet.status(), "");
}

/// Has nixos-anywhere wait when this phase is over.
fn after_phase(phase: &str) -> (Bench, Gate) {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    let wait = gate.shell();
    instead(
        &bench,
        &format!("case \" $* \" in *' --phases {phase} '*) real \"$@\"; code=$?; {wait}; exit $code ;; esac"),
    );
    (bench, gate)
}

#[test]
fn another_host_key_after_kexec_ends_the_run_before_anything_is_sent() {
    let (bench, gate) = after_phase("kexec");
    let head = bench.fleet.git(&["rev-parse", "HEAD"]).unwrap();
    somebody_else_from(&bench, &gate);
    // Nor is its key taken into the fleet.
    assert_eq!(
        (bench.fleet.status(), bench.fleet.git(&["rev-parse", "HEAD"]).unwrap()),
        (String::new(), head)
    );
    it_goes_on(&bench, 0);
}

#[test]
fn another_host_key_before_the_private_key_is_sent_ends_the_run() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    bench.fleet.write(".git/hooks/pre-commit", &format!("#!/bin/sh\n{}\n", gate.shell()));
    let hook = bench.fleet.path().join(".git/hooks/pre-commit");
    std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    somebody_else_from(&bench, &gate);
    it_goes_on(&bench, 0);
}

#[test]
fn another_host_key_after_the_reboot_is_not_taken_for_the_new_system() {
    let (bench, gate) = after_phase("reboot");
    somebody_else_from(&bench, &gate);
    it_goes_on(&bench, 1);
}
