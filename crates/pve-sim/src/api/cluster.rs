//! `/cluster` and `/access`.

use serde_json::{Value, json};

use super::{Call, Fail, Reply, no_vm, vm};
use crate::{cluster, node::Node, params::Params, schema};

pub(super) fn ticket(node: &Node, params: &Params) -> Reply<Value> {
    let user = params.get("username").unwrap_or_default();
    if user != "root@pam" || !node.ticket_is_valid(params.get("password").unwrap_or_default()) {
        return Err(Fail::http(401, "authentication failure"));
    }
    let (ticket, csrf) = node.mint_ticket();
    Ok(json!({ "username": user, "ticket": ticket, "CSRFPreventionToken": csrf, "cap": {} }))
}

pub(super) fn get(node: &Node, call: &Call, rest: &[&str]) -> Reply<Value> {
    match rest {
        ["resources"] => {
            call.check(&[schema::RESOURCES])?;
            Ok(resources(node, call))
        }
        ["nextid"] => {
            call.check(&[schema::NEXTID])?;
            next_id(node, call.params.get("vmid"))
        }
        ["status"] => {
            call.check(&[schema::NONE])?;
            Ok(status(node))
        }
        ["tasks"] => Ok(super::tasks::cluster(node)),
        ["options"] => Ok(json!({ "mac_prefix": "BC:24:11", "description": "" })),
        ["ha", "resources"] => Ok(json!([])),
        _ => Err(call.not_implemented()),
    }
}

fn next_id(node: &Node, wanted: Option<&str>) -> Reply<Value> {
    node.read(|data| {
        let taken = |vmid: u32| data.is_taken(vmid) || cluster::is_taken_elsewhere(node, vmid);
        if let Some(wanted) = wanted {
            let vmid: u32 = wanted.parse().map_err(|_| Fail::new(no_vm(node, 0)))?;
            if taken(vmid) {
                return Err(Fail::param("vmid", format!("VM {vmid} already exists")));
            }
            return Ok(json!(vmid.to_string()));
        }
        let free = (100..1_000_000).find(|vmid| !taken(*vmid)).unwrap_or(0);
        Ok(json!(free.to_string()))
    })
}

fn status(node: &Node) -> Value {
    let others = node.other_nodes();
    let peers = cluster::status_rows(node, others.len() + 2);
    let mut list = Vec::new();
    let members = others.len() + peers.len() + 1;
    if members > 1 {
        list.push(json!({
            "type": "cluster", "id": "cluster", "name": "fleet", "nodes": members, "quorate": 1, "version": 2,
        }));
    }
    let id = i32::from(members > 1);
    list.push(json!({
        "type": "node", "id": format!("node/{}", node.name()), "name": node.name(), "nodeid": id, "online": 1,
        "local": 1, "level": "", "ip": node.address(),
    }));
    for (n, name) in others.iter().enumerate() {
        list.push(json!({
            "type": "node", "id": format!("node/{name}"), "name": name, "nodeid": n + 2, "online": 1, "local": 0,
            "level": "", "ip": "192.0.2.3",
        }));
    }
    list.extend(peers);
    Value::Array(list)
}

fn resources(node: &Node, call: &Call) -> Value {
    let mut list = own_resources(node, call);
    for peer in node.peers.all() {
        list.extend(own_resources(&peer, call));
    }
    Value::Array(list)
}

fn own_resources(node: &Node, call: &Call) -> Vec<Value> {
    let kind = call.params.get("type");
    let mut list = Vec::new();
    if kind.is_none_or(|k| k == "vm") && call.who.audits_vms() {
        node.read(|data| {
            for vmid in data.vms.keys() {
                list.push(vm::resource(node, data, *vmid));
            }
            for container in &data.containers {
                list.push(container.resource());
            }
            for foreign in &data.foreign {
                list.push(foreign.resource());
            }
        });
    }
    if kind.is_none_or(|k| k == "node") {
        let mut entry = super::node::entry(node);
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("ssl_fingerprint");
            entry.insert("cgroup-mode".into(), json!(2));
        }
        list.push(entry);
    }
    if kind.is_none_or(|k| k == "storage") {
        node.read(|data| {
            for storage in &data.storages {
                let (total, used) = data.room(storage);
                list.push(json!({
                    "id": format!("storage/{}/{}", node.name(), storage.name), "type": "storage",
                    "storage": storage.name, "node": node.name(), "plugintype": storage.kind,
                    "content": storage.content.join(","), "shared": u8::from(storage.shared),
                    "status": "available", "maxdisk": total, "disk": used,
                }));
            }
        });
    }
    list
}
