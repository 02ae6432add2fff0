//! `network-config NAME`: the machine's first interface, found by its MAC address.

use std::net::IpAddr;

use fleet_core::{Error, Result, definitions::Addressing, types::MacAddr};
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
}

/// A network-config, version 2 (netplan's format).
#[derive(Debug, Serialize)]
pub struct NetworkConfig<'a> {
    version: u8,
    ethernets: Ethernets<'a>,
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
    pub fn new(subject: &Subject<'a>, mac: MacAddr) -> NetworkConfig<'a> {
        let search: Vec<&str> = subject.domain().into_iter().collect();
        let (addresses, routes, search) = match subject.addressing {
            // DHCP says the search domain.
            Addressing::Dhcp => (Vec::new(), Vec::new(), Vec::new()),
            Addressing::Static(cidr) => {
                (vec![cidr.to_string()], subject.gateway.into_iter().map(default_route).collect(), search)
            }
        };
        let dhcp4 = subject.addressing == Addressing::Dhcp;
        let named = !search.is_empty() || !subject.nameservers.is_empty();
        let eth0 = Ethernet {
            matching: Match { macaddress: mac.lower() },
            set_name: INTERFACE,
            dhcp4,
            dhcp_identifier: dhcp4.then_some("mac"),
            addresses,
            routes,
            nameservers: named.then_some(Nameservers { search, addresses: subject.nameservers }),
            mtu: subject.mtu,
        };
        NetworkConfig { version: 2, ethernets: Ethernets { eth0 } }
    }
}

/// `gateway4` is deprecated, and cloud-init 22.4 understands `to: default` only where netplan renders it; this
/// form is understood everywhere.
fn default_route(via: IpAddr) -> Route {
    Route { to: if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, via }
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
    context.print(None, &NetworkConfig::new(&subject, mac))
}
