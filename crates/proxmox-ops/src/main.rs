//! Operations on a Proxmox VE host, over SSH.

fn main() {}
