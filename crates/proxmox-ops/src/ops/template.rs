//! Templates: made of a VM, or of a cloud image.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::{Operation, Permit},
    protocol::{Marker, VmConfig},
    types::{BridgeName, StorageId, VmName},
};

use super::{Progress, clone::is_disk, config, create, power};
use crate::{api::call::Call, cluster::Cluster, node::Node, tasks};

/// Turns a stopped VM into a template. Whether there was anything to do.
///
/// The node makes it a template first and then its disks, one by one: what is left of a conversion that was cut short is
/// done as well.
pub fn convert(node: &Node, permit: &Permit, deadline: Deadline, progress: Progress<'_>) -> Result<bool> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    let call = Call::template(permit, &name);
    tasks::earlier(&node.api, &name, (&["qmtemplate"], vmid), call.what(), deadline, progress)?;
    let is_template = || -> Result<bool> { Ok(config::is_template(&config::read(node, vmid, deadline)?)) };
    let now = config::read(node, vmid, deadline)?;
    if config::is_template(&now) {
        if is_half(&now) {
            finish(node, permit, &now, deadline, progress)?;
            return Ok(true);
        }
        return Ok(false);
    }
    if power::status(node, vmid, deadline)?.status != "stopped" {
        return Err(Error::failed(format!("can not make a template of VM {vmid}: it is running"))
            .now("nothing was changed")
            .hint(again::change(format_args!("shutdown {vmid}"))));
    }
    let mut done = || is_template().map(Some);
    let converted = tasks::run_or_look(
        &node.api,
        permit,
        &call,
        (&["qmtemplate"], vmid, &name),
        deadline,
        progress,
        &mut done,
    );
    if let Err(error) = converted {
        match config::read(node, vmid, deadline) {
            Ok(now) if config::is_template(&now) && error.kind() == Kind::Failed => {
                progress(&format!("note: {}; going on with the disks that are left", error.message()));
                finish(node, permit, &now, deadline, progress)?;
            }
            _ => return Err(error),
        }
    }
    if is_template()? {
        return Ok(true);
    }
    Err(Error::failed(format!("VM {vmid} is no template although its conversion ended well"))
        .hint(again::ops(format_args!("config {vmid}"))))
}

/// The disks that a template's conversion has not come to, by their slots: named as a VM's. Some storages have no
/// other name for a template's.
fn unconverted(config: &VmConfig) -> Vec<&str> {
    let of_vm = format!("vm-{}-", config.vmid);
    disks(config).filter(|(_, file)| file.starts_with(&of_vm)).map(|(slot, _)| slot).collect()
}

/// Whether some disks were converted, and others were not.
fn is_half(config: &VmConfig) -> bool {
    let base = format!("base-{}-", config.vmid);
    disks(config).any(|(_, file)| file.starts_with(&base)) && !unconverted(config).is_empty()
}

/// Slots and names of the disks' files.
fn disks(config: &VmConfig) -> impl Iterator<Item = (&str, &str)> {
    let disks = config.settings.iter().filter(|(key, value)| {
        is_disk(key) && !config::is_cloudinit(value) && !value.contains("media=cdrom")
    });
    disks.filter_map(|(slot, value)| {
        let (_, path) = value.split(',').next()?.split_once(':')?;
        Some((slot.as_str(), path.rsplit('/').next().unwrap_or(path)))
    })
}

fn finish(
    node: &Node,
    permit: &Permit,
    half: &VmConfig,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    let name = node.name(deadline)?.clone();
    for disk in unconverted(half) {
        let call = Call::template_disk(permit, &name, disk);
        let mut done = || Ok(Some(!unconverted(&config::read(node, vmid, deadline)?).contains(&disk)));
        let subject = (&["qmtemplate"][..], vmid, &name);
        tasks::run_or_look(&node.api, permit, &call, subject, deadline, progress, &mut done)?;
    }
    let now = config::read(node, vmid, deadline)?;
    if is_half(&now) {
        return Err(Error::failed(format!("not all disks of the template {vmid} are a template's"))
            .now(format!("these are not: {}", unconverted(&now).join(", ")))
            .hint(again::ops(format_args!("config {vmid}"))));
    }
    Ok(())
}

/// What a new template is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its name.
    pub name: VmName,
    /// Where its disks go.
    pub storage: StorageId,
    /// The image: a volume such as `local:import/debian-13.qcow2`, or an absolute path on the node.
    pub image: String,
    /// The bridge of `net0`.
    pub bridge: BridgeName,
    /// What people wrote about it.
    pub description: Option<String>,
}

/// The settings of a template that boots what disko lays out: UEFI without keys enrolled beforehand (an
/// unsigned NixOS would not start), a serial console as cloud images want it, the guest agent.
pub fn settings(recipe: &Recipe, marker: &Marker) -> Vec<(&'static str, String)> {
    let Recipe { name, storage, image, bridge, description } = recipe;
    let description = match description {
        Some(text) => format!("{text}\n\n{marker}"),
        None => marker.to_string(),
    };
    let mut settings = create::machine(storage, image);
    settings.extend([
        ("name", name.to_string()),
        ("description", description),
        ("cores", "2".to_owned()),
        ("memory", "2048".to_owned()),
        ("net0", format!("virtio,bridge={bridge}")),
        ("vga", "serial0".to_owned()),
    ]);
    settings
}

/// What is there where the template should be.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A template that boots what disko lays out.
    Ready,
    /// A VM that a run of ours made and did not turn into a template.
    Unfinished,
    /// A VM that is locked by this, and ours; or one that says no more than that it is being created.
    Locked(String),
}

/// Looks at the VMID. What is neither ours nor a fitting template is a conflict that says what it lacks.
pub fn look(cluster: &Cluster, permit: &Permit, name: &VmName, deadline: Deadline) -> Result<Found> {
    match cluster.on(permit.vmid(), |node| config::read(node, permit.vmid(), deadline)) {
        Ok(config) => judge(&config, name),
        Err(e) if e.kind() == Kind::NotFound => Ok(Found::Nothing),
        Err(e) => Err(e),
    }
}

/// As [`look`], once no task works on the VM any more; which one is waited for goes to `say`. While a VM is being
/// created its configuration does not say whose it will be: only then it is seen.
pub fn settled(
    cluster: &Cluster,
    permit: &Permit,
    name: &VmName,
    deadline: Deadline,
    say: &mut dyn FnMut(&str),
    progress: Progress<'_>,
) -> Result<Found> {
    let vmid = permit.vmid();
    let mut alone = 0;
    loop {
        let lock = match look(cluster, permit, name, deadline)? {
            Found::Locked(lock) => lock,
            found => return Ok(found),
        };
        let waited = cluster.on(vmid, |node| {
            let at = node.name(deadline)?;
            let Some(upid) = tasks::behind_lock(&node.api, at, vmid, &lock, deadline)? else {
                return Ok(Some(at.clone()));
            };
            say(&format!("VM {vmid} is locked ({lock}) by a task that goes on; waiting for it: {upid}"));
            match tasks::follow(&node.api, &upid, &format!("work on VM {vmid}"), deadline, progress) {
                // What its failure left is seen next.
                Err(e) if !e.may_go_on() => node.ui.detail(e.chain()),
                other => other?,
            }
            Ok(None)
        });
        match waited {
            Ok(None) => alone = 0,
            // Removed meanwhile.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
            // It may have ended between the two looks.
            Ok(Some(_)) if alone < 3 => {
                alone += 1;
                deadline.check(format_args!("the lock '{lock}' of VM {vmid}"))?;
                deadline.sleep(Duration::from_millis(200));
            }
            Ok(Some(node)) => {
                let taken = Error::conflict(format!("VMID {vmid} is taken by a VM that is locked ({lock})"));
                return Err(
                    tasks::orphaned(taken, &node, vmid, &lock).hint("then run the same command again")
                );
            }
        }
    }
}

fn judge(config: &VmConfig, name: &VmName) -> Result<Found> {
    let vmid = config.vmid;
    let setting = |key: &str| config.settings.get(key).map_or("", String::as_str);
    let ours = config.marker.as_ref().is_some_and(|marker| marker.name == *name);
    if setting("template") != "1" {
        let unsaid = setting("lock") == "create" && setting("name").is_empty();
        match setting("lock") {
            "" if ours => return Ok(Found::Unfinished),
            lock if !lock.is_empty() && (ours || unsaid) => return Ok(Found::Locked(lock.to_owned())),
            _ => {}
        }
        return Err(Error::conflict(format!("VMID {vmid} is taken by the VM '{}'", setting("name")))
            .now("it is no template, and nothing proves that it is ours")
            .hint(again::ops(format_args!("config {vmid}"))));
    }
    let lacks: Vec<&str> = [
        (setting("bios") == "ovmf", "UEFI (bios: ovmf)"),
        (!setting("efidisk0").is_empty(), "an EFI disk"),
        (
            !setting("efidisk0").contains("pre-enrolled-keys=1"),
            "an EFI disk without keys enrolled beforehand",
        ),
        (!setting("scsi0").is_empty(), "a disk at scsi0"),
    ]
    .into_iter()
    .filter_map(|(fits, what)| (!fits).then_some(what))
    .collect();
    if lacks.is_empty() {
        return Ok(if ours && is_half(config) { Found::Unfinished } else { Found::Ready });
    }
    Err(Error::conflict(format!(
        "VM {vmid} is a template already, and one that does not boot what disko lays out"
    ))
    .now(format!("it lacks: {}", lacks.join(", ")))
    .hint("take another VMID for the new template, and write it into the definitions"))
}

/// Makes the VM of a recipe; it is no template yet.
pub fn create(
    node: &Node,
    permit: &Permit,
    recipe: &Recipe,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<()> {
    let vmid = permit.vmid();
    if permit.operation() != Operation::Template {
        return Err(Error::refused(format!(
            "refused to create VM {vmid}: the guard gave no leave for a template"
        )));
    }
    let name = node.name(deadline)?.clone();
    let marker = Marker::fresh(&recipe.name, vmid)?;
    let made = create::Formats::default().put(node, settings(recipe, &marker), deadline);
    let call = Call::create(permit, &name, &made);
    create::run(node, permit, &call, (&recipe.storage, &marker), deadline, progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::types::Vmid;

    fn config(settings: &[(&str, &str)]) -> VmConfig {
        let vmid = Vmid::new(9002).unwrap();
        let settings: std::collections::BTreeMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let marker = settings.get("description").and_then(|d| Marker::find(d));
        VmConfig { vmid, node: "prom".parse().unwrap(), settings, digest: String::new(), marker, mac: None }
    }

    #[test]
    fn a_recipe_is_a_template_that_fits() {
        let recipe = Recipe {
            name: "tmpl".parse().unwrap(),
            storage: "nvmeprom".parse().unwrap(),
            image: "local:import/debian-13.qcow2".into(),
            bridge: "vmbr0".parse().unwrap(),
            description: Some("Debian".into()),
        };
        let marker = Marker::fresh(&recipe.name, Vmid::new(9002).unwrap()).unwrap();
        let mut made = settings(&recipe, &marker);
        let pairs = |made: &[(&'static str, String)]| {
            let pairs: Vec<(&str, &str)> = made.iter().map(|(k, v)| (*k, v.as_str())).collect();
            config(&pairs)
        };
        assert_eq!(judge(&pairs(&made), &recipe.name).unwrap(), Found::Unfinished);
        made.push(("lock", "backup".into()));
        assert_eq!(judge(&pairs(&made), &recipe.name).unwrap(), Found::Locked("backup".into()));
        assert_eq!(
            judge(&config(&[("lock", "create")]), &recipe.name).unwrap(),
            Found::Locked("create".into())
        );
        made.pop();
        made.push(("template", "1".into()));
        assert_eq!(judge(&pairs(&made), &recipe.name).unwrap(), Found::Ready);
        // Killed between its disks.
        made.retain(|(key, _)| !matches!(*key, "scsi0" | "efidisk0"));
        made.push(("efidisk0", "lvm:base-9002-disk-0,size=4M".into()));
        made.push(("scsi0", "lvm:vm-9002-disk-1,size=2G".into()));
        assert_eq!(judge(&pairs(&made), &recipe.name).unwrap(), Found::Unfinished);
    }

    #[test]
    fn what_does_not_fit_is_a_conflict() {
        let name = "tmpl".parse().unwrap();
        let seabios = judge(&config(&[("template", "1"), ("scsi0", "a:b,size=2G")]), &name).unwrap_err();
        assert_eq!(seabios.kind(), Kind::Conflict);
        assert_eq!(seabios.facts(), ["it lacks: UEFI (bios: ovmf), an EFI disk"]);
        let keys =
            [("template", "1"), ("bios", "ovmf"), ("efidisk0", "a:b,pre-enrolled-keys=1"), ("scsi0", "a:c")];
        assert!(judge(&config(&keys), &name).unwrap_err().facts()[0].contains("without keys enrolled"));
        for stranger in [&[("name", "stranger")][..], &[("name", "stranger"), ("lock", "create")]] {
            assert_eq!(judge(&config(stranger), &name).unwrap_err().kind(), Kind::Conflict);
        }
        assert_eq!(judge(&config(&[("lock", "clone")]), &name).unwrap_err().kind(), Kind::Conflict);
    }
}
