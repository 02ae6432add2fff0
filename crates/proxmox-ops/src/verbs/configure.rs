//! `proxmox-ops configure`

use clap::Args;
use fleet_core::{Result, guard::Operation, types::VmRef};

use crate::context::{ChangeOptions, Context};

/// Set a VM's cores and memory
#[derive(Debug, Args)]
pub struct Configure {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// CPU cores
    #[arg(value_parser = clap::value_parser!(u32).range(1..=8192))]
    cores: u32,
    /// Memory in MiB, at least 512
    #[arg(value_parser = clap::value_parser!(u64).range(512..=268_435_456))]
    memory: u64,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Configure {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "configure")?;
        let settings = [("cores", self.cores.to_string()), ("memory", self.memory.to_string())];
        let done = format!(
            "VM {} has {} cores and {} MiB of memory (a running VM: after its next start)",
            permit.vmid(),
            self.cores,
            self.memory
        );
        super::configure(cx, &permit, &self.options, &settings, &done)
    }
}
