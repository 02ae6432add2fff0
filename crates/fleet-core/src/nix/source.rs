//! Where in a file something is, and how to show it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// A range of bytes in one of the files that an evaluation read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Index into [`Sources`].
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// One file's text.
#[derive(Debug)]
pub struct Source {
    /// Where it was read from.
    pub path: PathBuf,
    /// All of it.
    pub text: Arc<str>,
    lines: OnceLock<Vec<u32>>,
}

impl Source {
    /// A file's text.
    pub fn new(path: PathBuf, text: Arc<str>) -> Source {
        Source { path, text, lines: OnceLock::new() }
    }

    /// Offsets at which lines start.
    fn lines(&self) -> &[u32] {
        self.lines.get_or_init(|| {
            let after = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            // The size of a file is checked against the budget before it gets here.
            std::iter::once(0).chain(after.map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX))).collect()
        })
    }

    /// The line that a byte is in, from one.
    pub fn line(&self, at: u32) -> usize {
        self.lines().partition_point(|first| *first <= at).max(1)
    }

    /// What a person calls the place of these bytes.
    pub fn locate(&self, start: u32, end: u32) -> Location {
        let line = self.line(start);
        let first = self.lines().get(line - 1).copied().unwrap_or(0) as usize;
        let start = floor(&self.text, (start as usize).max(first));
        let end = floor(&self.text, end as usize).max(start);
        let rest = &self.text[first..];
        let text = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let shown_end = end.min(first + text.len()).max(start);
        Location {
            file: self.path.clone(),
            line,
            column: self.text[first..start].chars().count() + 1,
            width: self.text[start..shown_end].chars().count().max(1),
            text: text.to_owned(),
        }
    }

    /// The offset of a line and column that count from one, the column in bytes, as Nix counts them.
    pub fn offset(&self, line: usize, column: usize) -> u32 {
        let first = self.lines().get(line.saturating_sub(1)).copied().unwrap_or(0);
        first.saturating_add(u32::try_from(column.saturating_sub(1)).unwrap_or(0))
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The files that an evaluation read.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Arc<Source>>);

impl Sources {
    /// Adds one and gives its index.
    pub fn add(&mut self, source: Source) -> u32 {
        self.0.push(Arc::new(source));
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }

    /// The file with this index.
    pub fn get(&self, file: u32) -> Option<&Source> {
        self.0.get(file as usize).map(Arc::as_ref)
    }

    /// What a person calls this place.
    pub fn locate(&self, span: Span) -> Option<Location> {
        self.get(span.file).map(|source| source.locate(span.start, span.end))
    }

    /// The files.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().map(Arc::as_ref)
    }
}

/// How many characters of one line are shown at most.
const LONGEST: usize = 240;

/// A place as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub file: PathBuf,
    /// Line, from one.
    pub line: usize,
    /// Column, from one, in characters.
    pub column: usize,
    /// How many characters of the line are meant.
    pub width: usize,
    /// The whole line.
    pub text: String,
}

impl Location {
    /// `file:line:column`, the file relative to `base` where it lies in it.
    pub fn short(&self, base: &Path) -> String {
        let file = self.file.strip_prefix(base).unwrap_or(&self.file);
        format!("{}:{}:{}", file.display(), self.line, self.column)
    }

    /// The line with a caret under what is meant, as compilers show it.
    pub fn snippet(&self) -> String {
        let number = self.line.to_string();
        let gap = " ".repeat(number.len());
        // Of a line that no screen holds, the part around the place.
        let before = if self.column > LONGEST { self.column - 1 - LONGEST / 2 } else { 0 };
        let mut shown: String = self.text.chars().skip(before).take(LONGEST).collect();
        let room = shown.chars().count().saturating_sub(self.column - 1 - before).max(1);
        if before > 0 {
            shown.insert(0, '…');
        }
        if self.text.chars().nth(before + LONGEST).is_some() {
            shown.push('…');
        }
        let column = self.column - 1 - before + usize::from(before > 0);
        // Tabs keep their width on both lines.
        let lead: String = shown.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(self.width.min(room));
        format!("{gap} |\n{number} | {shown}\n{gap} | {lead}{carets}")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}
