//! The machines behind the VMs: what is on their disk, which system runs, and how one becomes the other.

pub mod shell;
pub mod ssh;
mod words;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::{
    conf::{self, VmConf},
    faults::Fault,
    keys,
    log::What,
    node::{Data, Node, now},
    world::InitialVm,
};

/// Which system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Os {
    /// The cloud image, configured by cloud-init.
    CloudImage,
    /// The installer that nixos-anywhere starts with kexec; it lives in memory only.
    Installer,
    /// The installed system.
    Nixos,
}

impl Os {
    /// As the request log names it.
    pub fn name(self) -> &'static str {
        match self {
            Os::CloudImage => "cloud-image",
            Os::Installer => "installer",
            Os::Nixos => "nixos",
        }
    }
}

/// A system: who it is and who may log in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct System {
    /// Its host name.
    pub hostname: String,
    /// Its ed25519 SSH host key, private, OpenSSH text.
    pub host_key: String,
    /// `authorized_keys` lines by user.
    pub users: BTreeMap<String, Vec<String>>,
    /// cloud-init's instance id.
    #[serde(default)]
    pub instance: String,
}

/// What the disk holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub enum Disk {
    /// Nothing that boots.
    #[default]
    Blank,
    /// A cloud image, and what cloud-init made of it at first boot.
    CloudImage(Option<System>),
    /// An installed NixOS.
    Nixos(System),
}

/// What a command left.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit status.
    pub status: u32,
}

/// A machine that is powered on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// Which system.
    pub os: Os,
    /// The system.
    pub system: System,
    /// Its address.
    pub address: String,
    /// Which boot this is; connections belong to one.
    pub boot: u64,
    /// Seconds since 1970 at power on.
    pub started: u64,
    /// Suspended.
    pub paused: bool,
    /// When this system began to boot, and how long that takes; nothing for one that is up since before.
    #[serde(skip)]
    pub booting: Option<(Instant, Duration)>,
    /// Whether disko has been here.
    pub formatted: bool,
    /// Files below `/mnt` and elsewhere that were put in place.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Ended processes of the guest agent.
    #[serde(skip)]
    pub processes: BTreeMap<u32, Outcome>,
}

/// A machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Guest {
    /// What it boots from.
    pub disk: Disk,
    /// What runs.
    pub running: Option<Running>,
    /// Addresses it had; the node's neighbour table remembers them for a while.
    pub old_addresses: Vec<String>,
}

impl Guest {
    /// The machine of a VM that exists from the start.
    pub fn initial(vm: &InitialVm, conf: &VmConf) -> Result<Guest> {
        let disk = if vm.cloud_image {
            Disk::CloudImage(None)
        } else {
            Disk::Nixos(System {
                hostname: conf.get("name").unwrap_or("nixos").to_owned(),
                host_key: keys::generate("root@installed")?,
                users: BTreeMap::new(),
                instance: String::new(),
            })
        };
        Ok(Guest { disk, ..Guest::default() })
    }

    /// A machine with a fresh cloud image.
    pub fn cloud_image() -> Guest {
        Guest { disk: Disk::CloudImage(None), ..Guest::default() }
    }

    /// A machine with a copy of this one's disk.
    pub fn copy_of(source: &Guest) -> Guest {
        Guest { disk: source.disk.clone(), ..Guest::default() }
    }

    /// Marks the installed system as running since before.
    pub fn start_installed(&mut self, address: String, boot: u64) {
        if let Disk::Nixos(system) = &self.disk {
            self.running = Some(running(Os::Nixos, system.clone(), address, boot, None));
        }
    }
}

fn running(os: Os, system: System, address: String, boot: u64, takes: Option<Duration>) -> Running {
    Running {
        os,
        system,
        address,
        boot,
        started: now(),
        paused: false,
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
fn cloud_system(conf: &VmConf, before: Option<&System>) -> Result<System, String> {
    let seeded = crate::api::has_cloudinit_drive(conf);
    let instance = if seeded { instance_id(conf) } else { "none".to_owned() };
    if let Some(system) = before.filter(|s| s.instance == instance) {
        return Ok(system.clone());
    }
    let user = conf.get("ciuser").filter(|u| seeded && !u.is_empty()).unwrap_or("ubuntu");
    let text = conf.get("sshkeys").filter(|_| seeded).unwrap_or_default();
    let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let lines = text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    let hostname = conf.get("name").filter(|_| seeded).unwrap_or("ubuntu").to_owned();
    // A new instance deletes the host keys and makes new ones (ssh_deletekeys).
    let host_key = keys::generate(&format!("root@{hostname}")).map_err(|e| format!("{e:#}"))?;
    Ok(System { hostname, host_key, users: BTreeMap::from([(user.to_owned(), lines)]), instance })
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
            let system = cloud_system(&conf, before.as_ref())?;
            (Os::CloudImage, system)
        }
        Disk::Nixos(system) => (Os::Nixos, system),
        Disk::Blank => {
            let host_key = keys::generate("none").map_err(|e| format!("{e:#}"))?;
            let nobody =
                System { hostname: String::new(), host_key, users: BTreeMap::new(), instance: String::new() };
            // Powered on, but nothing boots.
            (Os::CloudImage, nobody)
        }
    };
    let nothing = matches!(d.guests.get(&vmid).map(|g| &g.disk), Some(Disk::Blank));
    let takes = if nothing { Duration::from_secs(1 << 30) } else { takes };
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
        let address = next_address(node, d, vmid, &conf, Os::Installer);
        d.boots += 1;
        let boot = d.boots;
        let lines: Vec<String> = old.system.users.values().flatten().cloned().collect();
        let system = System {
            hostname: "nixos-installer".to_owned(),
            host_key: old.system.host_key,
            users: BTreeMap::from([("root".to_owned(), lines)]),
            instance: String::new(),
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

fn with<T>(node: &Node, vmid: u32, look: impl FnOnce(&Running) -> T) -> Option<T> {
    node.read(|d| d.guests.get(&vmid).and_then(|g| g.running.as_ref()).map(look))
}

fn is_after(run: &Running, extra: Duration) -> bool {
    !run.paused && run.booting.is_none_or(|(start, takes)| start.elapsed() >= takes.saturating_add(extra))
}

/// Whether the machine's sshd answers.
pub fn is_up(node: &Node, vmid: u32) -> bool {
    let never = node.has_fault(|f| matches!(f, Fault::NeverBoots { vmid: v } if *v == vmid));
    !never && with(node, vmid, |run| is_after(run, Duration::ZERO)).unwrap_or(false)
}

/// Whether the machine's guest agent answers.
pub fn agent_is_up(node: &Node, vmid: u32) -> bool {
    if node.has_fault(
        |f| matches!(f, Fault::AgentNever { vmid: v } | Fault::NeverBoots { vmid: v } if *v == vmid),
    ) {
        return false;
    }
    let mut extra = node.latency().agent_after;
    if let Some(by) = node.fault(|f| match f {
        Fault::AgentLate { vmid: v, by } if *v == vmid => Some((*by, false)),
        _ => None,
    }) {
        extra += by;
    }
    // The installer has no guest agent.
    with(node, vmid, |run| run.os != Os::Installer && is_after(run, extra)).unwrap_or(false)
}

/// The address as the machine knows it; nothing while DHCP has not answered.
pub fn visible_address(node: &Node, vmid: u32) -> Option<String> {
    if node.has_fault(|f| matches!(f, Fault::NoAddress { vmid: v } if *v == vmid)) {
        return None;
    }
    let latency = node.latency();
    let extra = latency.agent_after + latency.address_after;
    with(node, vmid, |run| is_after(run, extra).then(|| run.address.clone()))?
}

/// Whether an installed NixOS runs.
pub fn is_installed(node: &Node, vmid: u32) -> bool {
    with(node, vmid, |run| run.os == Os::Nixos).unwrap_or(false)
}

/// The running system's host name.
pub fn hostname(node: &Node, vmid: u32) -> String {
    with(node, vmid, |run| run.system.hostname.clone()).unwrap_or_default()
}

/// Which machine answers at an address: its number and boot.
pub fn at_address(node: &Node, address: &str) -> Option<(u32, u64)> {
    let found = node.read(|d| {
        d.guests.iter().find_map(|(vmid, g)| {
            let run = g.running.as_ref()?;
            (run.address == address).then_some((*vmid, run.boot))
        })
    })?;
    let silent = node.has_fault(|f| matches!(f, Fault::NoAddress { vmid } if *vmid == found.0));
    (!silent && is_up(node, found.0)).then_some(found)
}

/// `ip -j neigh` on the node: current addresses, and stale ones of the same MAC.
pub fn neighbours(node: &Node) -> Value {
    let mut list = Vec::new();
    node.read(|d| {
        for (vmid, guest) in &d.guests {
            let net = d.vms.get(vmid).and_then(|c| c.get("net0")).unwrap_or_default();
            let Some(mac) = conf::mac_of(net) else { continue };
            let mut entry = |address: &str, state: &str| {
                list.push(json!({ "dst": address, "dev": "vmbr0", "lladdr": mac.to_ascii_lowercase(), "state": [state] }));
            };
            for address in &guest.old_addresses {
                entry(address, "STALE");
            }
            let silent = node.has_fault(|f| matches!(f, Fault::NoAddress { vmid: v } if v == vmid));
            if let Some(run) = guest.running.as_ref().filter(|r| !silent && is_after(r, Duration::ZERO)) {
                entry(&run.address, "REACHABLE");
            }
        }
    });
    Value::Array(list)
}

/// `/etc/os-release` of the running system.
pub fn os_release(os: Os) -> &'static str {
    match os {
        Os::CloudImage => {
            "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n"
        }
        Os::Installer => {
            "ANSI_COLOR=\"0;38;2;126;186;228\"\nID=nixos\nNAME=NixOS\nPRETTY_NAME=\"NixOS 25.11 (Xantusia)\"\n\
             VARIANT=\"Installer\"\nVARIANT_ID=installer\nVERSION_ID=\"25.11\"\n"
        }
        Os::Nixos => {
            "ANSI_COLOR=\"0;38;2;126;186;228\"\nID=nixos\nNAME=NixOS\nPRETTY_NAME=\"NixOS 25.11 (Xantusia)\"\n\
             VERSION_ID=\"25.11\"\n"
        }
    }
}

/// `guest-get-osinfo`.
pub fn os_info(node: &Node, vmid: u32) -> Value {
    let os = with(node, vmid, |r| r.os).unwrap_or(Os::CloudImage);
    if os == Os::CloudImage {
        json!({ "id": "ubuntu", "name": "Ubuntu", "pretty-name": "Ubuntu 24.04.3 LTS", "version-id": "24.04", "machine": "x86_64" })
    } else {
        json!({ "id": "nixos", "name": "NixOS", "pretty-name": "NixOS 25.11 (Xantusia)", "version-id": "25.11", "machine": "x86_64" })
    }
}

/// A file on the running machine, read as root.
pub fn read_file(node: &Node, vmid: u32, path: &str) -> Option<Vec<u8>> {
    let run = with(node, vmid, Clone::clone)?;
    if let Some(content) = run.files.get(path) {
        return Some(content.clone());
    }
    let text = match path {
        "/etc/hostname" => format!("{}\n", run.system.hostname),
        "/etc/os-release" | "/usr/lib/os-release" => os_release(run.os).to_owned(),
        "/etc/ssh/ssh_host_ed25519_key.pub" => {
            format!("{} root@{}\n", keys::public_line(&run.system.host_key).ok()?, run.system.hostname)
        }
        "/etc/ssh/ssh_host_ed25519_key" => run.system.host_key,
        "/proc/sys/kernel/random/boot_id" => format!("00000000-0000-4000-8000-{:012}\n", run.boot),
        "/proc/uptime" => format!("{}.00 0.00\n", now().saturating_sub(run.started)),
        "/proc/meminfo" => "MemTotal:        4014080 kB\nMemAvailable:    3600000 kB\n".to_owned(),
        "/etc/machine-id" => format!("{vmid:032x}\n"),
        "/root/.ssh/authorized_keys" => run.system.users.get("root")?.join("\n") + "\n",
        _ => return None,
    };
    Some(text.into_bytes())
}
