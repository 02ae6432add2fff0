//! A simulated node, a scratch fleet, and `proxmox-ops` run against them.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests start programs with assert_cmd")]

use assert_cmd::Command;
use pve_sim::{
    testing::{ScratchFleet, Sim},
    world::World,
};

/// A node and a fleet.
pub struct Bench {
    pub sim: Sim,
    pub fleet: ScratchFleet,
}

/// What a run left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp alice@laptop";

impl Bench {
    pub fn new() -> Bench {
        Bench::with(World::default())
    }

    pub fn with(world: World) -> Bench {
        let sim = Sim::with(world);
        let fleet = sim.scratch_fleet();
        Bench { sim, fleet }
    }

    pub fn std_command(&self, args: &[&str]) -> std::process::Command {
        let mut std = std::process::Command::new(assert_cmd::cargo::cargo_bin!("proxmox-ops"));
        self.sim.apply(&mut std);
        std.current_dir(self.fleet.path()).args(args);
        std
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::from_std(self.std_command(args));
        command.timeout(std::time::Duration::from_secs(60));
        command
    }

    /// The same on a terminal of its own, by `script` of util-linux.
    pub fn on_terminal(&self, args: &[&str]) -> Command {
        let inner = self.std_command(args);
        let line = std::iter::once(inner.get_program()).chain(inner.get_args());
        let line: Vec<String> = line.map(|word| fleet_core::child::quote(&word.to_string_lossy())).collect();
        let mut std = std::process::Command::new("script");
        self.sim.apply(&mut std);
        std.current_dir(self.fleet.path()).args(["-qec", &line.join(" "), "/dev/null"]);
        let mut command = Command::from_std(std);
        command.timeout(std::time::Duration::from_secs(60));
        command
    }

    /// The same, on one with so many columns.
    pub fn on_columns(&self, columns: usize, args: &[&str]) -> Command {
        let inner = self.std_command(args);
        let line = std::iter::once(inner.get_program()).chain(inner.get_args());
        let line: Vec<String> = line.map(|word| fleet_core::child::quote(&word.to_string_lossy())).collect();
        let line = format!("stty rows 24 cols {columns}; exec {}", line.join(" "));
        let mut std = std::process::Command::new("script");
        self.sim.apply(&mut std);
        std.current_dir(self.fleet.path()).args(["-qec", &line, "/dev/null"]);
        let mut command = Command::from_std(std);
        command.timeout(std::time::Duration::from_secs(60));
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.finish(&mut self.command(args))
    }

    /// Runs it; the fleet's place and the node's address are named by words.
    pub fn finish(&self, command: &mut Command) -> Ran {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let fleet = self.fleet.path().canonicalize().unwrap();
            text.replace(&fleet.display().to_string(), "FLEET")
                .replace(&self.fleet.path().display().to_string(), "FLEET")
                .replace(&self.sim.dir().display().to_string(), "SIM")
                .replace(&format!("-p {}", self.sim.port()), "-p PORT")
                .replace(&self.sim.address(), "NODE")
        };
        Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Runs it and expects success; gives standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    }

    /// The clone that most tests begin with.
    pub fn clone_110(&self) {
        self.ok(&["clone", "9002", "110", "test-automation"]);
    }
}

/// A second node: `test-automation` (110) and a template with its own storage are on it, `b`.
pub fn second(address: &str) -> World {
    let mut world = World {
        node: "b".to_owned(),
        address: address.to_owned(),
        vms: World::default().vms,
        containers: vec![],
        ..World::default()
    }
    .without_vm(104)
    .without_vm(109)
    .without_vm(9002)
    .with_vm(
        110,
        false,
        &[
            ("agent", "1"),
            ("cores", "1"),
            ("memory", "1024"),
            ("name", "test-automation"),
            ("net0", "virtio=BC:24:11:00:01:10,bridge=vmbr0"),
            ("scsi0", "nvmeprom:110/vm-110-disk-0.qcow2,size=2G"),
        ],
    );
    world.storages.retain(|storage| storage.name != "local");
    world
}
