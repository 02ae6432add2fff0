//! Our documents beside those that Proxmox VE 9.2 itself makes of its native settings, as its
//! `GET /nodes/NODE/qemu/VMID/cloudinit/dump` was recorded: where both say something they say the same.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::Fleet;
use serde_json::{Value, json};

/// Of `name: vm165`, `ciuser: bob`, two `sshkeys`, `searchdomain: x.org`.
const USER: &str = "\
#cloud-config
hostname: vm165
manage_etc_hosts: true
fqdn: vm165.x.org
user: bob
password: $5$5YZEimDr$HoiE/7GsKr5NT.Sq14o/sVDveKCYAzLL2u.8WAEo9T8
ssh_authorized_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp alice@laptop
  - ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCdGykKzs8FZrYxu+t6DYAX/S56/p3wmE0LrsrVTk5WWImmjLTzaSvPQLTgaG02J4qIH/BkzCmM6wxhbGwINjOIXat+l1r2OJuNCnGM1vKbiYE18vmWRIfAvwges0ypVjeTiqTl8JdzNSRWsifkiUoNZJkUPI0/5Ic5oJug9Y5Z9/PVT7BGzdjEqDt+0wT4Kk3ZgHoOjQ/qyKWUI40KqzmiWqC8NmWcA9IfQcepdIo5TVJva1WK3EsMpYs8u04Kk7fWSZtAi65eesvPMP5i25JqfNMJ7YvmbYjwnZfuxzNLs0LpAJPChfDICb2LRjerKSrlxXYZLIkJo1V6BMTrXpA5 bob+work@example.org
chpasswd:
  expire: False
users:
  - default
package_upgrade: true
";

/// Of `ipconfig0: ip=10.99.0.60/24,gw=10.99.0.1`, `nameserver: 10.99.0.1`, `searchdomain: x.org`.
const FIXED: &str = "\
version: 1
config:
    - type: physical
      name: eth0
      mac_address: 'bc:24:11:24:0c:c7'
      subnets:
      - type: static
        address: '10.99.0.60'
        netmask: '255.255.255.0'
        gateway: '10.99.0.1'
    - type: nameserver
      address:
      - '10.99.0.1'
      search:
      - 'x.org'
";

/// Of `ipconfig0: ip=dhcp`; the name server is the node's own.
const DHCP: &str = "\
version: 1
config:
    - type: physical
      name: eth0
      mac_address: 'bc:24:11:72:88:f3'
      subnets:
      - type: dhcp4
    - type: nameserver
      address:
      - '10.255.255.53'
";

fn read(text: &str) -> Value {
    cloudinit_gen::yaml::read(text).unwrap()
}

fn keys() -> Vec<Value> {
    read(USER)["ssh_authorized_keys"].as_array().unwrap().clone()
}

fn fleet(attributes: &str) -> Fleet {
    let managed =
        format!("    vm165 = {{ vmid = 165; cores = 1; memory = 512; disk = \"1G\"; {attributes} }};");
    let keys: Vec<String> = keys().iter().map(Value::to_string).collect();
    Fleet::new(&managed, &format!("  vm165.authorizedKeys = [ {} ];", keys.join(" ")))
}

#[test]
fn user_data_says_what_native_settings_say() {
    let native = read(USER);
    let ours = read(&fleet("hostname = \"vm165.x.org\";").stdout(&["user-data", "vm165"]));
    for key in ["hostname", "fqdn", "manage_etc_hosts", "ssh_authorized_keys", "users"] {
        assert_eq!(ours[key], native[key], "{key}");
    }
    // Where we differ, on purpose: root logs in (`ciuser` says so natively), nobody by password, and the
    // packages of a system that is replaced in minutes are not upgraded (`ciupgrade`).
    let differ: Vec<&str> = native
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, value)| ours.get(key.as_str()) != Some(value))
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(differ, ["user", "password", "chpasswd", "package_upgrade"]);
}

/// The keys as a native setting hold the same as the keys in our own user-data.
#[test]
fn ssh_keys_fit_the_native_setting() {
    let lines = fleet("").stdout(&["ssh-keys", "vm165"]);
    assert_eq!(lines.lines().map(Value::from).collect::<Vec<_>>(), keys());
}

#[test]
fn network_config_says_what_native_settings_say() {
    let fixed = fleet(
        r#"hostname = "vm165.x.org"; mac = "bc:24:11:24:0c:c7"; ip = "10.99.0.60/24"; gateway = "10.99.0.1"; nameservers = [ "10.99.0.1" ];"#,
    );
    assert_eq!(as_native(&read(&fixed.stdout(&["network-config", "vm165"]))), read(FIXED));
    let dhcp = fleet(r#"mac = "bc:24:11:72:88:f3"; nameservers = [ "10.255.255.53" ];"#);
    assert_eq!(as_native(&read(&dhcp.stdout(&["network-config", "vm165"]))), read(DHCP));
    // In a VLAN the network card tags the packets: neither document says a word of it.
    let tagged = fleet(r#"mac = "bc:24:11:72:88:f3"; nameservers = [ "10.255.255.53" ]; vlan = 20;"#);
    assert_eq!(as_native(&read(&tagged.stdout(&["network-config", "vm165"]))), read(DHCP));
}

/// A network-config of version 2 in the words of version 1, in which Proxmox writes.
fn as_native(ours: &Value) -> Value {
    let eth0 = &ours["ethernets"]["eth0"];
    let subnet = match eth0["addresses"][0].as_str().and_then(|address| address.split_once('/')) {
        None => json!({ "type": "dhcp4" }),
        Some((address, prefix)) => {
            let mask = std::net::Ipv4Addr::from_bits(u32::MAX << (32 - prefix.parse::<u32>().unwrap()));
            json!({ "type": "static", "address": address, "netmask": mask.to_string(), "gateway": eth0["routes"][0]["via"] })
        }
    };
    let mut names = json!({ "type": "nameserver", "address": eth0["nameservers"]["addresses"] });
    if let Some(search) = eth0["nameservers"].get("search") {
        names["search"] = search.clone();
    }
    let card = json!({
        "type": "physical", "name": eth0["set-name"], "mac_address": eth0["match"]["macaddress"], "subnets": [subnet],
    });
    json!({ "version": 1, "config": [card, names] })
}
