use super::*;
use crate::plan::tests::{vm, world};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// A node of 64 GiB, with this much of it in use and this much free on its own `nvmeprom`.
fn room(name: &str, used: u64, disk: u64) -> NodeRoom {
    serde_json::from_value(json!({
        "node": name, "online": true, "cpu": 8, "maxmem": 64 * GIB, "mem": used * GIB,
        "storages": [
            {"storage": "nvmeprom", "type": "nfs", "content": ["images"], "active": true, "shared": true, "available": disk * GIB},
            {"storage": "local", "type": "dir", "content": ["iso"], "active": true, "shared": false},
        ],
    }))
    .unwrap()
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn chosen(rooms: &[NodeRoom], others: &Others<'_>) -> (String, String) {
    let placed = place(&vm(), world().template.as_ref(), rooms, others).unwrap();
    (placed.node.to_string(), placed.reason)
}

fn resource(vmid: u32, on: &str, status: &str, gib: u64) -> Resource {
    let value: Value =
        json!({"vmid": vmid, "type": "qemu", "node": on, "status": status, "maxmem": gib * GIB});
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_largest_free_part_of_the_memory_wins_then_room_then_the_name() {
    let none = Others::default();
    let (node, reason) = chosen(&[room("prom", 20, 500), room("b", 12, 100)], &none);
    assert_eq!((node.as_str(), reason.as_str()), ("b", "most free memory: 52 of 64 GiB"));
    // By its part: 30 of 32 GiB free is more than 52 of 64.
    let mut small = room("small", 2, 100);
    small.maxmem = Some(32 * GIB);
    assert_eq!(chosen(&[room("b", 12, 100), small], &none).0, "small");
    assert_eq!(chosen(&[room("prom", 12, 500), room("b", 12, 100)], &none).0, "prom");
    assert_eq!(chosen(&[room("prom", 12, 100), room("b", 12, 100)], &none).0, "b");
    assert_eq!(chosen(&[room("b", 12, 100)], &none).1, "the only node; free memory: 52 of 64 GiB");
}

#[test]
fn what_runs_may_take_all_that_it_is_configured_with() {
    let resources = [resource(1000, "b", "running", 40), resource(1001, "prom", "stopped", 60)];
    let others = Others { resources: &resources, ..Others::default() };
    assert_eq!(chosen(&[room("prom", 20, 100), room("b", 1, 100)], &others).0, "prom");
}

#[test]
fn vms_of_one_group_are_spread_before_memory_counts() {
    let rooms = [room("a", 40, 100), room("prom", 5, 100)];
    let avoided = [node("prom")];
    let (chosen_node, reason) = chosen(&rooms, &Others { avoided: &avoided, ..Others::default() });
    assert_eq!(
        (chosen_node.as_str(), reason.as_str()),
        ("a", "no VM there that it should avoid; free memory: 24 of 64 GiB")
    );
    let avoided = [node("prom"), node("a"), node("a")];
    let (chosen_node, reason) = chosen(&rooms, &Others { avoided: &avoided, ..Others::default() });
    assert_eq!(
        (chosen_node.as_str(), reason.as_str()),
        ("prom", "the fewest VMs there that it should avoid: 1; free memory: 59 of 64 GiB")
    );
}

#[test]
fn vms_of_one_run_count_each_other() {
    let mut large = vm();
    large.name = "large".parse().unwrap();
    (large.memory, large.disk) = (40 << 10, "90G".parse().unwrap());
    let planned = [(large, node("b"))];
    let others = Others { planned: &planned, ..Others::default() };
    let rooms = [room("prom", 20, 500), room("b", 12, 500)];
    assert_eq!(chosen(&rooms, &others).0, "prom");
    // A shared storage is one for all nodes, a local one is each node's own.
    let mut rooms = [room("prom", 20, 100), room("b", 12, 100)];
    let error = place(&vm(), None, &rooms, &others).unwrap_err();
    let full = "storage 'nvmeprom' has 10 GiB free, the disks need 20G";
    assert_eq!(error.facts(), [format!("node prom: {full}"), format!("node b: {full}")]);
    rooms.iter_mut().for_each(|room| room.storages[0].shared = false);
    let placed = place(&vm(), None, &rooms, &others).unwrap();
    assert_eq!(placed.node, node("prom"));
    assert!(placed.reason.starts_with("the only node that can have it; "), "{placed:?}");
}

#[test]
fn of_every_node_that_can_not_have_it_is_said_why() {
    let mut rooms: Vec<NodeRoom> =
        ["off", "mute", "none", "idle", "iso", "full"].iter().map(|name| room(name, 12, 100)).collect();
    rooms.push(room("busy", 63, 100));
    rooms.push(room("apart", 12, 100));
    rooms[0].online = false;
    rooms[1].maxmem = None;
    rooms[2].storages.clear();
    rooms[3].storages[0].active = false;
    rooms[4].storages[0].content = vec!["iso".into()];
    rooms[5].storages[0].available = Some(GIB);
    rooms[7].storages[0].shared = false;
    let mut template = world().template.unwrap();
    template.node = node("elsewhere");
    let error = place(&vm(), None, &rooms[..7], &Others::default()).unwrap_err();
    assert_eq!(error.message(), "no node can have 'test-automation' (node = \"auto\")");
    assert_eq!(
        error.facts(),
        [
            "node off: the cluster does not hear of it",
            "node mute: it does not tell its memory (a token needs Sys.Audit for that)",
            "node none: it has no storage 'nvmeprom'",
            "node idle: storage 'nvmeprom' is not active there",
            "node iso: storage 'nvmeprom' takes no disk images there",
            "node full: storage 'nvmeprom' has 1 GiB free, the disks need 20G",
            "node busy: 1024 MiB of its memory are free, the VM needs 4096",
        ]
    );
    let error = place(&vm(), Some(&template), &rooms[7..], &Others::default()).unwrap_err();
    assert_eq!(
        error.facts(),
        ["node apart: template 9002 is on node elsewhere, and the two do not share the storage 'nvmeprom'"]
    );
}
