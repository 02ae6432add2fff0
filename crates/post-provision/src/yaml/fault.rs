//! Faults of a YAML file and their places.

use std::path::Path;

use fleet_core::{Error, faults::Fault, nix::source::Location};
use serde::Deserialize;

use super::advice::{self, Advice};

/// How every fault that the parser finds begins.
pub(super) const NO_YAML: &str = "not valid YAML";

pub(super) fn scan_error(e: &saphyr_parser::ScanError) -> Error {
    wrong(e.marker().line(), e.marker().col(), format!("{NO_YAML}: {}", e.info()))
}

/// A fault at a line, from 1, and a column, from 0. It carries them, but no text of the file: see [`in_file`].
pub(crate) fn wrong(line: usize, column: usize, message: impl Into<String>) -> Error {
    let message = message.into();
    let details = serde_json::json!({ "line": line, "column": column, "message": message });
    Error::failed(format!("line {line}, column {}: {message}", column + 1)).details(details)
}

/// What [`wrong`] says.
#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
    message: String,
}

fn place_of(error: &Error) -> Option<Place> {
    serde_json::from_value(error.report().details?).ok()
}

/// The same fault with its file, of which nothing is shown: it holds secrets.
pub(crate) fn in_secret(error: &Error, path: &Path) -> Error {
    let mut fault = Fault::new(path, Path::new(""), None, "", error.chain());
    if let Some(Place { line, column, message }) = place_of(error) {
        (fault.line, fault.column, fault.message) = (Some(line), Some(column + 1), message);
    }
    fault.help = error.hints().first().cloned();
    fault.error()
}

/// The same fault with the file and the line it is in, for a file without secrets.
pub(crate) fn in_file(error: Error, text: &str, path: &Path) -> Error {
    let Some(Place { line, column, message }) = place_of(&error) else {
        return error.context(path.display());
    };
    let Advice { place, width, help } = advice::of(text, line, column, &message);
    let (line, column) = place.unwrap_or((line, column));
    let text = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
    let at = Location { file: path.to_owned(), line, column: column + 1, width: width.max(1), text };
    let mut fault = Fault::new(path, Path::new(""), Some(&at), "", message);
    fault.help = error.hints().first().cloned().or(help);
    fault.error()
}
