//! `proxmox-ops cloudinit-config`

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use fleet_core::{
    Error, Result, again,
    definitions::{Addressing, Entry, ManagedVm},
    guard::{Operation, Permit},
    protocol::{CLOUDINIT_DONE, Document, cloudinit_is_done},
    types::{StorageId, UserName, VmName, VmRef},
};

use crate::{
    api::call::Call,
    context::{ChangeOptions, Context, read_deadline},
    keys,
    node::Node,
    ops::{self, snippet},
};

/// Set what cloud-init gives a VM: SSH keys, login, address, host name
///
/// The address is the definition's (DHCP where there is none). Give it before the first start: a later change
/// makes cloud-init run again as on a new machine.
///
/// Documents of one's own, for what no setting says, become files on the node that only root can read. They must be
/// there at every start of the VM, and are taken away with --no-documents, which needs no keys.
#[derive(Debug, Args)]
#[group(id = "documents", multiple = true, args = ["user_data", "network_config", "meta_data", "vendor_data"])]
pub struct CloudinitConfig {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// SSH public keys, one a line: as text, @FILE, or - for standard input
    #[arg(value_name = "SSH_KEYS", required_unless_present = "no_documents")]
    keys: Option<String>,
    /// Host name; Proxmox takes the VM's name for it
    hostname: Option<VmName>,
    /// Login that gets the keys
    #[arg(long, value_name = "NAME", default_value = "root", requires = "keys")]
    login: UserName,
    /// user-data in place of Proxmox's own, which its settings then say nothing of: a file, or - for standard input
    #[arg(long, value_name = "FILE", help_heading = "Documents")]
    user_data: Option<PathBuf>,
    /// network-config in place of Proxmox's own
    #[arg(long, value_name = "FILE", help_heading = "Documents")]
    network_config: Option<PathBuf>,
    /// meta-data in place of Proxmox's own
    #[arg(long, value_name = "FILE", help_heading = "Documents")]
    meta_data: Option<PathBuf>,
    /// vendor-data, of which Proxmox makes none
    #[arg(long, value_name = "FILE", help_heading = "Documents")]
    vendor_data: Option<PathBuf>,
    /// Storage for these documents [default: the first that takes snippets]
    #[arg(long, value_name = "STORAGE", help_heading = "Documents", requires = "documents")]
    snippets: Option<StorageId>,
    /// Take documents that were given this way away again, files and setting; with SSH_KEYS, set these too
    #[arg(long, help_heading = "Documents", conflicts_with = "documents")]
    no_documents: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl CloudinitConfig {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "set cloud-init of")?;
        let documents = self.documents()?;
        let Some(keys) = &self.keys else { return self.take_away(cx, &permit) };
        let keys = keys::read(keys)?;
        let count = keys.lines().count();
        let mut settings =
            vec![("ciuser", self.login.to_string()), ("sshkeys", keys), ("ciupgrade", "0".to_owned())];
        match cx.definitions.by_vmid(permit.vmid()) {
            Some(Entry::Managed(vm)) => settings.extend(addressing(vm)),
            _ => settings.push(("ipconfig0", "ip=dhcp".to_owned())),
        }
        if let Some(hostname) = &self.hostname {
            super::clone::name_is_free(&cx.definitions, permit.vmid(), hostname)?;
            settings.push(("name", hostname.to_string()));
        }
        let done = format!("VM {}: cloud-init gives {} key(s) to {}", permit.vmid(), count, self.login);
        let nothing = format!("{done} already");
        if documents.is_empty() && !self.no_documents {
            let check = |node: &Node| {
                self.leaves_it_ours(node, &permit)?;
                self.is_read(cx, node, &permit)
            };
            return super::configure(cx, &permit, &self.options, &settings, (&done, &nothing), &check);
        }
        let settings: BTreeMap<String, String> =
            settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if self.options.change.dry_run {
            return self.show(cx, &permit, settings, &documents);
        }
        let (cluster, deadline) = (cx.connect()?, self.options.deadline());
        let (volumes, changed) = cluster.on(permit.vmid(), |node| {
            self.leaves_it_ours(node, &permit)?;
            if documents.is_empty() {
                self.is_read(cx, node, &permit)?;
                let set =
                    ops::config::set(node, &permit, &settings, deadline, &mut cx.progress())?;
                let removed = snippet::remove(node, &permit, deadline, &mut cx.progress())?;
                return Ok((Vec::new(), set || removed));
            }
            let places = snippet::places(node, self.snippets.as_ref(), deadline)?;
            if places.is_empty() {
                return Err(Error::failed("no storage of the node takes snippets").now("nothing was changed").hint(
                    "`pvesm set local --content iso,vztmpl,backup,snippets` on the node lets 'local' take them",
                ));
            }
            self.is_read(cx, node, &permit)?;
            let progress = &mut cx.progress();
            let given = snippet::give(node, &permit, &places, &documents, &settings, deadline, progress)?;
            Ok((given.volumes, given.changed))
        })?;
        if volumes.is_empty() {
            cx.ui.done("No document of ours is on the node any more");
        }
        for volume in volumes {
            cx.ui.done(format!("{volume} is on the node, for root alone"));
        }
        cx.changed(permit.vmid(), changed, &done, &nothing)
    }

    /// Takes the documents away and changes nothing else: right also where cloud-init has done its part.
    fn take_away(&self, cx: &Context, permit: &Permit) -> Result<()> {
        let vmid = permit.vmid();
        if self.options.change.dry_run {
            return self.show(cx, permit, BTreeMap::new(), &BTreeMap::new());
        }
        let (cluster, deadline) = (cx.connect()?, self.options.deadline());
        let changed = cluster.on(vmid, |node| {
            let nothing: [(&str, &str); 0] = [];
            let call = Call::configure(permit, node.name(deadline)?, nothing, &["cicustom".to_owned()], None);
            // Before the files go, too.
            node.api.prove_ours(permit, &call, deadline)?;
            if let (true, true) = drive_and_done(node, permit)? {
                warn_of_new_keys(cx, permit);
            }
            snippet::remove(node, permit, deadline, &mut cx.progress())
        })?;
        let done = format!("VM {vmid}: no document of ours is on the node any more");
        cx.changed(vmid, changed, &done, &done)
    }

    /// The host name becomes the VM's name: where that alone proves whose it is, nothing could be changed any more.
    fn leaves_it_ours(&self, node: &Node, permit: &Permit) -> Result<()> {
        let (Some(hostname), Some(name)) = (&self.hostname, permit.name()) else { return Ok(()) };
        if hostname.as_str() == name.as_str()
            || ops::config::read(node, permit.vmid(), read_deadline())?.marker.is_some()
        {
            return Ok(());
        }
        let vmid = permit.vmid();
        Err(Error::refused(format!(
            "refused to call VM {vmid} '{hostname}': only its name says that it is '{name}'"
        ))
        .now("it does not carry the marker that these tools write into every VM they make")
        .now("nothing was changed")
        .hint(format!("give no host name, or '{name}'; or --unmanaged {vmid} if you are sure it is yours")))
    }

    /// Where nothing reads the settings that is said; a VM with which cloud-init is done, and that has no drive for it
    /// any more, is left as it is: these are not the keys that are in it.
    fn is_read(&self, cx: &Context, node: &Node, permit: &Permit) -> Result<()> {
        let vmid = permit.vmid();
        match drive_and_done(node, permit)? {
            (true, false) => {}
            (true, true) => warn_of_new_keys(cx, permit),
            (false, false) => {
                cx.ui.warn(format!("VM {vmid} has no cloud-init drive: nothing reads these settings"));
                cx.ui.hint(again::change(format_args!("cloudinit-drive {vmid}")));
            }
            (false, true) => {
                return Err(Error::refused(format!(
                    "refused to set cloud-init of VM {vmid}: it has done its part there"
                ))
                .now(format!("the description says `{CLOUDINIT_DONE}`, and no cloud-init drive is left"))
                .now("nothing was changed")
                .hint("whom an installed NixOS lets in its configuration says: nixos-rebuild switch")
                .hint(format!(
                    "to begin anew with cloud-init, give it a drive first: {}",
                    again::change(format_args!("cloudinit-drive {vmid}"))
                )));
            }
        }
        Ok(())
    }

    /// The documents that are named, read and checked.
    fn documents(&self) -> Result<BTreeMap<Document, String>> {
        let named = [
            (Document::User, &self.user_data),
            (Document::Network, &self.network_config),
            (Document::Meta, &self.meta_data),
            (Document::Vendor, &self.vendor_data),
        ];
        let is_stdin = |path: &&PathBuf| path.as_os_str() == "-";
        let stdin = named.iter().filter_map(|(_, path)| path.as_ref()).filter(is_stdin).count();
        if stdin + usize::from(self.keys.as_deref() == Some("-")) > 1 {
            return Err(Error::usage("standard input can be one thing only")
                .now("nothing was sent to the node")
                .hint("give the others as files: @FILE for the keys"));
        }
        let mut documents = BTreeMap::new();
        for (document, path) in named {
            let Some(path) = path else { continue };
            let text = if is_stdin(&path) {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(path)
            };
            let text = text.map_err(|e| Error::io("read", path, e).now("nothing was sent to the node"))?;
            snippet::check(document, &text)?;
            documents.insert(document, text);
        }
        Ok(documents)
    }

    /// What would be sent; which storage takes the documents is only known from the node.
    fn show(
        &self,
        cx: &Context,
        permit: &Permit,
        mut settings: BTreeMap<String, String>,
        documents: &BTreeMap<Document, String>,
    ) -> Result<()> {
        let storage = self.snippets.as_ref().map_or("STORAGE", |storage| storage.as_str());
        let volume = |document: &Document| {
            format!("{document}={storage}:snippets/{}", snippet::name(permit.vmid(), *document))
        };
        let mut delete = Vec::new();
        let files = if documents.is_empty() {
            delete.push("cicustom".to_owned());
            format!("  then files of ours, those that there are: {}", snippet::names(permit.vmid()))
        } else {
            let custom = documents.keys().map(volume).collect::<Vec<_>>().join(",");
            settings.insert("cicustom".to_owned(), custom.clone());
            format!("  after the documents were written, each a file for root alone: {custom}")
        };
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        cx.show(&[Call::configure(permit, &cx.node_name()?, pairs, &delete, None)])?;
        cx.ui.say(files);
        Ok(())
    }
}

/// Whether a VM has a cloud-init drive, and whether its description says that cloud-init has done its part.
fn drive_and_done(node: &Node, permit: &Permit) -> Result<(bool, bool)> {
    let config = ops::config::read(node, permit.vmid(), read_deadline())?;
    let drive = config.settings.values().any(|value| ops::config::is_cloudinit(value));
    let text = config.settings.get("description").map_or("", String::as_str);
    Ok((drive, cloudinit_is_done(text)))
}

fn warn_of_new_keys(cx: &Context, permit: &Permit) {
    cx.ui.warn(format!(
        "cloud-init has done its part in VM {}: with other settings it takes the VM for a new machine at its next start, \
         which gets new host keys",
        permit.vmid()
    ));
}

/// `ipconfig0` and `nameserver` of a definition.
fn addressing(vm: &ManagedVm) -> Vec<(&'static str, String)> {
    let ipconfig = match vm.addressing {
        Addressing::Dhcp => "ip=dhcp".to_owned(),
        Addressing::Static(cidr) => {
            let (ip, gw) = if cidr.address.is_ipv4() { ("ip", "gw") } else { ("ip6", "gw6") };
            match vm.gateway {
                Some(gateway) => format!("{ip}={cidr},{gw}={gateway}"),
                None => format!("{ip}={cidr}"),
            }
        }
    };
    let mut settings = vec![("ipconfig0", ipconfig)];
    if !vm.nameservers.is_empty() {
        let servers: Vec<String> = vm.nameservers.iter().map(ToString::to_string).collect();
        settings.push(("nameserver", servers.join(" ")));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_says_the_address() {
        let mut vm = crate::testing::definitions().managed.remove(0);
        assert_eq!(addressing(&vm), [("ipconfig0", "ip=dhcp".to_owned())]);
        vm.addressing = Addressing::Static("192.0.2.10/24".parse().unwrap());
        vm.gateway = Some("192.0.2.1".parse().unwrap());
        vm.nameservers = vec!["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        assert_eq!(
            addressing(&vm),
            [
                ("ipconfig0", "ip=192.0.2.10/24,gw=192.0.2.1".to_owned()),
                ("nameserver", "192.0.2.2 2001:db8::2".to_owned())
            ]
        );
        vm.addressing = Addressing::Static("2001:db8::10/64".parse().unwrap());
        vm.gateway = None;
        assert_eq!(addressing(&vm)[0].1, "ip6=2001:db8::10/64");
    }
}
