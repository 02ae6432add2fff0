//! The lock in a VM's configuration that a change finds: who works behind it, waited for, or told.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    types::{NodeName, Vmid},
};

use super::{
    Upid, is_running,
    list::{find_clone_into, find_running, find_running_kind},
    look::patiently,
};
use crate::api::{
    Client,
    call::{Call, vm_path},
    error,
};

/// The running task behind this lock of a VM, if there is one.
pub fn behind_lock(
    client: &Client,
    node: &NodeName,
    vmid: Vmid,
    lock: &str,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let working = match lock {
        // A clone is a task of its source.
        "clone" => find_clone_into(client, node, vmid, short(deadline))?,
        _ => None,
    };
    if working.is_some() {
        return Ok(working);
    }
    let working = find_running(client, node, vmid, short(deadline))?;
    if working.is_none() && lock == "backup" {
        // A job of several VMs is a task of none of them.
        return find_running_kind(client, node, "vzdump", short(deadline));
    }
    Ok(working)
}

/// Waits for the task that locked a VM, so that a change may be tried again that was refused for it; gives the refusal
/// back. A lock that nobody works behind (a broken backup, a killed clone) stays: taking it off is for people.
pub(super) fn wait(
    client: &Client,
    call: &Call,
    refused: Error,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<Error> {
    let said = refused.message().to_owned();
    let looked = |e: Error| e.now(format!("refused before that: {said}"));
    let lock = error::lock_of(refused.message()).to_owned();
    let (node, vmid) = (call.node(), call.locked());
    let working = behind_lock(client, node, vmid, &lock, deadline).map_err(looked)?;
    // It may have ended between the refusal and the look at the tasks.
    let Some(upid) = working else {
        return match held(client, node, vmid, deadline).map_err(looked)? {
            Held::Not => Ok(refused),
            Held::By { template } if template || vmid != call.vmid() => Err(source_left(refused, node, vmid)),
            Held::By { .. } => Err(orphaned(refused, node, vmid, &lock)),
        };
    };
    progress(&format!("note: VM {vmid} is locked ({lock}); waiting for the task that works on it: {upid}"));
    let mut pause = Duration::from_millis(50);
    loop {
        let free = matches!(held(client, node, vmid, deadline).map_err(looked)?, Held::Not);
        if free || !patiently(deadline, || is_running(client, &upid, short(deadline))).map_err(looked)? {
            return Ok(refused);
        }
        if deadline.left() <= pause {
            return Err(late(refused, call, deadline)
                .now(format!("this task still works on it: {upid}"))
                .hint(super::look_at(&upid))
                .hint("run the same command again later"));
        }
        deadline.pause(pause).map_err(looked)?;
        pause = (pause * 3 / 2).min(Duration::from_secs(2));
    }
}

/// Waits until the task has ended that locked a VM, whose configuration says so (`lock`) and lacks what the call is to
/// change. A lock that nobody works behind is an error.
pub fn unlocked(
    client: &Client,
    call: &Call,
    lock: &str,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let refused = Error::failed(format!("can not {}: VM is locked ({lock})", call.what()));
    wait(client, call, refused, deadline, progress).map(drop)
}

/// What a look may take, also when the deadline has all but passed.
fn short(deadline: Deadline) -> Deadline {
    Deadline::after(deadline.left().clamp(Duration::from_secs(5), Duration::from_secs(20)))
}

/// Whether a VM is locked.
enum Held {
    Not,
    By { template: bool },
}

/// Looks at a VM's lock. Gone with its VM is gone too: the request itself will tell.
fn held(client: &Client, node: &NodeName, vmid: Vmid, deadline: Deadline) -> Result<Held> {
    let path = vm_path(node, vmid, "/config");
    let read =
        || client.get(&format!("look at the lock of VM {vmid}"), &path, &[("current", "1")], short(deadline));
    match patiently(deadline, read) {
        Ok(config) if config.get("lock").is_none() => Ok(Held::Not),
        Ok(config) => {
            let template = config.get("template").is_some_and(|flag| flag == 1 || flag == "1");
            Ok(Held::By { template })
        }
        Err(e) if e.kind() == Kind::NotFound => Ok(Held::Not),
        Err(e) => Err(e),
    }
}

/// A lock without a task: what is there, and how people look at it and take it away.
pub fn orphaned(error: Error, node: &NodeName, vmid: Vmid, lock: &str) -> Error {
    let error = nobody(error, node, vmid);
    match lock {
        "clone" | "create" => error
            .now("whoever made it was stopped in the middle: its disks are not whole")
            .hint(look_at(node, vmid))
            .hint(format!("if nobody needs it, there: qm unlock {vmid} && qm destroy {vmid}")),
        "suspended" => {
            error.hint(format!("it was hibernated: `qm resume {vmid}` on the node '{node}' goes on with it"))
        }
        _ => error
            .hint(done_last(node, vmid))
            .hint(format!("then, if nothing works on it any more, there: qm unlock {vmid}")),
    }
}

/// The same of a template, or whatever else is cloned from: that is not for removing, nor for using as it is.
fn source_left(error: Error, node: &NodeName, vmid: Vmid) -> Error {
    nobody(error, node, vmid)
        .now(format!("VM {vmid} is what others are cloned from: whoever locked it did not end well"))
        .hint(done_last(node, vmid))
        .hint(look_at(node, vmid))
        .hint("once whoever looks after it has taken the lock off, run this again")
}

fn nobody(error: Error, node: &NodeName, vmid: Vmid) -> Error {
    error.now("nothing was changed").now(format!("no task of the node '{node}' works on VM {vmid} now"))
}

fn look_at(node: &NodeName, vmid: Vmid) -> String {
    format!("look at it on the node '{node}': cat /etc/pve/qemu-server/{vmid}.conf")
}

/// What tells on the node what was done with a VM last.
pub fn done_last(node: &NodeName, vmid: Vmid) -> String {
    format!("what was done last, on the node '{node}': pvenode task list --vmid {vmid}")
}

/// The deadline passed while a lock was in the way.
pub(super) fn late(refused: Error, call: &Call, deadline: Deadline) -> Error {
    deadline
        .error(format_args!("the lock '{}' of VM {}", error::lock_of(refused.message()), call.locked()))
        .now("nothing was changed")
        .caused_by(refused)
}
