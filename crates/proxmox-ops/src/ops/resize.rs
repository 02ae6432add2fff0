//! Growing a disk.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::Permit,
    types::{DiskSize, DiskSlot},
};

use super::{Progress, config};
use crate::{
    api::{call::Call, error},
    node::Node,
    tasks,
};

/// Grows a disk to `size`, and reads back that it has it. Whether there was anything to do.
pub fn grow(
    node: &Node,
    permit: &Permit,
    disk: &DiskSlot,
    size: DiskSize,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<bool> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    let what = format!("resize {disk} of VM {vmid}");
    tasks::earlier(&node.api, &name, (&["resize"], vmid), &what, deadline, progress)?;
    let mut before = config::read(node, vmid, deadline)?;
    config::refuse_template(&before, permit, "resize a disk of")?;
    // A clone that is being written does not have all of its disks yet.
    if !before.settings.contains_key(disk.as_str())
        && let Some(lock) = before.settings.get("lock")
    {
        let call = Call::resize(permit, &name, disk, size, None);
        tasks::unlocked(&node.api, &call, lock, deadline, progress)?;
        before = config::read(node, vmid, deadline)?;
    }
    let setting = before.settings.get(disk.as_str()).ok_or_else(|| {
        let disks: Vec<&str> = before
            .settings
            .iter()
            .filter(|(_, v)| config::size_of(v).is_some())
            .map(|(k, _)| k.as_str())
            .collect();
        Error::not_found(format!("can not resize {disk} of VM {vmid}: it has no such disk")).now(format!(
            "its disks are: {}",
            if disks.is_empty() { "none".to_owned() } else { disks.join(", ") }
        ))
    })?;
    let now = config::size_of(setting).ok_or_else(|| {
        Error::failed(format!("can not resize {disk} of VM {vmid}: the node gives no size for it"))
            .now(format!("{disk} is {setting}"))
    })?;
    if size == now {
        return Ok(false);
    }
    if size < now {
        return Err(Error::refused(format!(
            "refused to shrink {disk} of VM {vmid} from {now} to {size}: disks only grow"
        ))
        .now("nothing was changed")
        .hint("a smaller disk needs a new VM"));
    }
    let call = Call::resize(permit, &name, disk, size, Some(&before.digest));
    let has_it = || -> Result<Option<DiskSize>> {
        let after = config::read(node, vmid, deadline.at_most(Duration::from_secs(20)))?;
        Ok(after.settings.get(disk.as_str()).and_then(|setting| config::size_of(setting)))
    };
    let mut done = || Ok(Some(has_it()?.is_some_and(|after| after >= size)));
    let subject = (&["resize"][..], vmid, &name);
    tasks::run_or_look(&node.api, permit, &call, subject, deadline, progress, &mut done).map_err(|e| {
        // Told by the task, not by the request.
        if !error::is_edited(e.message()) {
            return e;
        }
        e.with_kind(Kind::Conflict)
            .now(format!("somebody else changed VM {vmid} since it was looked at"))
            .now("nothing was changed by this request")
            .hint("run the same command again: it looks first")
    })?;
    match has_it()? {
        Some(after) if after >= size => Ok(true),
        after => Err(Error::failed(format!("{disk} of VM {vmid} did not grow to {size}"))
            .now(match after {
                Some(after) => format!("its size is {after}"),
                None => "the node gives no size for it".to_owned(),
            })
            .hint(again::ops(format_args!("config {vmid}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node, permit};
    use serde_json::{Value, json};

    const CONFIG: &str = "/nodes/prom/qemu/110/config";

    fn grow_to(sizes: &[&str], size: &str) -> (Result<bool>, Fake) {
        let mut fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .on("PUT", "/nodes/prom/qemu/110/resize", 200, json!({"data": Value::Null}));
        for size in sizes {
            fake = fake
                .get(CONFIG, json!({"digest": "d1", "scsi0": format!("nvmeprom:vm-110-disk-0,size={size}")}));
        }
        let outcome = grow(
            &node(&fake),
            &permit(110),
            &"scsi0".parse().unwrap(),
            size.parse().unwrap(),
            Deadline::secs(5),
            &mut |_| {},
        );
        (outcome, fake)
    }

    #[test]
    fn grows_and_reads_back() {
        let (outcome, fake) = grow_to(&["2G", "20G"], "20G");
        assert!(outcome.unwrap());
        assert!(
            fake.log().contains(&"PUT /nodes/prom/qemu/110/resize disk=scsi0&size=20G&digest=d1".to_owned())
        );
    }

    #[test]
    fn success_that_changed_nothing_is_no_success() {
        let (outcome, _) = grow_to(&["2G"], "20G");
        assert_eq!(outcome.unwrap_err().facts(), ["its size is 2G"]);
    }

    #[test]
    fn an_edit_meanwhile_is_a_conflict_which_only_the_task_tells() {
        let upid = "UPID:prom:00000ED5:000AE788:6B03B82C:resize:110:root@pam:";
        let path =
            "/nodes/prom/tasks/UPID%3Aprom%3A00000ED5%3A000AE788%3A6B03B82C%3Aresize%3A110%3Aroot%40pam%3A";
        let exit = "checksum mismatch (file change by other user?)";
        let fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(CONFIG, json!({"digest": "d1", "scsi0": "nvmeprom:vm-110-disk-0,size=2G"}))
            .on("PUT", "/nodes/prom/qemu/110/resize", 200, json!({ "data": upid }))
            .get(&format!("{path}/status"), json!({"status": "stopped", "exitstatus": exit}))
            .get(&format!("{path}/log"), json!([]));
        let (disk, size) = ("scsi0".parse().unwrap(), "20G".parse().unwrap());
        let outcome = grow(&node(&fake), &permit(110), &disk, size, Deadline::secs(5), &mut |_| {});
        assert_eq!(outcome.unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn equal_is_nothing_to_do_and_smaller_is_refused() {
        let (outcome, fake) = grow_to(&["20G"], "20G");
        assert!(!outcome.unwrap());
        assert_eq!(fake.requests("PUT"), 0);
        let (outcome, fake) = grow_to(&["20G"], "10G");
        assert_eq!(outcome.unwrap_err().kind(), Kind::Refused);
        assert_eq!(fake.requests("PUT"), 0);
    }

    #[test]
    fn a_missing_disk_is_not_found() {
        let (_, fake) = grow_to(&["20G"], "20G");
        let outcome = grow(
            &node(&fake),
            &permit(110),
            &"scsi3".parse().unwrap(),
            "9G".parse().unwrap(),
            Deadline::secs(5),
            &mut |_| {},
        );
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.facts()), (Kind::NotFound, &["its disks are: scsi0".to_owned()][..]));
    }
}
