//! Operations on a Proxmox VE host, over SSH: the only crate that knows Proxmox.
//!
//! [`api`] speaks to the node's own daemon, [`tasks`] follows what it started to its true end, [`ops`] are the
//! operations on VMs, [`verbs`] the command line, one file a verb; `session` among them serves the requests of
//! other programs.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod context;
pub mod keys;
pub mod links;
pub mod node;
pub mod ops;
pub mod relay;
pub mod route;
pub mod settings;
pub mod tasks;
pub mod verbs;

#[cfg(test)]
mod testing;
