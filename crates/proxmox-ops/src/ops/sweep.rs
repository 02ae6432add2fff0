//! Making the node notice a machine that changed its address without a word to it: every address of the
//! bridge's network is asked for once, by ARP, and the answers end up in the node's neighbour table.
//!
//! Only for when neither the agent nor the table has an address that answers: after kexec the installer has no
//! agent, and in a network whose DHCP server is elsewhere the node hears nothing of its new lease.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fleet_core::{Error, Result, child::quote, deadline::Deadline, ssh::ExecStatus, types::BridgeName};
use serde::Deserialize;

use crate::node::Node;

/// The largest network that is asked through: 1022 addresses take 2 s. In a larger one the asking itself would
/// be a burden.
const LARGEST_PREFIX: u32 = 22;

/// One empty datagram to the discard port (RFC 863) of each address from the first to the second argument:
/// sending it is what makes the kernel ask who has the address. 2 ms between two.
const SEND: &str = r#"socket(my $s,PF_INET,SOCK_DGRAM,0) or die "$!\n"; for my $n ($ARGV[0]..$ARGV[1]) { send($s,"",0,pack_sockaddr_in(9,pack("N",$n))); select(undef,undef,undef,0.002) }"#;

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    addr_info: Vec<LinkAddress>,
}

#[derive(Deserialize)]
pub(super) struct LinkAddress {
    pub(super) local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u32,
}

/// The addresses that `ip -j addr show` tells of, of all links in its answer.
pub(super) fn addresses(json: &[u8]) -> serde_json::Result<impl Iterator<Item = LinkAddress>> {
    let links: Vec<Link> = crate::api::encode::printed(json)?;
    Ok(links.into_iter().flat_map(|link| link.addr_info))
}

/// The ranges of addresses to ask for, first and last host of each network that the bridge is in, from
/// `ip -j -4 addr show dev BRIDGE`. Networks larger than a /22 and point-to-point links are left out.
fn ranges(json: &[u8]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    addresses(json)
        .into_iter()
        .flatten()
        .filter_map(|a| match a.local {
            Some(IpAddr::V4(local)) => Some((local, a.prefixlen)),
            _ => None,
        })
        .filter(|(local, prefix)| (LARGEST_PREFIX..=30).contains(prefix) && !local.is_loopback())
        .map(|(local, prefix)| {
            let mask = u32::MAX << (32 - prefix);
            let network = u32::from(local) & mask;
            (Ipv4Addr::from(network + 1), Ipv4Addr::from((network | !mask) - 1))
        })
        .collect()
}

/// What asks for the addresses from the first to the last one.
pub(super) fn asking(first: Ipv4Addr, last: Ipv4Addr) -> String {
    format!("perl -MSocket -e {} {} {}", quote(SEND), u32::from(first), u32::from(last))
}

/// What a command on the node printed; one that fails is an error. `what` says what it is for: "list the neighbours".
pub(super) fn told(node: &Node, what: &str, command: &str, deadline: Deadline) -> Result<Vec<u8>> {
    let output = node.api.transport().exec(command, b"", deadline)?;
    if output.status == ExecStatus::Code(0) {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
    let said = said.unwrap_or_else(|| match &output.status {
        ExecStatus::Code(code) => format!("it ended with {code}"),
        ExecStatus::Signal(name) => format!("it was ended by SIG{name}"),
    });
    let program = command.split(' ').next().unwrap_or_default();
    Err(Error::failed(format!("can not {what}: `{program}` on the node: {said}")))
}

/// Asks for every address of the networks that `bridge` of the node is in, and leaves the machines a moment to
/// answer. What goes wrong is only told as a detail: it was one more try.
pub fn sweep(node: &Node, bridge: &BridgeName) {
    let exec = |command: &str| {
        told(node, "look for machines", command, Deadline::secs(15))
            .map_err(|error| node.ui.detail(error.chain()))
            .ok()
    };
    let Some(json) = exec(&format!("ip -j -4 addr show dev {}", quote(bridge.as_str()))) else {
        return;
    };
    let ranges = ranges(&json);
    for (first, last) in &ranges {
        node.ui.detail(format!("asking the network of {bridge} who has {first} to {last}"));
        exec(&asking(*first, *last));
    }
    if !ranges.is_empty() {
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_small_networks_are_asked_for() {
        let json = br#"[{"ifname":"vmbr0","addr_info":[
            {"family":"inet","local":"192.0.2.1","prefixlen":24},
            {"family":"inet","local":"198.51.100.9","prefixlen":30},
            {"family":"inet","local":"10.0.0.1","prefixlen":8},
            {"family":"inet","local":"203.0.113.7","prefixlen":32}]},{}]"#;
        let as_text: Vec<String> = ranges(json).iter().map(|(a, b)| format!("{a}-{b}")).collect();
        assert_eq!(as_text, ["192.0.2.1-192.0.2.254", "198.51.100.9-198.51.100.10"]);
        assert!(ranges(b"").is_empty());
    }
}
