//! `proxmox-ops configure`

use clap::Args;
use fleet_core::{Error, Result, guard::Operation, types::VmRef};

use crate::context::{ChangeOptions, Context};

/// Set a VM's cores and memory
#[derive(Debug, Args)]
pub struct Configure {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// CPU cores
    #[arg(value_parser = cores)]
    cores: u32,
    /// Memory in MiB, 512 to 268435456
    #[arg(value_parser = mebibytes)]
    memory: u64,
    #[command(flatten)]
    options: ChangeOptions,
}

fn cores(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(number @ 1..=8192) => Ok(number),
        _ => Err(Error::usage(format!("'{}' is no number of cores, 1 to 8192", text.escape_debug()))),
    }
}

/// Whole MiB; people write units.
fn mebibytes(text: &str) -> Result<u64> {
    match text.parse() {
        Ok(number @ 512..=268_435_456) => Ok(number),
        _ => Err(Error::usage(format!(
            "'{}' is no number of MiB, 512 to 268435456: 4 GiB are 4096",
            text.escape_debug()
        ))),
    }
}

impl Configure {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "configure")?;
        let settings = [("cores", self.cores.to_string()), ("memory", self.memory.to_string())];
        let has = format!("VM {} has {} cores and {} MiB of memory", permit.vmid(), self.cores, self.memory);
        let done = format!("{has} (a running VM: after its next start)");
        let nothing = format!("{has} already");
        super::configure(cx, &permit, &self.options, &settings, (&done, &nothing))
    }
}
