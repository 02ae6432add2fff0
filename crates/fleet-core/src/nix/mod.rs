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

use crate::{Error, Result, faults::Fault};

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
    if mode == NixMode::Nix {
        return external::eval_file(path, base, &external::required_program()?);
    }
    let error = match eval::eval_file(path, Budget::default()) {
        Ok(evaluated) => return Ok(evaluated),
        Err(error) => error,
    };
    let explained = explain(&error, path, base);
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
    let mut shown = Fault::new(path, base, fault.at.as_ref(), "", format!("{what}{}", fault.message));
    shown.help = fault.help.as_deref().or(help).map(str::to_owned);
    shown.error()
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
