//! A VMID under which a clone or an import is still being written, or was when its worker was killed.

use fleet_core::{
    Error, Result,
    deadline::{Deadline, poll},
    definitions::ManagedVm,
    protocol::{Op, Session},
    ui::Ui,
};

use crate::{journal::Past, world};

/// How long a clone that goes on may take, in seconds.
const LIMIT: u64 = 60 * 60;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// It is written, or gone.
    Settled,
    /// It is still being written; only where nobody waits for it.
    GoesOn,
    /// Nothing works on it any more. It is what this task of the node left, which an earlier run of ours had it
    /// start.
    Left(String),
}

/// Waits, if `wait`, until the clone that an earlier run started is written. One that nothing works on any more and
/// that no run of ours can tell for its own is a conflict.
pub fn wait(session: &mut Session, vm: &ManagedVm, ui: Ui, wait: bool) -> Result<Became> {
    let vmid = vm.vmid;
    if wait {
        ui.step(format!("VM {vmid} is being made by an earlier run: waiting for it..."));
    }
    let mut before = false;
    let deadline = Deadline::secs(if wait { LIMIT } else { 10 });
    let became = poll(deadline, format_args!("the clone of VM {vmid}"), || {
        Ok(match world::existing(session, vmid)? {
            // The task may have ended between the two looks that tell.
            Some((_, status)) if status.is_remainder() && !std::mem::replace(&mut before, true) => {
                Err("nothing seems to work on it".to_owned())
            }
            Some((_, status)) if status.is_remainder() => match task(vm) {
                Some(task) => Ok(Became::Left(task)),
                None => return Err(nobodys(vm, status.node.as_str())),
            },
            Some((config, status)) if status.lock.is_some() || config.settings.contains_key("lock") => {
                if wait { Err("it is still locked".to_owned()) } else { Ok(Became::GoesOn) }
            }
            _ => Ok(Became::Settled),
        })
    })
    .map_err(|error| match error.kind() {
        fleet_core::Kind::Conflict => error,
        _ => error
            .now(format!("VM {vmid} is still locked by a clone"))
            .hint("`pvenode task list` on the node shows whether a clone still runs"),
    })?;
    match &became {
        Became::Settled if wait => ui.done("It is written"),
        Became::Left(_) => ui.warn(format!(
            "VM {vmid} is what a clone left that was killed; an earlier run had begun it, nothing works on it any more"
        )),
        _ => {}
    }
    Ok(became)
}

/// Whose it is it does not say: it is left to the one who knows.
fn nobodys(vm: &ManagedVm, node: &str) -> Error {
    by_hand(
        Error::conflict(format!(
            "VM {} is locked by a clone that nothing on the node works on any more, and no run here began it",
            vm.vmid
        ))
        .now("nothing was changed")
        .hint(format!("look at it on the node '{node}': cat /etc/pve/qemu-server/{}.conf", vm.vmid)),
        vm,
    )
}

/// With what a person does who knows that it is theirs.
fn by_hand(error: Error, vm: &ManagedVm) -> Error {
    error.hint(format!(
        "if it is your own clone's remainder, on its node: qm unlock {0} && qm destroy {0}",
        vm.vmid
    ))
}

/// The node's task that an earlier run had make the VM: that of the last request for it.
pub fn task(vm: &ManagedVm) -> Option<String> {
    Past::all_of(&vm.name).find_map(|past| past.making(vm.vmid))?
}

/// Removes what the task left. `proxmox-ops` proves first that it is exactly that.
pub fn clear(vm: &ManagedVm, task: String, mut ask: impl FnMut(Op) -> Result<()>) -> Result<()> {
    ask(Op::RemoveRemainder { vmid: vm.vmid, task }).map_err(|error| by_hand(error, vm))
}
