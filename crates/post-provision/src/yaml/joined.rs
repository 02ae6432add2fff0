//! What sops and people take for YAML and saphyr does not, byte for byte as what it does.

use saphyr_parser::ScalarStyle;

use super::build::scalar_length;

/// The text with everything between brackets on one line, byte for byte: line breaks and comments there become spaces,
/// as tabs behind a colon do.
pub(super) fn brackets_joined(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    // How many brackets are open, and whether a value may begin here: else a bracket or a quote is part of a word.
    let (mut depth, mut begins) = (0_usize, true);
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at + c.len_utf8()..];
        let mut length = c.len_utf8();
        let blank_behind = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
        match c {
            '#' if text[..at].is_empty() || text[..at].ends_with([' ', '\t', '\n']) => {
                length = text[at..].find(['\r', '\n']).unwrap_or(text.len() - at);
                if depth > 0 {
                    bytes[at..at + length].fill(b' ');
                }
            }
            '\n' | '\r' if depth > 0 => bytes[at] = b' ',
            '\n' => begins = true,
            '\t' if text[..at].trim_end_matches('\t').ends_with(':') => bytes[at] = b' ',
            ' ' | '\t' | '\r' => {}
            '"' | '\'' if begins => {
                let style = if c == '"' { ScalarStyle::DoubleQuoted } else { ScalarStyle::SingleQuoted };
                length = scalar_length(&text[at..], style);
                begins = false;
            }
            '[' | '{' if begins || depth > 0 => (depth, begins) = (depth + 1, true),
            ']' | '}' if depth > 0 => (depth, begins) = (depth - 1, false),
            ',' if depth > 0 => begins = true,
            ':' => begins = blank_behind,
            '-' | '?' if begins && blank_behind => {}
            '&' | '!' if begins => length = text[at..].find(char::is_whitespace).unwrap_or(text.len() - at),
            '|' | '>' if begins && depth == 0 => length = block_length(text, at),
            _ => begins = false,
        }
        at += length;
    }
    // Whole characters were replaced by as many spaces as they have bytes.
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// How long a block text is whose `|` or `>` is at `at`: up to the first line that is indented no deeper than what it
/// is the value of.
fn block_length(text: &str, at: usize) -> usize {
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..];
    let parent = line.len() - line.trim_start_matches([' ', '-']).len();
    let mut end = at;
    for (index, line) in text[at..].split_inclusive('\n').enumerate() {
        let inside = line.trim().is_empty() || line.len() - line.trim_start_matches(' ').len() > parent;
        if index > 0 && !inside {
            break;
        }
        end += line.len();
    }
    // The line break is seen by who goes on from here.
    end - at - usize::from(text[..end].ends_with('\n'))
}
