//! Replays exchanges recorded from a genuine Proxmox VE against the simulated one and counts what differs.
//!
//! The recordings are not part of this repository: they are looked for in `../shared/pve-api` beside it, or in
//! `FLEET_SHARED/pve-api`. Without them there is nothing to replay; `conformance.rs` has a table of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop and tells what differs"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use indexmap::IndexMap;
use pve_sim::{
    api::{self, Call},
    conf::{self, VmConf},
    guest::Guest,
    node::Volume,
    params::{Param, Params},
    task,
    testing::Sim,
    world::World,
};
use serde_json::{Map, Value};

/// Endpoints that must not differ in status, message or faults by parameter.
const CONFORMING: &[&str] = &[
    "DELETE /nodes/N/qemu/ID",
    "GET /cluster/nextid",
    "GET /cluster/resources",
    "GET /cluster/status",
    "GET /nodes",
    "GET /nodes/N/lxc",
    "GET /nodes/N/network",
    "GET /nodes/N/qemu",
    "GET /nodes/N/qemu/ID/agent/network-get-interfaces",
    "GET /nodes/N/qemu/ID/config",
    "GET /nodes/N/qemu/ID/pending",
    "GET /nodes/N/qemu/ID/snapshot",
    "GET /nodes/N/qemu/ID/status/current",
    "GET /nodes/N/status",
    "GET /nodes/N/storage",
    "GET /nodes/N/tasks",
    "GET /nodes/N/tasks/UPID/log",
    "GET /nodes/N/tasks/UPID/status",
    "GET /nodes/N/version",
    "GET /version",
    "POST /nodes/N/qemu/ID/clone",
    "POST /nodes/N/qemu/ID/status/reboot",
    "POST /nodes/N/qemu/ID/status/shutdown",
    "POST /nodes/N/qemu/ID/status/start",
    "POST /nodes/N/qemu/ID/status/stop",
    "POST /nodes/N/qemu/ID/template",
    "PUT /nodes/N/qemu/ID/resize",
];

/// Exchanges that differ for a reason outside of the API: what was done to the recorded node by hand, what its
/// laboratory lacked, or what a faster node is already done with.
const EXPLAINED: &[(&str, &[&str])] = &[
    ("container 201 was written by hand", &["02-051", "02-053", "02-054", "02-055"]),
    ("VM 202 was written by hand with a lock", &["02-085", "02-101", "02-102"]),
    ("the first network reads had no bridge at all", &["02-037"]),
    ("the laboratory lacks KVM or a PCI device", &["07-044", "07b-002", "07b-006"]),
    (
        "the guests there have no operating system: they ignore the power button",
        &["07-013", "07-012", "07-017"],
    ),
    (
        "a disk file was removed by hand",
        &[
            "07-050", "07-051", "09-011", "09-012", "09-013", "09-014", "09-017", "09-018", "09-019",
            "09-020", "10-019",
        ],
    ),
    ("the guest agent was stopped inside the guest", &["09-087", "09-088", "09-089", "09-093", "09-036"]),
    (
        "the VM had just been created and was not started",
        &["08b-001", "08b-028", "08b-047", "10-023", "11-010", "11-013"],
    ),
    (
        "qmeventd holds the lock after a quick stop and start",
        &["08c-031", "08c-035", "08b-043", "08b-046", "08b-036", "08c-027"],
    ),
    (
        "the clone is done sooner, or later, here",
        &[
            "10-051", "10-052", "10-053", "10-055", "10-057", "10-059", "11-002", "11-009", "11-011",
            "11-035", "11c-010", "11b-013",
        ],
    ),
    ("the daemon was restarted by hand", &["11b-001", "11b-002", "11b-005"]),
    ("chunked requests are refused before the API", &["01b-052"]),
    ("a parameter's name in UTF-8 comes back as Latin-1", &["07b-012"]),
    ("the template had been given sockets by hand", &["08c-001"]),
    (
        "the snapshots that they are about do not exist there",
        &["08-005", "08-021", "08-022", "08-035", "08b-002", "08b-008", "08b-024", "08b-025", "08b-038"],
    ),
];

fn recordings() -> Option<PathBuf> {
    let shared = std::env::var_os("FLEET_SHARED").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    [shared, Some(beside)].into_iter().flatten().map(|dir| dir.join("pve-api")).find(|dir| dir.is_dir())
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The endpoint a path belongs to.
fn endpoint(method: &str, path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .scan("", |before, part| {
            let shown = match *before {
                "nodes" => "N",
                "qemu" => "ID",
                "tasks" => "UPID",
                "storage" => "STORAGE",
                "content" => "VOLUME",
                "snapshot" => "NAME",
                _ => part,
            };
            *before = part;
            Some(shown)
        })
        .collect();
    format!("{method} /{}", parts.join("/"))
}

struct Replay {
    sim: Sim,
    upids: BTreeMap<String, String>,
    differ: BTreeMap<String, Vec<String>>,
    counts: BTreeMap<String, (usize, usize)>,
}

/// The parts of a text that are different in every run.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let lines: Vec<&str> =
        text.lines().map(|l| if l.starts_with("cipassword: $5$") { "cipassword: hash" } else { l }).collect();
    let text = lines.join("\n");
    for word in text.split_inclusive([' ', ',', '\n', '/', '\'', ':', '=']) {
        let core = word.trim_end_matches([' ', ',', '\n', '/', '\'', ':', '=']);
        let hex = core.len() >= 8 && core.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let pair = core.len() == 2
            && core.bytes().all(|b| b.is_ascii_hexdigit())
            && core.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if hex || pair {
            out.push('*');
            out.push_str(&word[core.len()..]);
        } else {
            out.push_str(word);
        }
    }
    out
}

impl Replay {
    fn note(&mut self, endpoint: &str, id: &str, what: &str) {
        self.differ.entry(endpoint.to_owned()).or_default().push(format!("{id}: {what}"));
    }

    fn step(&mut self, record: &Value) {
        let (Some(method), Some(path)) = (record["method"].as_str(), record["path"].as_str()) else {
            // An intervention by hand: only its effect can be taken over.
            return self.take_over(&record["config"]);
        };
        let usable = record["auth"].as_str().unwrap_or("ticket") == "ticket"
            && path.starts_with('/')
            && !path.starts_with("//");
        let status = record["status"].as_u64().unwrap();
        let known = ["GET", "POST", "PUT", "DELETE"].contains(&method);
        let (id, note) = (record["id"].as_str().unwrap(), record["note"].as_str().unwrap_or_default());
        // Raw bodies are not in the recording, tickets by hand neither.
        let raw = id.starts_with("01b")
            && record["params"].as_object().is_some_and(Map::is_empty)
            && method != "GET";
        if !usable
            || status == 0
            || !known
            || raw
            || note.starts_with("auth really")
            || note.contains("token of")
        {
            return self.take_over(&record["config_after"]);
        }
        let path = self.own_upids(path);
        let decoded: Vec<String> = path
            .split('/')
            .filter(|p| !p.is_empty())
            .map(|p| percent_encoding::percent_decode_str(p).decode_utf8_lossy().into_owned())
            .collect();
        let endpoint = endpoint(method, &path);
        let call = Call { method: method.to_owned(), path: decoded, params: params(&record["params"]) };
        let answer = self.sim.block_on(api::answer(self.sim.node(), &call));
        let before = self.differ.get(&endpoint).map_or(0, Vec::len);
        let (own_status, message, errors, data) = match &answer {
            Ok((data, _)) => (200, String::new(), Value::Null, data.clone()),
            Err(fail) => (
                u64::from(fail.status),
                fail.message.clone(),
                fail.errors.clone().map_or(Value::Null, Value::Object),
                Value::Null,
            ),
        };
        let body = &record["body"];
        if own_status != status {
            self.note(
                &endpoint,
                id,
                &format!("status {own_status} instead of {status}: {} / {}", message.trim(), body["message"]),
            );
        } else if status != 200 {
            let genuine = body["message"].as_str().unwrap_or_else(|| record["reason"].as_str().unwrap());
            if plain(message.trim()) != plain(genuine.trim()) {
                self.note(
                    &endpoint,
                    id,
                    &format!("says {:?} instead of {:?}", message.trim(), genuine.trim()),
                );
            }
            if body["errors"] != errors {
                self.note(&endpoint, id, &format!("faults {errors} instead of {}", body["errors"]));
            }
        } else if method == "GET" {
            self.compare_shape(&endpoint, id, &data, &body["data"]);
        }
        self.task(&endpoint, id, &data, record);
        self.configs(&endpoint, id, &record["config_after"]);
        let count = self.counts.entry(endpoint.clone()).or_default();
        count.0 += 1;
        count.1 += usize::from(self.differ.get(&endpoint).map_or(0, Vec::len) > before);
        self.take_over(&record["config_after"]);
    }

    fn own_upids(&self, path: &str) -> String {
        let mut path = path.to_owned();
        for (theirs, ours) in &self.upids {
            path = path.replace(theirs, ours).replace(&theirs.replace(':', "%3A").replace('@', "%40"), ours);
        }
        path.replace("root%40pam", "root@pam")
    }

    /// The same keys, in every entry of a list whose id both have.
    fn compare_shape(&mut self, endpoint: &str, id: &str, ours: &Value, theirs: &Value) {
        // Counters of load are there or not as the guest's cgroup goes.
        let keys = |v: &Value| -> BTreeSet<String> {
            let all = v.as_object().map(|m| m.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
            all.into_iter().filter(|k| !k.starts_with("pressure") && k != "sockets").collect()
        };
        let mut pairs = vec![(ours.clone(), theirs.clone())];
        if let (Value::Array(ours), Value::Array(theirs)) = (ours, theirs) {
            let name = |v: &Value| {
                let of = |k: &str| v[k].as_str().map(str::to_owned);
                of("id")
                    .or_else(|| of("iface"))
                    .or_else(|| of("key"))
                    .or_else(|| of("storage"))
                    .or_else(|| v["vmid"].as_u64().map(|n| n.to_string()))
            };
            pairs = theirs
                .iter()
                .filter_map(|t| {
                    Some((ours.iter().find(|o| name(o).is_some() && name(o) == name(t))?.clone(), t.clone()))
                })
                .collect();
        }
        for (ours, theirs) in pairs {
            if ours.is_object() != theirs.is_object() {
                return self.note(endpoint, id, &format!("another kind of data: {ours} instead of {theirs}"));
            }
            let (ours, theirs) = (keys(&ours), keys(&theirs));
            let missing: Vec<_> = theirs.difference(&ours).collect();
            let more: Vec<_> = ours.difference(&theirs).collect();
            if !missing.is_empty() || !more.is_empty() {
                return self.note(endpoint, id, &format!("lacks {missing:?}, has {more:?}"));
            }
        }
    }

    fn task(&mut self, endpoint: &str, id: &str, data: &Value, record: &Value) {
        let theirs = record["body"]["data"].as_str().filter(|u| u.starts_with("UPID:"));
        let ours = data.as_str().filter(|u| u.starts_with("UPID:"));
        if let (Some(theirs), Some(ours)) = (theirs, ours) {
            self.upids.insert(theirs.to_owned(), ours.to_owned());
        }
        if theirs.is_some() != ours.is_some() && record["status"] == 200 {
            return self.note(endpoint, id, "a task where there is none, or none where there is one");
        }
        let Some(ours) = ours else { return };
        let node = std::sync::Arc::clone(self.sim.node());
        let exit = self.sim.block_on(task::wait(&node, ours, Duration::from_secs(20))).unwrap_or_default();
        let Some(genuine) = record["task"].as_object() else { return };
        let expected = genuine["exitstatus"].as_str().unwrap_or_default();
        if plain(&exit) != plain(expected) {
            return self.note(endpoint, id, &format!("task ended {exit:?} instead of {expected:?}"));
        }
        let shown = |lines: Vec<String>| -> Vec<String> {
            let noise = [
                "transferred ",
                "trying to acquire",
                " OK",
                "mirror",
                "all 'mirror'",
                "drive mirror",
                "issuing guest",
            ];
            lines.into_iter().filter(|l| !noise.iter().any(|n| l.starts_with(n))).map(|l| plain(&l)).collect()
        };
        let own =
            node.read(|d| d.tasks.iter().find(|t| t.upid == ours).map(|t| t.log.clone())).unwrap_or_default();
        let theirs =
            genuine["log"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect();
        let (own, theirs) = (shown(own), shown(theirs));
        if own != theirs {
            let first = own.iter().zip(&theirs).find(|(a, b)| a != b);
            self.note(
                endpoint,
                id,
                &format!("another log: {first:?} ({} lines instead of {})", own.len(), theirs.len()),
            );
        }
    }

    fn configs(&mut self, endpoint: &str, id: &str, after: &Value) {
        for (vmid, text) in after.as_object().into_iter().flatten() {
            let ours = self.sim.config(vmid.parse().unwrap()).map(|c| c.to_string());
            let ours = ours.map(|t| plain(&t)).unwrap_or_default();
            let theirs = text.as_str().map(plain).unwrap_or_default();
            if ours != theirs {
                let lines = |a: &str, b: &str| {
                    a.lines().filter(|l| !b.lines().any(|o| o == *l)).map(str::to_owned).collect::<Vec<_>>()
                };
                let (more, missing) = (lines(&ours, &theirs), lines(&theirs, &ours));
                self.note(endpoint, id, &format!("config of {vmid}: has {more:?}, lacks {missing:?}"));
            }
        }
    }

    /// Makes the configurations what the recording says, so that one difference does not cause the next.
    fn take_over(&mut self, after: &Value) {
        let node = std::sync::Arc::clone(self.sim.node());
        for (vmid, text) in after.as_object().into_iter().flatten() {
            let vmid: u32 = vmid.parse().unwrap();
            node.change(|d| {
                let Some(text) = text.as_str() else {
                    d.vms.remove(&vmid);
                    d.guests.remove(&vmid);
                    d.volumes.retain(|_, v| v.vmid != Some(vmid));
                    return;
                };
                let conf = VmConf::parse(text);
                for (_, drive) in
                    conf.main.iter().filter(|(k, _)| conf::is_drive(k) || k.starts_with("unused"))
                {
                    let id = drive.split(',').next().unwrap();
                    let size =
                        conf::property(drive, "size", "").and_then(conf::parse_size).unwrap_or(4 << 20);
                    if id.contains(':') && !d.volumes.contains_key(id) {
                        let parent = id
                            .split_once(':')
                            .unwrap()
                            .1
                            .rsplitn(3, '/')
                            .nth(2)
                            .map(|base| format!("../{base}"));
                        let format = if id.ends_with(".raw") { "raw" } else { "qcow2" }.to_owned();
                        d.volumes.insert(
                            id.to_owned(),
                            Volume {
                                size,
                                format,
                                content: "images".into(),
                                vmid: Some(vmid),
                                parent,
                                ctime: 0,
                            },
                        );
                    }
                }
                d.guests.entry(vmid).or_insert_with(Guest::cloud_image);
                d.vms.insert(vmid, conf);
            });
        }
    }
}

fn params(value: &Value) -> Params {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut found: IndexMap<String, Param> = IndexMap::new();
    let pairs: Vec<(String, String)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), text(v))).collect(),
        Value::Array(list) => list.iter().map(|p| (text(&p[0]), text(&p[1]))).collect(),
        _ => Vec::new(),
    };
    for (key, value) in pairs {
        let values = match found.shift_remove(&key) {
            None => Param::One(value),
            Some(Param::One(first)) => Param::Many(vec![first, value]),
            Some(Param::Many(mut all)) => {
                all.push(value);
                Param::Many(all)
            }
        };
        found.insert(key, values);
    }
    Params(found)
}

fn world(first: &Value) -> World {
    let settings: Vec<(String, String)> = first["body"]["data"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(k, _)| *k != "digest")
        .map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned)))
        .collect();
    let pairs: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut world =
        World::default().without_vm(104).without_vm(109).without_vm(9002).with_vm(9002, false, &pairs);
    world.vms[0].cloud_image = true;
    world.containers.clear();
    world.cpus = 2;
    world.memory = 25_276_502_016;
    world
}

#[test]
fn genuine_recordings() {
    let Some(dir) = recordings() else {
        println!("skipped: no recordings beside this repository");
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let read_config =
        |r: &Value| r["method"] == "GET" && r["path"] == "/nodes/prom/qemu/9002/config" && r["status"] == 200;
    let first = files.iter().flat_map(|f| read(f)).find(|r| read_config(r)).unwrap();
    let mut replay = Replay {
        sim: Sim::with(world(&first)),
        upids: BTreeMap::new(),
        differ: BTreeMap::new(),
        counts: BTreeMap::new(),
    };
    for file in &files {
        for record in read(file) {
            replay.step(&record);
        }
    }
    let total: usize = replay.counts.values().map(|c| c.0).sum();
    let differing: usize = replay.counts.values().map(|c| c.1).sum();
    println!("{total} exchanges replayed, {} the same, {differing} differ:", total - differing);
    for (endpoint, (count, differing)) in &replay.counts {
        let mark = if CONFORMING.contains(&endpoint.as_str()) { "conforming" } else { "" };
        println!("{differing:5} of {count:4}  {endpoint}  {mark}");
        if std::env::var_os("PVE_SIM_DIFFERENCES").is_some() {
            for line in replay.differ.get(endpoint).into_iter().flatten() {
                println!("               {line}");
            }
        }
    }
    let explained = |line: &str| {
        let id = line.split(':').next().unwrap();
        EXPLAINED.iter().any(|(_, ids)| ids.contains(&id))
    };
    let open = |lines: &Vec<String>| lines.iter().filter(|l| !explained(l)).cloned().collect::<Vec<_>>();
    let unexplained: BTreeSet<String> =
        replay.differ.values().flat_map(open).map(|l| l.split(':').next().unwrap().to_owned()).collect();
    println!("{} of the differing ones have no reason outside of the API", unexplained.len());
    let broken: Vec<_> = replay
        .differ
        .iter()
        .filter(|(endpoint, _)| CONFORMING.contains(&endpoint.as_str()))
        .map(|(endpoint, lines)| (endpoint, open(lines)))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}
