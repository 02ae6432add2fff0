//! A simulated Proxmox VE node for demos and tests. Not shipped.

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    // Under these names it is a stand-in.
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("nixos-anywhere") => pve_sim::anywhere::main(args),
        Some("nix") => pve_sim::nix::main(args),
        _ => pve_sim::cli::main(),
    }
}
