//! Steps on the node: from the template to a started VM, and the cloud-init drive at the end.

use std::collections::BTreeMap;

use fleet_core::{
    Error, Kind, Result,
    deadline::Deadline,
    definitions::{Install, ManagedVm},
    protocol::{ClusterConfig, Document, Marker, Op, Session, VmConfig},
};

use super::{Job, Known, limit};
use crate::{
    again, differences,
    host_key::HostKey,
    plan::{self, Origin, Plan},
    settings::{self, Settings},
    state::State,
    steps::Step,
    unfinished, world,
};

impl Job<'_> {
    /// Everything up to the started VM. Gives the host key that its bootstrap system was given through cloud-init:
    /// none when it was started before, or where no storage of the node takes snippets. Its public half is noted in
    /// `state` before anything is started with it: a later run knows the machine by it, whenever this one is killed.
    pub(super) fn prepare(
        &self,
        session: &mut Session,
        plan: Plan,
        state: &mut State,
    ) -> Result<Option<HostKey>> {
        let (vm, makes, marker) = (self.vm, plan.makes(), plan.marker().clone());
        self.clone_template(session, plan)?;
        let look = |session: &mut Session| {
            world::existing(session, vm.vmid)?.ok_or_else(|| {
                Error::failed(format!("VM {} is gone", vm.vmid))
                    .hint(format!("`{}` shows what is there", again::proxmox_ops(&["list"])))
            })
        };
        let (mut config, status) = look(session)?;
        owned(vm, &config)?;
        let running = status.status == "running";
        let done = !makes && settings::cloudinit_is_done(&config.settings);
        let changes = settings::first_changes(vm, self.keys, &config.settings);
        let mut given = None;
        if running || done || vm.install == Install::Image {
            // NixOS may be on it: to change what cloud-init is told would make it a new instance.
            self.already(Step::Configure);
            if !done && !changes.is_empty() {
                let names: Vec<&str> = changes.keys().map(String::as_str).collect();
                self.ui
                    .warn(format!("what differs is left as it is while the VM runs: {}", names.join(", ")));
                self.ui.hint(format!("`{}` tells more", again::provision_vm(&["plan", vm.name.as_str()])));
            }
        } else {
            self.step(Step::Configure, "Configuring resources and networking", || {
                given = self.configure_with_host_key(session, changes)?;
                if let Some(key) = &given {
                    state.remember(&marker, key.public())?;
                }
                Ok(((), "VM configured".to_owned()))
            })?;
            config = look(session)?.0;
        }
        if running && done {
            [Step::Grow, Step::Start].into_iter().for_each(|step| self.already(step));
            return Ok(None);
        }
        let (growth, warning) = plan::growth(vm, &config.settings);
        if let Some(warning) = warning {
            self.ui.warn(warning);
        }
        match growth {
            None => self.already(Step::Grow),
            Some((disk, size)) => self.step(Step::Grow, format!("Growing {disk} to {size}"), || {
                self.change(session, Op::Resize { vmid: vm.vmid, disk, size }, limit::CHANGE)?;
                Ok(((), "Disk resized".to_owned()))
            })?,
        }
        if running {
            self.already(Step::Start);
            return Ok(given);
        }
        self.step(Step::Start, "Starting VM", || {
            self.change(session, Op::Start { vmid: vm.vmid }, limit::CHANGE)?;
            Ok((given, "VM started".to_owned()))
        })
    }

    /// Makes the VM's host key and gives it to the bootstrap system in the user-data, in one change with the
    /// settings. Without a storage for it only the settings are changed.
    fn configure_with_host_key(&self, session: &mut Session, settings: Settings) -> Result<Option<HostKey>> {
        let vmid = self.vm.vmid;
        let host_key = HostKey::generate(&self.vm.name, self.private)?;
        self.journal.hide_files(host_key.extra_files());
        let user_data = self.tools.user_data(self.vm.name.as_str(), &host_key.private_file())?;
        // What is written down is the change without the document.
        self.journal.request(&settings::configure(vmid, settings.clone()));
        let documents = BTreeMap::from([(Document::User, user_data.to_string())]);
        let op = Op::GiveDocuments { vmid, documents, settings };
        let volumes: Vec<String> = session.ask(op, Deadline::secs(limit::CHANGE), |line| {
            self.journal.progress(line);
            self.ui.tell(line);
        })?;
        if volumes.is_empty() {
            self.ui
                .detail("no storage keeps the document: the host key will be read through the guest agent");
            host_key.discard()?;
            return Ok(None);
        }
        Ok(Some(host_key))
    }

    /// Takes the document with the private key off the node again. The machine has read it, or is not there; a
    /// later start makes it Proxmox's own.
    pub(super) fn remove_documents(&self, session: &mut Session) {
        let remove = |session: &mut Session| -> Result<bool> {
            let op = Op::RemoveDocuments { vmid: self.vm.vmid };
            self.journal.ask(session, op, Deadline::secs(limit::CHANGE), self.ui)
        };
        // The conversation may be what failed: a second one is tried before anything is left behind.
        let answer = remove(session).or_else(|error| match error.kind() {
            Kind::NotFound => Err(error),
            _ => remove(&mut self.tools.session()?),
        });
        match answer {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => {
                self.ui.warn(format!(
                    "the VM's user-data, with its host key, may still be on the node: {}",
                    error.chain()
                ));
                let words = ["cloudinit-config", self.vm.name.as_str(), "--no-documents"];
                self.ui.warn(format!("run again, or: {}", again::proxmox_ops(&words)));
            }
        }
    }

    fn clone_template(&self, session: &mut Session, plan: Plan) -> Result<()> {
        let vm = self.vm;
        let request = match plan.origin {
            Origin::Clone(request) => request,
            Origin::Create(_) => return Ok(()),
            Origin::Continue(_) => {
                self.already(Step::Clone);
                return Ok(());
            }
        };
        let title = format!("Cloning template {} to VM {}", request.template, vm.vmid);
        let marker = request.marker.clone();
        self.step(Step::Clone, title, || {
            self.clear(session, plan.clear)?;
            self.change(session, Op::Clone(request), limit::CLONE)
                .or_else(|error| is_cloned(session, vm, &marker, error))?;
            self.system.set(Known::NotNixos);
            Ok(((), "VM cloned".to_owned()))
        })
    }

    /// Removes what a killed task of an earlier run left under the VM's number.
    pub(super) fn clear(&self, session: &mut Session, task: Option<String>) -> Result<()> {
        let Some(task) = task else { return Ok(()) };
        unfinished::clear(self.vm, task, |op| self.change(session, op, limit::CHANGE))?;
        self.ui.say("  what the killed one left is removed");
        Ok(())
    }

    /// Writes down on the node that cloud-init has done its part. A run on any machine sees it.
    pub(super) fn cloudinit_done(&self, session: &mut Session) -> Result<()> {
        let config: VmConfig =
            session.ask(Op::Config { vmid: self.vm.vmid }, Deadline::secs(limit::CHANGE), |_| {})?;
        match settings::cloudinit_done(&config) {
            Some(change) => self.change(session, change, limit::CHANGE),
            None => Ok(()),
        }
    }

    /// The VM's settings as they will be when it was powered off and on: on a running machine a drive comes and goes
    /// only then.
    fn settings_to_come(&self, session: &mut Session) -> Result<Settings> {
        let configs: Vec<ClusterConfig> = session.ask(Op::Configs, Deadline::secs(limit::CHANGE), |_| {})?;
        let own = configs.into_iter().find(|config| config.vmid == self.vm.vmid);
        Ok(match own {
            Some(config) => differences::settled(&config.settings, &config.pending),
            // Not every account sees them all.
            None => world::existing(session, self.vm.vmid)?.map(|(own, _)| own.settings).unwrap_or_default(),
        })
    }

    /// Once NixOS is installed, nothing may make cloud-init run again. Protects the VM, too, when the definition says
    /// so.
    pub(super) fn detach_cloudinit(&self, session: &mut Session) -> Result<()> {
        let config = self.settings_to_come(session)?;
        let drive = settings::cloudinit_drive(&config);
        let Some(change) = settings::finish(self.vm, drive, &config) else {
            self.already(Step::Detach);
            return Ok(());
        };
        self.step(Step::Detach, "Detaching the cloud-init drive", || {
            self.change(session, change, limit::CHANGE)?;
            let protected = if self.vm.protection { "; the VM is protected" } else { "" };
            Ok((
                (),
                match drive {
                    Some(drive) => {
                        format!("Cloud-init drive {drive} detached (from the next boot on){protected}")
                    }
                    None => format!("No cloud-init drive is left{protected}"),
                },
            ))
        })
    }
}

/// A clone whose answer was lost: is the VM there, with the marker of this very request?
fn is_cloned(session: &mut Session, vm: &ManagedVm, marker: &Marker, error: Error) -> Result<()> {
    if error.kind() != Kind::OutcomeUnknown {
        return Err(error);
    }
    match world::existing(session, vm.vmid) {
        // With the first of its disks it has the marker, and is not whole.
        Ok(Some((config, status)))
            if config.marker.as_ref() == Some(marker) && status.lock.as_deref() != Some("clone") =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}

fn owned(vm: &ManagedVm, config: &VmConfig) -> Result<()> {
    match &config.marker {
        Some(marker) if marker.name == vm.name && marker.vmid == vm.vmid => Ok(()),
        _ => Err(Error::conflict(format!("VM {} does not carry the mark of '{}'", vm.vmid, vm.name))
            .now("it was not changed")
            .hint(format!("`{}` shows what it is", again::proxmox_ops(&["config", &vm.vmid.to_string()])))),
    }
}
