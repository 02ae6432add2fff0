//! From a request to its answer.

use std::{collections::BTreeMap, time::Duration};

use fleet_core::{
    Error, Kind, Result, again,
    deadline::Deadline,
    guard::{Guard, Operation, Permit},
    protocol::{NewDisk, Op, UploadPlace, UploadedImage},
    types::{NodeName, Vmid},
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::call::{Call, SnapshotName},
    cluster::Cluster,
    context::{Context, read_deadline},
    keys,
    ops::{
        address, agent, backup, clone, config, configs, create, destroy, disk, host, in_use, power,
        remainder, resize, snapshot, snippet, template, upload,
    },
};

/// What a worker serves requests with.
pub(super) struct Server<'a> {
    pub(super) cx: &'a Context,
    pub(super) cluster: &'a Cluster,
    pub(super) guard: Guard<'a>,
    pub(super) wait: u64,
}

impl Server<'_> {
    /// The guard's leave, where a request needs one. Nothing is sent for what it refuses.
    fn permit(&self, op: &Op) -> Result<Option<Permit>> {
        let (vmid, operation, verb) = match op {
            Op::Show { request, .. } => return self.permit(request),
            Op::Clone(request) => {
                self.guard.source(request.template)?;
                (request.vmid, Operation::Create, "clone into")
            }
            Op::Create(request) => (request.vmid, Operation::Create, "create"),
            Op::Configure { vmid, .. } => (*vmid, Operation::Change, "configure"),
            Op::GiveDocuments { vmid, .. } | Op::RemoveDocuments { vmid } => {
                (*vmid, Operation::Change, "set cloud-init of")
            }
            Op::Resize { vmid, .. } => (*vmid, Operation::Change, "resize a disk of"),
            Op::CreateDisk { vmid, .. } => (*vmid, Operation::Change, "create a disk of"),
            Op::Start { vmid } => (*vmid, Operation::Change, "start"),
            Op::Stop { vmid } => (*vmid, Operation::Change, "stop"),
            Op::Shutdown { vmid, .. } => (*vmid, Operation::Change, "shut down"),
            Op::Reboot { vmid, .. } => (*vmid, Operation::Change, "reboot"),
            Op::Destroy { vmid, .. } => (*vmid, Operation::Destroy, "destroy"),
            Op::RemoveRemainder { vmid, .. } => {
                // The same leave as for making it: what is removed never was a VM.
                (*vmid, Operation::Create, "remove the remainder of")
            }
            Op::Template { vmid } => (*vmid, Operation::Template, "make a template of"),
            Op::Backup { vmid, .. } => (*vmid, Operation::Change, "back up"),
            Op::Snapshot { vmid, .. } => (*vmid, Operation::Change, "take a snapshot of"),
            Op::Rollback { vmid, .. } => (*vmid, Operation::Change, "roll back"),
            Op::DeleteSnapshot { vmid, .. } => (*vmid, Operation::Change, "delete a snapshot of"),
            Op::Exec { vmid, .. } => (*vmid, Operation::Change, "run a command in"),
            Op::Node
            | Op::Resources
            | Op::Configs
            | Op::Nodes
            | Op::Config { .. }
            | Op::Status { .. }
            | Op::Storages { .. }
            | Op::Bridges { .. }
            | Op::AddressHolder { .. }
            | Op::Snapshots { .. }
            | Op::NextVmid { .. }
            | Op::UploadPlace { .. }
            | Op::Upload { .. }
            | Op::RemoveUpload { .. }
            | Op::Address { .. }
            | Op::HostKey { .. }
            | Op::CloudInitEnded { .. } => return Ok(None),
        };
        self.guard.permit(vmid, operation, verb).map(Some)
    }

    /// Serves a request; gives the result as the text that is sent.
    pub(super) fn serve(&self, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Box<RawValue>> {
        match self.permit(op)? {
            Some(permit) => self.change(op, &permit, progress),
            None => self.read(op, progress),
        }
    }

    fn read(&self, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Box<RawValue>> {
        let cluster = self.cluster;
        match op {
            Op::Node => json(&host::info(&*cluster.base()?, read_deadline())?),
            Op::Resources => json(&cluster.rows(read_deadline())?.json()?),
            Op::Nodes => json(&host::nodes(cluster, read_deadline())?),
            Op::Configs => json(&configs::all(cluster, read_deadline())?),
            Op::Config { vmid } => {
                json(&cluster.on(*vmid, |node| config::read(node, *vmid, read_deadline()))?)
            }
            Op::Status { vmid } => {
                json(&cluster.on(*vmid, |node| power::status(node, *vmid, read_deadline()))?)
            }
            Op::Storages { node } => json(&host::storages(&*self.place(node.as_ref())?, read_deadline())?),
            Op::AddressHolder { address, node } => {
                let deadline = Deadline::after(in_use::LIMIT);
                json(&in_use::holder(&*self.place(node.as_ref())?, *address, deadline, progress)?)
            }
            Op::Bridges { node } => json(&host::bridges(&*self.place(node.as_ref())?, read_deadline())?),
            Op::Snapshots { vmid } => {
                json(&cluster.on(*vmid, |node| snapshot::list(node, *vmid, read_deadline()))?)
            }
            Op::NextVmid { start, end } => {
                let (first, last) = host::range(&self.cx.definitions, *start, *end)?;
                json(&host::next_vmid(
                    &self.cx.definitions,
                    &cluster.resources(read_deadline())?,
                    first,
                    last,
                )?)
            }
            Op::Address { vmid, timeout } => {
                let fixed = address::fixed(&self.cx.definitions).get(vmid).copied();
                let deadline = Deadline::secs(*timeout);
                json(&cluster.on(*vmid, |node| address::find(node, *vmid, fixed, deadline, progress))?)
            }
            Op::HostKey { vmid, timeout } => {
                let deadline = Deadline::secs(*timeout);
                json(&cluster.on(*vmid, |node| agent::host_key(node, *vmid, deadline))?)
            }
            Op::CloudInitEnded { vmid } => {
                json(&cluster.on(*vmid, |node| agent::cloud_init_ended(node, *vmid))?)
            }
            Op::UploadPlace { node } => {
                let node = self.place(node.as_ref())?;
                let available = upload::room(&*node.api.transport())?;
                json(&UploadPlace { available, root: node.api.is_root() })
            }
            Op::Upload { file, nonce, node } => {
                let node = self.place(node.as_ref())?;
                let uploaded = upload::image(
                    &*node.api.transport(),
                    file,
                    upload::Stay::Named(nonce.as_deref()),
                    progress,
                )?;
                json(&UploadedImage { path: uploaded.path })
            }
            Op::RemoveUpload { path, node } => {
                let node = self.place(node.as_ref())?;
                upload::Uploaded::named(path)?.remove(&*node.api.transport())?;
                json(&())
            }
            Op::Show { .. } => Err(Error::usage("only a change can be shown")),
            _ => Err(Error::usage("a request that this program does not know")),
        }
    }

    fn place(&self, node: Option<&NodeName>) -> Result<std::rc::Rc<crate::node::Node>> {
        node.map_or_else(|| self.cluster.base(), |name| self.cluster.node(name))
    }

    fn change(&self, op: &Op, permit: &Permit, progress: &mut dyn FnMut(&str)) -> Result<Box<RawValue>> {
        let (cluster, vmid, deadline) = (self.cluster, permit.vmid(), Deadline::secs(self.wait));
        let mut power =
            |action: power::Action| power::act(cluster, permit, action, deadline, progress).map(drop);
        match op {
            Op::Show { request, after, node } => {
                return json(&self.shown(request, after.as_deref(), node.as_ref(), permit)?);
            }
            Op::Start { .. } => power(power::Action::Start)?,
            Op::Stop { .. } => power(power::Action::Stop)?,
            Op::Shutdown { timeout, force, .. } => {
                power(power::Action::Shutdown { timeout: *timeout, force: *force })?;
            }
            Op::Reboot { timeout, .. } => power(power::Action::Reboot { timeout: *timeout })?,
            Op::Clone(request) => {
                let mut request = request.clone();
                request.node = request.node.or_else(|| self.cx.wanted_node(vmid));
                let source = self.guard.source(request.template)?;
                clone::clone(cluster, (&source, permit), &request, deadline, progress)?;
            }
            Op::Create(request) => {
                let place = request.node.clone().or_else(|| self.cx.wanted_node(vmid));
                create::create(&*self.place(place.as_ref())?, permit, request, deadline, progress)?;
            }
            Op::Configure { settings, delete, digest, .. } => {
                let settings = normalised(settings)?;
                let digest = digest.as_deref();
                cluster.on(vmid, |node| {
                    config::change(node, permit, &settings, delete, digest, deadline, progress)
                })?;
            }
            Op::GiveDocuments { documents, settings, .. } => {
                let settings = normalised(settings)?;
                let volumes = cluster.on(vmid, |node| {
                    snippet::give_or_not(node, permit, documents, &settings, deadline, progress)
                })?;
                return json(&volumes);
            }
            Op::RemoveDocuments { .. } => {
                return json(&cluster.on(vmid, |node| snippet::remove(node, permit, deadline, progress))?);
            }
            Op::Resize { disk, size, .. } => {
                cluster.on(vmid, |node| resize::grow(node, permit, disk, *size, deadline, progress))?;
            }
            Op::CreateDisk { size, storage, disk, .. } => {
                let disk = cluster.on(vmid, |node| {
                    disk::create(node, permit, (*size, storage), disk.as_ref(), deadline, progress)
                })?;
                return json(&NewDisk { disk });
            }
            Op::Template { .. } => {
                cluster.on(vmid, |node| template::convert(node, permit, deadline, progress))?;
            }
            Op::Destroy { marker, stop, .. } => {
                let there = cluster.on(vmid, |node| config::read(node, vmid, deadline))?;
                if there.marker.as_ref() != Some(marker) {
                    return Err(Error::refused(format!(
                        "refused to destroy VM {vmid}: it does not carry the marker that the request names"
                    ))
                    .now("nothing was changed")
                    .hint(again::ops(format_args!("config {vmid}"))));
                }
                destroy::destroy(cluster, permit, &there, *stop, deadline, progress)?;
            }
            Op::Backup { storage, mode, notes, timeout, .. } => {
                let notes = notes.as_deref().unwrap_or_default().parse()?;
                let (wanted, deadline) = ((storage.as_ref(), *mode, &notes), Deadline::secs(*timeout));
                return json(
                    &cluster.on(vmid, |node| backup::make(node, permit, wanted, deadline, progress))?,
                );
            }
            Op::RemoveRemainder { task, .. } => {
                let task = task.parse()?;
                cluster.on(vmid, |node| remainder::remove(node, permit, &task, deadline, progress))?;
            }
            Op::Snapshot { name, description, memory, .. } => {
                let action = snapshot::Action::Take { description: description.clone(), memory: *memory };
                self.snapshot(permit, name, &action, deadline, progress)?;
            }
            Op::Rollback { name, start, .. } => {
                let action = snapshot::Action::Rollback { start: *start };
                self.snapshot(permit, name, &action, deadline, progress)?;
            }
            Op::DeleteSnapshot { name, .. } => {
                self.snapshot(permit, name, &snapshot::Action::Delete, deadline, progress)?;
            }
            Op::Exec { command, timeout, .. } => {
                agent::check_words(command)?;
                return json(&agent::run(cluster, permit, command, Deadline::secs(*timeout))?);
            }
            _ => return Err(Error::usage("a request that this program does not know")),
        }
        json(&())
    }

    /// The calls that a change is made with, as `--dry-run` shows them; `after` is made before.
    fn shown(
        &self,
        op: &Op,
        after: Option<&Op>,
        place: Option<&NodeName>,
        permit: &Permit,
    ) -> Result<Vec<String>> {
        let vmid = permit.vmid();
        let home = |vmid: Vmid| -> Result<NodeName> {
            Ok(match self.cluster.resource(vmid)? {
                Some(there) => there.node,
                None => match place.cloned().or_else(|| self.cx.wanted_node(vmid)) {
                    Some(wanted) => wanted,
                    None => self.cluster.base()?.name(read_deadline())?.clone(),
                },
            })
        };
        let mut shown = Vec::new();
        let call = match op {
            Op::Clone(request) => {
                let from = home(request.template)?;
                let to = request.node.clone().or_else(|| self.cx.wanted_node(vmid));
                let to = to.filter(|to| *to != from);
                Call::clone_vm(permit, &from, request, to.as_ref())
            }
            Op::Create(request) => {
                let place = request.node.clone().or_else(|| self.cx.wanted_node(vmid));
                create::call(permit, self.place(place.as_ref())?.name(read_deadline())?, request)
            }
            Op::Configure { settings, delete, digest, .. } => {
                let settings = normalised(settings)?;
                let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                Call::configure(permit, &home(vmid)?, pairs, delete, digest.as_deref())
            }
            Op::GiveDocuments { documents, settings, .. } => {
                let home = home(vmid)?;
                let node = self.place(Some(&home))?;
                let settings = normalised(settings)?;
                let (files, settings) = snippet::shown(&node, vmid, documents, &settings, read_deadline())?;
                shown.extend(files);
                let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                Call::configure(permit, &home, pairs, &[], None)
            }
            Op::RemoveDocuments { .. } => {
                let home = home(vmid)?;
                let node = self.place(Some(&home))?;
                let settings = match after {
                    Some(Op::GiveDocuments { vmid: given, documents, settings }) if *given == vmid => {
                        snippet::shown(&node, vmid, documents, settings, read_deadline())?.1
                    }
                    _ => config::read(&node, vmid, read_deadline())?.settings,
                };
                let cicustom = settings.get("cicustom").map_or("", String::as_str);
                let (commands, change) = snippet::removal_shown(&node, vmid, cicustom, read_deadline())?;
                if let Some((settings, deleted)) = change {
                    let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                    shown.push(Call::configure(permit, &home, pairs, &deleted, None).to_string());
                }
                shown.extend(commands);
                return Ok(shown);
            }
            Op::Resize { disk, size, .. } => Call::resize(permit, &home(vmid)?, disk, *size, None),
            Op::Start { .. } => Call::power(permit, &home(vmid)?, "start", &[]),
            Op::Stop { .. } => Call::power(permit, &home(vmid)?, "stop", &[]),
            Op::Destroy { stop, .. } => {
                let files = self.cluster.on(vmid, |node| {
                    let there = config::read(node, vmid, read_deadline())?;
                    if destroy::is_up(node, vmid, *stop, read_deadline())? {
                        let off = power::Action::Stop.call(permit, node.name(read_deadline())?);
                        shown.push(off.to_string());
                    }
                    shown.push(destroy::call(node, permit, &there, read_deadline())?.0.to_string());
                    let cicustom = there.settings.get("cicustom").map_or("", String::as_str);
                    snippet::files_removal_shown(node, cicustom, vmid, read_deadline())
                })?;
                shown.extend(files);
                return Ok(shown);
            }
            Op::Backup { storage, mode, notes, .. } => {
                let notes = notes.as_deref().unwrap_or_default().parse()?;
                let wanted = (storage.as_ref(), *mode, &notes);
                self.cluster.on(vmid, |node| Ok(backup::plan(node, permit, wanted, read_deadline())?.0))?
            }
            Op::RemoveRemainder { task, .. } => self.cluster.on(vmid, |node| {
                let there = config::read(node, vmid, read_deadline())?;
                Ok(remainder::call(node, permit, &there, &task.parse()?, read_deadline())?.0)
            })?,
            _ => return Err(Error::usage("only a change can be shown")),
        };
        shown.push(call.to_string());
        Ok(shown)
    }

    fn snapshot(
        &self,
        permit: &Permit,
        name: &str,
        action: &snapshot::Action,
        deadline: Deadline,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let name: SnapshotName = name.parse()?;
        snapshot::act(self.cluster, permit, &name, action, deadline, progress).map(drop)
    }
}

/// Settings with their keys as Proxmox takes them.
fn normalised(settings: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut settings = settings.clone();
    if let Some(keys) = settings.get_mut("sshkeys") {
        *keys = keys::normalise(keys)?;
    }
    Ok(settings)
}

fn json(value: &impl Serialize) -> Result<Box<RawValue>> {
    to_raw_value(value).map_err(|e| Error::failed("can not write an answer").caused_by(e))
}

/// Whether a way that was lost is worth making anew.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unreachable | Kind::OutcomeUnknown)
}

/// How often those who wait look around.
pub(super) const LOOK: Duration = Duration::from_millis(100);
