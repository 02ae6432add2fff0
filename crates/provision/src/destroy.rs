//! `provision-vm destroy`: a VM gone from the node, and out of the fleet.

use clap::Args;
use fleet_core::{
    Error, Kind, Result, child,
    cli::ChangeArgs,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    ui::{Ui, can_ask},
};

use crate::{
    cli::Cli,
    compare,
    plan::{self, Standing},
    state::{self, Hold},
    tools::Tools,
};

/// How long taking a VM out of the repository may take, in seconds.
const LIMIT: u64 = 15 * 60;

/// Arguments of `destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// The VM, as named under `managed` in vms/definitions.nix
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The VM's name once more, in place of typing it
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Take its entry out of hosts.nix too
    #[arg(long)]
    pub from_hosts: bool,
    /// --yes, --dry-run. --yes alone destroys nothing.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Runs the verb. What is gone already is passed over: the same command again finishes.
pub fn run(cli: &Cli, args: &DestroyArgs) -> Result<()> {
    let ui = cli.common.ui();
    let repo = cli.common.repo("provision-vm --repo DIR destroy NAME")?;
    let definitions = Definitions::load(&repo, cli.common.nix)?;
    let vm = definitions.managed(&args.name)?;
    let tools = Tools::find(cli, &repo)?;
    refuse(vm)?;
    if !args.change.dry_run && args.confirm.is_none() && !can_ask() {
        return Err(Error::refused(format!("refused to destroy '{}': its name was not typed", vm.name))
            .now("nothing was changed")
            .hint(format!(
                "provision-vm destroy {0} --confirm {0}   # removes it and its disks for ever",
                vm.name
            )));
    }
    let _hold = if args.change.dry_run { None } else { Some(Hold::take(&vm.name, vm.vmid)?) };
    let there = stands(&tools, vm)?;
    let node = node_command(&tools, vm);
    let repository = repository_command(&tools, vm, args.from_hosts);
    if args.change.dry_run {
        return show(cli, ui, vm, there, &node, &repository);
    }
    confirm(ui, vm, there, args)?;
    if there {
        let status = node.interactive()?;
        ended(status.code(), &node).map_err(|error| {
            error.now(format!("the repository was not changed: '{}' is in the fleet", vm.name))
        })?;
    } else {
        ui.done(format!("VM {} is not on the node", vm.vmid));
    }
    state::forget(&vm.name, vm.vmid);
    ui.step("Taking it out of the fleet...");
    let output = repository.run(Deadline::secs(LIMIT), |line| ui.say(format!("  {line}")));
    let partly = |why: String| {
        Error::partly_done(format!("VM '{}' is gone, but it is still in the fleet: {why}", vm.name))
            .hint(format!("mend what post-provision-vm says, then: {repository}"))
    };
    let output =
        output.map_err(|error| partly("post-provision-vm did not end".to_owned()).caused_by(error))?;
    // What was never in the fleet need not be taken out of it.
    if !output.success() && output.status.code() != Some(i32::from(Kind::NotFound.exit_code())) {
        return Err(partly(format!("post-provision-vm {}", child::describe(output.status))));
    }
    ui.done(format!("'{}' is gone; its definition and hosts/{}/ are left to you", vm.name, vm.nixos_config));
    if ui.json() {
        ui.json_line(&serde_json::json!({ "name": vm.name, "vmid": vm.vmid, "destroyed": there }))?;
    }
    Ok(())
}

fn refuse(vm: &ManagedVm) -> Result<()> {
    let why = match (vm.readonly, vm.protection) {
        (true, _) => "it is marked readonly",
        (_, true) => "its definition says protection = true",
        _ => return Ok(()),
    };
    Err(Error::refused(format!("refused to destroy '{}': {why}", vm.name))
        .now("nothing was sent to the node")
        .hint(format!("change managed.{} in vms/definitions.nix first", vm.name)))
}

/// Whether the VM is there, proven to be ours; anybody else's is a conflict.
fn stands(tools: &Tools, vm: &ManagedVm) -> Result<bool> {
    let mut world = compare::survey(&mut tools.session()?)?;
    world.existing = compare::existing(&world, vm);
    match plan::holder(vm, &world)? {
        Standing::Ours(_) => Ok(true),
        Standing::Free => Ok(false),
        Standing::BeingCloned => Err(Error::conflict(format!(
            "VM {} is still being cloned: whose it is can not be told yet",
            vm.vmid
        ))
        .now("nothing was changed")),
    }
}

/// The name is typed here; `proxmox-ops` proves by the marker once more that the VM is ours.
fn node_command(tools: &Tools, vm: &ManagedVm) -> child::Command {
    tools.proxmox_ops().args(["destroy", vm.name.as_str(), "yes", "--stop"]).foreground()
}

fn repository_command(tools: &Tools, vm: &ManagedVm, from_hosts: bool) -> child::Command {
    let command = tools.post_provision().args(["remove", vm.name.as_str(), "--yes"]);
    if from_hosts { command.arg("--from-hosts") } else { command }
}

fn show(
    cli: &Cli,
    ui: Ui,
    vm: &ManagedVm,
    there: bool,
    node: &child::Command,
    repository: &child::Command,
) -> Result<()> {
    let commands: Vec<String> =
        there.then(|| node.to_string()).into_iter().chain([repository.to_string()]).collect();
    let changes = repository.clone().arg("--dry-run").output(Deadline::secs(LIMIT))?.stdout_text();
    ui.step("Dry run: nothing is changed. These commands would be run, after the name was typed:");
    let value = serde_json::json!({
        "name": vm.name, "vmid": vm.vmid, "dry_run": cli.common.json, "commands": commands, "changes": changes,
    });
    ui.answer(&value, || {
        commands.iter().map(|command| format!("$ {command}\n")).collect::<String>() + &changes
    })
}

/// The VM's name, typed or given, or nothing is done.
fn confirm(ui: Ui, vm: &ManagedVm, there: bool, args: &DestroyArgs) -> Result<()> {
    let typed = match &args.confirm {
        Some(name) => name.clone(),
        None => {
            if there {
                ui.warn(format!("VM {} and its disks will be gone for ever; there is no way back", vm.vmid));
                ui.say(format!(
                    "  a backup first: vzdump {} on the node; it restores with `proxmox-ops restore`",
                    vm.vmid
                ));
                ui.say(format!(
                    "  or keep it for now: proxmox-ops stop {0} && proxmox-ops snapshot {0} NAME",
                    vm.name
                ));
            }
            ui.ask_line("Type the VM's name to destroy it: ")?
        }
    };
    if typed.trim() == vm.name.as_str() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "refused to destroy '{}': '{}' is not its name",
        vm.name,
        typed.trim().escape_debug()
    ))
    .now("nothing was changed"))
}

/// The error of a sibling that ended with this exit code; it has said itself why.
fn ended(code: Option<i32>, command: &child::Command) -> Result<()> {
    match code {
        Some(0) => Ok(()),
        code => {
            let kind = code.map_or(Kind::OutcomeUnknown, Kind::from_exit_code);
            Err(Error::new(kind, format!("`{command}` did not do it")))
        }
    }
}
