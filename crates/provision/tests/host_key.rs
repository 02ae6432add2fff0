//! The bootstrap system's host key, given to it before its first packet where the node takes snippets.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::Bench;
use pve_sim::{faults::Fault, guest::Os, testing::Sim, world::World};

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
