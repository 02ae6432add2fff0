//! The evaluator that an edit is proven by: the embedded one, or the nix program for what that does not cover.

use std::path::{Path, PathBuf};

use rnix::SyntaxKind as K;

use crate::{
    Error, Result, faults,
    nix::{
        NixMode,
        eval::{Budget, EvalError, Value, absolute, eval_parsed, resolve},
        external,
        syntax::Tree,
    },
};

/// What evaluates the old text and the new one: the same for both, for what one says of paths the other may not.
#[derive(Debug)]
pub(super) enum Evaluator {
    /// The embedded one.
    Embedded,
    /// This program.
    Nix(PathBuf),
}

/// Why a text has no value.
#[derive(Debug)]
pub(super) enum Stop {
    /// The embedded evaluator does not cover it: nix may.
    Unsupported(EvalError),
    /// It is wrong.
    Wrong {
        /// What is wrong, without the place.
        message: String,
        /// The whole of it.
        error: Error,
    },
    /// Something else came in between.
    Other(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Other(error)
    }
}

impl Stop {
    /// As an error about a file.
    pub(super) fn into_error(self, file: &Path) -> Error {
        let shown = |error: &dyn std::fmt::Display| {
            Error::failed(format!("can not evaluate {} to check an edit: {error}", file.display()))
        };
        match self {
            Stop::Unsupported(error) => shown(&error),
            Stop::Wrong { error, .. } => match error.kind() {
                crate::Kind::Failed => shown(&error.message()),
                _ => error,
            },
            Stop::Other(error) => error,
        }
    }
}

impl Evaluator {
    /// Does `work` with the evaluator that `mode` says; where that is the embedded one, and does not cover the file, once
    /// more with nix if `mode` allows that and it is there.
    pub(super) fn choose<T>(
        mode: NixMode,
        file: &Path,
        work: impl Fn(&Evaluator) -> std::result::Result<T, Stop>,
    ) -> Result<T> {
        if mode == NixMode::Nix {
            let nix = external::required_program()?;
            return work(&Evaluator::Nix(nix)).map_err(|stop| stop.into_error(file));
        }
        let stop = match work(&Evaluator::Embedded) {
            Ok(done) => return Ok(done),
            Err(stop) => stop,
        };
        if !matches!(stop, Stop::Unsupported(_)) {
            return Err(stop.into_error(file));
        }
        match external::program().filter(|_| mode == NixMode::Auto) {
            Some(nix) => work(&Evaluator::Nix(nix)).map_err(|stop| stop.into_error(file)),
            None => Err(stop.into_error(file).now("nothing was changed").hint(match mode {
                NixMode::Embedded => "with `--nix auto` and Nix installed, edits of this file are proven by `nix eval`",
                _ => {
                    "install Nix (https://nixos.org/download): with `nix` on PATH edits of this file are proven by `nix eval`"
                }
            })),
        }
    }

    /// Where the file is taken to be, for relative paths in it.
    pub(super) fn place(&self, file: &Path) -> PathBuf {
        let file = resolve(file);
        match (self, file.parent().and_then(|dir| dir.canonicalize().ok()), file.file_name()) {
            // A process knows its directory without links.
            (Evaluator::Nix(_), Some(dir), Some(name)) => dir.join(name),
            _ => file,
        }
    }

    /// The value of a text that stands in `place`. Its tree, if that is known, saves parsing it.
    pub(super) fn value(
        &self,
        text: &str,
        tree: Option<Tree>,
        place: &Path,
    ) -> std::result::Result<Value, Stop> {
        match self {
            Evaluator::Embedded => match eval_parsed(text, tree, place, Budget::default()) {
                Ok(evaluated) => Ok(evaluated.value),
                Err(error @ EvalError::Unsupported(_)) => Err(Stop::Unsupported(error)),
                Err(error) => Err(Stop::Wrong {
                    message: error.fault().message.clone(),
                    error: Error::failed(error.to_string()),
                }),
            },
            // To nix the text comes from elsewhere: in there it would read what is on the disk.
            Evaluator::Nix(_) if reads(text, place) => Err(Stop::Other(
                Error::refused(format!(
                    "can not edit {}: it reads itself, and what `nix eval` then reads is the file before the edit",
                    place.display()
                ))
                .now("nothing was changed")
                .hint("edit the file by hand"),
            )),
            Evaluator::Nix(nix) => external::eval_text(text, place, nix)
                .map(|evaluated| evaluated.value)
                .map_err(|error| match faults::of(&error).into_iter().next() {
                    Some(fault) => Stop::Wrong { message: fault.message, error },
                    None => Stop::Other(error),
                }),
        }
    }
}

/// Whether a text that stands in `place` names that file by a path.
fn reads(text: &str, place: &Path) -> bool {
    let base = place.parent().unwrap_or(Path::new("/"));
    rnix::tokenize(text)
        .filter(|(kind, _)| matches!(kind, K::TOKEN_PATH_REL | K::TOKEN_PATH_ABS))
        .any(|(_, path)| resolve(Path::new(&absolute(base, path))) == place)
}
