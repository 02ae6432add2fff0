//! Changes that start tasks: sent, followed, tried again when nothing was done.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    guard::Permit,
    interrupt,
    types::{NodeName, Vmid},
};

use super::{
    Upid, follow, is_running,
    list::{find_clone_into, find_running, find_running_kind},
};
use crate::api::{Client, call::Call, error};

/// How a change went that did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// It was done, and its task, where it had one, ended well.
    Done(Option<Upid>),
    /// Its end was not seen: the answer was lost, or the way to the node while its task was followed.
    Lost {
        /// What was lost, of [`Kind::OutcomeUnknown`].
        error: Error,
        /// Its task, where that was told before.
        task: Option<Upid>,
    },
}

/// Sends a change and follows the task that it starts, if it starts one.
///
/// A lock that was not had in time did nothing: it is tried again, more slowly each time, until the deadline.
/// What was lost is not looked for here.
pub fn run(
    client: &Client,
    permit: &Permit,
    call: &Call,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    retried(client, call, deadline, progress, |progress| once(client, permit, call, deadline, progress))
}

/// One request, followed to its end.
pub(super) fn once(
    client: &Client,
    permit: &Permit,
    call: &Call,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let task = match client.send(permit, call, deadline) {
        Ok(data) => Upid::of(&data),
        Err(e) if e.kind() == Kind::OutcomeUnknown => return Ok(Outcome::Lost { error: e, task: None }),
        Err(e) => return Err(e),
    };
    let Some(upid) = task else { return Ok(Outcome::Done(None)) };
    progress(&format!("task {upid}"));
    match follow(client, &upid, call.what(), deadline, progress) {
        Ok(()) => Ok(Outcome::Done(Some(upid))),
        Err(e) if e.kind() == Kind::OutcomeUnknown => Ok(Outcome::Lost { error: e, task: Some(upid) }),
        Err(e) => Err(e),
    }
}

/// Tries a change until it is not a lock that is in its way.
pub(super) fn retried<T>(
    client: &Client,
    call: &Call,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
    mut attempt: impl FnMut(&mut dyn FnMut(&str)) -> Result<T>,
) -> Result<T> {
    let mut pause = Duration::from_millis(500);
    loop {
        match attempt(progress) {
            Err(e) if error::is_lock_timeout(e.message()) && deadline.left() > pause => {
                progress(&format!("{}; trying again", e.message()));
                deadline.sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(8));
            }
            Err(e) if error::is_locked(e.message()) => {
                match wait_for_lock(client, call, error::lock_of(e.message()), deadline, progress)? {
                    Waited::Gone => {}
                    Waited::Nobody => {
                        let lock = error::lock_of(e.message()).to_owned();
                        return Err(orphaned(e, call.node(), call.vmid(), &lock));
                    }
                    Waited::Late(upid) => return Err(late(e, call, &upid, deadline)),
                }
            }
            other => return other,
        }
    }
}

/// The running task behind this lock of a VM, if there is one.
pub fn behind_lock(
    client: &Client,
    node: &NodeName,
    vmid: Vmid,
    lock: &str,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let short = || deadline.at_most(Duration::from_secs(20));
    let mut working = find_running(client, node, None, vmid, short())?;
    if working.is_none() && lock == "clone" {
        working = find_clone_into(client, node, vmid, short())?;
    }
    if working.is_none() && lock == "backup" {
        // A job of several VMs is a task of none of them.
        working = find_running_kind(client, node, "vzdump", short())?;
    }
    Ok(working)
}

/// How waiting for a lock ended.
enum Waited {
    /// The lock is gone, or whoever held it has ended.
    Gone,
    /// There was nobody to wait for.
    Nobody,
    /// The deadline passed; this task still holds it.
    Late(Upid),
}

/// Waits for the task that locked a VM, so that a change may be tried again. A lock that nobody works behind (a
/// broken backup, a killed clone) stays: taking it off is for people.
fn wait_for_lock(
    client: &Client,
    call: &Call,
    lock: &str,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<Waited> {
    let short = || deadline.at_most(Duration::from_secs(20));
    let (node, vmid) = (call.node(), call.vmid());
    let working = behind_lock(client, node, vmid, lock, deadline)?;
    let path = call.vm_path("/config");
    let held = || {
        let config = client.get("look at a VM's lock", &path, &[("current", "1")], short());
        // Gone with its VM is gone too: the request itself will tell.
        config.is_ok_and(|config| config.get("lock").is_some())
    };
    // It may have ended between the refusal and the look at the tasks.
    let Some(upid) = working else { return Ok(if held() { Waited::Nobody } else { Waited::Gone }) };
    progress(&format!("VM {vmid} is locked ({lock}); waiting for the task that works on it: {upid}"));
    let mut pause = Duration::from_millis(50);
    loop {
        if !held() || !is_running(client, &upid, short())? {
            return Ok(Waited::Gone);
        }
        if deadline.left() <= pause {
            return Ok(Waited::Late(upid));
        }
        interrupt::check()?;
        deadline.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_secs(2));
    }
}

/// A lock without a task: what is there, and how people look at it and take it away.
pub fn orphaned(error: Error, node: &NodeName, vmid: Vmid, lock: &str) -> Error {
    let error =
        error.now("nothing was changed").now(format!("no task of the node '{node}' works on VM {vmid} now"));
    match lock {
        "clone" | "create" => error
            .now("whoever made it was stopped in the middle: its disks are not whole")
            .hint(format!("look at it on the node: cat /etc/pve/qemu-server/{vmid}.conf"))
            .hint(format!("if nobody needs it: qm unlock {vmid} && qm destroy {vmid}")),
        "suspended" => {
            error.hint(format!("it was hibernated: `qm resume {vmid}` on the node goes on with it"))
        }
        _ => error
            .hint(format!("what was done last: pvenode task list --vmid {vmid}"))
            .hint(format!("then, if nothing works on it any more: qm unlock {vmid}")),
    }
}

fn late(error: Error, call: &Call, upid: &Upid, deadline: Deadline) -> Error {
    deadline
        .error(format_args!("the lock '{}' of VM {}", error::lock_of(error.message()), call.vmid()))
        .now("nothing was changed")
        .now(format!("this task still works on it: {upid}"))
        .hint(format!("look at it on the node: pvenode task status '{upid}'"))
        .hint("run the same command again later")
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node, permit};
    use serde_json::{Value, json};

    const CONFIG: &str = "/nodes/prom/qemu/110/config";
    const TASKS: &str = "/nodes/prom/tasks";

    /// A change that finds the VM locked, and what the look at its configuration shows afterwards.
    fn locked(after: Value) -> (Result<()>, Fake) {
        let fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(TASKS, json!([]))
            .on("POST", CONFIG, 500, json!({"message": "VM is locked (clone)\n"}))
            .on("POST", CONFIG, 200, json!({"data": null}))
            .get(CONFIG, after);
        let name = "prom".parse().unwrap();
        let permit = permit(110);
        let call = Call::configure(&permit, &name, [("cores", "2")], &[], None);
        let done = run(&node(&fake).api, &permit, &call, Deadline::secs(5), &mut |_| {});
        (done.map(drop), fake)
    }

    #[test]
    fn a_task_that_ended_between_the_refusal_and_the_look_leaves_no_lock() {
        let (done, fake) = locked(json!({"digest": "d", "name": "web"}));
        done.unwrap();
        assert_eq!(fake.requests("POST"), 2);
        let (done, fake) = locked(json!({"digest": "d", "name": "web", "lock": "clone"}));
        let error = done.unwrap_err();
        assert!(error.facts().iter().any(|fact| fact.starts_with("no task of the node")), "{error:?}");
        assert_eq!(fake.requests("POST"), 1);
    }
}
