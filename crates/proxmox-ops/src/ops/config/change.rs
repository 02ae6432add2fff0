//! Changes of a VM's settings: what was half done is finished, and what somebody else does meanwhile is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fleet_core::{Error, Result, again, deadline::Deadline, guard::Permit, protocol::VmConfig, types::Vmid};

use super::{
    super::{Progress, create, queue},
    read_as, read_pending, refuse_template,
    stored::{allocates, is_made, is_same, unlike},
};
use crate::{
    api::{call::Call, error},
    node::Node,
    tasks,
};

/// How often a change is tried anew because something else of the VM was changed between look and change.
const CHANGED_BETWEEN: usize = 5;

/// Changes settings in one request, which fails when somebody else changed the VM since it was read: since `digest`
/// where one is given, else since the look that this begins with.
///
/// New volumes (`STORAGE:SIZE`) get the format of their storage. One whose slot has a volume of that storage already,
/// pending or not, is left out: the node carries a request out setting by setting, and may have made some of them
/// before it failed at another (whose storage was locked, or full). A second cloud-init drive would be refused, a second
/// disk made beside the first. When the answer is lost the configuration is read again, and what it lacks decides.
///
/// Gives whether anything was sent: nothing is where only volumes are asked for, and all of them are made.
pub fn change(
    node: &Node,
    permit: &Permit,
    settings: &BTreeMap<String, String>,
    delete: &[String],
    digest: Option<&str>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<bool> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    let look = || read_as(node, vmid, false, deadline.at_most(Duration::from_secs(20)));
    let what = format!("configure VM {vmid}");
    tasks::earlier(&node.api, &name, (&["qmconfig"], vmid), &what, deadline, progress)?;
    let mut before = look()?;
    refuse_template(&before, permit, "configure")?;
    let mut settings = settings.clone();
    let (mut basis, mut edits, mut pause) = (digest.map(str::to_owned), 0, Duration::from_millis(500));
    let mut sent = false;
    let formats = create::Formats::default();
    while edits < CHANGED_BETWEEN {
        settings.retain(|key, value| !before.settings.get(key).is_some_and(|there| is_made(value, there)));
        if settings.is_empty() && delete.is_empty() {
            return Ok(sent);
        }
        sent = true;
        settings = formats.put(node, settings, deadline).into_iter().collect();
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let call =
            Call::configure(permit, &name, pairs, delete, Some(basis.as_ref().unwrap_or(&before.digest)));
        let mut done = || {
            let now = look()?;
            // A password is never shown: only a configuration that is another one tells that it may be there.
            let told = !settings.contains_key("cipassword") || now.digest != before.digest;
            Ok(Some(told && unlike(&now, &settings, delete).is_empty()))
        };
        let allocated: Vec<&str> = settings.values().filter_map(|value| allocates(value)).collect();
        let call = if allocated.is_empty() { call } else { call.in_steps() };
        let mut turns = queue::turns(&name, allocated, deadline, progress)?;
        let subject = (&["qmconfig"][..], vmid, &name);
        let outcome = tasks::run_or_look(
            &node.api,
            permit,
            &call,
            subject,
            deadline,
            &mut |line| {
                turns.seen(line);
                progress(line);
            },
            &mut done,
        );
        drop(turns);
        let failed = match outcome {
            Err(e) if error::is_edited(e.message()) || error::is_storage_lock_timeout(e.message()) => e,
            other => return other.map(|_| true),
        };
        let now = look()?;
        let mut theirs = unlike(&now, &settings, delete);
        if theirs.is_empty() {
            return Ok(true);
        }
        // What was locked was somebody's unfinished work, a clone's for instance, and no basis to compare with.
        let settled = !before.settings.contains_key("lock");
        theirs.retain(|key| settled && now.settings.get(*key) != before.settings.get(*key));
        if error::is_storage_lock_timeout(failed.message()) {
            // Some of it may be done, and nothing else may be: that would be somebody's.
            if basis.is_some() {
                theirs.extend(others(&before, &now, &settings, delete));
            }
            if !theirs.is_empty() {
                return Err(meddled(vmid, &theirs, failed));
            }
            if deadline.left() <= pause {
                return Err(failed
                    .now("what was done before that stays")
                    .hint("run this again: it does the rest"));
            }
            progress(&format!("note: {}; going on with what is missing", failed.message()));
            deadline.pause(pause)?;
            pause = (pause * 2).min(Duration::from_secs(8));
            basis = basis.map(|_| now.digest.clone());
        } else {
            if basis.is_some() || !theirs.is_empty() {
                return Err(meddled(vmid, &theirs, failed));
            }
            // Something else of it was changed, or the lock is gone that was waited for.
            progress(&format!("note: VM {vmid} was changed meanwhile, but not in this: trying again"));
            edits += 1;
        }
        before = now;
    }
    Err(Error::failed(format!("can not configure VM {vmid}: something changes it all the time"))
        .now("nothing was changed")
        .hint("`pvenode task list` on the node shows what works on it"))
}

/// As [`change`], of a VM that may have these settings already, pending or not: then nothing is sent. One that is locked
/// is asked all the same: what holds it may be what makes it, or died of it. Gives whether anything was sent.
pub fn set(
    node: &Node,
    permit: &Permit,
    settings: &BTreeMap<String, String>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<bool> {
    let vmid = permit.vmid();
    let there = read_pending(node, vmid, deadline.at_most(Duration::from_secs(20)))?;
    refuse_template(&there, permit, "configure")?;
    let is_so = settings.iter().all(|(key, value)| {
        there.settings.get(key).is_some_and(|there| is_made(value, there) || is_same(key, value, there))
    });
    if !is_so || there.settings.contains_key("lock") {
        return change(node, permit, settings, &[], None, deadline, progress);
    }
    let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    // A stranger's VM is told from ours all the same.
    node.api.prove_ours(
        permit,
        &Call::configure(permit, node.name(deadline)?, pairs, &[], None),
        deadline,
    )?;
    Ok(false)
}

/// The settings that are other ones than before, and not what was asked for.
fn others<'a>(
    before: &'a VmConfig,
    now: &'a VmConfig,
    settings: &BTreeMap<String, String>,
    delete: &[String],
) -> Vec<&'a str> {
    let keys: BTreeSet<&String> = before.settings.keys().chain(now.settings.keys()).collect();
    let other = |key: &&&String| {
        before.settings.get(**key) != now.settings.get(**key)
            && !settings.contains_key(**key)
            && !delete.contains(**key)
    };
    keys.iter().filter(other).map(|key| key.as_str()).collect()
}

fn meddled(vmid: Vmid, settings: &[&str], edited: Error) -> Error {
    let error = Error::conflict(format!("can not configure VM {vmid}: somebody else changed it meanwhile"))
        .now("nothing was changed by this request")
        .hint(format!("look at it, then decide: {}", again::ops(format_args!("config {vmid}"))))
        .caused_by(edited);
    if settings.is_empty() { error } else { error.now(format!("they changed: {}", settings.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node, permit};
    use fleet_core::Kind;
    use serde_json::Value;
    use serde_json::json;

    const NODE: &str = "/cluster/status";
    const CONFIG: &str = "/nodes/prom/qemu/110/config";

    fn fake() -> Fake {
        Fake::new().get(NODE, json!([{"type": "node", "name": "prom", "local": 1}]))
    }

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_change_is_one_request_in_one_write() {
        let fake = fake()
            .get("/nodes/prom/tasks", json!([]))
            .get(CONFIG, json!({"digest": "d2", "cores": 1}))
            .on("POST", CONFIG, 200, json!({"data": null}));
        let asked =
            settings(&[("cores", "2"), ("sshkeys", "ssh-ed25519 AA+A me@x"), ("description", "a=b&c")]);
        change(
            &node(&fake),
            &permit(110),
            &asked,
            &["scsi1".into()],
            Some("d1"),
            Deadline::secs(5),
            &mut |_| {},
        )
        .unwrap();
        assert_eq!(
            fake.log().last().unwrap(),
            "POST /nodes/prom/qemu/110/config cores=2&description=a%3Db%26c\
             &sshkeys=ssh-ed25519%2520AA%252BA%2520me%2540x&delete=scsi1&digest=d1"
        );
        assert_eq!(fake.writes().len(), fake.log().len(), "one write a request");
        assert_eq!(fake.opened(), 1, "one connection");
        assert_eq!(fake.minted(), (1, 0));
    }

    #[test]
    fn a_second_cloudinit_drive_is_not_asked_for() {
        let fake = fake()
            .get(CONFIG, json!({"digest": "d", "ide2": "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom"}))
            .on("POST", CONFIG, 200, json!({"data": null}));
        let asked = settings(&[("ide2", "nvmeprom:cloudinit"), ("ciuser", "root")]);
        change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {}).unwrap();
        assert_eq!(fake.log().last().unwrap(), "POST /nodes/prom/qemu/110/config ciuser=root&digest=d");
    }

    #[test]
    fn what_is_so_already_is_not_sent() {
        let there = json!({"digest": "d", "cores": 2, "memory": "2048", "sshkeys": "ssh-ed25519%20AAAA%20me%40x%0A",
            "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5", "tags": "a;b",
            "ide2": "nvmeprom:110/vm-110-cloudinit.qcow2,media=cdrom"});
        let asked = |pairs: &[(&str, &str)], lock: bool| {
            let mut there = there.clone();
            if lock {
                there["lock"] = json!("backup");
            }
            let fake = fake().get(CONFIG, there).on("POST", CONFIG, 200, json!({"data": null}));
            let sent =
                set(&node(&fake), &permit(110), &settings(pairs), Deadline::secs(5), &mut |_| {}).unwrap();
            assert_eq!(fake.requests("POST"), usize::from(sent), "{pairs:?}");
            sent
        };
        let same = [
            ("cores", "2"),
            ("memory", "2048"),
            ("sshkeys", "ssh-ed25519 AAAA me@x"),
            ("ide2", "files:cloudinit"),
        ];
        assert!(!asked(&same, false) && asked(&same, true));
        assert!(!asked(&[], false));
        assert!(asked(&[("cores", "3"), ("memory", "2048")], false));
        // Without its tag it is another card, and what password is stored nobody tells.
        assert!(asked(&[("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0")], false));
        assert!(asked(&[("cipassword", "x")], false));
    }

    const EDITED: &str = "checksum mismatch (file change by other user?)\n";

    fn edited(looks: &[Value], given: Option<&str>) -> (Result<bool>, Fake) {
        let mut fake = fake().on("POST", CONFIG, 500, json!({"message": EDITED})).on(
            "POST",
            CONFIG,
            200,
            json!({"data": null}),
        );
        for look in looks {
            fake = fake.get(CONFIG, look.clone());
        }
        let asked = settings(&[("cores", "4"), ("memory", "2048")]);
        let outcome = change(&node(&fake), &permit(110), &asked, &[], given, Deadline::secs(5), &mut |_| {});
        (outcome, fake)
    }

    #[test]
    fn an_edit_of_something_else_meanwhile_is_no_obstacle() {
        let before = json!({"digest": "d1", "cores": 1, "memory": "1024"});
        let (outcome, fake) =
            edited(&[before, json!({"digest": "d2", "cores": 1, "memory": "1024", "onboot": 1})], None);
        outcome.unwrap();
        assert!(fake.log().last().unwrap().ends_with("&digest=d2"), "{:?}", fake.log());
    }

    #[test]
    fn an_edit_of_the_same_meanwhile_is_a_conflict() {
        let before = json!({"digest": "d1", "cores": 1, "memory": "1024"});
        let theirs = json!({"digest": "d2", "cores": 8, "memory": "1024"});
        let (outcome, fake) = edited(&[before.clone(), theirs], None);
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.facts()[1].as_str()), (Kind::Conflict, "they changed: cores"));
        assert_eq!(fake.requests("POST"), 1);
        // Who names the configuration that is meant gets that one or none.
        let (outcome, _) =
            edited(&[before.clone(), json!({"digest": "d2", "cores": 1, "memory": "1024"})], Some("d1"));
        assert_eq!(outcome.unwrap_err().kind(), Kind::Conflict);
        // Somebody, perhaps ourselves before a lost answer, did just this.
        let (outcome, _) = edited(&[before, json!({"digest": "d2", "cores": 4, "memory": "2048"})], None);
        outcome.unwrap();
    }

    #[test]
    fn what_a_lock_s_task_writes_is_nobody_s_edit() {
        let cloning = json!({"digest": "d1", "lock": "clone"});
        let (outcome, _) = edited(&[cloning, json!({"digest": "d2", "cores": 2, "memory": "1024"})], None);
        outcome.unwrap();
    }

    const STORAGE_LOCKED: &str =
        "can't lock file '/var/lock/pve-manager/pve-storage-nvmeprom' - got timeout\n";

    /// The storage's lock was not had for the second of two disks, and `after` is what the next look shows.
    fn half(after: Value, given: Option<&str>) -> (Result<bool>, Fake) {
        let fake = fake()
            .get("/nodes/prom/storage", json!([{"storage": "nvmeprom", "type": "lvmthin", "active": 1}]))
            .on("POST", CONFIG, 500, json!({"message": STORAGE_LOCKED}))
            .on("POST", CONFIG, 200, json!({"data": null}))
            .get(CONFIG, json!({"digest": "d1", "cores": 1}))
            .get(CONFIG, after);
        let asked = settings(&[("cores", "2"), ("scsi1", "nvmeprom:4"), ("scsi2", "nvmeprom:6")]);
        let outcome = change(&node(&fake), &permit(110), &asked, &[], given, Deadline::secs(5), &mut |_| {});
        (outcome, fake)
    }

    #[test]
    fn a_disk_that_was_made_before_a_failure_is_not_made_twice() {
        let after = json!({"digest": "d2", "cores": 2, "scsi1": "nvmeprom:vm-110-disk-1,size=4G"});
        for given in [None, Some("d1")] {
            let (outcome, fake) = half(after.clone(), given);
            outcome.unwrap();
            assert_eq!(
                fake.log().last().unwrap(),
                "POST /nodes/prom/qemu/110/config cores=2&scsi2=nvmeprom%3A6&digest=d2"
            );
            assert_eq!(fake.requests("POST"), 2);
        }
    }

    #[test]
    fn what_somebody_did_meanwhile_is_told_after_a_failure_too() {
        let after = json!({"digest": "d2", "cores": 2, "onboot": 1});
        half(after.clone(), None).0.unwrap();
        let error = half(after, Some("d1")).0.unwrap_err();
        assert_eq!((error.kind(), error.facts()[1].as_str()), (Kind::Conflict, "they changed: onboot"));
    }

    #[test]
    fn a_disk_that_is_there_is_not_asked_for() {
        let fake = fake().get(CONFIG, json!({"digest": "d", "scsi1": "nvmeprom:vm-110-disk-1,size=4G"}));
        let asked = settings(&[("scsi1", "nvmeprom:4")]);
        change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {}).unwrap();
        assert_eq!(fake.requests("POST"), 0);
    }

    #[test]
    fn a_lost_answer_is_looked_into() {
        let asked = settings(&[("cores", "2"), ("scsi1", "nvmeprom:20")]);
        let lost = |config: Value| {
            let fake = fake()
                .drops("POST", CONFIG)
                .get(CONFIG, json!({"digest": "d", "cores": 1}))
                .get(CONFIG, config)
                .get("/nodes/prom/storage", json!([{"storage": "nvmeprom", "type": "dir"}]))
                .get("/nodes/prom/tasks", json!([]));
            let outcome =
                change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {});
            assert_eq!(fake.requests("POST"), 1, "never sent again blindly");
            outcome
        };
        lost(json!({"digest": "d", "cores": 2, "scsi1": "nvmeprom:vm-110-disk-1,size=20G"})).unwrap();
        let error = lost(json!({"digest": "d", "cores": 1})).unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown);
    }

    #[test]
    fn a_password_whose_answer_was_lost_is_set_only_if_something_was() {
        let lost = |after: &str| {
            let fake = fake()
                .drops("POST", CONFIG)
                .get(CONFIG, json!({"digest": "d1", "cipassword": "**********"}))
                .get(CONFIG, json!({"digest": after, "cipassword": "**********"}))
                .get("/nodes/prom/tasks", json!([]));
            let asked = settings(&[("cipassword", "new")]);
            change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {})
        };
        lost("d2").unwrap();
        assert_eq!(lost("d1").unwrap_err().kind(), Kind::OutcomeUnknown);
    }

    #[test]
    fn more_keys_than_a_request_takes_are_a_usage_error() {
        let fake = fake().get(CONFIG, json!({"digest": "d1"}));
        let keys = format!("ssh-rsa {} me@x\n", "A".repeat(540)).repeat(60);
        let asked = settings(&[("sshkeys", &keys)]);
        let error = change(&node(&fake), &permit(110), &asked, &[], None, Deadline::secs(5), &mut |_| {});
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error:?}");
        assert!(error.hints()[0].contains("fewer SSH keys"), "{error:?}");
        assert_eq!(fake.requests("POST"), 0);
    }
}
