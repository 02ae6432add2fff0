//! `proxmox-ops` against a cluster of two nodes: what is asked of a VM goes to the node that has it.
#![allow(clippy::unwrap_used, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, second};
use pve_sim::{
    cluster,
    faults::Fault,
    keys,
    log::What,
    testing::Sim,
    world::{StorageDef, World},
};

/// Two nodes; the second at an address that only the first one reaches.
fn two() -> (Bench, Sim) {
    let bench = Bench::new();
    let b = bench.sim.join(second("192.0.2.3"));
    (bench, b)
}

fn connections(sim: &Sim) -> usize {
    sim.requests().iter().filter(|r| matches!(r.what, What::Connect { .. })).count()
}

#[test]
fn every_verb_reaches_a_vm_of_another_node() {
    let (bench, b) = two();
    assert_eq!(bench.ok(&["status", "110"]), "stopped\n");
    assert!(bench.ok(&["status", "test-automation", "--json"]).contains("\"node\":\"b\""));
    assert!(bench.ok(&["config", "110"]).contains("cores: 1"));
    bench.ok(&["configure", "110", "2", "2048"]);
    assert_eq!(b.config(110).unwrap().main["cores"], "2");
    bench.ok(&["resize", "110", "scsi0", "5G"]);
    bench.ok(&["cloudinit-drive", "110"]);
    bench.ok(&["cloudinit-config", "110", common::KEY]);
    bench.ok(&["snapshot", "110", "before"]);
    assert!(bench.ok(&["snapshots", "110"]).contains("before"));
    bench.ok(&["rollback", "110", "before", "--yes"]);
    bench.ok(&["delete-snapshot", "110", "before"]);
    bench.ok(&["create-disk", "110", "1G"]);
    bench.ok(&["start", "110"]);
    assert_eq!(bench.ok(&["status", "110"]), "running\n");
    let address = bench.ok(&["get-ip", "110", "--timeout", "20"]);
    assert_eq!(address.trim_end(), b.guest(110).unwrap().1);
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    assert_eq!(bench.ok(&["exec", "110", "--", "true"]), "");
    let ran = bench.finish(bench.command(&["connect", "110"]).write_stdin("SSH-2.0-test\r\n"));
    assert!(ran.out.starts_with("SSH-2.0-"), "{ran:?}");
    bench.ok(&["reboot", "110"]);
    bench.ok(&["host-key", "110", "--timeout", "20"]);
    bench.ok(&["shutdown", "110"]);
    bench.ok(&["start", "110"]);
    bench.ok(&["stop", "110"]);
    // Made by hand, so only a human could confirm.
    assert_eq!(bench.run(&["destroy", "110", "yes"]).code, 3);
    b.edit(110, |conf| {
        let marker =
            format!("fleet-vm: name=test-automation vmid=110 nonce={}", "0123456789abcdef".repeat(2));
        conf.main.insert("description".into(), marker);
    });
    bench.ok(&["destroy", "110", "yes"]);
    assert!(b.config(110).is_none());
    assert_eq!(bench.run(&["status", "110"]).code, 5);
    assert!(
        bench.sim.changes().is_empty(),
        "the first node was asked to change nothing: {:?}",
        bench.sim.changes()
    );
}

#[test]
fn the_cluster_is_seen_as_one() {
    let (bench, _b) = two();
    let list = bench.ok(&["list"]);
    assert!(list.contains("test-automation") && list.contains("doc1"), "{list}");
    assert_eq!(bench.ok(&["next-vmid", "109", "120"]), "111\n");
    let storages = bench.ok(&["storage"]);
    assert!(storages.lines().any(|l| l.contains("nvmeprom") && l.contains(" b ")), "{storages}");
    let taken = bench.run(&["clone", "9002", "110", "test-automation"]);
    assert_eq!(taken.code, 4, "{}", taken.err);
    assert!(taken.err.contains("on the node 'b'"), "{}", taken.err);
}

#[test]
fn a_host_key_of_another_node_is_proven_or_refused() {
    let (bench, b) = two();
    let stranger = keys::public_line(&keys::generate("x").unwrap()).unwrap();
    bench.sim.node().vouch_wrongly("b", &stranger);
    let ran = bench.run(&["start", "110"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("the host key of b has changed"), "{}", ran.err);
    assert!(ran.err.contains("/etc/pve/nodes/b/ssh_known_hosts"), "{}", ran.err);
    assert!(b.changes().is_empty());
    // The user's own record comes first.
    let known = std::fs::read_to_string(bench.sim.known_hosts()).unwrap();
    std::fs::write(bench.sim.known_hosts(), format!("{known}192.0.2.3 {}\n", b.host_key())).unwrap();
    bench.ok(&["start", "110"]);
    std::fs::write(bench.sim.known_hosts(), format!("{known}192.0.2.3 {stranger}\n")).unwrap();
    assert_eq!(bench.run(&["stop", "110"]).code, 6);
    // Known to nobody: said how to add it, and not added.
    std::fs::write(bench.sim.known_hosts(), &known).unwrap();
    bench.sim.node().vouch_wrongly("b", "");
    let ran = bench.run(&["stop", "110"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("is not known"), "{}", ran.err);
    assert!(bench.sim.is_running(104) && b.is_running(110));
}

#[test]
fn a_node_is_reached_straight_where_that_works() {
    let bench = Bench::new();
    let b = bench.sim.join(second("127.0.0.2"));
    let ran = bench.finish(bench.command(&["start", "110"]).env("FLEET_ROUTE", "auto"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(b.is_running(110));
    let forwarded = bench.sim.requests().iter().any(|r| matches!(&r.what, What::Open { port: 22, .. }));
    assert!(!forwarded && connections(&b) == 1);
    // Where it does not, through the first node.
    drop(b);
    let bench = Bench::new();
    let b = bench.sim.join(second("127.0.0.2"));
    let ran = bench.finish(bench.command(&["start", "110"]).env("FLEET_ROUTE", "node"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(b.is_running(110));
}

#[test]
fn the_definitions_may_name_any_node_of_the_cluster() {
    let (bench, b) = two();
    let ran = bench.finish(bench.command(&["storage", "--json"]).env("PROXMOX_NODE", "b"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(rows[0]["node"], "b");
    let ran = bench.finish(bench.command(&["start", "110"]).env("PROXMOX_NODE", "b"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(b.is_running(110));
    let ran = bench.finish(bench.command(&["storage"]).env("PROXMOX_NODE", "nowhere"));
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("its nodes are: b, prom"), "{}", ran.err);
}

#[test]
fn a_clone_is_made_where_its_template_is() {
    // Nothing is shared: the clone can not go to another node, and nothing is tried.
    let bench = Bench::with(World::default().without_vm(9002));
    let template = World::default().vms.into_iter().find(|vm| vm.vmid == 9002).unwrap();
    let mut world = second("192.0.2.3").without_vm(110);
    world.vms.push(template);
    let b = bench.sim.join(world.clone());
    let clone = |node: &str| {
        bench.finish(bench.command(&["clone", "9002", "110", "test-automation"]).env("PROXMOX_NODE", node))
    };
    let ran = clone("prom");
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("they do not both see nvmeprom"), "{}", ran.err);
    assert!(b.changes().is_empty() && bench.sim.changes().is_empty());
    let ran = clone("b");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(b.config(110).is_some());
    drop(b);
    // Shared: the VM ends up where it shall be.
    let shared = |world: &World| {
        let mut world = world.clone();
        world.storages.iter_mut().for_each(|storage| storage.shared = storage.name == "nvmeprom");
        world
    };
    let bench = Bench::with(shared(&World::default().without_vm(9002)));
    let b = bench.sim.join(shared(&world));
    bench.ok(&["clone", "9002", "110", "test-automation", "--node", "prom"]);
    assert!(bench.sim.config(110).is_some() && b.config(110).is_none());
    assert_eq!(b.changes(), ["POST /nodes/b/qemu/9002/clone"]);
}

/// A storage may be shared by some of the nodes: a linked clone has its template's disks, wherever it is.
#[test]
fn a_clone_goes_to_no_node_that_does_not_see_its_disks() {
    let template = World::default().vms.into_iter().find(|vm| vm.vmid == 9002).unwrap();
    let shared = |world: &World, without: &str| {
        let mut world = world.clone();
        let nas =
            StorageDef { name: "nas".to_owned(), path: "/mnt/nas".to_owned(), ..world.storages[0].clone() };
        world.storages.push(nas);
        world.storages.retain(|storage| storage.name != without);
        world.storages.iter_mut().for_each(|storage| storage.shared = true);
        world
    };
    let here = World::default().without_vm(9002);
    let mut there = second("192.0.2.3").without_vm(110);
    there.vms.push(template);
    let to_prom = |bench: &Bench, more: &[&str]| {
        bench.run(&[&["clone", "9002", "110", "test-automation", "--node", "prom"], more].concat())
    };
    let bench = Bench::with(shared(&here, "nvmeprom"));
    let b = bench.sim.join(shared(&there, "none"));
    for more in [&["--linked"][..], &["nvmeprom"]] {
        let ran = to_prom(&bench, more);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains("they do not both see nvmeprom"), "{}", ran.err);
    }
    assert!(b.changes().is_empty() && bench.sim.changes().is_empty());
    // A copy has its disks elsewhere.
    let ran = to_prom(&bench, &["nas"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(bench.sim.config(110).is_some_and(|c| c.get("scsi0").is_some_and(|d| d.starts_with("nas:"))));
    // And the other way round.
    drop(b);
    let bench = Bench::with(shared(&here, "nas"));
    let _b = bench.sim.join(shared(&there, "none"));
    assert_eq!(to_prom(&bench, &["nas"]).code, 1);
    assert_eq!(to_prom(&bench, &["--linked"]).code, 0);
}

#[test]
fn a_vm_that_moves_is_found_again() {
    let (bench, b) = two();
    cluster::migrate(b.node(), bench.sim.node(), 110);
    bench.ok(&["start", "110"]);
    assert!(bench.sim.is_running(110));
}

#[test]
fn a_node_that_is_down_is_told_and_status_says_what_was_heard() {
    let (bench, b) = two();
    b.inject(Fault::LoginRefused);
    let ran = bench.run(&["start", "110"]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("VM 110 is on the node 'b'"), "{}", ran.err);
    let ran = bench.run(&["status", "110"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "stopped\n"), "{}", ran.err);
    assert!(ran.err.contains("last heard"), "{}", ran.err);
}

#[test]
fn another_nodes_vm_is_reached_where_forwarding_is_forbidden() {
    let (bench, b) = two();
    bench.sim.inject(Fault::ForwardingForbidden);
    let ran = bench.run(&["start", "110"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(b.is_running(110));
}

#[test]
fn the_session_tells_what_each_node_has_room_for() {
    let bench = Bench::new();
    let _b = bench.sim.join(World { memory: 128 << 30, ..second("192.0.2.3") });
    let asked =
        bench.finish(bench.command(&["session"]).write_stdin("{\"v\":1,\"id\":1,\"op\":\"nodes\"}\n"));
    assert_eq!(asked.code, 0, "{}", asked.err);
    let reply: serde_json::Value = serde_json::from_str(asked.out.trim()).unwrap();
    let rooms: Vec<fleet_core::protocol::NodeRoom> = serde_json::from_value(reply["ok"].clone()).unwrap();
    let told: Vec<_> =
        rooms.iter().map(|room| (room.node.as_str(), room.online, room.maxmem.unwrap() >> 30)).collect();
    assert_eq!(told, [("b", true, 128), ("prom", true, 64)]);
    assert!(rooms.iter().all(|room| room.mem.is_some() && room.cpu.is_some()));
    let names = |at: usize| rooms[at].storages.iter().map(|s| s.storage.as_str()).collect::<Vec<_>>();
    assert!(names(0).contains(&"nvmeprom") && !names(0).contains(&"local"), "{rooms:?}");
    assert!(names(1).contains(&"local"), "{rooms:?}");
    assert_eq!(bench.sim.calls().iter().filter(|call| call.contains("/cluster/resources")).count(), 2);
}
