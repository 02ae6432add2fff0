//! What the fleet tools share: the repository and its files, typed definitions, the guard, SSH, child
//! processes, the protocol that the tools speak to each other, and how they talk to people.
//!
//! No Proxmox verb lives here: only `proxmox-ops` knows Proxmox.

pub mod again;
pub mod authorized_keys;
pub mod child;
pub mod cli;
pub mod clock;
pub mod deadline;
pub mod definitions;
pub mod dirs;
pub mod disk_layout;
pub mod error;
pub mod faults;
pub mod files;
pub mod guard;
pub mod hosts;
pub mod interrupt;
pub mod known_hosts;
pub mod memory;
pub mod nix;
pub mod protocol;
pub mod repo;
pub mod ssh;
pub mod types;
pub mod ui;
pub mod validate;

pub use error::{Error, Kind, Result};
