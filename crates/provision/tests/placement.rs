//! `node = "auto"` in a cluster of two nodes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::process::Stdio;

use common::{Bench, until};
use pve_sim::{
    testing::{ScratchFleet, Sim},
    world::World,
};

/// Two nodes that share `nvmeprom`; the second one has more memory free. `web` and `db` are of one group.
fn two() -> (Bench, Sim) {
    let shared = |mut world: World| {
        world.storages.iter_mut().for_each(|storage| storage.shared = storage.name == "nvmeprom");
        world
    };
    let bench = Bench::with(Sim::with(shared(World::default())));
    let mut other = World {
        node: "b".to_owned(),
        address: "192.0.2.3".to_owned(),
        memory: 256 << 30,
        vms: vec![],
        containers: vec![],
        foreign: vec![],
        ..World::default()
    };
    other.storages.retain(|storage| storage.name == "nvmeprom");
    let b = bench.sim.join(shared(other));
    bench.define(&[("web", 120), ("db", 121)]);
    automatic(&bench.fleet, "web", "antiAffinity = \"edge\";");
    automatic(&bench.fleet, "db", "antiAffinity = [ \"edge\" ];");
    (bench, b)
}

fn automatic(fleet: &ScratchFleet, name: &str, more: &str) {
    let (from, to) = (format!("{name} = {{ "), format!("{name} = {{ node = \"auto\"; {more} "));
    fleet.edit("vms/definitions.nix", &from, &to);
    fleet.commit("placed by room");
}

#[test]
fn a_vm_goes_where_the_most_memory_is_free_and_its_group_is_spread() {
    let (bench, b) = two();
    let output = bench.run(&["web", "--dry-run"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("✓ Node: b (auto: most free memory: 244 of 256 GiB)"), "{seen}");
    assert!(seen.contains("target=b"), "{seen}");
    // What follows the clone goes there, too.
    assert!(seen.contains("POST /nodes/b/qemu/120/status/start"), "{seen}");
    assert!(!seen.contains("/nodes/prom/qemu/120"), "{seen}");
    assert!(bench.sim.changes().is_empty() && b.changes().is_empty());

    let output = bench.run(&["web", "db", "--yes", "--no-install"]);
    let seen = bench.seen(&output);
    assert!(output.status.success(), "{seen}");
    let on = |sim: &Sim| [120, 121].into_iter().filter(|vmid| sim.config(*vmid).is_some()).count();
    assert_eq!((on(&bench.sim), on(&b)), (1, 1), "{seen}");
    assert!(seen.contains("no VM there that it should avoid"), "{seen}");

    // They stay where they are, also when they are looked at again.
    let here = if b.config(120).is_some() { "b" } else { "prom" };
    let seen = bench.seen(&bench.run(&["web", "--dry-run"]));
    assert!(seen.contains(&format!("✓ Node: {here} (auto: it is there already)")), "{seen}");
    let seen = bench.seen(&bench.run(&["plan", "web", "db"]));
    assert!(seen.contains("exit code: 0"), "{seen}");
}

#[test]
fn two_runs_at_once_know_of_each_other() {
    let (bench, b) = two();
    // It takes most of the node that has the most memory.
    bench.fleet.edit(
        "vms/definitions.nix",
        "vmid = 120; cores = 1; memory = 2048",
        "vmid = 120; cores = 1; memory = 200000",
    );
    bench.fleet.edit("vms/definitions.nix", "antiAffinity = [ \"edge\" ]; ", "");
    bench.sim.node().hold_tasks(true);
    let mut first = bench
        .command(&["web", "--yes", "--no-install"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the clone", 60, || {
        assert!(first.try_wait().unwrap().is_none(), "it was never cloned");
        bench.sim.changes().iter().any(|change| change.contains("/clone"))
    });
    let seen = bench.seen(&bench.run(&["db", "--dry-run"]));
    assert!(seen.contains("✓ Node: prom (auto: most free memory: "), "{seen}");
    bench.sim.node().hold_tasks(false);
    bench.sim.node().release_all();
    assert!(first.wait().unwrap().success());
    assert!(b.config(120).is_some());
    // What it kept a place for is there now, and runs.
    let seen = bench.seen(&bench.run(&["db", "--dry-run"]));
    assert!(seen.contains("✓ Node: prom (auto: most free memory: "), "{seen}");
}

#[test]
fn without_a_shared_storage_only_the_templates_node_can_have_it() {
    let bench = Bench::new();
    let other = World {
        node: "b".to_owned(),
        address: "192.0.2.3".to_owned(),
        memory: 256 << 30,
        vms: vec![],
        containers: vec![],
        foreign: vec![],
        ..World::default()
    };
    let _b = bench.sim.join(other);
    bench.define(&[("web", 120)]);
    automatic(&bench.fleet, "web", "");
    let seen = bench.seen(&bench.run(&["web", "--dry-run"]));
    assert!(seen.contains("✓ Node: prom (auto: the only node that can have it; "), "{seen}");
    // Two that should be apart, where only one node can have them: it is said.
    bench.define(&[("db", 121)]);
    automatic(&bench.fleet, "db", "antiAffinity = \"edge\";");
    bench.fleet.edit("vms/definitions.nix", "web = { ", "web = { antiAffinity = \"edge\"; ");
    let seen = bench.seen(&bench.run(&["web", "db", "--dry-run"]));
    let words = "db: ⚠ it will be on node prom with web, which antiAffinity is to keep apart";
    assert!(
        seen.contains(words)
            || seen.contains(&words.replace("db", "x").replace("web", "db").replace('x', "web")),
        "{seen}"
    );
    // No node at all: of each is said why not.
    bench.fleet.edit(
        "vms/definitions.nix",
        "vmid = 120; cores = 1; memory = 2048",
        "vmid = 120; cores = 1; memory = 900000",
    );
    bench.fleet.commit("more than there is");
    let output = bench.run(&["web", "--yes"]);
    let seen = bench.seen(&output);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("no node can have 'web' (node = \"auto\")"), "{seen}");
    assert!(seen.contains("node b: template 9002 is on node prom"), "{seen}");
    assert!(seen.contains("MiB of its memory are free, the VM needs 900000"), "{seen}");
    assert!(bench.sim.changes().is_empty());
}
