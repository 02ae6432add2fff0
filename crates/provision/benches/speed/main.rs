//! How long `provision-vm` takes beyond what the node, the VM's boots and the installer take, for one VM and for
//! twenty at once, and how long the shell scripts' way takes: `cargo bench -p provision`, after `cargo build --release
//! --workspace --bins` (the other tools and the stand-ins are found beside it). Takes some eight minutes.
//!
//! The node is simulated with the latencies of a genuine one; the simulator notes when who was at work. Prints
//! figures and ratios between things measured in the same run; asserts nothing about time. With `FLEET_BENCH=one`,
//! `twenty` or `shell` in the environment only that part runs.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, stops where it can not go on, and starts what it measures"
)]

mod account;
#[path = "../../tests/common/mod.rs"]
mod common;
mod shell;

use std::{process::Command, time::Duration};

use common::Bench;
use pve_sim::{
    ledger::Party,
    testing::{Sim, tool},
    world::{Latency, World},
};

use account::{Account, measure};

const NAME: &str = "test-automation";
const VMS: u32 = 20;

fn main() {
    // The shell way's `ssh-to-age`.
    if std::env::args().any(|arg| arg == "--ssh-to-age") {
        return shell::ssh_to_age();
    }
    // `cargo bench` builds `provision-vm` alone.
    for name in ["proxmox-ops", "cloudinit-gen", "post-provision-vm", "pve-sim"] {
        let beside = tool("provision-vm").with_file_name(name);
        assert!(beside.exists(), "{name} is not there: cargo build --release --workspace --bins");
    }
    let part = std::env::var("FLEET_BENCH").unwrap_or_default();
    let wanted = |name: &str| part.is_empty() || part == name;
    let single = (part != "shell").then(one);
    if let (Some(single), true) = (&single, wanted("twenty")) {
        twenty(single.wall());
    }
    if wanted("shell") {
        let ours = single.unwrap_or_else(one);
        let theirs = shell::flow(&genuine());
        let ratio = |what: &str, ours: Duration, theirs: Duration| {
            let (ours, theirs) = (ours.as_secs_f64(), theirs.as_secs_f64());
            println!(
                "  ours / the shell scripts' way, {what}: {ours:.1} s / {theirs:.1} s = {:.2}",
                ours / theirs
            );
        };
        ratio("by the clock", ours.wall(), theirs.wall());
        ratio("beyond boots and installer", ours.beyond_guests(), theirs.beyond_guests());
    }
}

/// A node with the latencies of a genuine one.
fn genuine() -> Bench {
    Bench::with(Sim::with(World { latency: Latency::genuine(), ..World::default() }))
}

/// Runs it to its end, which must be a good one.
fn run(bench: &Bench, command: &mut Command) -> Account {
    let (account, output) = measure(&bench.sim, command);
    assert!(output.status.success(), "{command:?}: {}", bench.seen(&output));
    account
}

/// One VM, the whole way.
fn one() -> Account {
    let bench = genuine();
    let account = run(&bench, &mut bench.command(&[NAME, "--yes"]));
    println!("one VM, from its definition to the fleet: {:.1} s", account.wall().as_secs_f64());
    for (party, name) in
        [(Party::Node, "the node"), (Party::Boot, "its boots"), (Party::Guest, "the installer in it")]
    {
        println!("  {name}: {:.1} s", account.of(party).as_secs_f64());
    }
    println!("  all three, counted once where they overlap: {:.1} s", account.outside().as_secs_f64());
    println!(
        "  own time beyond: {:.2} s (wanted: at most 3 s), of which nixos-anywhere's stand-in and its connections \
         take their part",
        account.own().as_secs_f64()
    );
    println!("  processor time of all that ran: {:.2} s", account.cpu.as_secs_f64());
    println!("  where it went, the longest stretches:");
    account.show_gaps(8);
    account
}

/// Twenty VMs at once.
fn twenty(single: Duration) {
    let bench = genuine();
    let names: Vec<String> = (1..VMS).map(|number| format!("vm{number}")).collect();
    let vms: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(120..).collect();
    bench.define(&vms);
    let account = run(&bench, &mut bench.command(&["--all", "--yes", "--jobs", &VMS.to_string()]));
    let queue = account.sum("allocates on ");
    let wall = account.wall();
    println!("{VMS} VMs with --jobs {VMS}: {:.1} s", wall.as_secs_f64());
    println!("  the queue for the storage, by the node's tasks: {:.1} s", queue.as_secs_f64());
    println!(
        "  one VM alone: {:.1} s; ratio, without the queue: {:.2} (wanted: at most 1.3)",
        single.as_secs_f64(),
        wall.saturating_sub(queue).as_secs_f64() / single.as_secs_f64()
    );
    println!(
        "  processor time of all that ran: {:.1} s, {:.2} s a VM; of the simulator: {:.1} s",
        account.cpu.as_secs_f64(),
        account.cpu.as_secs_f64() / f64::from(VMS),
        account.simulator.as_secs_f64()
    );
}
