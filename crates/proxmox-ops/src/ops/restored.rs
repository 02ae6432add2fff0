//! What a restore that was asked for before has come to: it runs, or it made the VM that is there.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    protocol::VmConfig,
    types::{DiskSlot, Vmid},
};

use super::Progress;
use crate::{
    node::Node,
    tasks::{self, Earlier, Upid},
};

/// The node's word for it.
const TASK: &str = "qmrestore";

/// The restore of `archive` into this VMID that a run before left going, by the same login: followed to its end.
///
/// A restore of another archive, and one that never says of which it is, is none. While it says nothing it is
/// followed: then it waits for a lock, or reads the archive's beginning.
pub fn earlier(
    node: &Node,
    (archive, vmid): (&str, Vmid),
    what: &str,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Option<Earlier>> {
    let here = node.name(deadline)?;
    let Some(upid) = tasks::running(&node.api, here, (&[TASK], vmid), deadline)? else { return Ok(None) };
    if of(node, &upid, archive, deadline)? == Some(false) {
        return Ok(None);
    }
    let followed = Earlier::of(&node.api, upid, what, deadline, progress)?;
    let is_it = match (&followed.ended, of(node, &followed.upid, archive, deadline)?) {
        // It may fail before it comes to the archive.
        (Err(_), None) => true,
        (_, said) => said == Some(true),
    };
    Ok(is_it.then_some(followed))
}

/// The restore of `archive` that made the VM of this configuration, where it is the last that was done with that VM by a
/// task of the node's, and whole.
pub fn made(node: &Node, config: &VmConfig, archive: &str, deadline: Deadline) -> Result<Option<Upid>> {
    if config.settings.contains_key("lock") || !has_drive(config) {
        return Ok(None);
    }
    let short = deadline.at_most(Duration::from_secs(20));
    let listed = match tasks::list(&node.api, node.name(short)?, None, Some(config.vmid), short) {
        // Not every login is told.
        Err(e) if e.kind() == Kind::Failed => return Ok(None),
        listed => listed?,
    };
    let Some(last) = listed.first() else { return Ok(None) };
    let upid = last.upid();
    let well = last.status.as_deref().is_some_and(tasks::is_success);
    let ours = last.kind == TASK && well && upid.is_of(&node.api);
    Ok((ours && of(node, &upid, archive, short)? == Some(true)).then_some(upid))
}

/// Whether a restore is of this archive, by its log; nothing while that does not say.
fn of(node: &Node, upid: &Upid, archive: &str, deadline: Deadline) -> Result<Option<bool>> {
    let short = deadline.at_most(Duration::from_secs(20));
    Ok(says(&tasks::lines(&node.api, upid, short)?, archive))
}

/// The line with the command that reads the archive: by its path (`…/dump/vzdump-qemu-110-….vma.zst`), or by its
/// snapshot on a backup server (`vm/110/2026-01-16T16:26:33Z`).
fn says(log: &[String], archive: &str) -> Option<bool> {
    let command = log.iter().find_map(|line| {
        line.strip_prefix("restore vma archive: ")
            .or_else(|| line.strip_prefix("restore proxmox backup image: "))
    })?;
    let (_, path) = archive.split_once(':')?;
    let name = path.strip_prefix("backup/").unwrap_or(path);
    let words = || command.split_whitespace();
    Some(
        words().any(|word| {
            word.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        }),
    )
}

/// Whether a configuration names a disk.
pub fn has_drive(config: &VmConfig) -> bool {
    config.settings.keys().any(|key| key.parse::<DiskSlot>().is_ok())
}

/// What a restore that failed leaves: its lock is taken off, and the configuration says nothing.
pub fn is_empty(config: &VmConfig) -> bool {
    let says = |key: &str| config.settings.contains_key(key);
    !has_drive(config) && !says("lock") && !says("name") && config.marker.is_none()
}

/// An error, and that such a VM is there.
pub fn left_empty(config: &VmConfig, error: Error) -> Error {
    let VmConfig { vmid, node, .. } = config;
    error
        .now(format!("VM {vmid} on the node '{node}' is empty, without a name or a disk: a restore that failed leaves that"))
        .hint(format!("`qm destroy {vmid}` on the node '{node}' removes it; then run this again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_s_log_names_its_archive() {
        let log = |line: &str| ["  Logical volume \"vm-110-disk-0\" created.", line].map(str::to_owned);
        let zst = "local:backup/vzdump-qemu-110-2026_01_31-00_00_00.vma.zst";
        let vma = log(
            "restore vma archive: zstd -q -d -c /var/lib/vz/dump/vzdump-qemu-110-2026_01_31-00_00_00.vma.zst | vma \
             extract -v -r /var/tmp/vzdumptmp7.fifo - /var/tmp/vzdumptmp7",
        );
        assert_eq!(says(&vma, zst), Some(true));
        assert_eq!(says(&vma, "local:backup/vzdump-qemu-110-2026_02_01-00_00_00.vma.zst"), Some(false));
        assert_eq!(says(&vma, "local:backup/110-2026_01_31-00_00_00.vma.zst"), Some(false));
        let server =
            log("restore proxmox backup image: /usr/bin/pbs-restore --repository root@pam@192.0.2.9:store \
             vm/110/2026-01-16T16:26:33Z drive-scsi0.img.fidx /dev/pve/vm-110-disk-0 --verbose --format raw");
        assert_eq!(says(&server, "pbs:backup/vm/110/2026-01-16T16:26:33Z"), Some(true));
        assert_eq!(says(&server, "pbs:backup/vm/110/2026-01-17T16:26:33Z"), Some(false));
        assert_eq!(says(&vma[..1], zst), None);
    }
}
