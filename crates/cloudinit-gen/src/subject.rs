//! The machine that the documents are for: what they need to know of it, whether managed or imported.

use std::net::IpAddr;

use fleet_core::{
    Error, Result,
    definitions::{Addressing, Definitions, Entry},
    types::{MacAddr, Vmid},
};

/// One machine, its definition reduced to what cloud-init is told.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Attribute name in the definitions.
    pub name: &'a str,
    /// VMID.
    pub vmid: Vmid,
    /// Host name as defined, maybe with a domain.
    pub fqdn: &'a str,
    /// MAC address of its first interface, where the definition fixes it.
    pub mac: Option<MacAddr>,
    /// MTU of its first interface.
    pub mtu: Option<u32>,
    /// VLAN of its first interface.
    pub vlan: Option<u16>,
    /// DHCP, or a fixed address.
    pub addressing: Addressing,
    /// Default gateway of a fixed address.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub nameservers: &'a [IpAddr],
    /// Time zone.
    pub timezone: Option<&'a str>,
    /// Packages to install at first boot.
    pub packages: &'a [String],
    /// Keys that may log in besides those of `hosts.nix`.
    pub authorized_keys: &'a [String],
}

impl<'a> Subject<'a> {
    /// The VM of this name, managed or imported; the template is neither.
    pub fn find(definitions: &'a Definitions, name: &str) -> Result<Subject<'a>> {
        Ok(match definitions.by_name(name) {
            Some(Entry::Managed(vm)) => Subject {
                name: vm.name.as_str(),
                vmid: vm.vmid,
                fqdn: vm.hostname.as_str(),
                mac: vm.mac,
                mtu: vm.mtu,
                vlan: vm.vlan,
                addressing: vm.addressing,
                gateway: vm.gateway,
                nameservers: &vm.nameservers,
                timezone: vm.timezone.as_deref(),
                packages: &vm.packages,
                authorized_keys: &vm.authorized_keys,
            },
            Some(Entry::Imported(vm)) => Subject {
                name: &vm.name,
                vmid: vm.vmid,
                fqdn: vm.hostname.as_deref().unwrap_or(&vm.name),
                mac: None,
                mtu: None,
                vlan: None,
                // Its address is only a remark: nothing says how the machine comes by it.
                addressing: Addressing::Dhcp,
                gateway: None,
                nameservers: &[],
                timezone: None,
                packages: &[],
                authorized_keys: &[],
            },
            Some(Entry::Template(template)) => {
                let what = format!("'{}' is the template (VMID {}), not a VM", template.name, template.vmid);
                return Err(Error::not_found(what).hint("name a VM that is made from it"));
            }
            None => {
                let path = definitions.path.display();
                let error = Error::not_found(format!("no VM '{}' in {path}", name.escape_debug()));
                return Err(match definitions.nearest(name) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("add it under `managed` in {path}")),
                });
            }
        })
    }

    /// The first label of the host name.
    pub fn hostname(&self) -> &'a str {
        self.fqdn.split('.').next().unwrap_or(self.fqdn)
    }

    /// What follows the first label of the host name.
    pub fn domain(&self) -> Option<&'a str> {
        self.fqdn.split_once('.').map(|(_, domain)| domain)
    }
}
