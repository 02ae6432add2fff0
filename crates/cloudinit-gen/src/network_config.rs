//! `network-config NAME`: the machine's first interface, found by its MAC address.

use std::{collections::BTreeMap, net::IpAddr};

use fleet_core::{
    Error, Result,
    definitions::Addressing,
    types::{Cidr, MacAddr},
};
use serde::Serialize;

use crate::{Context, subject::Subject};

/// What the interface is called once found, as by Proxmox's own network-config.
const INTERFACE: &str = "eth0";

/// Arguments of `network-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A VM of vms/definitions.nix
    pub name: String,
    /// MAC address of its first interface, where the definition does not fix it (see `proxmox-ops config NAME`)
    #[arg(long, value_name = "MAC")]
    pub mac: Option<MacAddr>,
    /// Let the machine tag its packets for the definition's VLAN itself; on Proxmox the network card does (`tag=`)
    #[arg(long)]
    pub tagged: bool,
}

/// A network-config, version 2 (netplan's format).
#[derive(Debug, Serialize)]
pub struct NetworkConfig<'a> {
    version: u8,
    ethernets: Ethernets<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vlans: BTreeMap<String, Vlan<'a>>,
}

#[derive(Debug, Serialize)]
struct Ethernets<'a> {
    // The name of the field is that of INTERFACE.
    eth0: Ethernet<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Ethernet<'a> {
    #[serde(rename = "match")]
    matching: Match,
    // Renderers other than netplan's (ENI, networkd) go by this name.
    set_name: &'static str,
    #[serde(flatten)]
    link: Link<'a>,
}

/// An interface that carries the packets of one VLAN of another.
#[derive(Debug, Serialize)]
struct Vlan<'a> {
    id: u16,
    link: &'static str,
    #[serde(flatten)]
    network: Link<'a>,
}

/// What an interface does in its network.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Link<'a> {
    dhcp4: bool,
    // The same identity as the installer and NixOS have later: the address stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    dhcp_identifier: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Nameservers<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Match {
    macaddress: String,
}

#[derive(Debug, Serialize)]
struct Route {
    to: &'static str,
    via: IpAddr,
}

#[derive(Debug, Serialize)]
struct Nameservers<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    search: Vec<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    addresses: &'a [IpAddr],
}

impl<'a> NetworkConfig<'a> {
    /// The network-config of `subject`, whose first interface has this MAC address.
    ///
    /// A fixed address without a gateway is an error: such a machine is not reached from anywhere else. With
    /// `tagged` the machine itself tags its packets, which must not be on Proxmox: there the network card does.
    pub fn new(subject: &Subject<'a>, mac: MacAddr, tagged: bool) -> Result<NetworkConfig<'a>> {
        let (addresses, routes, search) = match subject.addressing {
            // DHCP says the search domain.
            Addressing::Dhcp => (Vec::new(), Vec::new(), Vec::new()),
            Addressing::Static(cidr) => {
                let gateway = subject.gateway.ok_or_else(|| no_gateway(subject.name, cidr))?;
                (
                    vec![cidr.to_string()],
                    vec![default_route(subject.name, cidr, gateway)?],
                    subject.domain().into_iter().collect(),
                )
            }
        };
        let dhcp4 = subject.addressing == Addressing::Dhcp;
        let named = !search.is_empty() || !subject.nameservers.is_empty();
        let network = Link {
            dhcp4,
            dhcp_identifier: dhcp4.then_some("mac"),
            addresses,
            routes,
            nameservers: named.then_some(Nameservers { search, addresses: subject.nameservers }),
            mtu: subject.mtu,
        };
        let (link, vlans) = match subject.vlan {
            Some(id) if tagged => (
                Link { mtu: subject.mtu, ..Link::default() },
                BTreeMap::from([(format!("vlan{id}"), Vlan { id, link: INTERFACE, network })]),
            ),
            None if tagged => {
                return Err(Error::usage(format!(
                    "'{}' is in no VLAN that it could tag its packets for",
                    subject.name
                ))
                .hint(format!("set `vlan` in managed.{}, or leave --tagged out", subject.name)));
            }
            _ => (network, BTreeMap::new()),
        };
        let matching = Match { macaddress: mac.lower() };
        let eth0 = Ethernet { matching, set_name: INTERFACE, link };
        Ok(NetworkConfig { version: 2, ethernets: Ethernets { eth0 }, vlans })
    }
}

/// `gateway4` is deprecated, and cloud-init 22.4 understands `to: default` only where netplan renders it; this
/// form is understood everywhere.
fn default_route(name: &str, cidr: Cidr, via: IpAddr) -> Result<Route> {
    let link_local = matches!(via, IpAddr::V6(via) if via.is_unicast_link_local());
    if !link_local && !cidr.contains(via) {
        // netplan's `on-link: true` is not in cloud-init's schema, and only netplan's renderer passes it on.
        return Err(Error::usage(format!(
            "managed.{name}: the gateway {via} is outside the network of {cidr}"
        ))
        .now("cloud-init's network-config has no way to say that it is reached directly all the same")
        .hint("give the address with a prefix that takes the gateway in"));
    }
    Ok(Route { to: if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, via })
}

fn no_gateway(name: &str, cidr: Cidr) -> Error {
    Error::usage(format!("managed.{name}: the address {cidr} has no gateway"))
        .hint(format!("add `gateway = \"…\";` to managed.{name}, or `ip = \"dhcp\";`"))
}

/// The MAC address to match: the definition's, else the one given; both must agree.
pub(crate) fn mac_of(subject: &Subject<'_>, given: Option<MacAddr>) -> Result<MacAddr> {
    match (subject.mac, given) {
        (Some(defined), Some(given)) if defined != given => Err(Error::usage(format!(
            "managed.{}.mac is {defined}, but --mac says {given}",
            subject.name
        ))),
        (Some(mac), _) | (None, Some(mac)) => Ok(mac),
        (None, None) => Err(Error::usage(format!("the MAC address of '{}' is not known", subject.name))
            .now("the interface is matched by its MAC address, and Proxmox chooses one where the definition has none")
            .hint(format!("give --mac MAC, which `proxmox-ops config {}` shows, or set `mac` in the definition", subject.name))),
    }
}

/// Prints the document.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let subject = context.subject(&args.name)?;
    let mac = mac_of(&subject, args.mac)?;
    context.print(None, &NetworkConfig::new(&subject, mac, args.tagged)?)
}
