//! Takes a new VM into the fleet: hosts.nix, sops recipients, secrets, inventory, commit.
