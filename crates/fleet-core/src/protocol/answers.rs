//! What is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Marker;
use crate::types::{DiskSlot, MacAddr, NodeName, StorageId, Vmid};

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

/// About a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name in the cluster.
    pub node: NodeName,
    /// Proxmox VE version, such as `9.2.11`.
    pub version: String,
}

/// A machine that answers to an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressHolder {
    /// The node that was asked.
    pub node: NodeName,
    /// The machine's MAC address; none when it is the node itself.
    pub mac: Option<MacAddr>,
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
