//! `proxmox-ops stop`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use crate::{
    context::{ChangeOptions, Context},
    ops::power::Action,
};

/// Power a VM off at once; a stopped one is left alone
#[derive(Debug, Args)]
pub struct Stop {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Stop {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        super::power(cx, &self.vm, &self.options, Action::Stop, "stop")
    }
}
