//! A VM's settings: reading them, changing them at once (`PUT`) or in a task (`POST`).

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use fleet_core::authorized_keys::AuthorizedKey;

use super::{Call, Fail, Reply, change, storage, vm::need};
use crate::{
    conf::{self, Section, VmConf},
    node::Node,
    params::{self, Kind, Param},
    schema, task,
};

/// A setting as the API gives it: numbers where the schema says integer or boolean.
fn typed(key: &str, value: &str) -> Value {
    if key == "cipassword" {
        return json!("**********");
    }
    match params::find(&[schema::CONFIG], key).map(|s| s.kind) {
        Some(Kind::Int(..) | Kind::Bool) => value.parse::<i64>().map_or_else(|_| json!(value), |n| json!(n)),
        _ if key == "snaptime" => value.parse::<i64>().map_or_else(|_| json!(value), |n| json!(n)),
        _ => json!(value),
    }
}

/// A section as `GET config` gives it.
pub(super) fn as_json(section: &Section, digest: Option<&str>) -> Value {
    let mut map: Map<String, Value> = section.iter().map(|(k, v)| (k.clone(), typed(k, v))).collect();
    if let Some(digest) = digest {
        map.insert("digest".to_owned(), json!(digest));
    }
    Value::Object(map)
}

pub(super) fn get(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::GET_CONFIG])?;
    node.read(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        let digest = conf.digest();
        if let Some(name) = call.params.get("snapshot") {
            let section = conf
                .snapshots
                .get(name)
                .ok_or_else(|| Fail::new(format!("snapshot '{name}' does not exist")))?;
            return Ok(as_json(section, Some(&digest)));
        }
        let section = if call.params.flag("current") { conf.main.clone() } else { conf.with_pending() };
        Ok(as_json(&section, Some(&digest)))
    })
}

pub(super) fn pending(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::NONE])?;
    node.read(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        let mut list: Vec<Value> = conf
            .main
            .iter()
            .map(|(key, value)| {
                let mut entry = json!({ "key": key, "value": typed(key, value) });
                if let Some(new) = conf.pending.get(key) {
                    entry["pending"] = typed(key, new);
                }
                if conf.pending.get("delete").is_some_and(|d| d.split(',').any(|k| k == key)) {
                    entry["delete"] = json!(1);
                }
                entry
            })
            .collect();
        for (key, value) in conf.pending.iter().filter(|(k, _)| *k != "delete" && !conf.main.contains_key(*k))
        {
            list.push(json!({ "key": key, "pending": typed(key, value) }));
        }
        list.push(json!({ "key": "digest", "value": conf.digest() }));
        Ok(Value::Array(list))
    })
}

pub(super) const CLOUD_INIT: &[&str] =
    &["ciuser", "cipassword", "sshkeys", "nameserver", "searchdomain", "ciupgrade"];

pub(super) fn cloudinit(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::NONE])?;
    node.read(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        let wanted = |k: &str| CLOUD_INIT.contains(&k) || k.starts_with("ipconfig");
        Ok(conf
            .main
            .iter()
            .filter(|(k, _)| wanted(k) && cloudinit_drive(conf).is_some())
            .map(|(k, v)| {
                let mut entry = json!({ "key": k, "value": conf.cloudinit.get(k).unwrap_or(v) });
                if conf.cloudinit.contains_key(k) {
                    entry["pending"] = json!(v);
                }
                entry
            })
            .collect())
    })
}

pub(super) fn regenerate(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::NONE])?;
    node.change(|data| {
        let conf = data.vms.get_mut(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        refuse_locked(conf, false)?;
        conf.cloudinit.clear();
        Ok(Value::Null)
    })
}

pub(super) fn dump(node: &Node, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::DUMP])?;
    node.read(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        let name = conf.get("name").map_or_else(|| format!("VM{vmid}"), str::to_owned);
        let text = match call.params.get("type") {
            Some("network") => "version: 1\nconfig:\n    - type: physical\n      name: eth0\n".to_owned(),
            Some("meta") => format!("instance-id: {}\n", crate::guest::instance_id(conf)),
            _ => format!("#cloud-config\nhostname: {name}\nmanage_etc_hosts: true\nfqdn: {name}\n"),
        };
        Ok(json!(text))
    })
}

/// The slot of the cloud-init drive.
pub(crate) fn cloudinit_drive(conf: &VmConf) -> Option<&str> {
    conf.main
        .iter()
        .find(|(k, v)| conf::is_drive(k) && v.split(',').next().is_some_and(|f| f.contains("-cloudinit")))
        .map(|(k, _)| k.as_str())
}

pub(super) fn refuse_locked(conf: &VmConf, skip: bool) -> Reply<()> {
    match conf.lock() {
        Some(lock) if !skip => Err(Fail::new(format!("VM is locked ({lock})"))),
        _ => Ok(()),
    }
}

/// A change of settings, checked.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) set: Vec<(String, String)>,
    pub(super) delete: Vec<String>,
    pub(super) revert: Vec<String>,
    pub(super) force: bool,
}

pub(super) fn names(text: &str) -> Vec<String> {
    text.split([',', ';', ' ']).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

fn check(node: &Node, call: &Call, vmid: u32) -> Reply<Change> {
    let p = &call.params;
    let control = ["delete", "revert", "digest", "skiplock", "force", "background_delay"];
    let mut change = Change {
        set: Vec::new(),
        delete: names(p.get("delete").unwrap_or_default()),
        revert: names(p.get("revert").unwrap_or_default()),
        force: p.flag("force"),
    };
    for (key, value) in &p.0 {
        if let (false, Param::One(value)) = (control.contains(&key.as_str()), value) {
            change.set.push((key.clone(), value.clone()));
        }
    }
    for (list, name) in [(&change.delete, "delete"), (&change.revert, "revert")] {
        for option in list {
            if params::find(&[schema::CONFIG], option).is_none() {
                return Err(Fail::param(name, format!("unknown option '{option}'")));
            }
            if change.set.iter().any(|(key, _)| key == option) {
                return Err(Fail::param(
                    name,
                    format!("you can't use '-{option}' and -{name} {option}' at the same time"),
                ));
            }
        }
    }
    if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
        return Err(Fail::new("no options specified"));
    }
    let exists = node.read(|data| data.vms.contains_key(&vmid));
    need(node, vmid, exists)?;
    check_values(node, &change)?;
    node.read(|data| {
        let conf = data.vms.get(&vmid).ok_or_else(|| Fail::no_vm(node, vmid))?;
        if p.get("digest").is_some_and(|d| !d.is_empty() && d != conf.digest()) {
            return Err(Fail::new("checksum mismatch (file change by other user?)"));
        }
        let unlocking = p.flag("skiplock");
        refuse_locked(conf, unlocking)?;
        let asked = |key: &str| change.set.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let memory =
            asked("memory").or(conf.get("memory")).and_then(|m| conf::property(m, "current", "current"));
        let memory: u64 = memory.and_then(|m| m.parse().ok()).unwrap_or(512);
        if asked("balloon").and_then(|b| b.parse::<u64>().ok()).is_some_and(|balloon| balloon > memory) {
            return Err(Fail::new("balloon value too large (must be smaller than assigned memory)"));
        }
        if conf.get("protection") == Some("1")
            && let Some(drive) = change.delete.iter().find(|d| conf::is_drive(d))
        {
            return Err(Fail::new(format!("can't remove drive '{drive}' - protection mode enabled")));
        }
        Ok(())
    })?;
    Ok(change)
}

fn check_values(node: &Node, change: &Change) -> Reply<()> {
    for (key, value) in &change.set {
        if key == "sshkeys" && !value.is_empty() && !ssh_keys_parse(value) {
            return Err(Fail::new("SSH public key validation error"));
        }
        if conf::is_drive(key) {
            check_drive(node, key, value)?;
        }
        if key == "hookscript" && !node.read(|d| d.volumes.contains_key(value)) {
            return Err(Fail::param(key, format!("script '{value}' does not exist\n")));
        }
    }
    Ok(())
}

fn ssh_keys_parse(encoded: &str) -> bool {
    let text = percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned();
    text.lines().map(|line| line.trim_end_matches('\r')).all(|line| line.parse::<AuthorizedKey>().is_ok())
}

fn check_drive(node: &Node, key: &str, value: &str) -> Reply<()> {
    let file = conf::property(value, "file", "file").unwrap_or_default();
    if matches!(file, "none" | "cdrom") {
        return Ok(());
    }
    let Some((name, volume)) = file.split_once(':') else { return Ok(()) };
    let importing = conf::property(value, "import-from", "").is_some();
    if importing && volume != "0" {
        return Err(Fail::param(
            key,
            "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>",
        ));
    }
    node.read(|data| {
        if volume == "cloudinit" {
            return data
                .storage(name)
                .map(drop)
                .ok_or_else(|| Fail::new(format!("storage '{name}' does not exist")));
        }
        storage::for_images(data, name)?;
        let known = volume.contains('/') || volume.parse::<f64>().is_ok_and(|gib| gib >= 0.0);
        if known {
            Ok(())
        } else {
            Err(Fail::new(format!("unable to parse directory volume name '{volume}'")))
        }
    })
}

pub(super) async fn put(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::CONFIG, schema::CHANGE])?;
    let change = check(node, call, vmid)?;
    let _held = node.lock_file(vmid, None).await.map_err(Fail::new)?;
    change::apply(node, vmid, &change, &mut |_| ())?;
    Ok(Value::Null)
}

pub(super) async fn post(node: &Arc<Node>, call: &Call, vmid: u32) -> Reply<Value> {
    call.check(&[schema::CONFIG, schema::CHANGE, schema::CHANGE_TASK])?;
    let change = check(node, call, vmid)?;
    let delay = call.params.get("background_delay").and_then(|d| d.parse::<u64>().ok());
    let work_node = Arc::clone(node);
    let upid = task::spawn(node, &call.who, "qmconfig", vmid, move |worker| async move {
        worker.say(describe(vmid, &change));
        work_node.works(work_node.latency().task).await;
        let _held = work_node.lock_file(vmid, Some(&worker)).await?;
        let mut lines = Vec::new();
        let outcome = change::apply(&work_node, vmid, &change, &mut |line| lines.push(line));
        for line in lines {
            worker.say(line);
        }
        outcome.map_err(|f| f.text())
    });
    if let Some(delay) = delay {
        match task::wait(node, &upid, Duration::from_secs(delay)).await.as_deref() {
            None => {}
            Some(exit) if exit == "OK" || exit.starts_with("WARNINGS") => return Ok(Value::Null),
            Some(exit) => return Err(Fail::new(format!("failed to update VM {vmid}: {exit}"))),
        }
    }
    Ok(json!(upid))
}

/// The first line of a task's log: the settings in alphabetical order.
fn describe(vmid: u32, change: &Change) -> String {
    let mut words: Vec<(String, String)> = change
        .set
        .iter()
        .map(|(k, v)| (k.clone(), if k == "cipassword" { "<hidden>".to_owned() } else { v.clone() }))
        .collect();
    if !change.delete.is_empty() {
        words.push(("delete".to_owned(), change.delete.join(",")));
    }
    words.sort();
    let words: Vec<String> = words.iter().map(|(k, v)| format!("-{k} {v}")).collect();
    format!("update VM {vmid}: {}", words.join(" "))
}
