//! What was most likely meant where a text stops being YAML.

use fleet_core::definitions::nearest;

/// A place that tells more than the one where the parser gave up, and what would be right.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// Line, from 1, and column, from 0.
    pub(super) place: Option<(usize, usize)>,
    /// How many characters are meant.
    pub(super) width: usize,
    pub(super) help: Option<String>,
}

/// What the parser says of `text`, at a line, from 1, and a column, from 0, in the words of somebody who writes it.
pub(super) fn of(text: &str, line: usize, column: usize, message: &str) -> Advice {
    let lines: Vec<&str> = text.lines().collect();
    let lines = lines.as_slice();
    if !message.starts_with(super::fault::NO_YAML) {
        return Advice::default();
    }
    let until = line.min(lines.len());
    let is_conflict = |line: &&str| line.starts_with("<<<<<<< ");
    if let Some(index) = lines[..until].iter().position(is_conflict) {
        let help = "git left a conflict here: decide for one side".to_owned();
        return Advice { place: Some((index + 1, 0)), width: 7, help: Some(help) };
    }
    let says = |what: &str| message.contains(what);
    if says("unknown anchor") {
        return unknown_anchor(lines, line, column);
    }
    if says("simple key expect") {
        return no_key(lines, line);
    }
    let help = if says("tabs disallowed") {
        Some("blanks indent YAML, not tabs".to_owned())
    } else if says("expected ','") {
        Some(unclosed(lines, line, column))
    } else if says("mapping values are not allowed") {
        misplaced_colon(lines, line, column)
    } else if says("did not find expected key") || says("did not find expected '-'") {
        Some(indented(lines, line))
    } else if says("unknown escape") {
        Some("in double quotes a backslash is written twice; in single ones it stands for itself".to_owned())
    } else if says("quoted scalar") {
        Some("is its closing quote missing?".to_owned())
    } else if says("alphabetic or numeric character") {
        Some(
            "a name stands right behind its sign: `&name` marks, `*name` uses; other text goes in quotes"
                .to_owned(),
        )
    } else if says("unprintable") {
        Some("nobody sees it: take it out".to_owned())
    } else {
        let elsewhere = |(_, start): &(char, usize)| *start != line;
        open_bracket(lines, line, column).filter(elsewhere).map(|_| unclosed(lines, line, column))
    };
    Advice { help, ..Advice::default() }
}

/// An alias whose anchor does not stand before it.
fn unknown_anchor(lines: &[&str], line: usize, column: usize) -> Advice {
    let here = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
    let rest = here.get(byte_of(here, column)..).unwrap_or_default();
    let rest = rest.strip_prefix('*').unwrap_or(rest);
    let name = rest.split([' ', '\t', ',', ']', '}', '[', '{']).next().unwrap_or_default();
    let anchors = |lines: &[&str]| -> Vec<(String, usize)> {
        let of_line = |(index, line): (usize, &&str)| -> Vec<(String, usize)> {
            let code = line.split(" #").next().unwrap_or_default();
            let words = code.split([' ', ',', '[', ']', '{', '}']).filter_map(|word| word.strip_prefix('&'));
            words.filter(|name| !name.is_empty()).map(|name| (name.to_owned(), index + 1)).collect()
        };
        lines.iter().enumerate().flat_map(of_line).collect()
    };
    let before = anchors(&lines[..line.saturating_sub(1).min(lines.len())]);
    let is_there = |name: &str| before.iter().any(|(known, _)| known == name);
    let help = if name.contains(['.', '/', '*', '?', '$', '(', '\\']) {
        "a text that begins with `*` goes in quotes; a `path_regex` is a regular expression, such as `\\.yaml$`".to_owned()
    } else if let Some(short) = name.split_once('#').map(|(short, _)| short).filter(|short| is_there(short)) {
        format!("a comment has a blank before it: `*{short} #`")
    } else if let Some((_, line)) = anchors(lines).into_iter().find(|(known, _)| known == name) {
        format!("`&{name}` comes later, on line {line}: it has to come first")
    } else if let Some(near) = nearest(name, before.iter().map(|(known, _)| known.as_str())) {
        format!("did you mean `*{near}`?")
    } else {
        let mut known: Vec<String> = before.iter().take(8).map(|(known, _)| format!("`&{known}`")).collect();
        known.dedup();
        let but = if known.is_empty() { String::new() } else { format!(", but {}", known.join(", ")) };
        format!("no `&{name}` comes before it{but}")
    };
    Advice { place: None, width: name.chars().count() + 1, help: Some(help) }
}

/// A line that is neither an element nor a key: the parser says so behind it.
fn no_key(lines: &[&str], line: usize) -> Advice {
    let until = line.min(lines.len());
    let Some((index, text)) = lines[..until].iter().enumerate().rev().find(|(_, text)| {
        let code = content(text);
        !code.is_empty() && !code.contains(": ") && !code.ends_with(':')
    }) else {
        return Advice::default();
    };
    let code = content(text);
    let column = text.chars().count() - text.trim_start_matches([' ', '-']).chars().count();
    let stuck = text.trim_start().strip_prefix('-').filter(|rest| !rest.starts_with([' ', '-']));
    let (column, help) = match stuck {
        Some(_) => (
            text.chars().count() - text.trim_start().chars().count(),
            "a blank comes behind the `-` of an element".to_owned(),
        ),
        None => {
            (column, format!("is a `:` missing behind `{}`?", code.split_whitespace().next().unwrap_or(code)))
        }
    };
    Advice { place: Some((index + 1, column)), width: code.chars().count().max(1), help: Some(help) }
}

/// A colon where no key can be.
fn misplaced_colon(lines: &[&str], line: usize, column: usize) -> Option<String> {
    let here = lines.get(line.saturating_sub(1))?;
    let code = content(here);
    if here.chars().take(column).collect::<String>().contains(": ") {
        return Some("a text with a colon and a blank in it goes in quotes".to_owned());
    }
    let (above, text) = above(lines, line)?;
    if !content(text).contains(": ") && !content(text).ends_with(':') && !code.starts_with('-') {
        return Some(format!("line {above} is no `key: value`: a colon and a blank come behind a key"));
    }
    Some(indented(lines, line))
}

/// A line that begins in no column where it could.
fn indented(lines: &[&str], line: usize) -> String {
    let general = || "what belongs to one list or mapping begins in one column".to_owned();
    let Some(here) = lines.get(line.saturating_sub(1)) else { return general() };
    let (Some(own), element) = (begin(here, false), here.trim_start().starts_with('-')) else {
        return general();
    };
    // Of what is open above, the one whose place was missed by a blank or two.
    let mut open = usize::MAX;
    let mut found: Option<(usize, usize)> = None;
    for (index, text) in lines[..line.saturating_sub(1)].iter().enumerate().rev() {
        let Some(column) = begin(text, false).filter(|column| *column < open) else { continue };
        open = column;
        if text.trim_start().starts_with('-') != element && element {
            continue;
        }
        let column = if element { column } else { begin(text, true).unwrap_or(column) };
        let near = column.abs_diff(own);
        if near > 0 && near <= 2 && found.is_none_or(|(_, other)| near < other.abs_diff(own)) {
            found = Some((index + 1, column));
        }
    }
    match found {
        Some((above, column)) => {
            format!("does it belong beside line {above}? Then it begins in column {}", column + 1)
        }
        None => general(),
    }
}

/// A bracket that is still open at a place, or a comma that is not there.
fn unclosed(lines: &[&str], line: usize, column: usize) -> String {
    match open_bracket(lines, line, column) {
        Some((bracket, start)) if start != line => {
            format!("the `{bracket}` on line {start} is not closed before this")
        }
        _ => "commas divide what stands in brackets: is one missing before this?".to_owned(),
    }
}

/// The innermost bracket that is open at a place, with its line.
fn open_bracket(lines: &[&str], line: usize, column: usize) -> Option<(char, usize)> {
    let mut open: Vec<(char, usize)> = Vec::new();
    for (index, text) in lines.iter().enumerate().take(line) {
        let until = if index + 1 == line { column } else { usize::MAX };
        let (mut quote, mut last) = (None, ' ');
        for c in text.chars().take(until) {
            match (quote, c) {
                (None, '#') if last == ' ' => break,
                // Within a word it is an apostrophe.
                (None, '"' | '\'') if !last.is_alphanumeric() => quote = Some(c),
                (Some(opened), c) if opened == c => quote = None,
                (None, '[' | '{') => open.push((c, index + 1)),
                (None, ']' | '}') => drop(open.pop()),
                _ => {}
            }
            last = c;
        }
    }
    open.pop()
}

/// The nearest line above that says something, with its number.
fn above<'t>(lines: &[&'t str], line: usize) -> Option<(usize, &'t str)> {
    let before = lines.get(..line.saturating_sub(1))?;
    before
        .iter()
        .enumerate()
        .rev()
        .find(|(_, text)| begin(text, false).is_some())
        .map(|(index, text)| (index + 1, *text))
}

/// A line without its dashes and its comment.
fn content(line: &str) -> &str {
    let line = line.trim_start_matches([' ', '-']).trim_end();
    if line.starts_with('#') { "" } else { line.split(" #").next().unwrap_or_default().trim_end() }
}

/// The column, from 0, in which a line begins, or in which what stands behind its dashes does.
fn begin(line: &str, behind_dashes: bool) -> Option<usize> {
    let text = line.trim_start_matches(' ');
    if text.trim().is_empty() || text.starts_with('#') {
        return None;
    }
    let text = if behind_dashes { text.trim_start_matches([' ', '-']) } else { text };
    Some(line.chars().count() - text.chars().count())
}

fn byte_of(line: &str, column: usize) -> usize {
    line.char_indices().nth(column).map_or(line.len(), |(at, _)| at)
}
