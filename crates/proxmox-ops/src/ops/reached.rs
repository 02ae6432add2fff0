//! States that no task's end tells: what the HA manager was asked for, and the start that follows a reboot.

use std::time::{Duration, Instant};

use fleet_core::{Error, Kind, Result, deadline::Deadline, interrupt, protocol::VmStatus, types::Vmid};
use serde_json::Value;

use super::{Progress, power};
use crate::{api::encode::truth, cluster::Cluster, node::Node, tasks};

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

/// Whether the HA manager was asked for another state than the VM is in.
pub fn is_leaving(status: &VmStatus) -> bool {
    let asked = status.other.get("ha").filter(|_| is_ha(status)).and_then(|ha| ha.get("state"));
    match asked.and_then(Value::as_str) {
        Some("started" | "enabled") => status.status != "running",
        Some("stopped" | "disabled") => status.status != "stopped",
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
    /// Whether a VM runs that was started since: another process, or one that has not run for as long.
    pub fn is_anew(&self, now: &VmStatus) -> bool {
        let number = |status: &VmStatus, key: &str| status.other.get(key).and_then(Value::as_u64);
        let (was, is) = (number(&self.status, "pid"), number(now, "pid"));
        now.status == "running"
            && match (was, is) {
                (Some(was), Some(is)) => was != is,
                _ => number(now, "uptime").is_some_and(|uptime| uptime < self.sent.elapsed().as_secs()),
            }
    }
}

/// Looks at a VM wherever it is. While it moves, or its node is given up by the others, nobody may tell.
fn look(cluster: &Cluster, vmid: Vmid, deadline: Deadline) -> Result<std::result::Result<VmStatus, Error>> {
    let short = Deadline::secs(20).at_most(deadline.left().max(Duration::from_secs(5)));
    match cluster.on(vmid, |node| power::status(node, vmid, short)) {
        Ok(status) => Ok(Ok(status)),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unreachable | Kind::DeadlinePassed) => Ok(Err(e)),
        Err(e) => Err(e),
    }
}

/// Waits until the VM is `running` or `stopped`, as the HA manager was asked for.
pub fn state(
    cluster: &Cluster,
    vmid: Vmid,
    goal: &str,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    progress(&format!("the HA manager was told: waiting until VM {vmid} is {goal}"));
    let mut pause = Duration::from_millis(100);
    loop {
        let last = deadline.passed();
        let seen = look(cluster, vmid, deadline)?;
        if seen.as_ref().is_ok_and(|now| now.status == goal) {
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
    let mut pause = Duration::from_millis(100);
    let begins = deadline.at_most(BEGINS);
    let mut since = None;
    loop {
        let (last, waited) = (deadline.passed(), begins.passed());
        let seen = look(cluster, vmid, deadline)?;
        let mut starts = false;
        if let Ok(now) = &seen {
            if before.is_anew(now) {
                return Ok(());
            }
            if now.status == "stopped" {
                if since.is_none() {
                    progress(&format!("VM {vmid} is shut down: waiting for the node to start it again"));
                }
                starts = cluster.on(vmid, |node| start_of(node, before, &mut since, deadline))?;
            }
        }
        if last || waited && !starts {
            let error = Error::new(
                if last { Kind::DeadlinePassed } else { Kind::Failed },
                format!("VM {vmid} was shut down for its reboot, and is not started again"),
            );
            return Err(match seen {
                Ok(now) if now.status == "stopped" => error
                    .now("it is stopped")
                    .hint(format!("proxmox-ops start {vmid}"))
                    .hint(format!("what was done last, on the node: pvenode task list --vmid {vmid}")),
                Ok(_) => {
                    Error::new(error.kind(), format!("VM {vmid} was to reboot, and runs as it did before"))
                        .hint(format!("what was done last, on the node: pvenode task list --vmid {vmid}"))
                }
                Err(e) => error.now(format!("tried to look at it: {}", e.message())),
            });
        }
        interrupt::check().map_err(|e| e.now(format!("VM {vmid} is being rebooted without this program")))?;
        deadline.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}

/// Whether a start since then goes on; one that failed is the reboot's failure.
fn start_of(
    node: &Node,
    before: &Before,
    since: &mut Option<Option<u64>>,
    deadline: Deadline,
) -> Result<bool> {
    let (vmid, short) =
        (before.status.vmid, Deadline::secs(20).at_most(deadline.left().max(Duration::from_secs(5))));
    let here = node.name(short)?;
    let since = match since {
        Some(since) => *since,
        None => *since.insert(match tasks::sent_at(&node.api, here, before.sent, short) {
            Ok(since) => Some(since),
            // Who may not ask for the clock is told of what runs only.
            Err(e) if e.kind() == Kind::Failed => None,
            Err(e) => return Err(e),
        }),
    };
    let kinds = (&["qmstart", "hastart"][..], vmid);
    let Some(upid) = tasks::newest(&node.api, here, kinds, since, &[], short)? else { return Ok(false) };
    if tasks::is_running(&node.api, &upid, short)? {
        return Ok(true);
    }
    tasks::follow(&node.api, &upid, &format!("start VM {vmid}"), short, &mut |_| {}).map(|()| false).map_err(
        |e| {
            e.context(format_args!("VM {vmid} was shut down for its reboot, and not started again"))
                .now("it is stopped")
                .hint(format!("proxmox-ops start {vmid}"))
        },
    )
}
