//! Whether some machine has an address already: the node itself, or one in its networks, which is asked for the
//! address alone.

use std::{net::IpAddr, time::Duration};

use fleet_core::{
    Error, Result, deadline::Deadline, protocol::AddressHolder, ssh::ExecStatus, types::MacAddr,
};

use super::{Progress, address, sweep};
use crate::node::Node;

/// The node's own addresses.
const OWN: &str = "ip -j addr show";
/// What a machine needs to answer an ARP request.
const ANSWER: Duration = Duration::from_millis(400);
/// After this the kernel has asked a neighbour again that it had only heard of before (5 s of `delay_first_probe_time`,
/// three probes, arp(7)).
const CERTAINTY: Duration = Duration::from_secs(9);
/// After this it doubts one that had answered: until then it believes it to be there and asks nobody, for between half
/// and one and a half of 30 s (`base_reachable_time_ms`, arp(7)). A VM that was just destroyed is such a one.
const MEMORY: Duration = Duration::from_secs(50);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// Between two echo requests.
const AGAIN: Duration = Duration::from_secs(3);

/// How long [`holder`] may take in all.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Who has `wanted`; nothing when nobody answers to it. A node that does not tell is an error. Asked for is an IPv4
/// address only; of an IPv6 address counts what the node has heard lately.
///
/// That the node knew of a machine before it was asked is no answer: it may be gone since. Such a one gets an echo
/// request, and where nothing comes back, it is waited for until the kernel has asked itself.
pub fn holder(
    node: &Node,
    wanted: IpAddr,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Option<AddressHolder>> {
    let name = node.name(deadline)?.clone();
    let what = format!("find out who has {wanted}");
    let own = sweep::told(node, &what, OWN, deadline)?;
    let own = is_own(&own, wanted)
        .map_err(|e| Error::failed(format!("can not {what}: `{OWN}` printed something else")).caused_by(e))?;
    if own {
        return Ok(Some(AddressHolder { node: name, mac: None }));
    }
    // Whom the kernel believes to be there without asking.
    let mut believed = None;
    if wanted.is_ipv4() {
        believed = neighbour(node, wanted, deadline)?.filter(|(_, age)| *age == 0).map(|(mac, _)| mac);
    }
    let ask = || match wanted {
        IpAddr::V4(v4) => sweep::told(node, &what, &sweep::asking(v4, v4), deadline).map(drop),
        IpAddr::V6(_) => Ok(()),
    };
    ask()?;
    let (mut certain, doubted) = (Deadline::after(CERTAINTY), Deadline::after(MEMORY));
    let mut echo: Option<Deadline> = None;
    deadline.sleep(ANSWER);
    loop {
        match neighbour(node, wanted, deadline)? {
            Some((mac, 0)) if believed != Some(mac) || doubted.passed() => {
                return Ok(Some(AddressHolder { node: name, mac: Some(mac) }));
            }
            Some((mac, 0)) => {
                if echo.as_ref().is_none_or(Deadline::passed) {
                    if echoes(node, wanted, deadline)? {
                        return Ok(Some(AddressHolder { node: name, mac: Some(mac) }));
                    }
                    if echo.replace(Deadline::after(AGAIN)).is_none() {
                        progress(&format!(
                            "note: the node remembers a machine at {wanted}, which does not answer: waiting until the node \
                             has asked for it again, for a minute at most"
                        ));
                    }
                }
            }
            // It is doubted from now on, and by a kernel that is given a reason to ask.
            Some(_) if believed.take().is_some() => {
                ask()?;
                certain = Deadline::after(CERTAINTY);
            }
            // It was there once; the kernel is about to find out.
            Some(_) if !certain.passed() => {}
            _ => return Ok(None),
        }
        deadline.check(format_args!("an answer of who has {wanted}"))?;
        deadline.sleep(PAUSE);
        fleet_core::interrupt::check()?;
    }
}

/// The machine that the node's table has for an address, and how fresh that is.
fn neighbour(node: &Node, wanted: IpAddr, deadline: Deadline) -> Result<Option<(MacAddr, u8)>> {
    let neighbours = address::list_neighbours(node, deadline)?;
    let there = neighbours.iter().filter(|n| n.dst == wanted);
    Ok(there.filter_map(|n| n.mac().zip(n.age())).min_by_key(|(_, age)| *age))
}

/// What asks for one answer of an address, within a second (ping(8)); it also makes the kernel use what it remembers.
fn echo_request(wanted: IpAddr) -> String {
    format!("ping -n -q -c 1 -W 1 {wanted}")
}

/// Whether something answers there. A node that can not ask so has nothing to tell.
fn echoes(node: &Node, wanted: IpAddr, deadline: Deadline) -> Result<bool> {
    let short = deadline.at_most(Duration::from_secs(10));
    let output = node.api.transport().exec(&echo_request(wanted), b"", short)?;
    Ok(output.status == ExecStatus::Code(0))
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
            fake = fake.exec(&sweep::asking(v4, v4), ask.0, ask.1).exec(&echo_request(wanted), "", 0);
        }
        holder(&node(&fake), wanted, Deadline::secs(20), &mut |_| {})
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
