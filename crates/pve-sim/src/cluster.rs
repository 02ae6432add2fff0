//! Several nodes of one cluster: each has its own daemon and its own SSH server, and they know each other.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use crate::{keys, node::Node};

/// The other nodes of a node's cluster that are simulated too.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Vec<Weak<Node>>>);

impl Peers {
    /// Those that still run.
    pub fn all(&self) -> Vec<Arc<Node>> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().filter_map(Weak::upgrade).collect()
    }

    fn add(&self, node: &Arc<Node>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(node));
    }
}

/// Makes two nodes members of one cluster.
pub fn join(a: &Arc<Node>, b: &Arc<Node>) {
    a.peers.add(b);
    b.peers.add(a);
}

/// The node of the cluster that has this address.
pub fn at_address(node: &Node, address: &str) -> Option<Arc<Node>> {
    node.peers.all().into_iter().find(|peer| peer.address() == address)
}

/// Whether another node has this VMID.
pub fn is_taken_elsewhere(node: &Node, vmid: u32) -> bool {
    node.peers.all().iter().any(|peer| peer.read(|d| d.is_taken(vmid)))
}

/// Moves a VM, its machine and its disks to another node, as an offline migration on shared storage does.
pub fn migrate(from: &Node, to: &Node, vmid: u32) {
    let moved = from.change(|d| {
        let volumes: Vec<_> = {
            let own: Vec<String> =
                d.volumes.iter().filter(|(_, v)| v.is_disk_of(vmid)).map(|(id, _)| id.clone()).collect();
            own.into_iter().filter_map(|id| d.volumes.remove(&id).map(|v| (id, v))).collect()
        };
        (d.vms.remove(&vmid), d.guests.remove(&vmid), volumes)
    });
    to.change(|d| {
        d.vms.extend(moved.0.map(|conf| (vmid, conf)));
        d.guests.extend(moved.1.map(|guest| (vmid, guest)));
        d.volumes.extend(moved.2);
    });
}

/// `/etc/pve/.members`.
pub fn members(node: &Node) -> String {
    let peers = node.peers.all();
    let mut list = serde_json::Map::new();
    let mut add = |name: &str, ip: &str| {
        let id = list.len() + 1;
        list.insert(name.to_owned(), json!({ "id": id, "online": 1, "ip": ip }));
    };
    add(node.name(), node.address());
    for peer in &peers {
        add(peer.name(), peer.address());
    }
    for (n, name) in node.other_nodes().iter().enumerate() {
        add(name, &format!("192.0.2.{}", n + 3));
    }
    let cluster = json!({ "name": "fleet", "version": 2, "nodes": list.len(), "quorate": 1 });
    json!({ "nodename": node.name(), "version": 4, "cluster": cluster, "nodelist": list }).to_string() + "\n"
}

/// The host key that the cluster keeps of one of its nodes, as `nodes/NODE/ssh_known_hosts` has it.
pub fn known_host(node: &Node, name: &str) -> Option<String> {
    let peers = node.peers.all();
    let of = if name == node.name() {
        node.host_key()
    } else {
        peers.iter().find(|p| p.name() == name)?.host_key()
    };
    let line = node.vouched_key(name).or_else(|| keys::public_line(of).ok())?;
    Some(if line.is_empty() { line } else { format!("{name} {line}\n") })
}

/// The rows of the other simulated nodes in `/cluster/status`.
pub fn status_rows(node: &Node, first_id: usize) -> Vec<Value> {
    let row = |(n, peer): (usize, Arc<Node>)| {
        json!({
            "type": "node", "id": format!("node/{}", peer.name()), "name": peer.name(), "nodeid": first_id + n,
            "online": 1, "local": 0, "level": "", "ip": peer.address(),
        })
    };
    node.peers.all().into_iter().enumerate().map(row).collect()
}
