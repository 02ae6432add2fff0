//! `/nodes` and `/nodes/NODE`, reading.

use serde_json::{Value, json};

use super::{Call, Fail, Reply, vm};
use crate::{node::Node, schema};

pub(super) fn version() -> Value {
    json!({ "version": "9.2.11", "release": "9.2", "repoid": "14a22df35955d97d" })
}

const GIB: u64 = 1 << 30;

/// A node as lists have it.
pub(super) fn entry(node: &Node) -> Value {
    json!({
        "id": format!("node/{}", node.name()), "type": "node", "node": node.name(), "status": "online",
        "level": "", "cpu": 0.02, "maxcpu": node.cpus(), "mem": 12 * GIB, "maxmem": node.memory(),
        "disk": 24 * GIB, "maxdisk": 250 * GIB, "uptime": node.uptime(),
        "ssl_fingerprint": (["00"; 32].join(":")),
    })
}

pub(super) fn list(node: &Node) -> Value {
    let mut list = vec![entry(node)];
    for name in node.other_nodes() {
        let mut other = entry(node);
        other["node"] = json!(name);
        other["id"] = json!(format!("node/{name}"));
        list.push(other);
    }
    Value::Array(list)
}

pub(super) fn get(node: &Node, call: &Call, rest: &[&str]) -> Reply<Value> {
    match rest {
        [] => {
            let names = ["lxc", "network", "qemu", "status", "storage", "tasks", "version"];
            Ok(names.iter().map(|name| json!({ "name": name })).collect())
        }
        ["version"] => call.check(&[schema::NONE]).map(|()| version()),
        ["status"] => call.check(&[schema::NONE]).map(|()| status(node)),
        ["time"] => {
            let now = crate::node::now();
            Ok(json!({ "timezone": "Etc/UTC", "time": now, "localtime": now }))
        }
        ["dns"] => Ok(json!({ "dns1": "192.0.2.1" })),
        ["network"] => {
            call.check(&[schema::NETWORK])?;
            let kind = call.params.get("type");
            let shown = kind.is_none_or(|k| matches!(k, "bridge" | "any_bridge" | "any_local_bridge"));
            Ok(if shown {
                let listed = node.read(|d| d.listed_bridges.clone());
                listed.iter().map(|name| bridge(node, name, true)).collect()
            } else {
                json!([])
            })
        }
        ["network", iface] => {
            if node.read(|d| d.listed_bridges.iter().any(|name| name == iface)) {
                Ok(bridge(node, iface, false))
            } else {
                Err(Fail::param("iface", "interface does not exist"))
            }
        }
        ["qemu"] => {
            call.check(&[schema::LIST])?;
            let full = call.params.flag("full");
            if !call.who.audits_vms() {
                return Ok(json!([]));
            }
            Ok(node
                .read(|data| data.vms.keys().map(|vmid| vm::list_entry(node, data, *vmid, full)).collect()))
        }
        ["lxc"] => Ok(node.read(|data| data.containers.iter().map(|c| c.list_entry()).collect())),
        _ => Err(call.not_implemented()),
    }
}

fn bridge(node: &Node, name: &str, with_name: bool) -> Value {
    let mut value = json!({
        "active": 1, "autostart": 1, "type": "bridge", "method": "static", "method6": "manual",
        "families": ["inet"], "address": node.address(), "netmask": "24", "cidr": format!("{}/24", node.address()),
        "bridge_ports": "", "bridge_stp": "off", "bridge_fd": "0", "priority": 3,
    });
    if with_name {
        value["iface"] = json!(name);
    }
    value
}

fn status(node: &Node) -> Value {
    let total = node.memory();
    let used = 12 * GIB;
    json!({
        "uptime": node.uptime(), "cpu": 0.02, "wait": 0, "idle": 0, "loadavg": ["0.10", "0.12", "0.09"],
        "pveversion": "pve-manager/9.2.11/14a22df35955d97d",
        "kversion": "Linux 6.17.2-1-pve #1 SMP PREEMPT_DYNAMIC",
        "current-kernel": {
            "machine": "x86_64", "sysname": "Linux", "release": "6.17.2-1-pve", "version": "#1 SMP PREEMPT_DYNAMIC",
        },
        "boot-info": { "mode": "legacy-bios" },
        "cpuinfo": {
            "cpus": node.cpus(), "cores": node.cpus() / 2, "sockets": 1, "model": "Simulated CPU", "hvm": "1",
            "mhz": "3000.000", "user_hz": 100, "vendor": "Simulated", "family": "6", "flags": "fpu sse sse2 ht",
        },
        "memory": { "total": total, "used": used, "free": total - used, "available": total - used },
        "swap": { "total": 0, "used": 0, "free": 0 },
        "rootfs": { "total": 250 * GIB, "used": 24 * GIB, "free": 226 * GIB, "avail": 226 * GIB },
        "ksm": { "shared": 0 },
    })
}
