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
        let (lead, rest) = split(&shown, column);
        // Tabs keep their width on both lines; what is wider than one column, or takes none, has the carets with it.
        let lead: Vec<String> = lead.split('\t').map(|text| " ".repeat(columns(text))).collect();
        let lead = lead.join("\t");
        let (marked, _) = split(rest, self.width.min(room));
        let carets = "^".repeat(columns(&marked.replace('\t', " ")).max(1));
        let shown = visible(&shown);
        format!("{gap} |\n{number} | {shown}\n{gap} | {lead}{carets}")
    }
}

/// The first so many characters, and the others.
fn split(text: &str, characters: usize) -> (&str, &str) {
    text.split_at(text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at))
}

/// How many columns of a terminal a text takes as it is shown.
fn columns(text: &str) -> usize {
    console::measure_text_width(&visible(text))
}

/// What is no text to a terminal but a command, or turns the order of others around, as one character that stands for it.
fn visible(text: &str) -> String {
    let stand_in = |c: char| match c {
        '\t' => c,
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
            '\u{fffd}'
        }
        c => c,
    };
    text.chars().map(stand_in).collect()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two lines of a snippet, without what stands before them.
    fn shown(text: &str, what: &str) -> (String, String) {
        let source = Source::new("f.nix".into(), text.into());
        let start = text.find(what).unwrap();
        let at = |at: usize| u32::try_from(at).unwrap();
        let snippet = source.locate(at(start), at(start + what.len())).snippet();
        let lines: Vec<&str> =
            snippet.lines().map(|line| line.split_once("| ").map_or("", |(_, line)| line)).collect();
        (lines[1].to_owned(), lines[2].to_owned())
    }

    #[test]
    fn carets_are_under_what_they_mean() {
        for (text, what, carets) in [
            ("  a = 0;", "0", "      ^"),
            ("\ta =\t0;", "0", "\t   \t^"),
            // Two columns each.
            ("/* 日本語 */ a = 0;", "0", "                 ^"),
            ("a = \"日本\";", "\"日本\"", "    ^^^^^^"),
            ("/* 😀 */ a = 0;", "0", "             ^"),
            // None.
            ("/* e\u{301} */ a = 0;", "0", "            ^"),
            ("/* é */ a = 0;", "0", "            ^"),
        ] {
            assert_eq!(shown(text, what), (text.to_owned(), carets.to_owned()));
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_a_sign() {
        let (line, carets) = shown("a = \"\u{1b}[31mred\u{7}\"; # \u{202e}", "\"\u{1b}[31mred\u{7}\"");
        assert_eq!(line, "a = \"\u{241b}[31mred\u{2407}\"; # \u{fffd}");
        assert_eq!(carets, "    ^^^^^^^^^^^");
    }
}
