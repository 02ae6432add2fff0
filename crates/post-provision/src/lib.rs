//! Takes a new VM into the fleet: hosts.nix, sops recipients, secrets, inventory, commit.
//!
//! [`trust`] gets the VM's host key and [`recipient`] makes an age recipient of it; [`rules`] edits `.sops.yaml`,
//! [`sops`] and [`secrets`] bring the secrets to it with an operator's [`identity`]; [`inventory`] writes
//! `docs/machines.md`. All of that is a [`plan`] that was verified before [`apply`] puts it in place.

pub mod add;
pub mod apply;
pub mod carry_out;
pub mod check;
mod chosen;
pub mod cli;
pub mod fleet;
pub mod git;
pub mod identity;
pub mod inventory;
mod known;
pub mod plan;
pub mod recipient;
pub mod remove;
pub mod rules;
pub mod secrets;
pub mod sops;
mod through_sops;
pub mod trust;
mod yaml;
