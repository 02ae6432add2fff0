//! A simulated Proxmox VE node for demos and tests. Not shipped.

fn main() {}
