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
    Error, Result,
    deadline::Deadline,
    protocol::{Address, Candidate, VmConfig},
    ssh::ExecStatus,
    types::{MacAddr, Vmid},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Progress, config, power};
use crate::{api::call::vm_path, node::Node};

/// What the neighbour table is asked with.
pub const NEIGHBOURS: &str = "ip -j neigh";
/// How long the agent is waited for once the neighbour table has an address: it knows better, but a dead
/// one takes 3 s to be told so.
const GRACE: Duration = Duration::from_millis(1000);

/// An interface as the guest agent tells of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Interface {
    name: String,
    #[serde(default)]
    hardware_address: Option<String>,
    // Absent while an interface has none.
    #[serde(default)]
    ip_addresses: Vec<AgentAddress>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AgentAddress {
    ip_address: String,
}

/// An entry of the node's neighbour table (`ip -j neigh`).
#[derive(Debug, Clone, Deserialize)]
pub struct Neighbour {
    dst: IpAddr,
    #[serde(default)]
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

impl Neighbour {
    fn has(&self, mac: MacAddr) -> bool {
        self.lladdr.as_deref().and_then(|l| l.parse::<MacAddr>().ok()) == Some(mac)
    }

    /// How fresh it is: less is fresher; none when it is known not to answer.
    fn age(&self) -> Option<u8> {
        self.state
            .iter()
            .filter_map(|s| match s.as_str() {
                "REACHABLE" => Some(0),
                "DELAY" | "PROBE" | "PERMANENT" | "NOARP" => Some(1),
                "STALE" => Some(2),
                _ => None,
            })
            .min()
    }
}

/// Why an address can not be the one to connect to, by itself.
fn unfit(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Some("a loopback address")
    } else if link_local {
        Some("a link-local address")
    } else if address.is_unspecified() || address.is_multicast() {
        Some("no address of a machine")
    } else {
        None
    }
}

/// Everything that is known at one moment.
#[derive(Debug, Default)]
pub struct Seen {
    /// What the agent said, if it answered.
    pub agent: Option<Vec<Interface>>,
    /// The node's neighbours.
    pub neighbours: Vec<Neighbour>,
    /// The definition's fixed address.
    pub fixed: Option<IpAddr>,
    /// Addresses that answered when they were tried.
    pub answered: Vec<IpAddr>,
}

/// Less is better: by source, then what answered, then how fresh, then IPv4 before IPv6.
type Rank = (u8, bool, u8, bool);

/// Weighs what was seen. The candidate that is taken comes first.
pub fn weigh(mac: MacAddr, seen: &Seen) -> Vec<Candidate> {
    let mut found: Vec<(Option<Rank>, Candidate)> = Vec::new();
    let mut add = |rank: Option<(u8, u8)>, address: IpAddr, source: &str, reason: String| {
        let (rank, reason) = match unfit(address) {
            Some(why) => (None, why.to_owned()),
            None => (rank, reason),
        };
        let rank = rank.map(|(source, age)| {
            let fixed_first = if seen.fixed == Some(address) { 0 } else { 1 + age };
            (source, !seen.answered.contains(&address), fixed_first, address.is_ipv6())
        });
        found.push((rank, Candidate { address, source: source.to_owned(), taken: false, reason }));
    };
    for interface in seen.agent.iter().flatten() {
        let on_card =
            interface.hardware_address.as_deref().and_then(|m| m.parse::<MacAddr>().ok()) == Some(mac);
        let name = &interface.name;
        for address in &interface.ip_addresses {
            // An IPv6 address may carry its zone.
            let text = address.ip_address.split('%').next().unwrap_or_default();
            let Ok(address) = text.parse::<IpAddr>() else { continue };
            if on_card {
                add(Some((0, 0)), address, "agent", format!("on {name}, whose MAC is net0's"));
            } else {
                add(None, address, "agent", format!("on {name}, whose MAC is not net0's"));
            }
        }
    }
    for neighbour in seen.neighbours.iter().filter(|n| n.has(mac)) {
        let state = neighbour.state.join(" ").to_lowercase();
        match neighbour.age() {
            Some(age) => {
                let reason = format!("net0's MAC in the node's neighbour table ({state})");
                add(Some((1, age)), neighbour.dst, "neighbour", reason);
            }
            None => add(None, neighbour.dst, "neighbour", format!("does not answer the node ({state})")),
        }
    }
    if let Some(fixed) = seen.fixed {
        add(Some((2, 0)), fixed, "static", "the definition's; nothing was seen of another".to_owned());
    }
    found.sort_by_key(|(rank, _)| (rank.is_none(), *rank));
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut first = true;
    for (rank, mut candidate) in found {
        if rank.is_some() && std::mem::take(&mut first) {
            candidate.taken = true;
        } else if rank.is_some() {
            let taken = &candidates[0];
            candidate.reason = if taken.address == candidate.address {
                format!("{}; the same as the one taken", candidate.reason)
            } else {
                format!(
                    "{}; not taken: the {} knows better",
                    candidate.reason,
                    better(&taken.source, &candidate.source)
                )
            };
        }
        candidates.push(candidate);
    }
    candidates
}

fn better<'a>(taken: &'a str, this: &str) -> &'a str {
    if taken == this { "fresher entry" } else { taken }
}

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
    let mac = config.mac.ok_or_else(|| {
        Error::not_found(format!("can not find the address of VM {vmid}: it has no network card net0"))
            .hint(format!("proxmox-ops config {vmid}"))
    })?;
    let mut agent = Agent::new(&config);
    let mut told = false;
    let mut next_status = Instant::now();
    loop {
        // Seldom: a question to an agent that is not there holds up the daemon's other answers.
        if Instant::now() >= next_status {
            let state = power::status(node, vmid, Deadline::secs(30))?;
            if state.status != "running" {
                return Err(Error::not_found(format!("VM {vmid} has no address: it is {}", state.status))
                    .hint(format!("proxmox-ops start {vmid}")));
            }
            next_status = Instant::now() + Duration::from_secs(3);
        }
        agent.ask(node, vmid)?;
        let mut seen = Seen { neighbours: neighbours(node), fixed, ..Seen::default() };
        let known = seen.neighbours.iter().any(|n| n.has(mac) && n.age().is_some() && unfit(n.dst).is_none());
        let patience = match (known, once) {
            (true, _) => GRACE,
            (false, true) => Duration::from_secs(8),
            (false, false) => Duration::from_millis(400),
        };
        seen.agent = agent.answer(patience);
        if seen.agent.is_none() {
            seen.answered = tried(node, mac, &seen);
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

fn none_yet(vmid: Vmid, mac: MacAddr, agent: &Agent, candidates: &[Candidate]) -> Error {
    let error = Error::not_found(format!("VM {vmid} has no address yet"))
        .now(format!("the guest agent: {}", agent.said()))
        .now(format!("the node's neighbour table has nothing for {mac}"));
    let error =
        candidates.iter().fold(error, |e, c| e.now(format!("{} ({}): {}", c.address, c.source, c.reason)));
    error
        .hint(format!("wait a little and run `proxmox-ops get-ip {vmid}` again"))
        .hint(format!("does it boot? `qm terminal {vmid}` on the node shows its console"))
        .details(serde_json::json!({ "candidates": candidates }))
}

/// Of several fresh neighbours of one MAC, those where something answers on the SSH port.
fn tried(node: &Node, mac: MacAddr, seen: &Seen) -> Vec<IpAddr> {
    let fit: Vec<IpAddr> = seen
        .neighbours
        .iter()
        .filter(|n| n.has(mac) && n.age().is_some() && unfit(n.dst).is_none())
        .map(|n| n.dst)
        .collect();
    if fit.len() < 2 {
        return Vec::new();
    }
    let answers = |address: &IpAddr| {
        node.api
            .transport()
            .open_tcp(&address.to_string(), 22, Deadline::after(Duration::from_millis(1500)))
            .is_ok()
    };
    fit.into_iter().filter(answers).collect()
}

fn neighbours(node: &Node) -> Vec<Neighbour> {
    match node.api.transport().exec(NEIGHBOURS, b"", Deadline::secs(10)) {
        Ok(output) if output.status == ExecStatus::Code(0) => parse_neighbours(&output.stdout),
        Ok(output) => {
            node.ui.detail(format!(
                "`{NEIGHBOURS}` on the node: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
            Vec::new()
        }
        Err(e) => {
            node.ui.detail(e.chain());
            Vec::new()
        }
    }
}

/// Entries that are not of the usual form are left out.
fn parse_neighbours(json: &[u8]) -> Vec<Neighbour> {
    let rows: Vec<Value> = serde_json::from_slice(json).unwrap_or_default();
    rows.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect()
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
        let enabled = config
            .settings
            .get("agent")
            .is_some_and(|setting| setting.split(',').any(|part| part == "1" || part == "enabled=1"));
        Agent { enabled, under_way: None, last: None, next: Instant::now() }
    }

    fn ask(&mut self, node: &Node, vmid: Vmid) -> Result<()> {
        if !self.enabled || self.under_way.is_some() || Instant::now() < self.next {
            return Ok(());
        }
        let name = node.name(Deadline::secs(30))?;
        let what = format!("ask the guest agent of VM {vmid} for its addresses");
        let path = vm_path(name, vmid, "/agent/network-get-interfaces");
        let aside = node.api.aside(&what, &path, &[], Deadline::secs(20))?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || send.send(aside.run(Deadline::secs(30))));
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
    use super::*;
    use crate::testing::{Fake, node};
    use fleet_core::Kind;
    use serde_json::json;

    const MAC: &str = "BC:24:11:19:0C:72";

    fn mac() -> MacAddr {
        MAC.parse().unwrap()
    }

    fn interfaces() -> Value {
        json!([
            {"name": "lo", "hardware-address": "00:00:00:00:00:00",
             "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
            {"name": "docker0", "hardware-address": "02:42:11:22:33:44",
             "ip-addresses": [{"ip-address": "172.17.0.1", "ip-address-type": "ipv4", "prefix": 16}]},
            {"name": "tailscale0", "ip-addresses": [{"ip-address": "100.64.0.7", "ip-address-type": "ipv4", "prefix": 32}]},
            {"name": "eth0", "hardware-address": "bc:24:11:19:0c:72",
             "ip-addresses": [
                {"ip-address": "fe80::be24:11ff:fe19:c72", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "2001:db8::5", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "10.99.0.89", "ip-address-type": "ipv4", "prefix": 24}]},
        ])
    }

    fn seen(agent: Value, neighbours: &str) -> Seen {
        Seen {
            agent: serde_json::from_value(agent).unwrap(),
            neighbours: parse_neighbours(neighbours.as_bytes()),
            ..Seen::default()
        }
    }

    fn taken(seen: &Seen) -> Option<(String, String)> {
        let candidates = weigh(mac(), seen);
        assert!(candidates.iter().filter(|c| c.taken).count() <= 1);
        candidates.first().filter(|c| c.taken).map(|c| (c.address.to_string(), c.source.clone()))
    }

    #[test]
    fn only_the_card_of_the_vm_counts() {
        let seen = seen(interfaces(), "[]");
        assert_eq!(taken(&seen), Some(("10.99.0.89".into(), "agent".into())));
        let reasons: Vec<String> =
            weigh(mac(), &seen).iter().map(|c| format!("{} {}", c.address, c.reason)).collect();
        insta::assert_snapshot!(reasons.join("\n"), @r"
        10.99.0.89 on eth0, whose MAC is net0's
        2001:db8::5 on eth0, whose MAC is net0's; not taken: the fresher entry knows better
        127.0.0.1 a loopback address
        172.17.0.1 on docker0, whose MAC is not net0's
        100.64.0.7 on tailscale0, whose MAC is not net0's
        fe80::be24:11ff:fe19:c72 a link-local address
        ");
    }

    #[test]
    fn the_neighbour_table_helps_where_there_is_no_agent() {
        let table = r#"[
            {"dst":"10.99.0.5","dev":"vmbr0","lladdr":"bc:24:11:19:0c:72","state":["STALE"]},
            {"dst":"10.99.0.6","dev":"vmbr0","lladdr":"bc:24:11:19:0c:72","state":["REACHABLE"]},
            {"dst":"10.99.0.7","dev":"vmbr0","lladdr":"bc:24:11:00:00:00","state":["REACHABLE"]},
            {"dst":"10.99.0.8","dev":"vmbr0","state":["FAILED"]},
            {"dst":"fe80::1","dev":"vmbr0","lladdr":"bc:24:11:19:0c:72","state":["REACHABLE"]},
            {"odd":true}]"#;
        assert_eq!(taken(&seen(json!(null), table)), Some(("10.99.0.6".into(), "neighbour".into())));
        // One that answers is better than a fresh one that does not.
        let mut with = seen(json!(null), table);
        with.answered = vec!["10.99.0.5".parse().unwrap()];
        assert_eq!(taken(&with), Some(("10.99.0.5".into(), "neighbour".into())));
        // The agent knows better than either.
        assert_eq!(taken(&seen(interfaces(), table)), Some(("10.99.0.89".into(), "agent".into())));
    }

    #[test]
    fn nothing_is_taken_from_nothing() {
        let lo = json!([{"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}]}, {"name": "eth0", "hardware-address": "bc:24:11:19:0c:72"}]);
        assert_eq!(taken(&seen(lo, "[]")), None);
        assert_eq!(
            taken(&seen(
                json!(null),
                r#"[{"dst":"10.0.0.1","lladdr":"bc:24:11:19:0c:72","state":["FAILED"]}]"#
            )),
            None
        );
        assert_eq!(taken(&seen(json!(null), "garbage")), None);
    }

    #[test]
    fn a_fixed_address_is_the_last_resort_and_the_first_among_equals() {
        let mut nothing = Seen { fixed: Some("192.0.2.9".parse().unwrap()), ..Seen::default() };
        assert_eq!(taken(&nothing), Some(("192.0.2.9".into(), "static".into())));
        nothing.agent = serde_json::from_value(interfaces()).unwrap();
        assert_eq!(taken(&nothing), Some(("10.99.0.89".into(), "agent".into())));
        nothing.fixed = Some("2001:db8::5".parse().unwrap());
        assert_eq!(taken(&nothing), Some(("2001:db8::5".into(), "agent".into())));
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
