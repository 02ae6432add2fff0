//! `proxmox-ops restore`

use clap::Args;
use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::Operation,
    protocol::Resource,
    types::{MacAddr, NodeName, StorageId, VmRef, Vmid},
};

use super::{cloudinit_drive::storage_for, create_template::volume};
use crate::{
    api::call::Call,
    cluster::Cluster,
    context::{ChangeOptions, Context, read_deadline},
    ops::{config, configs, queue, restored},
    tasks,
};

/// Restore a VM from a backup into a VMID that is free
///
/// A VM that exists is never overwritten: destroy it first, or restore into another VMID. There the VM gets MAC
/// addresses and a machine id of its own, since the one that was backed up may be running; --keep-mac keeps them.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup, such as local:backup/vzdump-qemu-110-2026_01_31-00_00_00.vma.zst
    #[arg(value_name = "ARCHIVE", value_parser = archive)]
    archive: String,
    /// VMID of the VM to make, or its name in the definitions
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Storage for its disks [default: the definition's, else the definitions' default]
    storage: Option<StorageId>,
    /// Keep the MAC addresses into another VMID too; only while the VM that was backed up does not exist
    #[arg(long)]
    keep_mac: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

/// A backup's volume; a word that is none is told what one looks like.
fn archive(text: &str) -> Result<String> {
    volume(text).map_err(|_| {
        Error::usage(format!(
            "'{}' is not a valid backup: STORAGE:PATH, such as local:backup/vzdump-qemu-110-2026_01_31-00_00_00.vma.zst",
            text.escape_debug()
        ))
    })
}

impl Restore {
    /// An archive that there is not is told as such, with the command that lists those that there are.
    fn missing(&self, node: &NodeName, error: Error) -> Error {
        let Restore { archive, .. } = self;
        let storage = archive.split(':').next().unwrap_or_default();
        let said = error.message();
        if !(said.contains(&format!("volume '{archive}' does not exist")) || said.contains("No such file")) {
            return error;
        }
        error.with_kind(Kind::NotFound).hint(format!(
            "`pvesm list {storage} --content backup` on the node '{node}' lists the backups there"
        ))
    }

    /// Whether the VM needs MAC addresses of its own: not where a VM comes back into its own VMID.
    fn is_a_copy(&self, vmid: Vmid) -> bool {
        !self.keep_mac && saved_of(&self.archive) != Some(vmid)
    }

    /// With the addresses of a VM that exists, two would answer on the bridge.
    fn refuse_twin(&self, vmid: Vmid, cluster: &Cluster) -> Result<()> {
        let Some(first) = saved_of(&self.archive).filter(|first| self.keep_mac && *first != vmid) else {
            return Ok(());
        };
        if cluster.resource(first)?.is_none() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "VM {first} exists: a second VM with its MAC addresses would disturb it"
        ))
        .now("nothing was changed")
        .hint("restore without --keep-mac: the VM gets MAC addresses of its own"))
    }

    /// What stands under the VMID: what this restore made, which is all that was wanted, or a conflict.
    fn taken(&self, cx: &Context, cluster: &Cluster, there: &Resource, deadline: Deadline) -> Result<()> {
        let (vmid, archive) = (there.vmid, &self.archive);
        let called = there.name.as_deref().unwrap_or("-");
        let taken = Error::conflict(format!("can not restore into VMID {vmid}: it is taken"))
            .now(format!("{vmid} is '{called}' on the node '{}'", there.node))
            .now("nothing was changed");
        let found = cluster.on(vmid, |node| {
            let config = config::read(node, vmid, deadline)?;
            let made = restored::made(node, &config, archive, deadline)?;
            Ok((config, made))
        });
        match found {
            Ok((_, Some(task))) => {
                let already = format!(
                    "VM {vmid} is restored from {archive} already, and no task has worked on it since (an edit of its \
                     settings is none)"
                );
                cx.ui.detail(format!("the node's task: {task}"));
                cx.changed(vmid, false, "", &already)
            }
            Ok((config, None)) if restored::is_empty(&config) => Err(restored::left_empty(&config, taken)),
            _ => Err(taken.hint(format!("`{}` prints a free VMID", again::ops("next-vmid")))),
        }
    }

    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Create, "restore into")?;
        let vmid = permit.vmid();
        let storage = storage_for(cx, &permit, self.storage.as_ref())?;
        let mut settings = vec![("archive", self.archive.clone()), ("storage", storage.to_string())];
        if self.is_a_copy(vmid) {
            settings.push(("unique", "1".to_owned()));
        }
        if self.options.change.dry_run {
            return cx.show(&[Call::create(&permit, &cx.node_name()?, &settings)]);
        }
        let cluster = cx.connect()?;
        let deadline = self.options.long_deadline();
        let node = cx.place(&cluster, vmid)?;
        let name = node.name(deadline)?.clone();
        let call = Call::create(&permit, &name, &settings);
        let mut progress = cx.progress();
        let subject = (self.archive.as_str(), vmid);
        // What a restore that fails leaves may be in the way of the next one.
        let failed = |e: Error| match config::read(&node, vmid, read_deadline()) {
            Ok(config) if restored::is_empty(&config) => {
                restored::left_empty(&config, self.missing(&name, e))
            }
            _ => self.missing(&name, e),
        };
        let earlier = restored::earlier(&node, subject, call.what(), deadline, &mut progress)?;
        match earlier {
            Some(earlier) => earlier.ended.map_err(failed)?,
            None => {
                if let Some(there) = cluster.resource(vmid)? {
                    return self.taken(cx, &cluster, &there, deadline);
                }
                self.refuse_twin(vmid, &cluster)?;
                cx.ui.step(format!("Restoring {} into VM {vmid}...", self.archive));
                let mut done = || match config::read(&node, vmid, deadline) {
                    Ok(config) => {
                        Ok(Some(!config.settings.contains_key("lock") && restored::has_drive(&config)))
                    }
                    Err(e) if e.kind() == Kind::NotFound => Ok(Some(false)),
                    Err(e) => Err(e),
                };
                let subject = (&["qmrestore"][..], vmid, &name);
                let mut turns = queue::turns(&name, [storage.as_str()], deadline, &mut progress)?;
                let mut progress = |line: &str| {
                    turns.seen(line);
                    progress(line);
                };
                tasks::run_or_look(&node.api, &permit, &call, subject, deadline, &mut progress, &mut done)
                    .map_err(failed)?;
            }
        }
        let restored = config::read(&node, vmid, deadline)?;
        if restored.marker.is_none() {
            cx.ui.warn(format!(
                "VM {vmid} does not carry the marker of these tools: the backup was of another VM"
            ));
        }
        for twin in twins(&cluster, vmid, restored.mac) {
            cx.ui.warn(format!("VM {vmid} has the MAC address of {twin}: only one of them may run"));
        }
        cx.changed(vmid, true, &format!("VM {vmid} is restored from {}", self.archive), "")
    }
}

/// The VMID of the VM in a backup, by its name: `backup/vzdump-qemu-110-….vma.zst` in a directory,
/// `backup/vm/110/2026-01-16T16:26:33Z` on a backup server.
fn saved_of(archive: &str) -> Option<Vmid> {
    let (_, path) = archive.split_once(':')?;
    let name = path.rsplit('/').next().and_then(|file| file.strip_prefix("vzdump-qemu-"));
    let rest = name.or_else(|| path.strip_prefix("backup/vm/"))?;
    rest.split(['-', '/']).next()?.parse().ok()
}

/// The VMs and containers beside this one that have its MAC address. Not being able to look is no failure.
fn twins(cluster: &Cluster, vmid: Vmid, mac: Option<MacAddr>) -> Vec<Vmid> {
    let Some(mac) = mac.map(|mac| mac.to_string()) else { return Vec::new() };
    let all = configs::all(cluster, read_deadline()).unwrap_or_default();
    let has = |(key, value): (&String, &String)| {
        key.starts_with("net") && value.to_ascii_lowercase().contains(&mac.to_ascii_lowercase())
    };
    all.into_iter().filter(|c| c.vmid != vmid && c.settings.iter().any(has)).map(|c| c.vmid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_s_name_tells_whose_it_is() {
        let of = |archive: &str| saved_of(archive).map(|vmid| vmid.to_string());
        assert_eq!(of("local:backup/vzdump-qemu-110-2026_01_31-00_00_00.vma.zst").as_deref(), Some("110"));
        assert_eq!(of("pbs:backup/vm/1234/2026-01-16T16:26:33Z").as_deref(), Some("1234"));
        for other in
            ["local:backup/mine.vma", "local:backup/vzdump-lxc-110-x.tar", "pbs:backup/ct/110/x", "x"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
