//! The machine that the documents are for: what they need to know of it, whether managed or imported.

use std::net::IpAddr;

use fleet_core::{
    Error, Result,
    definitions::{Addressing, Definitions, Entry},
    types::{Cidr, MacAddr, Vmid},
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
    /// DHCP, or a fixed address that was checked against its gateway.
    pub addressing: Addressing,
    /// Default gateway; always there with a fixed address.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub nameservers: &'a [IpAddr],
    /// Time zone.
    pub timezone: Option<&'a str>,
    /// Packages to install at first boot.
    pub packages: &'a [String],
}

impl<'a> Subject<'a> {
    /// The VM of this name, managed or imported; the template is neither.
    pub fn find(definitions: &'a Definitions, name: &str) -> Result<Subject<'a>> {
        let subject = match definitions.by_name(name) {
            Some(Entry::Managed(vm)) => Subject {
                name: vm.name.as_str(),
                vmid: vm.vmid,
                fqdn: vm.hostname.as_str(),
                mac: vm.mac,
                mtu: vm.mtu,
                addressing: vm.addressing,
                gateway: vm.gateway,
                nameservers: &vm.nameservers,
                timezone: vm.timezone.as_deref(),
                packages: &vm.packages,
            },
            Some(Entry::Imported(vm)) => Subject {
                name: &vm.name,
                vmid: vm.vmid,
                fqdn: vm.hostname.as_deref().unwrap_or(&vm.name),
                mac: None,
                mtu: None,
                // Its address is only a remark: nothing says how the machine comes by it.
                addressing: Addressing::Dhcp,
                gateway: None,
                nameservers: &[],
                timezone: None,
                packages: &[],
            },
            // The error knows the path and the nearest name.
            Some(Entry::Template(_)) | None => match definitions.managed(name) {
                Err(error) => return Err(error),
                Ok(_) => return Err(Error::not_found(format!("no VM '{}'", name.escape_debug()))),
            },
        };
        subject.check()?;
        Ok(subject)
    }

    /// The first label of the host name.
    pub fn hostname(&self) -> &'a str {
        self.fqdn.split('.').next().unwrap_or(self.fqdn)
    }

    /// What follows the first label of the host name.
    pub fn domain(&self) -> Option<&'a str> {
        self.fqdn.split_once('.').map(|(_, domain)| domain)
    }

    fn check(&self) -> Result<()> {
        if let Addressing::Static(cidr) = self.addressing {
            check_fixed_address(self.name, cidr, self.gateway)?;
        }
        if let Some(zone) = self.timezone {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
            if zone.is_empty() || !zone.chars().all(fits) {
                return Err(self.wrong("timezone", zone, "a name such as Europe/Amsterdam"));
            }
        }
        for package in self.packages {
            // What apt and dnf accept, with a version or release behind it; never an option.
            let fits = |c: char| c.is_ascii_alphanumeric() || "+-._:=/~".contains(c);
            if !package.starts_with(|c: char| c.is_ascii_alphanumeric()) || !package.chars().all(fits) {
                return Err(self.wrong("packages", package, "a package's name"));
            }
        }
        Ok(())
    }

    fn wrong(&self, field: &str, value: &str, right: &str) -> Error {
        Error::usage(format!("managed.{}.{field}: '{}' is not {right}", self.name, value.escape_debug()))
    }
}

/// A fixed address is of use only with a gateway, which must be another address of the same network.
fn check_fixed_address(name: &str, cidr: Cidr, gateway: Option<IpAddr>) -> Result<()> {
    let Some(gateway) = gateway else {
        return Err(Error::usage(format!("managed.{name}: the address {cidr} has no gateway"))
            .hint(format!("add `gateway = \"…\";` to managed.{name}, or `ip = \"dhcp\";`")));
    };
    let link_local =
        matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local()) && cidr.address.is_ipv6();
    if gateway == cidr.address {
        return Err(Error::usage(format!("managed.{name}: the address {cidr} is also its gateway")));
    }
    if !link_local && !cidr.contains(gateway) {
        return Err(Error::usage(format!(
            "managed.{name}: the gateway {gateway} is not in the network of {cidr}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cidr: &str, gateway: Option<&str>) -> Result<()> {
        check_fixed_address("web", cidr.parse().unwrap(), gateway.map(|g| g.parse().unwrap()))
    }

    #[test]
    fn a_fixed_address_needs_a_gateway_of_its_network() {
        check("192.0.2.10/24", Some("192.0.2.1")).unwrap();
        check("2001:db8::10/64", Some("2001:db8::1")).unwrap();
        check("2001:db8::10/64", Some("fe80::1")).unwrap();
        let message = |cidr, gateway| check(cidr, gateway).unwrap_err().message().to_owned();
        insta::assert_snapshot!(message("192.0.2.10/24", None), @"managed.web: the address 192.0.2.10/24 has no gateway");
        insta::assert_snapshot!(message("192.0.2.10/24", Some("198.51.100.1")), @"managed.web: the gateway 198.51.100.1 is not in the network of 192.0.2.10/24");
        insta::assert_snapshot!(message("192.0.2.10/24", Some("fe80::1")), @"managed.web: the gateway fe80::1 is not in the network of 192.0.2.10/24");
        insta::assert_snapshot!(message("192.0.2.1/24", Some("192.0.2.1")), @"managed.web: the address 192.0.2.1/24 is also its gateway");
    }
}
