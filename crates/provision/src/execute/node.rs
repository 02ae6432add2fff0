//! Steps on the node: from the template to a started VM, and the cloud-init drive at the end.

use fleet_core::{
    Error, Kind, Result,
    deadline::{Deadline, poll},
    definitions::ManagedVm,
    protocol::{Marker, Op, Session, VmConfig},
    ui::Ui,
};

use super::{Job, limit};
use crate::{
    guest::{self, System},
    plan::{self, Origin, Plan},
    settings::{self, BOOTSTRAP_USER},
    steps::Step,
    world,
};

impl Job<'_> {
    /// Everything up to the started VM.
    pub(super) fn prepare(&self, session: &mut Session, plan: Plan) -> Result<()> {
        let vm = self.vm;
        self.clone_template(session, plan)?;
        let (config, status) = world::existing(session, vm.vmid)?.ok_or_else(|| {
            Error::failed(format!("VM {} is gone", vm.vmid)).hint("`proxmox-ops list` shows what is there")
        })?;
        owned(vm, &config)?;
        let running = status.status == "running";
        if running && self.is_nixos(session)? {
            // Its cloud-init settings must never change again: they would make it a new instance.
            [Step::Configure, Step::Grow, Step::Start].into_iter().for_each(|step| self.already(step));
            return Ok(());
        }
        let changes = settings::changes(vm, self.keys, &config.settings);
        if changes.is_empty() {
            self.already(Step::Configure);
        } else {
            self.step(Step::Configure, "Configuring resources and networking", || {
                let op = Op::Configure { vmid: vm.vmid, settings: changes, delete: Vec::new(), digest: None };
                self.change(session, op, limit::CHANGE)?;
                Ok(((), "VM configured".to_owned()))
            })?;
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
            return Ok(());
        }
        self.step(Step::Start, "Starting VM", || {
            self.change(session, Op::Start { vmid: vm.vmid }, limit::CHANGE)?;
            Ok(((), "VM started".to_owned()))
        })
    }

    fn clone_template(&self, session: &mut Session, plan: Plan) -> Result<()> {
        let vm = self.vm;
        let Origin::Clone(request) = plan.origin else {
            self.already(Step::Clone);
            return Ok(());
        };
        let title = format!("Cloning template {} to VM {}", request.template, vm.vmid);
        let marker = request.marker.clone();
        self.step(Step::Clone, title, || {
            self.change(session, Op::Clone(request), limit::CLONE)
                .or_else(|error| is_cloned(session, vm, &marker, error))?;
            Ok(((), "VM cloned".to_owned()))
        })
    }

    /// Whether the running VM is NixOS already, as far as can be told quickly.
    fn is_nixos(&self, session: &mut Session) -> Result<bool> {
        let quick = Deadline::secs(15);
        let asked = session.ask::<String>(Op::HostKey { vmid: self.vm.vmid, timeout: 10 }, quick, |_| {});
        let Ok(key) = asked else { return Ok(false) };
        for user in [self.user.as_ref(), BOOTSTRAP_USER] {
            match self.guest(None).log_in(user, &key, quick) {
                Ok(login) => return Ok(guest::system(&login)? == System::Nixos),
                Err(error) if error.is_host_key_mismatch() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Once NixOS is installed, nothing may make cloud-init run again.
    pub(super) fn detach_cloudinit(&self, session: &mut Session) -> Result<()> {
        let config = world::existing(session, self.vm.vmid)?.map(|(config, _)| config);
        let drive = config.and_then(|config| settings::cloudinit_drive(&config.settings).map(str::to_owned));
        let Some(drive) = drive else {
            self.already(Step::Detach);
            return Ok(());
        };
        self.step(Step::Detach, format!("Detaching the cloud-init drive {drive}"), || {
            self.change(session, settings::detach(self.vm.vmid, &drive), limit::CHANGE)?;
            Ok(((), format!("Cloud-init drive {drive} detached (from the next boot on)")))
        })
    }
}

/// A clone whose answer was lost: is the VM there, with the marker of this very request?
fn is_cloned(session: &mut Session, vm: &ManagedVm, marker: &Marker, error: Error) -> Result<()> {
    if error.kind() != Kind::OutcomeUnknown {
        return Err(error);
    }
    match world::existing(session, vm.vmid) {
        Ok(Some((config, _))) if config.marker.as_ref() == Some(marker) => Ok(()),
        _ => Err(error),
    }
}

fn owned(vm: &ManagedVm, config: &VmConfig) -> Result<()> {
    match &config.marker {
        Some(marker) if marker.name == vm.name && marker.vmid == vm.vmid => Ok(()),
        _ => Err(Error::conflict(format!("VM {} does not carry the mark of '{}'", vm.vmid, vm.name))
            .now("it was not changed")
            .hint(format!("`proxmox-ops config {}` shows what it is", vm.vmid))),
    }
}

/// Waits until a clone that an earlier run started is written.
pub fn wait_for_clone(session: &mut Session, vm: &ManagedVm, ui: Ui) -> Result<()> {
    ui.step(format!("VM {} is being cloned by an earlier run: waiting for it...", vm.vmid));
    let left_over = |error: Error| {
        error
            .now(format!("VM {} is still locked by a clone", vm.vmid))
            .hint("`pvenode task list` on the node shows whether a clone still runs; if none does, the lock is a leftover")
            .hint(format!("then look at the VM, and remove what is left of it: `qm unlock {0}`, `qm destroy {0}`", vm.vmid))
    };
    poll(Deadline::secs(limit::CLONE), format_args!("the clone of VM {}", vm.vmid), || {
        Ok(match world::existing(session, vm.vmid)? {
            Some((config, status)) if status.lock.is_some() || config.settings.contains_key("lock") => {
                Err("it is still locked".to_owned())
            }
            _ => Ok(()),
        })
    })
    .map_err(left_over)?;
    ui.done("The clone is written");
    Ok(())
}
