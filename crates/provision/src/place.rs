//! Which node a VM with `node = "auto"` is made on: pure, from what the cluster says of its nodes.

mod run;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use fleet_core::{
    Error, Result,
    definitions::ManagedVm,
    protocol::{NodeRoom, Resource, VmConfig},
    types::{DiskSize, NodeName, StorageId},
};

pub use self::run::Places;
use serde::Serialize;

use crate::settings;

/// The node that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Its name.
    pub node: NodeName,
    /// Why this one, in words.
    pub reason: String,
}

impl std::fmt::Display for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (auto: {})", self.node, self.reason)
    }
}

/// What else stands, or is going to stand, on the nodes.
#[derive(Debug, Default)]
pub struct Others<'a> {
    /// Every VM and container that exists.
    pub resources: &'a [Resource],
    /// VMs that this run makes, with their nodes.
    pub planned: &'a [(ManagedVm, NodeName)],
    /// The nodes of the VMs that it should not share one with: a node once for each.
    pub avoided: &'a [NodeName],
}

/// How many bytes the VM's disks may take on each storage. A linked clone's boot disk holds only what it changes;
/// the disk of a template (`template` is its size) that is larger than defined keeps its size.
pub fn needs(vm: &ManagedVm, template: Option<DiskSize>) -> BTreeMap<&StorageId, u64> {
    let boot = if vm.linked_clone { 0 } else { template.map_or(vm.disk, |size| size.max(vm.disk)).bytes() };
    let mut needs = BTreeMap::from([(&vm.storage, boot)]);
    for disk in &vm.disks {
        *needs.entry(disk.storage.as_ref().unwrap_or(&vm.storage)).or_default() += disk.size.bytes();
    }
    needs
}

/// The storages that hold a template's disks.
pub fn template_storages(template: &VmConfig) -> BTreeSet<&str> {
    let volumes = template.settings.iter().filter(|(key, _)| settings::is_volume(key));
    volumes.filter_map(|(_, value)| Some(value.split(',').next()?.split_once(':')?.0)).collect()
}

/// A node that can have the VM.
struct Candidate<'a> {
    room: &'a NodeRoom,
    /// VMs there that it should not share a node with.
    near: usize,
    /// Bytes of memory free before it.
    free: u64,
    /// What part of the node's memory stays free with it, in thousandths.
    share: u64,
    /// Bytes that stay free on the storage where that is least.
    left: u64,
}

/// The node for `vm`: one that can have it, with the fewest VMs that it should avoid, then with the largest part of
/// its memory free, then with the most room on its storages, then the first by name.
pub fn place(
    vm: &ManagedVm,
    template: Option<&VmConfig>,
    rooms: &[NodeRoom],
    others: &Others<'_>,
) -> Result<Placed> {
    let (mut fit, mut why_not) = (Vec::new(), Vec::new());
    for room in rooms {
        match candidate(vm, template, room, others) {
            Ok(candidate) => fit.push(candidate),
            Err(why) => why_not.push((room, why)),
        }
    }
    fit.sort_by_key(|c| (c.near, Reverse(c.share), Reverse(c.left), c.room.node.clone()));
    let Some(best) = fit.first() else {
        let error = Error::failed(format!("no node can have '{}' (node = \"auto\")", vm.name));
        return Err(why_not
            .iter()
            .fold(error, |error, (room, why)| error.now(format!("node {}: {why}", room.node)))
            .hint(format!("make room, or name a node in managed.{}", vm.name)));
    };
    Ok(Placed { node: best.room.node.clone(), reason: reason(best, &fit, why_not.len()) })
}

fn reason(best: &Candidate<'_>, fit: &[Candidate<'_>], unfit: usize) -> String {
    let gib = |bytes: u64| bytes >> 30;
    let memory = format!("{} of {} GiB", gib(best.free), gib(best.room.maxmem.unwrap_or_default()));
    let apart = fit.iter().any(|other| other.near > best.near);
    let equal = fit.iter().filter(|other| other.near == best.near).count();
    let mut parts = Vec::new();
    if fit.len() == 1 {
        parts.push(match unfit {
            0 => "the only node".to_owned(),
            _ => "the only node that can have it".to_owned(),
        });
    } else if apart {
        parts.push(match best.near {
            0 => "no VM there that it should avoid".to_owned(),
            near => format!("the fewest VMs there that it should avoid: {near}"),
        });
    }
    let most = if fit.len() > 1 && equal > 1 { "most free memory" } else { "free memory" };
    parts.push(format!("{most}: {memory}"));
    parts.join("; ")
}

fn candidate<'a>(
    vm: &ManagedVm,
    template: Option<&VmConfig>,
    room: &'a NodeRoom,
    others: &Others<'_>,
) -> std::result::Result<Candidate<'a>, String> {
    if !room.online {
        return Err("the cluster does not hear of it".to_owned());
    }
    if let Some(template) = template.filter(|template| template.node != room.node) {
        let mut used = template_storages(template);
        if !vm.linked_clone {
            used.insert(vm.storage.as_str());
        }
        let shared = |name: &str| room.storages.iter().any(|s| s.storage.as_str() == name && s.shared);
        if let Some(local) = used.into_iter().find(|name| !shared(name)) {
            return Err(format!(
                "template {} is on node {}, and the two do not share the storage '{local}'",
                template.vmid, template.node
            ));
        }
    }
    let mut left = u64::MAX;
    for (name, bytes) in needs(vm, None) {
        let Some(storage) = room.storages.iter().find(|s| s.storage == *name) else {
            return Err(format!("it has no storage '{name}'"));
        };
        if !storage.active {
            return Err(format!("storage '{name}' is not active there"));
        }
        if !storage.content.iter().any(|content| content == "images") {
            return Err(format!("storage '{name}' takes no disk images there"));
        }
        let Some(free) = storage.available else { continue };
        let also = others.planned.iter().filter(|(_, on)| storage.shared || *on == room.node);
        let taken: u64 = also.filter_map(|(other, _)| needs(other, None).get(name).copied()).sum();
        let free = free.saturating_sub(taken);
        if free < bytes {
            return Err(format!(
                "storage '{name}' has {} GiB free, the disks need {}",
                free >> 30,
                DiskSize::from_bytes(bytes)
            ));
        }
        left = left.min(free - bytes);
    }
    let Some(all) = room.maxmem.filter(|all| *all > 0) else {
        return Err("it does not tell its memory (a token needs Sys.Audit for that)".to_owned());
    };
    // What runs may take all that it is configured with, even where it does not yet.
    let promised: u64 = others
        .resources
        .iter()
        .filter(|r| r.node == room.node && r.status == "running")
        .filter_map(|r| r.other.get("maxmem")?.as_u64())
        .sum();
    let planned = others.planned.iter().filter(|(_, on)| *on == room.node);
    let coming: u64 = planned.map(|(other, _)| other.memory << 20).sum();
    let free = all.saturating_sub(promised.max(room.mem.unwrap_or_default())).saturating_sub(coming);
    let Some(rest) = free.checked_sub(vm.memory << 20) else {
        return Err(format!("{} MiB of its memory are free, the VM needs {}", free >> 20, vm.memory));
    };
    let share = u64::try_from(u128::from(rest) * 1000 / u128::from(all)).unwrap_or_default();
    let near = others.avoided.iter().filter(|node| **node == room.node).count();
    Ok(Candidate { room, near, free, share, left })
}

#[cfg(test)]
mod tests;
