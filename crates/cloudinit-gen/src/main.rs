//! `cloudinit-gen`: cloud-init documents from a fleet definition.

use std::process::ExitCode;

use clap::Parser;
use cloudinit_gen::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    fleet_core::cli::finish(cli.common.ui(), cloudinit_gen::run(&cli).map_err(Into::into))
}
