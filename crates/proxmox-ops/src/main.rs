//! Operations on a Proxmox VE host, over SSH.

use std::process::ExitCode;

use clap::Parser;
use proxmox_ops::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    fleet_core::cli::finish(cli.ui(), cli.run().map_err(Into::into))
}
