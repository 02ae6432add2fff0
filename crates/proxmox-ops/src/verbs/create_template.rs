//! `proxmox-ops create-template`

use std::path::PathBuf;

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    definitions::Entry,
    guard::{Operation, Permit},
    interrupt,
    types::{BridgeName, StorageId, VmName, VmRef},
};

use crate::{
    api::call::Call,
    cluster::Cluster,
    context::{ChangeOptions, Context},
    ops::{
        image,
        template::{self, Found, Recipe},
        upload::{self, Stay},
    },
};

/// Make a template of a cloud image, fit for NixOS: UEFI, serial console, guest agent
///
/// A fitting template that is there already is left alone, and a run that died is finished.
#[derive(Debug, Args)]
#[group(id = "source", required = true, multiple = false, args = ["image", "import"])]
pub struct CreateTemplate {
    /// VMID, or name of the template in the definitions
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// A cloud image here: qcow2 or raw
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A volume of a storage of the node, such as local:import/debian-13.qcow2
    #[arg(long, value_name = "VOLID", value_parser = volume)]
    import: Option<String>,
    /// Name of the template [default: the definitions']
    #[arg(long, value_name = "NAME")]
    name: Option<VmName>,
    /// Storage for its disks [default: the definitions' default]
    #[arg(long, value_name = "STORAGE")]
    storage: Option<StorageId>,
    /// Bridge of its network card
    #[arg(long, value_name = "BRIDGE", default_value = "vmbr0")]
    bridge: BridgeName,
    #[command(flatten)]
    options: ChangeOptions,
}

/// A volume's name: a storage, a colon, a path of harmless characters.
pub(super) fn volume(text: &str) -> Result<String> {
    let fits = |path: &str| {
        !path.is_empty()
            && !path.starts_with('/')
            && !path.split('/').any(|part| part.is_empty() || part == "..")
            && path
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'+' | b':'))
    };
    // A backup server's volumes have times, and so colons, in their names.
    match text.split_once(':') {
        Some((storage, path)) if storage.parse::<StorageId>().is_ok() && fits(path) => Ok(text.to_owned()),
        _ => Err(Error::usage(format!(
            "'{}' is not a valid volume: STORAGE:PATH, such as local:import/debian-13.qcow2",
            text.escape_debug()
        ))),
    }
}

impl CreateTemplate {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Template, "create a template at")?;
        let vmid = permit.vmid();
        let defined = match cx.definitions.by_vmid(vmid) {
            Some(Entry::Template(template)) => Some(template),
            _ => None,
        };
        let name = match (&self.name, defined) {
            (Some(name), _) => name.clone(),
            (None, Some(template)) => template.name.parse()?,
            (None, None) => {
                return Err(Error::usage(format!("the template {vmid} has no name"))
                    .now("nothing was sent to the node")
                    .hint("give --name NAME"));
            }
        };
        super::clone::name_is_free(&cx.definitions, vmid, &name)?;
        let permit = permit.for_template_called(&name);
        let storage = super::cloudinit_drive::storage_for(cx, &permit, self.storage.as_ref())?;
        let mut recipe = Recipe {
            name,
            storage,
            image: self.import.clone().unwrap_or_default(),
            bridge: self.bridge.clone(),
            description: defined.and_then(|template| template.description.clone()),
        };
        if let Some(file) = &self.image {
            image::open(file)?;
        }
        if self.options.change.dry_run {
            if let Some(file) = &self.image {
                cx.ui.say(format!("{} would be sent into /var/tmp on the node first.", file.display()));
                recipe.image = "/var/tmp/fleet-image-….qcow2".to_owned();
            }
            let marker = fleet_core::protocol::Marker::fresh(&recipe.name, vmid)?;
            let node = cx.node_name()?;
            let create = Call::create(&permit, &node, &template::settings(&recipe, &marker));
            return cx.show(&[create, Call::template(&permit, &node)]);
        }
        let cluster = cx.connect()?;
        // Each part has all of the time: how long sending an image takes depends on the line here.
        let look = || {
            let mut say = |line: &str| cx.ui.step(line);
            let deadline = self.options.deadline();
            template::settled(&cluster, &permit, &recipe.name, deadline, &mut say, &mut cx.progress())
        };
        let mut found = look()?;
        if found == Found::Nothing {
            self.make(cx, &cluster, &permit, recipe.clone()).or_else(|error| {
                // Another run, or one that was killed, may have been faster.
                if error.kind() != Kind::Conflict {
                    return Err(error);
                }
                found = look()?;
                if found == Found::Nothing { Err(error) } else { Ok(()) }
            })?;
        }
        match found {
            Found::Ready => {
                let text = format!("VM {vmid} is a fitting template already");
                return cx.changed(vmid, false, "", &text);
            }
            Found::Unfinished => cx.ui.step(format!("VM {vmid} was made by a run before; finishing it...")),
            Found::Nothing | Found::Locked(_) => {}
        }
        let deadline = self.options.deadline();
        cluster.on(vmid, |node| template::convert(node, &permit, deadline, &mut cx.progress()))?;
        cx.changed(vmid, true, &format!("VM {vmid} '{}' is a template now", recipe.name), "")
    }

    /// Makes the VM.
    fn make(&self, cx: &Context, cluster: &Cluster, permit: &Permit, mut recipe: Recipe) -> Result<()> {
        let node = cluster.base()?;
        let mut uploaded = None;
        if let Some(file) = &self.image {
            cx.ui.step(format!("Sending {} to the node...", file.display()));
            let stay = Stay::For(permit.vmid());
            let sent = upload::image(&*node.api.transport(), file, stay, &mut cx.progress())?;
            recipe.image.clone_from(&sent.path);
            uploaded = Some(sent);
        }
        let mut begun = false;
        let made = interrupt::check().and_then(|()| {
            cx.ui.step(format!("Creating VM {} '{}' from the image...", permit.vmid(), recipe.name));
            begun = true;
            template::create(&node, permit, &recipe, self.options.deadline(), &mut cx.progress())
        });
        let made = match (made, &uploaded) {
            // What holds it on the node waits for the VM, and removes it then.
            (Err(error), Some(sent)) if begun && error.may_go_on() => {
                let stays = "the image stays on the node while a VM is made of it, and goes then";
                return Err(error.now(format!("{stays}: {}", sent.path)));
            }
            (made, _) => made,
        };
        let removed = uploaded.map_or(Ok(()), |mut sent| sent.remove(&*node.api.transport()));
        made?;
        if let Err(e) = removed {
            cx.ui.warn(e.chain());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_checked() {
        for good in [
            "local:import/debian-13.qcow2",
            "nvmeprom:9000/vm-9000-disk-0.raw",
            "a1:x",
            "pbs:backup/vm/110/2026-01-16T16:26:33Z",
        ] {
            assert_eq!(volume(good).unwrap(), good);
        }
        for bad in [
            "",
            "x",
            "/etc/passwd",
            "local:",
            "local:/x",
            "local:../x",
            "local:a//b",
            "local:a b",
            "local:$(x)",
            "l,x=y:z",
            "local:x,y=z",
        ] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }
}
