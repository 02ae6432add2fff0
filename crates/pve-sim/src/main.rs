//! A simulated Proxmox VE node for demos and tests. Not shipped.

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    // Under this name it is the stand-in.
    if Path::new(&name).file_name().is_some_and(|name| name == "nixos-anywhere") {
        return pve_sim::anywhere::main(args);
    }
    pve_sim::cli::main()
}
