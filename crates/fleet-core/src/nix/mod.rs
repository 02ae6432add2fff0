//! Nix files: read without Nix where the embedded evaluator can, by `nix eval` where it can not, and edited
//! without damage.

pub mod edit;
pub mod eval;
pub(crate) mod reader;
pub mod source;
mod syntax;

use std::path::Path;

use eval::{Budget, EvalError, Evaluated};

use crate::{Error, Result};

/// How Nix files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum NixMode {
    /// Embedded, and the nix program for what that does not cover.
    #[default]
    Auto,
    /// The embedded evaluator only.
    Embedded,
    /// The nix program only.
    Nix,
}

/// Reads a file's value. `base` is what places in errors are relative to.
pub fn read(path: &Path, base: &Path, mode: NixMode) -> Result<Evaluated> {
    let _ = mode;
    eval::eval_file(path, Budget::default()).map_err(|error| explain(&error, path, base))
}

fn explain(error: &EvalError, path: &Path, base: &Path) -> Error {
    let fault = error.fault();
    let place = match &fault.at {
        Some(at) => at.short(base),
        None => path.strip_prefix(base).unwrap_or(path).display().to_string(),
    };
    let snippet = fault.at.as_ref().map(|at| format!("\n{}", at.snippet())).unwrap_or_default();
    let what = match error {
        EvalError::Syntax(_) => "syntax error: ",
        EvalError::Unsupported(_) => "not covered by the built-in Nix evaluator: ",
        EvalError::Eval(_) | EvalError::Budget(_) => "",
    };
    let shown = Error::failed(format!("{place}: {what}{}{snippet}", fault.message));
    match error {
        EvalError::Unsupported(_) => {
            shown.hint("install Nix (https://nixos.org/download): `nix eval` would read this file")
        }
        _ => shown,
    }
}
