//! Whether NixOS is on a VM, as far as its settings tell without asking the machine.

use fleet_core::{
    definitions::{Install, ManagedVm},
    protocol::VmConfig,
};
use serde::Serialize;

use crate::{differences, settings, world::World};

/// What the settings tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Installed {
    /// It is not: cloud-init has its part to do there.
    No,
    /// An installation was begun, or is a person's own: the machine has to be asked.
    Maybe,
    /// It is: a run has seen it answer, and taken the cloud-init drive away. It may go only with the next power-off.
    Yes,
}

/// Of a VM that is ours, and has this configuration.
pub fn of(vm: &ManagedVm, config: &VmConfig, world: &World) -> Installed {
    let whole = world.configs.iter().find(|whole| whole.vmid == config.vmid);
    let coming = whole.map(|whole| differences::settled(&whole.settings, &whole.pending));
    let drive = settings::cloudinit_drive(coming.as_ref().unwrap_or(&config.settings)).is_some();
    match (vm.install, settings::cloudinit_is_done(&config.settings)) {
        // What it was made of is NixOS.
        (Install::Image, _) => Installed::Yes,
        (_, false) => Installed::No,
        (_, true) if drive => Installed::Maybe,
        (_, true) => Installed::Yes,
    }
}
