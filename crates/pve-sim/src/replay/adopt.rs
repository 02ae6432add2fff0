//! Takes over what a recording shows of the world and the simulator could not know, after the exchange that shows
//! it has been compared: one difference does not cause the next, and no answer is given with its recording at hand.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::record::Record;
use crate::{
    conf::{self, VmConf},
    guest::{self, Guest},
    node::{Data, Node, Volume},
    world::Container,
};

/// Takes over what `record` shows.
pub(super) fn world(node: &std::sync::Arc<Node>, record: &Record) {
    for key in ["config_after", "config"] {
        for (vmid, text) in record.json[key].as_object().into_iter().flatten() {
            if let Ok(vmid) = vmid.parse() {
                node.change(|d| config(d, vmid, text.as_str().filter(|t| !t.is_empty())));
            }
        }
    }
    if record.status() == 200 && record.method() == Some("GET") {
        lists(node, record);
    }
    words(node, record);
    started(node, record);
    agent(node, record);
}

/// A VM's configuration file is this text, or is gone.
fn config(data: &mut Data, vmid: u32, text: Option<&str>) {
    let Some(text) = text else {
        data.vms.remove(&vmid);
        data.guests.remove(&vmid);
        data.volumes.retain(|_, v| v.vmid != Some(vmid));
        return;
    };
    let conf = VmConf::parse(text);
    let before = data.vms.get(&vmid).cloned().unwrap_or_default();
    if before == conf {
        return;
    }
    let drives = conf.main.iter().filter(|(k, _)| conf::is_drive(k) || k.starts_with("unused"));
    for (_, drive) in drives.filter(|(_, drive)| !before.main.values().any(|had| had == *drive)) {
        let id = drive.split(',').next().unwrap_or_default();
        let size = conf::property(drive, "size", "").and_then(conf::parse_size).unwrap_or(4 << 20);
        let Some((_, rest)) = id.split_once(':') else { continue };
        let parent = rest.rsplitn(3, '/').nth(2).map(|base| format!("../{base}"));
        let format = if id.ends_with(".raw") { "raw" } else { "qcow2" }.to_owned();
        let known = data.volumes.entry(id.to_owned()).or_insert(Volume {
            size,
            format,
            content: "images".into(),
            vmid: Some(vmid),
            parent,
            ctime: 0,
        });
        known.size = size;
    }
    data.guests.entry(vmid).or_insert_with(Guest::cloud_image);
    data.vms.insert(vmid, conf);
}

fn power(node: &std::sync::Arc<Node>, vmid: u32, runs: bool) {
    if !node.read(|d| d.vms.contains_key(&vmid)) || node.read(|d| d.is_running(vmid)) == runs {
        return;
    }
    let pending = node.read(|d| d.vms.get(&vmid).cloned());
    if runs {
        // Nobody waits for it: a machine that can not boot is on all the same.
        let _ = guest::power_on(node, vmid);
    } else {
        guest::power_off(node, vmid);
    }
    if let Some(conf) = pending {
        node.change(|d| d.vms.insert(vmid, conf));
    }
}

/// What a list or a status shows: which machines run, which containers and bridges there are.
fn lists(node: &std::sync::Arc<Node>, record: &Record) {
    let entries: Vec<&Value> = match record.data() {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    };
    let snapshots =
        record.path().strip_suffix("/snapshot").and_then(|vm| vm.rsplit('/').next()?.parse().ok());
    if let (Some(vmid), Some(current)) = (snapshots, entries.iter().find(|e| e["name"] == "current")) {
        power(node, vmid, current["running"] == 1);
    }
    for entry in &entries {
        let (Some(vmid), Some(status)) = (entry["vmid"].as_u64(), entry["status"].as_str()) else { continue };
        let Ok(vmid) = u32::try_from(vmid) else { continue };
        if entry["type"] == "lxc" {
            let name = entry["name"].as_str().unwrap_or_default().to_owned();
            node.change(|d| {
                d.containers.retain(|c| c.vmid != vmid);
                let running = status == "running";
                d.containers.push(Container { vmid, name, running, node: node.name().to_owned() });
            });
        } else {
            power(node, vmid, status == "running");
        }
    }
    let all = record.path().ends_with("/cluster/resources")
        && record.json["params"]["type"] != "storage"
        && record.json["params"]["type"] != "node";
    let seen = record.json["auth"].as_str().unwrap_or("ticket") == "ticket";
    if record.path().ends_with("/lxc") || all && seen {
        let containers = entries.iter().filter(|e| e["type"] == "lxc");
        let there: Vec<u64> = containers.filter_map(|e| e["vmid"].as_u64()).collect();
        node.change(|d| d.containers.retain(|c| there.contains(&u64::from(c.vmid))));
    }
    if record.path().ends_with("/network") {
        let bridges = entries.iter().filter(|e| e["type"] == "bridge");
        let names = bridges.filter_map(|e| Some(e["iface"].as_str()?.to_owned())).collect();
        node.change(|d| d.listed_bridges = names);
    }
}

/// What a refusal, or the end of a task, says about a machine.
fn words(node: &std::sync::Arc<Node>, record: &Record) {
    let message = record.json["body"]["message"].as_str().unwrap_or_default();
    let exit = record.json["task"]["exitstatus"].as_str().unwrap_or_default();
    if let Some(volume) = exit.strip_prefix("volume '").and_then(|rest| rest.split('\'').next()) {
        node.change(|d| d.volumes.remove(volume));
    }
    for text in [message, exit] {
        let Some(rest) = text.strip_prefix("VM ") else { continue };
        let Some((vmid, rest)) = rest.split_once(' ') else { continue };
        let Ok(vmid) = vmid.parse() else { continue };
        if rest.starts_with("not running") || rest.starts_with("is not running") {
            power(node, vmid, false);
        } else if rest.starts_with("is running") || rest.starts_with("already running") {
            power(node, vmid, true);
        }
    }
}

/// Whether the guest agent of a machine answers.
fn agent(node: &std::sync::Arc<Node>, record: &Record) {
    let Some((before, verb)) = record.path().split_once("/agent") else { return };
    let Some(vmid) = before.rsplit('/').next().and_then(|v| v.parse::<u32>().ok()) else { return };
    let message = record.json["body"]["message"].as_str().unwrap_or_default();
    // The list of what an agent can do is the daemon's, not the agent's.
    let up = record.status() == 200 && !matches!(verb, "" | "/exec") || message.starts_with("Agent error");
    let down = message.starts_with("QEMU guest agent is not running");
    node.change(|d| {
        let enabled = d.vms.get(&vmid).and_then(|c| c.get("agent")).is_some_and(|a| a.contains('1'));
        let Some(run) = d.guests.get_mut(&vmid).and_then(|g| g.running.as_mut()) else { return };
        if up {
            run.booting = None;
            run.agent_stopped = false;
        } else if down && enabled && !run.paused && run.booting.is_none() {
            run.agent_stopped = true;
        }
    });
}

/// A machine that was made there although it could not be made here is a new one: what had its number is gone.
pub(super) fn made(node: &Node, record: &Record) {
    let params = record.params();
    let number = |key: &str| params.iter().find(|(k, _)| k == key).and_then(|(_, v)| v.parse::<u32>().ok());
    let clone = number("newid").filter(|_| record.path().ends_with("/clone"));
    let Some(vmid) = clone.or_else(|| number("vmid").filter(|_| record.path().ends_with("/qemu"))) else {
        return;
    };
    if record.upid().is_some() {
        node.change(|d| config(d, vmid, None));
    }
}

/// What the end of a start or stop says: which machine runs, and that it has all of its disks.
fn started(node: &std::sync::Arc<Node>, record: &Record) {
    let Some((before, verb)) = record.path().rsplit_once("/status/") else { return };
    let Some(vmid) = before.rsplit('/').next().and_then(|v| v.parse::<u32>().ok()) else { return };
    let Some(exit) = record.json["task"]["exitstatus"].as_str() else { return };
    if exit == "OK" && matches!(verb, "start" | "stop" | "shutdown") {
        power(node, vmid, verb == "start");
    }
    if verb != "start" || exit.starts_with("volume '") {
        return;
    }
    node.change(|d| {
        let Some(conf) = d.vms.remove(&vmid) else { return };
        config(d, vmid, Some(&conf.to_string()));
    });
}

/// The state before an exchange whose outcome was another one, so that it can be taken back.
pub(super) struct Before {
    data: Data,
}

impl Before {
    pub(super) fn of(node: &Node) -> Before {
        Before { data: node.read(Clone::clone) }
    }

    /// Machines, disks and configurations as they were; tasks stay, they have happened.
    pub(super) fn restore(self, node: &Node) {
        let mut before = self.data;
        node.change(|d| {
            d.vms = std::mem::take(&mut before.vms);
            d.guests = std::mem::take(&mut before.guests);
            d.volumes = std::mem::take(&mut before.volumes);
        });
    }
}

/// Which recorded UPIDs and process ids are which of ours.
#[derive(Default)]
pub(super) struct Names {
    upids: BTreeMap<String, String>,
    pids: BTreeMap<String, String>,
}

impl Names {
    /// Learns from an answer what it is called here.
    pub(super) fn learn(&mut self, theirs: &Value, ours: &Value) {
        if let (Some(theirs), Some(ours)) = (theirs.as_str(), ours.as_str())
            && theirs.starts_with("UPID:")
        {
            self.upids.insert(theirs.to_owned(), ours.to_owned());
        }
        if let (Some(theirs), Some(ours)) = (theirs["pid"].as_u64(), ours["pid"].as_u64()) {
            self.pids.insert(theirs.to_string(), ours.to_string());
        }
    }

    pub(super) fn upid(&self, theirs: &str) -> Option<&String> {
        self.upids.get(theirs)
    }

    /// A recorded path with our names in it.
    pub(super) fn path(&self, path: &str) -> String {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
        for (theirs, ours) in &self.upids {
            if decoded.contains(theirs.as_str()) {
                let encoded = super::encode(theirs);
                return path
                    .replace(&encoded, &super::encode(ours))
                    .replace(theirs, ours)
                    .replace(&theirs.replace('@', "%40"), ours);
            }
        }
        path.to_owned()
    }

    /// A recorded parameter with our names in it.
    pub(super) fn pid(&self, theirs: &str) -> Option<&String> {
        self.pids.get(theirs)
    }
}

/// Ends that do not come: how long a task of ours is waited for before the tasks that it may wait for go on.
pub(super) const PATIENCE: Duration = Duration::from_millis(150);
