//! What the text between quotes means: escapes, and the indentation that `''` strings drop.

use std::sync::Arc;

/// A part of a string as it stands in the file.
pub(super) enum Part<'a, T> {
    Text(&'a str),
    Hole(T),
}

/// Why a string is left to Nix: its versions treat carriage returns differently.
pub(super) const CARRIAGE_RETURN: &str = "a carriage return inside a string";

/// What the text between double quotes means.
pub(super) fn unescape(text: &str) -> Result<Arc<str>, &'static str> {
    if !text.contains(['\\', '\r', '\0']) {
        return Ok(text.into());
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('\r') => return Err(CARRIAGE_RETURN),
                Some(c) => out.push(c),
                None => {}
            },
            '\r' => return Err(CARRIAGE_RETURN),
            '\0' => return Err("a NUL byte inside a string"),
            c => out.push(c),
        }
    }
    Ok(out.into())
}

/// A piece of an indented string after its escapes are read.
enum Piece<T> {
    /// As it stood: takes part in the indentation.
    Raw(String),
    /// From an escape: ends the indentation of its line.
    Escaped(String),
    Hole(T),
}

/// The parts of a `''` string, its common indentation dropped: `Err` holes are kept in order.
pub(super) fn indented<T>(parts: Vec<Part<'_, T>>) -> Result<Vec<Result<String, T>>, &'static str> {
    let mut pieces = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        match part {
            Part::Text(text) => {
                if text.contains('\r') {
                    return Err(CARRIAGE_RETURN);
                }
                if text.contains('\0') {
                    return Err("a NUL byte inside a string");
                }
                // The opening quotes swallow the rest of their line if it is blank.
                let text = match text.split_once('\n') {
                    Some((first, rest)) if index == 0 && first.bytes().all(|b| b == b' ') => rest,
                    _ => text,
                };
                split(text, &mut pieces);
            }
            Part::Hole(hole) => pieces.push(Piece::Hole(hole)),
        }
    }
    let indent = common_indent(&pieces);
    let count = pieces.len();
    let mut line_start = true;
    let mut dropped = 0;
    let mut out = Vec::with_capacity(count);
    for (index, piece) in pieces.into_iter().enumerate() {
        let text = match piece {
            Piece::Hole(hole) => {
                (line_start, dropped) = (false, 0);
                out.push(Err(hole));
                continue;
            }
            Piece::Raw(text) | Piece::Escaped(text) => text,
        };
        let mut kept = String::with_capacity(text.len());
        for c in text.chars() {
            if line_start && c == ' ' {
                if dropped >= indent {
                    kept.push(' ');
                }
                dropped += 1;
                continue;
            }
            line_start = c == '\n';
            dropped = 0;
            kept.push(c);
        }
        // A last line of nothing but spaces is not part of the text.
        if index + 1 == count
            && let Some(newline) = kept.rfind('\n')
            && kept[newline + 1..].bytes().all(|b| b == b' ')
        {
            kept.truncate(newline + 1);
        }
        out.push(Ok(kept));
    }
    Ok(out)
}

fn common_indent<T>(pieces: &[Piece<T>]) -> usize {
    let (mut line_start, mut current, mut least) = (true, 0usize, 1_000_000usize);
    for piece in pieces {
        let Piece::Raw(text) = piece else {
            if line_start {
                line_start = false;
                least = least.min(current);
            }
            continue;
        };
        for c in text.bytes() {
            match (line_start, c) {
                (true, b' ') => current += 1,
                (true, b'\n') => current = 0,
                (true, _) => {
                    line_start = false;
                    least = least.min(current);
                }
                (false, b'\n') => (line_start, current) = (true, 0),
                (false, _) => {}
            }
        }
    }
    least
}

/// Splits raw text at its escapes, exactly as Nix's lexer does: `''$`, `'''`, `''\x`, and a lone `$` or `'` before
/// something that could have made it special.
fn split<T>(text: &str, pieces: &mut Vec<Piece<T>>) {
    let mut raw = String::new();
    let mut rest = text;
    let flush = |raw: &mut String, pieces: &mut Vec<Piece<T>>| {
        if !raw.is_empty() {
            pieces.push(Piece::Raw(std::mem::take(raw)));
        }
    };
    while let Some(c) = rest.chars().next() {
        let second = rest[c.len_utf8()..].chars().next();
        match (c, second) {
            ('\'', Some('\'')) => {
                flush(&mut raw, pieces);
                let after = &rest[2..];
                let third = after.chars().next();
                let meant = match third {
                    Some('$') => "$".to_owned(),
                    Some('\'') => "''".to_owned(),
                    Some('\\') => {
                        let escaped = after[1..].chars().next();
                        rest = &after[1 + escaped.map_or(0, char::len_utf8)..];
                        let meant = match escaped {
                            Some('n') => "\n".to_owned(),
                            Some('r') => "\r".to_owned(),
                            Some('t') => "\t".to_owned(),
                            Some(other) => other.to_string(),
                            None => String::new(),
                        };
                        pieces.push(Piece::Escaped(meant));
                        continue;
                    }
                    // The parser ends the string here; it can not come to this.
                    _ => String::new(),
                };
                pieces.push(Piece::Escaped(meant));
                rest = &after[third.map_or(0, char::len_utf8)..];
            }
            // Two characters that belong together: the second can not begin anything.
            ('\'', Some(other)) if other != '$' => {
                raw.push('\'');
                raw.push(other);
                rest = &rest[1 + other.len_utf8()..];
            }
            ('$', Some(other)) if other != '{' && other != '\'' => {
                raw.push('$');
                raw.push(other);
                rest = &rest[1 + other.len_utf8()..];
            }
            ('\'' | '$', _) => {
                flush(&mut raw, pieces);
                pieces.push(Piece::Escaped(c.to_string()));
                rest = &rest[1..];
            }
            _ => {
                raw.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    flush(&mut raw, pieces);
}
