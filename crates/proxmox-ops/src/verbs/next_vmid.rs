//! `proxmox-ops next-vmid`

use clap::Args;
use fleet_core::{Result, types::Vmid};

use crate::{
    context::{Context, read_deadline},
    ops::host,
};

/// Print the lowest VMID that neither the definitions nor anything in the cluster has
#[derive(Debug, Args)]
pub struct NextVmid {
    /// First VMID to consider [default: the definitions' range `production`, else the first for VMs, else 100]
    start: Option<Vmid>,
    /// Last VMID to consider [default: the end of that range, else 9999]
    end: Option<Vmid>,
}

impl NextVmid {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let (start, end) = host::range(&cx.definitions, self.start, self.end)?;
        let cluster = cx.connect()?;
        let vmid = host::next_vmid(&cx.definitions, &cluster.resources(read_deadline())?, start, end)?;
        cx.ui.answer(&vmid, || vmid.to_string())
    }
}
