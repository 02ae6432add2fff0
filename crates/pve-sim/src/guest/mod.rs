//! The machines behind the VMs: what is on their disk, which system runs, and how one becomes the other.

mod cloudinit;
mod files;
mod install;
mod life;
pub mod shell;
pub mod ssh;
mod words;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::life::running;
pub use self::{
    files::{os_info, os_release, read_file},
    install::Closure,
    life::{install, instance_id, kexec, power_off, power_on, reboot},
};
use crate::{
    conf::{self, VmConf},
    faults::Fault,
    keys,
    node::Node,
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
    /// Whether cloud-init leaves its host keys alone when it is a new instance.
    #[serde(default)]
    pub keeps_host_keys: bool,
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
    /// The time since 1970 at power on.
    pub started: Duration,
    /// Suspended.
    pub paused: bool,
    /// Whether somebody stopped the guest agent's service.
    #[serde(default)]
    pub agent_stopped: bool,
    /// When this system began to boot, and how long that takes; nothing for one that is up since before.
    #[serde(skip)]
    pub booting: Option<(Instant, Duration)>,
    /// Whether disko has been here.
    pub formatted: bool,
    /// Files below `/mnt` and elsewhere that were put in place.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Processes of the guest agent whose end nobody has asked for; nothing where one still runs.
    #[serde(skip)]
    pub processes: BTreeMap<u32, Option<Outcome>>,
}

impl Running {
    /// Whole seconds that have passed since power on at this time since 1970: as the kernel counts them for a process, not
    /// the seconds of the clock between the two.
    pub fn uptime(&self, now: Duration) -> u64 {
        now.saturating_sub(self.started).as_secs()
    }
}

/// A machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Guest {
    /// What it boots from.
    pub disk: Disk,
    /// What runs.
    pub running: Option<Running>,
    /// The process id of the QEMU that was started last; 0 before the first.
    #[serde(default)]
    pub pid: u32,
    /// Addresses it had; the node's neighbour table remembers them for a while.
    pub old_addresses: Vec<String>,
    /// The address that the node learnt by asking the whole network; only matters where it hears of none
    /// otherwise ([`Fault::QuietNeighbours`]).
    #[serde(default)]
    pub noticed: Option<String>,
}

impl Guest {
    /// A machine whose disk is this image: a NixOS that the stand-in for disko made, else a cloud image.
    pub fn of_image(node: &Node, image: &str) -> Guest {
        let bytes = if image.starts_with('/') { std::fs::read(node.file(image)).ok() } else { None };
        let built = bytes.as_deref().and_then(|bytes| {
            // Behind its boot sector.
            let text = std::str::from_utf8(bytes.get(512..)?).ok()?;
            let (about, host_key) = text.split_once('\n')?;
            let about: Closure = serde_json::from_str(about).ok()?;
            let host_key = host_key.trim_end_matches('\0').to_owned();
            Some(System {
                hostname: about.hostname,
                host_key,
                users: about.users,
                instance: String::new(),
                keeps_host_keys: false,
            })
        });
        Guest { disk: built.map_or(Disk::CloudImage(None), Disk::Nixos), ..Guest::default() }
    }

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
                keeps_host_keys: false,
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

/// Whether all of a machine's services have been started, the guest agent as one of the last.
pub(crate) fn is_settled(node: &Node, vmid: u32) -> bool {
    with(node, vmid, |run| is_after(run, node.latency().agent_after)).unwrap_or(true)
}

/// How long a machine still takes until its system is up.
pub fn boot_left(node: &Node, vmid: u32) -> Option<Duration> {
    with(node, vmid, |run| run.booting.and_then(|(start, takes)| takes.checked_sub(start.elapsed())))?
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
    with(node, vmid, |run| run.os != Os::Installer && !run.agent_stopped && is_after(run, extra))
        .unwrap_or(false)
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

/// The node asks its whole network who is there: every machine that is up answers.
pub fn notice(node: &Node) {
    node.fault(|f| {
        let Fault::Remembered { address, mac, looks: 0, there } = f else { return None };
        let gone = !*there;
        *f = Fault::Stranger { address: std::mem::take(address), mac: std::mem::take(mac) };
        Some(((), gone))
    });
    node.change(|d| {
        for guest in d.guests.values_mut() {
            guest.noticed =
                guest.running.as_ref().filter(|r| is_after(r, Duration::ZERO)).map(|r| r.address.clone());
        }
    });
}

/// Whether a machine at this address answers an echo request of the node's.
pub fn answers(node: &Node, wanted: &str) -> bool {
    let stranger = |f: &Fault| matches!(f, Fault::Stranger { address, .. } if address == wanted);
    let up = |guest: &Guest| {
        let run = guest.running.as_ref().filter(|run| is_after(run, Duration::ZERO));
        run.is_some_and(|run| run.address == wanted)
    };
    node.has_fault(stranger) || node.read(|d| d.guests.values().any(up))
}

/// `ip -j neigh` on the node: current addresses, and stale ones of the same MAC.
pub fn neighbours(node: &Node) -> Value {
    let stranger = node.fault(|f| match f {
        Fault::Stranger { address, mac } => Some((
            json!({ "dst": address, "dev": "vmbr0", "lladdr": mac.to_ascii_lowercase(), "state": ["REACHABLE"] }),
            false,
        )),
        _ => None,
    });
    let mut list: Vec<Value> = stranger.into_iter().collect();
    list.extend(node.fault(|f| match f {
        Fault::Remembered { address, mac, looks, .. } => {
            let state = if *looks > 0 { "REACHABLE" } else { "STALE" };
            *looks = looks.saturating_sub(1);
            let mac = mac.to_ascii_lowercase();
            Some((json!({ "dst": address, "dev": "vmbr0", "lladdr": mac, "state": [state] }), false))
        }
        _ => None,
    }));
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
            let quiet = node.has_fault(|f| matches!(f, Fault::QuietNeighbours { vmid: v } if v == vmid));
            let heard = |r: &&Running| !quiet || guest.noticed.as_ref() == Some(&r.address);
            let up = |r: &&Running| !silent && is_after(r, Duration::ZERO);
            if let Some(run) = guest.running.as_ref().filter(up).filter(heard) {
                entry(&run.address, "REACHABLE");
            }
        }
    });
    Value::Array(list)
}
