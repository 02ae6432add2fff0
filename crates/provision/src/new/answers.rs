//! What the definition will say: from flags, and from questions where there is a terminal.

use clap::Args;
use fleet_core::{
    Error, Result,
    cli::ChangeArgs,
    definitions::Definitions,
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
    /// Node to be on
    #[arg(long = "on-node", value_name = "NODE")]
    pub on_node: Option<NodeName>,
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
    /// A fixed address with its prefix, such as 192.0.2.10/24 [default: DHCP]
    #[arg(long)]
    pub ip: Option<Cidr>,
    /// Gateway of the fixed address
    #[arg(long, requires = "ip")]
    pub gateway: Option<std::net::IpAddr>,
    /// A name server; may be given several times
    #[arg(long = "nameserver", value_name = "ADDRESS")]
    pub nameservers: Vec<std::net::IpAddr>,
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
    /// The fleet user who logs in
    #[arg(long = "login", value_name = "USER")]
    pub login: Option<UserName>,
    /// What it is for
    #[arg(long)]
    pub purpose: Option<String>,
    /// What runs on it; may be given several times
    #[arg(long = "service", value_name = "TEXT")]
    pub services: Vec<String>,
    /// The host whose files under hosts/ are taken as the pattern [default: the managed VM most like it]
    #[arg(long, value_name = "HOST")]
    pub like: Option<String>,
    /// --yes, --dry-run.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// What the definition will say.
pub(super) struct Answers<'a> {
    args: &'a NewArgs,
    vmid: Vmid,
    cores: u32,
    memory: u64,
    disk: DiskSize,
    storage: Option<StorageId>,
    pub(super) purpose: Option<String>,
}

/// Flags, completed by questions; `cluster` is what the cluster has, when it could be asked.
pub(super) fn complete<'a>(
    ui: Ui,
    args: &'a NewArgs,
    definitions: &Definitions,
    cluster: Option<&Vec<Resource>>,
) -> Result<Answers<'a>> {
    let name = &args.name;
    if let Some(there) = cluster.into_iter().flatten().find(|r| r.name.as_deref() == Some(name.as_str())) {
        return Err(Error::conflict(format!(
            "the name '{name}' is taken by {} on node {}",
            there.vmid, there.node
        ))
        .now("nothing was changed"));
    }
    let asks = can_ask() && !args.change.yes;
    let vmid = |vmid: &Vmid| free(*vmid, definitions, cluster);
    let some = |cores: &u32| if *cores == 0 { Err(Error::usage("at least 1")) } else { Ok(()) };
    let offered = match args.vmid {
        Some(vmid) => vmid,
        None => super::offered(definitions, cluster)?,
    };
    let usual_disk: DiskSize = USUAL.2.parse()?;
    let answers = Answers {
        args,
        vmid: ask(ui, asks, "VMID", args.vmid, offered, vmid)?,
        cores: ask(ui, asks, "CPU cores", args.cores, USUAL.0, some)?,
        memory: ask(ui, asks, "Memory in MiB", args.memory, USUAL.1, |memory| match memory {
            0..512 => Err(Error::usage("at least 512")),
            _ => Ok(()),
        })?,
        disk: ask(ui, asks, "Disk", args.disk, usual_disk, |_| Ok(()))?,
        storage: match (&args.storage, &definitions.proxmox.default_storage) {
            (Some(storage), _) => Some(storage.clone()),
            (None, Some(_)) => None,
            (None, None) if asks => Some(ui.ask_until("Storage: ", |text| text.parse())?),
            (None, None) => {
                return Err(Error::usage("which storage? the definitions have no defaultStorage")
                    .now("nothing was changed")
                    .hint("give --storage"));
            }
        },
        purpose: match &args.purpose {
            None if asks => {
                Some(ui.ask_line("What is it for? ")?.trim().to_owned()).filter(|text| !text.is_empty())
            }
            given => given.clone(),
        },
    };
    Ok(answers)
}

/// The given value, which must do; else the answer to a question; else the usual one.
fn ask<T: Copy + std::fmt::Display + std::str::FromStr>(
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
        let value = match text {
            "" => usual,
            text => text.parse::<T>().map_err(|e| Error::usage(e.to_string()))?,
        };
        check(&value).map(|()| value)
    })
}

fn free(vmid: Vmid, definitions: &Definitions, cluster: Option<&Vec<Resource>>) -> Result<()> {
    let taken =
        |by: String| Err(Error::conflict(format!("VMID {vmid} is taken by {by}")).now("nothing was changed"));
    if definitions.by_vmid(vmid).is_some() {
        return taken("another definition".to_owned());
    }
    match cluster.into_iter().flatten().find(|resource| resource.vmid == vmid) {
        Some(there) => taken(format!("'{}' on node {}", there.name.as_deref().unwrap_or("-"), there.node)),
        None => Ok(()),
    }
}

impl Answers<'_> {
    /// Names and values as Nix text, in the order in which definitions usually have them.
    pub(super) fn attrs(&self) -> Vec<(&'static str, String)> {
        let args = self.args;
        let text = |value: &dyn std::fmt::Display| quote_string(&value.to_string());
        let list = |items: &[String]| {
            let items: Vec<String> = items.iter().map(|item| quote_string(item)).collect();
            (!items.is_empty()).then(|| format!("[ {} ]", items.join(" ")))
        };
        let strings = |items: &[Tag]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let servers: Vec<String> = args.nameservers.iter().map(ToString::to_string).collect();
        [
            ("vmid", Some(self.vmid.to_string())),
            ("cores", Some(self.cores.to_string())),
            ("memory", Some(self.memory.to_string())),
            ("disk", Some(text(&self.disk))),
            ("storage", self.storage.as_ref().map(|v| text(v))),
            ("user", args.login.as_ref().map(|v| text(v))),
            ("node", args.on_node.as_ref().map(|v| text(v))),
            ("template", args.template.map(|v| v.to_string())),
            ("clone", args.linked.then(|| text(&"linked"))),
            ("bridge", args.bridge.as_ref().map(|v| text(v))),
            ("vlan", args.vlan.map(|v| v.to_string())),
            ("mac", args.mac.map(|v| text(&v))),
            ("mtu", args.mtu.map(|v| v.to_string())),
            ("ip", args.ip.map(|v| text(&v))),
            ("gateway", args.gateway.map(|v| text(&v))),
            ("nameservers", list(&servers)),
            ("cpu", args.cpu.as_ref().map(|v| text(v))),
            ("onBoot", args.on_boot.then(|| "true".to_owned())),
            ("tags", list(&strings(&args.tags))),
            ("protection", args.protection.then(|| "true".to_owned())),
            ("purpose", self.purpose.as_ref().map(|v| text(v))),
            ("services", list(&args.services)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}
