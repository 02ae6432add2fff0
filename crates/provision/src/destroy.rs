//! `provision-vm destroy`: a VM gone from the node, and out of the fleet.

use clap::Args;
use fleet_core::{
    Error, Kind, Result, child,
    cli::ChangeArgs,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    interrupt,
    protocol::{Backup, BackupMode, Marker, Op, Session},
    repo::Repo,
    types::StorageId,
    ui::{Ui, can_ask},
};

use crate::{
    again,
    cli::Cli,
    compare,
    journal::{Event, Journal, Verb},
    meaning,
    plan::{self, Standing},
    preflight, relay,
    state::{self, Hold},
    steps::Step,
    tools::Tools,
    unfinished::{self, Became},
};

/// How long taking a VM out of the repository may take, in seconds.
const LIMIT: u64 = 15 * 60;
/// How long taking it from the node may take, in seconds: a little longer than `proxmox-ops session` waits for the node.
const NODE_LIMIT: u64 = 61 * 60;
/// How long showing it may take, in seconds.
const READ_LIMIT: u64 = 2 * 60;
/// How long a backup may take, in seconds: a little longer than the node is waited for.
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
    /// at a terminal; none without one, or with --yes]
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
    Vm(Marker),
    /// What a clone left that was killed, which this task of the node was; no VM.
    Remainder(String),
}

/// What of it takes place where, in this order.
struct Steps {
    backup: Op,
    node: Option<Op>,
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
                "{}   # removes it and its disks for ever; --backup saves it first",
                same(vm, args.from_hosts, &["--confirm", vm.name.as_str()])
            )));
    }
    let _hold = Hold::for_run(args.change.dry_run, &vm.name, vm.vmid, ui)?;
    let mut session = tools.session()?;
    let (there, version) = stands(&mut session, vm, args.from_hosts, ui)?;
    let steps = Steps {
        backup: backup(vm, args.backup.clone().flatten()),
        node: removal(vm, &there),
        repository: repository_command(&tools, vm, args.from_hosts),
    };
    if args.change.dry_run {
        return show(ui, vm, &mut session, &there, args, steps);
    }
    // What would stop it half way is known before anything is gone.
    let hindrance = can_take_out(&repo, &tools, vm, args.from_hosts)?;
    hindrance.iter().for_each(|why| ui.warn(preflight::uncommitted(why, "what takes it out of the fleet")));
    confirm(ui, vm, &there, args)?;
    let backed_up = match &there {
        There::Vm(_) => backup_wanted(args).map_or_else(|| ui.confirm("Back it up first?"), Ok)?,
        There::Nothing | There::Remainder(_) => false,
    };
    let mut way = Vec::new();
    way.extend(backed_up.then_some(Step::Backup));
    way.extend(steps.node.as_ref().map(|_| Step::Destroy));
    way.push(Step::TakeOut);
    let journal = Journal::begin(&Event::beginning(Verb::Destroy, vm, &version, way), None)?;
    let destruction = Destruction { ui, vm, journal: &journal, from_hosts: args.from_hosts };
    let outcome = destruction.carry_out(&mut session, steps, backed_up);
    journal.end(outcome.as_ref().map(drop));
    let made = outcome?;
    ui.done(format!("'{}' is gone; its definition and hosts/{}/ are left to you", vm.name, vm.nixos_config));
    if let Some(made) = &made {
        let words = ["restore", &made.volume, &vm.vmid.to_string()];
        ui.say(format!("  its backup: {}", again::proxmox_ops(&words)));
    }
    if ui.json() {
        ui.json_line(&serde_json::json!({
            "name": vm.name, "vmid": vm.vmid, "destroyed": true, "backup": made,
        }))?;
    }
    Ok(())
}

/// What it takes to do it, once it is decided.
struct Destruction<'a> {
    ui: Ui,
    vm: &'a ManagedVm,
    journal: &'a Journal,
    from_hosts: bool,
}

impl Destruction<'_> {
    /// Does it, and gives the backup that was made.
    fn carry_out(&self, session: &mut Session, steps: Steps, backed_up: bool) -> Result<Option<Backup>> {
        let (ui, vm) = (self.ui, self.vm);
        let made = if backed_up { Some(self.back_up(session, steps.backup)?) } else { None };
        match steps.node {
            None => ui.done(format!("VM {} is not on the node", vm.vmid)),
            Some(op) => self.remove(session, op)?,
        }
        state::forget(&vm.name, vm.vmid);
        self.take_out(&steps.repository)?;
        Ok(made)
    }

    fn step<T>(&self, step: Step, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        interrupt::check()?;
        let (value, said, _) = self.journal.step(step, work)?;
        self.ui.done(said);
        Ok(value)
    }

    /// Makes the backup and tells its volume. Without one nothing is removed.
    fn back_up(&self, session: &mut Session, backup: Op) -> Result<Backup> {
        let vm = self.vm;
        self.ui.step(format!("Backing up VM {}...", vm.vmid));
        self.step(Step::Backup, || {
            let made: Backup = self.journal.ask(session, backup, Deadline::secs(BACKUP_LIMIT), self.ui)?;
            let said = format!("Its backup is {}", made.volume);
            Ok((made, said))
        })
        .map_err(|error| {
            if error.kind() == Kind::Interrupted {
                return error
                    .now(format!("nothing was removed: VM '{}' is there, and in the fleet", vm.name))
                    .hint(format!(
                        "{}   # once the backup has ended",
                        same(vm, self.from_hosts, &["--no-backup"])
                    ));
            }
            error
                .now(format!("VM '{}' has no new backup: nothing was removed", vm.name))
                .hint(format!(
                    "{}   # once what is wrong is mended",
                    again::proxmox_ops(&["backup", vm.name.as_str()])
                ))
                .hint(format!("{}   # without one", same(vm, self.from_hosts, &["--no-backup"])))
        })
    }

    /// Takes it from the node. `proxmox-ops` proves once more that it is ours.
    fn remove(&self, session: &mut Session, op: Op) -> Result<()> {
        let (vm, journal) = (self.vm, self.journal);
        self.ui.step(format!("Destroying VM {} '{}'...", vm.vmid, vm.name));
        let mut ask = |op| journal.ask(session, op, Deadline::secs(NODE_LIMIT), self.ui);
        self.step(Step::Destroy, || match op {
            Op::RemoveRemainder { task, .. } => {
                unfinished::clear(vm, task, ask)?;
                Ok(((), format!("What a killed clone left under VMID {} is removed", vm.vmid)))
            }
            op => ask(op).map(|()| ((), format!("VM {} '{}' is gone", vm.vmid, vm.name))),
        })
        .map_err(|error| error.now(format!("the repository was not changed: '{}' is in the fleet", vm.name)))
    }

    /// Takes the VM out of the fleet's files.
    fn take_out(&self, repository: &child::Command) -> Result<()> {
        let (ui, vm) = (self.ui, self.vm);
        ui.step("Taking it out of the fleet...");
        self.step(Step::TakeOut, || {
            let partly = |why: Error| {
                let error = Error::partly_done(format!(
                    "VM '{}' is gone, but it is still in the fleet: {}",
                    vm.name,
                    why.chain()
                ));
                let error = why.facts().iter().fold(error, Error::now);
                let error = why.hints().iter().fold(error, Error::hint);
                error.hint(format!("mend what post-provision-vm says, then: {repository}"))
            };
            let ended = relay::run(&repository.clone().arg("--json"), LIMIT, self.journal, ui)
                .map_err(|error| partly(error.context("post-provision-vm did not end")))?;
            match ended.failed() {
                Some(error) if !was_never_there(ended.code()) => Err(partly(error)),
                _ => Ok(((), format!("'{}' is not in the fleet any more", vm.name))),
            }
        })
    }
}

/// Whether the VM can be taken out of the fleet's files, and why that would not be committed, where that is so.
fn can_take_out(repo: &Repo, tools: &Tools, vm: &ManagedVm, from_hosts: bool) -> Result<Option<String>> {
    let mut words = vec!["remove", vm.name.as_str(), "--dry-run"];
    words.extend(from_hosts.then_some("--from-hosts"));
    match preflight::would_change(repo, tools, &words, "taking the VM out of the fleet") {
        Err(error) if error.kind() != Kind::NotFound => Err(error.now("nothing was changed")),
        could => Ok(could.unwrap_or_default()),
    }
}

/// What was never in the fleet need not be taken out of it.
fn was_never_there(code: Option<i32>) -> bool {
    code == Some(i32::from(Kind::NotFound.exit_code()))
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

/// What is there: the VM, proven to be ours, or what a clone of ours left; anybody else's is a conflict. With the node's
/// version.
fn stands(session: &mut Session, vm: &ManagedVm, from_hosts: bool, ui: Ui) -> Result<(There, String)> {
    let mut world = compare::survey(session)?;
    world.existing = compare::existing(&world, vm);
    let there = match plan::holder(vm, &world)? {
        Standing::Free => {
            // Gone it is only when it is not under another number: a definition's vmid may have been edited.
            let other = plan::under_another_number(vm, &world).is_none();
            plan::standing(vm, &world).map_err(|error| match other {
                true => error.hint(format!(
                    "if '{0}' is gone, and that is another one: post-provision-vm remove {0}",
                    vm.name
                )),
                false => error,
            })?;
            There::Nothing
        }
        Standing::Ours(marker) => {
            let config = world.existing.map(|(config, _)| config.settings).unwrap_or_default();
            if config.get("protection").is_some_and(|set| meaning::truth(set) == Some(true)) {
                return Err(Error::refused(format!(
                    "refused to destroy '{}': its protection flag is set in Proxmox",
                    vm.name
                ))
                .now("nothing was changed")
                .hint(format!("`qm set {} --protection 0` on its node takes it off", vm.vmid)));
            }
            There::Vm(marker)
        }
        Standing::BeingCloned => match unfinished::wait(session, vm, ui, false)? {
            Became::Left(task) => There::Remainder(task),
            Became::Settled => {
                return Err(still_made(vm).hint(format!("{}   # again", same(vm, from_hosts, &[]))));
            }
            Became::GoesOn => return Err(still_made(vm)),
        },
    };
    Ok((there, world.node.version))
}

/// This verb's command once more.
fn same(vm: &ManagedVm, from_hosts: bool, flags: &[&str]) -> String {
    let from_hosts = from_hosts.then_some("--from-hosts");
    let words = ["destroy", vm.name.as_str()].into_iter().chain(from_hosts).chain(flags.iter().copied());
    again::provision_vm(&words.collect::<Vec<_>>())
}

fn still_made(vm: &ManagedVm) -> Error {
    Error::conflict(format!("VM {} is still being cloned: whose it is can not be told yet", vm.vmid))
        .now("nothing was changed")
}

/// Whether it is backed up first, as far as the options say; else a person is asked. Where the name was not given there
/// is one.
fn backup_wanted(args: &DestroyArgs) -> Option<bool> {
    match args {
        DestroyArgs { backup: Some(_), .. } => Some(true),
        DestroyArgs { no_backup: false, change: ChangeArgs { yes: false, .. }, confirm, .. }
            if confirm.is_none() || can_ask() =>
        {
            None
        }
        _ => Some(false),
    }
}

fn backup(vm: &ManagedVm, storage: Option<StorageId>) -> Op {
    Op::Backup {
        vmid: vm.vmid,
        storage,
        mode: BackupMode::default(),
        notes: None,
        timeout: fleet_core::protocol::six_hours(),
    }
}

/// What takes from the node what is there.
fn removal(vm: &ManagedVm, there: &There) -> Option<Op> {
    match there {
        There::Nothing => None,
        There::Vm(marker) => Some(Op::Destroy { vmid: vm.vmid, marker: marker.clone(), stop: true }),
        There::Remainder(task) => Some(Op::RemoveRemainder { vmid: vm.vmid, task: task.clone() }),
    }
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
    steps: Steps,
) -> Result<()> {
    let mut shown = |op: Op| -> Result<Vec<String>> {
        session.ask(
            Op::Show { request: Box::new(op), after: None, node: None },
            Deadline::secs(READ_LIMIT),
            |_| {},
        )
    };
    let mut requests: Vec<String> = Vec::new();
    let asked = matches!(there, There::Vm(_)).then(|| backup_wanted(args));
    match asked {
        Some(Some(true)) => requests.extend(shown(steps.backup)?),
        Some(None) => {
            // Where there is no place for one, who wants one is told so.
            let backup = shown(steps.backup).unwrap_or_default();
            requests.extend(backup.iter().map(|it| format!("{it}   # if you want it when you are asked")));
        }
        Some(Some(false)) | None => {}
    }
    if let Some(op) = steps.node {
        requests.extend(shown(op)?);
    }
    let commands = [steps.repository.to_string()];
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
            if matches!(there, There::Vm(_)) {
                ui.warn(format!(
                    "VM {} and its disks, with all its snapshots, will be gone for ever; only a backup brings it back",
                    vm.vmid
                ));
                let shutdown = again::proxmox_ops(&["shutdown", vm.name.as_str()]);
                ui.before_question(true)
                    .say(format!("  to keep it, powered off: press Enter, then `{shutdown}`"));
            }
            if matches!(there, There::Nothing) {
                ui.warn(format!(
                    "VM {} is not on the node: what is left of '{}' are its entries in the fleet's files",
                    vm.vmid, vm.name
                ));
            }
            let typed = ui.ask_line("Type the VM's name to destroy it: ")?;
            if ["", "n", "no"].contains(&typed.trim()) {
                return Err(ui.declined("nothing was changed"));
            }
            typed
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
