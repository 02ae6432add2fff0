//! Cloning a template into a new VM that carries our marker.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::{Operation, Permit, Source},
    protocol::{CloneRequest, VmConfig},
    types::NodeName,
};

use super::{
    Progress,
    cloned::{Found, Ours, proven, remains, taken, unfinished},
    config, create, host, queue,
};
use crate::{
    api::call::Call,
    cluster::Cluster,
    node::Node,
    tasks::{self, Outcome},
};

/// Clones and follows the task. The clone is ours only when it reads back our marker with our nonce.
///
/// The node that has the template does it, wherever the VM shall be; see `towards` for what that needs.
///
/// When the answer is lost, the task that clones into this VMID is looked for and followed, and the new VM's marker
/// tells: ours is a success, another's is a conflict. Where there is nothing for as long as the request may lie unread
/// at the node, it never arrived and is sent once more; should it be carried out after all, the two can not make two
/// VMs, since the node refuses a VMID in use, and either's VM has our marker.
pub fn clone(
    cluster: &Cluster,
    (of, permit): (&Source, &Permit),
    request: &CloneRequest,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    if request.vmid != vmid
        || permit.operation() != Operation::Create
        || request.marker.vmid != vmid
        || request.template != of.vmid()
    {
        return Err(Error::refused(format!(
            "refused to clone VM {} into VM {}: the guard's leave is to clone VM {} into VM {vmid}",
            request.template,
            request.vmid,
            of.vmid()
        )));
    }
    cluster.on(request.template, |source| {
        from(cluster, source, (of, permit), request, UNREAD, deadline, progress)
    })
}

/// How long a request may lie unread at the node: one of the daemon's few workers has it in its socket, and is blocked
/// by another one that waits 10 s for a lock.
const UNREAD: Duration = Duration::from_secs(12);

/// Clones on the node that has the template.
fn from(
    cluster: &Cluster,
    source: &Node,
    (of, permit): (&Source, &Permit),
    request: &CloneRequest,
    unread: Duration,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let name = source.name(deadline)?.clone();
    let target = request.node.as_ref().filter(|wanted| **wanted != name);
    // Only a node that has it is asked to clone it.
    let template = config::read(source, request.template, deadline)
        .map_err(|e| e.context(format_args!("can not clone VM {} into VM {vmid}", request.template)))?;
    of.check(&template)?;
    if let Some(target) = target {
        towards(source, &template, request, target, deadline)?;
        // What can not be reached could not be read back.
        cluster.node(target)?;
    }
    let call = Call::clone_vm(permit, &name, request, target);
    let call = match format(source, &template, request, deadline) {
        Some(format) => call.in_format(format),
        None => call,
    };
    let allocated = request.storage.as_ref().map_or_else(|| storages(&template), |s| [s.to_string()].into());
    let sent = Instant::now();
    let mut before = None;
    loop {
        let mut turns = queue::turns(&name, allocated.iter().map(String::as_str), deadline, progress)?;
        let outcome = tasks::run(&source.api, permit, &call, deadline, &mut |line| {
            turns.seen(line);
            progress(line);
        });
        drop(turns);
        let (lost, task) = match (outcome, &before) {
            (Ok(Outcome::Done(_)), _) => return proven(cluster, request, deadline),
            (Ok(Outcome::Lost { error, task }), _) => (error, task),
            // What is there may be what the lost request made.
            (Err(e), Some(_)) if e.kind() == Kind::Conflict => (e, None),
            (Err(e), _) if e.kind() == Kind::Conflict => {
                return Err(remains(cluster, source, request, taken(cluster, request, e)));
            }
            (Err(e), _) if e.kind() == Kind::Failed => return Err(remains(cluster, source, request, e)),
            (Err(e), _) => return Err(e),
        };
        progress("note: the answer to the clone was lost: looking for it");
        let ours = Ours { cluster, source, request, sent, task };
        let until = deadline.at_most(unread);
        match tasks::patiently(deadline, || ours.look(until, deadline, progress)) {
            Ok(Found::Ours) => return Ok(()),
            Ok(Found::Others) => return Err(taken(cluster, request, lost.with_kind(Kind::Conflict))),
            Ok(Found::Failed(e)) => return Err(remains(cluster, source, request, e)),
            Ok(Found::Nothing) if before.is_none() && !deadline.passed() => {
                progress("note: there is no trace of it: cloning again");
                before = Some(lost);
            }
            Ok(Found::Nothing) => return Err(lost.now(format!("VM {vmid} does not exist"))),
            Ok(Found::Unfinished(there)) => return Err(unfinished(request, &there, lost)),
            Err(e) => return Err(lost.now(format!("tried to look for it: {}", e.message())).caused_by(e)),
        }
    }
}

/// The storages of a VM's disks.
fn storages(config: &VmConfig) -> BTreeSet<String> {
    let disks = config.settings.iter().filter(|(key, value)| is_disk(key) && !value.starts_with("none"));
    disks.filter_map(|(_, value)| Some(value.split(',').next()?.split_once(':')?.0.to_owned())).collect()
}

/// The format that the node does not take by itself: a copy has its source's where the storage can have it, and a raw
/// one on a storage of files takes no snapshots.
fn format(
    source: &Node,
    template: &VmConfig,
    request: &CloneRequest,
    deadline: Deadline,
) -> Option<&'static str> {
    let raw = |(key, value): (&String, &String)| {
        let file = value.split(',').next().unwrap_or_default();
        is_disk(key)
            && !config::is_cloudinit(value)
            && !value.contains("media=cdrom")
            && !file.ends_with(".qcow2")
    };
    if !request.full || !template.settings.iter().any(raw) {
        return None;
    }
    let formats = create::Formats::default();
    let onto = request.storage.as_ref().map_or_else(|| storages(template), |s| [s.to_string()].into());
    let mut all = onto.iter().map(|storage| formats.on(source, storage, deadline));
    all.next().flatten().filter(|format| all.all(|other| other == Some(*format)))
}

pub(super) fn is_disk(key: &str) -> bool {
    let name = key.trim_end_matches(|c: char| c.is_ascii_digit());
    name.len() < key.len() && matches!(name, "scsi" | "virtio" | "sata" | "ide" | "efidisk" | "tpmstate")
}

/// Proxmox clones to another node only from and to shared storages, and does not look whether the other node sees the
/// template's: a VM whose disks it does not see is moved there, and never starts. Its own refusal comes late and does
/// not say which.
fn towards(
    source: &Node,
    template: &VmConfig,
    request: &CloneRequest,
    target: &NodeName,
    deadline: Deadline,
) -> Result<()> {
    let known = host::storages(source, deadline)?;
    let both = host::shared_with(source, target, deadline)?;
    let used = storages(template);
    // What the new VM has its disks on.
    let onto = request.storage.as_ref().filter(|_| request.full).map(ToString::to_string);
    let onto = onto.map_or_else(|| used.clone(), |storage| BTreeSet::from([storage]));
    let apart: Vec<&str> = known
        .iter()
        .filter(|storage| {
            let name = storage.storage.as_str();
            used.contains(name) && !storage.shared
                || onto.contains(name) && !both.iter().any(|seen| seen.storage == storage.storage)
        })
        .map(|storage| storage.storage.as_str())
        .collect();
    if apart.is_empty() {
        return Ok(());
    }
    let (id, here) = (request.template, &template.node);
    Err(Error::failed(format!(
        "can not clone VM {id} from the node '{here}' to '{target}': they do not both see {}",
        apart.join(", ")
    ))
    .now(format!("the template {id} is on the node '{here}', VM {} shall be on '{target}'", request.vmid))
    .now("nothing was changed")
    .hint(format!("put the VM on that node: `node = \"{here}\"` in its definition"))
    .hint(format!(
        "or make a template on '{target}' ({}) and name it with `template`",
        again::ops(format_args!("create-template --node {target} VMID ..."))
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, alone, definitions};
    use fleet_core::{guard::Guard, protocol::Marker, types::Vmid};
    use serde_json::{Value, json};

    const CLONE: &str = "/nodes/prom/qemu/9002/clone";
    const CONFIG: &str = "/nodes/prom/qemu/110/config";
    const MISSING: &str = "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist\n";

    fn request() -> CloneRequest {
        let vmid = Vmid::new(110).unwrap();
        let name: fleet_core::types::VmName = "web".parse().unwrap();
        let marker = Marker { name: name.clone(), vmid, nonce: "0123456789abcdef0123456789abcdef".into() };
        CloneRequest {
            template: Vmid::new(9002).unwrap(),
            vmid,
            name,
            storage: Some("nvmeprom".parse().unwrap()),
            full: true,
            node: None,
            marker,
        }
    }

    fn ours() -> Value {
        json!({"digest": "d", "description": request().marker.to_string()})
    }

    fn fake() -> Fake {
        without_template().get("/nodes/prom/qemu/9002/config", json!({"digest": "d", "template": 1}))
    }

    fn without_template() -> Fake {
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/nodes/prom/tasks", json!([]))
    }

    fn run(fake: &Fake) -> Result<()> {
        run_and_tell(fake, &mut |_| {})
    }

    fn run_and_tell(fake: &Fake, progress: Progress<'_>) -> Result<()> {
        run_within(fake, Duration::ZERO, progress)
    }

    /// Where a request may lie unread for so long.
    fn run_within(fake: &Fake, unread: Duration, progress: Progress<'_>) -> Result<()> {
        let definitions = definitions();
        let guard = Guard::new(&definitions, None);
        let permit = guard.permit(request().vmid, Operation::Create, "clone").unwrap();
        let of = guard.source(request().template).unwrap();
        let (cluster, limit) = (alone(fake), Deadline::secs(20));
        from(&cluster, cluster.first(), (&of, &permit), &request(), unread, limit, progress)
    }

    #[test]
    fn a_clone_carries_the_marker_and_reads_it_back() {
        let fake = fake().on("POST", CLONE, 200, json!({"data": null})).get(CONFIG, ours());
        run(&fake).unwrap();
        assert!(fake.log().contains(
            &"POST /nodes/prom/qemu/9002/clone newid=110&name=web&full=1&description=fleet-vm%3A%20name%3Dweb%20vmid%3D110%20nonce%3D0123456789abcdef0123456789abcdef&storage=nvmeprom".to_owned()
        ));
    }

    #[test]
    fn an_existing_vm_is_a_conflict_never_a_success() {
        let fake = fake()
            .on(
                "POST",
                CLONE,
                500,
                json!({"message": "unable to create VM 110: config file already exists\n"}),
            )
            .get("/cluster/resources", json!([{"type": "qemu", "vmid": 110, "name": "theirs", "node": "b"}]));
        let error = run(&fake).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(error.facts(), ["110 is a VM 'theirs' on the node 'b'"]);
    }

    #[test]
    fn a_lost_answer_of_a_clone_that_was_made_is_found() {
        let fake = fake().drops("POST", CLONE).get(CONFIG, ours());
        run(&fake).unwrap();
        assert_eq!(fake.requests("POST"), 1);
    }

    /// A template with several drives: its clone carries the marker long before it is whole.
    #[test]
    fn a_clone_that_is_not_whole_is_not_taken_for_done() {
        let mut half = ours();
        half["lock"] = "clone".into();
        let locked = fake().on("POST", CLONE, 200, json!({"data": null})).get(CONFIG, half.clone());
        let error = run(&locked).unwrap_err();
        assert!(error.kind() == Kind::Failed && error.message().contains("is not whole"), "{error:?}");
        let lost = fake().drops("POST", CLONE).get(CONFIG, half);
        assert_eq!(run(&lost).unwrap_err().kind(), Kind::OutcomeUnknown);
    }

    fn missing(fake: Fake) -> Fake {
        fake.on("GET", CONFIG, 500, json!({ "message": MISSING })).get("/cluster/resources", json!([]))
    }

    #[test]
    fn a_lost_request_is_sent_again_only_when_nothing_is_there() {
        let fake = fake().drops("POST", CLONE).on("POST", CLONE, 200, json!({ "data": null }));
        let fake = missing(fake).get(CONFIG, ours());
        run(&fake).unwrap();
        assert_eq!(fake.requests("POST"), 2);
    }

    #[test]
    fn a_lost_request_that_lay_unread_is_waited_for() {
        let fake = missing(fake().drops("POST", CLONE)).get(CONFIG, ours());
        run_within(&fake, Duration::from_secs(15), &mut |_| {}).unwrap();
        assert_eq!(fake.requests("POST"), 1);
    }

    #[test]
    fn a_lost_request_that_is_carried_out_after_all_is_ours_and_no_conflict() {
        let exists = json!({ "message": "unable to create VM 110: config file already exists\n" });
        let sent = || fake().drops("POST", CLONE).on("POST", CLONE, 500, exists.clone());
        let fake = missing(sent()).get(CONFIG, ours());
        run(&fake).unwrap();
        assert_eq!(fake.requests("POST"), 2);
        let theirs = missing(sent()).get(CONFIG, json!({"digest": "d", "name": "theirs"}));
        assert_eq!(run(&theirs).unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn a_clone_that_failed_is_not_made_again_because_its_answer_was_lost() {
        let upid = "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:";
        let path =
            "/nodes/prom/tasks/UPID%3Aprom%3A00000ED5%3A000AE788%3A6B03B82C%3Aqmclone%3A9002%3Aroot%40pam%3A";
        let listed = json!([{"upid": upid, "type": "qmclone", "id": "9002", "starttime": 5000}]);
        let fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/nodes/prom/tasks", listed)
            .get("/nodes/prom/time", json!({"time": 5001}))
            .get(&format!("{path}/log"), json!([{"n": 1, "t": "create a clone of VM 9002 with ID 110"}]))
            .get(&format!("{path}/status"), json!({"status": "stopped", "exitstatus": "no room"}))
            .get("/nodes/prom/qemu/9002/config", json!({"digest": "d", "template": 1}))
            .drops("POST", CLONE);
        let error = run(&missing(fake.clone())).unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Failed, "can not clone VM 9002 into VM 110: no room")
        );
        assert!(error.facts().iter().any(|fact| fact == "VM 110 does not exist"), "{error:?}");
        assert_eq!(fake.requests("POST"), 1);
    }

    /// What a killed clone leaves does not say whose it is; the task that made it does.
    #[test]
    fn the_task_of_a_clone_that_was_killed_is_told_although_its_answer_was_lost() {
        let upid = "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:";
        let task = |start: u64| json!([{"upid": upid, "type": "qmclone", "id": "9002", "starttime": start, "endtime": start, "status": "received interrupt"}]);
        let path =
            "/nodes/prom/tasks/UPID%3Aprom%3A00000ED5%3A000AE788%3A6B03B82C%3Aqmclone%3A9002%3Aroot%40pam%3A";
        for (start, into, told) in [(5000, 110, true), (4000, 110, false), (5000, 111, false)] {
            let fake = Fake::new()
                .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
                .get("/nodes/prom/tasks", task(start))
                .get("/nodes/prom/time", json!({"time": 5001}))
                .get(
                    &format!("{path}/log"),
                    json!([{"n": 1, "t": format!("creating a clone of VM 9002 with ID {into}")}]),
                )
                .get(
                    &format!("{path}/status"),
                    json!({"status": "stopped", "exitstatus": "received interrupt"}),
                )
                .get("/nodes/prom/qemu/9002/config", json!({"digest": "d", "template": 1}))
                .drops("POST", CLONE)
                .get(
                    CONFIG,
                    json!({"digest": "d", "lock": "clone", "description": " qmclone temporary file"}),
                );
            let mut said = Vec::new();
            let error = run_and_tell(&fake, &mut |line| said.push(line.to_owned())).unwrap_err();
            assert_eq!(error.kind(), if told { Kind::Failed } else { Kind::OutcomeUnknown });
            assert!(error.facts().iter().any(|fact| fact.contains("locked by a clone")), "{error:?}");
            assert_eq!(said.contains(&format!("task {upid}")), told, "{start} {into}: {said:?}");
        }
    }

    #[test]
    fn a_strangers_vm_in_its_place_is_a_conflict() {
        let fake = fake().drops("POST", CLONE).get(CONFIG, json!({"digest": "d", "name": "theirs"})).get(
            "/cluster/resources",
            json!([{"type": "qemu", "vmid": 110, "name": "theirs", "node": "prom"}]),
        );
        assert_eq!(run(&fake).unwrap_err().kind(), Kind::Conflict);
        assert_eq!(fake.requests("POST"), 1);
    }

    #[test]
    fn a_missing_template_is_not_found() {
        let missing = "Configuration file 'nodes/prom/qemu-server/9002.conf' does not exist\n";
        let fake = without_template()
            .on("GET", "/nodes/prom/qemu/9002/config", 500, json!({ "message": missing }))
            .get("/cluster/resources", json!([]));
        assert_eq!(run(&fake).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(fake.requests("POST"), 0);
    }
}
