//! Takes a new VM into the fleet: hosts.nix, sops recipients, secrets, inventory, commit.

pub mod identity;
pub mod recipient;
pub mod rules;
pub mod sops;
mod yaml;
