//! The node's state: in memory, and after each change on disk.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    conf::VmConf,
    faults::Fault,
    guest::Guest,
    keys,
    log::{Log, What},
    task::Task,
    world::{Container, Foreign, Latency, StorageDef, World},
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

/// Everything that changes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Data {
    /// The VMs of this node. Stored as files of their own.
    #[serde(skip)]
    pub vms: BTreeMap<u32, VmConf>,
    /// The containers of this node.
    pub containers: Vec<Container>,
    /// VMs on other nodes.
    pub foreign: Vec<Foreign>,
    /// The storages.
    pub storages: Vec<StorageDef>,
    /// The volumes on them, by volume id.
    pub volumes: BTreeMap<String, Volume>,
    /// Tasks, oldest first.
    pub tasks: Vec<Task>,
    /// The machines behind the VMs.
    pub guests: BTreeMap<u32, Guest>,
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

    fn save(&mut self, dir: &Path, node: &str) -> Result<()> {
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

/// A simulated node.
#[derive(Debug)]
pub struct Node {
    world: World,
    dir: PathBuf,
    data: Mutex<Data>,
    tickets: Mutex<HashSet<String>>,
    faults: Mutex<Vec<Fault>>,
    started: Instant,
    host_key: String,
    /// Host keys that the cluster keeps wrongly, by node.
    vouched: Mutex<BTreeMap<String, String>>,
    /// The cluster's other nodes that are simulated too.
    pub peers: crate::cluster::Peers,
    /// What reached the node.
    pub log: Log,
    /// Told whenever a guest starts, stops or boots another system.
    pub boots: tokio::sync::watch::Sender<u64>,
    /// Told whenever the links of clients are to be cut.
    pub cut: tokio::sync::watch::Sender<u64>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node with its state in `dir`: what is there, or else what `world` says.
    pub fn open(dir: &Path, world: World) -> Result<Node> {
        let configs = dir.join("etc/pve/nodes").join(&world.node).join("qemu-server");
        std::fs::create_dir_all(&configs).with_context(|| format!("can not create {}", configs.display()))?;
        let state = dir.join("state.json");
        let data = if state.exists() { load(&state, &configs)? } else { initial(&world)? };
        let key_path = dir.join("host_key");
        if !key_path.exists() {
            write_private(&key_path, &keys::generate(&world.node)?)?;
        }
        let host_key = std::fs::read_to_string(&key_path)
            .with_context(|| format!("can not read {}", key_path.display()))?;
        let log = dir.join("requests.jsonl");
        let log = Log::open(&log).with_context(|| format!("can not write {}", log.display()))?;
        let node = Node {
            world,
            dir: dir.to_owned(),
            data: Mutex::new(data),
            tickets: Mutex::default(),
            faults: Mutex::default(),
            started: Instant::now(),
            host_key,
            vouched: Mutex::default(),
            peers: crate::cluster::Peers::default(),
            log,
            boots: tokio::sync::watch::Sender::new(0),
            cut: tokio::sync::watch::Sender::new(0),
        };
        node.change(|_| ());
        Ok(node)
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&Data) -> T) -> T {
        look(&lock(&self.data))
    }

    /// Changes the state and writes it to disk.
    pub fn change<T>(&self, change: impl FnOnce(&mut Data) -> T) -> T {
        let mut data = lock(&self.data);
        let value = change(&mut data);
        // The state directory may be gone already when a test ends; the memory is what counts.
        let _ = data.save(&self.dir, &self.world.node);
        value
    }

    /// Changes what need not be on disk at once (a task's log).
    pub fn touch<T>(&self, change: impl FnOnce(&mut Data) -> T) -> T {
        change(&mut lock(&self.data))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.world.node
    }

    /// The node's address in the guests' network.
    pub fn address(&self) -> &str {
        &self.world.address
    }

    /// What it started with.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// How long things take.
    pub fn latency(&self) -> Latency {
        self.world.latency
    }

    /// Where its state is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file of the node's own file system is.
    pub fn file(&self, path: &str) -> PathBuf {
        self.dir.join("root").join(path.trim_start_matches('/'))
    }

    /// Where a snippet is, when its volume id is one.
    pub fn snippet(&self, data: &Data, volume: &str) -> Option<PathBuf> {
        let (storage, name) = volume.split_once(":snippets/")?;
        let storage = data.storage(storage).filter(|s| s.content.iter().any(|c| c == "snippets"))?;
        Some(self.file(&format!("{}/snippets/{name}", storage.path)))
    }

    /// Whether a volume is there, snippets included.
    pub fn has_volume(&self, data: &Data, volume: &str) -> bool {
        data.volumes.contains_key(volume) || self.snippet(data, volume).is_some_and(|path| path.is_file())
    }

    /// Its SSH host key, private.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }

    /// The other nodes of the cluster.
    pub fn other_nodes(&self) -> Vec<String> {
        self.world.other_nodes.clone()
    }

    /// Whether the cluster has a node of this name.
    pub fn is_cluster_node(&self, name: &str) -> bool {
        name == self.name()
            || self.world.other_nodes.iter().any(|n| n == name)
            || self.peers.all().iter().any(|peer| peer.name() == name)
    }

    /// Makes the cluster keep this public key of a node, whatever key it has.
    pub fn vouch_wrongly(&self, name: &str, line: &str) {
        lock(&self.vouched).insert(name.to_owned(), line.to_owned());
    }

    /// The key that the cluster keeps of a node, if it is not the node's own.
    pub fn vouched_key(&self, name: &str) -> Option<String> {
        lock(&self.vouched).get(name).cloned()
    }

    /// Cores.
    pub fn cpus(&self) -> u64 {
        self.world.cpus
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        self.world.memory
    }

    /// Bridges.
    pub fn bridges(&self) -> &[String] {
        &self.world.bridges
    }

    /// Seconds since it was started; a real node has been up for a while.
    pub fn uptime(&self) -> u64 {
        7200 + self.started.elapsed().as_secs()
    }

    /// A fresh ticket for root@pam and its CSRF token.
    pub fn mint_ticket(&self) -> (String, String) {
        let stamp = format!("{:08X}", now());
        let ticket = format!("PVE:root@pam:{stamp}::{}+/{}==", keys::random_hex(120), keys::random_hex(40));
        lock(&self.tickets).insert(ticket.clone());
        (ticket, format!("{stamp}:{}", keys::random_hex(20)))
    }

    /// Whether this ticket was minted here.
    pub fn ticket_is_valid(&self, ticket: &str) -> bool {
        lock(&self.tickets).contains(ticket)
            || self.peers.all().iter().any(|peer| lock(&peer.tickets).contains(ticket))
    }

    /// Forgets one ticket.
    pub fn revoke_ticket(&self, ticket: &str) {
        lock(&self.tickets).remove(ticket);
    }

    /// Forgets all tickets, as the end of their two hours does.
    pub fn expire_tickets(&self) {
        lock(&self.tickets).clear();
    }

    /// Injects a fault.
    pub fn inject(&self, fault: Fault) {
        self.log.add(What::Fault { fault: format!("{fault:?}") });
        lock(&self.faults).push(fault);
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        lock(&self.faults).clear();
    }

    /// The first fault that `pick` finds; it may change it, and says whether it is over then.
    pub fn fault<T>(&self, pick: impl FnMut(&mut Fault) -> Option<(T, bool)>) -> Option<T> {
        Fault::take(&mut lock(&self.faults), pick)
    }

    /// Whether there is such a fault.
    pub fn has_fault(&self, wanted: impl Fn(&Fault) -> bool) -> bool {
        lock(&self.faults).iter().any(wanted)
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("can not write {}", path.display()))
}

fn load(state: &Path, configs: &Path) -> Result<Data> {
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

fn initial(world: &World) -> Result<Data> {
    let mut data = Data {
        containers: world.containers.clone(),
        foreign: world.foreign.clone(),
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
