//! What the definition will say: from flags, and from questions where there is a terminal.

use std::net::IpAddr;

use clap::Args;
use fleet_core::{
    Error, Result,
    cli::ChangeArgs,
    definitions::{Definitions, Entry},
    nix::edit::quote_string,
    protocol::Resource,
    types::{BridgeName, Cidr, DiskSize, MacAddr, NodeName, StorageId, Tag, UserName, VmName, Vmid},
    ui::{Ui, can_ask},
};

/// Cores, memory in MiB and disk of a VM whose definition says nothing else.
const USUAL: (u32, u64, &str) = (2, 4096, "20G");

/// Arguments of `new`. What is not given is asked for on a terminal, and else has its usual value.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// The VM's name: a DNS name, which no other VM has
    #[arg(value_name = "NAME")]
    pub name: VmName,
    /// Its number [default: the next one that is free in the definitions and the cluster]
    #[arg(long)]
    pub vmid: Option<Vmid>,
    /// Take the number from this one of `vmidRanges` [default: the first that VMs may use]
    #[arg(long, value_name = "NAME", conflicts_with = "vmid")]
    pub range: Option<String>,
    /// CPU cores [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub cores: Option<u32>,
    /// Memory in MiB [default: 4096]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(512..))]
    pub memory: Option<u64>,
    /// Size of its disk, such as 20G [default: 20G]
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<DiskSize>,
    /// Storage of its disk [default: proxmox.defaultStorage]
    #[arg(long)]
    pub storage: Option<StorageId>,
    /// A further disk, such as 100G or 100G:STORAGE; may be given several times
    #[arg(long = "further-disk", value_name = "SIZE[:STORAGE]")]
    pub further_disks: Vec<NewDisk>,
    /// How it becomes NixOS [default: nixos-anywhere]
    #[arg(long, value_name = "HOW", value_parser = ["nixos-anywhere", "image", "none"])]
    pub install: Option<String>,
    /// Its name under hosts/ and in nixosConfigurations [default: its name]
    #[arg(long, value_name = "CONFIG")]
    pub nixos_config: Option<String>,
    /// Its host name inside [default: its name]
    #[arg(long)]
    pub hostname: Option<VmName>,
    /// What it is called in ssh_config [default: its name]
    #[arg(long, value_name = "ALIAS")]
    pub ssh_alias: Option<String>,
    /// Node to be on, or `auto` for the one with the most room
    #[arg(long = "on-node", value_name = "NODE")]
    pub on_node: Option<NodeName>,
    /// A group of VMs, or a VM, that it should not share a node with; may be given several times
    #[arg(long = "anti-affinity", value_name = "GROUP")]
    pub anti_affinity: Vec<String>,
    /// VMID of another template
    #[arg(long, value_name = "VMID")]
    pub template: Option<Vmid>,
    /// Clone linked to the template
    #[arg(long)]
    pub linked: bool,
    /// Bridge of its network card
    #[arg(long)]
    pub bridge: Option<BridgeName>,
    /// VLAN tag
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// MAC address
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// MTU
    #[arg(long, value_parser = clap::value_parser!(u32).range(576..=65520))]
    pub mtu: Option<u32>,
    /// A fixed address with its prefix, such as 192.0.2.10/24, or dhcp [default: dhcp]
    #[arg(long, value_name = "ADDRESS|dhcp")]
    pub ip: Option<NewIp>,
    /// Gateway of the fixed address
    #[arg(long, requires = "ip")]
    pub gateway: Option<IpAddr>,
    /// A name server; may be given several times
    #[arg(long = "nameserver", value_name = "ADDRESS")]
    pub nameservers: Vec<IpAddr>,
    /// CPU type, such as host
    #[arg(long)]
    pub cpu: Option<String>,
    /// Start with the node
    #[arg(long)]
    pub on_boot: bool,
    /// May not be destroyed
    #[arg(long)]
    pub protection: bool,
    /// A tag in Proxmox; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<Tag>,
    /// Time zone of the bootstrap system, such as Europe/Amsterdam
    #[arg(long)]
    pub timezone: Option<String>,
    /// A package for the bootstrap system; may be given several times
    #[arg(long = "package", value_name = "NAME")]
    pub packages: Vec<String>,
    /// A key that may log in on the bootstrap system besides the fleet's, one OpenSSH line; may be given several times
    #[arg(long = "authorized-key", value_name = "LINE")]
    pub authorized_keys: Vec<String>,
    /// A secret that it may read: a file or directory below secrets/, or a rule's path_regex; may be given several
    /// times [default: those of every rule that lists hosts]
    #[arg(long = "secret", value_name = "PATH")]
    pub secrets: Vec<String>,
    /// It may read no secret
    #[arg(long, conflicts_with = "secrets")]
    pub no_secrets: bool,
    /// The fleet user who logs in
    #[arg(long = "login", value_name = "USER")]
    pub login: Option<UserName>,
    /// What it is for
    #[arg(long)]
    pub purpose: Option<String>,
    /// What runs on it; may be given several times
    #[arg(long = "service", value_name = "TEXT")]
    pub services: Vec<String>,
    /// A remark; may be given several times
    #[arg(long = "note", value_name = "TEXT")]
    pub notes: Vec<String>,
    /// The host whose files under hosts/ are taken as the pattern [default: the managed VM most like it]
    #[arg(long, value_name = "HOST")]
    pub like: Option<String>,
    /// --yes, --dry-run.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A further disk, as `--further-disk` names one.
#[derive(Debug, Clone)]
pub struct NewDisk {
    size: DiskSize,
    storage: Option<StorageId>,
}

impl std::str::FromStr for NewDisk {
    type Err = Error;
    fn from_str(text: &str) -> Result<NewDisk> {
        let (size, storage) = match text.split_once(':') {
            Some((size, storage)) => (size, Some(storage.parse()?)),
            None => (text, None),
        };
        Ok(NewDisk { size: size.parse()?, storage })
    }
}

/// An address, as `--ip` names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewIp {
    /// The network's own machine gives it one.
    Dhcp,
    /// It has this one.
    Fixed(Cidr),
}

impl NewIp {
    fn fixed(self) -> Option<Cidr> {
        match self {
            NewIp::Dhcp => None,
            NewIp::Fixed(cidr) => Some(cidr),
        }
    }
}

impl std::str::FromStr for NewIp {
    type Err = Error;
    fn from_str(text: &str) -> Result<NewIp> {
        match text {
            "dhcp" => Ok(NewIp::Dhcp),
            text => text.parse().map(NewIp::Fixed),
        }
    }
}

/// What the definition will say.
pub(super) struct Answers<'a> {
    args: &'a NewArgs,
    vmid: Vmid,
    cores: u32,
    memory: u64,
    disk: DiskSize,
    storage: Option<StorageId>,
    ip: Option<Cidr>,
    gateway: Option<IpAddr>,
    pub(super) purpose: Option<String>,
}

/// An attribute's name and its value as Nix text.
pub(super) type Attr = (&'static str, String);

/// What the answers are held against.
pub(super) struct Ground<'a> {
    pub(super) definitions: &'a Definitions,
    /// What the cluster has, when it could be asked.
    pub(super) cluster: Option<&'a Vec<Resource>>,
    /// Whether the definitions would be valid with the VM so, or what would be wrong with it.
    pub(super) valid: &'a dyn Fn(&[Attr]) -> Result<()>,
}

/// Flags, completed by questions.
pub(super) fn complete<'a>(ui: Ui, args: &'a NewArgs, ground: &Ground<'_>) -> Result<Answers<'a>> {
    let Ground { definitions, cluster, valid } = *ground;
    let name = &args.name;
    if let Some(there) = cluster.into_iter().flatten().find(|r| r.name.as_deref() == Some(name.as_str())) {
        return Err(Error::conflict(format!(
            "the name '{name}' is taken by {} on node {}",
            there.vmid, there.node
        ))
        .now("nothing was changed"));
    }
    let asks = can_ask() && !args.change.yes;
    let offered = match args.vmid {
        Some(vmid) => vmid,
        None => super::offered(definitions, args.range.as_deref(), cluster)?,
    };
    if asks && args.vmid.is_none() && args.range.is_none() {
        super::ranges(definitions, cluster).iter().for_each(|line| ui.say(format!("  {line}")));
    }
    let with = |name: &'static str, value: String| valid(&[(name, value)]);
    let taken = |vmid: &Vmid| free(*vmid, definitions, cluster).and_then(|()| with("vmid", vmid.to_string()));
    let usual_disk: DiskSize = USUAL.2.parse()?;
    let vmid = ask(ui, asks, "VMID", args.vmid, offered, taken)?;
    let cores = ask(ui, asks, "CPU cores", args.cores, USUAL.0, |n| with("cores", n.to_string()))?;
    let memory = ask(ui, asks, "Memory in MiB", args.memory, USUAL.1, |n| with("memory", n.to_string()))?;
    let disk = ask(ui, asks, "Disk", args.disk, usual_disk, |_| Ok(()))?;
    let storage = match (&args.storage, &definitions.proxmox.default_storage) {
        (Some(storage), _) => Some(storage.clone()),
        (None, Some(_)) => None,
        (None, None) if asks => Some(ui.ask_until("Storage: ", |text| text.parse())?),
        (None, None) => {
            return Err(Error::usage("which storage? the definitions have no defaultStorage")
                .now("nothing was changed")
                .hint("give --storage"));
        }
    };
    let ip = match args.ip {
        None if asks => ui.ask_until("Address, such as 192.0.2.10/24 [dhcp]: ", |text| match text {
            "" => Ok(None),
            text => match text.parse::<NewIp>()?.fixed() {
                None => Ok(None),
                Some(ip) => with("ip", quote_string(text)).map(|()| Some(ip)),
            },
        })?,
        given => given.and_then(NewIp::fixed),
    };
    let gateway = match (args.gateway, ip) {
        (None, Some(ip)) if asks => ui.ask_until("Gateway (Enter for none): ", |text| {
            if text.is_empty() {
                return Ok(None);
            }
            let gateway = text
                .parse()
                .map_err(|_| Error::usage(format!("'{}' is not an address", text.escape_debug())))?;
            let quoted = |text: &dyn std::fmt::Display| quote_string(&text.to_string());
            valid(&[("ip", quoted(&ip)), ("gateway", quoted(&gateway))]).map(|()| Some(gateway))
        })?,
        (given, _) => given,
    };
    let purpose = match &args.purpose {
        None if asks => {
            Some(ui.ask_line("What is it for? ")?.trim().to_owned()).filter(|text| !text.is_empty())
        }
        given => given.clone(),
    };
    Ok(Answers { args, vmid, cores, memory, disk, storage, ip, gateway, purpose })
}

/// What a question can be answered with.
trait Answer: Copy + std::fmt::Display + std::str::FromStr {
    /// Whether it is a whole number.
    const WHOLE: bool = true;
}

impl Answer for u32 {}
impl Answer for u64 {}
impl Answer for Vmid {}
impl Answer for DiskSize {
    const WHOLE: bool = false;
}

/// The given value, which must do; else the answer to a question; else the usual one.
fn ask<T: Answer>(
    ui: Ui,
    asks: bool,
    what: &str,
    given: Option<T>,
    usual: T,
    check: impl Fn(&T) -> Result<()>,
) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    if let Some(given) = given {
        check(&given)?;
        return Ok(given);
    }
    if !asks {
        return Ok(usual);
    }
    ui.ask_until(&format!("{what} [{usual}]: "), |text| {
        let number = text.bytes().all(|b| b.is_ascii_digit()) || !T::WHOLE;
        let value = match text {
            "" => usual,
            text if !number => {
                return Err(Error::usage(format!("'{}' is not a whole number", text.escape_debug())));
            }
            text => text.parse::<T>().map_err(|e| Error::usage(e.to_string()))?,
        };
        check(&value).map(|()| value)
    })
}

fn free(vmid: Vmid, definitions: &Definitions, cluster: Option<&Vec<Resource>>) -> Result<()> {
    let taken = |by: String| {
        let error = Error::conflict(format!("VMID {vmid} is taken by {by}")).now("nothing was changed");
        Err(match super::offered(definitions, None, cluster) {
            Ok(next) => error.hint(format!("the next that is free is {next}")),
            Err(_) => error,
        })
    };
    match definitions.by_vmid(vmid) {
        Some(Entry::Managed(vm)) => return taken(format!("managed.{}", vm.name)),
        Some(Entry::Imported(vm)) => return taken(format!("imported.{}", vm.name)),
        Some(Entry::Template(template)) => return taken(format!("the template '{}'", template.name)),
        None => {}
    }
    match cluster.into_iter().flatten().find(|resource| resource.vmid == vmid) {
        Some(there) => taken(format!("'{}' on node {}", there.name.as_deref().unwrap_or("-"), there.node)),
        None => Ok(()),
    }
}

impl Answers<'_> {
    /// Names and values as Nix text, in the order in which definitions usually have them.
    pub(super) fn attrs(&self) -> Vec<Attr> {
        let args = self.args;
        let text = |value: &dyn std::fmt::Display| quote_string(&value.to_string());
        let list = |items: &[String]| {
            let items: Vec<String> = items.iter().map(|item| quote_string(item)).collect();
            (!items.is_empty()).then(|| format!("[ {} ]", items.join(" ")))
        };
        let strings = |items: &[Tag]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let servers: Vec<String> = args.nameservers.iter().map(ToString::to_string).collect();
        let yes = |set: bool| set.then(|| "true".to_owned());
        let disks: Vec<String> = args
            .further_disks
            .iter()
            .map(|NewDisk { size, storage }| match storage {
                Some(storage) => format!("{{ size = {}; storage = {}; }}", text(size), text(storage)),
                None => text(size),
            })
            .collect();
        let secrets = if args.no_secrets { Some("[ ]".to_owned()) } else { list(&args.secrets) };
        [
            ("vmid", Some(self.vmid.to_string())),
            ("cores", Some(self.cores.to_string())),
            ("memory", Some(self.memory.to_string())),
            ("disk", Some(text(&self.disk))),
            ("storage", self.storage.as_ref().map(|v| text(v))),
            ("disks", (!disks.is_empty()).then(|| format!("[ {} ]", disks.join(" ")))),
            ("nixosConfig", args.nixos_config.as_ref().map(|v| text(v))),
            ("hostname", args.hostname.as_ref().map(|v| text(v))),
            ("sshAlias", args.ssh_alias.as_ref().map(|v| text(v))),
            ("user", args.login.as_ref().map(|v| text(v))),
            ("node", args.on_node.as_ref().map(|v| text(v))),
            ("antiAffinity", list(&args.anti_affinity)),
            ("template", args.template.map(|v| v.to_string())),
            ("clone", args.linked.then(|| text(&"linked"))),
            ("install", args.install.as_ref().map(|v| text(v))),
            ("bridge", args.bridge.as_ref().map(|v| text(v))),
            ("vlan", args.vlan.map(|v| v.to_string())),
            ("mac", args.mac.map(|v| text(&v))),
            ("mtu", args.mtu.map(|v| v.to_string())),
            ("ip", self.ip.map(|v| text(&v))),
            ("gateway", self.gateway.map(|v| text(&v))),
            ("nameservers", list(&servers)),
            ("cpu", args.cpu.as_ref().map(|v| text(v))),
            ("onBoot", yes(args.on_boot)),
            ("tags", list(&strings(&args.tags))),
            ("timezone", args.timezone.as_ref().map(|v| text(v))),
            ("packages", list(&args.packages)),
            ("authorizedKeys", list(&args.authorized_keys)),
            ("secrets", secrets),
            ("protection", yes(args.protection)),
            ("purpose", self.purpose.as_ref().map(|v| text(v))),
            ("services", list(&args.services)),
            ("notes", list(&args.notes)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: NewArgs,
    }

    /// Whatever a definition can say there is a flag for; only a VM that may not be changed can not be made.
    #[test]
    fn every_field_has_its_flag() {
        let line = "new web --vmid 105 --cores 2 --memory 2048 --disk 20G --storage fast --further-disk 4G:slow \
                    --further-disk 8G --nixos-config web1 --hostname www --ssh-alias w --login ops --on-node auto \
                    --anti-affinity web --template 9003 --linked --install image --bridge vmbr1 --vlan 20 \
                    --mac BC:24:11:00:00:01 --mtu 1400 --ip 192.0.2.10/24 --gateway 192.0.2.1 --nameserver 192.0.2.2 \
                    --cpu host --on-boot --tag web --timezone Europe/Amsterdam --package htop --authorized-key KEY \
                    --secret secrets/web.yaml --protection --purpose Shop --service nginx --note remark";
        let Line { args } = Line::try_parse_from(line.split_whitespace()).unwrap();
        let answers = Answers {
            vmid: args.vmid.unwrap(),
            cores: 2,
            memory: 2048,
            disk: args.disk.unwrap(),
            storage: args.storage.clone(),
            ip: args.ip.and_then(NewIp::fixed),
            gateway: args.gateway,
            purpose: args.purpose.clone(),
            args: &args,
        };
        let attrs = answers.attrs();
        let names: std::collections::BTreeSet<&str> = attrs.iter().map(|(name, _)| *name).collect();
        let fields: std::collections::BTreeSet<&str> =
            fleet_core::definitions::MANAGED.iter().copied().filter(|name| *name != "readonly").collect();
        assert_eq!(names, fields);
        let value = |name: &str| attrs.iter().find(|(n, _)| *n == name).unwrap().1.clone();
        assert_eq!(value("disks"), "[ { size = \"4G\"; storage = \"slow\"; } \"8G\" ]");
        assert_eq!((value("clone"), value("vlan")), ("\"linked\"".into(), "20".into()));
    }
}
