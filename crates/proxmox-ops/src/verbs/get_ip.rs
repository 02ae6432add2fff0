//! `proxmox-ops get-ip`

use clap::Args;
use fleet_core::{Result, deadline::Deadline, types::VmRef};

use crate::{context::Context, ops::address};

/// Print a VM's address
///
/// The guest agent, the node's neighbour table and the definition's fixed address are asked side by side;
/// only an address on the VM's own network card counts. With --json all candidates, and why each was taken
/// or not.
#[derive(Debug, Args)]
pub struct GetIp {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Seconds to go on looking while there is none
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    timeout: u64,
}

impl GetIp {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let vmid = cx.vmid(&self.vm, &cluster)?;
        let fixed = address::fixed(&cx.definitions).get(&vmid).copied();
        let deadline = Deadline::secs(self.timeout);
        let found =
            cluster.on(vmid, |node| address::find(node, vmid, fixed, deadline, &mut cx.progress()))?;
        cx.ui.answer(&found, || found.address.to_string())
    }
}
