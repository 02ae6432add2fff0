//! Operations on VMs: what the verbs and the session both do, each with the guard's leave where it changes
//! something, each true about its outcome.

pub mod address;
pub mod agent;
pub mod backup;
pub mod candidates;
pub mod clone;
pub mod cloned;
pub mod config;
pub mod configs;
pub mod create;
pub mod destroy;
pub mod disk;
pub mod host;
pub mod image;
pub mod in_use;
pub mod linked;
pub mod power;
pub mod queue;
pub mod reached;
pub mod remainder;
pub mod resize;
pub mod restored;
pub mod rows;
pub mod snapshot;
pub mod snippet;
pub mod sweep;
pub mod template;
mod unless_stopped;
pub mod upload;
pub mod volumes;

/// Where lines of progress go.
pub type Progress<'a> = &'a mut dyn FnMut(&str);
