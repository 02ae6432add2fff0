//! `proxmox-ops next-vmid`

use clap::Args;
use fleet_core::{Error, Result, types::Vmid};

use crate::{
    context::{Context, read_deadline},
    ops::host,
};

/// Print the lowest VMID that neither the definitions nor anything in the cluster has
#[derive(Debug, Args)]
pub struct NextVmid {
    /// First VMID to consider [default: the definitions' range `production`, else 100]
    start: Option<Vmid>,
    /// Last VMID to consider [default: the end of that range, else 999]
    end: Option<Vmid>,
}

impl NextVmid {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let (first, last) = host::default_range(&cx.definitions)?;
        let start = self.start.unwrap_or(first);
        // A start beyond the default range goes on to the end of its own range, or of its thousand.
        let end = match self.end {
            Some(end) => end,
            None if start <= last => last,
            None => match cx.definitions.vmid_ranges.iter().find(|r| r.start <= start && start <= r.end) {
                Some(range) => range.end,
                None => Vmid::new((start.get() / 1000 * 1000 + 999).min(999_999_999))?,
            },
        };
        if start > end {
            return Err(Error::usage(format!("the range {start} to {end} is empty"))
                .now("nothing was sent to the node")
                .hint("give the lower VMID first"));
        }
        let node = cx.connect()?;
        let vmid = host::next_vmid(&cx.definitions, &node.resources(read_deadline())?, start, end)?;
        cx.ui.answer(&vmid, || vmid.to_string())
    }
}
