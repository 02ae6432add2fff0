//! From the evaluated file to the typed model, field by field.

use std::{net::IpAddr, path::Path};

use super::{
    Definitions, ImportedVm, Proxmox, Template,
    managed::{managed_vm, vm_name},
    ranges, rules,
};
use crate::{
    Result, faults,
    nix::{
        Reading,
        eval::Data,
        reader::{Fields, Reader},
    },
    ssh::HostPort,
    types::{Cidr, NodeName, StorageId, VmName, Vmid},
};

const TOP: &[&str] = &["proxmox", "imported", "managed", "template", "vmidRanges"];
const PROXMOX: &[&str] = &["host", "node", "user", "defaultStorage"];
const IMPORTED: &[&str] = &[
    "vmid", "hostname", "sshAlias", "status", "specs", "purpose", "services", "notes", "readonly", "node",
    "ip",
];
const SPECS: &[&str] = &["cores", "memory", "disk", "storage"];
/// Every field of a managed VM.
pub const MANAGED: &[&str] = &[
    "vmid",
    "cores",
    "memory",
    "disk",
    "storage",
    "nixosConfig",
    "hostname",
    "sshAlias",
    "user",
    "node",
    "template",
    "clone",
    "bridge",
    "vlan",
    "mac",
    "mtu",
    "ip",
    "gateway",
    "nameservers",
    "cpu",
    "onBoot",
    "tags",
    "disks",
    "timezone",
    "packages",
    "authorizedKeys",
    "install",
    "protection",
    "readonly",
    "purpose",
    "services",
    "notes",
    "secrets",
    "antiAffinity",
];

/// The largest VMID that a managed VM may have.
pub(super) const LAST_MANAGED: i64 = 9999;

/// Names that mean something else on `provision-vm`'s command line: no VM may bear one.
pub const VERBS: &[&str] =
    &["plan", "apply", "status", "new", "destroy", "log", "check", "completions", "man", "help"];

/// Reads everything; all faults are in the one error.
pub(super) fn load(reading: &Reading, file: &Path, base: &Path) -> Result<Definitions> {
    let mut reader = Reader::new(&reading.evaluated, file, base);
    reader.faults.clone_from(&reading.faults);
    let shown = file.strip_prefix(base).unwrap_or(file).display().to_string();
    let Some(definitions) = read(&mut reader, file) else {
        return faults::check(&shown, reader.faults)
            .and_then(|()| Err(crate::Error::failed(format!("{shown} could not be read"))));
    };
    faults::check(&shown, reader.faults)?;
    Ok(definitions)
}

/// Where a VM is defined, for the rules that look at several.
pub(super) struct Defined<'a> {
    pub fields: Fields<'a>,
    /// Attribute name.
    pub name: String,
    pub section: Section,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Imported,
    Managed,
    Template,
}

fn read<'a>(reader: &mut Reader<'a>, file: &Path) -> Option<Definitions> {
    let top = reader.top()?;
    reader.known(&top, TOP);
    let mut defined: Vec<Defined<'a>> = Vec::new();
    let proxmox = proxmox(reader, &top);
    let mut imported = Vec::new();
    if let Some(section) = reader.set(&top, "imported") {
        for attr in Reader::in_order(&section) {
            let Some(fields) = reader.fields(&attr.value, section.join(&attr.name), attr.key) else {
                continue;
            };
            imported.extend(imported_vm(reader, &fields, &attr.name));
            defined.push(Defined { fields, name: attr.name.to_string(), section: Section::Imported });
        }
    }
    let mut managed = Vec::new();
    let default_storage = DefaultStorage::of(proxmox.as_ref(), &top);
    if let Some(section) = reader.set(&top, "managed") {
        for attr in Reader::in_order(&section) {
            let Some(fields) = reader.fields(&attr.value, section.join(&attr.name), attr.key) else {
                continue;
            };
            let name = vm_name(reader, &fields, &attr.name, attr.key);
            managed.extend(managed_vm(reader, &fields, name, default_storage));
            defined.push(Defined { fields, name: attr.name.to_string(), section: Section::Managed });
        }
    }
    let mut template = None;
    if let Some(fields) = reader.set(&top, "template") {
        template = read_template(reader, &fields);
        let name = fields.get("name").and_then(|attr| attr.value.as_str()).unwrap_or_default().to_owned();
        defined.push(Defined { fields, name, section: Section::Template });
    }
    let vmid_ranges = ranges::read(reader, &top);
    rules::across(reader, &defined, &vmid_ranges);
    Some(Definitions {
        path: file.to_owned(),
        // A missing section was recorded as a fault: this value is never seen.
        proxmox: proxmox?,
        imported,
        managed,
        template,
        vmid_ranges,
    })
}

/// Where a disk goes whose VM names no storage.
#[derive(Clone, Copy)]
pub(super) enum DefaultStorage<'a> {
    Known(&'a StorageId),
    /// One is given, but it is wrong: its own fault is enough.
    Wrong,
    None,
}

impl<'a> DefaultStorage<'a> {
    fn of(proxmox: Option<&'a Proxmox>, top: &Fields<'_>) -> DefaultStorage<'a> {
        if let Some(storage) = proxmox.and_then(|proxmox| proxmox.default_storage.as_ref()) {
            return DefaultStorage::Known(storage);
        }
        let section = top.get("proxmox").map(|attr| &attr.value);
        let given = section
            .is_some_and(|section| section.attrs().is_none() || section.get("defaultStorage").is_some());
        if given { DefaultStorage::Wrong } else { DefaultStorage::None }
    }
}

fn proxmox(reader: &mut Reader<'_>, top: &Fields<'_>) -> Option<Proxmox> {
    const HOST: &str = "proxmox = { host = \"prom\"; … }; (an ssh_config alias, a DNS name or an address)";
    if top.get("proxmox").is_none() {
        reader.add(top.at, "proxmox", "`proxmox` is missing", Some(HOST.to_owned()));
        return None;
    }
    // The borrow of `top` is shorter than the reader's own.
    let fields = reader.top().and_then(|top| reader.set(&top, "proxmox"))?;
    reader.known(&fields, PROXMOX);
    if fields.get("host").is_none() {
        reader.missing(&fields, "host", HOST);
    }
    let word = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let is_host = |text: &str| word(text) && HostPort::parse(text).is_ok();
    let right = "an ssh_config alias, a DNS name or an address, with a port HOST:PORT or [IPV6]:PORT";
    let host = reader.checked(&fields, "host", "\"prom\"", is_host, right);
    let user = reader.checked(&fields, "user", "\"root\"", word, "a login name such as root");
    let node = reader.parsed::<NodeName>(&fields, "node", "\"prom\"");
    let default_storage = reader.parsed::<StorageId>(&fields, "defaultStorage", "\"local-lvm\"");
    Some(Proxmox { host: host.unwrap_or_default(), node, user, default_storage })
}

pub(super) fn strings(reader: &mut Reader<'_>, fields: &Fields<'_>, name: &str) -> Vec<String> {
    let Some(attr) = fields.get(name) else { return Vec::new() };
    let Data::List(items) = &attr.value.data else {
        let help = format!("for example: {name} = [ \"…\" ];");
        reader.not(&attr.value, attr.key, &fields.join(name), "must be a list of strings", Some(help));
        return Vec::new();
    };
    let mut texts = Vec::new();
    for item in items.iter() {
        match item.as_str() {
            Some(text) => texts.push(text.to_owned()),
            None => {
                reader.not(item, attr.key, &fields.join(name), "must hold strings", None);
            }
        }
    }
    texts
}

pub(super) fn owned<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>, name: &str) -> Option<String> {
    reader.text(fields, name, "\"…\"").map(str::to_owned)
}

fn imported_vm<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>, name: &str) -> Option<ImportedVm> {
    reader.known_or_own(fields, IMPORTED);
    if fields.get("vmid").is_none() {
        reader.missing(fields, "vmid", "every VM has its number in Proxmox: vmid = 104;");
    }
    let vmid = reader.number::<u32>(fields, "vmid", 100..=999_999_999, "104").and_then(|n| Vmid::new(n).ok());
    let mut vm = ImportedVm {
        name: name.to_owned(),
        vmid: vmid.or_else(|| Vmid::new(100).ok())?,
        hostname: owned(reader, fields, "hostname"),
        ssh_alias: owned(reader, fields, "sshAlias"),
        status: owned(reader, fields, "status"),
        cores: None,
        memory: None,
        disk: None,
        storage: None,
        node: owned(reader, fields, "node"),
        ip: owned(reader, fields, "ip"),
        purpose: owned(reader, fields, "purpose"),
        services: strings(reader, fields, "services"),
        notes: strings(reader, fields, "notes"),
        readonly: reader.boolean(fields, "readonly"),
    };
    if let Some(ip) = vm.ip.as_deref().filter(|ip| *ip != "dhcp" && address(ip).is_none()) {
        let message = format!("'{}' is not an address", ip.escape_debug());
        reader.add(
            fields.value_at("ip"),
            &fields.join("ip"),
            message,
            Some("\"dhcp\", or such as 192.0.2.10".to_owned()),
        );
    }
    if let Some(specs) = reader.set(fields, "specs") {
        reader.known_or_own(&specs, SPECS);
        vm.cores = reader.number(&specs, "cores", 1..=i64::MAX, "4");
        vm.memory = reader.number(&specs, "memory", 1..=i64::MAX, "8192");
        vm.disk = owned(reader, &specs, "disk");
        vm.storage = owned(reader, &specs, "storage");
    }
    vmid.map(|_| vm)
}

/// An address, alone or with a prefix length.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse::<Cidr>().ok().map(|cidr| cidr.address))
}

fn read_template<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>) -> Option<Template> {
    reader.known_or_own(fields, &["vmid", "name", "description"]);
    if fields.get("vmid").is_none() {
        reader.missing(fields, "vmid", "for example: vmid = 9002;");
    }
    if fields.get("name").is_none() {
        reader.missing(fields, "name", "its name in Proxmox");
    }
    let vmid =
        reader.number::<u32>(fields, "vmid", 100..=999_999_999, "9002").and_then(|n| Vmid::new(n).ok());
    let name = reader.parsed::<VmName>(fields, "name", "\"ubuntu-cloud-template\"");
    let description = owned(reader, fields, "description");
    Some(Template { vmid: vmid?, name: name?.to_string(), description })
}
