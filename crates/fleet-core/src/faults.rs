//! Faults in files that people write, shown as a good compiler shows them: all at once, each with its place, the
//! line, what is wrong and what would be right.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Kind,
    authorized_keys::is_private,
    nix::source::{Location, Source},
};

/// One fault in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The file, relative to the repository.
    pub file: String,
    /// Line, from one; absent where only the file is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column, from one, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Attribute path, such as `managed.web.cores`; empty for the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Whether something is taken twice, rather than wrong in itself.
    pub conflict: bool,
    /// The line and its caret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snippet: Option<String>,
}

impl Fault {
    /// A fault at a place in a file, or in the file as a whole. A line with a private key is not shown.
    pub fn new(
        file: &Path,
        base: &Path,
        at: Option<&Location>,
        path: &str,
        message: impl Into<String>,
    ) -> Fault {
        let file = at.map_or(file, |at| at.file.as_path());
        Fault {
            file: file.strip_prefix(base).unwrap_or(file).display().to_string(),
            line: at.map(|at| at.line),
            column: at.map(|at| at.column),
            path: path.to_owned(),
            message: message.into(),
            help: None,
            conflict: false,
            snippet: at.filter(|at| !is_private(&at.text)).map(Location::snippet),
        }
    }

    /// That a file is no text in UTF-8, where the first byte is that says so; `None` of one that is.
    pub fn not_utf8(file: &Path, base: &Path, bytes: &[u8]) -> Option<Fault> {
        let at = std::str::from_utf8(bytes).err()?.valid_up_to();
        let (at, message) = if is_utf16(bytes) {
            (None, "UTF-16, which no program reads here".to_owned())
        } else {
            let source = Source::new(file.to_owned(), String::from_utf8_lossy(bytes).into());
            let at_byte = u32::try_from(at).ok()?;
            let byte = bytes.get(at).copied().unwrap_or_default();
            (Some(source.locate(at_byte, at_byte + 1)), format!("the byte 0x{byte:02X} is no UTF-8"))
        };
        Some(Fault::new(file, base, at.as_ref(), "", message).help("save the file as UTF-8"))
    }

    /// The same with what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    /// The same as a conflict.
    #[must_use]
    pub fn conflict(mut self) -> Fault {
        self.conflict = true;
        self
    }

    /// It alone as an error, which carries it: see [`of`].
    pub fn error(mut self) -> Error {
        let details = serde_json::json!([self]);
        let help = self.help.take();
        let error = Error::failed(self.render()).details(details);
        match help {
            Some(help) => error.hint(help),
            None => error,
        }
    }

    /// As a person reads it, over several lines.
    pub fn render(&self) -> String {
        let mut text = self.file.clone();
        if let (Some(line), Some(column)) = (self.line, self.column) {
            text.push_str(&format!(":{line}:{column}"));
        }
        if !self.path.is_empty() {
            text.push_str(&format!(": {}", self.path));
        }
        text.push_str(&format!(": {}", self.message));
        if let Some(snippet) = &self.snippet {
            text.push('\n');
            text.push_str(snippet);
        }
        if let Some(help) = &self.help {
            let gap = self.line.map_or(1, |line| line.to_string().len());
            text.push_str(&format!("\n{:gap$} = {help}", ""));
        }
        text
    }
}

/// Whether a text begins as one in UTF-16 does.
pub(crate) fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff])
}

/// The faults that an error carries, those of other tools included: each has its place.
pub fn of(error: &Error) -> Vec<Fault> {
    error.report().details.and_then(|details| serde_json::from_value(details).ok()).unwrap_or_default()
}

/// An error about `file` as faults: those that it carries, or else itself as one. The file is named once.
pub fn from_error(error: &Error, file: &Path, base: &Path) -> Vec<Fault> {
    let mut faults = of(error);
    if faults.is_empty() {
        let mut fault = Fault::new(file, base, None, "", "");
        let chain = error.chain();
        let named = [&fault.file, &file.display().to_string()].map(|name| format!("{name}: "));
        let message = named.iter().find_map(|name| chain.strip_prefix(name.as_str()));
        fault.message = message.unwrap_or(&chain).to_owned();
        fault.help = error.hints().first().cloned();
        faults.push(fault);
    }
    for fault in &mut faults {
        if let Ok(file) = Path::new(&fault.file).strip_prefix(base) {
            fault.file = file.display().to_string();
        }
    }
    faults
}

/// How many faults of one file or repository a person is shown.
const SHOWN: usize = 200;

/// All faults of a file as one error, or nothing if there are none. Faults are sorted by their place; of very many the
/// text shows the first, the details have all.
pub fn check(what: &str, mut faults: Vec<Fault>) -> crate::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    let kind = if faults.iter().all(|fault| fault.conflict) { Kind::Conflict } else { Kind::Failed };
    let count = match faults.len() {
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    };
    let mut shown: Vec<String> = faults.iter().take(SHOWN).map(Fault::render).collect();
    if faults.len() > SHOWN {
        shown.push(format!("and {} more: `--json` lists them all", faults.len() - SHOWN));
    }
    let details = serde_json::to_value(&faults).unwrap_or_default();
    Err(Error::new(kind, format!("{what} is not valid ({count})\n{}", shown.join("\n"))).details(details))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_utf8_have_their_place() {
        let told = |bytes: &[u8]| Some(Fault::not_utf8(Path::new("/f/a"), Path::new("/f"), bytes)?.render());
        assert_eq!(told("é".as_bytes()), None);
        let of_latin1 =
            "a:2:4: the byte 0xE9 is no UTF-8\n  |\n2 | b: \u{fffd}c\n  |    ^\n  = save the file as UTF-8";
        assert_eq!(told(b"a: 1\nb: \xe9c\n").as_deref(), Some(of_latin1));
        let of_utf16 = "a: UTF-16, which no program reads here\n  = save the file as UTF-8";
        assert_eq!(told(b"\xff\xfea\0").as_deref(), Some(of_utf16));
    }

    #[test]
    fn of_very_many_faults_the_first_are_shown_and_all_are_carried() {
        let shown = |count: usize| {
            let fault = |n: usize| Fault {
                line: Some(count - n),
                column: Some(1),
                ..Fault::new(Path::new("/f/hosts.nix"), Path::new("/f"), None, "", "is wrong")
            };
            check("hosts.nix", (0..count).map(fault).collect()).unwrap_err()
        };
        let error = shown(SHOWN);
        assert_eq!(error.message().lines().count(), 1 + SHOWN);
        assert!(error.message().ends_with(":200:1: is wrong"), "{error:?}");
        let error = shown(1000);
        assert!(
            error.message().starts_with("hosts.nix is not valid (1000 faults)\nhosts.nix:1:1: is wrong\n")
        );
        assert!(error.message().ends_with(":200:1: is wrong\nand 800 more: `--json` lists them all"));
        assert_eq!(of(&error).len(), 1000);
    }
}
