//! Whether some machine has an address already: the node itself, or one in its networks, which is asked for the
//! address alone.

use std::{net::IpAddr, time::Duration};

use fleet_core::{Result, deadline::Deadline, protocol::AddressHolder, ssh::ExecStatus};

use super::{address, sweep};
use crate::node::Node;

/// The node's own addresses.
const OWN: &str = "ip -j addr show";
/// What a machine needs to answer an ARP request.
const ANSWER: Duration = Duration::from_millis(400);
/// After this the kernel has asked a neighbour again that it had only heard of before (5 s of `delay_first_probe_time`,
/// three probes, arp(7)).
const CERTAINTY: Duration = Duration::from_secs(9);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// Who has `wanted`; nothing when nobody answers to it. A node that does not tell is an error.
pub fn holder(node: &Node, wanted: IpAddr, deadline: Deadline) -> Result<Option<AddressHolder>> {
    let name = node.name(deadline)?.clone();
    let own = node.api.transport().exec(OWN, b"", deadline)?;
    if own.status == ExecStatus::Code(0) && is_own(&own.stdout, wanted) {
        return Ok(Some(AddressHolder { node: name, mac: None }));
    }
    if let IpAddr::V4(wanted) = wanted {
        sweep::ask_for(node, wanted);
    }
    let certain = Deadline::after(CERTAINTY);
    deadline.sleep(ANSWER);
    loop {
        let neighbours = address::neighbours(node);
        let there = neighbours.iter().filter(|n| n.dst == wanted);
        match there.filter_map(|n| n.mac().zip(n.age())).min_by_key(|(_, age)| *age) {
            Some((mac, 0)) => return Ok(Some(AddressHolder { node: name, mac: Some(mac) })),
            // It was there once; the kernel is about to find out.
            Some(_) if !certain.passed() && !deadline.passed() => deadline.sleep(PAUSE),
            _ => return Ok(None),
        }
        fleet_core::interrupt::check()?;
    }
}

fn is_own(json: &[u8], wanted: IpAddr) -> bool {
    sweep::addresses(json).any(|address| address.local == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_addresses_are_those_of_all_its_links() {
        let json = br#"[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1"}]},
            {"ifname":"vmbr0","addr_info":[{"local":"192.0.2.1","prefixlen":24},{"local":"2001:db8::1"}]},{}]"#;
        for (address, own) in [("192.0.2.1", true), ("2001:db8::1", true), ("192.0.2.2", false)] {
            assert_eq!(is_own(json, address.parse().unwrap()), own, "{address}");
        }
        assert!(!is_own(b"", "192.0.2.1".parse().unwrap()));
    }
}
