//! Takes a new VM into the fleet: hosts.nix, sops recipients, secrets, inventory, commit.

use std::process::ExitCode;

use clap::Parser;
use post_provision::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    fleet_core::cli::finish(cli.common.ui(), run(&cli))
}
