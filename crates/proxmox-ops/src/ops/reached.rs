//! States that no task's end tells: what the HA manager was asked for, and the start that follows a reboot.

use std::time::{Duration, Instant};

use fleet_core::{Error, Kind, Result, deadline::Deadline, interrupt, protocol::VmStatus, types::Vmid};
use serde_json::Value;

use super::{Progress, power};
use crate::{
    api::encode::{self, truth},
    cluster::Cluster,
    node::Node,
    tasks,
};

/// How long after a shutdown its start may take to begin: `qm cleanup` waits up to 30 s for the old run's end.
const BEGINS: Duration = Duration::from_secs(90);

/// Whether a VM is the HA manager's: starting and stopping it only tells the manager, which does it when it next
/// looks, perhaps on another node.
pub fn is_ha(status: &VmStatus) -> bool {
    status.other.get("ha").is_some_and(|ha| truth(ha.get("managed")))
}

/// Whether the HA manager has given a VM up: it does nothing more with it until somebody clears that.
fn is_given_up(status: &VmStatus) -> bool {
    let state = status.other.get("ha").and_then(|ha| ha.get("state"));
    is_ha(status) && state.and_then(Value::as_str) == Some("error")
}

/// Whether the HA manager is about to have a VM in another state than the one it is in. `ha.state` is not what was
/// asked for but the manager's own state of the service: for some ten seconds, until it next looks, it says nothing of
/// a new wish, and until what it has begun is over (`request_stop`) it begins nothing else.
pub fn is_leaving(status: &VmStatus) -> bool {
    let state = status.other.get("ha").filter(|_| is_ha(status)).and_then(|ha| ha.get("state"));
    match state.and_then(Value::as_str) {
        Some("started" | "enabled" | "request_start" | "request_start_balance") => status.status != "running",
        Some("stopped" | "disabled" | "request_stop") => status.status != "stopped",
        _ => false,
    }
}

/// What there was before a change of the power state was sent.
pub struct Before {
    /// The state.
    pub status: VmStatus,
    /// When that was asked for.
    pub sent: Instant,
}

impl Before {
    /// The same of a change that was sent so long before, by another run: what process ran then is not known.
    pub fn at(mut self, age: Duration) -> Before {
        if let Some(sent) = self.sent.checked_sub(age).filter(|_| !age.is_zero()) {
            self.status.other.shift_remove("pid");
            self.sent = sent;
        }
        self
    }

    /// Whether a VM runs that was started since: another process, or one that has not run for as long.
    pub fn is_anew(&self, now: &VmStatus) -> bool {
        let number = |status: &VmStatus, key: &str| encode::whole(status.other.get(key));
        let (was, is) = (number(&self.status, "pid"), number(now, "pid"));
        now.status == "running"
            && match (was, is) {
                (Some(was), Some(is)) => was != is,
                _ => number(now, "uptime").is_some_and(|uptime| uptime < self.sent.elapsed().as_secs()),
            }
    }
}

/// Whether an error says that nobody may tell now: a link that was lost, a VM that moves, a node that the others give
/// up.
fn is_unseen(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Unreachable | Kind::DeadlinePassed | Kind::OutcomeUnknown)
}

/// Looks at a VM wherever it is; what [`is_unseen`] is no end.
fn look<T>(
    cluster: &Cluster,
    vmid: Vmid,
    deadline: Deadline,
    mut at: impl FnMut(&Node, Deadline) -> Result<T>,
) -> Result<std::result::Result<T, Error>> {
    let short = Deadline::secs(20).at_most(deadline.left().max(Duration::from_secs(5)));
    match cluster.on(vmid, |node| at(node, short)) {
        Ok(seen) => Ok(Ok(seen)),
        Err(e) if is_unseen(&e) => Ok(Err(e)),
        Err(e) => Err(e),
    }
}

fn status(cluster: &Cluster, vmid: Vmid, deadline: Deadline) -> Result<std::result::Result<VmStatus, Error>> {
    look(cluster, vmid, deadline, |node, short| power::status(node, vmid, short))
}

/// Waits until the VM is `running` or `stopped`, as the HA manager was asked for.
pub fn state(
    cluster: &Cluster,
    vmid: Vmid,
    goal: &str,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    progress(&format!("note: the HA manager was told: waiting until VM {vmid} is {goal}"));
    let mut pause = Duration::from_millis(100);
    loop {
        let last = deadline.passed();
        let seen = status(cluster, vmid, deadline)?;
        if seen.as_ref().is_ok_and(|now| now.status == goal && !is_leaving(now)) {
            return Ok(());
        }
        if let Some(now) = seen.as_ref().ok().filter(|now| is_given_up(now)) {
            return Err(Error::failed(format!(
                "VM {vmid} is not {goal}: the HA manager has put it into its state 'error'"
            ))
            .now(format!("it is {} on the node '{}'", now.status, now.node))
            .hint("`ha-manager status`, and the journal of pve-ha-lrm on that node, show why")
            .hint(format!("what clears it: ha-manager set vm:{vmid} --state disabled")));
        }
        if last {
            let error = deadline
                .error(format_args!("the HA manager to have VM {vmid} {goal}"))
                .now("it was asked for that, and may still do it")
                .hint("`ha-manager status` on a node shows what it is at")
                .hint("run the same command again later: it looks first");
            return Err(match seen {
                Ok(now) => error.now(format!("VM {vmid} is {} on the node '{}'", now.status, now.node)),
                Err(e) => error.now(format!("tried to look at VM {vmid}: {}", e.message())),
            });
        }
        interrupt::check()
            .map_err(|e| e.now(format!("the HA manager was asked to have VM {vmid} {goal}")))?;
        deadline.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_secs(2));
    }
}

/// Waits until a VM runs again that a reboot's task has shut down: the node starts it by a task of its own.
pub fn again(cluster: &Cluster, before: &Before, deadline: Deadline, progress: Progress<'_>) -> Result<()> {
    let vmid = before.status.vmid;
    let after = After { done: "was shut down for its reboot", again: " again", sent: before.sent };
    started(cluster, vmid, &after, &|now| before.is_anew(now), deadline, progress)
}

/// Waits until a VM runs that went back to a snapshot: its task only begins the start, as a task of its own.
pub fn rolled_back(
    cluster: &Cluster,
    vmid: Vmid,
    sent: Instant,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let after = After { done: "is back at its snapshot", again: "", sent };
    started(cluster, vmid, &after, &|now| now.status == "running", deadline, progress)
}

/// What a start of the node's own comes after.
struct After {
    /// What is true of the VM then.
    done: &'static str,
    /// Whether it is known to have run before: " again", else nothing.
    again: &'static str,
    /// When that was asked for.
    sent: Instant,
}

/// Waits until a VM is `there`, which the node was to start.
fn started(
    cluster: &Cluster,
    vmid: Vmid,
    after: &After,
    there: &dyn Fn(&VmStatus) -> bool,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let After { done, again, .. } = *after;
    let mut pause = Duration::from_millis(100);
    let begins = deadline.at_most(BEGINS);
    let (mut since, mut told) = (None, false);
    let known = |e: Error| e.now(format!("VM {vmid} {done}"));
    loop {
        let (last, waited) = (deadline.passed(), begins.passed());
        let mut seen = status(cluster, vmid, deadline).map_err(known)?;
        let mut starts = false;
        if let Ok(now) = &seen {
            if there(now) {
                return Ok(());
            }
            if now.status == "stopped" {
                if !std::mem::replace(&mut told, true) {
                    progress(&format!("note: VM {vmid} {done}: waiting for the node to start it{again}"));
                }
                // The HA manager starts it when it next looks, and tries again what failed.
                let managed = is_ha(now) && !is_given_up(now);
                starts = managed;
                let start = look(cluster, vmid, deadline, |node, short| {
                    start_of(node, vmid, after, &mut since, short)
                });
                match start.map_err(known)? {
                    Ok(Start::Runs) => starts = true,
                    Ok(Start::Failed(e)) if !managed => {
                        return Err(e
                            .context(format_args!("VM {vmid} {done}, and not started{again}"))
                            .now("it is stopped")
                            .hint(fleet_core::again::change(format_args!("start {vmid}"))));
                    }
                    Ok(Start::None | Start::Failed(_)) => {}
                    Err(e) => seen = Err(e),
                }
            }
        }
        if last || waited && !starts {
            return Err(match seen {
                Ok(now) => not_started(vmid, after, &now, last),
                Err(e) => Error::new(
                    Kind::OutcomeUnknown,
                    format!("VM {vmid} {done}, and whether it was started{again} is not known"),
                )
                .now(format!("tried to look at it: {}", e.message()))
                .hint(fleet_core::again::ops(format_args!("status {vmid}")))
                .caused_by(e),
            });
        }
        interrupt::check().map_err(|e| known(e).now("the node starts it without this program"))?;
        deadline.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}

/// The error for a VM that nothing has started, or is starting.
fn not_started(vmid: Vmid, After { done, again, .. }: &After, now: &VmStatus, late: bool) -> Error {
    let kind = if late { Kind::DeadlinePassed } else { Kind::Failed };
    let error = if now.status == "stopped" {
        Error::new(kind, format!("VM {vmid} {done}, and is not started{again}"))
            .now("it is stopped")
            .hint(fleet_core::again::change(format_args!("start {vmid}")))
    } else {
        Error::new(kind, format!("VM {vmid} was to reboot, and runs as it did before"))
    };
    error.hint(tasks::done_last(&now.node, vmid))
}

/// The start that the node has begun.
enum Start {
    /// There is none, or it has ended well.
    None,
    /// It goes on.
    Runs,
    /// It has ended, and not well.
    Failed(Error),
}

/// The newest start since then.
fn start_of(
    node: &Node,
    vmid: Vmid,
    after: &After,
    since: &mut Option<Option<u64>>,
    short: Deadline,
) -> Result<Start> {
    let here = node.name(short)?;
    let since = match since {
        Some(since) => *since,
        None => *since.insert(match tasks::sent_at(&node.api, here, after.sent, short) {
            Ok(since) => Some(since),
            // Who may not ask for the clock is told of what runs only.
            Err(e) if e.kind() == Kind::Failed => None,
            Err(e) => return Err(e),
        }),
    };
    let kinds = (&["qmstart", "hastart"][..], vmid);
    let Some(upid) = tasks::newest(&node.api, here, kinds, since, &[], short)? else {
        return Ok(Start::None);
    };
    if tasks::is_running(&node.api, &upid, short)? {
        return Ok(Start::Runs);
    }
    match tasks::follow(&node.api, &upid, &format!("start VM {vmid}"), short, &mut |_| {}) {
        Ok(()) => Ok(Start::None),
        // Nothing of the task's.
        Err(e) if matches!(e.kind(), Kind::OutcomeUnknown | Kind::DeadlinePassed | Kind::Interrupted) => {
            Err(e)
        }
        Err(e) => Ok(Start::Failed(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, alone};
    use serde_json::json;

    const STATUS: &str = "/nodes/prom/qemu/110/status/current";
    const UPID: &str = "UPID:prom:00000ED5:000AE788:000007D0:qmstart:110:root@pam:";
    const TASK: &str = "/nodes/prom/tasks/\
                        UPID%3Aprom%3A00000ED5%3A000AE788%3A000007D0%3Aqmstart%3A110%3Aroot%40pam%3A/status";

    fn managed(status: &str, state: &Value) -> VmStatus {
        let ha = json!({"managed": 1, "state": state});
        serde_json::from_value(json!({"vmid": 110, "node": "prom", "status": status, "ha": ha})).unwrap()
    }

    #[test]
    fn the_ha_managers_own_states_tell_where_a_vm_goes() {
        for (state, goes) in [
            (json!("started"), Some("running")),
            (json!("request_start"), Some("running")),
            (json!("request_start_balance"), Some("running")),
            (json!("enabled"), Some("running")),
            (json!("stopped"), Some("stopped")),
            (json!("request_stop"), Some("stopped")),
            (json!("disabled"), Some("stopped")),
            (json!("error"), None),
            (json!("migrate"), None),
            (json!("freeze"), None),
            (Value::Null, None),
        ] {
            for status in ["running", "stopped"] {
                let leaves = goes.is_some_and(|goes| goes != status);
                assert_eq!(is_leaving(&managed(status, &state)), leaves, "{status} {state}");
            }
        }
        let mut alone = managed("running", &json!("request_stop"));
        alone.other.insert("ha".to_owned(), json!({"managed": 0}));
        assert!(!is_leaving(&alone));
    }

    /// A node whose VM 110 was shut down, with a start in its list of tasks; on its clock it is 2000.
    fn shut_down() -> Fake {
        let task = json!({"upid": UPID, "type": "qmstart", "id": "110", "starttime": 2000});
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/nodes/prom/time", json!({"time": 2000}))
            .get("/nodes/prom/tasks", json!([task]))
    }

    fn rebooted(fake: &Fake, wait: u64) -> Result<()> {
        let status = json!({"vmid": 110, "node": "prom", "status": "running", "pid": 5});
        let before = Before { status: serde_json::from_value(status).unwrap(), sent: Instant::now() };
        again(&alone(fake), &before, Deadline::secs(wait), &mut |_| {})
    }

    #[test]
    fn a_link_that_is_lost_while_the_start_is_looked_at_ends_no_wait() {
        let mut fake = shut_down().get(STATUS, json!({"status": "stopped"}));
        // More often than one request is sent again.
        for _ in 0..6 {
            fake = fake.drops("GET", TASK);
        }
        let fake = fake.get(TASK, json!({"status": "running"}));
        for _ in 0..6 {
            fake.clone().get(STATUS, json!({"status": "stopped"}));
        }
        rebooted(&fake.get(STATUS, json!({"status": "running", "pid": 6})), 20).unwrap();
    }

    #[test]
    fn what_was_not_seen_is_not_called_a_failure() {
        let fake = shut_down().get(STATUS, json!({"status": "stopped"})).drops("GET", TASK);
        let error = rebooted(&fake, 1).unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown, "{error:?}");
        assert!(error.message().ends_with("whether it was started again is not known"), "{error:?}");
        assert!(!error.facts().iter().any(|fact| fact == "it is stopped"), "{error:?}");
        // The sight is lost between two looks at the task.
        let fake = shut_down()
            .get(STATUS, json!({"status": "stopped"}))
            .get(TASK, json!({"status": "stopped", "exitstatus": "OK"}))
            .drops("GET", TASK);
        assert_eq!(rebooted(&fake, 1).unwrap_err().kind(), Kind::OutcomeUnknown);
    }
}
