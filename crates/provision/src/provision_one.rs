//! One VM, from its definition to its place in the fleet.

use std::net::IpAddr;

use fleet_core::{
    Error, Result,
    child::{self, Command},
    deadline::Deadline,
    definitions::{Definitions, Install, ManagedVm},
    hosts::Hosts,
    repo::Repo,
    types::UserName,
    ui::Ui,
};
use serde::Serialize;

use crate::{
    cli::{Cli, Integrate},
    execute::{self, Job},
    guest, install,
    journal::{Event, Journal},
    plan::{self, Plan, Standing},
    state::Hold,
    steps::{self, Step},
    tools::Tools,
    world::{self, World},
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
    let install = !cli.no_install && vm.install == Install::NixosAnywhere;
    if !cli.no_install && vm.install == Install::Image {
        return Err(Error::failed(format!(
            "'{name}' says install = \"image\", which this version can not do yet"
        ))
        .now("nothing was changed")
        .hint("use install = \"nixos-anywhere\", or --no-install"));
    }
    if install {
        host_files(repo, vm)?;
    }
    let user = fleet_user(repo, cli, vm)?;
    let keys = tools.ssh_keys(name)?;
    let identity = guest::identity(cli.identity.as_deref(), &keys)?;
    let flake = install::flake_of(repo.root(), &vm.nixos_config)?;

    let _hold = if cli.change.dry_run { None } else { Some(Hold::take(&vm.name, vm.vmid)?) };
    let mut session = tools.session()?;
    let template = world::template_of(&definitions, vm)?;
    let mut found = world::survey(&mut session, template, vm)?;
    if plan::standing(vm, &found)? == Standing::BeingCloned && !cli.change.dry_run {
        execute::wait_for_clone(&mut session, vm, ui)?;
        found = world::survey(&mut session, template, vm)?;
    }
    let uefi = install && lays_out_an_esp(repo, vm);
    let plan = plan::plan(vm, template, &keys, &found, install, uefi)?;
    ui.done("VM configuration valid");
    describe(vm, ui);
    for warning in &plan.warnings {
        ui.warn(warning);
    }
    announce(vm, &plan, cli, install, ui);

    if cli.change.dry_run {
        return dry_run(vm, &plan, cli, install, &flake, ui);
    }
    if !cli.change.yes {
        ui.say("");
        if !ui.confirm("Continue?")? {
            ui.say("Nothing was changed.");
            return Ok(());
        }
    }
    ui.say("");
    let journal = Journal::begin(&beginning(vm, &found, steps::way(install, cli.integrate())))?;
    let job = Job {
        cli,
        ui,
        journal: &journal,
        tools,
        vm,
        keys: &keys,
        identity: &identity,
        user: &user,
        flake: &flake,
    };
    let outcome = execute::run(&job, &mut session, plan);
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

/// Everything under `hosts/NAME/` that the installation reads must be there.
fn host_files(repo: &Repo, vm: &ManagedVm) -> Result<()> {
    let dir = repo.host_dir(&vm.nixos_config);
    let missing: Vec<String> = ["configuration.nix", "disko.nix"]
        .iter()
        .map(|file| dir.join(file))
        .filter(|path| !path.is_file())
        .map(|path| path.strip_prefix(repo.root()).unwrap_or(&path).display().to_string())
        .collect();
    if missing.is_empty() {
        return tracked(repo, &dir);
    }
    let verb = if missing.len() == 1 { "is" } else { "are" };
    let missing = missing.join(" and ");
    Err(Error::not_found(format!("'{}' has no NixOS configuration: {missing} {verb} missing", vm.name))
        .now("nothing was changed")
        .hint(format!(
            "write hosts/{0}/configuration.nix and hosts/{0}/disko.nix, or name another directory with nixosConfig",
            vm.nixos_config
        )))
}

/// Whether the host's disk layout has an EFI system partition: sgdisk's type code `EF00`, as disko takes it.
fn lays_out_an_esp(repo: &Repo, vm: &ManagedVm) -> bool {
    let file = repo.host_dir(&vm.nixos_config).join("disko.nix");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    fleet_core::nix::string_literals(&text).iter().any(|text| text.eq_ignore_ascii_case("EF00"))
}

/// A flake in a git repository sees only what git knows: files that were never added are not there for it.
fn tracked(repo: &Repo, dir: &std::path::Path) -> Result<()> {
    if !repo.root().join(".git").exists() {
        return Ok(());
    }
    let git = Command::new("git")
        .dir(repo.root())
        .args(["ls-files", "--others", "--exclude-standard", "--"])
        .arg(dir);
    let output = git.output(Deadline::secs(30))?.checked()?;
    let others = output.stdout_text();
    match others.lines().next() {
        None => Ok(()),
        Some(first) => {
            Err(Error::failed(format!("git does not know {first} yet: the flake could not see it"))
                .now("nothing was changed")
                .hint(format!(
                    "git add {}",
                    child::quote(&dir.strip_prefix(repo.root()).unwrap_or(dir).to_string_lossy())
                )))
        }
    }
}

/// Who logs in on the finished VM: the definition says, or the host's entry, or all hosts say the same.
fn fleet_user(repo: &Repo, cli: &Cli, vm: &ManagedVm) -> Result<UserName> {
    if let Some(user) = &vm.user {
        return Ok(user.clone());
    }
    let hosts = Hosts::load(repo, cli.common.nix)?;
    let known =
        hosts.get(vm.name.as_str()).and_then(|host| host.user.as_deref()).or_else(|| hosts.common_user());
    known
        .ok_or_else(|| {
            Error::failed(format!(
                "which user logs in on '{}'? The hosts in hosts.nix do not share one",
                vm.name
            ))
            .now("nothing was changed")
            .hint(format!("add `user = \"…\";` to managed.{}", vm.name))
        })?
        .parse()
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

fn dry_run(vm: &ManagedVm, plan: &Plan, cli: &Cli, install: bool, flake: &str, ui: Ui) -> Result<()> {
    let mut lines = plan.lines(vm);
    lines.push("find its address, and pin its host key: the one that cloud-init gives it, or the guest agent's where no storage takes snippets".to_owned());
    if install {
        for phase in [install::Phase::Kexec, install::Phase::Install, install::Phase::Reboot] {
            lines.push(format!("nixos-anywhere ({flake}): {}", phase.title()));
        }
        lines.push(
            "verify: SSH as the fleet user, host key, host name; detach the cloud-init drive".to_owned(),
        );
        let integration = format!("post-provision-vm {} --yes --host-key FILE", vm.name);
        match cli.integrate() {
            // After the installer was started, before the installation.
            Integrate::Before => lines.insert(lines.len() - 3, integration),
            Integrate::After => lines.push(integration),
            Integrate::Never => {}
        }
    }
    let value = serde_json::json!({
        "name": vm.name, "vmid": vm.vmid, "dry_run": true, "steps": lines,
    });
    ui.say("");
    ui.step("Dry run: nothing is changed. These steps would be taken:");
    ui.answer(&value, || lines.iter().map(|line| format!("- {line}\n")).collect())
}
