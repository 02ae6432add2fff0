//! The node: its state, its tickets, what goes wrong with it.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

pub use crate::data::{Data, Volume};
use crate::{
    auth::Token,
    data,
    faults::Fault,
    keys,
    ledger::{Ledger, Work},
    locks::Locks,
    log::{Log, What},
    world::{Latency, World},
};

/// Tasks that wait for somebody's word before they go on.
#[derive(Debug, Default)]
struct Held {
    new: bool,
    upids: HashSet<String>,
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
    held: Mutex<Held>,
    /// Whether the state is written to disk after each change.
    kept: bool,
    /// The VMs' lock files.
    pub locks: Locks,
    /// What reached the node.
    pub log: Log,
    /// When who was at work.
    pub ledger: Ledger,
    /// Told whenever a guest starts, stops or boots another system.
    pub boots: tokio::sync::watch::Sender<u64>,
    /// Told whenever the links of clients are to be cut.
    pub cut: tokio::sync::watch::Sender<u64>,
    /// Told whenever the API daemon is restarted.
    pub restarts: tokio::sync::watch::Sender<u64>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    since_1970().as_secs()
}

/// The time since 1970.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node with its state in `dir`: what is there, or else what `world` says.
    pub fn open(dir: &Path, world: World) -> Result<Node> {
        Node::make(dir, world, true)
    }

    /// A node that leaves its state in memory; only its log is in `dir`.
    pub fn in_memory(dir: &Path, world: World) -> Result<Node> {
        Node::make(dir, world, false)
    }

    fn make(dir: &Path, world: World, kept: bool) -> Result<Node> {
        let configs = dir.join("etc/pve/nodes").join(&world.node).join("qemu-server");
        std::fs::create_dir_all(&configs).with_context(|| format!("can not create {}", configs.display()))?;
        let state = dir.join("state.json");
        let data = if state.exists() { data::load(&state, &configs)? } else { data::initial(&world)? };
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
            held: Mutex::default(),
            kept,
            locks: Locks::default(),
            log,
            ledger: Ledger::default(),
            boots: tokio::sync::watch::Sender::new(0),
            cut: tokio::sync::watch::Sender::new(0),
            restarts: tokio::sync::watch::Sender::new(0),
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
        if self.kept {
            // The state directory may be gone already when a test ends; the memory is what counts.
            let _ = data.save(&self.dir, &self.world.node);
        }
        value
    }

    /// Changes what need not be on disk at once (a task's log).
    pub fn touch<T>(&self, change: impl FnOnce(&mut Data) -> T) -> T {
        change(&mut lock(&self.data))
    }

    /// Whether tasks that are started from now on wait until they are released.
    pub fn hold_tasks(&self, hold: bool) {
        lock(&self.held).new = hold;
    }

    /// A task begins: it is held if that is wanted.
    pub fn hold(&self, upid: &str) {
        let mut held = lock(&self.held);
        if held.new {
            held.upids.insert(upid.to_owned());
        }
    }

    /// Whether a task waits to be released.
    pub fn is_held(&self, upid: &str) -> bool {
        lock(&self.held).upids.contains(upid)
    }

    /// Lets a task go on.
    pub fn release(&self, upid: &str) {
        lock(&self.held).upids.remove(upid);
    }

    /// Lets all tasks go on.
    pub fn release_all(&self) {
        lock(&self.held).upids.clear();
    }

    /// What `systemctl restart pvedaemon` does: running tasks are interrupted, connections to the API end.
    pub fn restart_daemon(&self) {
        self.change(|d| {
            for task in d.tasks.iter_mut().filter(|t| t.exit.is_none() && !t.apart) {
                task.stop = true;
            }
        });
        self.restarts.send_modify(|n| *n += 1);
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

    /// Is at work for so long.
    pub async fn works(&self, time: Duration) {
        self.ledger.spend(Work::Api, time).await;
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

    /// Whether a disk image lies on the node.
    pub fn has_image(&self, source: &str) -> bool {
        self.world.images.as_ref().is_none_or(|images| images.iter().any(|known| known == source))
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

    /// The token of this name, if that is its secret.
    pub fn token(&self, id: &str, secret: &str) -> Option<Token> {
        self.world.tokens.iter().find(|t| t.id == id && t.secret == secret).cloned()
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
