//! `/nodes/NODE/qemu/VMID`: where a request about one VM goes, and how a VM looks in lists.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Call, Fail, Reply, agent, clone, config, disks, power, resize, snapshot, subdirs};
use crate::{
    conf::{self, VmConf},
    faults::Fault,
    node::{Data, Node},
    schema,
};

pub(super) async fn answer(node: &Arc<Node>, call: &Call, vmid: u32, rest: &[&str]) -> Reply<Value> {
    let exists = |vmid: u32| node.read(|d| d.vms.contains_key(&vmid));
    match (call.method.as_str(), rest) {
        ("GET", []) => need(node, vmid, exists(vmid)).map(|()| {
            subdirs(&[
                "config",
                "cloudinit",
                "pending",
                "status",
                "unlink",
                "resize",
                "move",
                "agent",
                "snapshot",
                "firewall",
            ])
        }),
        ("DELETE", []) => power::destroy(node, call, vmid),
        ("GET", ["config"]) => config::get(node, call, vmid),
        ("PUT", ["config"]) => config::put(node, call, vmid).await,
        ("POST", ["config"]) => config::post(node, call, vmid).await,
        ("GET", ["pending"]) => config::pending(node, call, vmid),
        ("GET", ["cloudinit"]) => config::cloudinit(node, call, vmid),
        ("PUT", ["cloudinit"]) => config::regenerate(node, call, vmid),
        ("GET", ["cloudinit", "dump"]) => config::dump(node, call, vmid),
        ("PUT", ["unlink"]) => disks::unlink(node, call, vmid),
        ("PUT", ["resize"]) => resize::resize(node, call, vmid),
        ("POST", ["clone"]) => clone::clone(node, call, vmid),
        ("POST", ["template"]) => disks::template(node, call, vmid),
        ("GET", ["feature"]) => {
            call.check(&[schema::FEATURE])?;
            let missing = || {
                Fail::new(format!(
                    "unable to find configuration file for VM {vmid} on node '{}'",
                    node.name()
                ))
            };
            let template = node.read(|d| d.vms.get(&vmid).map(VmConf::is_template)).ok_or_else(missing)?;
            Ok(json!({ "nodes": [node.name()], "hasFeature": u8::from(template) }))
        }
        ("GET", ["status"]) => need(node, vmid, exists(vmid))
            .map(|()| subdirs(&["current", "start", "stop", "reset", "shutdown", "suspend", "reboot"])),
        ("GET", ["status", "current"]) => {
            call.check(&[schema::NONE])?;
            need(node, vmid, exists(vmid))?;
            Ok(node.read(|data| current(node, data, vmid)))
        }
        ("POST", ["status", verb]) => power::change(node, call, vmid, verb),
        ("GET" | "POST" | "PUT" | "DELETE", ["snapshot", rest @ ..]) => {
            snapshot::answer(node, call, vmid, rest)
        }
        (_, ["agent", rest @ ..]) => agent::answer(node, call, vmid, rest).await,
        _ => Err(call.not_implemented()),
    }
}

pub(super) fn need(node: &Node, vmid: u32, there: bool) -> Reply<()> {
    if there { Ok(()) } else { Err(Fail::no_vm(node, vmid)) }
}

fn number(section: &conf::Section, key: &str, otherwise: u64) -> u64 {
    section.get(key).and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// Memory in bytes.
pub(super) fn memory(section: &conf::Section) -> u64 {
    let text = section.get("memory").map_or("512", String::as_str);
    conf::property(text, "current", "current").and_then(|v| v.parse::<u64>().ok()).unwrap_or(512) << 20
}

/// Cores times sockets.
pub(super) fn cpus(section: &conf::Section) -> u64 {
    number(section, "cores", 1) * number(section, "sockets", 1)
}

/// The size of the boot disk.
fn boot_disk(section: &conf::Section) -> u64 {
    let order = section.get("boot").and_then(|b| conf::property(b, "order", "legacy")).unwrap_or("scsi0");
    order
        .split(';')
        .filter(|slot| conf::is_drive(slot))
        .filter_map(|slot| section.get(slot))
        .filter(|drive| conf::property(drive, "media", "") != Some("cdrom"))
        .find_map(|drive| conf::property(drive, "size", "").and_then(conf::parse_size))
        .unwrap_or(0)
}

fn common(node: &Node, data: &Data, vmid: u32) -> Map<String, Value> {
    let Some(conf) = data.vms.get(&vmid) else { return Map::new() };
    let run = data.guests.get(&vmid).and_then(|g| g.running.as_ref());
    let section = &conf.main;
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    put("vmid", json!(vmid));
    if let Some(name) = section.get("name") {
        put("name", json!(name));
    }
    put("status", json!(if run.is_some() { "running" } else { "stopped" }));
    put("cpu", if run.is_some() { json!(0.011) } else { json!(0) });
    let mem = run.map_or(0, |_| memory(section) / 2);
    put("mem", json!(mem));
    put("memhost", json!(mem));
    put("maxmem", json!(memory(section)));
    put("disk", json!(0));
    put("maxdisk", json!(boot_disk(section)));
    put("netin", json!(run.map_or(0, |_| 4096)));
    put("netout", json!(run.map_or(0, |_| 4096)));
    put("uptime", json!(run.map_or(0, |r| r.uptime(crate::node::since_1970()))));
    if let Some(lock) = conf.lock() {
        put("lock", json!(lock));
    }
    if let Some(tags) = section.get("tags") {
        put("tags", json!(tags));
    }
    let _ = node;
    map
}

/// A VM in `GET /cluster/resources`.
pub(super) fn resource(node: &Node, data: &Data, vmid: u32) -> Value {
    let Some(conf) = data.vms.get(&vmid) else { return Value::Null };
    let mut map = common(node, data, vmid);
    map.insert("id".into(), json!(format!("qemu/{vmid}")));
    map.insert("type".into(), json!("qemu"));
    map.insert("node".into(), json!(node.name()));
    // What the node's statistics have not told the cluster yet.
    if node.has_fault(|f| *f == Fault::StatsLate { vmid }) {
        map.retain(|key, _| matches!(key.as_str(), "id" | "vmid" | "type" | "node" | "lock" | "tags"));
        map.insert("status".into(), json!("unknown"));
        return Value::Object(map);
    }
    map.insert("maxcpu".into(), json!(cpus(&conf.main)));
    map.insert("template".into(), json!(u8::from(conf.is_template())));
    map.insert("diskread".into(), json!(0));
    map.insert("diskwrite".into(), json!(0));
    Value::Object(map)
}

/// A VM in `GET /nodes/NODE/qemu`.
pub(super) fn list_entry(node: &Node, data: &Data, vmid: u32, full: bool) -> Value {
    let Some(conf) = data.vms.get(&vmid) else { return Value::Null };
    let running = data.is_running(vmid);
    let mut map = common(node, data, vmid);
    map.insert("cpus".into(), json!(cpus(&conf.main)));
    if conf.is_template() {
        map.insert("template".into(), json!(1));
    }
    if conf.main.contains_key("serial0") {
        map.insert("serial".into(), json!(1));
    }
    if running {
        let pid = data.guests.get(&vmid).map(|guest| guest.pid).filter(|pid| *pid > 0);
        map.insert("pid".into(), json!(pid.unwrap_or(4000 + vmid)));
        for key in [
            "pressurecpufull",
            "pressurecpusome",
            "pressureiofull",
            "pressureiosome",
            "pressurememoryfull",
            "pressurememorysome",
        ] {
            map.insert(key.into(), json!(0));
        }
    }
    if full {
        map.insert("qmpstatus".into(), json!(if running { "running" } else { "stopped" }));
        if running {
            let mut nics = Map::new();
            nics.insert(format!("tap{vmid}i0"), json!({ "netin": 4096, "netout": 4096 }));
            map.insert("nics".into(), Value::Object(nics));
        }
    }
    Value::Object(map)
}

/// `GET status/current`.
fn current(node: &Node, data: &Data, vmid: u32) -> Value {
    let mut value = list_entry(node, data, vmid, true);
    if let (Some(map), Some(conf)) = (value.as_object_mut(), data.vms.get(&vmid)) {
        map.insert(
            "ha".into(),
            match data.ha.get(&vmid) {
                Some(state) => json!({ "managed": 1, "state": state }),
                None => json!({ "managed": 0 }),
            },
        );
        if conf.main.contains_key("vga") {
            map.insert("clipboard".into(), Value::Null);
        }
        if agent::enabled(conf) {
            map.insert("agent".into(), json!(1));
        }
        if data.guests.get(&vmid).and_then(|g| g.running.as_ref()).is_some_and(|r| r.paused) {
            map.insert("qmpstatus".into(), json!("paused"));
        }
    }
    value
}
