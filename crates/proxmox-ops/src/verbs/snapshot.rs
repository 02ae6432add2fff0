//! `proxmox-ops snapshot`, `rollback`, `delete-snapshot`

use clap::Args;
use fleet_core::{Result, again, guard::Operation, types::VmRef};

use crate::{
    api::call::SnapshotName,
    context::{ChangeOptions, Context, read_deadline},
    ops::snapshot::{Action, act, check},
};

/// Take a snapshot of a VM
#[derive(Debug, Args)]
pub struct Snapshot {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Name of the snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// What to remember about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Keep the memory of the running VM too
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Snapshot {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let action = Action::Take { description: self.description.clone(), memory: self.memory };
        run(cx, &self.vm, &self.name, &self.options, &action, "take a snapshot of", "taken")
    }
}

/// Put a VM back to a snapshot; what came after is lost
#[derive(Debug, Args)]
pub struct Rollback {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Name of the snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// Start the VM then, and wait until it runs
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Rollback {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let action = Action::Rollback { start: self.start };
        run(cx, &self.vm, &self.name, &self.options, &action, "roll back", "is what it was at")
    }
}

/// Remove a snapshot of a VM; the VM stays as it is
#[derive(Debug, Args)]
pub struct DeleteSnapshot {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Name of the snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    #[command(flatten)]
    options: ChangeOptions,
}

impl DeleteSnapshot {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        run(cx, &self.vm, &self.name, &self.options, &Action::Delete, "delete a snapshot of", "deleted")
    }
}

fn run(
    cx: &Context,
    vm: &VmRef,
    name: &SnapshotName,
    options: &ChangeOptions,
    action: &Action,
    verb: &str,
    done: &str,
) -> Result<()> {
    let permit = cx.permit(vm, options, Operation::Change, verb)?;
    if options.change.dry_run {
        return cx.show(&[action.call(&permit, &cx.node_name()?, name)]);
    }
    let vmid = permit.vmid();
    let cluster = cx.connect()?;
    if matches!(action, Action::Rollback { .. }) && !options.change.yes {
        // Nobody is asked about what can not be.
        cluster.on(vmid, |node| check(node, vmid, name, action, read_deadline()))?;
        let question = format!("VM {vmid} goes back to '{name}', and what came after is lost. Continue?");
        cx.ui.agree(&question, "nothing was changed", None)?;
    }
    let deadline = options.deadline();
    let stopped = act(&cluster, &permit, name, action, deadline, &mut cx.progress())?;
    let text = match action {
        Action::Rollback { start: true } => {
            format!("VM {vmid} {done} the snapshot '{name}', and runs")
        }
        Action::Rollback { .. } => format!("VM {vmid} {done} the snapshot '{name}'"),
        _ => format!("snapshot '{name}' of VM {vmid} {done}"),
    };
    if stopped {
        cx.ui
            .warn(format!("VM {vmid} was running and is stopped now: going back to a disk's state stops it"));
        cx.ui.hint(again::change(format_args!("start {vmid}")));
    }
    cx.changed(vmid, true, &text, "")
}
