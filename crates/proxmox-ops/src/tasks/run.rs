//! Changes that start tasks: sent, followed, tried again when nothing was done, looked for when an answer is lost.

use std::time::Duration;

use fleet_core::{
    Kind, Result,
    deadline::Deadline,
    guard::Permit,
    types::{NodeName, Vmid},
};

use super::{
    Upid, follow,
    list::{find_clone_into, find_running},
};
use crate::api::{Client, call::Call, error};

/// Sends a change and follows the task that it starts, if it starts one.
///
/// A lock that was not had in time did nothing: it is tried again, more slowly each time, until the deadline.
/// An answer that was lost is looked for among the node's tasks; what is not found there stays
/// [`Kind::OutcomeUnknown`], for the caller to look at the VM itself.
pub fn run(
    client: &Client,
    permit: &Permit,
    call: &Call,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut pause = Duration::from_millis(500);
    loop {
        let outcome = client.send(permit, call, deadline).and_then(|data| match Upid::of(&data) {
            Some(upid) => {
                progress(&format!("task {upid}"));
                follow(client, &upid, call.what(), deadline, progress)
            }
            None => Ok(()),
        });
        match outcome {
            Err(e) if error::is_lock_timeout(e.message()) && deadline.left() > pause => {
                progress(&format!("{}; trying again", e.message()));
                deadline.sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(8));
            }
            Err(e) if error::is_locked(e.message()) && waited_for_lock(client, call, deadline, progress) => {}
            other => return other,
        }
    }
}

/// Whether something that locked the VM was waited for, so that a change may be tried again. A lock that
/// nobody works behind (a broken backup, a killed clone) stays: taking it off is for people.
fn waited_for_lock(client: &Client, call: &Call, deadline: Deadline, progress: &mut dyn FnMut(&str)) -> bool {
    let short = deadline.at_most(Duration::from_secs(20));
    let working = find_running(client, call.node(), None, call.vmid(), short).and_then(|found| {
        found.map_or_else(|| find_clone_into(client, call.node(), call.vmid(), short), |u| Ok(Some(u)))
    });
    let Ok(Some(upid)) = working else { return false };
    progress(&format!("VM {} is locked; waiting for the task that works on it: {upid}", call.vmid()));
    let outcome = follow(client, &upid, "work on the VM", deadline, &mut |_| {});
    // How it ended is its own matter.
    !matches!(outcome, Err(e) if matches!(e.kind(), Kind::DeadlinePassed | Kind::OutcomeUnknown | Kind::Interrupted))
}

/// As [`run`], and when the answer was lost, `done` is asked whether the change is there after all. The task
/// that may be doing it (of `kind`, on `subject`) is waited for first.
pub fn run_or_look(
    client: &Client,
    permit: &Permit,
    call: &Call,
    (kind, subject, node): (&str, Vmid, &NodeName),
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
    done: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let lost = match run(client, permit, call, deadline, progress) {
        Err(e) if e.kind() == Kind::OutcomeUnknown => e,
        other => return other,
    };
    progress(&format!("the answer to '{}' was lost: looking at what is there", call.what()));
    let mut look = || -> Result<bool> {
        for attempt in 0..3 {
            if let Some(upid) =
                find_running(client, node, Some(kind), subject, deadline.at_most(Duration::from_secs(20)))?
            {
                // Its end is looked at below, in the VM itself.
                let _ = follow(client, &upid, call.what(), deadline, &mut |_| {});
            }
            if done()? {
                return Ok(true);
            }
            if attempt < 2 {
                deadline.sleep(Duration::from_millis(500));
            }
        }
        Ok(false)
    };
    match look() {
        Ok(true) => Ok(()),
        Ok(false) => Err(lost.now("looked at the VM and at the node's tasks: there is no trace of it")),
        Err(e) => Err(lost.now(format!("tried to look at what is there: {}", e.message())).caused_by(e)),
    }
}
