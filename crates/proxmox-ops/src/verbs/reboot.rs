//! `proxmox-ops reboot`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use crate::{
    context::{ChangeOptions, Context},
    ops::power::Action,
};

/// Ask a VM's guest to shut down, and start the VM again; pending settings take effect
#[derive(Debug, Args)]
pub struct Reboot {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Seconds that the guest gets to shut down
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Reboot {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        super::power(cx, &self.vm, &self.options, Action::Reboot { timeout: self.timeout }, "reboot")
    }
}
