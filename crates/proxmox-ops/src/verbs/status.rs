//! `proxmox-ops status`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use crate::{
    context::{Context, read_deadline},
    ops::power,
};

/// Show a VM's power state, wherever in the cluster it is
#[derive(Debug, Args)]
pub struct Status {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
}

impl Status {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let node = cx.connect()?;
        let status = power::status_anywhere(&node, cx.vmid(&self.vm, &node)?, read_deadline())?;
        if let Some(lock) = &status.lock {
            cx.ui.warn(format!("VM {} is locked by: {lock}", status.vmid));
        }
        cx.ui.answer(&status, || status.status.clone())
    }
}
