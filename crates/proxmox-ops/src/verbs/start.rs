//! `proxmox-ops start`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use crate::{
    context::{ChangeOptions, Context},
    ops::power::Action,
};

/// Start a VM; a running one is left alone
#[derive(Debug, Args)]
pub struct Start {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Start {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        super::power(cx, &self.vm, &self.options, Action::Start, "start")
    }
}
