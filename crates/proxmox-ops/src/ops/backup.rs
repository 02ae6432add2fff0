//! Backups of a VM, made by the node (vzdump(1)).

use std::time::Duration;

use fleet_core::{
    Error, Result,
    deadline::Deadline,
    guard::Permit,
    protocol::{Backup, BackupMode, Marker, Storage},
    types::{NodeName, StorageId, VmName, Vmid},
};
use serde::Deserialize;

use super::{Progress, config, host};
use crate::{
    api::{
        call::Call,
        encode::{self, percent},
    },
    node::Node,
    tasks,
};

/// How many characters Proxmox takes as notes (`notes-template` of vzdump(1)).
const LONGEST_NOTES: usize = 1024;

/// What to remember about a backup, checked: it stands below our marker, as Proxmox takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes(String);

impl std::str::FromStr for Notes {
    type Err = Error;
    fn from_str(text: &str) -> Result<Notes> {
        // Proxmox would put values in their place, or refuse the whole.
        if text.contains("{{") {
            return Err(Error::usage("notes of a backup can not hold '{{'"));
        }
        let notes = Notes(text.trim().to_owned());
        // The marker of the longest name, and a line feed, come before it.
        if notes.escaped().chars().count() > LONGEST_NOTES - 160 {
            return Err(Error::usage(format!(
                "notes of a backup can have {} characters",
                LONGEST_NOTES - 160
            )));
        }
        Ok(notes)
    }
}

impl Notes {
    fn escaped(&self) -> String {
        self.0.replace('\\', "\\\\").replace("\r\n", "\n").replace(['\n', '\r'], "\\n")
    }

    /// With the marker in the first line: lists of backups show no other.
    fn with(&self, marker: &Marker) -> String {
        if self.0.is_empty() { marker.to_string() } else { format!("{marker}\\n{}", self.escaped()) }
    }
}

/// The call that makes a backup; `notes` as Proxmox takes them.
pub fn call(
    permit: &Permit,
    node: &NodeName,
    (storage, mode): (&StorageId, BackupMode),
    notes: &Notes,
    marker: &Marker,
) -> Call {
    Call::backup(permit, node, storage, mode, &notes.with(marker))
}

/// A backup in a storage's list.
#[derive(Debug, Clone, Deserialize)]
struct Listed {
    volid: String,
    #[serde(default)]
    notes: Option<String>,
    #[serde(default, deserialize_with = "encode::some_number")]
    size: Option<u64>,
    #[serde(default, deserialize_with = "encode::number")]
    ctime: u64,
}

fn list(node: &Node, storage: &StorageId, vmid: Vmid, deadline: Deadline) -> Result<Vec<Listed>> {
    let path = format!(
        "/nodes/{}/storage/{}/content",
        percent(node.name(deadline)?.as_str()),
        percent(storage.as_str())
    );
    let id = vmid.to_string();
    let query = [("content", "backup"), ("vmid", id.as_str())];
    node.api.get_as(&format!("list the backups of VM {vmid} on '{storage}'"), &path, &query, deadline)
}

/// The storage for a backup: the one asked for if it takes backups; else of those that do the shared one (it
/// outlives the node) with the most room, or the one with the most room.
pub fn place(storages: &[Storage], wanted: Option<&StorageId>) -> Result<StorageId> {
    let fitting = |s: &&Storage| s.active && s.content.iter().any(|content| content == "backup");
    match (wanted, storages.iter().filter(fitting).max_by_key(|s| (s.shared, s.available))) {
        (Some(wanted), _) => host::taking(storages, wanted, "backup").map(|s| s.storage.clone()),
        (None, Some(best)) => Ok(best.storage.clone()),
        (None, None) => Err(Error::failed("no storage of the node takes backups")
            .now("nothing was changed")
            .hint("`pvesm set STORAGE --content …,backup` on the node lets a storage take backups")),
    }
}

/// The request for a backup, with a marker of its own, and the storage that it goes to.
pub fn plan(
    node: &Node,
    permit: &Permit,
    (wanted, mode, notes): (Option<&StorageId>, BackupMode, &Notes),
    deadline: Deadline,
) -> Result<(Call, StorageId, Marker)> {
    let vmid = permit.vmid();
    // A VMID that there is not would be passed over in silence on some nodes.
    let there = config::read(node, vmid, deadline)?;
    let storage = place(&host::storages(node, deadline)?, wanted)?;
    let called = || there.settings.get("name").and_then(|name| name.parse::<VmName>().ok());
    let name = permit.name().cloned().or_else(called).map_or_else(|| format!("vm{vmid}").parse(), Ok)?;
    let marker = Marker::fresh(&name, vmid)?;
    Ok((call(permit, node.name(deadline)?, (&storage, mode), notes, &marker), storage, marker))
}

/// Makes a backup and follows its task; gives the volume as the storage lists it. Older backups are left alone,
/// whatever the storage keeps.
pub fn make(
    node: &Node,
    permit: &Permit,
    wanted: (Option<&StorageId>, BackupMode, &Notes),
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Backup> {
    let vmid = permit.vmid();
    let here = node.name(deadline)?.clone();
    let (call, storage, marker) = plan(node, permit, wanted, deadline)?;
    let mut before = list(node, &storage, vmid, deadline)?;
    let earlier = tasks::earlier(&node.api, &here, (&["vzdump"], vmid), call.what(), deadline, progress)?;
    if let Some(earlier) = earlier {
        let after = list(node, &storage, vmid, Deadline::secs(30))?;
        let said = tasks::lines(&node.api, &earlier.upid, deadline.at_most(Duration::from_secs(20)))?;
        // It may have been another one that somebody wanted: then this one is still to be made.
        if is_asked_for(&said, wanted.1, &storage) {
            earlier.ended?;
            // Some storages list it while it is being made.
            let new = |backup: &&Listed| {
                backup.ctime >= earlier.upid.started()
                    || before.iter().all(|other| other.volid != backup.volid)
            };
            if let Some(made) = after.iter().filter(new).max_by_key(|backup| backup.ctime) {
                return Ok(Backup { volume: made.volid.clone(), storage, node: here, size: made.size });
            }
        }
        before = after;
    }
    let marked = |backup: &Listed| {
        let first = backup.notes.as_deref().and_then(|notes| notes.lines().next());
        first.and_then(Marker::find).as_ref() == Some(&marker)
    };
    let mut done = || Ok(Some(list(node, &storage, vmid, deadline)?.iter().any(marked)));
    progress(&format!("backing up VM {vmid} to the storage '{storage}'"));
    tasks::run_or_look(&node.api, permit, &call, (&["vzdump"], vmid, &here), deadline, progress, &mut done)?;
    let after = list(node, &storage, vmid, Deadline::secs(30))?;
    // Notes are written last, and not everywhere: then it is the one that was not there before.
    let new = |backup: &&Listed| before.iter().all(|other| other.volid != backup.volid);
    let made = after.iter().find(|b| marked(b)).or_else(|| after.iter().filter(new).max_by_key(|b| b.ctime));
    let Some(made) = made else {
        return Err(Error::failed(format!(
            "the node says that VM {vmid} is backed up, but the storage '{storage}' lists no new backup"
        ))
        .hint(format!("look on the node: pvesm list {storage} --content backup --vmid {vmid}")));
    };
    Ok(Backup { volume: made.volid.clone(), storage, node: here, size: made.size })
}

/// Whether a backup's task is such a one, by the command that its log begins with.
fn is_asked_for(said: &[String], mode: BackupMode, storage: &StorageId) -> bool {
    let command = said.iter().find(|line| line.contains("starting new backup job: vzdump "));
    command.is_none_or(|command| {
        let words: Vec<&str> = command.split_whitespace().collect();
        let has = |key: &str, value: &str| words.windows(2).any(|pair| pair == [key, value]);
        has("--mode", &mode.to_string()) && has("--storage", storage.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::permit;

    fn storage(name: &str, content: &str, active: bool, shared: bool, available: u64) -> Storage {
        Storage {
            storage: name.parse().unwrap(),
            kind: "dir".into(),
            content: content.split(',').map(str::to_owned).collect(),
            active,
            shared,
            node: None,
            available: Some(available),
            total: Some(1000),
        }
    }

    #[test]
    fn a_backup_goes_where_backups_go() {
        let all = [
            storage("local", "backup,iso", true, false, 500),
            storage("nvme", "images", true, false, 900),
            storage("nas", "backup", true, true, 100),
            storage("old", "backup", false, true, 900),
        ];
        let id = |name: &str| name.parse::<StorageId>().unwrap();
        assert_eq!(place(&all, None).unwrap(), id("nas"));
        assert_eq!(place(&all[..2], None).unwrap(), id("local"));
        assert_eq!(place(&all, Some(&id("local"))).unwrap(), id("local"));
        for (wanted, kind, words) in [
            ("nvme", fleet_core::Kind::Failed, "storage 'nvme' takes no backups (these do: local, nas)"),
            ("old", fleet_core::Kind::Failed, "storage 'old' is not active now"),
            (
                "nosuch",
                fleet_core::Kind::NotFound,
                "the node has no storage 'nosuch' for backups (these do: local, nas)",
            ),
        ] {
            let error = place(&all, Some(&id(wanted))).unwrap_err();
            assert_eq!((error.kind(), error.message()), (kind, words));
        }
        let error = place(&all[1..2], None).unwrap_err();
        assert_eq!(error.message(), "no storage of the node takes backups");
        assert!(error.hints().iter().any(|hint| hint.contains("pvesm set")), "{error:?}");
    }

    #[test]
    fn notes_are_one_line_for_the_node() {
        let permit = permit(110);
        let marker = Marker::fresh(&"web".parse().unwrap(), permit.vmid()).unwrap();
        let notes: Notes = "before the move\nC:\\x\r\n".parse().unwrap();
        let call = call(
            &permit,
            &"prom".parse().unwrap(),
            (&"local".parse().unwrap(), BackupMode::Stop),
            &notes,
            &marker,
        );
        let sent = call.params().iter().find(|(key, _)| key == "notes-template").unwrap();
        assert_eq!(sent.1, format!("{marker}\\nbefore the move\\nC:\\\\x"));
        assert!("{{guest}}".parse::<Notes>().is_err());
        assert!("x".repeat(LONGEST_NOTES).parse::<Notes>().is_err());
        assert!(sent.1.chars().count() <= LONGEST_NOTES);
    }
}
