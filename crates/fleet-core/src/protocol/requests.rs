//! What requests are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Marker;
use crate::types::{NodeName, StorageId, VmName, Vmid};

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

/// Where images are sent to on a node.
pub const IMAGES: &str = "/var/tmp";

/// The place of an image on a node: `format` is `raw` or `qcow2`.
pub fn image_path(nonce: &str, format: &str) -> String {
    format!("{IMAGES}/fleet-image-{nonce}.{format}")
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
    /// The image of its first disk: what [`UploadedImage`](super::UploadedImage) said, or a volume.
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
