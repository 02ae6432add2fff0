//! Which of the addresses that were seen is the VM's: weighed without asking anybody.

use std::net::IpAddr;

use fleet_core::{protocol::Candidate, types::MacAddr};
use serde::Deserialize;
use serde_json::Value;

use crate::api::encode;

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
    pub(super) dst: IpAddr,
    #[serde(default)]
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

impl Neighbour {
    pub(super) fn has(&self, mac: MacAddr) -> bool {
        self.mac() == Some(mac)
    }

    pub(super) fn mac(&self) -> Option<MacAddr> {
        self.lladdr.as_deref()?.parse().ok()
    }

    /// How fresh it is: less is fresher; none when it is known not to answer.
    pub(super) fn age(&self) -> Option<u8> {
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
pub(super) fn unfit(address: IpAddr) -> Option<&'static str> {
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
        // What was heard just now counts: an older entry may be of a machine that is gone.
        let other = seen.neighbours.iter().find(|n| n.dst == fixed && n.age() == Some(0) && !n.has(mac));
        match other.and_then(Neighbour::mac) {
            Some(other) => {
                let reason = format!("the definition's, but the machine with the MAC address {other} has it");
                add(None, fixed, "static", reason);
            }
            None => {
                let reason = "the definition's; nothing was seen of another".to_owned();
                add(Some((2, 0)), fixed, "static", reason);
            }
        }
    }
    found.sort_by_key(|(rank, _)| (rank.is_none(), *rank));
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut best: Option<Rank> = None;
    for (rank, mut candidate) in found {
        match (rank, best) {
            (Some(rank), None) => {
                candidate.taken = true;
                best = Some(rank);
            }
            (Some(rank), Some(best)) => {
                let taken = &candidates[0];
                candidate.reason = if taken.address == candidate.address {
                    format!("{}; the same as the one taken", candidate.reason)
                } else {
                    format!("{}; not taken: {}", candidate.reason, why(&taken.source, best, rank))
                };
            }
            (None, _) => {}
        }
        candidates.push(candidate);
    }
    candidates
}

/// In what one was better than another.
fn why(source: &str, taken: Rank, other: Rank) -> String {
    match () {
        () if taken.0 != other.0 => format!("the {source} knows better"),
        () if taken.1 != other.1 => "another one answers".to_owned(),
        () if taken.2 == 0 && other.2 != 0 => "another one is the definition's".to_owned(),
        () if taken.2 != other.2 => "another entry is fresher".to_owned(),
        () if taken.3 != other.3 => "IPv4 goes first".to_owned(),
        () => format!("the {source} told another one first"),
    }
}

/// Entries that are not of the usual form are left out.
pub(super) fn parse_neighbours(json: &[u8]) -> serde_json::Result<Vec<Neighbour>> {
    let rows: Vec<Value> = encode::printed(json)?;
    Ok(rows.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) const MAC: &str = "BC:24:11:19:0C:72";

    fn mac() -> MacAddr {
        MAC.parse().unwrap()
    }

    pub(crate) fn interfaces() -> Value {
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
            neighbours: parse_neighbours(neighbours.as_bytes()).unwrap_or_default(),
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
        2001:db8::5 on eth0, whose MAC is net0's; not taken: IPv4 goes first
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
        let reasons = |seen: &Seen| weigh(mac(), seen).into_iter().map(|c| c.reason).collect::<Vec<_>>();
        assert!(
            reasons(&with)[1].ends_with("(reachable); not taken: another one answers"),
            "{:?}",
            reasons(&with)
        );
        with.answered.clear();
        assert!(
            reasons(&with)[1].ends_with("(stale); not taken: another entry is fresher"),
            "{:?}",
            reasons(&with)
        );
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
        // Somebody else has it, or had it once.
        let entry = |state: &str| {
            let entry = json!([{"dst": "192.0.2.9", "lladdr": "02:00:5e:10:00:07", "state": [state]}]);
            parse_neighbours(entry.to_string().as_bytes()).unwrap()
        };
        nothing.neighbours = entry("REACHABLE");
        assert_eq!(taken(&nothing), None);
        nothing.neighbours = entry("STALE");
        assert_eq!(taken(&nothing), Some(("192.0.2.9".into(), "static".into())));
        nothing.agent = serde_json::from_value(interfaces()).unwrap();
        assert_eq!(taken(&nothing), Some(("10.99.0.89".into(), "agent".into())));
        nothing.fixed = Some("2001:db8::5".parse().unwrap());
        assert_eq!(taken(&nothing), Some(("2001:db8::5".into(), "agent".into())));
    }
}
