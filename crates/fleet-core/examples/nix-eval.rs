//! `nix-eval FILE`: a file's value as JSON, read by the embedded evaluator alone.
//!
//! Exit code 0 with the value on stdout; 1 if evaluating fails, 2 for bad usage, 3 for a construct that the
//! evaluator does not cover.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example has no terminal to share")]

use std::{path::Path, process::ExitCode};

use fleet_core::nix::eval::{Budget, EvalError, eval_file};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(file), None) = (args.next(), args.next()) else {
        eprintln!("usage: nix-eval FILE");
        return ExitCode::from(2);
    };
    let outcome = eval_file(Path::new(&file), Budget::default()).and_then(|evaluated| evaluated.to_json());
    match outcome {
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            if let Some(at) = &error.fault().at {
                eprintln!("{}", at.snippet());
            }
            if let Some(help) = &error.fault().help {
                eprintln!("hint: {help}");
            }
            ExitCode::from(if matches!(error, EvalError::Unsupported(_)) { 3 } else { 1 })
        }
    }
}
