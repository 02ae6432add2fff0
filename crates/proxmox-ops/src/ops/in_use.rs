//! Whether some machine has an address already: the node itself, or one in its networks, which is asked for the
//! address alone.

use std::{net::IpAddr, time::Duration};

use fleet_core::{Error, Result, deadline::Deadline, protocol::AddressHolder};

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

/// Who has `wanted`; nothing when nobody answers to it. A node that does not tell is an error. Asked for is an IPv4
/// address only; of an IPv6 address counts what the node has heard lately.
pub fn holder(node: &Node, wanted: IpAddr, deadline: Deadline) -> Result<Option<AddressHolder>> {
    let name = node.name(deadline)?.clone();
    let what = format!("find out who has {wanted}");
    let own = sweep::told(node, &what, OWN, deadline)?;
    let own = is_own(&own, wanted)
        .map_err(|e| Error::failed(format!("can not {what}: `{OWN}` printed something else")).caused_by(e))?;
    if own {
        return Ok(Some(AddressHolder { node: name, mac: None }));
    }
    if let IpAddr::V4(wanted) = wanted {
        sweep::told(node, &what, &sweep::asking(wanted, wanted), deadline)?;
    }
    let certain = Deadline::after(CERTAINTY);
    deadline.sleep(ANSWER);
    loop {
        let neighbours = address::list_neighbours(node, deadline)?;
        let there = neighbours.iter().filter(|n| n.dst == wanted);
        match there.filter_map(|n| n.mac().zip(n.age())).min_by_key(|(_, age)| *age) {
            Some((mac, 0)) => return Ok(Some(AddressHolder { node: name, mac: Some(mac) })),
            // It was there once; the kernel is about to find out.
            Some(_) if !certain.passed() => {
                deadline.check(format_args!("an answer of who has {wanted}"))?;
                deadline.sleep(PAUSE);
            }
            _ => return Ok(None),
        }
        fleet_core::interrupt::check()?;
    }
}

fn is_own(json: &[u8], wanted: IpAddr) -> serde_json::Result<bool> {
    Ok(sweep::addresses(json)?.any(|address| address.local == Some(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, node};
    use serde_json::json;

    const LINKS: &str = r#"[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1"}]},
        {"ifname":"vmbr0","addr_info":[{"local":"192.0.2.1","prefixlen":24},{"local":"2001:db8::1"}]},{}]"#;
    const TABLE: &str = r#"[{"dst":"192.0.2.7","dev":"vmbr0","lladdr":"02:00:00:00:00:07","state":["REACHABLE"]},
        {"dst":"2001:db8::7","dev":"vmbr0","lladdr":"02:00:00:00:00:07","state":["REACHABLE"]},
        {"dst":"192.0.2.8","dev":"vmbr0","state":["FAILED"]}]"#;

    #[test]
    fn the_nodes_own_addresses_are_those_of_all_its_links() {
        for (address, own) in [("192.0.2.1", true), ("2001:db8::1", true), ("192.0.2.2", false)] {
            assert_eq!(is_own(LINKS.as_bytes(), address.parse().unwrap()).unwrap(), own, "{address}");
        }
        is_own(b"", "192.0.2.1".parse().unwrap()).unwrap_err();
    }

    /// A node that prints this, each with how it ends: its addresses, what asks for one, its neighbours.
    fn asked(address: &str, [own, ask, table]: [(&str, i32); 3]) -> Result<Option<AddressHolder>> {
        let wanted: IpAddr = address.parse().unwrap();
        let mut fake = Fake::new()
            .get("/cluster/status", json!([{"type": "node", "name": "prom", "local": 1}]))
            .exec(OWN, own.0, own.1)
            .exec(address::NEIGHBOURS, table.0, table.1);
        if let IpAddr::V4(v4) = wanted {
            fake = fake.exec(&sweep::asking(v4, v4), ask.0, ask.1);
        }
        holder(&node(&fake), wanted, Deadline::secs(20))
    }

    #[test]
    fn a_strangers_network_card_is_told_and_nobodys_address_is_nobodys() {
        let well = [(LINKS, 0), ("", 0), (TABLE, 0)];
        let mac = |address: &str| asked(address, well).unwrap().map(|holder| holder.mac);
        let stranger = Some(Some("02:00:00:00:00:07".parse().unwrap()));
        assert_eq!(mac("192.0.2.7"), stranger);
        assert_eq!(mac("2001:db8::7"), stranger);
        assert_eq!(mac("192.0.2.1"), Some(None));
        for nobody in ["192.0.2.8", "192.0.2.9"] {
            assert_eq!(mac(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_node_that_does_not_tell_is_an_error() {
        for (broken, program) in [
            ([("", 127), ("", 0), (TABLE, 0)], "`ip`"),
            ([("no JSON", 0), ("", 0), (TABLE, 0)], "`ip -j addr show`"),
            ([(LINKS, 0), ("", 2), (TABLE, 0)], "`perl`"),
            ([(LINKS, 0), ("", 0), ("", 1)], "`ip`"),
            ([(LINKS, 0), ("", 0), ("no JSON", 0)], "`ip -j neigh`"),
        ] {
            // Whether or not somebody has it.
            for address in ["192.0.2.7", "192.0.2.9"] {
                let error = asked(address, broken).unwrap_err();
                assert!(error.message().starts_with("can not "), "{error:?}");
                assert!(error.message().contains(program), "{error:?}");
            }
        }
    }
}
