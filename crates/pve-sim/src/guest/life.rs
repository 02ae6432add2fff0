//! How one system on a machine becomes the other: power, boot, kexec, installation.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sha1::{Digest, Sha1};

use super::{Disk, Os, Running, System, cloudinit::UserData};
use crate::{
    conf::{self, VmConf},
    keys,
    ledger::Party,
    log::What,
    node::{Data, Node, since_1970},
};

pub(super) fn running(
    os: Os,
    system: System,
    address: String,
    boot: u64,
    takes: Option<Duration>,
) -> Running {
    Running {
        os,
        system,
        address,
        boot,
        started: since_1970(),
        paused: false,
        agent_stopped: false,
        booting: takes.map(|takes| (Instant::now(), takes)),
        formatted: false,
        files: BTreeMap::new(),
        processes: BTreeMap::new(),
    }
}

/// cloud-init's instance id: it changes with any cloud-init setting.
pub fn instance_id(conf: &VmConf) -> String {
    let wanted = |k: &&String| {
        k.starts_with("ci")
            || k.starts_with("ipconfig")
            || ["sshkeys", "name", "nameserver", "searchdomain"].contains(&k.as_str())
    };
    let mut text = String::new();
    for key in conf.main.keys().filter(wanted) {
        text.push_str(&format!("{key}={}\n", conf.get(key).unwrap_or_default()));
    }
    Sha1::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// What cloud-init makes of the image.
fn cloud_system(node: &Node, data: &Data, conf: &VmConf, before: Option<&System>) -> Result<System, String> {
    let seeded = crate::api::has_cloudinit_drive(conf);
    let given = if seeded { UserData::of(node, data, conf) } else { UserData::default() };
    let host_key = given.host_key().map(str::to_owned);
    let mut instance = if seeded { instance_id(conf) } else { "none".to_owned() };
    if let Some(key) = &host_key {
        // The id covers the documents themselves.
        instance
            .push_str(&Sha1::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect::<String>());
    }
    if let Some(system) = before.filter(|s| s.instance == instance) {
        return Ok(system.clone());
    }
    let keeps = given.keeps_host_keys();
    let hostname = given.hostname.unwrap_or_else(|| "ubuntu".to_owned());
    let user = given.user.unwrap_or_else(|| "ubuntu".to_owned());
    // A new instance deletes the host keys and, where it is given none, makes new ones: unless it was told not to
    // (ssh_deletekeys).
    let kept = before.filter(|system| system.keeps_host_keys);
    let host_key = match (host_key, kept) {
        (Some(key), _) => key,
        (None, Some(system)) => system.host_key.clone(),
        (None, None) => keys::generate(&format!("root@{hostname}")).map_err(|e| format!("{e:#}"))?,
    };
    Ok(System {
        hostname,
        host_key,
        users: BTreeMap::from([(user, given.ssh_authorized_keys)]),
        instance,
        keeps_host_keys: keeps || kept.is_some(),
    })
}

fn static_address(conf: &VmConf) -> Option<String> {
    let ip = conf::property(conf.get("ipconfig0")?, "ip", "")?;
    ip.split_once('/').map(|(address, _)| address.to_owned())
}

fn boots_changed(node: &Node) {
    node.boots.send_modify(|n| *n += 1);
}

fn announce(node: &Node, vmid: u32) {
    if let Some((os, address)) =
        node.read(|d| d.guests.get(&vmid).and_then(|g| g.running.as_ref()).map(|r| (r.os, r.address.clone())))
    {
        node.log.add(What::GuestBoot { vmid, system: os.name().to_owned(), address });
    }
    boots_changed(node);
}

/// Switches a machine on: it boots what its disk holds.
pub fn power_on(node: &Arc<Node>, vmid: u32) -> Result<(), String> {
    let latency = node.latency();
    node.change(|d| {
        if let Some(conf) = d.vms.get_mut(&vmid) {
            conf.apply_pending();
            conf.cloudinit.clear();
        }
        d.pid += 7;
        d.guests.entry(vmid).or_default().pid = d.pid;
        boot_disk(node, d, vmid, latency.boot)
    })?;
    announce(node, vmid);
    Ok(())
}

fn boot_disk(node: &Node, d: &mut Data, vmid: u32, takes: Duration) -> Result<(), String> {
    let conf = d.vms.get(&vmid).cloned().unwrap_or_default();
    let disk = d.guests.entry(vmid).or_default().disk.clone();
    let (os, system) = match disk {
        Disk::CloudImage(before) => {
            let system = cloud_system(node, d, &conf, before.as_ref())?;
            (Os::CloudImage, system)
        }
        Disk::Nixos(system) => (Os::Nixos, system),
        Disk::Blank => {
            let host_key = keys::generate("none").map_err(|e| format!("{e:#}"))?;
            let nobody = System {
                hostname: String::new(),
                host_key,
                users: BTreeMap::new(),
                instance: String::new(),
                keeps_host_keys: false,
            };
            // Powered on, but nothing boots.
            (Os::CloudImage, nobody)
        }
    };
    let nothing = matches!(d.guests.get(&vmid).map(|g| &g.disk), Some(Disk::Blank));
    let takes = if nothing { Duration::from_secs(1 << 30) } else { takes };
    let agent = if os == Os::Nixos { node.latency().agent_after } else { Duration::ZERO };
    node.ledger.takes(Party::Boot, format!("{vmid} boots"), takes.saturating_add(agent));
    let address = next_address(node, d, vmid, &conf, os);
    d.boots += 1;
    let boot = d.boots;
    if let Some(guest) = d.guests.get_mut(&vmid) {
        if os == Os::CloudImage && !nothing {
            guest.disk = Disk::CloudImage(Some(system.clone()));
        }
        guest.running = Some(running(os, system, address, boot, Some(takes)));
    }
    Ok(())
}

fn next_address(node: &Node, d: &mut Data, vmid: u32, conf: &VmConf, os: Os) -> String {
    if let Some(address) = static_address(conf).filter(|_| os != Os::Installer) {
        return address;
    }
    let last = d.guests.get(&vmid).and_then(|g| {
        g.running
            .as_ref()
            .map(|r| (r.os, r.address.clone()))
            .or_else(|| g.old_addresses.last().map(|a| (os, a.clone())))
    });
    match last {
        // The same client id gets the same lease again.
        Some((last_os, address)) if last_os == os || !node.world().addresses_move => address,
        other => {
            if let (Some((_, address)), Some(guest)) = (other, d.guests.get_mut(&vmid)) {
                guest.old_addresses.push(address);
            }
            d.next_address()
        }
    }
}

/// Cuts a machine's power.
pub fn power_off(node: &Node, vmid: u32) {
    node.change(|d| {
        if let Some(guest) = d.guests.get_mut(&vmid)
            && let Some(run) = guest.running.take()
        {
            guest.old_addresses.retain(|a| *a != run.address);
            guest.old_addresses.push(run.address);
        }
        if let Some(conf) = d.vms.get_mut(&vmid) {
            conf.apply_pending();
        }
    });
    boots_changed(node);
}

/// The running system is replaced by the installer, in memory: keys and host key are carried over.
pub fn kexec(node: &Arc<Node>, vmid: u32) {
    let takes = node.latency().kexec;
    node.change(|d| {
        let conf = d.vms.get(&vmid).cloned().unwrap_or_default();
        let Some(old) = d.guests.get(&vmid).and_then(|g| g.running.clone()) else { return };
        node.ledger.takes(Party::Boot, format!("{vmid} boots the installer"), takes);
        let address = next_address(node, d, vmid, &conf, Os::Installer);
        d.boots += 1;
        let boot = d.boots;
        let lines: Vec<String> = old.system.users.values().flatten().cloned().collect();
        let system = System {
            hostname: "nixos-installer".to_owned(),
            host_key: old.system.host_key,
            users: BTreeMap::from([("root".to_owned(), lines)]),
            instance: String::new(),
            keeps_host_keys: false,
        };
        if let Some(guest) = d.guests.get_mut(&vmid) {
            guest.running = Some(running(Os::Installer, system, address, boot, Some(takes)));
        }
    });
    announce(node, vmid);
}

/// The machine boots from its disk again.
pub fn reboot(node: &Arc<Node>, vmid: u32) {
    let takes = node.latency().boot;
    // What can not boot stays dark; nobody is there to be told.
    let _ = node.change(|d| boot_disk(node, d, vmid, takes));
    announce(node, vmid);
}

/// Puts an installed system on the disk.
pub fn install(node: &Node, vmid: u32, system: System) {
    node.change(|d| {
        if let Some(guest) = d.guests.get_mut(&vmid) {
            guest.disk = Disk::Nixos(system);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_is_of_seconds_that_have_passed() {
        let system = System {
            hostname: String::new(),
            host_key: String::new(),
            users: BTreeMap::new(),
            instance: String::new(),
            keeps_host_keys: false,
        };
        let mut run = running(Os::Nixos, system, String::new(), 1, None);
        run.started = Duration::from_millis(10_900);
        let at = |millis: u64| run.uptime(Duration::from_millis(millis));
        assert_eq!([at(10_900), at(11_100), at(12_100), at(12_900)], [0, 0, 1, 2]);
    }
}
