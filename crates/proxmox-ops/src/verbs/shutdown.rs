//! `proxmox-ops shutdown`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use crate::{
    context::{ChangeOptions, Context},
    ops::power::Action,
};

/// Ask a VM's guest to shut down, and wait until it has; a stopped one is left alone
#[derive(Debug, Args)]
pub struct Shutdown {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Seconds that the guest gets
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Power it off when the guest did not shut down in time
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Shutdown {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let action = Action::Shutdown { timeout: self.timeout, force: self.force };
        super::power(cx, &self.vm, &self.options, action, "shut down")
    }
}
