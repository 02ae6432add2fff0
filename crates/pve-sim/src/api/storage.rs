//! `/storage` and `/nodes/NODE/storage`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Call, Fail, Reply};
use crate::{
    faults::Fault,
    node::{Data, Node},
    schema,
    world::StorageDef,
};

fn missing(name: &str) -> Fail {
    Fail::new(format!("storage '{name}' does not exist"))
}

/// A storage that takes VM images.
pub(super) fn for_images(data: &Data, name: &str) -> Reply<StorageDef> {
    let storage = data.storage(name).ok_or_else(|| missing(name))?;
    if storage.content.iter().any(|c| c == "images") {
        Ok(storage.clone())
    } else {
        Err(Fail::param("storage", format!("storage '{name}' does not support vm images")))
    }
}

/// Whether so much more fits.
pub(super) fn has_room(node: &Node, data: &Data, name: &str, bytes: u64) -> bool {
    let full = node.has_fault(|f| matches!(f, Fault::StorageFull { storage } if storage == name));
    let (total, used) = data.storage(name).map_or((0, 0), |s| data.room(s));
    !full && total.saturating_sub(used) >= bytes / 3
}

pub(super) fn definitions(node: &Node, call: &Call, rest: &[&str]) -> Reply<Value> {
    call.check(&[if rest.is_empty() { schema::DEFINITIONS } else { schema::NONE }])?;
    let one = |s: &StorageDef| {
        let mut value = json!({
            "storage": s.name, "type": s.kind, "path": s.path, "content": s.content.join(","),
            "digest": "0123456789abcdef0123456789abcdef01234567",
        });
        if s.content.iter().any(|c| c == "backup") {
            value["prune-backups"] = json!("keep-all=1");
        }
        value
    };
    node.read(|data| match rest {
        [] => Ok(data.storages.iter().map(one).collect()),
        [name] => data.storage(name).map(one).ok_or_else(|| missing(name)),
        _ => Err(call.not_implemented()),
    })
}

pub(super) fn answer(node: &Node, call: &Call, rest: &[&str]) -> Reply<Value> {
    match (call.method.as_str(), rest) {
        ("GET", []) => {
            call.check(&[schema::STORAGES])?;
            Ok(list(node, call))
        }
        ("GET", [name, "status"]) => {
            call.check(&[schema::NONE])?;
            node.read(|data| {
                let storage = data.storage(name).ok_or_else(|| Fail::param("storage", "No such storage."))?;
                let mut value = entry(node, data, storage);
                if let Some(map) = value.as_object_mut() {
                    map.remove("storage");
                    map.remove("used_fraction");
                }
                Ok(value)
            })
        }
        ("GET", [name, "content"]) => {
            call.check(&[schema::CONTENT])?;
            contents(node, call, name)
        }
        ("GET", [_, "content", volume]) => volume_info(node, volume),
        _ => Err(call.not_implemented()),
    }
}

fn entry(node: &Node, data: &Data, storage: &StorageDef) -> Value {
    let (total, mut used) = data.room(storage);
    if node.has_fault(|f| matches!(f, Fault::StorageFull { storage: s } if *s == storage.name)) {
        used = total;
    }
    #[allow(clippy::cast_precision_loss, reason = "a fraction for people")]
    let fraction = used as f64 / total.max(1) as f64;
    json!({
        "storage": storage.name, "type": storage.kind, "content": storage.content.join(","), "enabled": 1,
        "active": 1, "shared": u8::from(storage.shared), "total": total, "used": used, "avail": total - used,
        "used_fraction": fraction,
    })
}

fn list(node: &Node, call: &Call) -> Value {
    let content = call.params.get("content");
    let name = call.params.get("storage");
    // With a target only what both nodes see is listed.
    let target = call.params.get("target").filter(|target| *target != node.name());
    let there: Option<BTreeSet<String>> = target.map(|target| {
        let peer = node.peers.all().into_iter().find(|peer| peer.name() == target);
        peer.map_or_else(BTreeSet::new, |peer| {
            peer.read(|d| d.storages.iter().map(|s| s.name.clone()).collect())
        })
    });
    node.read(|data| {
        data.storages
            .iter()
            .filter(|s| name.is_none_or(|n| n == s.name))
            .filter(|s| there.as_ref().is_none_or(|there| s.shared && there.contains(&s.name)))
            .filter(|s| content.is_none_or(|c| c.split(',').any(|c| s.content.iter().any(|have| have == c))))
            .map(|s| entry(node, data, s))
            .collect()
    })
}

fn contents(node: &Node, call: &Call, name: &str) -> Reply<Value> {
    let content = call.params.get("content");
    let vmid = call.params.get("vmid").and_then(|v| v.parse::<u32>().ok());
    node.read(|data| {
        data.storage(name).ok_or_else(|| missing(name))?;
        let prefix = format!("{name}:");
        Ok(data
            .volumes
            .iter()
            .filter(|(id, _)| id.starts_with(&prefix))
            .filter(|(_, v)| content.is_none_or(|c| c == v.content))
            .filter(|(_, v)| vmid.is_none() || v.vmid == vmid)
            .map(|(id, v)| {
                let mut value = json!({
                    "volid": id, "content": v.content, "format": v.format, "size": v.size, "ctime": v.ctime,
                });
                if v.content == "backup" {
                    value["subtype"] = json!("qemu");
                    if let Some(vmid) = v.vmid {
                        value["vmid"] = json!(vmid);
                    }
                    if let Some(line) = data.backups.get(id).and_then(|b| b.notes.lines().next()) {
                        value["notes"] = json!(line);
                    }
                }
                if v.content == "images" {
                    value["vmid"] = json!(v.vmid);
                    value["used"] = json!(v.size / 3);
                    value["parent"] = json!(v.parent);
                }
                value
            })
            .collect())
    })
}

fn volume_info(node: &Node, volume: &str) -> Reply<Value> {
    let found = node.read(|data| {
        let v = data.volumes.get(volume)?;
        let (storage, rest) = volume.split_once(':')?;
        let path = &data.storage(storage)?.path;
        Some(json!({
            "format": v.format, "size": v.size, "used": v.size / 3, "path": format!("{path}/images/{rest}"),
        }))
    });
    found.ok_or_else(|| Fail::new(format!("volume_size_info on '{volume}' failed - no format")))
}
