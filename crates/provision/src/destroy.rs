//! `provision-vm destroy`: a VM gone from the node, and out of the fleet.

use clap::Args;
use fleet_core::{
    Error, Kind, Result, child,
    cli::ChangeArgs,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    interrupt,
    protocol::{Backup, Op, Session},
    repo::Repo,
    types::StorageId,
    ui::{Ui, can_ask},
};

use crate::{
    cli::Cli,
    compare, meaning,
    plan::{self, Standing},
    preflight,
    state::{self, Hold},
    tools::Tools,
    unfinished::{self, Became},
};

/// How long taking a VM out of the repository may take, in seconds.
const LIMIT: u64 = 15 * 60;
/// How long removing what a killed clone left may take, in seconds.
const REMAINDER_LIMIT: u64 = 5 * 60;
/// How long a backup may take, in seconds: a little longer than `proxmox-ops backup` waits for it.
const BACKUP_LIMIT: u64 = fleet_core::protocol::six_hours() + 60;

/// Arguments of `destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// The VM, as named under `managed` in vms/definitions.nix
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The VM's name once more, in place of typing it
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Back it up first, to this storage or to one that takes backups; a backup that fails stops it all [default: asked
    /// where the name is typed at a terminal; none with --confirm or --yes]
    #[arg(long, value_name = "STORAGE", num_args = 0..=1, conflicts_with = "no_backup")]
    pub backup: Option<Option<StorageId>>,
    /// Make no backup, and do not ask for one
    #[arg(long)]
    pub no_backup: bool,
    /// Take its entry out of hosts.nix too
    #[arg(long)]
    pub from_hosts: bool,
    /// --yes, --dry-run. --yes alone destroys nothing.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// What is under the VM's number.
enum There {
    /// Nothing.
    Nothing,
    /// The VM, proven to be ours.
    Vm,
    /// What a clone left that was killed, which this task of the node was; no VM.
    Remainder(String),
}

/// What is run, in this order.
struct Steps {
    backup: child::Command,
    node: child::Command,
    repository: child::Command,
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
                "provision-vm destroy {0} --confirm {0}   # removes it and its disks for ever; --backup saves it first",
                vm.name
            )));
    }
    let _hold = if args.change.dry_run { None } else { Some(Hold::take(&vm.name, vm.vmid)?) };
    let mut session = tools.session()?;
    let there = stands(&mut session, vm, ui)?;
    let steps = Steps {
        backup: backup_command(&tools, vm, args.backup.clone().flatten()),
        node: node_command(&tools, vm),
        repository: repository_command(&tools, vm, args.from_hosts),
    };
    if args.change.dry_run {
        return show(ui, vm, &mut session, &there, args, &steps);
    }
    // What would stop it half way is known before anything is gone.
    can_take_out(&repo, &tools, vm, args.from_hosts)?;
    confirm(ui, vm, &there, args)?;
    let mut made = None;
    match there {
        There::Nothing => ui.done(format!("VM {} is not on the node", vm.vmid)),
        There::Remainder(task) => {
            unfinished::clear(vm, task, |op| {
                session.ask(op, Deadline::secs(REMAINDER_LIMIT), |line| ui.tell(line))
            })?;
            ui.done(format!("What a killed clone left under VMID {} is removed", vm.vmid));
        }
        There::Vm => {
            drop(session);
            if backup_wanted(args).map_or_else(|| ui.confirm("Back it up first?"), Ok)? {
                made = Some(back_up(ui, vm, &steps.backup)?);
            }
            interrupt::check()?;
            let status = steps.node.interactive()?;
            ended(status.code(), &steps.node).map_err(|error| {
                error.now(format!("the repository was not changed: '{}' is in the fleet", vm.name))
            })?;
        }
    }
    state::forget(&vm.name, vm.vmid);
    take_out(ui, vm, &steps.repository)?;
    ui.done(format!("'{}' is gone; its definition and hosts/{}/ are left to you", vm.name, vm.nixos_config));
    if let Some(made) = &made {
        ui.say(format!("  its backup: proxmox-ops restore {} {}", made.volume, vm.vmid));
    }
    if ui.json() {
        ui.json_line(&serde_json::json!({
            "name": vm.name, "vmid": vm.vmid, "destroyed": true, "backup": made,
        }))?;
    }
    Ok(())
}

/// Takes the VM out of the fleet's files.
fn take_out(ui: Ui, vm: &ManagedVm, repository: &child::Command) -> Result<()> {
    ui.step("Taking it out of the fleet...");
    let output = repository.run(Deadline::secs(LIMIT), |line| ui.say(format!("  {line}")));
    let partly = |why: String| {
        Error::partly_done(format!("VM '{}' is gone, but it is still in the fleet: {why}", vm.name))
            .hint(format!("mend what post-provision-vm says, then: {repository}"))
    };
    let output =
        output.map_err(|error| partly("post-provision-vm did not end".to_owned()).caused_by(error))?;
    if output.success() || was_never_there(&output) {
        return Ok(());
    }
    Err(partly(format!("post-provision-vm {}", child::describe(output.status))))
}

/// Whether the VM can be taken out of the fleet's files.
fn can_take_out(repo: &Repo, tools: &Tools, vm: &ManagedVm, from_hosts: bool) -> Result<()> {
    let mut words = vec!["remove", vm.name.as_str(), "--dry-run"];
    words.extend(from_hosts.then_some("--from-hosts"));
    match preflight::would_change(repo, tools, &words, "taking the VM out of the fleet") {
        Err(error) if error.kind() != Kind::NotFound => Err(error.now("nothing was changed")),
        _ => Ok(()),
    }
}

/// What was never in the fleet need not be taken out of it.
fn was_never_there(output: &child::Output) -> bool {
    output.status.code() == Some(i32::from(Kind::NotFound.exit_code()))
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

/// What is there: the VM, proven to be ours, or what a clone of ours left; anybody else's is a conflict.
fn stands(session: &mut Session, vm: &ManagedVm, ui: Ui) -> Result<There> {
    let mut world = compare::survey(session)?;
    world.existing = compare::existing(&world, vm);
    match plan::holder(vm, &world)? {
        Standing::Free => Ok(There::Nothing),
        Standing::Ours(_) => {
            let config = world.existing.map(|(config, _)| config.settings).unwrap_or_default();
            if config.get("protection").is_some_and(|set| meaning::truth(set) == Some(true)) {
                return Err(Error::refused(format!(
                    "refused to destroy '{}': its protection flag is set in Proxmox",
                    vm.name
                ))
                .now("nothing was changed")
                .hint(format!("`qm set {} --protection 0` on its node takes it off", vm.vmid)));
            }
            Ok(There::Vm)
        }
        Standing::BeingCloned => match unfinished::wait(session, vm, ui, false)? {
            Became::Left(task) => Ok(There::Remainder(task)),
            Became::Settled => {
                Err(still_made(vm).hint(format!("provision-vm destroy {}   # again", vm.name)))
            }
            Became::GoesOn => Err(still_made(vm)),
        },
    }
}

fn still_made(vm: &ManagedVm) -> Error {
    Error::conflict(format!("VM {} is still being cloned: whose it is can not be told yet", vm.vmid))
        .now("nothing was changed")
}

/// Whether it is backed up first, as far as the options say; else a person is asked.
fn backup_wanted(args: &DestroyArgs) -> Option<bool> {
    match args {
        DestroyArgs { backup: Some(_), .. } => Some(true),
        DestroyArgs { no_backup: false, confirm: None, change: ChangeArgs { yes: false, .. }, .. } => None,
        _ => Some(false),
    }
}

fn backup_command(tools: &Tools, vm: &ManagedVm, storage: Option<StorageId>) -> child::Command {
    let command = tools.proxmox_ops().args(["--json", "backup", vm.name.as_str()]);
    match storage {
        Some(storage) => command.args(["--storage", storage.as_str()]),
        None => command,
    }
}

/// Makes the backup and tells its volume. Without one nothing is removed.
fn back_up(ui: Ui, vm: &ManagedVm, command: &child::Command) -> Result<Backup> {
    let kept = |error: Error| {
        error
            .now(format!("VM '{}' has no new backup: nothing was removed", vm.name))
            .hint(format!("proxmox-ops backup {}   # once what is wrong is mended", vm.name))
            .hint(format!("provision-vm destroy {} --no-backup   # without one", vm.name))
    };
    let said = |line: &str| {
        if !line.starts_with('{') {
            ui.say(format!("  {line}"));
        }
    };
    let output = command.run(Deadline::secs(BACKUP_LIMIT), said).map_err(kept)?;
    ended(output.status.code(), command).map_err(kept)?;
    let made: Backup = serde_json::from_slice(&output.stdout)
        .map_err(|e| kept(Error::failed(format!("`{command}` does not say what it made")).caused_by(e)))?;
    ui.done(format!("Its backup is {}", made.volume));
    Ok(made)
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
    ui: Ui,
    vm: &ManagedVm,
    session: &mut Session,
    there: &There,
    args: &DestroyArgs,
    steps: &Steps,
) -> Result<()> {
    let mut requests: Vec<String> = Vec::new();
    let mut commands: Vec<String> = Vec::new();
    match there {
        There::Nothing => {}
        There::Remainder(task) => {
            let clear = Op::RemoveRemainder { vmid: vm.vmid, task: task.clone() };
            requests = session.ask(
                Op::Show { request: Box::new(clear), node: None },
                Deadline::secs(REMAINDER_LIMIT),
                |_| {},
            )?;
        }
        There::Vm => {
            match backup_wanted(args) {
                Some(true) => commands.push(steps.backup.to_string()),
                None => commands.push(format!("{}   # if you want it when you are asked", steps.backup)),
                Some(false) => {}
            }
            commands.push(steps.node.to_string());
        }
    }
    commands.push(steps.repository.to_string());
    let changes = steps.repository.clone().arg("--dry-run").output(Deadline::secs(LIMIT))?.stdout_text();
    ui.step("Dry run: nothing is changed. This would be done, after the name was typed:");
    let value = serde_json::json!({
        "name": vm.name, "vmid": vm.vmid, "dry_run": true, "requests": requests, "commands": commands,
        "changes": changes,
    });
    ui.answer(&value, || {
        let commands = commands.iter().map(|command| format!("$ {command}\n"));
        requests.iter().map(|request| format!("{request}\n")).chain(commands).collect::<String>() + &changes
    })
}

/// The VM's name, typed or given, or nothing is done.
fn confirm(ui: Ui, vm: &ManagedVm, there: &There, args: &DestroyArgs) -> Result<()> {
    let typed = match &args.confirm {
        Some(name) => name.clone(),
        None => {
            if matches!(there, There::Vm) {
                ui.warn(format!(
                    "VM {} and its disks, with all its snapshots, will be gone for ever; only a backup brings it back",
                    vm.vmid
                ));
                ui.say(format!(
                    "  to keep it, powered off: press Enter, then `proxmox-ops shutdown {}`",
                    vm.name
                ));
            }
            if matches!(there, There::Nothing) {
                ui.warn(format!(
                    "VM {} is not on the node: what is left of '{}' are its entries in the fleet's files",
                    vm.vmid, vm.name
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
