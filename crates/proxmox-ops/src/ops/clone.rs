//! Cloning a template into a new VM that carries our marker.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::CloneRequest,
};

use super::{Progress, config};
use crate::{api::call::Call, node::Node, tasks};

/// Clones and follows the task. The clone is ours only when it reads back our marker with our nonce.
///
/// When the answer is lost, a running task that clones into this VMID is waited for, then the new VM's marker tells:
/// ours is a success, another's is a conflict, and where there is nothing the request never arrived and is
/// sent once more (a second clone onto a VMID in use is refused by the node, so this can not do it twice).
pub fn clone(
    node: &Node,
    permit: &Permit,
    request: &CloneRequest,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    if request.vmid != vmid || permit.operation() != Operation::Create || request.marker.vmid != vmid {
        return Err(Error::refused(format!(
            "refused to clone into VM {}: the guard's leave is to create VM {vmid}",
            request.vmid
        )));
    }
    let name = node.name(deadline)?.clone();
    let call = Call::clone_vm(permit, &name, request);
    let mut again = true;
    loop {
        let lost = match tasks::run(&node.api, permit, &call, deadline, progress) {
            Ok(()) => return proven(node, request, deadline),
            Err(e) if e.kind() == Kind::OutcomeUnknown => e,
            Err(e) if e.kind() == Kind::Conflict => return Err(taken(node, request, e)),
            Err(e) => return Err(node.explain_missing(request.template, e)),
        };
        progress("the answer to the clone was lost: looking for it");
        match look(node, request, deadline) {
            Ok(Found::Ours) => return Ok(()),
            Ok(Found::Others) => return Err(taken(node, request, lost.with_kind(Kind::Conflict))),
            Ok(Found::Nothing) if again => {
                again = false;
                progress("there is no trace of it: cloning again");
            }
            Ok(Found::Nothing) => return Err(lost.now(format!("VM {vmid} does not exist"))),
            Ok(Found::Unfinished) => {
                return Err(lost
                    .now(format!(
                        "VM {vmid} exists, locked by a clone that nothing on the node works on any more"
                    ))
                    .hint(format!("look at it on the node: cat /etc/pve/qemu-server/{vmid}.conf"))
                    .hint(format!(
                        "if it is this clone's remainder: qm unlock {vmid} && qm destroy {vmid}"
                    )));
            }
            Err(e) => return Err(lost.now(format!("tried to look for it: {}", e.message())).caused_by(e)),
        }
    }
}

/// What is found under the new VMID after an answer was lost.
enum Found {
    /// A VM with our marker and nonce.
    Ours,
    /// A VM of somebody else.
    Others,
    /// Nothing.
    Nothing,
    /// A VM that is being cloned, by nobody.
    Unfinished,
}

fn look(node: &Node, request: &CloneRequest, deadline: Deadline) -> Result<Found> {
    let name = node.name(deadline)?.clone();
    let mut found = Found::Nothing;
    for attempt in 0..3 {
        let short = deadline.at_most(Duration::from_secs(20));
        while let Some(upid) =
            tasks::find_running(&node.api, &name, Some("qmclone"), request.template, short)?
        {
            // Whose it is shows in the VM; how it ended, too.
            let followed = tasks::follow(&node.api, &upid, "clone", deadline, &mut |_| {});
            let gone = [Kind::DeadlinePassed, Kind::OutcomeUnknown, Kind::Interrupted];
            followed.or_else(|e| if gone.contains(&e.kind()) { Err(e) } else { Ok(()) })?;
        }
        found = match config::read(node, request.vmid, short) {
            Ok(config) if config.marker.as_ref() == Some(&request.marker) => return Ok(Found::Ours),
            Ok(config) if config.settings.get("lock").is_some_and(|lock| lock == "clone") => {
                Found::Unfinished
            }
            Ok(_) => return Ok(Found::Others),
            Err(e) if e.kind() == Kind::NotFound => Found::Nothing,
            Err(e) => return Err(e),
        };
        if attempt < 2 {
            deadline.sleep(Duration::from_millis(500));
        }
    }
    Ok(found)
}

fn proven(node: &Node, request: &CloneRequest, deadline: Deadline) -> Result<()> {
    let config = config::read(node, request.vmid, deadline.at_most(Duration::from_secs(30)))?;
    if config.marker.as_ref() == Some(&request.marker) {
        return Ok(());
    }
    Err(Error::conflict(format!("VM {} does not carry the marker that it was cloned with", request.vmid))
        .now("the clone's task ended well, but the VM that is there now is another one")
        .hint(format!("proxmox-ops config {}", request.vmid)))
}

/// A conflict, with what is there.
fn taken(node: &Node, request: &CloneRequest, error: Error) -> Error {
    let vmid = request.vmid;
    let Ok(resources) = node.resources(Deadline::secs(10)) else { return error };
    let Some(there) = resources.iter().find(|r| r.vmid == vmid) else { return error };
    let what = if there.kind == fleet_core::protocol::ResourceKind::Lxc { "a container" } else { "a VM" };
    let called = there.name.as_deref().map(|n| format!(" '{n}'")).unwrap_or_default();
    Error::conflict(format!("can not clone into VMID {vmid}: it is taken"))
        .now(format!("{vmid} is {what}{called} on the node '{}'", there.node))
        .hint("`proxmox-ops next-vmid` prints a free VMID; write it into the definition")
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, definitions, node};
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
            marker,
        }
    }

    fn ours() -> Value {
        json!({"digest": "d", "description": request().marker.to_string()})
    }

    fn fake() -> Fake {
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/nodes/prom/tasks", json!([]))
    }

    fn run(fake: &Fake) -> Result<()> {
        let definitions = definitions();
        let permit =
            Guard::new(&definitions, None).permit(request().vmid, Operation::Create, "clone").unwrap();
        clone(&node(fake), &permit, &request(), Deadline::secs(20), &mut |_| {})
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

    #[test]
    fn a_lost_request_is_sent_again_only_when_nothing_is_there() {
        let fake = fake()
            .drops("POST", CLONE)
            .on("POST", CLONE, 200, json!({"data": null}))
            .on("GET", CONFIG, 500, json!({"message": MISSING}))
            .on("GET", CONFIG, 500, json!({"message": MISSING}))
            .on("GET", CONFIG, 500, json!({"message": MISSING}))
            .get(CONFIG, ours())
            .get("/cluster/resources", json!([]));
        run(&fake).unwrap();
        assert_eq!(fake.requests("POST"), 2);
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
        let fake = fake()
            .on(
                "POST",
                CLONE,
                500,
                json!({"message": "unable to find configuration file for VM 9002 on node 'prom'\n"}),
            )
            .get("/cluster/resources", json!([]));
        assert_eq!(run(&fake).unwrap_err().kind(), Kind::NotFound);
    }
}
