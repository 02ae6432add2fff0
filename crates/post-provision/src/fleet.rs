//! What the rules need to know about the fleet's hosts.

use fleet_core::{definitions::Definitions, hosts::Hosts};

use crate::{recipient::HostKey, rules::Fleet};

/// Every host by name, and the people who may log in, with the names that it goes by and its recipient, from the definitions and `hosts.nix`.
pub fn fleet_of(definitions: &Definitions, hosts: &Hosts) -> Fleet {
    let mut fleet = Fleet::default();
    for host in &hosts.hosts {
        let names = host.hostname.iter().chain(&host.ssh_alias).cloned();
        let key = host.public_key.as_deref().and_then(|line| HostKey::parse(line).ok());
        fleet.add(&host.name, names, key.and_then(|key| key.recipient().ok()).map(|r| r.to_string()));
        host.user.iter().for_each(|user| fleet.add_user(user.clone()));
    }
    for line in hosts.hosts.iter().flat_map(|host| &host.authorized_keys) {
        if let Ok(recipient) = HostKey::parse(line).and_then(|key| key.recipient()) {
            fleet.add_person(recipient.to_string());
        }
    }
    for vm in &definitions.managed {
        fleet.add(vm.name.as_str(), [vm.hostname.to_string(), vm.ssh_alias.clone()], None);
    }
    for vm in &definitions.imported {
        fleet.add(&vm.name, vm.hostname.iter().chain(&vm.ssh_alias).cloned(), None);
    }
    fleet
}
