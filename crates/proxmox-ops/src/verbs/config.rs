//! `proxmox-ops config`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use crate::{
    context::{Context, read_deadline},
    ops::config,
};

/// Show a VM's configuration, as it is stored
#[derive(Debug, Args)]
pub struct Config {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
}

impl Config {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let vmid = cx.vmid(&self.vm, &cluster)?;
        let config = cluster.on(vmid, |node| config::read(node, vmid, read_deadline()))?;
        cx.ui.answer(&config, || {
            let line = |(key, value): (&String, &String)| {
                // Values of several lines are indented under their key.
                let value = value.trim_end().replace('\n', "\n  ");
                format!("{key}: {value}\n")
            };
            config.settings.iter().map(line).collect()
        })
    }
}
