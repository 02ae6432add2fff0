//! From a definition to a running NixOS VM in the fleet, in one command.
//!
//! Orchestrates the other tools as subprocesses and holds no Proxmox knowledge of its own: it asks
//! `proxmox-ops session` for everything on the node, `cloudinit-gen` for the keys, `nixos-anywhere` for the
//! installation and `post-provision-vm` for the integration.
//!
//! Data flows one way: definition → [`world::World`] (what is there) → [`plan::Plan`] (what will be done, pure
//! data) → [`execute`] → report. Every step first looks whether it is already done.

pub mod apply;
pub mod build;
pub mod check;
pub mod cli;
pub mod compare;
pub mod description;
pub mod destroy;
pub mod differences;
pub mod disk_image;
pub mod dry_run;
pub mod execute;
pub mod guest;
pub mod host_key;
pub mod install;
pub mod installed;
pub mod journal;
pub mod log;
pub mod login;
pub mod meaning;
pub mod new;
pub mod place;
pub mod plan;
pub mod preflight;
pub mod settings;
pub mod state;
pub mod status;
pub mod steps;
pub mod tools;
pub mod unfinished;
pub mod world;

mod again;
mod provision_one;
mod relay;
mod scratch;
mod several;
mod table;

use clap::CommandFactory;
use fleet_core::{Result, interrupt};

use self::provision_one::Run;

/// What is true for who leaves at once.
const LEAVING: &str = "left at once: what the node was asked for goes on there, and what is done stays; \
                       `provision-vm status` shows how far it is, the same command goes on from there";

/// Runs the command line.
pub fn run(cli: &cli::Cli) -> Result<()> {
    let ui = cli.common.ui();
    match &cli.verb {
        Some(cli::Verb::Completions(args)) => return args.run(ui, cli::Cli::command()),
        Some(cli::Verb::Man(args)) => return args.run(ui, cli::Cli::command()),
        _ => {}
    }
    again::remember(cli);
    interrupt::announce(ui, LEAVING)?;
    state::needed()?;
    match &cli.verb {
        Some(cli::Verb::Plan(args)) => compare::run(cli, args),
        Some(cli::Verb::Apply(args)) => apply::run(cli, args),
        Some(cli::Verb::Status(args)) => status::run(cli, args),
        Some(cli::Verb::New(args)) => new::run(cli, args),
        Some(cli::Verb::Destroy(args)) => destroy::run(cli, args),
        Some(cli::Verb::Log(args)) => log::run(cli, args),
        Some(cli::Verb::Check) => check::run(cli),
        Some(cli::Verb::Completions(_) | cli::Verb::Man(_)) => Ok(()),
        None => provision(cli),
    }
}

fn provision(cli: &cli::Cli) -> Result<()> {
    let ui = cli.common.ui();
    ui.step("Checking prerequisites...");
    let names = if cli.all { "--all".to_owned() } else { cli.names.join(" ") };
    let repo = cli.common.repo(&format!("provision-vm --repo DIR {names}"))?;
    let tools = tools::Tools::look(cli, &repo);
    match tools.missing().map(|error| error.message().to_owned()).collect::<Vec<_>>() {
        // Not every VM is installed with it: it is told where one is.
        missing if missing.is_empty() && !cli.no_install && tools.installer().is_err() => {
            ui.done(
                "Prerequisites met, but for what installs NixOS: neither nixos-anywhere nor nix is on PATH",
            );
        }
        missing if missing.is_empty() => ui.done("All prerequisites met"),
        // Told again with everything else that stands in the way.
        missing => missing.iter().for_each(|text| ui.warn(text)),
    }
    let places = if cli.change.dry_run { place::Places::default() } else { place::Places::told() };
    let unlocked = login::Unlocked::default();
    let run = Run { cli, repo: &repo, tools: &tools, places: &places, unlocked: &unlocked };
    match cli.names.as_slice() {
        [name] if !cli.all => provision_one::provision(&run, ui, name),
        _ => several::provision(&run, ui),
    }
}
