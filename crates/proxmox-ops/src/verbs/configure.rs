//! `proxmox-ops configure`

use clap::Args;
use fleet_core::{Error, Result, guard::Operation, types::VmRef};

use crate::{
    api::call::Call,
    context::{ChangeOptions, Context, read_deadline},
    ops::{config, power},
};

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
        let (vmid, deadline) = (permit.vmid(), self.options.deadline());
        if self.options.change.dry_run {
            let pairs = settings.iter().map(|(key, value)| (*key, value.as_str()));
            return cx.show(&[Call::configure(&permit, &cx.node_name()?, pairs, &[], None)]);
        }
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        let (changed, runs) = cx.connect()?.on(vmid, |node| {
            let changed = config::set(node, &permit, &settings, deadline, &mut cx.progress())?;
            // It is done, whether or not that can be told.
            let status = power::status(node, vmid, read_deadline());
            Ok((changed, status.is_ok_and(|now| now.status == "running")))
        })?;
        let has = format!("VM {vmid} has {} cores and {} MiB of memory", self.cores, self.memory);
        let later = if runs { ", from its next start on (it runs)" } else { "" };
        cx.changed(vmid, changed, &format!("{has}{later}"), &format!("{has} already"))
    }
}
