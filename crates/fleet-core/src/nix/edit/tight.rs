//! How a file writes brackets, and how an empty set is filled and emptied so that a formatter that accepted the file still
//! accepts it, and that an edit undone gives back every byte: see [`fill`]. Sets on one line are for
//! [`fold`](super::fold).

use rnix::SyntaxKind as K;

use super::{
    ORDER, head,
    layout::{Layout, indent_at},
    splice,
    tree::{Binding, Set, has_comment, set_of},
    written::Entry,
};

/// How many tokens are looked at to see how brackets are written.
const LOOKED_AT: usize = 4000;

/// Whether brackets have no space inside (`[]`, `["a"]`, `{a = 1;}`, as `alejandra` writes them) or one (as `nixfmt`
/// does): the first one that opens and goes on in its line says. Bytes between `skip` are not looked at.
pub(super) fn tight(text: &str, skip: (usize, usize)) -> Option<bool> {
    let mut at = 0;
    let mut opened = false;
    for (kind, token) in rnix::tokenize(text).take(LOOKED_AT) {
        let start = at;
        at += token.len();
        if opened {
            match kind {
                K::TOKEN_WHITESPACE if token.contains('\n') => {}
                K::TOKEN_WHITESPACE => return Some(false),
                _ => return Some(true),
            }
        }
        opened = matches!(kind, K::TOKEN_L_BRACK | K::TOKEN_L_BRACE) && !(skip.0..skip.1).contains(&start);
    }
    None
}

/// What the only entry of a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A set as a new host is written where there is no other: an empty line in it may be a sign. Or a text, as a new
    /// attribute.
    New,
    /// Another one: an empty line in it is somebody's.
    Other,
    /// `NAME.attr = …;`
    Path,
}

impl Kind {
    pub(super) fn of(entry: &Binding<'_>) -> Kind {
        if entry.path.len() > 1 {
            return Kind::Path;
        }
        let place = |name: &String| ORDER.iter().position(|known| known == name);
        let plain = |b: &Binding<'_>| {
            let kind = b.value.kind();
            b.path.len() == 1 && matches!(kind, K::NODE_STRING | K::NODE_PATH_REL | K::NODE_LIST)
        };
        let new = |set: Set<'_>| {
            let places: Option<Vec<usize>> = set.bindings.iter().map(|b| place(b.path.first()?)).collect();
            !set.items.is_empty()
                && set.bindings.len() == set.items.len()
                && set.bindings.iter().all(plain)
                && places.is_some_and(|places| places.is_sorted())
        };
        let is_new = entry.value.kind() == K::NODE_ATTR_SET
            && !has_comment(entry.value)
            && set_of(entry.value).is_some_and(new);
        if is_new || entry.value.kind() == K::NODE_STRING { Kind::New } else { Kind::Other }
    }
}

/// What is left between the braces of a set whose only entry was taken out of lines of its own: the line break, or,
/// where the file or that entry shows how an empty set is written, just that.
pub(super) fn emptied(text: &str, set: &Set<'_>, entry: &str, kind: Kind, newline: &str) -> String {
    let spaced = |tight: bool| if tight { "" } else { " " }.to_owned();
    let lines = format!("{newline}{}", indent_at(text, set.close));
    let mut empty = entry.lines().enumerate().filter(|(_, line)| line.trim().is_empty() && kind == Kind::New);
    let empty = (empty.next(), empty.next());
    let tight = tight(text, braces(set)).or_else(|| tight(entry, (0, 0)));
    match (tight, empty) {
        _ if kind == Kind::Path || empty_over_lines(text, set, tight == Some(false)) => lines,
        (Some(tight), (Some((2, _)), None)) => spaced(!tight),
        (Some(tight), _) => spaced(tight),
        (None, (Some((2, _)), None)) => spaced(true),
        (None, (Some(_), None)) => spaced(false),
        (None, _) => lines,
    }
}

/// A set's bytes from brace to brace.
pub(super) fn braces(set: &Set<'_>) -> (usize, usize) {
    (set.open.saturating_sub(1), set.close)
}

/// What is left between the braces when the only entry goes.
pub(super) fn left_empty(text: &str, set: &Set<'_>, entry: &Binding<'_>, newline: &str) -> String {
    let (before, after) = (&text[set.open..entry.start], &text[entry.end..set.close]);
    let Some(line) = before.rfind('\n') else {
        // On the line of a brace: with a space inside if there was one.
        return if before.is_empty() && after.is_empty() { "" } else { " " }.to_owned();
    };
    let kind = Kind::of(entry);
    match before[..line].strip_suffix('\r').unwrap_or(&before[..line]) {
        // What `fill` leaves where nothing else tells.
        "" if after.starts_with(' ') => String::new(),
        "" if after.bytes().filter(|b| *b == b'\n').count() == lines_after_space(text, set)
            && kind != Kind::Other =>
        {
            " ".to_owned()
        }
        "" => emptied(text, set, &text[entry.start..entry.end], kind, newline),
        kept if kept.trim_matches(['\r', '\n']).is_empty() && indent_at(text, set.close).is_empty() => {
            // Blank lines behind the entry are not such as `fill` kept: they go with it.
            format!("{kept}{newline}")
        }
        // Blank lines above an entry that was not put there by an edit: those end where the brace stood.
        kept if kept.rsplit_once('\n').is_some_and(|(_, end)| end != indent_at(text, set.close)) => {
            format!("{newline}{}", indent_at(text, set.close))
        }
        kept => kept.to_owned(),
    }
}

/// What stands before the line of an empty set's first entry, and after it, so that the entry taken out again leaves what
/// was there.
pub(super) fn kept<'t>(text: &'t str, set: &Set<'_>, entry: &str, newline: &'t str) -> (&'t str, &'t str) {
    match &text[set.open..set.close] {
        was if emptied(text, set, entry, Kind::Other, newline) == was => ("", ""),
        " " => ("", newline),
        // Over lines: `left_empty` knows the empty line above the entry, whose indentation no formatter would leave.
        was if was.strip_prefix(newline) == Some(indent_at(text, set.close)) => (newline, ""),
        was => (was, ""),
    }
}

/// An empty set's text with an entry in it: the first way of writing it that, taken out again, leaves what was
/// there.
pub(super) fn fill(text: &str, set: &Set<'_>, layout: &Layout, entry: &Entry<'_>) -> String {
    let Layout { newline, indent, .. } = layout;
    let outer = indent_at(text, set.close);
    let was = &text[set.open..set.close];
    if was == " " && head::joined(text, set, layout.tight) {
        let lines = format!("{newline}{newline}{indent}{}{newline}", entry.as_others());
        return head::over_lines(text, set, &lines, newline);
    }
    let count = entry.len();
    let in_groups = |after: usize| (0 < after && after < count).then(|| entry.grouped(&[after]));
    let ways = [
        (Some(entry.as_others()), Kind::New),
        ((count == 1).then(|| entry.on_one_line()).filter(|_| layout.tight == Some(true)), Kind::New),
        (in_groups(1), Kind::New),
        (in_groups(count.saturating_sub(1)), Kind::New),
        (entry.as_paths(false), Kind::Path),
    ];
    let natural = entry.as_others();
    let ways = ways.into_iter().filter_map(|(body, kind)| Some((body?, kind)));
    let lines = format!("{newline}{outer}");
    let space = newline.repeat(lines_after_space(text, set) - 1);
    let found = ways.into_iter().find(|(body, kind)| emptied(text, set, body, *kind, newline) == was);
    let (kept, body, after) = match (found, was.strip_suffix(lines.as_str())) {
        (Some((body, _)), _) => ("", body, ""),
        (None, Some(blank)) if outer.is_empty() && blank.trim_matches(['\r', '\n']).is_empty() => {
            (blank, natural, "")
        }
        _ if was.is_empty() => ("", natural, " "),
        _ if was == " " => ("", natural, space.as_str()),
        _ => (was, natural, ""),
    };
    splice(text, set.open, set.close, &format!("{kept}{newline}{indent}{body}{after}{newline}{outer}"))
}

pub(super) fn is_in(line: &str) -> bool {
    line == "in" || line.ends_with(" in")
}

/// How many line breaks after the only entry of a set say that a space stood between its braces: one more than somebody may
/// have left there, where a formatter leaves no such set.
fn lines_after_space(text: &str, set: &Set<'_>) -> usize {
    if head::would_join(text, set) && empty_over_lines(text, set, false) { 3 } else { 2 }
}

/// Whether no formatter leaves the set empty on one line: where `with …;` stands above it both join the lines, and
/// `nixfmt` breaks it below a comment that follows `in`, or between two comments.
fn empty_over_lines(text: &str, set: &Set<'_>, spaced: bool) -> bool {
    let comment_behind = text[set.close..].trim_start_matches(['}', ' ', '\t', '\r', '\n']).starts_with('#');
    line_above(text, set).is_some_and(|(above, commented)| {
        above.ends_with(';') || commented && spaced && (is_in(above) || comment_behind)
    })
}

/// The line of code above a set that begins a line, and whether comments stand between them.
pub(super) fn line_above<'t>(text: &'t str, set: &Set<'_>) -> Option<(&'t str, bool)> {
    let before = text[..braces(set).0].trim_end_matches([' ', '\t']);
    let before = before.strip_suffix("rec").unwrap_or(before);
    let lines = before.trim_end_matches([' ', '\t']).strip_suffix('\n')?.lines();
    let mut lines = lines.rev().map(str::trim).filter(|line| !line.is_empty()).peekable();
    let commented = lines.peek().is_some_and(|line| line.starts_with('#'));
    Some((lines.find(|line| !line.starts_with('#')).unwrap_or_default(), commented))
}
