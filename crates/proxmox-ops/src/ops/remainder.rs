//! What a clone or an import leaves whose worker was killed, as by a restart of the daemon or a power failure: a
//! configuration that is locked and mostly says nothing of whose it is, and volumes. A clone of several disks that has
//! written one of them has our marker, and lacks the others.
//!
//! Whose it is the node's own task tells. Making a VMID's configuration fails where there is one, so what is left
//! there is the last such task's; and whoever asked for that task knows its id.

use std::time::Instant;

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::{CloneRequest, VmConfig},
    types::VmName,
};

use super::{Progress, config, destroy, volumes};
use crate::{
    api::call::Call,
    node::Node,
    tasks::{self, Upid},
};

/// What Proxmox writes as the description of a clone that is not whole yet.
const TEMPORARY: &str = "qmclone temporary file";

/// Removes what `task` left under the permit's VMID, and reads back that it is gone. The lock is not taken off: the
/// removal passes it, as only root may.
///
/// Anything else than exactly that is refused: a configuration that says more than that it is locked and is no clone with
/// the marker of the permit's name and VMID, a task that goes on, ended well or made another VM, and a later task that
/// may have made this one.
pub fn remove(
    node: &Node,
    permit: &Permit,
    task: &Upid,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    if permit.operation() != Operation::Create {
        return Err(Error::refused(format!("refused to clear VMID {vmid}: the guard gave no leave for it")));
    }
    let config = config::read(node, vmid, deadline)?;
    proven(node, permit.name(), &config, task, deadline).map_err(|why| {
        Error::refused(format!("refused to remove VM {vmid}: it is not what the task {task} left"))
            .now("nothing was changed")
            .caused_by(why)
    })?;
    progress(&format!("removing what {task} left under VMID {vmid}"));
    let (call, others) = call(node, permit, &config, task, deadline)?;
    destroy::remove(node, permit, &call, deadline, progress)?;
    if !others.is_empty() {
        progress(&format!("warning: {}", volumes::left_alone(vmid, node.name(deadline)?, &others)));
    }
    Ok(())
}

/// The removal, and the volumes of that number that are older than the task and may be another cluster's: with them
/// there only what the configuration names is removed.
pub fn call(
    node: &Node,
    permit: &Permit,
    config: &VmConfig,
    task: &Upid,
    deadline: Deadline,
) -> Result<(Call, Vec<String>)> {
    let others = volumes::of_others(node, config, Some(task.started()), deadline)?;
    Ok((Call::destroy_locked(permit, node.name(deadline)?, others.is_empty()), others))
}

fn proven(
    node: &Node,
    name_of: Option<&VmName>,
    config: &VmConfig,
    task: &Upid,
    deadline: Deadline,
) -> Result<()> {
    let name = node.name(deadline)?;
    let not = |why: String| Err(Error::conflict(why));
    let vmid = config.vmid;
    let lock = config.settings.get("lock").map_or("", String::as_str);
    let kind = match lock {
        "clone" => "qmclone",
        "create" => "qmcreate",
        _ => return not(format!("VM {vmid} is not locked by a clone or a creation")),
    };
    let more = config.settings.iter().find(|(key, value)| match key.as_str() {
        "lock" => false,
        "description" => value.trim() != TEMPORARY,
        _ => true,
    });
    // A clone writes all of them with each of its disks, our marker too; a copy made by hand has another VMID's.
    let marked =
        config.marker.as_ref().is_some_and(|marker| Some(&marker.name) == name_of && marker.vmid == vmid);
    if let Some((key, _)) = more.filter(|_| !(marked && lock == "clone")) {
        return not(format!("VM {vmid} has settings of its own ('{key}'), and not our marker"));
    }
    if task.kind() != kind || task.node() != name.as_str() {
        return not(format!("no '{kind}' of the node '{name}' is that task"));
    }
    if kind == "qmcreate" && task.subject() != vmid.to_string() {
        return not("that task made another VM".to_owned());
    }
    if !tasks::failed(&node.api, task, deadline)? {
        return not("that task goes on, or ended well".to_owned());
    }
    if kind == "qmclone" && tasks::clones_into(&node.api, task, deadline)?.is_some_and(|into| into != vmid) {
        return not("that task cloned into another VMID".to_owned());
    }
    match tasks::later(&node.api, name, kind, task, deadline)? {
        None => {
            not(format!("there have been too many tasks since to tell whether one of them made VM {vmid}"))
        }
        Some(later) => later.into_iter().try_for_each(|other| {
            let made = match kind {
                // One that does not say may be one into this VMID.
                "qmclone" => tasks::clones_into(&node.api, &other, deadline)?.is_none_or(|into| into == vmid),
                _ => other.subject() == vmid.to_string(),
            };
            if made { not(format!("the task {other} is later, and may have made it")) } else { Ok(()) }
        }),
    }
}

/// The task that cloned into the request's VMID since it was `sent`: the only one, or none.
pub fn task_of(
    node: &Node,
    request: &CloneRequest,
    sent: Instant,
    deadline: Deadline,
) -> Result<Option<Upid>> {
    let name = node.name(deadline)?;
    let sent = tasks::sent_at(&node.api, name, sent, deadline)?;
    let mut found = Vec::new();
    for task in tasks::list(&node.api, name, Some("qmclone"), Some(request.template), deadline)? {
        let upid = task.upid();
        if task.starttime >= sent && tasks::clones_into(&node.api, &upid, deadline)? == Some(request.vmid) {
            found.push(upid);
        }
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, definitions, node};
    use fleet_core::{Kind, guard::Guard, protocol::Marker, types::Vmid};
    use serde_json::{Value, json};

    const TASK: &str = "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:";
    const LATER: &str = "UPID:prom:00000ED6:000AE799:6B03B83C:qmclone:9002:root@pam:";
    const VM: &str = "/nodes/prom/qemu/110";

    fn path(upid: &str, rest: &str) -> String {
        format!("/nodes/prom/tasks/{}{rest}", upid.replace(':', "%3A").replace('@', "%40"))
    }

    fn log(vmid: u32) -> Value {
        json!([{"n": 1, "t": format!("creating a clone of VM 9002 with ID {vmid}")}, {"n": 2, "t": "TASK ERROR: received interrupt"}])
    }

    fn listed(upid: &str, start: u64) -> Value {
        json!({"upid": upid, "type": "qmclone", "id": "9002", "starttime": start, "endtime": start + 9, "status": "received interrupt"})
    }

    /// A node where the configuration is this, the task ended so and the list of tasks is that.
    fn fake(config: Value, exit: &str, into: u32, tasks: Value) -> Fake {
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(&path(TASK, "/status"), json!({"status": "stopped", "exitstatus": exit}))
            .get(&path(TASK, "/log"), log(into))
            .get("/nodes/prom/tasks", tasks)
            .get("/nodes/prom/storage", storages())
            .get(
                "/nodes/prom/storage/nfs/content",
                json!([{"volid": "nfs:110/vm-110-disk-0.raw", "ctime": 9_999_999_999_u64}]),
            )
            .on("DELETE", VM, 200, json!({"data": null}))
            .get(&format!("{VM}/config"), config)
            .on(
                "GET",
                &format!("{VM}/config"),
                500,
                json!({"message": "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist\n"}),
            )
    }

    fn storages() -> Value {
        json!([{"storage": "nfs", "type": "nfs", "content": "images", "active": 1, "shared": 1}])
    }

    fn left() -> Value {
        json!({"digest": "d", "lock": "clone", "description": " qmclone temporary file\n"})
    }

    fn run(fake: &Fake) -> Result<()> {
        let definitions = definitions();
        let permit = Guard::new(&definitions, None)
            .permit(Vmid::new(110).unwrap(), Operation::Create, "clear")
            .unwrap();
        let task = Upid::of(&Value::from(TASK)).unwrap();
        remove(&node(fake), &permit, &task, Deadline::secs(10), &mut |_| {})
    }

    #[test]
    fn what_our_own_task_left_is_removed_past_its_lock() {
        let fake = fake(left(), "received interrupt", 110, json!([listed(TASK, 100)]));
        run(&fake).unwrap();
        let sent = format!("DELETE {VM}?purge=1&destroy-unreferenced-disks=1&skiplock=1");
        assert!(fake.log().contains(&sent), "{:?}", fake.log());
    }

    #[test]
    fn anything_else_is_left_alone() {
        let ours = || json!([listed(TASK, 100)]);
        let with = |key: &str, value: &str| {
            let mut config = left();
            config[key] = value.into();
            config
        };
        let later = |into: u32| {
            fake(left(), "received interrupt", 110, json!([listed(LATER, 200), listed(TASK, 100)]))
                .get(&path(LATER, "/log"), log(into))
        };
        for (why, fake) in [
            ("settings", fake(with("scsi0", "nvmeprom:110/vm-110-disk-0.qcow2"), "x", 110, ours())),
            ("described", fake(with("description", "mine"), "x", 110, ours())),
            ("backup", fake(with("lock", "backup"), "x", 110, ours())),
            ("created", fake(with("lock", "create"), "x", 110, ours())),
            ("ended well", fake(left(), "OK", 110, ours())),
            ("into another", fake(left(), "received interrupt", 111, ours())),
            ("no longer told", fake(left(), "received interrupt", 110, json!(vec![listed(LATER, 200); 50]))),
            ("a later one into it", later(110)),
        ] {
            let error = run(&fake).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{why}: {}", error.chain());
            assert_eq!(fake.requests("DELETE"), 0, "{why}");
        }
        run(&later(111)).unwrap();
        // With the first of its disks a clone has all of its settings.
        let marked = |name: &str, vmid: u32, lock: &str| {
            let mut config = with("efidisk0", "nvmeprom:110/vm-110-disk-0.qcow2");
            let marker = Marker::fresh(&name.parse().unwrap(), Vmid::new(vmid).unwrap()).unwrap();
            config["description"] = marker.to_string().into();
            config["lock"] = lock.into();
            fake(config, "unexpected status", 110, ours())
        };
        run(&marked("web", 110, "clone")).unwrap();
        for (name, vmid, lock) in [("another", 110, "clone"), ("web", 111, "clone"), ("web", 110, "create")] {
            let fake = marked(name, vmid, lock);
            assert_eq!(run(&fake).unwrap_err().kind(), Kind::Refused, "{name} {vmid} {lock}");
            assert_eq!(fake.requests("DELETE"), 0);
        }
    }
}
