//! Nix files: read without Nix where the embedded evaluator can, by `nix eval` where it can not, and edited
//! without damage.

mod divide;
pub mod edit;
pub mod eval;
pub mod external;
mod parts;
pub(crate) mod reader;
mod scan;
pub mod source;
mod syntax;

use std::path::Path;

use eval::{Budget, EvalError, Evaluated};
pub use reader::is_slip;

use crate::{
    Error, Result,
    faults::{self, Fault},
};

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

/// A file's value for the models that are read out of it.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The value. Where there are faults it has gaps, is good for finding more of them, and nothing may act on it.
    pub(crate) evaluated: Evaluated,
    /// Every evaluation error.
    pub(crate) faults: Vec<Fault>,
}

impl From<Evaluated> for Reading {
    fn from(evaluated: Evaluated) -> Reading {
        Reading { evaluated, faults: Vec::new() }
    }
}

/// Reads a file's value. `base` is what places in errors are relative to.
pub fn read(path: &Path, base: &Path, mode: NixMode) -> Result<Evaluated> {
    if mode == NixMode::Nix {
        return external::eval_file(path, base, &external::required_program()?);
    }
    eval::eval_file(path, Budget::default()).or_else(|error| read_by_nix(&error, path, base, mode))
}

/// As [`read`], where an error in one place does not hide the others: what the file says elsewhere is read too.
pub(crate) fn read_with_faults(path: &Path, base: &Path, mode: NixMode) -> Result<Reading> {
    if mode == NixMode::Nix {
        return read(path, base, mode).map(Reading::from);
    }
    let error = match eval::eval_file(path, Budget::default()) {
        Ok(evaluated) => return Ok(evaluated.into()),
        Err(error) => error,
    };
    let failed = match read_by_nix(&error, path, base, mode) {
        Ok(evaluated) => return Ok(evaluated.into()),
        Err(failed) => failed,
    };
    // What ran out of its budget once is not read again.
    let survey = match error {
        EvalError::Budget(_) => None,
        _ => eval::survey_file(path, Budget::default()).ok(),
    };
    let Some(survey) = survey.filter(|survey| !survey.is_one_error()) else { return Err(failed) };
    let mut faults: Vec<Fault> =
        survey.errors.iter().map(|(error, at)| fault(error, path, base, at)).collect();
    // What only Nix can tell, where it was asked.
    for other in faults::from_error(&failed, path, base) {
        if !faults.iter().any(|fault| (&fault.file, fault.line) == (&other.file, other.line)) {
            faults.push(other);
        }
    }
    Ok(Reading { evaluated: survey.rest, faults })
}

/// The nix program's answer where it may know better than the embedded evaluator, else that one's error.
fn read_by_nix(error: &EvalError, path: &Path, base: &Path, mode: NixMode) -> Result<Evaluated> {
    let explained = explain(error, path, base);
    // What the embedded parser refuses may still be Nix: its word is final only when Nix agrees.
    let may_help = matches!(error, EvalError::Unsupported(_) | EvalError::Syntax(_));
    match external::program().filter(|_| may_help && mode == NixMode::Auto) {
        Some(nix) => external::eval_file(path, base, &nix).map_err(|failed| match error {
            EvalError::Unsupported(_) => failed.now(format!("asked nix because of {}", explained.message())),
            _ => explained,
        }),
        None => Err(explained),
    }
}

/// Reads `text` as if it were the file; places are known where the embedded evaluator read it.
pub(crate) fn read_text(text: &str, path: &Path, base: &Path, mode: NixMode) -> Result<Evaluated> {
    if mode == NixMode::Nix {
        return external::eval_text(text, path, &external::required_program()?);
    }
    let error = match eval::eval_text(text, path, Budget::default()) {
        Ok(evaluated) => return Ok(evaluated),
        Err(error) => error,
    };
    let may_help = mode == NixMode::Auto && matches!(error, EvalError::Unsupported(_));
    match external::program().filter(|_| may_help) {
        Some(nix) => external::eval_text(text, path, &nix),
        None => Err(explain(&error, path, base)),
    }
}

/// An evaluation error as a person reads it; it carries the fault with its place.
pub fn explain(error: &EvalError, path: &Path, base: &Path) -> Error {
    fault(error, path, base, "").error()
}

/// An evaluation error as a fault of what has this attribute path.
fn fault(error: &EvalError, path: &Path, base: &Path, attribute: &str) -> Fault {
    let fault = error.fault();
    let (what, help) = match error {
        EvalError::Syntax(_) => ("syntax error: ", None),
        EvalError::Unsupported(_) => (
            "not covered by the built-in Nix evaluator: ",
            Some(
                "install Nix (https://nixos.org/download): with `nix` on PATH this file is read by `nix eval`",
            ),
        ),
        EvalError::Budget(_) => {
            ("gave up: ", Some("with Nix installed, `--nix nix` evaluates without these limits"))
        }
        EvalError::Eval(_) => ("", None),
    };
    let mut shown = Fault::new(path, base, fault.at.as_ref(), attribute, format!("{what}{}", fault.message));
    shown.help = fault.help.as_deref().or(help).map(str::to_owned);
    shown
}

/// The plain texts of all string literals in a Nix file, as they are written, without evaluating anything.
pub fn string_literals(text: &str) -> Vec<String> {
    rnix::tokenize(text)
        .filter(|(kind, _)| *kind == rnix::SyntaxKind::TOKEN_STRING_CONTENT)
        .map(|(_, literal)| literal.to_owned())
        .collect()
}

/// The names, paths and texts of string literals in a Nix file, as they are written: everything but comments and
/// punctuation, without evaluating anything.
pub fn code_words(text: &str) -> Vec<String> {
    use rnix::SyntaxKind as K;
    let word = |kind: K| {
        matches!(
            kind,
            K::TOKEN_IDENT
                | K::TOKEN_STRING_CONTENT
                | K::TOKEN_PATH_ABS
                | K::TOKEN_PATH_REL
                | K::TOKEN_PATH_HOME
                | K::TOKEN_PATH_SEARCH
        )
    };
    rnix::tokenize(text).filter(|(kind, _)| word(*kind)).map(|(_, word)| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_comments_are_no_code() {
        let text = "{ imports = [ ./disko.nix # ./old.nix\n (dir + \"/x.nix\") ]; /* ./gone.nix */ }";
        assert_eq!(code_words(text), ["imports", "./disko.nix", "dir", "/x.nix"]);
    }
}
