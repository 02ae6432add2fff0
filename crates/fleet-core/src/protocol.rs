//! What the tools say to each other: `proxmox-ops session` reads requests as JSON lines on its standard
//! input and writes answers as JSON lines on its standard output.
//!
//! One request is `{"v":1,"id":7,"op":"start","vmid":110}`. It is answered by any number of
//! `{"v":1,"id":7,"progress":"…"}` and then by exactly one `{"v":1,"id":7,"ok":…}` or
//! `{"v":1,"id":7,"error":{…}}` ([`crate::error::Report`]). Several requests may be under way at once; those of
//! one VM are served in their order where one of them changes it.

mod answers;
mod marker;
mod op;
mod requests;
mod session;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    answers::{
        Address, AddressHolder, Backup, Candidate, ClusterConfig, NewDisk, NodeInfo, NodeRoom, Resource,
        ResourceKind, Storage, UploadPlace, UploadedImage, VmConfig, VmStatus,
    },
    marker::{CLOUDINIT_DONE, Marker, cloudinit_is_done},
    op::{Op, six_hours},
    requests::{BackupMode, CloneRequest, CreateRequest, Document, IMAGES, image_path},
    session::Session,
};
use crate::error::Report;

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
