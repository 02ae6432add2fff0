//! Changes that start tasks: sent, followed, tried again when nothing was done.

use std::time::Duration;

use fleet_core::{Error, Kind, Result, deadline::Deadline, guard::Permit};

use super::{Upid, follow, lock};
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

/// The first pause between two tries, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// Tries a change until it is not a lock that is in its way.
pub(super) fn retried<T>(
    client: &Client,
    call: &Call,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
    mut attempt: impl FnMut(&mut dyn FnMut(&str)) -> Result<T>,
) -> Result<T> {
    let (mut pause, longest) = PAUSES;
    loop {
        let refused = match attempt(progress) {
            Err(e) if call.did_nothing(e.message()) && deadline.left() > pause => e,
            Err(e) if error::is_locked(e.message()) => lock::wait(client, call, e, deadline, progress)?,
            other => return other,
        };
        if deadline.left() <= pause {
            return Err(lock::late(refused, call, deadline));
        }
        progress(&format!("note: {}; trying again", refused.message()));
        if let Err(stop) = deadline.pause(pause) {
            return Err(stop.caused_by(refused));
        }
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node, permit};
    use fleet_core::{
        protocol::{CloneRequest, Marker},
        types::Vmid,
    };
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

    /// A clone whose template is locked each time that it is asked for, and its looks at that say this.
    fn template_locked(by: &str, looks: &[(u16, Value)], limit: u64) -> (Result<()>, Fake) {
        let missing =
            json!({"message": "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist\n"});
        let refusal = json!({"message": format!("VM is locked ({by})\n")});
        let fake = Fake::new().get(TASKS, json!([])).on("GET", CONFIG, 500, missing).on(
            "POST",
            "/nodes/prom/qemu/9002/clone",
            500,
            refusal,
        );
        let fake = looks.iter().fold(fake, |fake, (status, body)| {
            fake.on("GET", "/nodes/prom/qemu/9002/config", *status, body.clone())
        });
        let (name, vmid) = ("prom".parse().unwrap(), Vmid::new(110).unwrap());
        let request = CloneRequest {
            template: Vmid::new(9002).unwrap(),
            vmid,
            name: "web".parse().unwrap(),
            storage: None,
            full: true,
            node: None,
            marker: Marker::fresh(&"web".parse().unwrap(), vmid).unwrap(),
        };
        let permit = permit(110);
        let call = Call::clone_vm(&permit, &name, &request, None);
        let done = run(&node(&fake).api, &permit, &call, Deadline::secs(limit), &mut |_| {});
        (done.map(drop), fake)
    }

    #[test]
    fn of_a_clone_the_lock_of_its_template_counts() {
        for lock in ["backup", "clone", "create", "suspended"] {
            let look = json!({"data": {"digest": "d", "template": 1, "lock": lock}});
            let (done, fake) = template_locked(lock, &[(200, look)], 86400);
            let error = done.unwrap_err();
            assert_eq!(error.kind(), Kind::Failed, "{error:?}");
            assert!(error.facts().contains(&"no task of the node 'prom' works on VM 9002 now".to_owned()));
            let hints = error.hints().join("\n");
            assert!(hints.contains("pvenode task list --vmid 9002"), "{hints}");
            assert!(!hints.contains("qm ") && !hints.contains("110"), "{hints}");
            assert_eq!(fake.requests("POST"), 1);
        }
    }

    #[test]
    fn a_lock_that_comes_and_goes_is_met_with_pauses_and_a_deadline() {
        let (done, fake) =
            template_locked("backup", &[(200, json!({"data": {"digest": "d", "template": 1}}))], 3);
        let error = done.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlinePassed, "{error:?}");
        assert!(error.message().contains("the lock 'backup' of VM 9002"), "{error:?}");
        assert!(fake.requests("POST") <= 3, "{}", fake.requests("POST"));
    }

    #[test]
    fn what_can_not_be_looked_at_is_not_taken_for_gone() {
        let forbidden = json!({"message": "Permission check failed (/vms/9002, VM.Audit)\n"});
        let (done, fake) = template_locked("backup", &[(403, forbidden)], 20);
        let error = done.unwrap_err();
        assert!(error.message().contains("/vms/9002, VM.Audit"), "{error:?}");
        assert!(error.facts().iter().any(|fact| fact.contains("VM is locked (backup)")), "{error:?}");
        assert_eq!(fake.requests("POST"), 1);
    }
}
