//! `proxmox-ops snapshot`, `rollback`, `delete-snapshot`

use clap::Args;
use fleet_core::{Result, guard::Operation, types::VmRef};

use crate::{
    api::call::SnapshotName,
    context::{ChangeOptions, Context, read_deadline},
    node::Node,
    ops::{
        power,
        snapshot::{Action, act},
    },
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
    /// Start the VM then
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Rollback {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "roll back")?;
        if !self.options.change.dry_run
            && !self.options.change.yes
            && !cx.ui.confirm(&format!(
                "VM {} goes back to '{}', and what came after is lost. Continue?",
                permit.vmid(),
                self.name
            ))?
        {
            cx.ui.say("Nothing was changed.");
            return Ok(());
        }
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
    let (cluster, deadline) = (cx.connect()?, options.deadline());
    let runs =
        |node: &Node| power::status(node, vmid, read_deadline()).is_ok_and(|now| now.status == "running");
    let stopped = cluster.on(vmid, |node| {
        // Only going back stops a VM, and only where its memory is not in the snapshot.
        let ran = matches!(action, Action::Rollback { .. }) && runs(node);
        act(node, &permit, name, action, deadline, &mut cx.progress())?;
        Ok(ran && !runs(node))
    })?;
    let text = match action {
        Action::Rollback { .. } => format!("VM {vmid} {done} the snapshot '{name}'"),
        _ => format!("snapshot '{name}' of VM {vmid} {done}"),
    };
    if stopped {
        cx.ui
            .warn(format!("VM {vmid} was running and is stopped now: going back to a disk's state stops it"));
        cx.ui.hint(format!("proxmox-ops start {vmid}"));
    }
    cx.changed(vmid, true, &text, "")
}
