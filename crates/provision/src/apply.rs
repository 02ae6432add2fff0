//! `provision-vm apply`: an existing VM brought in line with its definition. Never shrinks, replaces or destroys.

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    cli::{ChangeArgs, silent_exit},
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    protocol::{Op, Session},
    ui::Ui,
};
use serde::Serialize;

use crate::{
    again, check,
    cli::Cli,
    compare,
    differences::{self, Difference, differences},
    journal::{Event, Journal, Verb},
    plan::{self, Standing},
    settings::Settings,
    state::Hold,
    steps::Step,
    tools::Tools,
    world::{self, World},
};

/// How long one change may take, in seconds.
const LIMIT: u64 = 5 * 60;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The VM, as named under `managed` in vms/definitions.nix. Exit code 2 when it differs still: in its network
    /// card, in disks to be made, moved or smaller; what brings those in line is told
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// --yes, --dry-run.
    #[command(flatten)]
    pub change: ChangeArgs,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    name: &'a str,
    vmid: u32,
    dry_run: bool,
    /// The requests that were sent, or would be.
    requests: &'a [String],
    changed: &'a [Difference],
    left: &'a [Difference],
    pending: &'a [String],
}

/// Runs the verb.
pub fn run(cli: &Cli, args: &ApplyArgs) -> Result<()> {
    let ui = cli.common.ui();
    let repo = cli.common.repo("provision-vm --repo DIR apply NAME")?;
    let definitions = Definitions::load(&repo, cli.common.nix)?;
    let vms = compare::named(&definitions, &args.names)?;
    if let Some(vm) = vms.iter().find(|vm| vm.readonly) {
        return Err(Error::refused(format!("refused to change '{}': it is marked readonly", vm.name))
            .now("nothing was sent to the node"));
    }
    let tools = Tools::find(cli, &repo)?;
    let mut session = tools.session()?;
    let mut whole = true;
    for vm in vms {
        whole &= apply(ui, args, &mut session, vm)?;
    }
    if !args.change.dry_run && check::inventory_is_behind(&tools, &repo) {
        ui.hint(format!(
            "docs/machines.md does not tell yet what the definitions say: {}",
            again::post_provision_vm(&["inventory"])
        ));
    }
    // As `plan`: they differ still.
    if whole { Ok(()) } else { Err(silent_exit(Kind::Usage)) }
}

/// Whether it is all that its definition says then, also what waits for a reboot.
fn apply(ui: Ui, args: &ApplyArgs, session: &mut Session, vm: &ManagedVm) -> Result<bool> {
    let name = &vm.name;
    let _hold = Hold::for_run(args.change.dry_run, name, vm.vmid, ui)?;
    // Before the look: what somebody else changes from here on is a conflict, not overwritten.
    let digest = world::existing(session, vm.vmid)?.map(|(config, _)| config.digest);
    let mut world = compare::survey(session)?;
    world.existing = compare::existing(&world, vm);
    let (now, coming) = ours(vm, &world)?;
    let (fields, _) = differences(vm, &now, &coming);
    let (changed, left): (Vec<_>, Vec<_>) = fields.into_iter().partition(|field| field.applies);
    let requests = requests(vm, &differences::settled(&now, &coming), digest);
    let told = ui.before_question(!args.change.yes && !args.change.dry_run);
    for field in &changed {
        told.say(format!("  {name}: {field}"));
    }
    let shown = requests
        .iter()
        .map(|op| {
            session.ask(
                Op::Show { request: Box::new(op.clone()), after: None, node: None },
                Deadline::secs(60),
                |_| {},
            )
        })
        .collect::<Result<Vec<Vec<String>>>>()?
        .concat();
    if !args.change.dry_run && !requests.is_empty() {
        // Those before it may have been changed.
        let (question, fact) =
            (format!("Change VM '{name}' (VMID {})?", vm.vmid), format!("'{name}' was not changed"));
        if !args.change.yes {
            let yes = again::provision_vm(&["apply", name.as_str(), "--yes"]);
            ui.agree(&question, &fact, Some(&yes))?;
        }
        send(ui, session, vm, &world, requests)?;
    }
    let pending = if args.change.dry_run { Vec::new() } else { pending(vm, session)? };
    if ui.json() {
        ui.json_line(&Answer {
            name: name.as_str(),
            vmid: vm.vmid.get(),
            dry_run: args.change.dry_run,
            requests: &shown,
            changed: &changed,
            left: &left,
            pending: &pending,
        })?;
    }
    match (changed.is_empty(), args.change.dry_run) {
        (true, _) if left.is_empty() => ui.done(format!("'{name}' is what its definition says")),
        (true, _) => ui.say(format!("  {name}: nothing that `apply` changes")),
        (false, true) => {
            ui.step("Dry run: nothing is sent. These requests would be:");
            if !ui.json() {
                ui.data(shown.iter().map(|line| format!("{line}\n")).collect::<String>())?;
            }
        }
        (false, false) => ui.done(format!("'{name}' is changed")),
    }
    if !pending.is_empty() {
        ui.warn(format!("{name}: pending until it is rebooted: {}", pending.join(", ")));
        ui.hint(again::proxmox_ops(&["reboot", name.as_str()]));
    }
    if !left.is_empty() {
        ui.warn(format!("'{name}' still differs in what `apply` leaves to you:"));
        differences::lines(&left).iter().for_each(|line| ui.warn(format!("  {line}")));
    }
    Ok(left.is_empty())
}

/// The settings of the VM, which must be ours, and those that come with its next start.
fn ours(vm: &ManagedVm, world: &World) -> Result<(Settings, Settings)> {
    let name = &vm.name;
    match (plan::standing(vm, world)?, &world.existing) {
        (Standing::Ours(_), Some((config, _))) => {
            let whole = world.configs.iter().find(|config| config.vmid == vm.vmid);
            Ok((config.settings.clone(), whole.map(|whole| whole.pending.clone()).unwrap_or_default()))
        }
        (Standing::BeingCloned, _) => Err(Error::conflict(format!("VM '{name}' is still being cloned"))
            .now("nothing was changed")
            .hint(format!("`{}` waits for it and goes on", again::provision_vm(&[name.as_str()])))),
        _ => Err(Error::not_found(format!("VM '{name}' (VMID {}) does not exist yet", vm.vmid))
            .now("nothing was changed")
            .hint(format!("`{}` makes it", again::provision_vm(&[name.as_str()])))),
    }
}

/// What is sent, in this order; `digest` is of the configuration that it was decided on.
fn requests(vm: &ManagedVm, settled: &Settings, digest: Option<String>) -> Vec<Op> {
    let (gone, settings): (Settings, Settings) =
        differences::changes(vm, settled).into_iter().partition(|(_, value)| value.is_empty());
    let delete: Vec<String> = gone.into_keys().collect();
    let mut requests = Vec::new();
    if !settings.is_empty() || !delete.is_empty() {
        requests.push(Op::Configure { vmid: vm.vmid, settings, delete, digest });
    }
    let grows = differences::growth(vm, settled).into_iter();
    requests.extend(grows.map(|(disk, size)| Op::Resize { vmid: vm.vmid, disk, size }));
    requests
}

/// Sends the requests, one after the other, and writes down what came of it.
fn send(ui: Ui, session: &mut Session, vm: &ManagedVm, world: &World, requests: Vec<Op>) -> Result<()> {
    let step = |op: &Op| if matches!(op, Op::Resize { .. }) { Step::Grow } else { Step::Configure };
    let mut steps: Vec<Step> = requests.iter().map(step).collect();
    steps.dedup();
    let beginning = Event::beginning(Verb::Apply, vm, &world.node.version, steps);
    let journal = Journal::begin(&beginning, None)?;
    let outcome = requests.into_iter().try_for_each(|op| {
        let said = match &op {
            Op::Resize { disk, size, .. } => format!("disk {disk} is {size} now"),
            _ => "VM configured".to_owned(),
        };
        let change = || Ok((journal.ask(session, op.clone(), Deadline::secs(LIMIT), ui)?, said));
        journal.step(step(&op), change).map(|((), ..)| ())
    });
    journal.end(outcome.as_ref().copied());
    outcome
}

/// What of the definition holds only after the next start.
fn pending(vm: &ManagedVm, session: &mut Session) -> Result<Vec<String>> {
    let mut world = compare::survey(session)?;
    world.existing = compare::existing(&world, vm);
    let (now, coming) = ours(vm, &world)?;
    Ok(differences(vm, &now, &coming).1)
}
