//! Snapshots.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Fail, Reply, config, no_vm, power, vm::need};
use crate::{
    conf, guest, keys,
    node::{Node, now},
    params, schema, task,
};

pub(super) fn answer(node: &Arc<Node>, call: &Call, vmid: u32, rest: &[&str]) -> Reply<Value> {
    let there = node.read(|d| d.vms.contains_key(&vmid));
    match (call.method.as_str(), rest) {
        ("GET", []) => {
            call.check(&[schema::NONE])?;
            need(node, vmid, there)?;
            Ok(list(node, vmid))
        }
        ("POST", []) => {
            call.check(&[schema::SNAPSHOT])?;
            need(node, vmid, there)?;
            create(node, call, vmid)
        }
        (_, [name, ..]) => {
            if let Some(fault) = params::check_value("snapname", params::Kind::ConfigId, name) {
                return Err(Fail::param("snapname", fault));
            }
            one(node, call, vmid, name, &rest[1..])
        }
        _ => Err(call.not_implemented()),
    }
}

fn list(node: &Node, vmid: u32) -> Value {
    node.read(|d| {
        let Some(conf) = d.vms.get(&vmid) else { return Value::Null };
        let mut list: Vec<Value> = conf
            .snapshots
            .iter()
            .map(|(name, s)| {
                let mut entry = json!({
                    "name": name, "description": s.get("description").map_or("", String::as_str),
                    "snaptime": s.get("snaptime").and_then(|t| t.parse::<u64>().ok()).unwrap_or(0),
                    "vmstate": u8::from(s.contains_key("vmstate")),
                });
                for key in ["parent", "snapstate"] {
                    if let Some(value) = s.get(key) {
                        entry[key] = json!(value);
                    }
                }
                entry
            })
            .collect();
        let mut current = json!({
            "name": "current", "description": "You are here!", "digest": conf.digest(),
            "running": u8::from(d.is_running(vmid)),
        });
        if let Some(parent) = conf.get("parent") {
            current["parent"] = json!(parent);
        }
        list.push(current);
        Value::Array(list)
    })
}

fn create(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    let name = call.params.get("snapname").unwrap_or_default().to_owned();
    if matches!(name.as_str(), "current" | "pending") {
        return Err(Fail::new(format!("unable to use snapshot name '{name}' (reserved name)")));
    }
    let description = call.params.get("description").map(str::to_owned);
    let memory = call.params.flag("vmstate");
    let work = Arc::clone(node);
    Ok(json!(task::spawn(node, &call.who, "qmsnapshot", vmid, move |worker| async move {
        work.works(work.latency().task).await;
        let _held = work.lock_file(vmid, Some(&worker)).await?;
        let volume = work.change(|d| {
            let running = d.is_running(vmid);
            let conf = d.vms.get_mut(&vmid).ok_or_else(|| no_vm(&work, vmid))?;
            config::refuse_locked(conf, false).map_err(|f| f.text())?;
            if conf.is_template() {
                return Err("you can't take a snapshot if it's a template".to_owned());
            }
            let mut disks = conf
                .main
                .iter()
                .filter(|(k, v)| conf::is_drive(k) && conf::property(v, "media", "") != Some("cdrom"))
                .map(|(_, v)| v.split(',').next().unwrap_or_default())
                .peekable();
            if disks.peek().is_none() || disks.any(|volume| volume.ends_with(".raw")) {
                return Err("snapshot feature is not available".to_owned());
            }
            if conf.snapshots.contains_key(&name) {
                return Err(format!("snapshot name '{name}' already used"));
            }
            let mut section = conf.main.clone();
            section.remove("description");
            if let Some(text) = description {
                section.insert("description".to_owned(), text);
            }
            section.insert("snaptime".to_owned(), now().to_string());
            if memory && running {
                let state = state_volume(&section, vmid, &name);
                for (key, value) in [
                    ("runningcpu", "qemu64"),
                    ("runningmachine", "pc-i440fx-10.2+pve0"),
                    ("running-nets-host-mtu", "net0=1500"),
                    ("vmstate", state.as_str()),
                ] {
                    section.insert(key.to_owned(), value.to_owned());
                }
            }
            conf.snapshots.insert(name.clone(), section);
            conf.main.insert("parent".to_owned(), name);
            Ok(conf.get("scsi0").and_then(|v| v.split(',').next()).map(str::to_owned))
        })?;
        if let Some(volume) = volume {
            worker.say(format!("snapshotting 'drive-scsi0' ({volume})"));
        }
        Ok(())
    })))
}

/// Where a machine's memory is kept: beside its first disk.
fn state_volume(section: &conf::Section, vmid: u32, name: &str) -> String {
    let drive = section.iter().find(|(k, v)| conf::is_drive(k) && v.contains(':')).map(|(_, v)| v.as_str());
    let storage = drive.and_then(|d| d.split(':').next()).unwrap_or("local");
    format!("{storage}:{vmid}/vm-{vmid}-state-{name}.raw")
}

fn one(node: &Arc<Node>, call: &Call, vmid: u32, name: &str, rest: &[&str]) -> Reply<Value> {
    let missing = format!("snapshot '{name}' does not exist");
    let work = Arc::clone(node);
    let name = name.to_owned();
    match (call.method.as_str(), rest) {
        ("GET", []) => Ok(json!([{ "cmd": "rollback" }, { "cmd": "config" }])),
        ("GET", ["config"]) => node.read(|d| {
            let conf = d.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
            let section = conf.snapshots.get(&name).ok_or_else(|| Fail::new(missing.clone()))?;
            Ok(config::as_json(section, None))
        }),
        ("PUT", ["config"]) => call.check(&[schema::SNAPSHOT_CONFIG]).and_then(|()| {
            node.change(|d| {
                let conf = d.vms.get_mut(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
                let section = conf.snapshots.get_mut(&name).ok_or_else(|| Fail::new(missing.clone()))?;
                if let Some(text) = call.params.get("description") {
                    section.insert("description".to_owned(), text.to_owned());
                }
                Ok(Value::Null)
            })
        }),
        ("POST", ["rollback"]) => {
            call.check(&[schema::ROLLBACK])?;
            let asked = call.clone();
            Ok(json!(task::spawn(node, &call.who, "qmrollback", vmid, move |_| async move {
                work.works(work.latency().task).await;
                if !work.read(|d| d.vms.get(&vmid).is_some_and(|c| c.snapshots.contains_key(&name))) {
                    return Err(missing);
                }
                guest::power_off(&work, vmid);
                let memory = work.change(|d| {
                    let conf = d.vms.get_mut(&vmid).ok_or_else(|| no_vm(&work, vmid))?;
                    let mut section = conf.snapshots.get(&name).cloned().ok_or(missing)?;
                    let memory = section.contains_key("vmstate");
                    for key in
                        ["snaptime", "vmstate", "runningcpu", "runningmachine", "running-nets-host-mtu"]
                    {
                        section.remove(key);
                    }
                    section.insert("vmgenid".to_owned(), keys::uuid());
                    section.insert("parent".to_owned(), name);
                    // The description is the machine's, not the snapshot's; so are disks that nothing uses.
                    section.remove("description");
                    let kept =
                        conf.main.iter().filter(|(k, _)| *k == "description" || k.starts_with("unused"));
                    section.extend(kept.map(|(k, v)| (k.clone(), v.clone())));
                    conf.main = section;
                    Ok::<bool, String>(memory)
                })?;
                if memory {
                    // It goes on from there.
                    work.works(work.latency().start).await;
                    guest::power_on(&work, vmid)?;
                } else if asked.params.flag("start") {
                    power::start_after(&work, &asked, vmid);
                }
                Ok(())
            })))
        }
        ("DELETE", []) => {
            call.check(&[schema::DELETE_SNAPSHOT])?;
            Ok(json!(task::spawn(node, &call.who, "qmdelsnapshot", vmid, move |_| async move {
                work.works(work.latency().task).await;
                work.change(|d| {
                    let conf = d.vms.get_mut(&vmid).ok_or_else(|| no_vm(&work, vmid))?;
                    let gone = conf.snapshots.remove(&name).ok_or(missing)?;
                    for section in std::iter::once(&mut conf.main).chain(conf.snapshots.values_mut()) {
                        if section.get("parent") == Some(&name) {
                            section.remove("parent");
                            if let Some(parent) = gone.get("parent") {
                                section.insert("parent".to_owned(), parent.clone());
                            }
                        }
                    }
                    Ok::<(), String>(())
                })
            })))
        }
        _ => Err(call.not_implemented()),
    }
}
