//! A VM's configuration: read, and changed in one request.

use std::collections::BTreeMap;

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    guard::Permit,
    protocol::{Marker, VmConfig},
    types::{DiskSize, MacAddr, NodeName, Vmid},
};
use serde_json::Value;

use super::Progress;
use crate::{
    api::{
        call::{Call, vm_path},
        encode,
    },
    node::Node,
    tasks,
};

/// Reads a VM's configuration as it is stored, without pending changes.
pub fn read(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<VmConfig> {
    let name = node.name(deadline)?;
    let data = node
        .api
        .get(
            &format!("read the configuration of VM {vmid}"),
            &vm_path(name, vmid, "/config"),
            &[("current", encode::flag(true))],
            deadline,
        )
        .map_err(|e| node.explain_missing(vmid, e))?;
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

/// Changes settings in one request; `digest` makes it fail when somebody else changed the VM meanwhile.
///
/// A cloud-init drive that the VM has already, as a clone may, is left out of the request: a second one would
/// be refused. When the answer is lost the configuration is read again, and what it lacks decides.
pub fn change(
    node: &Node,
    permit: &Permit,
    settings: &BTreeMap<String, String>,
    delete: &[String],
    digest: Option<&str>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    let mut settings = settings.clone();
    if settings.values().any(|value| is_cloudinit(value)) {
        let now = read(node, vmid, deadline)?;
        settings.retain(|key, value| {
            !(is_cloudinit(value) && now.settings.get(key).is_some_and(|there| is_cloudinit(there)))
        });
    }
    if settings.is_empty() && delete.is_empty() {
        return Ok(());
    }
    let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let call = Call::configure(permit, &name, pairs, delete, digest);
    let mut done = || {
        let now = read(node, vmid, deadline.at_most(std::time::Duration::from_secs(20)))?;
        Ok(settings.iter().all(|(key, value)| holds(key, value, now.settings.get(key)))
            && delete.iter().all(|key| !now.settings.contains_key(key)))
    };
    tasks::run_or_look(&node.api, permit, &call, ("qmconfig", vmid, &name), deadline, progress, &mut done)
        .map_err(|e| node.explain_missing(vmid, e))
}

/// Whether what is stored is what was asked for. Proxmox fills in what a value leaves open (a MAC, a volume's
/// name), so of property strings only what was said is compared.
fn holds(key: &str, asked: &str, stored: Option<&String>) -> bool {
    let Some(stored) = stored else { return asked.is_empty() };
    if stored == asked || key == "sshkeys" && stored.trim() == asked.trim() || key == "cipassword" {
        return true;
    }
    if is_cloudinit(asked) {
        return is_cloudinit(stored);
    }
    if key == "description" {
        return stored.trim_end() == asked.trim_end();
    }
    let there: Vec<&str> = stored.split(',').collect();
    let mut parts = asked.split(',').peekable();
    parts.all(|part| {
        there.contains(&part)
            || !part.contains('=') && there.iter().any(|t| t.split('=').next() == Some(part))
            // A new volume, `STORAGE:SIZE`, becomes `STORAGE:VOLUME`.
            || part.split_once(':').is_some_and(|(storage, _)| {
                there.first().is_some_and(|t| t.split_once(':').is_some_and(|(s, _)| s == storage))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node, permit};
    use fleet_core::Kind;
    use serde_json::json;

    const NODE: &str = "/cluster/status";
    const CONFIG: &str = "/nodes/prom/qemu/110/config";

    fn fake() -> Fake {
        Fake::new().get(NODE, json!([{"type": "node", "name": "prom", "local": 1}]))
    }

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
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

    #[test]
    fn a_change_is_one_request_in_one_write() {
        let fake = fake().on("POST", CONFIG, 200, json!({"data": null}));
        let asked =
            settings(&[("cores", "2"), ("sshkeys", "ssh-ed25519 AA+A me@x"), ("description", "a=b&c")]);
        change(
            &node(&fake),
            &permit(110),
            &asked,
            &["scsi1".into()],
            Some("d1"),
            Deadline::secs(5),
            &mut |_| {},
        )
        .unwrap();
        assert_eq!(
            fake.log().last().unwrap(),
            "POST /nodes/prom/qemu/110/config cores=2&description=a%3Db%26c\
             &sshkeys=ssh-ed25519%2520AA%252BA%2520me%2540x&delete=scsi1&digest=d1"
        );
        assert_eq!(fake.writes().len(), fake.log().len(), "one write a request");
        assert_eq!(fake.opened(), 1, "one connection");
        assert_eq!(fake.minted(), (1, 0));
    }

    #[test]
    fn a_second_cloudinit_drive_is_not_asked_for() {
        let fake = fake()
            .get(CONFIG, json!({"digest": "d", "ide2": "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom"}))
            .on("POST", CONFIG, 200, json!({"data": null}));
        let asked = settings(&[("ide2", "nvmeprom:cloudinit"), ("ciuser", "root")]);
        change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {}).unwrap();
        assert_eq!(fake.log().last().unwrap(), "POST /nodes/prom/qemu/110/config ciuser=root");
    }

    #[test]
    fn a_lost_answer_is_looked_into() {
        let asked = settings(&[("cores", "2"), ("scsi1", "nvmeprom:20")]);
        let lost = |config: Value| {
            let fake = fake().drops("POST", CONFIG).get(CONFIG, config).get("/nodes/prom/tasks", json!([]));
            let outcome =
                change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {});
            assert_eq!(fake.requests("POST"), 1, "never sent again blindly");
            outcome
        };
        lost(json!({"digest": "d", "cores": 2, "scsi1": "nvmeprom:vm-110-disk-1,size=20G"})).unwrap();
        let error = lost(json!({"digest": "d", "cores": 1})).unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown);
    }

    #[test]
    fn what_is_stored_holds_what_was_asked() {
        let holds = |key, asked, stored: &str| holds(key, asked, Some(&stored.to_owned()));
        assert!(holds("net0", "virtio,bridge=vmbr0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"));
        assert!(!holds("net0", "virtio,bridge=vmbr1", "virtio=BC:24:11:00:00:01,bridge=vmbr0"));
        assert!(holds("ide2", "s:cloudinit", "s:vm-110-cloudinit,media=cdrom"));
        assert!(!holds("cores", "2", "1"));
    }
}
