//! Sets that stand on one line, or are empty: how they take an entry more, and how they come back when it goes.
//!
//! `alejandra` and `nixfmt` write no set of several attributes on one line, and neither joins lines. So such a set goes
//! over several lines, and how the new entry is written tells a removal how the set stood: see [`WAYS`].

use rnix::SyntaxKind as K;

use super::{
    clause,
    entry::{quote_name, quote_string},
    layout::{Layout, indent_at},
    splice,
    tree::{Binding, Set, set_of},
};
use crate::Result;

/// How many tokens are looked at to see how brackets are written.
const LOOKED_AT: usize = 4000;

/// How an entry can be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// Its name [`overquoted`]: the set stood on one line (and where the file shows how an empty set
    /// is written: this one was not written so).
    pub quoted: bool,
    /// Below an empty line, or in a set that was empty as `NAME.attr = …;`: the `let` was on that line too.
    pub apart: bool,
    /// Above an empty line: there was a space inside the braces, which nothing else in the file shows.
    pub trailing: bool,
}

impl Way {
    /// As entries are written everywhere else.
    pub(super) const PLAIN: Way = Way { quoted: false, apart: false, trailing: false };
}

/// In the order in which they are tried: the first one is taken from which a removal gives back what was there.
const WAYS: [Way; 6] = [
    Way::PLAIN,
    Way { quoted: true, apart: false, trailing: false },
    Way { quoted: true, apart: true, trailing: false },
    Way { quoted: false, apart: false, trailing: true },
    Way { quoted: true, apart: false, trailing: true },
    Way { quoted: true, apart: true, trailing: true },
];

/// Whether brackets have no space inside (`[]`, `["a"]`, `{a = 1;}`, as `alejandra` writes them) or one (as `nixfmt`
/// does): the first one that opens and goes on in its line says, else where the set of hosts begins. Bytes between
/// `skip` are not looked at.
pub(super) fn tight(text: &str, set: &Set<'_>, skip: (usize, usize)) -> Option<bool> {
    brackets(text, skip).or_else(|| clause::tight(text, set))
}

fn brackets(text: &str, skip: (usize, usize)) -> Option<bool> {
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

/// A name with quotes that it needs none of: `"web"`, and `${"web.a"}` where it needs some.
pub(super) fn overquoted(name: &str) -> String {
    let quoted = quote_string(name);
    if quote_name(name) == quoted { format!("${{{quoted}}}") } else { quoted }
}

/// A set's bytes from brace to brace.
pub(super) fn braces(set: &Set<'_>) -> (usize, usize) {
    (set.open.saturating_sub(1), set.close)
}

/// Whether a set is empty, or stands on one line with its only entry as a formatter leaves it there.
pub(super) fn is_short(text: &str, set: &Set<'_>) -> bool {
    match set.items.as_slice() {
        [] => set.comments.is_empty(),
        [only] => {
            let inside = &text[set.open..set.close];
            !inside.contains('\n') && inside.trim().len() + 2 >= inside.len() && is_kept(text, set, *only)
        }
        _ => false,
    }
}

/// Whether a formatter keeps the first entry of a set on one line; it may have a comment before it.
fn is_kept(text: &str, set: &Set<'_>, first: (usize, usize)) -> bool {
    let bare = set.bindings.iter().find(|b| b.start == first.0 && b.value.kind() == K::NODE_ATTR_SET);
    let inner = bare.and_then(|bare| set_of(bare.value));
    let spaced = |inner: &Set<'_>| !inner.items.is_empty() && text[inner.open..].starts_with(' ');
    let several = |inner: &Set<'_>| inner.items.len() > 1 || !inner.comments.is_empty();
    !text[set.open..first.1].trim().contains('\n')
        && set.comments.iter().all(|comment| comment.1 <= first.0)
        && !inner.is_some_and(|inner| spaced(&inner) || several(&inner))
}

/// The text with an entry in a set that [`is_short`], over several lines; `body` gives the entry as it is to be
/// written. Nothing if no way of writing it is one that `undo` gives `text` back from.
pub(super) fn unfold(
    text: &str,
    set: &Set<'_>,
    layout: &Layout,
    body: impl Fn(Way) -> Option<String>,
    undo: impl Fn(&str) -> Result<String>,
) -> Option<String> {
    let Layout { newline, indent, .. } = layout;
    let was = &text[set.open..set.close];
    let outer = indent_at(text, set.close);
    let only = was.trim();
    let empty_line = |wanted: bool| if wanted { *newline } else { "" };
    let written = |(start, head): &(usize, String), way: Way| {
        let body = body(way)?;
        let only = if only.is_empty() {
            String::new()
        } else {
            format!("{newline}{indent}{only}{}", empty_line(way.apart))
        };
        let after = empty_line(way.trailing);
        let lines = format!("{head}{only}{newline}{indent}{body}{after}{newline}{outer}");
        Some(splice(text, *start, set.close, &lines))
    };
    // White space that no formatter leaves in an empty set: a space after the entry, or all of it before.
    let odd = |kept: &str, after: &str| {
        let body = body(Way::PLAIN).filter(|_| only.is_empty())?;
        let lines = format!("{kept}{newline}{indent}{body}{after}{newline}{outer}");
        Some(splice(text, set.open, set.close, &lines))
    };
    let heads = [clause::broken(text, set, layout), Some((set.open, String::new()))];
    let ways = heads.iter().flatten().flat_map(|head| WAYS.map(|way| (head, way)));
    // Without need of the sign for it, none is tried.
    let ways = ways
        .filter(|(head, way)| (way.quoted || only.is_empty()) && (!way.apart || head.1.starts_with("let")));
    let blank = was.strip_suffix(outer).and_then(|was| was.strip_suffix(newline));
    ways.filter_map(|(head, way)| written(head, way))
        .chain([odd("", " "), blank.and_then(|blank| odd(blank, "")), odd(was, "")].into_iter().flatten())
        .find(|after| undo(after).is_ok_and(|before| before == text))
}

/// The reverse of [`unfold`]: the text without the entry, if the set is to stand on one line again.
pub(super) fn folded(text: &str, set: &Set<'_>, gone: &Binding<'_>, newline: &str) -> Option<String> {
    let quoted = text[gone.start..].starts_with(&overquoted(gone.path.first()?));
    let (inside, with_let) = match set.items.as_slice() {
        [_] if set.comments.is_empty() => {
            let inside = left_empty(text, set, gone, newline, quoted);
            (inside, quoted && gone.path.len() > 1)
        }
        [first, last] if quoted && last.0 == gone.start && is_kept(text, set, *first) => {
            let lines = |from: usize, to: usize| text[from..to].bytes().filter(|b| *b == b'\n').count();
            let (above, below) = (lines(first.1, last.0), lines(last.1, set.close));
            let only = text[set.open..first.1].trim_start();
            if above == 0 || below == 0 || !text[set.open..first.1 - only.len()].contains('\n') {
                return None;
            }
            let spaced = below > 1 || tight(text, set, (0, 0)) == Some(false);
            (if spaced { format!(" {only} ") } else { only.to_owned() }, above > 1)
        }
        _ => return None,
    };
    // What was kept before the entry shows that nothing else was changed for it.
    let plain = !text[set.open..].starts_with(' ');
    let head = Some(&inside).filter(|inside| plain && !inside.contains('\n'));
    let head = head.and_then(|inside| clause::joined(text, set, inside, with_let));
    let (start, head) = head.unwrap_or((set.open, String::new()));
    Some(splice(text, start, set.close, &format!("{head}{inside}")))
}

/// What is left between the braces when the only entry goes.
fn left_empty(text: &str, set: &Set<'_>, gone: &Binding<'_>, newline: &str, quoted: bool) -> String {
    let (before, after) = (&text[set.open..gone.start], &text[gone.end..set.close]);
    let Some(line) = before.rfind('\n') else {
        // On the line of a brace: with a space inside if there was one.
        return if before.is_empty() && after.is_empty() { "" } else { " " }.to_owned();
    };
    match before[..line].strip_suffix('\r').unwrap_or(&before[..line]) {
        "" if after.starts_with(' ') => String::new(),
        "" if after.bytes().filter(|b| *b == b'\n').count() == 2 => " ".to_owned(),
        "" => {
            let shown =
                tight(text, set, braces(set)).or_else(|| brackets(&text[gone.start..gone.end], (0, 0)));
            match (shown, quoted) {
                // In quotes as `NAME.attr`, it was on the line of its `let`.
                (Some(true), true) if gone.path.len() > 1 => String::new(),
                (Some(true), false) | (None, true) => String::new(),
                (Some(false), false) => " ".to_owned(),
                (Some(_), true) | (None, false) => format!("{newline}{}", indent_at(text, set.close)),
            }
        }
        kept if kept.trim_matches(['\r', '\n']).is_empty() => format!("{kept}{after}"),
        kept => kept.to_owned(),
    }
}
