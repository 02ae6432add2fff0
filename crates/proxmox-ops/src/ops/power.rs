//! Power: status, start, stop, shutdown, reboot.

use std::time::{Duration, Instant};

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::Permit,
    protocol::{Resource, VmStatus},
    types::Vmid,
};
use serde_json::Value;

use super::{
    Progress,
    reached::{self, Before},
};
use crate::{
    api::{
        call::{Call, vm_path},
        error,
    },
    cluster::Cluster,
    node::Node,
    tasks,
};

/// Reads a VM's power state.
pub fn status(node: &Node, vmid: Vmid, deadline: Deadline) -> Result<VmStatus> {
    let name = node.name(deadline)?;
    let mut data = node.api.get(
        &format!("read the status of VM {vmid}"),
        &vm_path(name, vmid, "/status/current"),
        &[],
        deadline,
    )?;
    if let Some(object) = data.as_object_mut() {
        object.insert("vmid".to_owned(), Value::from(vmid.get()));
        object.insert("node".to_owned(), Value::from(name.as_str()));
        let lock = object.get("lock").and_then(Value::as_str);
        let working = lock
            .filter(|lock| matches!(*lock, "clone" | "create"))
            .map(|lock| tasks::behind_lock(&node.api, name, vmid, lock, deadline));
        if let Some(Ok(task)) = working {
            object.insert(VmStatus::CLONE_RUNS.to_owned(), Value::from(task.is_some()));
        }
    }
    serde_json::from_value(data)
        .map_err(|e| Error::failed(format!("the node's status of VM {vmid} has another shape")).caused_by(e))
}

/// A VM's power state as a row of the cluster's resources tells it.
pub fn of_resource(mut resource: Resource) -> VmStatus {
    let lock = resource.other.shift_remove("lock").and_then(|lock| lock.as_str().map(str::to_owned));
    if let Some(name) = resource.name {
        resource.other.insert("name".to_owned(), Value::from(name));
    }
    VmStatus {
        vmid: resource.vmid,
        node: resource.node,
        status: resource.status,
        lock,
        other: resource.other,
    }
}

/// What to do to the power state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Power on.
    Start,
    /// Power off at once.
    Stop,
    /// Ask the guest to shut down, within so many seconds.
    Shutdown {
        /// Seconds that the guest gets.
        timeout: u64,
        /// Whether it is powered off when it did not.
        force: bool,
    },
    /// Ask the guest to shut down, within so many seconds, and power on again.
    Reboot {
        /// Seconds that the guest gets.
        timeout: u64,
    },
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Shutdown { .. } => "shutdown",
            Action::Reboot { .. } => "reboot",
        }
    }

    /// The same in the types of tasks that only tell the HA manager.
    fn ha_verb(self) -> &'static str {
        match self {
            Action::Stop | Action::Shutdown { .. } => "stop",
            other => other.verb(),
        }
    }

    /// The state after it.
    fn goal(self) -> &'static str {
        match self {
            Action::Start | Action::Reboot { .. } => "running",
            Action::Stop | Action::Shutdown { .. } => "stopped",
        }
    }

    /// The request for it.
    pub fn call(self, permit: &Permit, node: &fleet_core::types::NodeName) -> Call {
        let params = match self {
            Action::Start | Action::Stop => vec![],
            Action::Shutdown { timeout, force } => {
                let mut params = vec![("timeout", timeout.to_string())];
                if force {
                    params.push(("forceStop", "1".to_owned()));
                }
                params
            }
            Action::Reboot { timeout } => vec![("timeout", timeout.to_string())],
        };
        let params: Vec<(&str, &str)> = params.iter().map(|(k, v)| (*k, v.as_str())).collect();
        Call::power(permit, node, self.verb(), &params)
    }
}

/// Changes the power state, and sees it reached. Whether there was anything to do: a VM that is there already is left
/// alone.
pub fn act(
    cluster: &Cluster,
    permit: &Permit,
    action: Action,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<bool> {
    let vmid = permit.vmid();
    let sent = cluster.on(vmid, |node| send(node, permit, action, deadline, progress))?;
    let Some(before) = sent else { return Ok(false) };
    match action {
        Action::Reboot { .. } => reached::again(cluster, &before, deadline, progress)?,
        // Its task has only told the HA manager.
        _ if reached::is_ha(&before.status) => {
            reached::state(cluster, vmid, action.goal(), deadline, progress)?;
        }
        _ => {}
    }
    Ok(true)
}

/// Sends the change and follows its task. Nothing where there was nothing to do; else what there was before.
fn send(
    node: &Node,
    permit: &Permit,
    action: Action,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Option<Before>> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    let before = Before { status: status(node, vmid, deadline)?, sent: Instant::now() };
    if let (Action::Start, Some(how)) = (action, held(&before.status)) {
        return Err(resume(
            Error::failed(format!(
                "can not start VM {vmid}: it is started, and does not run: QEMU says '{how}'"
            )),
            vmid,
        ));
    }
    match (action, before.status.status.as_str()) {
        (Action::Start, "running") | (Action::Stop | Action::Shutdown { .. }, "stopped")
            if !reached::is_leaving(&before.status) =>
        {
            return Ok(None);
        }
        _ => {}
    }
    let short = Duration::from_secs(20);
    let mut call = action.call(permit, &name);
    let kinds = [format!("qm{}", action.verb()), format!("ha{}", action.ha_verb())];
    let kinds = kinds.each_ref().map(String::as_str);
    let earlier = tasks::earlier(&node.api, &name, (&kinds, vmid), call.what(), deadline, progress)?;
    match (earlier, action) {
        // Its shutdown is this one's, and so is the start that follows.
        (Some(earlier), Action::Reboot { .. }) => {
            earlier.ended.map_err(|e| guest(vmid, action, e))?;
            let age =
                tasks::age(&node.api, &name, &earlier.upid, deadline.at_most(short)).unwrap_or_default();
            return Ok(Some(before.at(age)));
        }
        // What it came to decides.
        (Some(_), _) => return send(node, permit, action, deadline, progress),
        (None, Action::Reboot { .. }) if before.status.status == "stopped" => {
            return Err(Error::failed(format!("can not reboot VM {vmid}: it is stopped"))
                .hint(again::change(format_args!("start {vmid}"))));
        }
        (None, _) => {}
    }
    // It has the VM's lock for as long as the guest was given. The HA manager's can not be ended so.
    let shutdown = || {
        let subject = ("qmshutdown", vmid);
        tasks::find_running_on(&node.api, &name, subject, deadline.at_most(short)).ok().flatten()
    };
    if action == Action::Stop
        && !reached::is_ha(&before.status)
        && let Some(upid) = shutdown()
    {
        progress(&format!("note: a shutdown of VM {vmid} goes on, and is ended: {upid}"));
        call = Call::power(permit, &name, "stop", &[("overrule-shutdown", "1")]);
    }
    let mut done = || {
        let now = status(node, vmid, deadline.at_most(short))?;
        Ok(match action {
            // A VM that runs and is not known to be anew proves nothing.
            Action::Reboot { .. } => before.is_anew(&now).then_some(true),
            _ if now.status == action.goal() && !reached::is_leaving(&now) => Some(true),
            // The HA manager, once told, does it when it next looks: that is waited for later.
            _ if reached::is_ha(&now) => None,
            _ => Some(false),
        })
    };
    let subject = (&kinds[..], vmid, &name);
    let mut run =
        |call: &Call| tasks::run_or_look(&node.api, permit, call, subject, deadline, progress, &mut done);
    let mut outcome = run(&call);
    // Older releases do not know it: then the shutdown's end is waited for.
    let unknown = |e: &Error| e.facts().iter().any(|fact| fact.starts_with("overrule-shutdown:"));
    if outcome.as_ref().is_err_and(unknown) {
        outcome = run(&action.call(permit, &name));
    }
    match outcome {
        Ok(_) => Ok(Some(before)),
        // Somebody else was quicker.
        Err(e) if action == Action::Start && e.message().contains("already running") => Ok(None),
        Err(e) => Err(guest(vmid, action, e)),
    }
}

/// What QEMU says of a VM that is powered on and does not run, as somebody has suspended it, or a write of its disk had no
/// room. While a task works on it, it may be held for that, and goes on by itself.
pub fn held(status: &VmStatus) -> Option<&str> {
    let how = status.other.get("qmpstatus").and_then(Value::as_str)?;
    let stays =
        matches!(how, "paused" | "io-error" | "internal-error" | "guest-panicked" | "watchdog" | "suspended");
    (status.status == "running" && status.lock.is_none() && stays).then_some(how)
}

/// What people do with such a VM.
fn resume(error: Error, vmid: Vmid) -> Error {
    error
        .hint(format!("`qm resume {vmid}` on the node lets it go on, once what stopped it is mended"))
        .hint(format!("{}   # powers it off", again::change(format_args!("stop {vmid}"))))
}

/// A failure, and what people do where it was the guest that took too long.
fn guest(vmid: Vmid, action: Action, error: Error) -> Error {
    if error.message().contains("VM is paused") {
        return resume(error, vmid);
    }
    let late = error.message().contains("got timeout") && !error::is_lock_timeout(error.message());
    if !late || !matches!(action, Action::Shutdown { .. } | Action::Reboot { .. }) {
        return error;
    }
    Error::new(Kind::DeadlinePassed, error.message().to_owned())
        .now(format!("VM {vmid} is still running: its guest did not shut down in time"))
        .hint(format!("{}   # powers it off", again::change(format_args!("stop {vmid}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, alone, permit};
    use serde_json::json;

    const STATUS: &str = "/nodes/prom/qemu/110/status/current";
    const START: &str = "/nodes/prom/qemu/110/status/start";
    const UPID: &str = "UPID:prom:00000ED5:000AE788:6B03B82C:qmstart:110:root@pam:";
    const TASK: &str =
        "/nodes/prom/tasks/UPID%3Aprom%3A00000ED5%3A000AE788%3A6B03B82C%3Aqmstart%3A110%3Aroot%40pam%3A";

    fn fake() -> Fake {
        Fake::new().get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
    }

    fn task(fake: Fake, exit: &str) -> Fake {
        fake.get(&format!("{TASK}/status"), json!({"status": "running"}))
            .get(&format!("{TASK}/status"), json!({"status": "stopped", "exitstatus": exit}))
            .get(
                &format!("{TASK}/log"),
                json!([{"n": 1, "t": "kvm: what QEMU said"}, {"n": 2, "t": format!("TASK ERROR: {exit}")}]),
            )
    }

    fn start(fake: &Fake) -> Result<bool> {
        act(&alone(fake), &permit(110), Action::Start, Deadline::secs(10), &mut |_| {})
    }

    #[test]
    fn a_start_is_followed_to_its_end() {
        let fake =
            fake().get(STATUS, json!({"status": "stopped"})).on("POST", START, 200, json!({"data": UPID}));
        assert!(start(&task(fake, "OK")).unwrap());
    }

    #[test]
    fn a_task_that_fails_later_is_a_failure_with_its_words() {
        let fake =
            fake().get(STATUS, json!({"status": "stopped"})).on("POST", START, 200, json!({"data": UPID}));
        let error = start(&task(fake.clone(), "start failed: QEMU exited with code 1")).unwrap_err();
        assert_eq!(error.message(), "can not start VM 110: start failed: QEMU exited with code 1");
        assert_eq!(
            error.facts(),
            [format!("the node's task: {UPID}").as_str(), "its log says: kvm: what QEMU said"]
        );
        // Else it would be its first 50 lines.
        assert!(fake.log().iter().any(|line| line.ends_with("/log?start=0&limit=0")), "{:?}", fake.log());
    }

    #[test]
    fn warnings_are_a_success() {
        let fake =
            fake().get(STATUS, json!({"status": "stopped"})).on("POST", START, 200, json!({"data": UPID}));
        assert!(start(&task(fake, "WARNINGS: 1")).unwrap());
    }

    #[test]
    fn a_stop_ends_a_shutdown_that_goes_on() {
        const STOP: &str = "/nodes/prom/qemu/110/status/stop";
        let upid = UPID.replace("qmstart", "qmshutdown");
        let shutdown = TASK.replace("qmstart", "qmshutdown");
        let stop = |tasks: Value, first: (u16, Value)| {
            let fake = fake()
                .get(STATUS, json!({"status": "running"}))
                .get("/nodes/prom/tasks", tasks)
                .get(&format!("{shutdown}/status"), json!({"status": "running"}))
                .on("POST", STOP, first.0, first.1)
                .on("POST", STOP, 200, json!({"data": null}));
            let outcome = act(&alone(&fake), &permit(110), Action::Stop, Deadline::secs(10), &mut |_| {});
            assert!(outcome.unwrap());
            fake.log().into_iter().filter(|line| line.starts_with("POST")).collect::<Vec<_>>()
        };
        let running = json!([{"upid": upid, "type": "qmshutdown", "id": "110", "starttime": 1}]);
        let fine = || (200, json!({"data": null}));
        let overruling = format!("POST {STOP} overrule-shutdown=1");
        assert_eq!(stop(running.clone(), fine()), [overruling.as_str()]);
        assert_eq!(stop(json!([]), fine()), [format!("POST {STOP}").as_str()]);
        // An older release.
        let unknown = json!({"message": "Parameter verification failed.\n", "errors": {"overrule-shutdown": "property is not defined in schema"}});
        assert_eq!(stop(running, (400, unknown)), [overruling, format!("POST {STOP}")]);
    }

    #[test]
    fn a_running_vm_is_left_alone() {
        let fake = fake().get(STATUS, json!({"status": "running"}));
        assert!(!start(&fake).unwrap());
        assert_eq!(fake.requests("POST"), 0);
    }

    #[test]
    fn a_vm_that_is_held_does_not_run() {
        for (state, runs) in [
            (json!({"status": "running", "qmpstatus": "running"}), true),
            (json!({"status": "running", "qmpstatus": "paused", "lock": "backup"}), true),
            (json!({"status": "running", "qmpstatus": "save-vm"}), true),
            (json!({"status": "running", "qmpstatus": "paused"}), false),
            (json!({"status": "running", "qmpstatus": "io-error"}), false),
        ] {
            let fake = fake().get(STATUS, state.clone());
            let told = start(&fake);
            assert_eq!((told.is_ok(), fake.requests("POST")), (runs, 0), "{state}");
            if let Err(e) = told {
                assert!(e.hints()[0].starts_with("`qm resume 110`"), "{e:?}");
            }
        }
    }

    #[test]
    fn a_start_whose_answer_was_lost_is_seen_in_the_status() {
        let fake = fake()
            .get(STATUS, json!({"status": "stopped"}))
            .get(STATUS, json!({"status": "running"}))
            .get("/nodes/prom/tasks", json!([]))
            .drops("POST", START);
        assert!(start(&fake).unwrap());
        assert_eq!(fake.requests("POST"), 1);
    }

    #[test]
    fn a_lock_that_was_not_had_in_time_is_tried_again() {
        let locked = "can't lock file '/var/lock/qemu-server/lock-110.conf' - got timeout\n";
        let fake = fake()
            .get(STATUS, json!({"status": "stopped"}))
            .on("POST", START, 500, json!({"data": null, "message": locked}))
            .on("POST", START, 200, json!({"data": UPID}));
        assert!(start(&task(fake.clone(), "OK")).unwrap());
        assert_eq!(fake.requests("POST"), 2);
    }

    #[test]
    fn a_missing_vm_is_not_found() {
        let fake = fake()
            .on(
                "GET",
                STATUS,
                500,
                json!({"message": "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist\n"}),
            )
            .get("/cluster/resources", json!([]));
        assert_eq!(start(&fake).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_ticket_that_expires_in_the_middle_is_renewed_once() {
        let fake = fake().on("GET", STATUS, 401, Value::Null).get(STATUS, json!({"status": "running"}));
        assert!(!start(&fake).unwrap());
        // The second one the long way: what refused the first may refuse its like.
        assert_eq!(fake.minted(), (2, 1));
        let fake = Fake::new().on("GET", "/cluster/status", 401, Value::Null);
        assert_eq!(start(&fake).unwrap_err().kind(), Kind::Unreachable);
        assert_eq!(fake.minted(), (2, 1));
    }
}
