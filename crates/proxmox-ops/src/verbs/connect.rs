//! `proxmox-ops connect`

use std::{net::IpAddr, rc::Rc, time::Duration};

use clap::Args;
use fleet_core::{Result, deadline::Deadline, types::VmRef};

use crate::{context::Context, node::Node, ops::address, route, settings::Route};

/// How long an address where the VM was just heard may take to let us in; then it is looked for.
const HEARD: Duration = Duration::from_millis(1500);

/// Carry bytes between standard input and output and a VM's current address
///
/// The address is found by the MAC of its network card, so it may change: fit as an OpenSSH ProxyCommand.
/// FLEET_ROUTE says how to get there: straight (direct), through the node (node), or straight where that works
/// within a second (auto).
#[derive(Debug, Args)]
pub struct Connect {
    /// VMID, name, or an address
    #[arg(value_name = "VMID")]
    vm: String,
    /// TCP port
    #[arg(default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Where it was last: tried when nothing better is seen
    #[arg(long, value_name = "ADDRESS")]
    last: Option<IpAddr>,
    /// Seconds to look for the address and to connect
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl Connect {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let deadline = Deadline::secs(self.timeout);
        let given: Option<IpAddr> = self.vm.parse().ok();
        // The node that has the VM, where one is asked for: its network is the VM's.
        let mut node: Option<Rc<Node>> = None;
        let address = match given {
            Some(address) => address,
            None => {
                let vm: VmRef = self.vm.parse()?;
                let cluster = cx.connect()?;
                let vmid = cx.vmid(&vm, &cluster)?;
                // Where it was heard just now needs no agent: that one may be dead, and takes seconds to say so.
                let (home, heard) = cluster.there(vmid, |node| address::heard(node, vmid))?;
                let mut there = || Ok(Rc::clone(&home));
                let open =
                    |at| route::open(cx.settings.route, &mut there, (at, self.port), deadline.at_most(HEARD));
                if let Some(Ok(stream)) = heard.map(open) {
                    return route::carry(stream);
                }
                let fixed = address::fixed(&cx.definitions).get(&vmid).copied().or(self.last);
                let (home, found) = cluster
                    .there(vmid, |node| address::find(node, vmid, fixed, deadline, &mut cx.progress()))?;
                node = Some(home);
                found.address
            }
        };
        let mut connected = || -> Result<Rc<Node>> {
            match &node {
                Some(node) => Ok(Rc::clone(node)),
                None => Ok(Rc::clone(node.insert(cx.connect()?.base()?))),
            }
        };
        cx.ui.detail(format!("connecting to {address} port {}", self.port));
        let stream = route::open(cx.settings.route, &mut connected, (address, self.port), deadline)?;
        if cx.settings.route == Route::Direct {
            drop(node);
            return route::carry(stream);
        }
        route::carry(stream)
    }
}
