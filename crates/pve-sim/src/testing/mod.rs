//! For tests (and the demo): a node in this process, the environment that makes the tools talk to it, and a
//! scratch copy of the fleet.
//!
//! ```no_run
//! let sim = pve_sim::testing::Sim::start();
//! let fleet = sim.scratch_fleet();
//! let mut command = sim.command("proxmox-ops", &fleet);
//! let output = command.args(["list"]).output().unwrap();
//! assert!(sim.changes().is_empty());
//! ```
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that can not start its node must stop, and tests start programs with assert_cmd or std"
)]

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

mod fleet;
mod memory;

pub use self::fleet::ScratchFleet;

use crate::{
    conf::VmConf,
    faults::Fault,
    guest::Os,
    keys,
    log::{Record, What},
    node::{Node, write_private},
    server,
    world::World,
};

/// Programs that this one stands in for under their names.
pub(crate) const STANDINS: [&str; 2] = ["nixos-anywhere", "nix"];

/// The public half of the demo operator's key.
pub const OPERATOR_PUBLIC: &str = include_str!("../../fixtures/demo-operator.pub");

/// Where the demo operator's private key is.
pub fn operator_identity() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo-operator-TEST-FIXTURE.key")
}

/// A simulated node that runs until it is dropped.
pub struct Sim {
    node: Arc<Node>,
    port: u16,
    home: TempDir,
    #[allow(dead_code, reason = "held, never read")]
    memory: Option<TempDir>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Sim {
    /// A node with the default world: template 9002, the imported VMs 104 and 109, container 200. The demo operator
    /// may log in.
    pub fn start() -> Sim {
        Sim::with(World::default())
    }

    /// A node with this world; the demo operator may log in.
    pub fn with(world: World) -> Sim {
        Sim::try_with(world).unwrap_or_else(|e| panic!("can not start the simulated node: {e:#}"))
    }

    /// As [`Sim::with`], for programs that do not panic.
    pub fn try_with(world: World) -> Result<Sim> {
        Sim::at(world, None)
    }

    /// Another node of this one's cluster, with its own daemon and SSH server. Its address is the world's, which
    /// leads there through this node only; where it is one of 127.0.0.0/8, also straight at this node's port.
    pub fn join(&self, world: World) -> Sim {
        let address: IpAddr = world.address.parse().expect("an address");
        let place = address.is_loopback().then(|| SocketAddr::from((address, self.port)));
        let other = Sim::at(world, place).unwrap_or_else(|e| panic!("can not start the other node: {e:#}"));
        crate::cluster::join(&self.node, &other.node);
        other
    }

    fn at(world: World, place: Option<SocketAddr>) -> Result<Sim> {
        let world = world.authorize(OPERATOR_PUBLIC);
        let home =
            tempfile::Builder::new().prefix("pve-sim-").tempdir().context("can not make a directory")?;
        for dir in ["state", "home/.ssh", "bin", "tmp"] {
            std::fs::create_dir_all(home.path().join(dir)).context("can not make a directory")?;
        }
        let memory = memory::runtime_dir(&home.path().join("run"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("pve-sim")
            .enable_all()
            .build()
            .context("can not start threads")?;
        let node = Arc::new(Node::open(&home.path().join("state"), world)?);
        let place = place.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind(place)).context("can not listen on 127.0.0.1")?;
        let port = listener.local_addr().context("no address")?.port();
        runtime.spawn(server::listen(Arc::clone(&node), listener));
        let sim = Sim { node, port, home, memory, runtime: Some(runtime) };
        sim.write_known_hosts(&keys::public_line(sim.node.host_key())?)?;
        let key = std::fs::read_to_string(operator_identity()).context("can not read the operator's key")?;
        // The first line of the fixture says that it is one; a key file has no such line.
        write_private(&sim.identity(), &key[key.find("-----BEGIN").unwrap_or(0)..])?;
        if let Some(standin) = find_tool("pve-sim") {
            for name in STANDINS {
                std::os::unix::fs::symlink(&standin, sim.home.path().join("bin").join(name))
                    .context("can not make a symbolic link")?;
            }
        }
        Ok(sim)
    }

    fn write_known_hosts(&self, key: &str) -> Result<()> {
        std::fs::write(self.known_hosts(), format!("[127.0.0.1]:{} {key}\n", self.port))
            .context("can not write known_hosts")
    }

    /// Where the node's SSH server listens, `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of the node's SSH server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The known_hosts file that knows the node.
    pub fn known_hosts(&self) -> PathBuf {
        self.home.path().join("home/.ssh/known_hosts")
    }

    /// The operator's private key, a copy that only its owner may read.
    pub fn identity(&self) -> PathBuf {
        self.home.path().join("home/.ssh/id_ed25519")
    }

    /// A directory that vanishes with the node; everything the tools write outside the fleet goes below it.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// The node's public host key, one line.
    pub fn host_key(&self) -> String {
        keys::public_line(self.node.host_key()).expect("the node has a key")
    }

    /// Writes another host key for the node into known_hosts, as if somebody else answered now.
    pub fn expect_another_host_key(&self) {
        let other = keys::generate("other").and_then(|k| keys::public_line(&k)).expect("a key");
        self.write_known_hosts(&other).expect("known_hosts");
    }

    /// Writes the node's own host key into known_hosts again.
    pub fn expect_own_host_key(&self) {
        self.write_known_hosts(&self.host_key()).expect("known_hosts");
    }

    /// Empties known_hosts: the node is a stranger.
    pub fn forget_host_key(&self) {
        std::fs::write(self.known_hosts(), "").expect("known_hosts");
    }

    /// What the tools need in their environment to talk to this node and to nothing of the user's.
    pub fn env(&self) -> Vec<(String, OsString)> {
        let home = self.home.path().join("home");
        let mut path = OsString::from(self.home.path().join("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let text = |name: &str, value: &str| (name.to_owned(), OsString::from(value));
        let file = |name: &str, value: PathBuf| (name.to_owned(), value.into_os_string());
        vec![
            text("PROXMOX_HOST", &self.address()),
            text("FLEET_SSH_CONFIG", "none"),
            file("FLEET_KNOWN_HOSTS", self.known_hosts()),
            file("FLEET_IDENTITY", self.identity()),
            text("FLEET_ROUTE", "node"),
            ("PATH".to_owned(), path),
            file("HOME", home.clone()),
            file("XDG_CONFIG_HOME", home.join(".config")),
            file("XDG_CACHE_HOME", home.join(".cache")),
            file("XDG_DATA_HOME", home.join(".local/share")),
            file("XDG_STATE_HOME", home.join(".local/state")),
            file("XDG_RUNTIME_DIR", self.home.path().join("run")),
            file("TMPDIR", self.home.path().join("tmp")),
            text("NO_COLOR", "1"),
            text("TERM", "dumb"),
            text("LC_ALL", "C.UTF-8"),
            text("GIT_CONFIG_GLOBAL", "/dev/null"),
            text("GIT_CONFIG_NOSYSTEM", "1"),
            text("GIT_AUTHOR_NAME", "Fleet Operator"),
            text("GIT_AUTHOR_EMAIL", "operator@example.org"),
            text("GIT_COMMITTER_NAME", "Fleet Operator"),
            text("GIT_COMMITTER_EMAIL", "operator@example.org"),
        ]
    }

    /// A built tool with that environment, in the scratch fleet. Wrap it with `assert_cmd::Command::from_std`.
    pub fn command(&self, name: &str, fleet: &ScratchFleet) -> Command {
        let mut command = Command::new(tool(name));
        command.current_dir(fleet.path());
        self.apply(&mut command);
        command
    }

    /// Gives a command that environment, and takes away what could lead it elsewhere.
    pub fn apply(&self, command: &mut Command) {
        for name in REMOVED {
            command.env_remove(name);
        }
        command.envs(self.env());
    }

    /// Everything that reached the node, in order.
    pub fn requests(&self) -> Vec<Record> {
        self.node.log.records()
    }

    /// How many connections reached the node: 0 proves that not one byte was sent.
    pub fn connections(&self) -> usize {
        self.requests().iter().filter(|r| matches!(r.what, What::Connect { .. })).count()
    }

    /// The requests that can have changed something, as `METHOD /path`.
    pub fn changes(&self) -> Vec<String> {
        self.http(What::changes)
    }

    /// All requests to the API, as `METHOD /path`.
    pub fn calls(&self) -> Vec<String> {
        self.http(|_| true)
    }

    fn http(&self, wanted: impl Fn(&What) -> bool) -> Vec<String> {
        let requests = self.requests();
        let found = requests.iter().filter(|r| wanted(&r.what)).filter_map(|r| match &r.what {
            What::Http { method, path, .. } => Some(format!("{method} {path}")),
            _ => None,
        });
        found.collect()
    }

    /// Makes something go wrong from now on.
    pub fn inject(&self, fault: Fault) {
        self.node.inject(fault);
    }

    /// Lets everything go well again.
    pub fn clear_faults(&self) {
        self.node.clear_faults();
    }

    /// The node itself.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// A VM's configuration.
    pub fn config(&self, vmid: u32) -> Option<VmConf> {
        self.node.read(|d| d.vms.get(&vmid).cloned())
    }

    /// Changes a VM's configuration behind the tools' back.
    pub fn edit(&self, vmid: u32, change: impl FnOnce(&mut VmConf)) {
        self.node.change(|d| change(d.vms.entry(vmid).or_default()));
    }

    /// A VM's DHCP server gives it another address.
    pub fn move_address(&self, vmid: u32) {
        self.node.change(|d| {
            let address = d.next_address();
            if let Some(guest) = d.guests.get_mut(&vmid)
                && let Some(run) = guest.running.as_mut()
            {
                guest.old_addresses.push(std::mem::replace(&mut run.address, address));
            }
        });
    }

    /// Lays a file onto a running machine.
    pub fn put_file(&self, vmid: u32, path: &str, content: Vec<u8>) {
        self.node.change(|d| {
            if let Some(run) = d.guests.get_mut(&vmid).and_then(|guest| guest.running.as_mut()) {
                run.files.insert(path.to_owned(), content);
            }
        });
    }

    /// Whether a VM runs.
    pub fn is_running(&self, vmid: u32) -> bool {
        self.node.read(|d| d.is_running(vmid))
    }

    /// Which system runs on a VM, and its address.
    pub fn guest(&self, vmid: u32) -> Option<(Os, String)> {
        self.node.read(|d| d.guests.get(&vmid)?.running.as_ref().map(|r| (r.os, r.address.clone())))
    }

    /// A VM's SSH host key, private: what only the VM itself has.
    pub fn guest_private_key(&self, vmid: u32) -> Option<String> {
        self.node.read(|d| d.guests.get(&vmid)?.running.as_ref().map(|r| r.system.host_key.clone()))
    }

    /// A VM's SSH host key, one public line.
    pub fn guest_host_key(&self, vmid: u32) -> Option<String> {
        keys::public_line(&self.guest_private_key(vmid)?).ok()
    }

    /// A copy of this project's fleet in a git repository of its own.
    pub fn scratch_fleet(&self) -> ScratchFleet {
        ScratchFleet::new(self).unwrap_or_else(|e| panic!("can not make a scratch fleet: {e:#}"))
    }

    /// A port on 127.0.0.1 that leads to a VM's SSH server, wherever it is now. No tool needs it; a test of
    /// something else than the tools may.
    pub fn expose(&self, vmid: u32) -> u16 {
        let listener = self.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let node = Arc::clone(&self.node);
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let address = node.read(|d| Some(d.guests.get(&vmid)?.running.as_ref()?.address.clone()));
                if let Some((vmid, boot)) = address.and_then(|a| crate::guest::at_address(&node, &a)) {
                    tokio::spawn(crate::guest::ssh::serve(Arc::clone(&node), vmid, boot, stream));
                }
            }
        };
        self.runtime.as_ref().expect("the node runs until it is dropped").spawn(accept);
        port
    }

    /// A port on 127.0.0.1 where the API daemon answers without SSH, as it does on a node itself.
    pub fn expose_api(&self) -> u16 {
        let listener = self.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let node = Arc::clone(&self.node);
        self.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(crate::http::serve(Arc::clone(&node), stream));
            }
        });
        port
    }

    /// Leaves everything on disk when this is dropped.
    pub fn keep(&mut self) {
        self.home.disable_cleanup(true);
    }

    /// Runs a future on the node's threads.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.as_ref().map(|runtime| runtime.spawn(future)));
    }

    /// Waits for a future on the node's threads.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("the node runs until it is dropped");
        runtime.block_on(future)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Variables that could lead the tools elsewhere.
pub(crate) const REMOVED: &[&str] = &[
    "FLEET_REPO",
    "FLEET_CONFIG",
    "PROXMOX_USER",
    "PROXMOX_NODE",
    "PROXMOX_API_PORT",
    "PROXMOX_TOKEN",
    "PROXMOX_TOKEN_FILE",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "SOPS_AGE_KEY",
    "SOPS_AGE_KEY_FILE",
    "SSH_PRIVATE_KEY",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
];

/// A built program beside this one.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    // A test runner's programs live one directory below the tools.
    let dirs = [me.parent(), me.parent().and_then(Path::parent)];
    dirs.into_iter().flatten().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A built tool of this workspace, beside the running test.
pub fn tool(name: &str) -> PathBuf {
    find_tool(name).unwrap_or_else(|| {
        panic!("{name} is not built: run `cargo build --workspace --bins` first, or test with `cargo test --workspace`")
    })
}
