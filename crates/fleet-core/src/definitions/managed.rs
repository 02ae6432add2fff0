//! One managed VM, field by field.

use std::net::IpAddr;

use super::{
    Addressing, FurtherDisk, Install, ManagedVm, Placement,
    load::{DefaultStorage, LAST_MANAGED, MANAGED, VERBS, owned, strings},
};
use crate::{
    authorized_keys::{AuthorizedKey, is_private},
    nix::{
        eval::Data,
        reader::{Fields, Reader},
        source::Span,
    },
    types::{BridgeName, Cidr, DiskSize, MacAddr, StorageId, Tag, UserName, VmName, Vmid},
};

pub(super) fn vm_name<'a>(
    reader: &mut Reader<'a>,
    fields: &Fields<'a>,
    name: &str,
    key: Option<Span>,
) -> Option<VmName> {
    if VERBS.contains(&name) {
        let help = format!("`provision-vm {name}` means something else: give the VM another name");
        reader.add(key, &fields.path, format!("a VM can not be called '{name}'"), Some(help));
        return None;
    }
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        let help = "a number on the command line is a VMID: give the VM a name with a letter".to_owned();
        reader.add(key, &fields.path, format!("a VM can not be called '{name}'"), Some(help));
        return None;
    }
    reader.parse(name, &fields.path, key)
}

pub(super) fn managed_vm<'a>(
    reader: &mut Reader<'a>,
    fields: &Fields<'a>,
    name: Option<VmName>,
    default_storage: DefaultStorage<'_>,
) -> Option<ManagedVm> {
    reader.known(fields, MANAGED);
    for (required, help) in [
        ("vmid", "for example: vmid = 110; (100 to 9999)"),
        ("cores", "for example: cores = 2;"),
        ("memory", "in MiB, for example: memory = 4096;"),
        ("disk", "for example: disk = \"20G\";"),
    ] {
        if fields.get(required).is_none() {
            reader.missing(fields, required, help);
        }
    }
    let vmid =
        reader.number::<u32>(fields, "vmid", 100..=LAST_MANAGED, "110").and_then(|n| Vmid::new(n).ok());
    let cores = reader.number::<u32>(fields, "cores", 1..=i64::MAX, "2");
    let memory = reader.number::<u64>(fields, "memory", 512..=i64::MAX, "4096");
    let disk = reader.parsed::<DiskSize>(fields, "disk", "\"20G\"");
    let storage = reader.parsed::<StorageId>(fields, "storage", "\"local-lvm\"");
    let storage = match default_storage {
        DefaultStorage::None if fields.get("storage").is_none() => {
            reader.missing(fields, "storage", "name one here, or `defaultStorage` under `proxmox` for all");
            None
        }
        DefaultStorage::Known(default) => storage.or_else(|| Some(default.clone())),
        DefaultStorage::None | DefaultStorage::Wrong => storage,
    };
    let nixos_config = reader.checked(
        fields,
        "nixosConfig",
        "\"web\"",
        is_component,
        "letters, digits, '-', '_' and '.': the name of a directory under hosts/",
    );
    let hostname = reader.parsed::<VmName>(fields, "hostname", "\"web\"");
    let ssh_alias =
        reader.checked(fields, "sshAlias", "\"web\"", is_component, "letters, digits, '-', '_' and '.'");
    let user = reader.parsed::<UserName>(fields, "user", "\"fleet\"");
    let node = reader.parsed::<Placement>(fields, "node", "\"prom\", or \"auto\"");
    let template =
        reader.number::<u32>(fields, "template", 100..=999_999_999, "9002").and_then(|n| Vmid::new(n).ok());
    let linked_clone = choice(reader, fields, "clone", &[("full", false), ("linked", true)]);
    let bridge = reader.parsed::<BridgeName>(fields, "bridge", "\"vmbr0\"");
    let vlan = reader.number::<u16>(fields, "vlan", 1..=4094, "20");
    let mac = reader.parsed::<MacAddr>(fields, "mac", "\"BC:24:11:00:00:01\"");
    let mtu = reader.number::<u32>(fields, "mtu", 576..=65520, "1400");
    let (addressing, gateway) = addressing(reader, fields);
    let nameservers = reader.all_parsed::<Address>(fields, "nameservers", "[ \"192.0.2.1\" ]");
    let cpu = reader.checked(
        fields,
        "cpu",
        "\"host\"",
        |text| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,=+;:".contains(&b))
        },
        "a CPU type of Proxmox, such as host or x86-64-v2-AES",
    );
    let on_boot = reader.boolean(fields, "onBoot");
    let tags = reader.all_parsed::<Tag>(fields, "tags", "[ \"web\" ]");
    let disks = further_disks(reader, fields);
    let timezone = reader.checked(
        fields,
        "timezone",
        "\"Europe/Amsterdam\"",
        |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b)),
        "a name from the time zone database, such as Europe/Amsterdam or UTC",
    );
    let packages = reader.texts(fields, "packages", "[ \"htop\" ]");
    for (text, at) in &packages {
        let valid = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-_:=~".contains(&b));
        if !valid {
            let message = format!("'{}' is not the name of a package", text.escape_debug());
            reader.add(*at, &fields.join("packages"), message, None);
        }
    }
    let mut authorized_keys = Vec::new();
    for (text, at) in reader.texts(fields, "authorizedKeys", "[ \"ssh-ed25519 AAAA… somebody\" ]") {
        match text.parse::<AuthorizedKey>() {
            Ok(key) => authorized_keys.push(key.line),
            Err(_) if is_private(text) => reader.private_key(at, &fields.join("authorizedKeys")),
            Err(why) => {
                let message = format!("'{}' is not a public key", text.escape_debug());
                reader.add(at, &fields.join("authorizedKeys"), message, Some(why));
            }
        }
    }
    let install = choice(
        reader,
        fields,
        "install",
        &[("nixos-anywhere", Install::NixosAnywhere), ("image", Install::Image), ("none", Install::None)],
    );
    let protection = reader.boolean(fields, "protection").unwrap_or(false);
    let readonly = reader.boolean(fields, "readonly").unwrap_or(false);
    let purpose = owned(reader, fields, "purpose");
    let services = strings(reader, fields, "services");
    let notes = strings(reader, fields, "notes");
    let secrets = fields.get("secrets").is_some().then(|| reader.one_or_more(fields, "secrets"));
    let anti_affinity = reader.one_or_more(fields, "antiAffinity");
    let name = name?;
    Some(ManagedVm {
        vmid: vmid?,
        cores: cores?,
        memory: memory?,
        disk: disk?,
        storage: storage?,
        nixos_config: nixos_config.unwrap_or_else(|| name.to_string()),
        hostname: hostname.unwrap_or_else(|| name.clone()),
        ssh_alias: ssh_alias.unwrap_or_else(|| name.to_string()),
        name,
        user,
        node: node.unwrap_or_default(),
        template,
        linked_clone: linked_clone.unwrap_or(false),
        bridge,
        vlan,
        mac,
        mtu,
        addressing,
        gateway,
        nameservers: nameservers.into_iter().map(|address| address.0).collect(),
        cpu,
        on_boot,
        tags,
        disks,
        timezone,
        packages: packages.into_iter().map(|(text, _)| text.to_owned()).collect(),
        authorized_keys,
        install: install.unwrap_or_default(),
        protection,
        readonly,
        purpose,
        services,
        notes,
        secrets,
        anti_affinity,
    })
}

/// Whether a text may be the name of a directory or an alias of ssh.
pub(super) fn is_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// An IP address whose error says what would be right.
struct Address(IpAddr);

impl std::str::FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = |_| {
            format!(
                "'{}' is not a valid address: an IPv4 or IPv6 address such as 192.0.2.1",
                text.escape_debug()
            )
        };
        text.parse().map(Address).map_err(wrong)
    }
}

fn addressing<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>) -> (Addressing, Option<IpAddr>) {
    let text = reader.text(fields, "ip", "\"dhcp\" or \"192.0.2.10/24\"");
    let fixed = match text {
        None | Some("dhcp") => None,
        Some(text) => reader.parse::<Cidr>(text, &fields.join("ip"), fields.value_at("ip")),
    };
    if let Some(what) = fixed.and_then(no_host) {
        let message = format!("'{}' is the network's own {what}, not a machine's", text.unwrap_or_default());
        reader.add(
            fields.value_at("ip"),
            &fields.join("ip"),
            message,
            Some("such as 192.0.2.10/24".to_owned()),
        );
    }
    let gateway = reader.parsed::<Address>(fields, "gateway", "\"192.0.2.1\"").map(|address| address.0);
    let at = fields.value_at("gateway");
    let path = fields.join("gateway");
    match (fixed, gateway) {
        (None, Some(_)) if text == Some("dhcp") || fields.get("ip").is_none() => {
            reader.add(
                at,
                &path,
                "a gateway without a fixed address",
                Some("DHCP brings its own: give `ip` as address/prefix, or leave this out".to_owned()),
            );
        }
        (Some(cidr), Some(gateway)) if cidr.address == gateway => {
            let help = "a gateway is another machine: the router of the VM's network".to_owned();
            reader.add(at, &path, "the gateway is the VM's own address", Some(help));
        }
        // A host route (/32, /128) may have its gateway anywhere; fe80::/10 is in every IPv6 network.
        (Some(cidr), Some(gateway))
            if !cidr.contains(gateway)
                && !link_local(cidr, gateway)
                && cidr.prefix != if gateway.is_ipv4() { 32 } else { 128 } =>
        {
            reader.add(
                at,
                &path,
                format!("{gateway} is not in the network of {cidr}"),
                Some(
                    "a gateway is reached without a gateway: it is an address of the VM's own network"
                        .to_owned(),
                ),
            );
        }
        _ => {}
    }
    (fixed.map_or(Addressing::Dhcp, Addressing::Static), gateway)
}

/// What an IPv4 address is when no machine can have it: the first or the last one of its network.
fn no_host(cidr: Cidr) -> Option<&'static str> {
    let IpAddr::V4(address) = cidr.address else { return None };
    let host = u32::MAX.checked_shr(u32::from(cidr.prefix)).filter(|_| cidr.prefix < 31)?;
    match address.to_bits() & host {
        0 => Some("address"),
        part if part == host => Some("broadcast address"),
        _ => None,
    }
}

/// Whether a gateway is reachable from every address on its link.
fn link_local(cidr: Cidr, gateway: IpAddr) -> bool {
    cidr.address.is_ipv6() && matches!(gateway, IpAddr::V6(via) if via.is_unicast_link_local())
}

fn choice<'a, T: Copy>(
    reader: &mut Reader<'a>,
    fields: &Fields<'a>,
    name: &str,
    choices: &[(&str, T)],
) -> Option<T> {
    let text = reader.text(fields, name, "\"…\"")?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let message = format!("'{}' is not one of the choices", text.escape_debug());
    reader.add(fields.value_at(name), &fields.join(name), message, Some(words.join(", ")));
    None
}

fn further_disks<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>) -> Vec<FurtherDisk> {
    let Some(attr) = fields.get("disks") else { return Vec::new() };
    let path = fields.join("disks");
    let Data::List(items) = &attr.value.data else {
        let help = "disks = [ \"100G\" { size = \"1T\"; storage = \"tank\"; } ];".to_owned();
        reader.not(&attr.value, attr.key, &path, "must be a list", Some(help));
        return Vec::new();
    };
    let mut disks = Vec::new();
    for item in items.iter() {
        if let Some(text) = item.as_str() {
            disks.extend(reader.parse(text, &path, item.at).map(|size| FurtherDisk { size, storage: None }));
        } else if let Some(disk) = reader.fields(item, path.clone(), item.at) {
            reader.known(&disk, &["size", "storage"]);
            if disk.get("size").is_none() {
                reader.missing(&disk, "size", "for example: size = \"100G\";");
            }
            let size = reader.parsed(&disk, "size", "\"100G\"");
            let storage = reader.parsed(&disk, "storage", "\"tank\"");
            disks.extend(size.map(|size| FurtherDisk { size, storage }));
        }
    }
    disks
}
