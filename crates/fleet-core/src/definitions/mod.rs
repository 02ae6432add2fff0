//! `vms/definitions.nix` as typed, validated models.

mod dirs;
mod load;
mod managed;
mod placement;
mod ranges;
mod rules;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use serde::Serialize;

pub(crate) use self::dirs::Dir;
pub use self::{
    load::{MANAGED, VERBS},
    placement::Placement,
};
use crate::{
    Error, Result,
    nix::{NixMode, Reading},
    repo::Repo,
    types::{BridgeName, Cidr, DiskSize, MacAddr, NodeName, StorageId, Tag, UserName, VmName, VmRef, Vmid},
};

/// Everything that `vms/definitions.nix` says, checked.
#[derive(Debug, Clone, Serialize)]
pub struct Definitions {
    /// The file it came from.
    pub path: PathBuf,
    /// How to reach Proxmox, and its defaults.
    pub proxmox: Proxmox,
    /// VMs that exist already and are only documented, in the file's order.
    pub imported: Vec<ImportedVm>,
    /// VMs created and owned by these tools, in the file's order.
    pub managed: Vec<ManagedVm>,
    /// The template that new VMs are cloned from.
    pub template: Option<Template>,
    /// Ranges of VMIDs and what they are for, in the file's order.
    pub vmid_ranges: Vec<VmidRange>,
}

/// `proxmox = { … }`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxmox {
    /// An ssh_config alias, a DNS name or an address.
    pub host: String,
    /// The node's name in the cluster; the host's name when not given.
    pub node: Option<NodeName>,
    /// Login on the host; `root` when not given.
    pub user: Option<String>,
    /// Storage for VMs that name none.
    pub default_storage: Option<StorageId>,
}

/// `imported.NAME = { … }`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportedVm {
    /// Attribute name.
    pub name: String,
    /// VMID.
    pub vmid: Vmid,
    /// Host name inside the VM.
    pub hostname: Option<String>,
    /// ssh_config alias.
    pub ssh_alias: Option<String>,
    /// As written, such as `running`.
    pub status: Option<String>,
    /// CPU cores.
    pub cores: Option<u32>,
    /// Memory in MiB.
    pub memory: Option<u64>,
    /// A size, or a word such as `passthrough`.
    pub disk: Option<String>,
    /// Storage of its disk.
    pub storage: Option<String>,
    /// Node it is on.
    pub node: Option<String>,
    /// Address, as written.
    pub ip: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// What runs on it.
    pub services: Vec<String>,
    /// Remarks.
    pub notes: Vec<String>,
    /// Always treated as true; kept as written for the reports.
    pub readonly: Option<bool>,
}

/// How a managed VM gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addressing {
    /// From DHCP.
    Dhcp,
    /// Fixed.
    Static(Cidr),
}

/// How a VM becomes NixOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Install {
    /// nixos-anywhere over SSH.
    #[default]
    NixosAnywhere,
    /// A disko image, imported as the disk.
    Image,
    /// Not at all: stays what the template is.
    None,
}

/// `managed.NAME = { … }`, defaults filled in.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedVm {
    /// Attribute name; the VM's name in Proxmox.
    pub name: VmName,
    /// VMID.
    pub vmid: Vmid,
    /// CPU cores.
    pub cores: u32,
    /// Memory in MiB.
    pub memory: u64,
    /// Size of the first disk.
    pub disk: DiskSize,
    /// Storage of its disks; `proxmox.defaultStorage` when not given. One of the two is required.
    pub storage: StorageId,
    /// Name in `nixosConfigurations` and under `hosts/`; its name when not given.
    pub nixos_config: String,
    /// Host name inside the VM; its name when not given.
    pub hostname: VmName,
    /// ssh_config alias; its name when not given.
    pub ssh_alias: String,
    /// The fleet user to verify with, when given.
    pub user: Option<UserName>,
    /// Node to be on.
    pub node: Placement,
    /// VMID of the template, when not the default one.
    pub template: Option<Vmid>,
    /// Whether the clone is linked to the template (`clone = "linked"`).
    pub linked_clone: bool,
    /// Bridge of `net0`; the template's own when not given.
    pub bridge: Option<BridgeName>,
    /// VLAN tag, 1 to 4094.
    pub vlan: Option<u16>,
    /// MAC address of `net0`; Proxmox makes one when not given.
    pub mac: Option<MacAddr>,
    /// MTU of `net0`.
    pub mtu: Option<u32>,
    /// DHCP or a fixed address.
    pub addressing: Addressing,
    /// Gateway of a fixed address.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// CPU type, such as `host`.
    pub cpu: Option<String>,
    /// Start with the node.
    pub on_boot: Option<bool>,
    /// Tags in Proxmox.
    pub tags: Vec<Tag>,
    /// Further disks.
    pub disks: Vec<FurtherDisk>,
    /// Time zone, such as `Europe/Amsterdam`.
    pub timezone: Option<String>,
    /// Packages for the bootstrap system.
    pub packages: Vec<String>,
    /// Keys that may log in besides those of `hosts.nix`, one OpenSSH line each, checked.
    pub authorized_keys: Vec<String>,
    /// How it becomes NixOS.
    pub install: Install,
    /// May not be destroyed.
    pub protection: bool,
    /// May not be changed.
    pub readonly: bool,
    /// What it is for.
    pub purpose: Option<String>,
    /// What runs on it.
    pub services: Vec<String>,
    /// Remarks.
    pub notes: Vec<String>,
    /// Secrets that it may read, as written; when not given, those of every rule that lists hosts.
    pub secrets: Option<Vec<String>>,
    /// Groups of VMs, or single VMs, that it should not share a node with, as written.
    pub anti_affinity: Vec<String>,
}

/// One of `disks = [ … ]`: a size, or `{ size; storage; }`.
#[derive(Debug, Clone, Serialize)]
pub struct FurtherDisk {
    /// Its size.
    pub size: DiskSize,
    /// Its storage; the VM's own when not given.
    pub storage: Option<StorageId>,
}

/// `template = { … }`.
#[derive(Debug, Clone, Serialize)]
pub struct Template {
    /// VMID.
    pub vmid: Vmid,
    /// Name in Proxmox.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
}

/// One of `vmidRanges`.
#[derive(Debug, Clone, Serialize)]
pub struct VmidRange {
    /// Attribute name.
    pub name: String,
    /// First VMID.
    pub start: Vmid,
    /// Last VMID.
    pub end: Vmid,
    /// What it is for.
    pub description: Option<String>,
}

/// What a name or VMID in the definitions stands for.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// An imported VM.
    Imported(&'a ImportedVm),
    /// A managed VM.
    Managed(&'a ManagedVm),
    /// The template.
    Template(&'a Template),
}

impl Definitions {
    /// Reads and validates the repository's definitions; every fault of every VM is in the one error.
    pub fn load(repo: &Repo, nix: NixMode) -> Result<Definitions> {
        Definitions::of(&Definitions::evaluate(repo, nix)?, repo)
    }

    /// The definitions that `text` would be in the repository's file.
    pub fn of_text(text: &str, repo: &Repo, nix: NixMode) -> Result<Definitions> {
        Definitions::of(&crate::nix::read_text(text, &repo.definitions(), repo.root(), nix)?.into(), repo)
    }

    /// The value of the repository's definitions, which knows its places, and every evaluation error.
    pub(crate) fn evaluate(repo: &Repo, nix: NixMode) -> Result<Reading> {
        crate::nix::read_with_faults(&repo.definitions(), repo.root(), nix)
    }

    /// The definitions that this value is; every fault of every VM is in the one error.
    pub(crate) fn of(reading: &Reading, repo: &Repo) -> Result<Definitions> {
        load::load(reading, &repo.definitions(), repo.root())
    }

    /// The lowest VMID that is neither in these definitions nor in `taken`: in the range of this name, or else in
    /// [`Definitions::range_for_vms`]. Pass what the whole cluster has, containers included.
    pub fn suggest_vmid(&self, range: Option<&str>, taken: &BTreeSet<Vmid>) -> Result<Vmid> {
        let (start, end, any) = match range.map(|name| self.range(name)).transpose()? {
            Some(range) if rules::is_reserved(&range.name) => (range.start, range.end, true),
            Some(range) => {
                let most = Vmid::new(9999)?;
                if range.start > most {
                    let (name, start, end) = (&range.name, range.start, range.end);
                    return Err(Error::conflict(format!(
                        "the range '{name}' ({start} to {end}) is above {most}"
                    ))
                    .now(format!("no managed VM has a VMID above {most}"))
                    .hint(format!("name another range of `vmidRanges` in {}", self.path.display())));
                }
                (range.start, range.end.min(most), false)
            }
            None => {
                let (start, end) = self.range_for_vms()?;
                (start, end, false)
            }
        };
        self.lowest(start, end, taken, any)
    }

    /// As [`Definitions::suggest_vmid`], with bounds that are both included. What is reserved for something else is
    /// passed over, unless `start` is in it.
    pub fn suggest_vmid_between(&self, start: Vmid, end: Vmid, taken: &BTreeSet<Vmid>) -> Result<Vmid> {
        self.lowest(start, end, taken, self.is_reserved(start))
    }

    /// The lowest free VMID; `any`: also one that is reserved.
    fn lowest(&self, start: Vmid, end: Vmid, taken: &BTreeSet<Vmid>, any: bool) -> Result<Vmid> {
        let defined: BTreeSet<Vmid> = self.vmids().collect();
        let mut number = start.get();
        while let Some(vmid) = Vmid::new(number).ok().filter(|vmid| *vmid <= end) {
            // A reserved range can be as long as all VMIDs: over it at once.
            match self.reserved(vmid).filter(|_| !any) {
                Some(range) => number = range.end.get() + 1,
                None if defined.contains(&vmid) || taken.contains(&vmid) => number += 1,
                None => return Ok(vmid),
            }
        }
        Err(Error::conflict(format!("no VMID is free from {start} to {end}")).hint(format!(
            "widen a range under `vmidRanges` in {}, or give other bounds",
            self.path.display()
        )))
    }

    /// Every VMID in these definitions: imported, managed, template.
    pub fn vmids(&self) -> impl Iterator<Item = Vmid> + '_ {
        let imported = self.imported.iter().map(|vm| vm.vmid);
        imported.chain(self.managed.iter().map(|vm| vm.vmid)).chain(self.template.iter().map(|t| t.vmid))
    }

    /// Every name in these definitions: imported, managed, template.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let imported = self.imported.iter().map(|vm| vm.name.as_str());
        let managed = self.managed.iter().map(|vm| vm.name.as_str());
        imported.chain(managed).chain(self.template.iter().map(|template| template.name.as_str()))
    }

    /// The ranges that managed VMs may take their VMIDs from.
    pub fn ranges_for_vms(&self) -> impl Iterator<Item = &VmidRange> {
        self.vmid_ranges.iter().filter(|range| !rules::is_reserved(&range.name))
    }

    /// Where a new managed VM's VMID comes from: the range called `production`, else the range for VMs that begins
    /// lowest, else 100 to 9999. From the first VMID that no reserved range has, to 9999 at most; an error where
    /// there is none. `suggestedVmid` in `vms/lib.nix` says the same.
    pub fn range_for_vms(&self) -> Result<(Vmid, Vmid)> {
        let most = Vmid::new(9999)?;
        let production = self.ranges_for_vms().find(|range| range.name == "production");
        let range = production
            .or_else(|| self.ranges_for_vms().min_by_key(|range| (range.start, range.name.as_str())));
        let (start, end) = range.map_or((Vmid::new(100)?, most), |range| (range.start, range.end.min(most)));
        let mut numbers = (start.get()..=end.get()).filter_map(|number| Vmid::new(number).ok());
        let first = numbers.find(|vmid| !self.is_reserved(*vmid)).ok_or_else(|| {
            let name = range.map_or("vmidRanges", |range| range.name.as_str());
            Error::conflict(format!("no VMID of '{name}' may be a managed VM's"))
                .now("these have VMIDs from 100 to 9999 that are in no range for something else")
                .hint(format!("change `vmidRanges` in {}", self.path.display()))
        })?;
        Ok((first, end))
    }

    /// Whether a VMID is in a range that is for something other than managed VMs.
    pub fn is_reserved(&self, vmid: Vmid) -> bool {
        self.reserved(vmid).is_some()
    }

    fn reserved(&self, vmid: Vmid) -> Option<&VmidRange> {
        let mut ranges = self.vmid_ranges.iter().filter(|range| rules::is_reserved(&range.name));
        ranges.find(|range| range.start <= vmid && vmid <= range.end)
    }

    fn range(&self, name: &str) -> Result<&VmidRange> {
        self.vmid_ranges.iter().find(|range| range.name == name).ok_or_else(|| {
            let names = self.vmid_ranges.iter().map(|range| range.name.as_str());
            let error = Error::not_found(format!(
                "no VMID range '{}' in {}",
                name.escape_debug(),
                self.path.display()
            ));
            match nearest(name, names) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error,
            }
        })
    }

    /// What this VMID stands for.
    pub fn by_vmid(&self, vmid: Vmid) -> Option<Entry<'_>> {
        let managed = self.managed.iter().find(|vm| vm.vmid == vmid).map(Entry::Managed);
        // An imported VM wins over anything else that claims its VMID.
        self.imported.iter().find(|vm| vm.vmid == vmid).map(Entry::Imported).or(managed).or(self
            .template
            .as_ref()
            .filter(|t| t.vmid == vmid)
            .map(Entry::Template))
    }

    /// What this name stands for: an attribute name, or the template's name.
    pub fn by_name(&self, name: &str) -> Option<Entry<'_>> {
        let managed = self.managed.iter().find(|vm| vm.name.as_str() == name).map(Entry::Managed);
        self.imported.iter().find(|vm| vm.name == name).map(Entry::Imported).or(managed).or(self
            .template
            .as_ref()
            .filter(|t| t.name == name)
            .map(Entry::Template))
    }

    /// What this reference stands for.
    pub fn find(&self, vm: &VmRef) -> Option<Entry<'_>> {
        match vm {
            VmRef::Id(vmid) => self.by_vmid(*vmid),
            VmRef::Name(name) => self.by_name(name.as_str()),
        }
    }

    /// The managed VM of this name. The error suggests the nearest name, and an imported VM is refused.
    pub fn managed(&self, name: &str) -> Result<&ManagedVm> {
        let path = self.path.display();
        match self.by_name(name) {
            Some(Entry::Managed(vm)) => Ok(vm),
            Some(Entry::Imported(vm)) => Err(Error::refused(format!(
                "refused: '{}' (VMID {}) is imported and read-only",
                vm.name, vm.vmid
            ))
            .now("nothing was sent to the node")
            .hint(format!("imported VMs are only documented; see imported.{} in {path}", vm.name))),
            Some(Entry::Template(template)) => Err(Error::refused(format!(
                "refused: '{}' is the template (VMID {})",
                template.name, template.vmid
            ))
            .now("nothing was sent to the node")),
            None => {
                let error = Error::not_found(format!("no VM '{}' in {path}", name.escape_debug()));
                let numbered = name.parse().ok().and_then(|vmid| self.by_vmid(vmid));
                let numbered = match numbered {
                    Some(Entry::Managed(vm)) => Some(vm.name.as_str()),
                    Some(Entry::Imported(vm)) => Some(vm.name.as_str()),
                    Some(Entry::Template(template)) => Some(template.name.as_str()),
                    None => None,
                };
                Err(match numbered.or_else(|| self.nearest(name)) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("add it under `managed` in {path}")),
                })
            }
        }
    }

    /// The defined name nearest to `name`, if one is near.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let names = self
            .managed
            .iter()
            .map(|vm| vm.name.as_str())
            .chain(self.imported.iter().map(|vm| vm.name.as_str()));
        nearest(name, names)
    }
}

/// The one of `names` that is most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
