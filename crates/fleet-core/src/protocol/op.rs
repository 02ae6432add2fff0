//! What can be asked.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{BackupMode, CloneRequest, CreateRequest, Document, Marker};
use crate::types::{DiskSize, DiskSlot, NodeName, StorageId, Vmid};

/// What can be asked. Requests that change a VM pass the guard in `proxmox-ops` first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Op {
    /// About the node that answers. Gives [`NodeInfo`](super::NodeInfo).
    Node,
    /// Every VM and container of the cluster. Gives a list of [`Resource`](super::Resource).
    Resources,
    /// The configuration of every VM and container of the cluster, at the cost of one request. Gives a list of
    /// [`ClusterConfig`](super::ClusterConfig).
    Configs,
    /// A VM's configuration. Gives [`VmConfig`](super::VmConfig).
    Config {
        /// Which VM.
        vmid: Vmid,
    },
    /// A VM's power state. Gives [`VmStatus`](super::VmStatus).
    Status {
        /// Which VM.
        vmid: Vmid,
    },
    /// The nodes of the cluster, with what they have room for. Gives a list of [`NodeRoom`](super::NodeRoom).
    Nodes,
    /// The storages of a node. Gives a list of [`Storage`](super::Storage).
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
    /// Who has an address of a node's networks: the node is looked at, and the network is asked for this address alone,
    /// where it is an IPv4 one; of IPv6 counts what the node has heard lately. Gives null where nobody answers to it.
    AddressHolder {
        /// The address.
        address: IpAddr,
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
        /// The configuration that the change is meant for, as [`VmConfig`](super::VmConfig) told: another one is a conflict.
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
        /// A change that will have been made by then: documents that are given are taken away again by another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Box<Op>>,
        /// Where the VM will be, when it is not there yet; else where it is, or the node that answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
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
    /// of whose it is or carries the marker of this definition, and volumes; only when this very task left it. Gives
    /// null.
    RemoveRemainder {
        /// Which VMID.
        vmid: Vmid,
        /// The id of the node's task (`UPID:…`), which the asking side had it start.
        task: String,
    },
    /// Give a VM a new, empty disk. Gives [`NewDisk`](super::NewDisk).
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
    /// Make a backup of a VM. Follows the task; removes no older one. Gives [`Backup`](super::Backup).
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
    /// Whether a disk image could be sent to the node and imported there. Gives [`UploadPlace`](super::UploadPlace).
    UploadPlace {
        /// The node; the one where new VMs belong when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Send a disk image of this machine to the node, for `import-from` in a setting. Gives [`UploadedImage`](super::UploadedImage).
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
        /// What [`UploadedImage`](super::UploadedImage) said.
        path: String,
        /// The node that it was sent to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    /// Find a VM's address now. Gives [`Address`](super::Address); [`crate::Kind::NotFound`] when there is none yet.
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
    /// Ask through the guest agent whether cloud-init has come to its end since the VM's last start: then it has put all
    /// keys in their place that it has. Gives true or false.
    CloudInitEnded {
        /// Which VM.
        vmid: Vmid,
    },
}

impl Op {
    /// Whether it only waits for what a VM does by itself: to leave it leaves nothing half done.
    pub fn only_waits(&self) -> bool {
        matches!(self, Op::Address { .. } | Op::HostKey { .. })
    }

    /// Whether it may take long, and ends early when the session is asked to end: an upload takes away what it has sent,
    /// a backup goes on at the node, and its answer tells so.
    pub fn can_be_stopped(&self) -> bool {
        matches!(self, Op::Upload { .. } | Op::Backup { .. })
    }
}

fn a_minute() -> u64 {
    60
}

/// How long reading or writing whole disks may take where nobody says otherwise, in seconds.
pub const fn six_hours() -> u64 {
    6 * 3600
}
