//! What the tools say to each other: `proxmox-ops session` reads requests as JSON lines on its standard
//! input and writes answers as JSON lines on its standard output.
//!
//! One request is `{"v":1,"id":7,"op":"start","vmid":110}`. It is answered by any number of
//! `{"v":1,"id":7,"progress":"…"}` and then by exactly one `{"v":1,"id":7,"ok":…}` or
//! `{"v":1,"id":7,"error":{…}}` ([`crate::error::Report`]). Several requests may be under way at once; those of
//! one VM are served in their order where one of them changes it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout},
    sync::mpsc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    Error, Result,
    child::{Command, Running},
    deadline::Deadline,
    error::Report,
    types::{DiskSize, DiskSlot, MacAddr, NodeName, StorageId, VmName, Vmid},
};

/// The version of the protocol that this library speaks.
pub const VERSION: u32 = 1;

/// A request with its envelope.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Protocol version, [`VERSION`].
    pub v: u32,
    /// Chosen by the asking side; the answer carries it.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub op: Op,
}

/// What can be asked. Requests that change a VM pass the guard in `proxmox-ops` first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Op {
    /// About the node that answers. Gives [`NodeInfo`].
    Node,
    /// Every VM and container of the cluster. Gives a list of [`Resource`].
    Resources,
    /// The configuration of every VM and container of the cluster, at the cost of one request. Gives a list of
    /// [`ClusterConfig`].
    Configs,
    /// A VM's configuration. Gives [`VmConfig`].
    Config {
        /// Which VM.
        vmid: Vmid,
    },
    /// A VM's power state. Gives [`VmStatus`].
    Status {
        /// Which VM.
        vmid: Vmid,
    },
    /// The nodes of the cluster, with what they have room for. Gives a list of [`NodeRoom`].
    Nodes,
    /// The storages of a node. Gives a list of [`Storage`].
    Storages {
        /// Which node; the one where new VMs belong when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Network bridges of a node. Gives a list of strings.
    Bridges {
        /// Which node; the one where new VMs belong when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Clone a template into a new VM that carries `marker`. Follows the task. Gives null.
    Clone(CloneRequest),
    /// Make a VM from scratch, with a disk image that was sent, that carries `marker`. Follows the task. Gives null.
    Create(CreateRequest),
    /// Change settings of a VM in one request. Gives null.
    Configure {
        /// Which VM.
        vmid: Vmid,
        /// API parameters, decoded (`sshkeys` as plain lines), as in `qm.conf(5)`.
        settings: BTreeMap<String, String>,
        /// Settings to delete.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        delete: Vec<String>,
        /// The configuration that the change is meant for, as [`VmConfig`] told: another one is a conflict.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// Give a VM cloud-init documents in place of those that Proxmox makes, as files on the node that only root can
    /// read, and change settings in the same request. Gives a list of strings, the documents' volumes; an empty one
    /// where no storage of the node takes snippets, and then only the settings are changed.
    GiveDocuments {
        /// Which VM.
        vmid: Vmid,
        /// The documents, whole.
        documents: BTreeMap<Document, String>,
        /// As with [`Op::Configure`].
        #[serde(default)]
        settings: BTreeMap<String, String>,
    },
    /// Take those documents away again, files and setting. Gives whether there were any.
    RemoveDocuments {
        /// Which VM.
        vmid: Vmid,
    },
    /// Grow a disk to `size`; equal is nothing to do, smaller is refused. Verified by reading back. Gives null.
    Resize {
        /// Which VM.
        vmid: Vmid,
        /// Which disk.
        disk: DiskSlot,
        /// The new size.
        size: DiskSize,
    },
    /// The requests to the node's API that a change would be made with; nothing is sent. Gives a list of texts.
    Show {
        /// The change.
        request: Box<Op>,
    },
    /// Start a VM; a running one is left alone. Gives null.
    Start {
        /// Which VM.
        vmid: Vmid,
    },
    /// Power a VM off; a stopped one is left alone. Gives null.
    Stop {
        /// Which VM.
        vmid: Vmid,
    },
    /// Ask a VM's guest to shut down; a stopped one is left alone. Gives null.
    Shutdown {
        /// Which VM.
        vmid: Vmid,
        /// Seconds that the guest gets.
        #[serde(default = "a_minute")]
        timeout: u64,
        /// Power it off when it did not.
        #[serde(default)]
        force: bool,
    },
    /// Ask a VM's guest to shut down, and power it on again. Gives null.
    Reboot {
        /// Which VM.
        vmid: Vmid,
        /// Seconds that the guest gets.
        #[serde(default = "a_minute")]
        timeout: u64,
    },
    /// Remove a VM and its disks, if it carries exactly this marker. Gives null.
    Destroy {
        /// Which VM.
        vmid: Vmid,
        /// What its creation wrote into it.
        marker: Marker,
        /// Power it off first when it runs.
        #[serde(default)]
        stop: bool,
    },
    /// Remove what a clone or a creation that was killed left under a VMID: a locked configuration that says nothing
    /// of whose it is, and volumes; only when this very task left it. Gives null.
    RemoveRemainder {
        /// Which VMID.
        vmid: Vmid,
        /// The id of the node's task (`UPID:…`), which the asking side had it start.
        task: String,
    },
    /// Give a VM a new, empty disk. Gives [`NewDisk`].
    CreateDisk {
        /// Which VM.
        vmid: Vmid,
        /// Its size; Proxmox allocates whole GiB.
        size: DiskSize,
        /// Where it is allocated.
        storage: StorageId,
        /// Where it is attached; the first free scsi slot when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<DiskSlot>,
    },
    /// Turn a stopped VM into a template. Gives null.
    Template {
        /// Which VM.
        vmid: Vmid,
    },
    /// Make a backup of a VM. Follows the task; removes no older one. Gives [`Backup`].
    Backup {
        /// Which VM.
        vmid: Vmid,
        /// Where to; a storage of its node that takes backups when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        storage: Option<StorageId>,
        /// How a running VM is backed up.
        #[serde(default)]
        mode: BackupMode,
        /// What to remember about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notes: Option<String>,
        /// Seconds that it may take.
        #[serde(default = "six_hours")]
        timeout: u64,
    },
    /// The snapshots of a VM, oldest first.
    Snapshots {
        /// Which VM.
        vmid: Vmid,
    },
    /// Take a snapshot. Gives null.
    Snapshot {
        /// Which VM.
        vmid: Vmid,
        /// Its name.
        name: String,
        /// What to remember about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// Keep the memory of a running VM too.
        #[serde(default)]
        memory: bool,
    },
    /// Put a VM back to a snapshot; what came after is lost. Gives null.
    Rollback {
        /// Which VM.
        vmid: Vmid,
        /// The snapshot's name.
        name: String,
        /// Start the VM then.
        #[serde(default)]
        start: bool,
    },
    /// Remove a snapshot. Gives null.
    DeleteSnapshot {
        /// Which VM.
        vmid: Vmid,
        /// The snapshot's name.
        name: String,
    },
    /// The lowest VMID that neither the definitions nor the cluster has. Gives a number.
    NextVmid {
        /// First VMID to consider.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<Vmid>,
        /// Last VMID to consider.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<Vmid>,
    },
    /// Run a command in a VM through its guest agent. Gives its exit code and what it wrote.
    Exec {
        /// Which VM.
        vmid: Vmid,
        /// The program and its arguments; no shell is in between.
        command: Vec<String>,
        /// Seconds that it may take.
        #[serde(default = "a_minute")]
        timeout: u64,
    },
    /// Whether a disk image could be sent to the node and imported there. Gives [`UploadPlace`].
    UploadPlace {
        /// The node; the one where new VMs belong when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Send a disk image of this machine to the node, for `import-from` in a setting. Gives [`UploadedImage`].
    Upload {
        /// The image: qcow2 or raw.
        file: std::path::PathBuf,
        /// What its name there is to hold, letters and digits, so that it is known before it is sent; else any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
        /// The node; the one where new VMs belong when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Remove an image that was sent. Gives null.
    RemoveUpload {
        /// What [`UploadedImage`] said.
        path: String,
        /// The node that it was sent to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Find a VM's address now. Gives [`Address`]; [`crate::Kind::NotFound`] when there is none yet.
    Address {
        /// Which VM.
        vmid: Vmid,
        /// How long to look, in seconds; 0 looks once.
        #[serde(default)]
        timeout: u64,
    },
    /// Read the VM's ed25519 SSH host key through the guest agent. Gives a string, an OpenSSH public key line.
    HostKey {
        /// Which VM.
        vmid: Vmid,
        /// How long to wait for the agent, in seconds.
        #[serde(default)]
        timeout: u64,
    },
}

fn a_minute() -> u64 {
    60
}

/// How long reading or writing whole disks may take where nobody says otherwise, in seconds.
pub const fn six_hours() -> u64 {
    6 * 3600
}

/// How a running VM is backed up (`mode` of vzdump(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BackupMode {
    /// While it runs; with its guest agent, its file systems are consistent.
    #[default]
    Snapshot,
    /// Suspended until the backup has begun.
    Suspend,
    /// Shut down, and started again once the backup has begun.
    Stop,
}

impl std::fmt::Display for BackupMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackupMode::Snapshot => "snapshot",
            BackupMode::Suspend => "suspend",
            BackupMode::Stop => "stop",
        })
    }
}

/// A backup that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backup {
    /// Its volume, which a restore takes.
    pub volume: String,
    /// The storage that it is on.
    pub storage: StorageId,
    /// The node that made it.
    pub node: NodeName,
    /// Bytes, where the storage knows.
    #[serde(default)]
    pub size: Option<u64>,
}

/// A disk that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewDisk {
    /// Where it is attached.
    pub disk: DiskSlot,
}

/// Where images are sent to on a node.
pub const IMAGES: &str = "/var/tmp";

/// The place of an image on a node: `format` is `raw` or `qcow2`.
pub fn image_path(nonce: &str, format: &str) -> String {
    format!("{IMAGES}/fleet-image-{nonce}.{format}")
}

/// What a node says of the place where images are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPlace {
    /// Bytes that are free there, when it tells.
    #[serde(default)]
    pub available: Option<u64>,
    /// Whether the API takes us for root, who alone may import a file by its path.
    pub root: bool,
}

/// A disk image on the node, until it is removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadedImage {
    /// Where it is on the node.
    pub path: String,
}

/// One of cloud-init's documents, named as `cicustom` in qm.conf(5) names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Document {
    /// meta-data.
    Meta,
    /// network-config.
    Network,
    /// user-data.
    User,
    /// vendor-data.
    Vendor,
}

impl Document {
    /// All of them.
    pub const ALL: [Document; 4] = [Document::Meta, Document::Network, Document::User, Document::Vendor];
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Document::Meta => "meta",
            Document::Network => "network",
            Document::User => "user",
            Document::Vendor => "vendor",
        })
    }
}

/// Everything a clone needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CloneRequest {
    /// The template.
    pub template: Vmid,
    /// The VMID to create.
    pub vmid: Vmid,
    /// The name to give.
    pub name: VmName,
    /// Where to put the disks; for a full clone only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageId>,
    /// A full copy, or a clone linked to the template.
    pub full: bool,
    /// The node where it shall be; where none is given, that of its definition, else the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Proof of who made it, written into the description.
    pub marker: Marker,
}

/// Everything a VM from scratch needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The VMID to create.
    pub vmid: Vmid,
    /// The name to give.
    pub name: VmName,
    /// Where its disks go.
    pub storage: StorageId,
    /// The image of its first disk: what [`UploadedImage`] said, or a volume.
    pub image: String,
    /// Settings over those that every such VM has (UEFI, serial console, guest agent, a card on `vmbr0`), decoded. A
    /// `description` has to hold the marker.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The node where it shall be; where none is given, that of its definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Proof of who made it, written into the description.
    pub marker: Marker,
}

/// The proof, in a VM's description, that these tools made it: name, VMID and a nonce of 32 hexadecimal digits.
///
/// In the description it is one line, `fleet-vm: name=web vmid=110 nonce=…`, whatever else people write there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The definition's name.
    pub name: VmName,
    /// The VMID it was made with: a copy of the VM by hand carries the marker too, but not its VMID.
    pub vmid: Vmid,
    /// Random, told apart from any other creation.
    pub nonce: String,
}

const MARKER_START: &str = "fleet-vm:";

impl Marker {
    /// A marker with a fresh nonce.
    pub fn fresh(name: &VmName, vmid: Vmid) -> Result<Marker> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::failed("the system gives no random bytes").caused_by(e))?;
        let nonce = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Marker { name: name.clone(), vmid, nonce })
    }

    /// The marker in a description, if there is exactly one well-formed one.
    pub fn find(description: &str) -> Option<Marker> {
        let mut found = description.lines().filter_map(Marker::parse);
        match (found.next(), found.next()) {
            (Some(marker), None) => Some(marker),
            _ => None,
        }
    }

    fn parse(line: &str) -> Option<Marker> {
        let mut words = line.trim().strip_prefix(MARKER_START)?.split_whitespace();
        let name = words.next()?.strip_prefix("name=")?.parse().ok()?;
        let vmid = words.next()?.strip_prefix("vmid=")?.parse().ok()?;
        let nonce = words.next()?.strip_prefix("nonce=")?.to_owned();
        let well_formed = nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit());
        (well_formed && words.next().is_none()).then_some(Marker { name, vmid, nonce })
    }
}

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{MARKER_START} name={} vmid={} nonce={}", self.name, self.vmid, self.nonce)
    }
}

/// About a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name in the cluster.
    pub node: NodeName,
    /// Proxmox VE version, such as `9.2.11`.
    pub version: String,
}

/// What a node of the cluster has room for, as the cluster last heard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeRoom {
    /// Its name.
    pub node: NodeName,
    /// Whether the cluster hears of it.
    pub online: bool,
    /// How many CPUs it has, when it tells.
    #[serde(default)]
    pub cpu: Option<u64>,
    /// Bytes of memory, when it tells.
    #[serde(default)]
    pub maxmem: Option<u64>,
    /// Bytes of memory in use, when it tells.
    #[serde(default)]
    pub mem: Option<u64>,
    /// Its storages.
    #[serde(default)]
    pub storages: Vec<Storage>,
}

/// What a resource of the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

/// A VM or container somewhere in the cluster. Fields that are not named here are kept in `other`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resource {
    /// Its VMID.
    pub vmid: Vmid,
    /// VM or container.
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    /// Its name; a VM that is just being cloned may have none.
    #[serde(default)]
    pub name: Option<String>,
    /// The node it is on.
    pub node: NodeName,
    /// `running`, `stopped` or `unknown`.
    #[serde(default)]
    pub status: String,
    /// Whether it is a template.
    #[serde(default)]
    pub template: bool,
    /// What else the API says.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A VM's configuration as the API gives it, text decoded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmConfig {
    /// Which VM.
    pub vmid: Vmid,
    /// The node it is on.
    pub node: NodeName,
    /// Every setting as text (`memory`, `net0`, `scsi0`, …); pending changes are not applied.
    pub settings: BTreeMap<String, String>,
    /// SHA1 of the stored configuration.
    pub digest: String,
    /// Our marker, when the description has one that names this VMID.
    #[serde(default)]
    pub marker: Option<Marker>,
    /// The MAC address of `net0`.
    #[serde(default)]
    pub mac: Option<MacAddr>,
}

/// The stored configuration of a VM or container somewhere in the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Its VMID.
    pub vmid: Vmid,
    /// The node it is on.
    pub node: NodeName,
    /// VM or container.
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    /// Every setting as text, decoded, as it holds now.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Settings that will hold after the next stop and start; `delete` lists those that will go.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pending: BTreeMap<String, String>,
    /// Our marker, when the description has one that names this VMID.
    #[serde(default)]
    pub marker: Option<Marker>,
    /// The MAC addresses of its network cards.
    #[serde(default)]
    pub macs: Vec<MacAddr>,
}

impl ClusterConfig {
    /// One without settings.
    pub fn new(vmid: Vmid, node: NodeName, kind: ResourceKind) -> ClusterConfig {
        ClusterConfig {
            vmid,
            node,
            kind,
            settings: BTreeMap::new(),
            pending: BTreeMap::new(),
            marker: None,
            macs: Vec::new(),
        }
    }
}

impl From<ClusterConfig> for VmConfig {
    fn from(config: ClusterConfig) -> VmConfig {
        VmConfig {
            vmid: config.vmid,
            node: config.node,
            settings: config.settings,
            digest: String::new(),
            marker: config.marker,
            mac: config.macs.first().copied(),
        }
    }
}

/// A VM's power state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmStatus {
    /// Which VM.
    pub vmid: Vmid,
    /// The node it is on.
    pub node: NodeName,
    /// `running` or `stopped`.
    pub status: String,
    /// What it is locked by, if it is.
    #[serde(default)]
    pub lock: Option<String>,
    /// What else the API says.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl VmStatus {
    /// What of a VM that is locked by a clone or a creation says whether a task of the node still works on it.
    pub const CLONE_RUNS: &str = "clone_runs";

    /// Whether it is locked by a clone or a creation that nothing works on any more: the remainder of one that was
    /// killed.
    pub fn is_remainder(&self) -> bool {
        self.other.get(VmStatus::CLONE_RUNS) == Some(&Value::Bool(false))
    }
}

/// A storage on the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Storage {
    /// Its name.
    pub storage: StorageId,
    /// `dir`, `zfspool`, `lvmthin`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What it takes: `images`, `snippets`, `iso`, …
    pub content: Vec<String>,
    /// Whether it is enabled and answering.
    pub active: bool,
    /// Whether every node sees the same one.
    pub shared: bool,
    /// The node that sees it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Bytes free, when the storage tells.
    #[serde(default)]
    pub available: Option<u64>,
    /// Bytes in all, when the storage tells.
    #[serde(default)]
    pub total: Option<u64>,
}

/// A VM's address and how it was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Address {
    /// The one to use.
    pub address: std::net::IpAddr,
    /// All that were seen, with the reason each was taken or not.
    pub candidates: Vec<Candidate>,
}

/// One address that may be the VM's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Candidate {
    /// The address.
    pub address: std::net::IpAddr,
    /// `agent`, `neighbour` or `static`.
    pub source: String,
    /// Whether it was taken.
    pub taken: bool,
    /// Why, or why not.
    pub reason: String,
}

/// One line of an answer; `T` is how its result is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply<T = Value> {
    /// Protocol version.
    pub v: u32,
    /// The request's id.
    pub id: u64,
    /// What it says.
    #[serde(flatten)]
    pub body: ReplyBody<T>,
}

/// What a line of an answer says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyBody<T = Value> {
    /// A line of progress; more follows.
    Progress(String),
    /// Done, with the result.
    Ok(T),
    /// Failed.
    Error(Report),
}

/// The asking side: a `proxmox-ops session` as a child of this process.
pub struct Session {
    child: Running,
    stdin: ChildStdin,
    replies: mpsc::Receiver<std::io::Result<String>>,
    next_id: u64,
    command: String,
}

impl Session {
    /// Starts `command`, which must be a `proxmox-ops … session`.
    pub fn start(command: &Command) -> Result<Session> {
        let (child, stdin, stdout) = command.start()?;
        Ok(Session { child, stdin, replies: lines_of(stdout), next_id: 1, command: command.to_string() })
    }

    /// Asks and waits for the answer; `on_progress` is given the lines that come before it.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        op: Op,
        deadline: Deadline,
        mut on_progress: impl FnMut(&str),
    ) -> Result<T> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_string(&Request { v: VERSION, id, op })
            .map_err(|e| Error::failed("can not write a request").caused_by(e))?;
        line.push('\n');
        if let Err(e) = self.stdin.write_all(line.as_bytes()).and_then(|()| self.stdin.flush()) {
            // It has ended; what it had to say (can not connect, …) is its last line.
            return Err(self.last_words(deadline).unwrap_or_else(|| self.gone().caused_by(e)));
        }
        loop {
            let reply = self.reply(deadline)?;
            if reply.id != id {
                continue;
            }
            match reply.body {
                ReplyBody::Progress(text) => on_progress(&text),
                ReplyBody::Error(report) => return Err(report.into()),
                ReplyBody::Ok(value) => {
                    let shown = value.to_string();
                    return serde_json::from_value(value).map_err(|e| {
                        Error::failed(format!("`{}` gave an answer of another shape: {shown}", self.command))
                            .caused_by(e)
                    });
                }
            }
        }
    }

    /// Asks all of these at once, and waits for all the answers: the session serves as many side by side as it may. An
    /// error of the session itself is the answer to each that has none yet.
    pub fn ask_all<T: DeserializeOwned>(&mut self, ops: Vec<Op>, deadline: Deadline) -> Vec<Result<T>> {
        let first = self.next_id;
        let mut answers: Vec<Option<Result<T>>> = ops.iter().map(|_| None).collect();
        let mut outcome = ops.into_iter().try_for_each(|op| {
            let id = self.next_id;
            self.next_id += 1;
            let line = serde_json::to_string(&Request { v: VERSION, id, op })
                .map_err(|e| Error::failed("can not write a request").caused_by(e))?;
            writeln!(self.stdin, "{line}")
                .and_then(|()| self.stdin.flush())
                .map_err(|e| self.gone().caused_by(e))
        });
        while outcome.is_ok() && answers.iter().any(Option::is_none) {
            outcome = self.reply(deadline).map(|reply| {
                let at = reply.id.checked_sub(first).and_then(|at| usize::try_from(at).ok());
                let Some(answer) = at.and_then(|at| answers.get_mut(at)) else { return };
                *answer = match reply.body {
                    ReplyBody::Progress(_) => return,
                    ReplyBody::Error(report) => Some(Err(report.into())),
                    ReplyBody::Ok(value) => Some(serde_json::from_value(value).map_err(|e| {
                        Error::failed(format!("`{}` gave an answer of another shape", self.command))
                            .caused_by(e)
                    })),
                };
            });
        }
        let lost = |outcome: &Result<()>| match outcome {
            Err(error) => Error::new(error.kind(), error.message()),
            Ok(()) => Error::failed("no answer"),
        };
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost(&outcome)))).collect()
    }

    /// The next reply; an error of the session itself is one here.
    fn reply(&mut self, deadline: Deadline) -> Result<Reply> {
        let line = match self.replies.recv_timeout(deadline.left()) {
            Ok(Ok(line)) => line,
            Ok(Err(e)) => return Err(self.gone().caused_by(e)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(deadline.error(format_args!("an answer of `{}`", self.command)));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.gone()),
        };
        let reply: Reply = serde_json::from_str(&line).map_err(|e| {
            Error::failed(format!("`{}` gave something that is no answer: {line}", self.command)).caused_by(e)
        })?;
        if reply.v != VERSION {
            return Err(Error::failed(format!(
                "`{}` speaks version {} of the protocol, this program version {VERSION}",
                self.command, reply.v
            ))
            .hint("install all of the fleet tools together"));
        }
        match reply.body {
            // Id 0: about the session itself.
            ReplyBody::Error(report) if reply.id == 0 => Err(report.into()),
            _ => Ok(reply),
        }
    }

    fn last_words(&mut self, deadline: Deadline) -> Option<Error> {
        let deadline = deadline.at_most(Duration::from_secs(5));
        while let Ok(Ok(line)) = self.replies.recv_timeout(deadline.left()) {
            if let Ok(Reply { body: ReplyBody::Error(report), .. }) = serde_json::from_str::<Reply>(&line) {
                return Some(report.into());
            }
        }
        None
    }

    fn gone(&mut self) -> Error {
        let how = match self.child.wait(Deadline::secs(2), &self.command) {
            Ok(status) => crate::child::describe(status),
            Err(_) => "closed its output".to_owned(),
        };
        Error::outcome_unknown(format!("`{}` {how} before it answered", self.command))
            .now("what was asked may or may not have been done")
            .hint("run the same command again: it looks first")
    }
}

fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<std::io::Result<String>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}
