//! Removing a VM: only one that is proven to be ours.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::{Marker, VmConfig},
    types::{VmName, Vmid},
};

use super::{Progress, config, linked, power, snippet, volumes};
use crate::{
    api::{call::Call, encode},
    cluster::Cluster,
    node::Node,
    tasks,
};

/// What the VM says about whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// It carries our marker for this definition, or where no definition has the VMID, for the VMID.
    Proven,
    /// It carries the marker of another definition.
    Others(Marker),
    /// It carries no marker for this VMID, but the name that the definitions give it.
    Named,
    /// Nothing.
    Unknown,
}

/// Reads from a VM's configuration whose it is; `name` is what the definitions call this VMID.
pub fn ownership(config: &VmConfig, name: Option<&VmName>) -> Ownership {
    match (&config.marker, name) {
        (Some(marker), Some(name)) if marker.name != *name => Ownership::Others(marker.clone()),
        (Some(_), _) => Ownership::Proven,
        (None, Some(name)) if config.settings.get("name").is_some_and(|called| called == name.as_str()) => {
            Ownership::Named
        }
        (None, _) => Ownership::Unknown,
    }
}

/// Whether a VM runs, which is an error unless it may be powered off (`stop`).
pub fn is_up(node: &Node, vmid: Vmid, stop: bool, deadline: Deadline) -> Result<bool> {
    let up = power::status(node, vmid, deadline)?.status == "running";
    if up && !stop {
        return Err(Error::failed(format!("can not destroy VM {vmid}: it is running"))
            .now("nothing was changed")
            .hint(format!(
                "{}   # then destroy it; or give --stop",
                again::change(format_args!("stop {vmid}"))
            )));
    }
    Ok(up)
}

/// Removes a VM and reads back that it is gone; gives the volumes of it that the node could not remove, which are
/// warned of. Whose it is was proven before, on this same `config`: its marker and its protection are looked at once
/// more here, so that no caller can forget.
pub fn destroy(
    cluster: &Cluster,
    permit: &Permit,
    config: &VmConfig,
    stop: bool,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Vec<String>> {
    let vmid = permit.vmid();
    if permit.operation() != Operation::Destroy || config.vmid != vmid {
        return Err(Error::refused(format!(
            "refused to destroy VM {}: the guard gave no leave for it",
            config.vmid
        )));
    }
    cluster.on(vmid, |node| {
        is_free(node, config, deadline)?;
        is_still(node, config, deadline)
    })?;
    if cluster.on(vmid, |node| is_up(node, vmid, stop, deadline))? {
        power::act(cluster, permit, power::Action::Stop, deadline, progress)?;
    }
    cluster.on(vmid, |node| removed(node, permit, config, deadline, progress))
}

/// What stands against removing a VM, whoever asks for it: it is protected, or a template, unless that carries our marker
/// and it is told that no linked clone shares its disks ([`linked`]).
pub fn is_free(node: &Node, config: &VmConfig, deadline: Deadline) -> Result<()> {
    let (vmid, here) = (config.vmid, &config.node);
    let set =
        |key: &str| config.settings.get(key).is_some_and(|value| encode::truth(Some(&value.as_str().into())));
    if set("protection") {
        return Err(Error::refused(format!(
            "refused to destroy VM {vmid}: its protection flag is set in Proxmox"
        ))
        .now("nothing was changed")
        .hint(format!("`qm set {vmid} --protection 0` on the node '{here}' takes it off")));
    }
    if !set("template") {
        return Ok(());
    }
    let refused = |why: &str| {
        Error::refused(format!("refused to destroy VM {vmid}: it is a template{why}"))
            .now("nothing was changed")
    };
    let by_hand =
        format!("once no linked clone of it is left, on the node '{here}': qm destroy {vmid} --purge");
    if config.marker.is_none() {
        return Err(refused(", and does not carry the marker of these tools").hint(by_hand));
    }
    match linked::clones(node, config, deadline) {
        Ok(clones) if clones.is_empty() => Ok(()),
        Ok(clones) => Err(refused(" with linked clones")
            .now(format!("these share its disks: {}", clones.join(", ")))
            .hint(format!(
                "`{}` shows whose they are; once none of them is left, run this again",
                again::ops("list")
            ))),
        Err(e) if e.kind() == Kind::Failed => {
            let unknown = "linked clones of it would lose what they share with it, and whether there are any is not known";
            Err(refused("").now(unknown).hint(by_hand).caused_by(e))
        }
        Err(e) => Err(e),
    }
}

/// What tells one VM from another that has its number: people may change the rest, and a removal takes no digest.
const IDENTITY: [&str; 3] = ["name", "meta", "smbios1"];

/// Whether what is there is what was looked at, and may be removed still: since then somebody was asked for its name, or
/// its guest was powered off. Of one that is gone nothing is said here.
fn is_still(node: &Node, config: &VmConfig, deadline: Deadline) -> Result<()> {
    let vmid = config.vmid;
    let now = match config::read(node, vmid, deadline) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        now => now?,
    };
    let same = |key: &str| now.settings.get(key) == config.settings.get(key);
    if now.marker != config.marker || !IDENTITY.into_iter().all(same) {
        let called = now.settings.get("name").map_or("", String::as_str);
        return Err(Error::conflict(format!("VM {vmid} is another one by now: '{called}'"))
            .now("it is not the one that was looked at, and was not removed")
            .hint(again::ops(format_args!("config {vmid}"))));
    }
    is_free(node, &now, deadline)
}

/// The same of one that is off, on the node that has it.
fn removed(
    node: &Node,
    permit: &Permit,
    config: &VmConfig,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Vec<String>> {
    let vmid = permit.vmid();
    is_still(node, config, deadline)?;
    let (call, others) = call(node, permit, config, deadline)?;
    let kept = remove(node, permit, &call, deadline, progress)?;
    // Of snapshots, for instance, these went with it.
    let left = if others.is_empty() { others } else { volumes::of_others(node, config, None, deadline)? };
    if !left.is_empty() {
        progress(&format!("warning: {}", volumes::left_alone(vmid, node.name(deadline)?, &left)));
    }
    let cicustom = config.settings.get("cicustom").map_or("", String::as_str);
    if let Err(e) = snippet::remove_files(node, cicustom, vmid, deadline) {
        progress(&format!("warning: {}", e.chain()));
    }
    Ok(kept)
}

/// Sends a removal, and reads back that the VM is gone. Gives the volumes that the node could not remove, and warns of
/// each: its task ends well all the same.
pub(super) fn remove(
    node: &Node,
    permit: &Permit,
    call: &Call,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Vec<String>> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?;
    let gone = || match config::read(node, vmid, deadline.at_most(Duration::from_secs(20))) {
        Ok(_) => Ok(false),
        Err(e) if e.kind() == Kind::NotFound => Ok(true),
        Err(e) => Err(e),
    };
    let mut done = || gone().map(Some);
    let subject = (&["qmdestroy"][..], vmid, name);
    // What it could not remove is told below, once.
    let mut progress = |line: &str| {
        if !(line.starts_with("warning: ") && line.contains("Could not remove disk '")) {
            progress(line);
        }
    };
    let what = call.what();
    let earlier = tasks::earlier(&node.api, name, (subject.0, vmid), what, deadline, &mut progress)?;
    let task = match earlier {
        Some(earlier) if gone()? => Some(earlier.upid),
        _ => tasks::run_or_look(&node.api, permit, call, subject, deadline, &mut progress, &mut done)?,
    };
    if gone()? {
        let Some(upid) = task else { return Ok(Vec::new()) };
        let short = Deadline::secs(20);
        // The VM is gone, whatever can be told of how.
        let log = tasks::lines(&node.api, &upid, short).unwrap_or_default();
        let kept = volumes::kept(node, vmid, &log, short);
        kept.iter().for_each(|volume| node.ui.warn(volume.warning(name)));
        return Ok(kept.into_iter().map(|kept| kept.volume).collect());
    }
    Err(Error::failed(format!("VM {vmid} is still there although its removal ended well"))
        .hint(again::ops(format_args!("config {vmid}"))))
}

/// The removal of a VM, and the volumes of its number that may be another cluster's: then only what its configuration
/// names is removed.
pub fn call(
    node: &Node,
    permit: &Permit,
    config: &VmConfig,
    deadline: Deadline,
) -> Result<(Call, Vec<String>)> {
    let others = volumes::of_others(node, config, None, deadline)?;
    Ok((Call::destroy(permit, node.name(deadline)?, others.is_empty()), others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, alone, definitions, permit};
    use fleet_core::{guard::Guard, types::Vmid};
    use serde_json::json;

    const VM: &str = "/nodes/prom/qemu/110";

    fn run(fake: &Fake, extra: serde_json::Value) -> Result<Vec<String>> {
        marked_run(fake, extra, None)
    }

    fn marked_run(fake: &Fake, extra: serde_json::Value, marker: Option<Marker>) -> Result<Vec<String>> {
        let definitions = definitions();
        let vmid = Vmid::new(110).unwrap();
        let leave = Guard::new(&definitions, None).permit(vmid, Operation::Destroy, "destroy").unwrap();
        let mut settings: std::collections::BTreeMap<String, String> = serde_json::from_value(extra).unwrap();
        settings.insert("name".to_owned(), "web".to_owned());
        let config =
            VmConfig { vmid, node: "prom".parse().unwrap(), settings, digest: "d".into(), marker, mac: None };
        destroy(&alone(fake), &leave, &config, false, Deadline::secs(10), &mut |_| {})
    }

    /// A shared storage may be another cluster's too, with its own VM 110.
    #[test]
    fn volumes_that_may_be_another_clusters_are_left_alone() {
        let shared =
            json!([{"storage": "nfs", "type": "nfs", "content": "images", "active": 1, "shared": 1}]);
        let volumes = json!([{"volid": "nfs:110/vm-110-disk-7.raw", "ctime": 1_700_000_000}]);
        let with = |volumes: serde_json::Value| {
            fake_with("stopped", shared.clone()).get("/nodes/prom/storage/nfs/content", volumes)
        };
        let fake = with(volumes.clone());
        run(&fake, json!({})).unwrap();
        assert!(fake.log().contains(&format!("DELETE {VM}?purge=1")), "{:?}", fake.log());

        let fake = with(volumes);
        run(&fake, json!({"scsi0": "nfs:110/vm-110-disk-7.raw,size=20G"})).unwrap();
        assert!(fake.log().contains(&format!("DELETE {VM}?purge=1&destroy-unreferenced-disks=1")));
    }

    fn fake(status: &str) -> Fake {
        fake_with(status, json!([]))
    }

    fn fake_with(status: &str, storages: serde_json::Value) -> Fake {
        let web = json!({"digest": "d", "name": "web"});
        fake_of(status, storages, &[web.clone(), web.clone(), web])
    }

    /// A VM that these looks find, until it is gone.
    fn fake_of(status: &str, storages: serde_json::Value, looks: &[serde_json::Value]) -> Fake {
        let fake = Fake::new()
            .get("/nodes/prom/storage", storages)
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get("/cluster/resources", json!([]))
            .get(&format!("{VM}/status/current"), json!({"status": status}))
            .on("DELETE", VM, 200, json!({"data": null}));
        looks.iter().fold(fake, |fake, look| fake.get(&format!("{VM}/config"), look.clone())).on(
            "GET",
            &format!("{VM}/config"),
            500,
            json!({"message": "Configuration file 'nodes/prom/qemu-server/110.conf' does not exist\n"}),
        )
    }

    /// Somebody was asked for its name, or it was powered off: meanwhile the VMID may have become another VM's.
    #[test]
    fn a_vm_that_is_another_one_by_now_is_left_alone() {
        let vmid = Vmid::new(110).unwrap();
        let ours = Marker::fresh(&"web".parse().unwrap(), vmid).unwrap();
        let other = Marker::fresh(&"web".parse().unwrap(), vmid).unwrap();
        let look = |marker: &Marker| json!({"digest": "d", "name": "web", "description": marker.to_string()});
        for (now, kind) in [
            (look(&other), Kind::Conflict),
            (json!({"digest": "d", "name": "web"}), Kind::Conflict),
            (json!({"digest": "d", "name": "pihole", "description": ours.to_string()}), Kind::Conflict),
            (
                json!({"digest": "d", "name": "web", "description": ours.to_string(), "meta": "ctime=2"}),
                Kind::Conflict,
            ),
            (
                json!({"digest": "d", "name": "web", "description": ours.to_string(), "protection": 1}),
                Kind::Refused,
            ),
        ] {
            let fake = fake_of("stopped", json!([]), std::slice::from_ref(&now));
            let error = marked_run(&fake, json!({}), Some(ours.clone())).unwrap_err();
            assert_eq!((error.kind(), fake.requests("DELETE")), (kind, 0), "{now}");
        }
        let fake = fake_of("stopped", json!([]), &[look(&ours), look(&ours), look(&ours)]);
        marked_run(&fake, json!({}), Some(ours)).unwrap();
        assert_eq!(fake.requests("DELETE"), 1);
    }

    #[test]
    fn a_stopped_vm_is_removed_and_read_back() {
        let fake = fake("stopped");
        run(&fake, json!({})).unwrap();
        assert!(fake.log().contains(&format!("DELETE {VM}?purge=1&destroy-unreferenced-disks=1")));
    }

    #[test]
    fn running_protected_and_templates_are_left_alone() {
        for (status, extra, kind) in [
            ("running", json!({}), Kind::Failed),
            ("stopped", json!({"protection": "1"}), Kind::Refused),
            ("stopped", json!({"template": "1"}), Kind::Refused),
        ] {
            let fake = fake(status);
            assert_eq!(run(&fake, extra).unwrap_err().kind(), kind);
            assert_eq!(fake.requests("DELETE"), 0);
        }
    }

    #[test]
    fn a_template_of_ours_goes_once_no_linked_clone_is_left() {
        let run = |volumes: serde_json::Value, marked: bool| {
            let storages = json!([{"storage": "st", "type": "dir", "content": "images", "active": 1}]);
            let settings = json!({"template": "1", "scsi0": "st:110/base-110-disk-0.qcow2,size=3G"});
            let ours =
                marked.then(|| Marker::fresh(&"web".parse().unwrap(), Vmid::new(110).unwrap()).unwrap());
            let mut look = settings.clone();
            look["name"] = "web".into();
            look["description"] = ours.as_ref().map(ToString::to_string).unwrap_or_default().into();
            let fake = fake_of("stopped", storages, &[look.clone(), look.clone(), look]);
            let fake = fake.get("/nodes/prom/storage/st/content", volumes);
            (marked_run(&fake, settings, ours), fake.requests("DELETE"))
        };
        let base = json!({"volid": "st:110/base-110-disk-0.qcow2"});
        let clone = json!({"volid": "st:110/base-110-disk-0.qcow2/150/vm-150-disk-0.qcow2"});
        let (done, sent) = run(json!([base]), true);
        done.unwrap();
        assert_eq!(sent, 1);
        for (volumes, marked, why) in [
            (json!([base, clone]), true, "it is a template with linked clones"),
            (json!([base]), false, "it is a template, and does not carry the marker"),
        ] {
            let (done, sent) = run(volumes, marked);
            let error = done.unwrap_err();
            assert_eq!((error.kind(), sent), (Kind::Refused, 0));
            assert!(error.message().contains(why), "{error:?}");
        }
    }

    #[test]
    fn leave_to_change_is_no_leave_to_destroy() {
        let fake = fake("stopped");
        let config = VmConfig {
            vmid: Vmid::new(110).unwrap(),
            node: "prom".parse().unwrap(),
            settings: Default::default(),
            digest: String::new(),
            marker: None,
            mac: None,
        };
        let error =
            destroy(&alone(&fake), &permit(110), &config, true, Deadline::secs(5), &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(fake.log().len(), 0);
    }
}
