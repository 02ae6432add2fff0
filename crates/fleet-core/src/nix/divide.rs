//! Where a text's large sets can be divided, guessed from its bytes.
//!
//! Strings, comments and brackets are told apart as well as that goes without tokens. A wrong guess costs time and nothing
//! else: what is divided is held together by its parts, each of which has to be a set (see [`super::parts`]).

use std::ops::Range;

/// In how many brackets a set may stand that is divided.
pub(super) const MAX_PARTED: usize = 6;

/// A large set, as far as one is guessed to be there.
#[derive(Debug)]
pub(super) struct Large {
    /// Where its first part ends: behind a `;`.
    pub(super) start: usize,
    /// Where each further part ends: behind a `;`, the last one before the closing brace.
    pub(super) ends: Vec<usize>,
}

impl Large {
    /// Its parts but the first.
    pub(super) fn others(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(self.start).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }
}

/// A bracket that is still open.
struct Open {
    is_set: bool,
    /// How far what stands in it is indented, where that is on lines of its own.
    indent: Option<usize>,
    /// Where its present part begins.
    part: usize,
    /// Where the parts before that end.
    ends: Vec<usize>,
}

/// The large sets, in the order of [`Large::start`], with parts of about `part` bytes.
pub(super) fn divide(text: &str, part: usize) -> Vec<Large> {
    let bytes = text.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut large = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let next = bytes.get(at + 1);
        match (byte, next) {
            (b'"', _) => at = behind_quote(bytes, at + 1),
            (b'\'', Some(b'\'')) => at = behind_indented(text, at + 2),
            (b'#', _) => at = behind(text, at, "\n"),
            (b'/', Some(b'*')) => at = behind(text, at + 2, "*/"),
            (b'{' | b'[' | b'(', _) => {
                at += 1;
                let is_set = *byte == b'{';
                let indent = if is_set { next_line(bytes, at) } else { None };
                open.push(Open { is_set, indent, part: at, ends: Vec::new() });
            }
            (b'}' | b']' | b')', _) => {
                if let Some(mut closed) = open.pop()
                    && closed.is_set
                    && !closed.ends.is_empty()
                    && open.len() < MAX_PARTED
                {
                    closed.ends.push(at);
                    large.push(Large { start: closed.ends.remove(0), ends: closed.ends });
                }
                at += 1;
            }
            (b';', _) => {
                at += 1;
                if let Some(open) = open.last_mut()
                    && at - open.part >= part
                    // `let`, `with` and `assert` have their own, of which the lines are indented further.
                    && (open.indent.is_none() || open.indent == next_line(bytes, at))
                {
                    open.ends.push(at);
                    open.part = at;
                }
            }
            _ => at += 1,
        }
    }
    large.sort_unstable_by_key(|large: &Large| large.start);
    large
}

/// How far the next line that is not empty is indented, if nothing but a comment stands before it.
fn next_line(bytes: &[u8], from: usize) -> Option<usize> {
    let (mut start, mut comment) = (None, false);
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'\n' => (start, comment) = (Some(at + 1), false),
            b' ' | b'\t' | b'\r' => {}
            b'#' if start.is_none() => comment = true,
            _ if comment => {}
            _ => return start.map(|start| at - start),
        }
    }
    None
}

fn behind_quote(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Behind the quotes that end an indented string: others are escaped by what stands behind them.
fn behind_indented(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        at = behind(text, at, "''");
        match bytes.get(at) {
            Some(b'\'' | b'$') => at += 1,
            Some(b'\\') => at += 2,
            _ => break,
        }
    }
    at.min(bytes.len())
}

/// Behind the next place where this stands, or the end of the text.
fn behind(text: &str, from: usize, what: &str) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.find(what).map_or(text.len(), |at| from + at + what.len())
}
