//! `proxmox-ops template`

use clap::Args;
use fleet_core::{Result, guard::Operation, types::VmRef};

use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    ops::template,
};

/// Turn a stopped VM into a template; there is no way back
#[derive(Debug, Args)]
pub struct Template {
    /// VMID, or name of the template in the definitions
    #[arg(value_name = "VMID")]
    vm: VmRef,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Template {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Template, "make a template of")?;
        if self.options.change.dry_run {
            return cx.show(&[Call::template(&permit, &cx.node_name()?)]);
        }
        let vmid = permit.vmid();
        let (cluster, deadline) = (cx.connect()?, self.options.deadline());
        let changed =
            cluster.on(vmid, |node| template::convert(node, &permit, deadline, &mut cx.progress()))?;
        cx.changed(
            vmid,
            changed,
            &format!("VM {vmid} is a template now"),
            &format!("VM {vmid} is a template already"),
        )
    }
}
