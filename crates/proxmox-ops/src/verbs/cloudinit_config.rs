//! `proxmox-ops cloudinit-config`

use clap::Args;
use fleet_core::{
    Result,
    definitions::{Addressing, Entry, ManagedVm},
    guard::Operation,
    types::{UserName, VmName, VmRef},
};

use crate::{
    context::{ChangeOptions, Context},
    keys,
};

/// Set what cloud-init gives a VM: SSH keys, login, address, host name
///
/// The address is the definition's (DHCP where there is none). Give it before the first start: a later change
/// makes cloud-init run again as on a new machine.
#[derive(Debug, Args)]
pub struct CloudinitConfig {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// SSH public keys, one a line: as text, @FILE, or - for standard input
    #[arg(value_name = "SSH_KEYS")]
    keys: String,
    /// Host name; Proxmox takes the VM's name for it
    hostname: Option<VmName>,
    /// Login that gets the keys
    #[arg(long, value_name = "NAME", default_value = "root")]
    login: UserName,
    #[command(flatten)]
    options: ChangeOptions,
}

impl CloudinitConfig {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "set cloud-init of")?;
        let keys = keys::read(&self.keys)?;
        let count = keys.lines().count();
        let mut settings =
            vec![("ciuser", self.login.to_string()), ("sshkeys", keys), ("ciupgrade", "0".to_owned())];
        match cx.definitions.by_vmid(permit.vmid()) {
            Some(Entry::Managed(vm)) => settings.extend(addressing(vm)),
            _ => settings.push(("ipconfig0", "ip=dhcp".to_owned())),
        }
        if let Some(hostname) = &self.hostname {
            settings.push(("name", hostname.to_string()));
        }
        let done = format!("VM {}: cloud-init gives {} key(s) to {}", permit.vmid(), count, self.login);
        super::configure(cx, &permit, &self.options, &settings, &done)
    }
}

/// `ipconfig0` and `nameserver` of a definition.
fn addressing(vm: &ManagedVm) -> Vec<(&'static str, String)> {
    let ipconfig = match vm.addressing {
        Addressing::Dhcp => "ip=dhcp".to_owned(),
        Addressing::Static(cidr) => {
            let (ip, gw) = if cidr.address.is_ipv4() { ("ip", "gw") } else { ("ip6", "gw6") };
            match vm.gateway {
                Some(gateway) => format!("{ip}={cidr},{gw}={gateway}"),
                None => format!("{ip}={cidr}"),
            }
        }
    };
    let mut settings = vec![("ipconfig0", ipconfig)];
    if !vm.nameservers.is_empty() {
        let servers: Vec<String> = vm.nameservers.iter().map(ToString::to_string).collect();
        settings.push(("nameserver", servers.join(" ")));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_says_the_address() {
        let mut vm = crate::testing::definitions().managed.remove(0);
        assert_eq!(addressing(&vm), [("ipconfig0", "ip=dhcp".to_owned())]);
        vm.addressing = Addressing::Static("192.0.2.10/24".parse().unwrap());
        vm.gateway = Some("192.0.2.1".parse().unwrap());
        vm.nameservers = vec!["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        assert_eq!(
            addressing(&vm),
            [
                ("ipconfig0", "ip=192.0.2.10/24,gw=192.0.2.1".to_owned()),
                ("nameserver", "192.0.2.2 2001:db8::2".to_owned())
            ]
        );
        vm.addressing = Addressing::Static("2001:db8::10/64".parse().unwrap());
        vm.gateway = None;
        assert_eq!(addressing(&vm)[0].1, "ip6=2001:db8::10/64");
    }
}
