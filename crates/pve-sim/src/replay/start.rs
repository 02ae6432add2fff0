//! How the world was before the first exchange, as far as the recordings tell.

use std::collections::BTreeSet;

use serde_json::Value;

use super::record::Record;
use crate::{
    auth::Token,
    conf,
    world::{Latency, World},
};

/// The token that requests with `auth: token` carry; the recordings do not tell its name.
pub(super) const TOKEN: &str = "root@pam!rec";
pub(super) const SECRET: &str = "11111111-2222-4333-8444-555555555555";

/// The answers to a request for this path, in order.
fn answers<'a>(records: &'a [Record], path: &'a str) -> impl Iterator<Item = &'a Record> {
    records.iter().filter(move |r| {
        r.method() == Some("GET") && r.status() == 200 && r.path().trim_end_matches('/') == path
    })
}

fn node_name(records: &[Record]) -> String {
    let upid = records.iter().find_map(|r| r.upid()?.split(':').nth(1).map(str::to_owned));
    let path = || {
        records.iter().find_map(|r| r.path().strip_prefix("/nodes/")?.split('/').next().map(str::to_owned))
    };
    upid.or_else(path).unwrap_or_else(|| "prom".to_owned())
}

/// The world before the first exchange.
pub(super) fn world(records: &[Record]) -> World {
    let node = node_name(records);
    let mut world = World { node: node.clone(), latency: Latency::none(), ..World::default() };
    world.vms.clear();
    world.containers.clear();
    if let Some(status) = answers(records, &format!("/nodes/{node}/status")).next() {
        world.memory = status.data()["memory"]["total"].as_u64().unwrap_or(world.memory);
        world.cpus = status.data()["cpuinfo"]["cpus"].as_u64().unwrap_or(world.cpus);
    }
    vms(records, &node, &mut world);
    storages(records, &node, &mut world);
    bridges(records, &node, &mut world);
    images(records, &mut world);
    hardware(records, &mut world);
    tokens(records, &mut world);
    world
}

/// The VMs whose settings are read, or which are cloned, before anything made them.
fn vms(records: &[Record], node: &str, world: &mut World) {
    let mut made: BTreeSet<u32> = BTreeSet::new();
    let prefix = format!("/nodes/{node}/qemu/");
    for record in records {
        let vmid = record.path().strip_prefix(&prefix).and_then(|rest| {
            let (vmid, rest) = rest.split_once('/').unwrap_or((rest, ""));
            Some((vmid.parse::<u32>().ok()?, rest))
        });
        if let (Some((vmid, "config")), Some("GET"), 200, Some(data)) =
            (vmid, record.method(), record.status(), record.data().as_object())
            && made.insert(vmid)
        {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let settings: Vec<(String, String)> =
                data.iter().filter(|(k, _)| *k != "digest").map(|(k, v)| (k.clone(), text(v))).collect();
            let pairs: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            *world = std::mem::take(world).with_vm(vmid, false, &pairs);
            if let Some(vm) = world.vms.last_mut() {
                vm.cloud_image = true;
            }
        }
        let created = record.params().into_iter().find(|(k, _)| k == "newid" || k == "vmid");
        if record.upid().is_some()
            && let Some((_, id)) = created
        {
            made.extend(id.parse::<u32>());
        }
        for key in ["config_after", "config"] {
            made.extend(record.json[key].as_object().into_iter().flatten().filter_map(|(id, conf)| {
                // What an exchange changes was there before it, unless something else made it.
                let there = record.method().is_some() && vmid.is_some_and(|(v, _)| v.to_string() == *id);
                if there || conf.is_null() { None } else { id.parse::<u32>().ok() }
            }));
        }
    }
}

fn storages(records: &[Record], node: &str, world: &mut World) {
    let words = |v: &Value| -> Vec<String> {
        v.as_str().unwrap_or_default().split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let Some(first) = answers(records, "/storage").next() else { return };
    world.storages = first
        .data()
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| {
            Some(crate::world::StorageDef {
                name: s["storage"].as_str()?.to_owned(),
                kind: s["type"].as_str()?.to_owned(),
                path: s["path"].as_str().unwrap_or_default().to_owned(),
                content: words(&s["content"]),
                total: 1 << 40,
                used: 1 << 36,
                shared: s["shared"].as_u64() == Some(1),
            })
        })
        .collect();
    if let Some(state) = answers(records, &format!("/nodes/{node}/storage")).next() {
        for known in state.data().as_array().into_iter().flatten() {
            for storage in world.storages.iter_mut().filter(|s| known["storage"] == s.name.as_str()) {
                storage.total = known["total"].as_u64().unwrap_or(storage.total);
                storage.used = known["used"].as_u64().unwrap_or(storage.used);
            }
        }
    }
}

/// The bridges that the first VMs are on exist; the network's configuration may list others.
fn bridges(records: &[Record], node: &str, world: &mut World) {
    let mut found: BTreeSet<String> = BTreeSet::new();
    for vm in &world.vms {
        let cards = vm.config.iter().filter(|(k, _)| k.starts_with("net"));
        found.extend(cards.filter_map(|(_, v)| conf::property(v, "bridge", "").map(str::to_owned)));
    }
    if let Some(first) = answers(records, &format!("/nodes/{node}/network")).next() {
        let listed = first.data().as_array().into_iter().flatten();
        let names: Vec<String> = listed
            .filter(|i| i["type"] == "bridge")
            .filter_map(|i| Some(i["iface"].as_str()?.to_owned()))
            .collect();
        found.extend(names.iter().cloned());
        world.listed_bridges = Some(names);
    }
    if !found.is_empty() {
        world.bridges = found.into_iter().collect();
    }
}

/// Every image that a disk is imported from, but those that the node is said to lack.
fn images(records: &[Record], world: &mut World) {
    let all = told(records);
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (_, value) in records.iter().flat_map(Record::params) {
        let Some(source) = conf::property(&value, "import-from", "") else { continue };
        let file = source.rsplit('/').next().unwrap_or(source);
        let lacking = ["can't find file '", "failed to stat '"].iter().any(|words| {
            all.split(words).skip(1).any(|rest| rest.split('\'').next().is_some_and(|p| p.ends_with(file)))
        });
        if !lacking {
            known.insert(source.to_owned());
        }
    }
    world.images = Some(known.into_iter().collect());
}

/// All that failures and tasks say.
fn told(records: &[Record]) -> String {
    records.iter().map(|r| r.json["body"]["message"].to_string() + &r.json["task"].to_string()).collect()
}

/// What the hardware and its packages lack.
fn hardware(records: &[Record], world: &mut World) {
    world.firmware = !told(records).contains("EFI base image");
    // A VM that is told to do without is one of a node that has none.
    let without = |vm: &crate::world::InitialVm| vm.config.iter().any(|(k, v)| k == "kvm" && v == "0");
    world.kvm = !world.vms.iter().any(without);
}

/// Tokens whose secrets the recordings tell: what one may do is all or nothing.
fn tokens(records: &[Record], world: &mut World) {
    world.tokens.push(Token { id: TOKEN.to_owned(), secret: SECRET.to_owned(), rights: None });
    for record in records {
        let header = record.json["request_headers"]["Authorization"].as_str().unwrap_or_default();
        let Some((id, secret)) = header.strip_prefix("PVEAPIToken=").and_then(|t| t.split_once('=')) else {
            continue;
        };
        // Who is in user.cfg is the node's own affair; a 401 says that this one is not.
        if record.status() == 401 || world.tokens.iter().any(|t| t.id == id) {
            continue;
        }
        let refused =
            records.iter().any(|r| r.status() == 403 && r.json["request_headers"]["Authorization"] == header);
        let rights = refused.then(Vec::new);
        world.tokens.push(Token { id: id.to_owned(), secret: secret.to_owned(), rights });
    }
}
