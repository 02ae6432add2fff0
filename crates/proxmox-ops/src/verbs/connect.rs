//! `proxmox-ops connect`

use std::{net::IpAddr, rc::Rc, time::Duration};

use clap::Args;
use fleet_core::{Result, deadline::Deadline, interrupt, ssh::Stream, types::VmRef};

use crate::{cluster::Cluster, context::Context, node::Node, ops::address, route, settings::Route};

/// How long an address where the VM was just heard may take to let us in; then it is looked for.
const HEARD: Duration = Duration::from_millis(1500);

/// Between two tries where nobody listens yet.
const PAUSE: Duration = Duration::from_millis(250);
/// So many tries where the VM was heard last go before one that looks for it.
const TRIES: u32 = 8;

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
    /// Seconds to try again while nobody listens at the VM's address
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: u64,
}

impl Connect {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let patience = Deadline::secs(self.wait);
        let (mut tries, mut cluster) = (0, None);
        let stream = loop {
            let patient = !patience.passed();
            tries += 1;
            let again = tries % TRIES != 0;
            match self.open(cx, &mut cluster, patient && again) {
                Err(error) if patient => cx.ui.detail(error.chain()),
                outcome => break outcome?,
            }
            if !again {
                // It may be the way to the node that is lost.
                cluster = None;
            }
            interrupt::check()?;
            patience.sleep(PAUSE);
        };
        if cx.settings.route == Route::Direct {
            drop(cluster);
        }
        route::carry(stream)
    }

    /// Connects. With `heard_only`, at no other address than where the VM was heard just now, if it was.
    fn open(&self, cx: &Context, cluster: &mut Option<Cluster>, heard_only: bool) -> Result<Box<dyn Stream>> {
        let deadline = Deadline::secs(self.timeout);
        let given: Option<IpAddr> = self.vm.parse().ok();
        // The node that has the VM, where one is asked for: its network is the VM's.
        let mut node: Option<Rc<Node>> = None;
        let address = match given {
            Some(address) => address,
            None => {
                let vm: VmRef = self.vm.parse()?;
                let cluster = match cluster {
                    Some(cluster) => &*cluster,
                    None => &*cluster.insert(cx.connect()?),
                };
                let vmid = cx.vmid(&vm, cluster)?;
                // Where it was heard just now needs no agent: that one may be dead, and takes seconds to say so.
                let (home, heard) = cluster.there(vmid, |node| address::heard(node, vmid))?;
                let mut there = || Ok(Rc::clone(&home));
                let open =
                    |at| route::open(cx.settings.route, &mut there, (at, self.port), deadline.at_most(HEARD));
                match heard.map(open) {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(error)) if heard_only => return Err(error),
                    _ => {}
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
        route::open(cx.settings.route, &mut connected, (address, self.port), deadline)
    }
}
