//! One VM, from its definition to its place in the fleet.

use std::{net::IpAddr, sync::Mutex};

use fleet_core::{
    Error, Result,
    definitions::{Definitions, ManagedVm},
    hosts::Hosts,
    repo::Repo,
    ui::Ui,
};
use serde::Serialize;

use crate::{
    build::Closure,
    cli::{Cli, Integrate},
    dry_run::Dry,
    execute::{self, Job},
    host_key::PrivateDir,
    journal::{Event, Journal},
    plan::{self, Plan},
    preflight::{self, Ready},
    state::Hold,
    steps::{self, Step},
    tools::Tools,
    world::World,
};

/// What a run left, for `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    vmid: u32,
    address: IpAddr,
    user: &'a str,
    installed: bool,
    integrated: bool,
}

/// Provisions the managed VM `name`.
pub(crate) fn provision(cli: &Cli, ui: Ui, repo: &Repo, tools: &Tools, name: &str) -> Result<()> {
    ui.step(format!("Starting VM provisioning for: {name}"));
    ui.step(format!("Loading VM definition for '{name}'..."));
    let definitions = Definitions::load(repo, cli.common.nix)?;
    let vm = definitions.managed(name)?;
    if vm.readonly {
        return Err(Error::refused(format!("refused to provision '{name}': it is marked readonly"))
            .now("nothing was sent to the node")
            .hint(format!(
                "take `readonly = true` out of managed.{name} in {}",
                definitions.path.display()
            )));
    }
    ui.done("VM definition loaded");

    ui.step("Validating VM configuration...");
    let _hold = if cli.change.dry_run { None } else { Some(Hold::take(&vm.name, vm.vmid)?) };
    let private = PrivateDir::new()?;
    let install = preflight::installs(cli, vm);
    // It takes the longest, and needs nothing of the node: it runs beside all that follows.
    let closure = Mutex::new(if install && !cli.change.dry_run {
        Closure::begin(cli.build_on, repo.root(), &vm.nixos_config)
    } else {
        Closure::none()
    });
    let ready = preflight::look(cli, ui, repo, tools, &definitions, vm, &private)?;
    let Ready { keys, login, user, flake, kexec, mut session, world, plan } = ready;
    ui.done("VM configuration valid");
    describe(vm, ui);
    for warning in &plan.warnings {
        ui.warn(warning);
    }
    announce(vm, &plan, cli, install, ui);

    if cli.change.dry_run {
        let user = user.as_ref();
        let kexec = kexec.as_deref();
        let dry = Dry { cli, ui, tools, repo, vm, flake: &flake, kexec, private: &private, install, user };
        return dry.show(&mut session, &plan);
    }
    if !cli.change.yes {
        ui.say("");
        if !ui.confirm("Continue?")? {
            ui.say("Nothing was changed.");
            return Ok(());
        }
    }
    ui.say("");
    let journal = Journal::begin(&beginning(vm, &world, steps::way(install, cli.integrate())))?;
    let job = Job {
        cli,
        ui,
        journal: &journal,
        tools,
        vm,
        keys: &keys,
        login: &login,
        private: &private,
        user: &user,
        flake: &flake,
        closure: &closure,
        kexec: kexec.as_deref(),
    };
    let made = matches!(plan.origin, plan::Origin::Clone(_)).then(|| plan.marker().clone());
    let known = Hosts::load(repo, cli.common.nix)?.get(name).is_some();
    let outcome = execute::run(&job, &mut session, plan)
        .map_err(|error| execute::failed(&job, made.as_ref(), known, error));
    let (outcome, ended) = match outcome {
        Ok(outcome) => (Some(outcome), Ok(())),
        Err(error) => (None, Err(error)),
    };
    journal.end(&ended);
    let Some(outcome) = outcome else { return ended };
    if cli.common.json {
        ui.json_line(&Report {
            name,
            vmid: vm.vmid.get(),
            address: outcome.address,
            user: user.as_ref(),
            installed: outcome.installed,
            integrated: outcome.integrated,
        })?;
    }
    Ok(())
}

/// What stands at the head of the journal.
fn beginning(vm: &ManagedVm, world: &World, steps: Vec<Step>) -> Event {
    let versions =
        [("provision-vm", env!("CARGO_PKG_VERSION").to_owned()), ("proxmox-ve", world.node.version.clone())];
    Event::Begin {
        name: vm.name.clone(),
        vmid: vm.vmid,
        command: std::env::args().collect(),
        versions: versions.into_iter().map(|(name, version)| (name.to_owned(), version)).collect(),
        steps,
    }
}

fn describe(vm: &ManagedVm, ui: Ui) {
    ui.say(format!("  VMID: {}", vm.vmid));
    ui.say(format!("  Cores: {}", vm.cores));
    ui.say(format!("  Memory: {}MB", vm.memory));
    ui.say(format!("  Disk: {}", vm.disk));
    ui.say(format!("  Storage: {}", vm.storage));
    ui.say(format!("  NixOS Config: {}", vm.nixos_config));
    ui.say("");
}

fn announce(vm: &ManagedVm, plan: &Plan, cli: &Cli, install: bool, ui: Ui) {
    ui.warn(format!("Ready to provision VM '{}' (VMID: {})", vm.name, vm.vmid));
    ui.warn("This will:");
    let first = match &plan.origin {
        plan::Origin::Clone(_) => "Clone template VM".to_owned(),
        plan::Origin::Continue(_) => format!("Continue with VM {}, which an earlier run made", vm.vmid),
    };
    let last = match (install, cli.integrate() == Integrate::Never) {
        (true, false) => "Install NixOS (nixos-anywhere) and integrate with the fleet",
        (true, true) => "Install NixOS (nixos-anywhere)",
        (false, _) => "Stop there and print the commands that remain",
    };
    let steps = [first.as_str(), "Configure resources and networking", "Start VM and wait for network", last];
    for (number, step) in steps.iter().enumerate() {
        ui.say(format!("  {}. {step}", number + 1));
    }
}
