//! What the definition will say, and the flags that say it.

use std::net::IpAddr;

use clap::Args;
use fleet_core::{
    Error, Result,
    cli::ChangeArgs,
    definitions::Definitions,
    nix::edit::quote_string,
    protocol::Resource,
    types::{BridgeName, Cidr, DiskSize, MacAddr, NodeName, StorageId, Tag, UserName, VmName, Vmid},
};

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
    #[arg(long, value_parser = cores)]
    pub cores: Option<u32>,
    /// Memory in MiB [default: 4096]
    #[arg(long, value_name = "MIB", value_parser = mebibytes)]
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

fn cores(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number >= 1);
    number.ok_or_else(|| "a whole number, 1 or more".to_owned())
}

fn mebibytes(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number >= 512);
    number.ok_or_else(|| match text.parse::<DiskSize>() {
        Ok(size) if text.ends_with(['G', 'g']) => {
            format!("MiB as a whole number: {text} is {}", size.bytes() >> 20)
        }
        _ => "MiB as a whole number, 512 or more".to_owned(),
    })
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
    pub(super) fn fixed(self) -> Option<Cidr> {
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
    pub(super) args: &'a NewArgs,
    pub(super) vmid: Vmid,
    pub(super) cores: u32,
    pub(super) memory: u64,
    pub(super) disk: DiskSize,
    pub(super) storage: Option<StorageId>,
    pub(super) ip: Option<Cidr>,
    pub(super) gateway: Option<IpAddr>,
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

    #[test]
    fn a_number_that_is_none_is_told_what_it_should_be() {
        assert_eq!((cores("2"), mebibytes("4096")), (Ok(2), Ok(4096)));
        for wrong in ["0", "-1", "two", ""] {
            assert_eq!(cores(wrong).unwrap_err(), "a whole number, 1 or more");
        }
        assert_eq!(mebibytes("4G").unwrap_err(), "MiB as a whole number: 4G is 4096");
        for wrong in ["511", "lots"] {
            assert_eq!(mebibytes(wrong).unwrap_err(), "MiB as a whole number, 512 or more");
        }
    }

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
