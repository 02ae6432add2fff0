//! `proxmox-ops host-key`

use clap::Args;
use fleet_core::{Result, deadline::Deadline, types::VmRef};

use crate::{context::Context, ops::agent};

/// Print a VM's ed25519 SSH host key, read through the guest agent
#[derive(Debug, Args)]
pub struct HostKey {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Seconds to wait for the guest agent
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    timeout: u64,
}

impl HostKey {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let vmid = cx.vmid(&self.vm, &cluster)?;
        let deadline = Deadline::secs(self.timeout);
        let key = cluster.on(vmid, |node| agent::host_key(node, vmid, deadline))?;
        cx.ui.answer(&key, || key.clone())
    }
}
