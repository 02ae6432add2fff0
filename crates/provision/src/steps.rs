//! The steps of runs, by the names that the journal, the progress, `--dry-run`, `status` and `log` have for them.

use fleet_core::definitions::{Install, ManagedVm};
use serde::{Deserialize, Serialize};

use crate::cli::Integrate;

/// One step of the way from a definition to a machine in the fleet, or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A disk image is sent to the node.
    Upload,
    /// The image becomes a VM with our marker.
    Create,
    /// The template becomes a VM with our marker.
    Clone,
    /// Resources, network, keys: one change of the configuration.
    Configure,
    /// The boot disk gets the defined size.
    Grow,
    /// Power on.
    Start,
    /// Where it is.
    Address,
    /// Who it is: its SSH host key, through the hypervisor.
    HostKey,
    /// A login that works, and what runs there.
    Ssh,
    /// The system is built on this machine.
    Build,
    /// The NixOS installer takes the place of the bootstrap system.
    Kexec,
    /// `post-provision-vm` takes it into the fleet.
    Integrate,
    /// Disk layout and NixOS.
    Install,
    /// Into NixOS.
    Reboot,
    /// NixOS answers as the fleet user, with its own host key and name.
    Verify,
    /// Nothing makes cloud-init run again.
    Detach,
    /// Of `destroy`: a backup is made.
    Backup,
    /// Of `destroy`: the VM goes, or what a clone left.
    Destroy,
    /// Of `destroy`: `post-provision-vm` takes it out of the fleet.
    TakeOut,
}

impl Step {
    /// Its name: one word, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Step::Upload => "upload",
            Step::Create => "create",
            Step::Clone => "clone",
            Step::Configure => "configure",
            Step::Grow => "grow",
            Step::Start => "start",
            Step::Address => "address",
            Step::HostKey => "host-key",
            Step::Ssh => "ssh",
            Step::Build => "build",
            Step::Kexec => "kexec",
            Step::Integrate => "integrate",
            Step::Install => "install",
            Step::Reboot => "reboot",
            Step::Verify => "verify",
            Step::Detach => "detach",
            Step::Backup => "backup",
            Step::Destroy => "destroy",
            Step::TakeOut => "take-out",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The steps of a run for this VM.
pub fn of(vm: &ManagedVm, install: bool, integrate: Integrate) -> Vec<Step> {
    if install && vm.install == Install::Image { way_by_image(integrate) } else { way(install, integrate) }
}

/// The steps of a run by an image, in their order.
pub fn way_by_image(integrate: Integrate) -> Vec<Step> {
    let mut steps = vec![Step::Build];
    steps.extend((integrate == Integrate::Before).then_some(Step::Integrate));
    steps.extend([Step::Upload, Step::Create, Step::Configure, Step::Grow, Step::Start]);
    steps.extend([Step::Address, Step::Verify, Step::Detach]);
    steps.extend((integrate == Integrate::After).then_some(Step::Integrate));
    steps
}

/// The steps of a run in their order: the whole way, or only as far as SSH.
pub fn way(install: bool, integrate: Integrate) -> Vec<Step> {
    let mut steps =
        vec![Step::Clone, Step::Configure, Step::Grow, Step::Start, Step::Address, Step::HostKey, Step::Ssh];
    if install {
        steps.extend([Step::Build, Step::Kexec]);
        steps.extend((integrate == Integrate::Before).then_some(Step::Integrate));
        steps.extend([Step::Install, Step::Reboot, Step::Verify, Step::Detach]);
        steps.extend((integrate == Integrate::After).then_some(Step::Integrate));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_journal_says() {
        let out = [Step::Backup, Step::Destroy, Step::TakeOut];
        for step in way(true, Integrate::After).into_iter().chain(out) {
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        }
    }

    #[test]
    fn the_fleet_knows_the_vm_before_or_after_the_installation_or_not_at_all() {
        let names = |integrate| {
            let names: Vec<&str> = way(true, integrate).into_iter().skip(7).map(Step::name).collect();
            names.join(" ")
        };
        assert_eq!(names(Integrate::Before), "build kexec integrate install reboot verify detach");
        assert_eq!(names(Integrate::After), "build kexec install reboot verify detach integrate");
        assert_eq!(names(Integrate::Never), "build kexec install reboot verify detach");
        assert_eq!(way(false, Integrate::Before).last(), Some(&Step::Ssh));
    }
}
