//! Finding a VM's address: the guest agent, the node's neighbour table and the definition, raced.
//!
//! An address counts only when it is on the VM's own network card, known by the MAC address of `net0`:
//! loopback, link-local, docker and VPN addresses are on others, or are none to connect to.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Result, again,
    deadline::Deadline,
    protocol::{Address, Candidate, VmConfig},
    types::{BridgeName, MacAddr, Vmid},
};
use serde_json::Value;

use super::{
    Progress,
    candidates::{Interface, Neighbour, Seen, parse_neighbours, unfit, weigh},
    config, power,
    queue::Probe,
    sweep,
};
use crate::{api::call::vm_path, node::Node, relay};

/// What the neighbour table is asked with.
pub const NEIGHBOURS: &str = "ip -j neigh";
/// How long the agent is waited for once the neighbour table has an address: it knows better, but a dead
/// one takes 3 s to be told so.
const GRACE: Duration = Duration::from_millis(1000);
/// One that lives answers within this: where nothing is in doubt without it, it is waited for no longer.
const AT_ONCE: Duration = Duration::from_millis(250);

/// A machine that is just booting is heard of by itself in most networks: the first sweep waits so long.
const SWEEP_FIRST: Duration = Duration::from_secs(5);
/// Between two sweeps.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// Finds a VM's address now, looking again until the deadline; looks once when it has passed already.
pub fn find(
    node: &Node,
    vmid: Vmid,
    fixed: Option<IpAddr>,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Address> {
    let once = deadline.passed();
    // Reads have their own limits; what passes here is the patience for an address.
    let config = config::read(node, vmid, Deadline::secs(30))?;
    if config.settings.contains_key("template") {
        return Err(never_runs(vmid, "address"));
    }
    let mac = config.mac.ok_or_else(|| {
        Error::not_found(format!("can not find the address of VM {vmid}: it has no network card net0"))
            .hint(again::ops(format_args!("config {vmid}")))
    })?;
    let mut agent = Agent::new(&config);
    let mut told = false;
    let mut next_status = Instant::now();
    let mut next_sweep = Instant::now() + if once { Duration::ZERO } else { SWEEP_FIRST };
    let mut swept = false;
    loop {
        // Seldom: a question to an agent that is not there holds up the daemon's other answers.
        if Instant::now() >= next_status {
            let state = power::status(node, vmid, Deadline::secs(30))?;
            if state.status != "running" {
                return Err(Error::not_found(format!("VM {vmid} has no address: it is {}", state.status))
                    .hint(again::change(format_args!("start {vmid}")))
                    .details(serde_json::json!({ NONE_YET: true })));
            }
            next_status = Instant::now() + Duration::from_secs(3);
        }
        agent.ask(node, vmid)?;
        let mut seen = Seen { neighbours: neighbours(node), fixed, ..Seen::default() };
        let known = !fit(mac, &seen.neighbours).is_empty();
        let patience = match (known, once) {
            (true, _) => AT_ONCE,
            (false, true) => Duration::from_secs(8),
            (false, false) => Duration::from_millis(400),
        };
        seen.agent = agent.answer(patience);
        if seen.agent.is_none() {
            seen.answered = tried(node, mac, &seen);
            if known && seen.answered.len() != 1 && !is_only_and_fresh(mac, &seen) {
                seen.agent = agent.answer(GRACE - AT_ONCE);
            }
        }
        if seen.agent.is_none() {
            // An old entry that does not answer any more: it moved, or boots. No entry: it may just not be up yet.
            let moved = known && seen.answered.is_empty() && !fresh(mac, &seen);
            let missing = !known && Instant::now() >= next_sweep;
            if (moved && !swept) || missing {
                swept = true;
                if let Some(bridge) = bridge_of(&config) {
                    sweep::sweep(node, &bridge);
                    seen.neighbours = neighbours(node);
                    seen.answered = tried(node, mac, &seen);
                }
                next_sweep = Instant::now() + SWEEP_PAUSE;
            }
        }
        let candidates = weigh(mac, &seen);
        // A fixed address that nothing was seen of is believed only after looking for a while.
        let best = candidates.first().filter(|c| c.taken);
        if let Some(best) =
            best.filter(|c| c.source != "static" || once || deadline.passed() || agent.is_dead())
        {
            return Ok(Address { address: best.address, candidates });
        }
        if once || deadline.passed() {
            return Err(none_yet(vmid, mac, &agent, &candidates));
        }
        if !std::mem::replace(&mut told, true) {
            progress(&format!("VM {vmid} has no address yet"));
        }
        fleet_core::interrupt::check()?;
        deadline.sleep(Duration::from_millis(250));
    }
}

/// What a template does not have.
pub(super) fn never_runs(vmid: Vmid, what: &str) -> Error {
    Error::not_found(format!("VM {vmid} has no {what}: it is a template, which never runs"))
        .hint("name a VM that was cloned from it")
}

fn none_yet(vmid: Vmid, mac: MacAddr, agent: &Agent, candidates: &[Candidate]) -> Error {
    let error = Error::not_found(format!("VM {vmid} has no address yet"))
        .now(format!("the guest agent: {}", agent.said()))
        .now(format!("the node's neighbour table has nothing for {mac}"));
    let error =
        candidates.iter().fold(error, |e, c| e.now(format!("{} ({}): {}", c.address, c.source, c.reason)));
    error
        .hint(format!("wait a little and run `{}` again", again::ops(format_args!("get-ip {vmid}"))))
        .hint(format!("does it boot? `qm terminal {vmid}` on the node shows its console"))
        .details(serde_json::json!({ NONE_YET: true, "candidates": candidates }))
}

/// What the details say of a VM that has no address now, and may have one soon.
const NONE_YET: &str = "none_yet";

/// Whether a VM that is there has no address now, and may have one soon.
pub fn is_none_yet(error: &Error) -> bool {
    error.report().details.is_some_and(|details| details.get(NONE_YET).is_some())
}

/// Whether a neighbour with this MAC answered the node just now.
fn fresh(mac: MacAddr, seen: &Seen) -> bool {
    seen.neighbours.iter().any(|n| n.has(mac) && n.age() == Some(0))
}

/// The neighbours with this MAC that can be connected to.
fn fit(mac: MacAddr, neighbours: &[Neighbour]) -> Vec<&Neighbour> {
    neighbours.iter().filter(|n| n.has(mac) && n.age().is_some() && unfit(n.dst).is_none()).collect()
}

/// Whether there is one alone, and it answered the node just now.
fn is_only_and_fresh(mac: MacAddr, seen: &Seen) -> bool {
    matches!(fit(mac, &seen.neighbours).as_slice(), [only] if only.age() == Some(0))
}

/// The address where the node heard the VM's own network card just now, if it is one alone: known without the agent,
/// which is asked nothing. To connect there is to find out whether it is right.
pub fn heard(node: &Node, vmid: Vmid) -> Result<Option<IpAddr>> {
    let Some(mac) = config::read(node, vmid, Deadline::secs(30))?.mac else { return Ok(None) };
    let neighbours = neighbours(node);
    let fresh: Vec<IpAddr> =
        fit(mac, &neighbours).into_iter().filter(|n| n.age() == Some(0)).map(|n| n.dst).collect();
    Ok(if let [only] = fresh.as_slice() { Some(*only) } else { None })
}

/// The bridge of `net0`.
fn bridge_of(config: &VmConfig) -> Option<BridgeName> {
    config.settings.get("net0")?.split(',').find_map(|part| part.strip_prefix("bridge="))?.parse().ok()
}

/// Of the neighbours with this MAC, those where something answers on the SSH port. A single one that answered
/// the node just now needs no trying.
fn tried(node: &Node, mac: MacAddr, seen: &Seen) -> Vec<IpAddr> {
    if is_only_and_fresh(mac, seen) {
        return Vec::new();
    }
    let answers = |address: &IpAddr| {
        let limit = Deadline::after(Duration::from_millis(1500));
        relay::connect(&*node.api.transport(), &address.to_string(), 22, limit).is_ok()
    };
    fit(mac, &seen.neighbours).into_iter().map(|n| n.dst).filter(answers).collect()
}

/// The node's neighbours, as it tells them.
pub(super) fn list_neighbours(node: &Node, deadline: Deadline) -> Result<Vec<Neighbour>> {
    let what = "list the node's neighbours";
    let json = sweep::told(node, what, NEIGHBOURS, deadline)?;
    parse_neighbours(&json).map_err(|e| {
        Error::failed(format!("can not {what}: `{NEIGHBOURS}` printed something else")).caused_by(e)
    })
}

/// The same for one try among others: that it went wrong is a detail.
fn neighbours(node: &Node) -> Vec<Neighbour> {
    list_neighbours(node, Deadline::secs(10)).unwrap_or_else(|e| {
        node.ui.detail(e.chain());
        Vec::new()
    })
}

/// A boolean in a property string, as Proxmox reads those that people wrote into a file.
fn is_on(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

/// The guest agent's side of the race: never more than one question under way.
struct Agent {
    enabled: bool,
    under_way: Option<mpsc::Receiver<Result<Value>>>,
    last: Option<Error>,
    next: Instant,
}

impl Agent {
    fn new(config: &VmConfig) -> Agent {
        let enabled = config.settings.get("agent").is_some_and(|setting| {
            setting.split(',').any(|part| is_on(part.strip_prefix("enabled=").unwrap_or(part)))
        });
        Agent { enabled, under_way: None, last: None, next: Instant::now() }
    }

    fn ask(&mut self, node: &Node, vmid: Vmid) -> Result<()> {
        if !self.enabled || self.under_way.is_some() || Instant::now() < self.next {
            return Ok(());
        }
        let name = node.name(Deadline::secs(30))?;
        // Too many under way already: at the next look.
        let Some(turn) = Probe::try_turn(name) else { return Ok(()) };
        let what = format!("ask the guest agent of VM {vmid} for its addresses");
        let path = vm_path(name, vmid, "/agent/network-get-interfaces");
        let aside = node.api.aside(&what, &path, &[], Deadline::secs(20))?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let answer = aside.run(Deadline::secs(30));
            drop(turn);
            send.send(answer)
        });
        self.under_way = Some(receive);
        Ok(())
    }

    fn answer(&mut self, patience: Duration) -> Option<Vec<Interface>> {
        let outcome = match self.under_way.as_ref()?.recv_timeout(patience) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => return None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(Error::failed("the question was lost")),
        };
        self.under_way = None;
        self.next = Instant::now() + Duration::from_millis(500);
        match outcome {
            Ok(data) => {
                self.last = None;
                let interfaces = data.get("result").cloned().unwrap_or_default();
                Some(serde_json::from_value(interfaces).unwrap_or_default())
            }
            Err(e) => {
                self.last = Some(e);
                None
            }
        }
    }

    /// Whether there is nothing to hope for from it.
    fn is_dead(&self) -> bool {
        !self.enabled || self.last.is_some()
    }

    fn said(&self) -> String {
        match (&self.last, self.enabled) {
            (_, false) => "not enabled in the VM's configuration".to_owned(),
            (Some(e), _) => e.message().to_owned(),
            (None, true) => "it answers, and tells of no address on net0 yet".to_owned(),
        }
    }
}

/// Fixed addresses by VMID, from the definitions.
pub fn fixed(definitions: &fleet_core::definitions::Definitions) -> BTreeMap<Vmid, IpAddr> {
    use fleet_core::definitions::Addressing::Static;
    definitions
        .managed
        .iter()
        .filter_map(|vm| match vm.addressing {
            Static(cidr) => Some((vm.vmid, cidr.address)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::candidates::tests::{MAC, interfaces},
        *,
    };
    use crate::testing::{Fake, node};
    use fleet_core::Kind;
    use serde_json::json;

    #[test]
    fn an_agent_that_a_person_switched_on_is_asked() {
        for (setting, enabled) in [
            ("1", true),
            ("enabled=1,fstrim_cloned_disks=1", true),
            ("on", true),
            ("enabled=Yes", true),
            ("0", false),
            ("enabled=0,type=virtio", false),
        ] {
            let config =
                json!({ "vmid": 110, "node": "prom", "digest": "", "settings": { "agent": setting } });
            let config: VmConfig = serde_json::from_value(config).unwrap();
            assert_eq!(Agent::new(&config).enabled, enabled, "{setting}");
        }
    }

    fn fake(status: &str) -> Fake {
        Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .get(
                "/nodes/prom/qemu/110/config",
                json!({"digest": "d", "agent": "enabled=1", "net0": format!("virtio={MAC},bridge=vmbr0")}),
            )
            .get("/nodes/prom/qemu/110/status/current", json!({"status": status}))
    }

    fn look(fake: &Fake, seconds: u64) -> Result<Address> {
        find(&node(fake), Vmid::new(110).unwrap(), None, Deadline::secs(seconds), &mut |_| {})
    }

    #[test]
    fn agent_and_neighbours_are_asked_side_by_side() {
        let fake = fake("running")
            .get("/nodes/prom/qemu/110/agent/network-get-interfaces", json!({"result": interfaces()}))
            .exec(NEIGHBOURS, "[]", 0);
        let found = look(&fake, 0).unwrap();
        assert_eq!(found.address.to_string(), "10.99.0.89");
        assert_eq!(fake.opened(), 2, "the agent has a connection of its own");
    }

    #[test]
    fn without_an_agent_and_an_entry_there_is_none_yet() {
        let fake = fake("running")
            .on(
                "GET",
                "/nodes/prom/qemu/110/agent/network-get-interfaces",
                500,
                json!({"message": "QEMU guest agent is not running\n"}),
            )
            .exec(NEIGHBOURS, "[]", 0);
        let error = look(&fake, 0).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::NotFound, "VM 110 has no address yet"));
        let error = look(&self::fake("stopped"), 5).unwrap_err();
        assert_eq!(error.message(), "VM 110 has no address: it is stopped");
    }
}
