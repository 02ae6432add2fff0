//! The node itself: version, storages, bridges, free VMIDs.

use std::collections::BTreeSet;

use fleet_core::{
    Error, Result, again,
    deadline::Deadline,
    definitions::Definitions,
    protocol::{NodeInfo, NodeRoom, Resource, Storage},
    types::{NodeName, StorageId, Vmid},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::encode::{self, percent, truth},
    cluster::Cluster,
    node::Node,
};

#[derive(Deserialize)]
struct Version {
    version: String,
}

/// The node's name and version.
pub fn info(node: &Node, deadline: Deadline) -> Result<NodeInfo> {
    let name = node.name(deadline)?.clone();
    let version: Version = node.api.get_as("ask the node's version", "/version", &[], deadline)?;
    Ok(NodeInfo { node: name, version: version.version })
}

/// The node's storages, by name.
pub fn storages(node: &Node, deadline: Deadline) -> Result<Vec<Storage>> {
    listed(node, &[], deadline)
}

/// Those that another node sees, too, with the same in them (the node's own word for a clone's target).
pub fn shared_with(node: &Node, target: &NodeName, deadline: Deadline) -> Result<Vec<Storage>> {
    listed(node, &[("target", target.as_str())], deadline)
}

fn listed(node: &Node, query: &[(&str, &str)], deadline: Deadline) -> Result<Vec<Storage>> {
    let path = format!("/nodes/{}/storage", percent(node.name(deadline)?.as_str()));
    let rows: Vec<Value> = node.api.get_as("list the storages", &path, query, deadline)?;
    let mut storages = rows.iter().map(storage).collect::<Result<Vec<Storage>>>()?;
    storages.sort_by(|a, b| a.storage.cmp(&b.storage));
    for storage in &mut storages {
        storage.node = Some(node.name(deadline)?.clone());
    }
    Ok(storages)
}

/// The storage of this name, if it takes this kind of content (`images`, `backup`) now; else the error names those
/// that do.
pub fn taking<'a>(storages: &'a [Storage], wanted: &StorageId, kind: &str) -> Result<&'a Storage> {
    let takes = |s: &Storage| s.content.iter().any(|content| content == kind);
    let fitting: Vec<&str> =
        storages.iter().filter(|s| s.active && takes(s)).map(|s| s.storage.as_str()).collect();
    let those =
        if fitting.is_empty() { "none does".to_owned() } else { format!("these do: {}", fitting.join(", ")) };
    let plural = if kind.ends_with('s') { kind.to_owned() } else { format!("{kind}s") };
    let error = match storages.iter().find(|s| s.storage == *wanted) {
        Some(there) if takes(there) && there.active => return Ok(there),
        Some(there) if takes(there) => Error::failed(format!("storage '{wanted}' is not active now")),
        Some(_) => Error::failed(format!("storage '{wanted}' takes no {plural} ({those})")),
        None => Error::not_found(format!("the node has no storage '{wanted}' for {plural} ({those})")),
    };
    let error =
        error.now("nothing was changed").hint(format!("`{}` lists the storages", again::ops("storage")));
    Err(if fitting.is_empty() {
        error.hint(format!("`pvesm set STORAGE --content …,{kind}` on the node lets a storage take {plural}"))
    } else {
        error
    })
}

/// The storages of all nodes: the base node's own answer, then what the cluster has heard of the others'.
pub fn all_storages(cluster: &Cluster, deadline: Deadline) -> Result<Vec<Storage>> {
    let base = cluster.base()?;
    let here = base.name(deadline)?.clone();
    let mut all = storages(&base, deadline)?;
    let rows: Vec<Value> =
        base.api.get_as("list the storages", "/cluster/resources", &[("type", "storage")], deadline)?;
    let mut others = Vec::new();
    for row in rows {
        let Some(node) = row.get("node").and_then(Value::as_str).filter(|node| *node != here.as_str()) else {
            continue;
        };
        others.push(heard(&row, node.parse()?)?);
    }
    others.sort_by(|a: &Storage, b| (&a.node, &a.storage).cmp(&(&b.node, &b.storage)));
    all.extend(others);
    Ok(all)
}

/// The nodes of the cluster by name, as it last heard of them; two requests, however many there are.
pub fn nodes(cluster: &Cluster, deadline: Deadline) -> Result<Vec<NodeRoom>> {
    let base = cluster.base()?;
    let list = |kind: &str| -> Result<Vec<Value>> {
        let what = format!("list the {kind}s of the cluster");
        base.api.get_as(&what, "/cluster/resources", &[("type", kind)], deadline)
    };
    rooms(&list("node")?, &list("storage")?)
}

fn rooms(nodes: &[Value], storages: &[Value]) -> Result<Vec<NodeRoom>> {
    let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut rooms = Vec::new();
    for row in nodes.iter().filter(|row| text(row, "type") == "node") {
        let name = text(row, "node");
        let node: NodeName = name.parse()?;
        let number = |key: &str| encode::whole(row.get(key));
        let own = storages.iter().filter(|row| text(row, "type") == "storage" && text(row, "node") == name);
        let mut storages = own.map(|row| heard(row, node.clone())).collect::<Result<Vec<Storage>>>()?;
        storages.sort_by(|a, b| a.storage.cmp(&b.storage));
        rooms.push(NodeRoom {
            online: text(row, "status") == "online",
            cpu: number("maxcpu"),
            maxmem: number("maxmem"),
            mem: number("mem"),
            node,
            storages,
        });
    }
    rooms.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(rooms)
}

/// A storage as the cluster's resources have it.
fn heard(row: &Value, node: NodeName) -> Result<Storage> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| encode::whole(row.get(key));
    let active = text("status") == "available";
    let mut content: Vec<String> =
        text("content").split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
    content.sort();
    let (total, used) = (number("maxdisk").filter(|_| active), number("disk").unwrap_or_default());
    Ok(Storage {
        storage: text("storage").parse()?,
        kind: text("plugintype").to_owned(),
        content,
        active,
        shared: truth(row.get("shared")),
        node: Some(node),
        available: total.map(|total| total.saturating_sub(used)),
        total,
    })
}

fn storage(row: &Value) -> Result<Storage> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    // Disabled storages lack most fields; `enabled` itself may be absent where it is true.
    let enabled = row.get("enabled").is_none() || truth(row.get("enabled"));
    let mut content: Vec<String> =
        text("content").split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
    content.sort();
    let number = |key: &str| encode::whole(row.get(key));
    let active = enabled && truth(row.get("active"));
    Ok(Storage {
        storage: text("storage").parse()?,
        kind: text("type").to_owned(),
        content,
        active,
        shared: truth(row.get("shared")),
        node: None,
        available: number("avail").filter(|_| active),
        total: number("total").filter(|_| active),
    })
}

/// The node's bridges, by name; Open vSwitch's and the software-defined network's too.
pub fn bridges(node: &Node, deadline: Deadline) -> Result<Vec<String>> {
    let path = format!("/nodes/{}/network", percent(node.name(deadline)?.as_str()));
    let rows: Vec<Value> = node.api.get_as("list the bridges", &path, &[("type", "any_bridge")], deadline)?;
    let mut names: Vec<String> =
        rows.iter().filter_map(|row| row.get("iface")?.as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

/// The lowest VMID from `start` to `end` that neither the definitions nor anything in the cluster has, and that no range
/// for something else has unless `start` is in one.
pub fn next_vmid(definitions: &Definitions, resources: &[Resource], start: Vmid, end: Vmid) -> Result<Vmid> {
    if start > end {
        return Err(
            Error::usage(format!("the range {start} to {end} is empty")).hint("give the lower VMID first")
        );
    }
    let taken: BTreeSet<Vmid> = resources.iter().map(|resource| resource.vmid).collect();
    definitions
        .suggest_vmid_between(start, end, &taken)
        .map_err(|error| error.hint(format!("give another range: {}", again::ops("next-vmid START END"))))
}

/// The range to look for a free VMID in: what was given, else the default one. A start beyond the default range
/// goes on to the end of its own range, or of its thousand.
pub fn range(definitions: &Definitions, start: Option<Vmid>, end: Option<Vmid>) -> Result<(Vmid, Vmid)> {
    let (start, last) = match start {
        None => definitions.range_for_vms().map(|(first, last)| (first, Some(last)))?,
        // Also where no VMID is for VMs: somebody may look for a container's.
        Some(start) => (start, definitions.range_for_vms().ok().map(|(_, last)| last)),
    };
    let end = match (end, last) {
        (Some(end), _) => end,
        (None, Some(last)) if start <= last && !definitions.is_reserved(start) => last,
        (None, _) => match definitions.vmid_ranges.iter().find(|r| r.start <= start && start <= r.end) {
            Some(range) => range.end,
            None => Vmid::new((start.get() / 1000 * 1000 + 999).min(999_999_999))?,
        },
    };
    if start > end {
        return Err(Error::usage(format!("the range {start} to {end} is empty"))
            .now("nothing was sent to the node")
            .hint("give the lower VMID first"));
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, definitions, node};
    use serde_json::json;

    fn fake() -> Fake {
        Fake::new().get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
    }

    #[test]
    fn storages_are_read_whatever_they_lack() {
        let fake = fake().get("/nodes/prom/storage", json!([
            {"storage": "nvmeprom", "type": "zfspool", "content": "images,rootdir", "active": 1, "enabled": 1, "shared": 0, "avail": 100, "total": 200},
            {"storage": "backup", "type": "nfs", "content": "backup", "active": 0, "enabled": 0, "avail": 0, "total": 0},
        ]));
        let list = storages(&node(&fake), Deadline::secs(5)).unwrap();
        assert_eq!((list[0].storage.as_str(), list[0].active, list[0].available), ("backup", false, None));
        assert_eq!((list[1].active, list[1].available, list[1].total), (true, Some(100), Some(200)));
        assert_eq!(list[1].content, ["images", "rootdir"]);
    }

    #[test]
    fn the_next_vmid_is_free_in_definitions_and_cluster() {
        let definitions = definitions();
        let resource = |vmid: u32| {
            serde_json::from_value::<Resource>(json!({"vmid": vmid, "type": "lxc", "node": "b"})).unwrap()
        };
        let taken: Vec<Resource> = [100, 101, 103].map(resource).into();
        let vmid = |n| Vmid::new(n).unwrap();
        assert_eq!(next_vmid(&definitions, &taken, vmid(100), vmid(119)).unwrap().get(), 102);
        // 104 is imported, 110 managed.
        assert_eq!(next_vmid(&definitions, &taken, vmid(103), vmid(119)).unwrap().get(), 105);
        assert_eq!(next_vmid(&definitions, &[], vmid(110), vmid(111)).unwrap().get(), 111);
        assert_eq!(
            next_vmid(&definitions, &taken, vmid(103), vmid(104)).unwrap_err().kind(),
            fleet_core::Kind::Conflict
        );
        assert_eq!(
            next_vmid(&definitions, &[], vmid(104), vmid(103)).unwrap_err().kind(),
            fleet_core::Kind::Usage
        );
        assert_eq!(range(&definitions, None, None).unwrap(), (vmid(100), vmid(119)));
    }
}
