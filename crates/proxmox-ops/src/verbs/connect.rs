//! `proxmox-ops connect`

use std::{net::IpAddr, rc::Rc, time::Duration};

use clap::Args;
use fleet_core::{Error, Kind, Result, deadline::Deadline, interrupt, ssh::Stream, types::VmRef};

use crate::{cluster::Cluster, context::Context, node::Node, ops::address, route, settings::Route};

/// How long an address where the VM was just heard may take to let us in; then it is looked for.
const HEARD: Duration = Duration::from_millis(1500);

/// Between two tries where nobody listens yet.
const PAUSE: Duration = Duration::from_millis(250);
/// So many tries where the VM was heard last go before one that looks for it, and before it is seen whether the
/// connection to the node is one still.
const TRIES: u32 = 8;
/// How long a node that has not been reached yet may be away: for as long as its sshd takes to start again. Who named
/// the wrong one is not kept waiting.
const AWAY: Duration = Duration::from_secs(10);

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
    /// Seconds to try again while the VM has no address or nobody listens there
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: u64,
}

impl Connect {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let patience = Deadline::secs(self.wait);
        let (mut tries, mut way) = (0, Way::new(cx, patience.at_most(AWAY)));
        let stream = loop {
            let patient = !patience.passed();
            tries += 1;
            let again = tries % TRIES != 0;
            match self.open(&mut way, patient && again) {
                Err(error) if patient && self.may_pass(&way, &error) => cx.ui.detail(error.chain()),
                outcome => break outcome?,
            }
            interrupt::check()?;
            // A node that is not there is not asked as often as one that is.
            patience.sleep(if way.lost { PAUSE * TRIES } else { PAUSE });
            if !again {
                way.prove();
            }
        };
        if cx.settings.route == Route::Direct {
            drop(way);
        }
        route::carry(stream)
    }

    /// Whether the next try may go better. A node that has to be asked is not waited for as long as a VM, unless it has
    /// been reached before.
    fn may_pass(&self, way: &Way<'_>, error: &Error) -> bool {
        let can_do_without = self.vm.parse::<IpAddr>().is_ok() && way.cx.settings.route != Route::Node;
        (way.reached || can_do_without || !way.away.passed()) && may_pass(error)
    }

    /// Connects. With `heard_only`, at no other address than where the VM was heard just now, if it was.
    fn open(&self, way: &mut Way<'_>, heard_only: bool) -> Result<Box<dyn Stream>> {
        let cx = way.cx;
        let deadline = Deadline::secs(self.timeout);
        let given: Option<IpAddr> = self.vm.parse().ok();
        // The node that has the VM, where one is asked for: its network is the VM's.
        let mut node: Option<Rc<Node>> = None;
        let address = match given {
            Some(address) => address,
            None => {
                let vm: VmRef = self.vm.parse()?;
                let cluster = way.cluster()?;
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
                None => Ok(Rc::clone(node.insert(way.cluster()?.base()?))),
            }
        };
        cx.ui.detail(format!("connecting to {address} port {}", self.port));
        route::open(cx.settings.route, &mut connected, (address, self.port), deadline)
    }
}

/// The way to the cluster, kept from one try to the next.
struct Way<'a> {
    cx: &'a Context,
    cluster: Option<Cluster>,
    /// Whether there has ever been one.
    reached: bool,
    /// Whether there was none when it was asked for last.
    lost: bool,
    /// Until when it may not be there yet.
    away: Deadline,
}

impl<'a> Way<'a> {
    fn new(cx: &'a Context, away: Deadline) -> Way<'a> {
        Way { cx, cluster: None, reached: false, lost: false, away }
    }

    fn cluster(&mut self) -> Result<&Cluster> {
        self.lost = true;
        let cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => self.cx.connect()?,
        };
        (self.lost, self.reached) = (false, true);
        Ok(self.cluster.insert(cluster))
    }

    /// Leaves a connection that is lost: the next one may come about. One that there is is as good as a new one, and
    /// asks nobody anything.
    fn prove(&mut self) {
        let alive = |cluster: &Cluster| {
            cluster.first().api.transport().exec("true", b"", Deadline::after(HEARD)).is_ok()
        };
        self.cluster = self.cluster.take().filter(alive);
    }
}

/// Whether time alone may mend it: the VM has no address yet, nobody listens there, or the way is interrupted. A host
/// that answered and is not believed, or lets nobody in, would ask the user again.
fn may_pass(error: &Error) -> bool {
    let unanswered = matches!(error.kind(), Kind::Unreachable | Kind::DeadlinePassed);
    address::is_none_yet(error) || (unanswered && !error.is_ssh_refusal())
}
