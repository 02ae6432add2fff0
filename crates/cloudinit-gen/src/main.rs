//! `cloudinit-gen`: cloud-init documents from a fleet definition.

use std::process::ExitCode;

use cloudinit_gen::Cli;

fn main() -> ExitCode {
    match fleet_core::cli::parse::<Cli>() {
        Ok(cli) => fleet_core::cli::finish(cli.common.ui(), cloudinit_gen::run(&cli).map_err(Into::into)),
        Err(over) => over,
    }
}
