//! `provision-vm apply`: an existing VM brought in line with its definition. Never shrinks, replaces or destroys.

use clap::Args;
use fleet_core::{
    Error, Result,
    cli::ChangeArgs,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    protocol::{Op, Session},
    ui::Ui,
};
use serde::Serialize;

use crate::{
    cli::Cli,
    compare,
    differences::{self, Difference, differences},
    plan::{self, Standing},
    settings,
    state::Hold,
    tools::Tools,
    world::World,
};

/// How long one change may take, in seconds.
const LIMIT: u64 = 5 * 60;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The VM, as named under `managed` in vms/definitions.nix
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
    let mut session = Tools::find(cli, &repo)?.session()?;
    vms.into_iter().try_for_each(|vm| apply(ui, args, &mut session, vm))
}

fn apply(ui: Ui, args: &ApplyArgs, session: &mut Session, vm: &ManagedVm) -> Result<()> {
    let name = &vm.name;
    let _hold = if args.change.dry_run { None } else { Some(Hold::take(name, vm.vmid)?) };
    let mut world = compare::survey(session)?;
    world.existing = compare::existing(&world, vm);
    let (now, coming) = ours(vm, &world)?;
    let (fields, _) = differences(vm, &now, &coming);
    let (changed, left): (Vec<_>, Vec<_>) = fields.into_iter().partition(|field| field.applies);
    let requests = requests(vm, &differences::settled(&now, &coming));
    for field in &changed {
        ui.say(format!("  {name}: {field}"));
    }
    for field in &left {
        ui.warn(format!("{name}: {field}"));
    }
    let shown = requests
        .iter()
        .map(|op| session.ask(Op::Show { request: Box::new(op.clone()) }, Deadline::secs(60), |_| {}))
        .collect::<Result<Vec<Vec<String>>>>()?
        .concat();
    if !args.change.dry_run && !requests.is_empty() {
        if !args.change.yes && !ui.confirm(&format!("Change VM '{name}' (VMID {})?", vm.vmid))? {
            ui.say("Nothing was changed.");
            return Ok(());
        }
        for op in requests {
            session.ask::<()>(op, Deadline::secs(LIMIT), |line| ui.detail(line))?;
        }
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
        (true, _) => ui.done(format!("'{name}' is what its definition says, as far as `apply` goes")),
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
        ui.hint(format!("proxmox-ops reboot {name}"));
    }
    Ok(())
}

/// The settings of the VM, which must be ours, and those that come with its next start.
fn ours(vm: &ManagedVm, world: &World) -> Result<(settings::Settings, settings::Settings)> {
    let name = &vm.name;
    match (plan::standing(vm, world)?, &world.existing) {
        (Standing::Ours(_), Some((config, _))) => {
            let whole = world.configs.iter().find(|config| config.vmid == vm.vmid);
            Ok((config.settings.clone(), whole.map(|whole| whole.pending.clone()).unwrap_or_default()))
        }
        (Standing::BeingCloned, _) => Err(Error::conflict(format!("VM '{name}' is still being cloned"))
            .now("nothing was changed")
            .hint(format!("`provision-vm {name}` waits for it and goes on"))),
        _ => Err(Error::not_found(format!("VM '{name}' (VMID {}) does not exist yet", vm.vmid))
            .now("nothing was changed")
            .hint(format!("`provision-vm {name}` makes it"))),
    }
}

/// What is sent, in this order.
fn requests(vm: &ManagedVm, settled: &settings::Settings) -> Vec<Op> {
    let changes = differences::changes(vm, settled);
    let mut requests = Vec::new();
    if !changes.is_empty() {
        requests.push(settings::configure(vm.vmid, changes));
    }
    if let (Some((disk, size)), _) = plan::growth(vm, settled) {
        requests.push(Op::Resize { vmid: vm.vmid, disk, size });
    }
    requests
}

/// What of the definition holds only after the next start.
fn pending(vm: &ManagedVm, session: &mut Session) -> Result<Vec<String>> {
    let mut world = compare::survey(session)?;
    world.existing = compare::existing(&world, vm);
    let (now, coming) = ours(vm, &world)?;
    Ok(differences(vm, &now, &coming).1)
}
