//! `proxmox-ops status`

use clap::Args;
use fleet_core::{
    Error, Kind, Result,
    protocol::VmStatus,
    types::{VmRef, Vmid},
};

use crate::{
    cluster::Cluster,
    context::{Context, read_deadline},
    ops::power,
};

/// Show a VM's power state, wherever in the cluster it is
#[derive(Debug, Args)]
pub struct Status {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
}

impl Status {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let vmid = cx.vmid(&self.vm, &cluster)?;
        let asked = cluster.on(vmid, |node| power::status(node, vmid, read_deadline()));
        let status = match asked {
            Err(e) if e.kind() == Kind::Unreachable => heard(cx, &cluster, vmid, e)?,
            asked => asked?,
        };
        if let Some(lock) = &status.lock {
            cx.ui.warn(format!("VM {} is locked by: {lock}", status.vmid));
        }
        if let Some(how) = power::held(&status) {
            cx.ui.warn(format!("VM {} is powered on, and does not run: QEMU says '{how}'", status.vmid));
            cx.ui.hint(format!("`qm resume {}` on the node '{}' lets it go on", status.vmid, status.node));
        }
        cx.ui.answer(&status, || status.status.clone())
    }
}

/// What the cluster last heard of a VM, ten seconds ago at most, when its own node can not be asked.
fn heard(cx: &Context, cluster: &Cluster, vmid: Vmid, unreachable: Error) -> Result<VmStatus> {
    let Ok(Some(resource)) = cluster.resource(vmid) else { return Err(unreachable) };
    // The node that tells is the one that could not be asked.
    if cluster.first().name(read_deadline()).is_ok_and(|here| *here == resource.node) {
        return Err(unreachable);
    }
    cx.ui.warn(unreachable.chain());
    cx.ui.warn(format!("what the cluster last heard of VM {vmid}, on the node '{}':", resource.node));
    Ok(power::of_resource(resource))
}
