//! `provision-vm`: from a definition to a running NixOS VM in the fleet, in one command.

use std::process::ExitCode;

use provision::cli::Cli;

/// Reading a large fleet takes a fifth less time than with the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match fleet_core::cli::parse::<Cli>() {
        Ok(cli) => fleet_core::cli::finish(cli.common.ui(), provision::run(&cli).map_err(Into::into)),
        Err(over) => over,
    }
}
