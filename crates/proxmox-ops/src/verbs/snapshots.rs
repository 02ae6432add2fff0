//! `proxmox-ops snapshots`

use clap::Args;
use fleet_core::{Result, clock::Utc, types::VmRef, ui};

use super::table::Table;
use crate::{
    context::{Context, read_deadline},
    ops::snapshot,
};

/// List the snapshots of a VM, oldest first
#[derive(Debug, Args)]
pub struct Snapshots {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
}

impl Snapshots {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let vmid = cx.vmid(&self.vm, &cluster)?;
        let snapshots = cluster.on(vmid, |node| snapshot::list(node, vmid, read_deadline()))?;
        cx.ui.answer(&snapshots, || {
            let cells = |s: &snapshot::Snapshot| {
                vec![
                    s.name.clone(),
                    match (s.unfinished(), s.snaptime) {
                        (Some(state), _) => format!("unfinished ({state})"),
                        (None, Some(time)) => Utc::of(time).to_string(),
                        (None, None) => "-".to_owned(),
                    },
                    (if s.has_memory() { "yes" } else { "no" }).to_owned(),
                    s.parent.clone().unwrap_or_else(|| "-".to_owned()),
                    s.description.lines().next().unwrap_or_default().to_owned(),
                ]
            };
            let table = Table {
                header: &["NAME", "TAKEN", "MEMORY", "PARENT", "DESCRIPTION"],
                numbers: &[],
                optional: &[2, 3],
                text_last: true,
            };
            table.of(&snapshots, cells, ui::columns())
        })
    }
}
