//! The configuration of every VM and container of the cluster, at the cost of one command.
//!
//! The API gives one configuration a request, and only those of its own node. The cluster's file system has them
//! all on every node, in the form that qm.conf(5) and pct.conf(5) describe.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{
    Kind, Result,
    deadline::Deadline,
    protocol::{ClusterConfig, Marker, Resource, ResourceKind},
    ssh::ExecStatus,
    types::{MacAddr, NodeName, Vmid},
};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::config;
use crate::{
    api::{call::vm_path, encode},
    cluster::Cluster,
    node::Node,
};

/// Every line of every configuration, with the file that it is in before it.
const COMMAND: &str = "grep -asH '' /etc/pve/nodes/*/qemu-server/*.conf /etc/pve/nodes/*/lxc/*.conf";

/// What the API gives in place of a password.
const MASKED: &str = "**********";

/// Reads them all. An account that may not read the files gets what the API gives of the VMs, a request each, of every
/// node that is reached.
pub fn all(cluster: &Cluster, deadline: Deadline) -> Result<Vec<ClusterConfig>> {
    let node = cluster.first();
    let output = node.api.transport().exec(COMMAND, b"", deadline)?;
    // 1 is "no line", 2 "a file could not be read": a pattern that no file fits is one.
    let found = parse(&String::from_utf8_lossy(&output.stdout));
    if !found.is_empty() || output.status == ExecStatus::Code(0) {
        return Ok(found);
    }
    node.ui.detail("the cluster's configuration files can not be read: asking the API for each VM");
    let mut resources = cluster.resources(deadline)?;
    resources.retain(|r| r.kind == ResourceKind::Qemu);
    let mut found = Vec::new();
    let mut away: BTreeSet<NodeName> = BTreeSet::new();
    for Resource { vmid, node: home, .. } in resources {
        if away.contains(&home) {
            continue;
        }
        match cluster.node(&home).and_then(|node| by_api(&node, vmid, deadline)) {
            Ok(config) => found.push(config),
            // Removed meanwhile, or on its way to another node.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if home != *node.name(deadline)? => {
                node.ui.detail(format!("the VMs of the node '{home}' are left out: {}", e.chain()));
                away.insert(home);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn by_api(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<ClusterConfig> {
    let name = node.name(deadline)?;
    let rows: Vec<Value> = node.api.get_as(
        &format!("read the configuration of VM {vmid}"),
        &vm_path(name, vmid, "/pending"),
        &[],
        deadline,
    )?;
    let mut config = ClusterConfig::new(vmid, name.clone(), ResourceKind::Qemu);
    take_rows(&mut config, &rows);
    Ok(complete(config))
}

/// A row for each setting: its `value` now, what is `pending`, whether it will be deleted (2: by force).
fn take_rows(config: &mut ClusterConfig, rows: &[Value]) {
    let mut deleted = Vec::new();
    for row in rows {
        let Some(key) = row.get("key").and_then(Value::as_str).filter(|key| *key != "digest") else {
            continue;
        };
        let plain = |name: &str| row.get(name).map(|value| encode::plain_setting(key, value));
        config.settings.extend(plain("value").map(|value| (key.to_owned(), value)));
        config.pending.extend(plain("pending").map(|value| (key.to_owned(), value)));
        match encode::whole(row.get("delete")) {
            Some(1) => deleted.push(key.to_owned()),
            Some(2) => deleted.push(format!("!{key}")),
            _ => {}
        }
    }
    if !deleted.is_empty() {
        config.pending.insert("delete".to_owned(), deleted.join(","));
    }
}

fn parse(text: &str) -> Vec<ClusterConfig> {
    let mut found: BTreeMap<Vmid, (ClusterConfig, Section)> = BTreeMap::new();
    for line in text.lines() {
        let Some((file, line)) = line.split_once(".conf:") else { continue };
        let Some((vmid, node, kind)) = whose(file) else { continue };
        let (config, section) =
            found.entry(vmid).or_insert_with(|| (ClusterConfig::new(vmid, node, kind), Section::Current));
        take(config, section, line);
    }
    found.into_values().map(|(config, _)| complete(config)).collect()
}

/// From `/etc/pve/nodes/prom/qemu-server/110`.
fn whose(file: &str) -> Option<(Vmid, NodeName, ResourceKind)> {
    let mut parts = file.rsplit('/');
    let vmid = parts.next()?.parse().ok()?;
    let kind = match parts.next()? {
        "qemu-server" => ResourceKind::Qemu,
        "lxc" => ResourceKind::Lxc,
        _ => return None,
    };
    Some((vmid, parts.next()?.parse().ok()?, kind))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Current,
    Pending,
    /// A snapshot, or something else that is not the VM as it is.
    Other,
}

fn take(config: &mut ClusterConfig, section: &mut Section, line: &str) {
    if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.trim_end().strip_suffix(']')) {
        *section = if name.eq_ignore_ascii_case("pending") { Section::Pending } else { Section::Other };
        return;
    }
    let settings = match section {
        Section::Current => &mut config.settings,
        Section::Pending => &mut config.pending,
        Section::Other => return,
    };
    if let Some(comment) = line.strip_prefix('#') {
        // The description: a line of comment each, some characters percent-encoded.
        let text = percent_decode_str(comment).decode_utf8_lossy();
        let description = settings.entry("description".to_owned()).or_default();
        if !description.is_empty() {
            description.push('\n');
        }
        description.push_str(&text);
    } else if let Some((key, value)) = line.split_once(':') {
        // The file has its hash, which the API shows to nobody.
        let value = if key.trim() == "cipassword" { MASKED } else { value.trim() };
        let value = encode::plain_setting(key, &value.into());
        settings.insert(key.trim().to_owned(), value);
    }
}

fn complete(mut config: ClusterConfig) -> ClusterConfig {
    let description = config.settings.get("description");
    config.marker =
        description.and_then(|text| Marker::find(text)).filter(|marker| marker.vmid == config.vmid);
    let cards = config.settings.iter().filter(|(key, _)| is_numbered(key, "net"));
    config.macs = cards.filter_map(|(_, card)| config::mac_of(card)).collect::<Vec<MacAddr>>();
    config
}

fn is_numbered(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &str = "\
/etc/pve/nodes/prom/qemu-server/110.conf:#fleet-vm%3A name=web vmid=110 nonce=0123456789abcdef0123456789abcdef
/etc/pve/nodes/prom/qemu-server/110.conf:#50%25 of the load
/etc/pve/nodes/prom/qemu-server/110.conf:cores: 2
/etc/pve/nodes/prom/qemu-server/110.conf:cipassword: $5$salt$hash
/etc/pve/nodes/prom/qemu-server/110.conf:net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
/etc/pve/nodes/prom/qemu-server/110.conf:sshkeys: ssh-ed25519%20AAAA%20me%0A
/etc/pve/nodes/prom/qemu-server/110.conf:
/etc/pve/nodes/prom/qemu-server/110.conf:[PENDING]
/etc/pve/nodes/prom/qemu-server/110.conf:cores: 4
/etc/pve/nodes/prom/qemu-server/110.conf:cipassword: $5$salt$newhash
/etc/pve/nodes/prom/qemu-server/110.conf:
/etc/pve/nodes/prom/qemu-server/110.conf:[before]
/etc/pve/nodes/prom/qemu-server/110.conf:#a snapshot
/etc/pve/nodes/prom/qemu-server/110.conf:cores: 1
/etc/pve/nodes/b/lxc/201.conf:hostname: pihole
/etc/pve/nodes/b/lxc/201.conf:net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,ip=192.0.2.5/24
";

    #[test]
    fn what_the_api_says_is_what_a_file_says() {
        let mut config =
            ClusterConfig::new(Vmid::new(110).unwrap(), "prom".parse().unwrap(), ResourceKind::Qemu);
        let marker = "fleet-vm: name=web vmid=110 nonce=0123456789abcdef0123456789abcdef";
        let rows = serde_json::json!([
            {"key": "cores", "value": 2, "pending": 4},
            {"key": "description", "value": marker},
            {"key": "ide2", "value": "local:110/vm-110-cloudinit.qcow2,media=cdrom", "delete": 1},
            {"key": "scsi3", "value": "local:110/vm-110-disk-3.qcow2", "delete": 2},
            {"key": "sshkeys", "value": "ssh-ed25519%20AAAA%20me%0A"},
            {"key": "tags", "pending": "web"},
            {"key": "digest", "value": "d"},
        ]);
        take_rows(&mut config, rows.as_array().unwrap());
        let config = complete(config);
        assert_eq!(config.marker.as_ref().unwrap().name.as_str(), "web");
        assert_eq!((config.settings["cores"].as_str(), config.pending["cores"].as_str()), ("2", "4"));
        assert_eq!((config.pending["tags"].as_str(), config.settings.get("tags")), ("web", None));
        assert_eq!(config.pending["delete"], "ide2,!scsi3");
        assert_eq!(config.settings["sshkeys"], "ssh-ed25519 AAAA me\n");
        assert!(!config.settings.contains_key("digest"));
    }

    #[test]
    fn files_of_all_nodes_become_configurations() {
        let found = parse(FILES);
        assert_eq!(found.len(), 2, "{found:?}");
        let (vm, container) = (&found[0], &found[1]);
        assert_eq!((vm.vmid.get(), vm.node.as_str(), vm.kind), (110, "prom", ResourceKind::Qemu));
        assert_eq!(vm.marker.as_ref().unwrap().name.as_str(), "web");
        assert!(vm.settings["description"].ends_with("\n50% of the load"), "{vm:?}");
        assert_eq!((vm.settings["cores"].as_str(), vm.pending["cores"].as_str()), ("2", "4"));
        assert_eq!((vm.settings["cipassword"].as_str(), vm.pending["cipassword"].as_str()), (MASKED, MASKED));
        assert_eq!(vm.settings["sshkeys"], "ssh-ed25519 AAAA me\n");
        assert_eq!((container.vmid.get(), container.kind), (201, ResourceKind::Lxc));
        assert_eq!(container.macs, ["BC:24:11:00:00:02".parse::<MacAddr>().unwrap()]);
    }
}
