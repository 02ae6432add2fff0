//! A VM's configuration: read, and changed in one request.

mod change;
mod stored;

use std::collections::BTreeMap;

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::{Marker, VmConfig},
    types::{DiskSize, MacAddr, NodeName, Vmid},
};
use serde_json::Value;

pub use self::change::{change, set};
use crate::{
    api::{call::vm_path, encode},
    node::Node,
};

/// Reads a VM's configuration as it is stored, without pending changes.
pub fn read(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<VmConfig> {
    read_as(node, vmid, true, deadline)
}

/// Reads it as it will be once pending changes hold.
pub(super) fn read_pending(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<VmConfig> {
    read_as(node, vmid, false, deadline)
}

/// Reads it as it is now (`current`), or as it will be once the VM has been stopped and started.
fn read_as(node: &Node, vmid: Vmid, current: bool, deadline: Deadline) -> Result<VmConfig> {
    let name = node.name(deadline)?;
    let data = node.api.get(
        &format!("read the configuration of VM {vmid}"),
        &vm_path(name, vmid, "/config"),
        &[("current", encode::flag(current))],
        deadline,
    )?;
    parse(name, vmid, &data)
}

fn parse(node: &NodeName, vmid: Vmid, data: &Value) -> Result<VmConfig> {
    let object = data
        .as_object()
        .ok_or_else(|| Error::failed(format!("the node's configuration of VM {vmid} has another shape")))?;
    let mut settings: BTreeMap<String, String> =
        object.iter().map(|(key, value)| (key.clone(), encode::plain_setting(key, value))).collect();
    let digest = settings.remove("digest").unwrap_or_default();
    let marker = settings.get("description").and_then(|d| Marker::find(d)).filter(|m| m.vmid == vmid);
    let mac = settings.get("net0").and_then(|net| mac_of(net));
    Ok(VmConfig { vmid, node: node.clone(), settings, digest, marker, mac })
}

/// The MAC address in `virtio=BC:24:11:00:00:01,bridge=vmbr0`: the first value that is one.
pub fn mac_of(net: &str) -> Option<MacAddr> {
    net.split(',').find_map(|part| part.split_once('=')?.1.parse().ok())
}

/// A disk's size as its setting says it.
pub fn size_of(setting: &str) -> Option<DiskSize> {
    encode::property(setting, "size")?.parse().ok()
}

/// Whether a setting is a cloud-init drive.
pub fn is_cloudinit(setting: &str) -> bool {
    let volume = setting.split(',').next().unwrap_or_default();
    volume.ends_with(":cloudinit") || volume.contains("-cloudinit")
}

/// Whether the VM is a template.
pub(super) fn is_template(config: &VmConfig) -> bool {
    config.settings.get("template").is_some_and(|set| encode::truth(Some(&set.as_str().into())))
}

/// A template that no definition has may be named as unmanaged; it is changed by the template commands alone all the
/// same.
pub(super) fn refuse_template(config: &VmConfig, permit: &Permit, verb: &str) -> Result<()> {
    if permit.operation() != Operation::Change || !is_template(config) {
        return Ok(());
    }
    Err(Error::refused(format!("refused to {verb} VM {}: it is a template", config.vmid))
        .now("nothing was changed")
        .hint("templates are changed only by the template commands"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

    const CONFIG: &str = "/nodes/prom/qemu/110/config";

    fn fake() -> Fake {
        Fake::new().get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
    }

    #[test]
    fn a_configuration_is_read_in_plain_text() {
        let fake = fake().get(
            CONFIG,
            json!({
                "digest": "d1", "memory": "2048", "cores": 2, "net0": "virtio=BC:24:11:F3:A0:C7,bridge=vmbr0",
                "sshkeys": "ssh-ed25519%20AAAA%20me%40x%0A",
                "description": "mine\nfleet-vm: name=web vmid=110 nonce=00112233445566778899aabbccddeeff\n",
            }),
        );
        let config = read(&node(&fake), Vmid::new(110).unwrap(), Deadline::secs(5)).unwrap();
        assert_eq!(config.settings["sshkeys"], "ssh-ed25519 AAAA me@x\n");
        assert_eq!((config.settings["cores"].as_str(), config.digest.as_str()), ("2", "d1"));
        assert_eq!(config.marker.unwrap().nonce, "00112233445566778899aabbccddeeff");
        assert_eq!(config.mac.unwrap().to_string(), "BC:24:11:F3:A0:C7");
    }

    #[test]
    fn a_marker_of_another_vmid_is_no_marker() {
        let name = "prom".parse().unwrap();
        let data =
            json!({"description": "fleet-vm: name=web vmid=111 nonce=00112233445566778899aabbccddeeff"});
        assert_eq!(parse(&name, Vmid::new(110).unwrap(), &data).unwrap().marker, None);
    }
}
