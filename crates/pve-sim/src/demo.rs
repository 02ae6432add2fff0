//! `pve-sim demo`: the real tools make a VM on a simulated node, and what came of it is shown.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};
use fleet_core::{Error, child::Command, ui::Ui};
use post_provision::{identity::Identity, sops};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    testing::{REMOVED, ScratchFleet, Sim, find_tool},
    world::World,
};

const VM: &str = "test-automation";
const VMID: u32 = 110;
/// A secret that every host of the fleet may read.
const SECRET: &str = "secrets/tailscale.env";

/// Runs the demo. Nothing of it is left, unless `keep`.
pub fn run(ui: Ui, keep: bool) -> Result<()> {
    build(ui)?;
    let provision = tool("provision-vm")?;
    for name in ["proxmox-ops", "cloudinit-gen", "post-provision-vm"] {
        tool(name)?;
    }
    let mut sim = Sim::try_with(World::default())?;
    let stopped = listen_for_signals(&sim)?;
    let mut fleet = ScratchFleet::new(&sim)?;
    if keep {
        sim.keep();
        fleet.keep();
    }
    ui.step("A simulated Proxmox VE node, and a scratch copy of the fleet");
    ui.say(format!("  node 'prom' at {} (SSH; the API behind it)", sim.address()));
    ui.say(format!("  fleet in {}", fleet.path().display()));
    ui.say("");
    ui.say(format!("$ provision-vm {VM} --yes"));

    let started = Instant::now();
    let status = in_fleet(&sim, Command::new(&provision), fleet.path())
        .args([VM, "--yes"])
        .foreground()
        .interactive()?;
    let seconds = started.elapsed().as_secs_f32();
    if stopped.load(Ordering::Relaxed) {
        return Err(interrupted(&sim, keep).into());
    }
    if !status.success() {
        let error = Error::failed(format!("provision-vm {}", fleet_core::child::describe(status)));
        return Err(where_it_is(error, &sim, keep).into());
    }
    show(ui, &sim, &fleet)?;
    if stopped.load(Ordering::Relaxed) {
        return Err(interrupted(&sim, keep).into());
    }
    ui.say("");
    ui.done(format!("{VM} was provisioned and integrated in {seconds:.1} s"));
    if keep {
        ui.say(format!("  kept: {} (the fleet), {} (the node)", fleet.path().display(), sim.dir().display()));
    } else {
        ui.say("  the node and the scratch fleet are gone again; `cargo demo --keep` keeps them");
    }
    Ok(())
}

fn interrupted(sim: &Sim, keep: bool) -> Error {
    where_it_is(Error::interrupted("the demo was stopped"), sim, keep)
}

fn where_it_is(error: Error, sim: &Sim, keep: bool) -> Error {
    if keep {
        error.now(format!("the node and the fleet are kept in {}", sim.dir().display()))
    } else {
        error.now("the node and the scratch fleet are removed").hint("run it with --keep to look at them")
    }
}

/// Cargo builds only the program that it runs: the tools come here, in the same profile.
fn build(ui: Ui) -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let me = std::env::current_exe().context("can not find this program")?;
    let profile = match me.parent().and_then(Path::file_name).and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    ui.step("Building the tools");
    let status = Command::new(PathBuf::from(cargo))
        .args(["build", "--workspace", "--bins", "--profile", profile])
        .dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .foreground()
        .interactive()?;
    if status.success() {
        return Ok(());
    }
    Err(Error::failed("the tools can not be built").hint("cargo build --workspace").into())
}

fn tool(name: &str) -> Result<PathBuf> {
    let missing = || Error::not_found(format!("{name} is not built")).hint("cargo build --workspace --bins");
    Ok(find_tool(name).ok_or_else(missing)?)
}

/// From here on a signal ends the demo at its next step, so that everything is cleaned up; what runs in the
/// foreground gets Ctrl-C from the terminal itself.
fn listen_for_signals(sim: &Sim) -> Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let flag = Arc::clone(&stopped);
        let mut signals = sim.block_on(async { signal(kind) }).context("can not listen for signals")?;
        sim.spawn(async move {
            while signals.recv().await.is_some() {
                flag.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(stopped)
}

/// A command with the environment that leads the tools to the simulated node.
fn in_fleet(sim: &Sim, command: Command, dir: &Path) -> Command {
    let command = REMOVED.iter().fold(command, |command, name| command.env_remove(name));
    sim.env()
        .into_iter()
        // Colours are for whoever looks at it to decide.
        .filter(|(name, _)| !matches!(name.as_str(), "NO_COLOR" | "TERM" | "LC_ALL"))
        .fold(command, |command, (name, value)| command.env(name, value))
        .dir(dir)
}

fn show(ui: Ui, sim: &Sim, fleet: &ScratchFleet) -> Result<()> {
    ui.say("");
    ui.say("$ git show --stat");
    indented(ui, fleet.git(&["show", "--stat", "--format=%h %s"])?.lines());

    ui.say("");
    ui.step("Its entry in hosts.nix");
    let added = fleet.git(&["show", "--format=", "--unified=0", "HEAD", "--", "hosts.nix"])?;
    indented(
        ui,
        added
            .lines()
            .filter(|l| !l.starts_with("+++"))
            .filter_map(|l| l.strip_prefix('+'))
            .filter(|l| !l.is_empty()),
    );

    ui.say("");
    ui.step("The inventory, docs/machines.md");
    let inventory =
        std::fs::read_to_string(fleet.path().join("docs/machines.md")).context("docs/machines.md")?;
    let row = |line: &&str| line.starts_with('|') && line.contains(VM);
    let table: Vec<&str> = inventory.lines().collect();
    if let Some(at) = table.iter().position(row) {
        let first = (0..at).rev().take_while(|i| table[*i].starts_with('|')).last().unwrap_or(at);
        let last = (at..table.len()).take_while(|i| table[*i].starts_with('|')).last().unwrap_or(at);
        indented(ui, table[first..=last].iter().copied());
    }

    ui.say("");
    ui.step(format!("{SECRET}, opened with the new VM's own SSH host key"));
    let key = sim.guest_private_key(VMID).context("the VM does not run")?;
    let identity = Identity::from_ssh(&key, "the VM's host key")?;
    let path = fleet.path().join(SECRET);
    let before = fleet.git(&["show", &format!("HEAD~1:{SECRET}")])?;
    if sops::decrypt_text(before.as_bytes(), &identity).is_err() {
        ui.say("  before: refused, the VM is no recipient");
    }
    let secret = sops::decrypt_file(&path, &identity)?;
    ui.say(format!("  now, as {}:", identity.recipient()));
    indented(ui, secret.values.iter().map(|v| format!("{}={}", v.path.join("."), v.text.as_str())));
    Ok(())
}

fn indented(ui: Ui, lines: impl Iterator<Item = impl AsRef<str>>) {
    for line in lines {
        ui.say(format!("  {}", line.as_ref()));
    }
}
