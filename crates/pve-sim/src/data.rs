//! The node's state: in memory, and after each change on disk.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    conf::VmConf,
    guest::Guest,
    node::now,
    task::Task,
    world::{Container, Foreign, StorageDef, World},
};

/// A volume on a storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Bytes.
    pub size: u64,
    /// `qcow2`, `raw`, …
    pub format: String,
    /// `images`, `iso`, …
    pub content: String,
    /// The VM it belongs to.
    pub vmid: Option<u32>,
    /// The volume it is a linked clone of.
    pub parent: Option<String>,
    /// When it was made, seconds since 1970.
    pub ctime: u64,
}

impl Volume {
    /// Whether it is a disk of this VM, and no backup.
    pub fn is_disk_of(&self, vmid: u32) -> bool {
        self.vmid == Some(vmid) && self.content == "images"
    }
}

/// What is in a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    /// The text of the VM's configuration file.
    pub conf: String,
    /// Its machine, off.
    pub guest: Guest,
    /// What is remembered about it.
    pub notes: String,
}

/// Everything that changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Data {
    /// The VMs of this node. Stored as files of their own.
    #[serde(skip)]
    pub vms: BTreeMap<u32, VmConf>,
    /// The containers of this node.
    pub containers: Vec<Container>,
    /// VMs on other nodes.
    pub foreign: Vec<Foreign>,
    /// The bridges that the network's configuration lists.
    #[serde(default)]
    pub listed_bridges: Vec<String>,
    /// The storages.
    pub storages: Vec<StorageDef>,
    /// The volumes on them, by volume id.
    pub volumes: BTreeMap<String, Volume>,
    /// What is in those of them that are backups and were made here.
    #[serde(default)]
    pub backups: BTreeMap<String, Saved>,
    /// Tasks, oldest first.
    pub tasks: Vec<Task>,
    /// The machines behind the VMs.
    pub guests: BTreeMap<u32, Guest>,
    /// The VMs that the cluster's HA manager looks after, and the state that it was asked for (`started`, `stopped`).
    #[serde(default)]
    pub ha: BTreeMap<u32, String>,
    /// How many addresses were given out.
    pub addresses: u32,
    /// The last process id given to a task.
    pub pid: u32,
    /// Counts boots of guests: a connection belongs to one boot.
    pub boots: u64,
    #[serde(skip)]
    written: BTreeMap<u32, String>,
}

impl Data {
    /// Whether a VMID is taken anywhere in the cluster.
    pub fn is_taken(&self, vmid: u32) -> bool {
        self.vms.contains_key(&vmid)
            || self.containers.iter().any(|c| c.vmid == vmid)
            || self.foreign.iter().any(|f| f.vmid == vmid)
    }

    /// Whether a VM runs.
    pub fn is_running(&self, vmid: u32) -> bool {
        self.guests.get(&vmid).is_some_and(|g| g.running.is_some())
    }

    /// Bytes in all and bytes used of a storage.
    pub fn room(&self, storage: &StorageDef) -> (u64, u64) {
        let prefix = format!("{}:", storage.name);
        let taken: u64 =
            self.volumes.iter().filter(|(id, _)| id.starts_with(&prefix)).map(|(_, v)| v.size / 3).sum();
        (storage.total, (storage.used + taken).min(storage.total))
    }

    /// A storage by name.
    pub fn storage(&self, name: &str) -> Option<&StorageDef> {
        self.storages.iter().find(|s| s.name == name)
    }

    /// The next address for a guest.
    pub fn next_address(&mut self) -> String {
        self.addresses += 1;
        format!("192.0.2.{}", 100 + self.addresses % 150)
    }

    /// What `/etc/pve/.vmlist` says.
    pub fn vmlist(&self, node: &str) -> String {
        let mut ids: BTreeMap<u32, (&str, &str)> = self.vms.keys().map(|id| (*id, (node, "qemu"))).collect();
        ids.extend(self.containers.iter().map(|c| (c.vmid, (c.node.as_str(), "lxc"))));
        ids.extend(self.foreign.iter().map(|f| (f.vmid, (f.node.as_str(), "qemu"))));
        let lines: Vec<String> = ids
            .iter()
            .map(|(id, (node, kind))| {
                format!("\"{id}\": {{ \"node\": \"{node}\", \"type\": \"{kind}\", \"version\": 1 }}")
            })
            .collect();
        format!("{{\n\"version\": 1,\n\"ids\": {{\n{}}}\n\n}}\n", lines.join(",\n"))
    }

    pub(crate) fn save(&mut self, dir: &Path, node: &str) -> Result<()> {
        let configs = dir.join("etc/pve/nodes").join(node).join("qemu-server");
        for (vmid, conf) in &self.vms {
            let text = conf.to_string();
            if self.written.get(vmid) != Some(&text) {
                let path = configs.join(format!("{vmid}.conf"));
                std::fs::write(&path, &text).with_context(|| format!("can not write {}", path.display()))?;
                self.written.insert(*vmid, text);
            }
        }
        let gone: Vec<u32> = self.written.keys().filter(|id| !self.vms.contains_key(id)).copied().collect();
        for vmid in gone {
            self.written.remove(&vmid);
            let path = configs.join(format!("{vmid}.conf"));
            std::fs::remove_file(&path).with_context(|| format!("can not remove {}", path.display()))?;
        }
        let path = dir.join("state.json");
        let temporary = dir.join("state.json.new");
        std::fs::write(&temporary, serde_json::to_vec(self)?)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .with_context(|| format!("can not write {}", path.display()))
    }
}

pub(crate) fn load(state: &Path, configs: &Path) -> Result<Data> {
    let text = std::fs::read(state).with_context(|| format!("can not read {}", state.display()))?;
    let mut data: Data =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", state.display()))?;
    for entry in std::fs::read_dir(configs).with_context(|| format!("can not read {}", configs.display()))? {
        let path = entry?.path();
        let vmid = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
        if let Some(vmid) = vmid {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("can not read {}", path.display()))?;
            data.vms.insert(vmid, VmConf::parse(&text));
            data.written.insert(vmid, text);
        }
    }
    for task in data.tasks.iter_mut().filter(|t| t.exit.is_none()) {
        // A daemon that ends takes its workers with it.
        task.exit = Some("unexpected status".to_owned());
    }
    Ok(data)
}

pub(crate) fn initial(world: &World) -> Result<Data> {
    let mut data = Data {
        containers: world.containers.clone(),
        foreign: world.foreign.clone(),
        listed_bridges: world.listed_bridges.clone().unwrap_or_else(|| world.bridges.clone()),
        storages: world.storages.clone(),
        pid: 3000,
        ..Data::default()
    };
    for vm in &world.vms {
        let conf = VmConf { main: vm.config.iter().cloned().collect(), ..VmConf::default() };
        for (_, value) in vm.config.iter().filter(|(key, _)| crate::conf::is_drive(key)) {
            let volume = value.split(',').next().unwrap_or_default();
            let size =
                crate::conf::property(value, "size", "").and_then(crate::conf::parse_size).unwrap_or(0);
            data.volumes.insert(
                volume.to_owned(),
                Volume {
                    size,
                    format: if volume.ends_with(".raw") { "raw" } else { "qcow2" }.to_owned(),
                    content: "images".to_owned(),
                    vmid: Some(vm.vmid),
                    parent: None,
                    ctime: now(),
                },
            );
        }
        data.guests.insert(vm.vmid, Guest::initial(vm, &conf)?);
        data.vms.insert(vm.vmid, conf);
        if vm.running {
            let address = data.next_address();
            data.boots += 1;
            let boot = data.boots;
            if let Some(guest) = data.guests.get_mut(&vm.vmid) {
                guest.start_installed(address, boot);
            }
        }
    }
    Ok(data)
}
