//! Operations on a Proxmox VE host, over SSH.

use std::process::ExitCode;

use proxmox_ops::cli::Cli;

fn main() -> ExitCode {
    match fleet_core::cli::parse::<Cli>() {
        Ok(cli) => fleet_core::cli::finish(cli.ui(), cli.run().map_err(Into::into)),
        Err(over) => over,
    }
}
